"""A split GGUF is one model with all of its parts, named as llama.cpp expects; and invalid headers."""

from __future__ import annotations

import struct
from pathlib import Path

import pytest

from hybrid.canonical import digest
from hybrid.errors import CannotRun
from hybrid.folder.runs import join_folder
from hybrid.model_files import gguf_files
from hybrid.model_files.gguf_files import parts_of, read_header
from hybrid.model_files.location import digest_of, locate, sha256_of
from hybrid.models.manifest import read_models
from hybrid.models.packing import pack, plain_source
from hybrid.models.restoring import restore_plain
from tests.support.packed_models import PART, files_of, ignore_progress, noise
from tests.support.small_gguf import EMPTY, header, split_header


@pytest.fixture(autouse=True)
def _own_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))


def split(folder: Path, name: str = "m", count: int = 3, seed: int = 0) -> list[Path]:
    """A model in parts; each is a header and random bytes in place of tensors."""
    folder.mkdir(parents=True, exist_ok=True)
    files = [folder / f"{name}-{number + 1:05d}-of-{count:05d}.gguf" for number in range(count)]
    for number, file in enumerate(files):
        file.write_bytes(split_header(number, count, tensors=2, of_all=2 * count) + noise(1500, seed + number))
    return files


def test_the_parts_in_a_folder_are_the_model_that_their_first_part_names(tmp_path: Path) -> None:
    files = split(tmp_path / "model")
    assert locate(str(tmp_path / "model")) == locate(str(files[0])) == files[0]
    assert parts_of(files[0]) == files


def test_every_part_is_in_the_digest_and_no_name_is(tmp_path: Path) -> None:
    files = split(tmp_path / "model")
    first = digest_of(files[0])
    assert first == digest([sha256_of(file) for file in files])
    assert digest_of(split(tmp_path / "other", "renamed")[0]) == first
    for file in files:
        before = file.read_bytes()
        file.write_bytes(before[:-1] + bytes([before[-1] ^ 1]))
        assert digest_of(files[0]) != first
        file.write_bytes(before)
    assert digest_of(files[0]) == first


def test_two_models_in_a_folder_are_told_by_their_first_parts(tmp_path: Path) -> None:
    split(tmp_path)
    split(tmp_path, "n", 2)
    (tmp_path / "whole.gguf").write_bytes(EMPTY)
    with pytest.raises(CannotRun, match="holds 3 GGUF files") as caught:
        locate(str(tmp_path))
    assert caught.value.hint.endswith("m-00001-of-00003.gguf, n-00001-of-00002.gguf, whole.gguf")


def test_a_further_part_is_refused_and_the_first_is_named(tmp_path: Path) -> None:
    files = split(tmp_path)
    with pytest.raises(CannotRun, match="part 2 of 3") as caught:
        locate(str(files[1]))
    assert str(files[0]) in caught.value.hint


@pytest.mark.parametrize("gone", [0, 1, 2])
def test_parts_that_are_missing_are_named(tmp_path: Path, gone: int) -> None:
    files = split(tmp_path)
    files[gone].unlink()
    for asked in (tmp_path, *(file for file in files if file != files[gone])):
        with pytest.raises(CannotRun, match="not all are there") as caught:
            locate(str(asked))
        assert files[gone].name in caught.value.message
    with pytest.raises(CannotRun, match="not all are there"):
        plain_source(tmp_path, "")


def test_a_name_that_does_not_fit_the_header_is_refused(tmp_path: Path) -> None:
    first, *_ = split(tmp_path / "model", count=2)
    alone = tmp_path / "renamed.gguf"
    alone.write_bytes(first.read_bytes())
    with pytest.raises(CannotRun, match="part 1 of 2 of a split model, and its name does not say so"):
        locate(str(alone))
    whole = tmp_path / "w-00001-of-00002.gguf"
    whole.write_bytes(EMPTY)
    with pytest.raises(CannotRun, match="its header says that it is a whole model"):
        locate(str(whole))
    single = tmp_path / "s-00001-of-00001.gguf"
    single.write_bytes(EMPTY)
    assert locate(str(single)) == single


def test_parts_that_do_not_belong_together_are_refused(tmp_path: Path) -> None:
    files = split(tmp_path)
    files[1].write_bytes(split_header(2, 3, tensors=2, of_all=6))
    with pytest.raises(CannotRun, match="says of itself that it is part 3 of 3"):
        locate(str(files[0]))
    files[1].write_bytes(split_header(1, 3, tensors=1, of_all=6))
    with pytest.raises(CannotRun, match="hold 5 tensors, and the model has 6"):
        locate(str(files[0]))
    files[0].write_bytes(split_header(1, 3, tensors=2, of_all=6))
    with pytest.raises(CannotRun, match="called part 1 of 3, and its header says that it is 2"):
        locate(str(files[0]))


def test_links_as_the_hub_makes_them_are_one_model(tmp_path: Path) -> None:
    files = split(tmp_path / "blobs")
    (tmp_path / "snapshot").mkdir()
    for number, file in enumerate(files):
        (tmp_path / "snapshot" / file.name).symlink_to(file.rename(tmp_path / "blobs" / f"blob-{number}"))
    assert locate(str(tmp_path / "snapshot")) == tmp_path / "snapshot" / files[0].name
    alone = tmp_path / "alone.gguf"
    alone.symlink_to(tmp_path / "blobs" / "whole")
    (tmp_path / "blobs" / "whole").write_bytes(EMPTY)
    assert locate(str(alone)) == alone, "the engine tells a GGUF by its name"


def test_a_split_model_is_packed_whole_and_restored_with_its_digest(tmp_path: Path) -> None:
    files = split(tmp_path / "model", "A (1)")
    folder = join_folder(tmp_path / "folder", make=True)
    model = pack(folder, plain_source(tmp_path / "model", "a"), ignore_progress, part_size=PART)
    assert (model.kind, model.digest, len(model.layers)) == ("gguf", digest_of(files[0]), 3)
    assert read_models(folder) == ([model], [])
    there = restore_plain(folder, model, tmp_path / "to", ignore_progress)
    assert there == tmp_path / "to" / "A-1-00001-of-00003.gguf"
    assert locate(str(tmp_path / "to")) == there
    assert digest_of(there) == model.digest
    assert list(files_of(tmp_path / "to").values()) == [file.read_bytes() for file in files]


NAME = struct.pack("<Q", 1) + b"a"
TEXTS = struct.pack("<IQ", 8, 2) + 2 * NAME


def test_a_header_is_read_past_values_of_every_kind(tmp_path: Path) -> None:
    kinds = {0: 1, 1: 1, 2: 2, 3: 2, 4: 4, 5: 4, 6: 4, 7: 1, 10: 8, 11: 8, 12: 8}
    keys = {f"key.{kind}": (kind, bytes(size)) for kind, size in kinds.items()}
    keys |= {f"list.{kind}": (9, struct.pack("<IQ", kind, 3) + bytes(3 * size)) for kind, size in kinds.items()}
    keys |= {"text": (8, NAME), "texts": (9, TEXTS), "split.count": (2, b"\x01\x00")}
    for version in (2, 3):
        (tmp_path / "a.gguf").write_bytes(header(keys, 7, version) + b"the rest")
        assert read_header(tmp_path / "a.gguf") == gguf_files.Header(1, 0, 7, 7)


WHOLE = header({"texts": (9, TEXTS), "text": (8, NAME), "split.no": (2, b"\x00\x00")})


@pytest.mark.parametrize(
    "data",
    [
        *(WHOLE[:end] for end in range(len(WHOLE))),
        header({}, version=1),
        header({}, version=0x03000000),
        struct.pack("<4sIQQ", b"GGUF", 3, 0, 1 << 40),
        struct.pack("<4sIQQ", b"GGUF", 3, 0, 9) + b"\xff" * 64,
        header({"text": (8, b"\xff" * 8)}),
        header({"texts": (9, struct.pack("<IQ", 8, 1 << 60) + NAME)}),
        header({"numbers": (9, struct.pack("<IQ", 12, 1 << 62))}),
        header({"lists": (9, struct.pack("<IQ", 9, 1))}),
        header({"odd": (13, b"")}),
        header({"split.count": (4, b"\x02\x00\x00\x00")}),
        split_header(3, 3),
    ],
)
def test_a_header_that_is_cut_or_lies_is_refused_in_words(tmp_path: Path, data: bytes) -> None:
    (tmp_path / "a.gguf").write_bytes(data)
    with pytest.raises(CannotRun, match=r"a\.gguf"):
        locate(str(tmp_path / "a.gguf"))
    with pytest.raises(CannotRun, match="is damaged"):
        read_header(tmp_path / "a.gguf")


def test_no_header_is_read_without_end(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(gguf_files, "MAX_HEADER", 1000)
    (tmp_path / "a.gguf").write_bytes(header({"texts": (9, struct.pack("<IQ", 8, 500) + bytes(8 * 500))}))
    with pytest.raises(CannotRun, match="longer than any header"):
        read_header(tmp_path / "a.gguf")
