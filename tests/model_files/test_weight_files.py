"""Safetensors files that are missing, truncated or of different models, and adapters given as models."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path

import pytest

from hybrid.errors import CannotRun
from hybrid.model_files.location import locate, refuse_adapter
from hybrid.model_files.weight_files import INDEX, check_files, refuse_unnamed
from hybrid.models.packing import plain_source


def weights(names: Sequence[str], size: int = 8) -> bytes:
    """A safetensors file with tensors of these shapes, all zeros."""
    header = {
        name: {"dtype": "F32", "shape": [size // 4], "data_offsets": [size * at, size * at + size]}
        for at, name in enumerate(names)
    }
    head = json.dumps({"__metadata__": {"format": "pt"}, **header}).encode()
    return len(head).to_bytes(8, "little") + head + bytes(size * len(names))


def model(folder: Path, files: Mapping[str, Sequence[str]], index: Mapping[str, str] | None = None) -> Path:
    """A folder with these tensors in these files, and an index of them when there are several."""
    folder.mkdir(exist_ok=True)
    (folder / "config.json").write_text("{}")
    for file, names in files.items():
        (folder / file).write_bytes(weights(names))
    where = {name: file for file, names in files.items() for name in names} if index is None else dict(index)
    if len(files) > 1:
        (folder / INDEX).write_text(json.dumps({"metadata": {}, "weight_map": where}))
    return folder


TWO = {"model-00001-of-00002.safetensors": ["a", "b"], "model-00002-of-00002.safetensors": ["c"]}


def test_whole_checkpoints_pass_in_one_file_and_in_several(tmp_path: Path) -> None:
    check_files(model(tmp_path / "one", {"model.safetensors": ["a"]}))
    two = model(tmp_path / "two", TWO)
    (two / "consolidated.safetensors").write_bytes(weights(["x"]))  # Mistral's own copy: the index leaves it out
    check_files(two)
    refuse_unnamed(two)


def test_a_file_that_the_index_names_and_that_is_not_there_is_named(tmp_path: Path) -> None:
    folder = model(tmp_path / "two", TWO)
    (folder / "model-00002-of-00002.safetensors").unlink()
    with pytest.raises(CannotRun, match=r"not there: model-00002-of-00002\.safetensors"):
        check_files(folder)
    with pytest.raises(CannotRun, match="not there"):
        plain_source(folder, "")


def test_many_names_are_cut_to_a_few(tmp_path: Path) -> None:
    index = {f"t{number}": f"model-{number:05d}.safetensors" for number in range(1000)}
    with pytest.raises(CannotRun, match="and 995 more") as caught:
        check_files(model(tmp_path / "two", TWO, index))
    assert len(caught.value.message) < 500


def test_an_index_of_other_tensors_is_refused(tmp_path: Path) -> None:
    first, second = TWO
    with pytest.raises(CannotRun, match="not in their files: c"):
        check_files(model(tmp_path / "two", TWO, {"a": first, "b": first, "c": first}))


def test_two_sets_of_weights_are_not_chosen_from(tmp_path: Path) -> None:
    folder = model(tmp_path / "two", TWO)
    (folder / "model.safetensors").write_bytes(weights(["a"]))
    with pytest.raises(CannotRun, match="two sets of weights"):
        check_files(folder)
    one = model(tmp_path / "one", {"model.safetensors": ["a"]})
    (one / "more.safetensors").write_bytes(weights(["b"]))
    with pytest.raises(CannotRun, match="vLLM would read them all"):
        refuse_unnamed(one)


@pytest.mark.parametrize(
    "index",
    [
        "[]",
        "{",
        '{"weight_map": 3}',
        '{"weight_map": {"a": "../other/model.safetensors"}}',
        '{"weight_map": {"a": "/etc/passwd"}}',
        '{"weight_map": {"a": ""}}',
    ],
)
def test_an_index_that_is_none_or_leads_elsewhere_is_refused(tmp_path: Path, index: str) -> None:
    folder = model(tmp_path / "two", TWO)
    (folder / INDEX).write_text(index)
    with pytest.raises(CannotRun, match=r"index\.json"):
        check_files(folder)


def test_a_configuration_that_names_other_weights_is_refused(tmp_path: Path) -> None:
    folder = model(tmp_path / "one", {"model.safetensors": ["a"]})
    (folder / "config.json").write_text('{"transformers_weights": "below/other.safetensors"}')
    with pytest.raises(CannotRun, match="only one library reads"):
        check_files(folder)


WHOLE = weights(["a", "b"])


@pytest.mark.parametrize(
    "data",
    [
        *(WHOLE[:end] for end in (0, 4, 8, 9, 60, len(WHOLE) - 8, len(WHOLE) - 1)),
        WHOLE + b"x",
        b"\xff" * 64,
        (2).to_bytes(8, "little") + b"[]",
        (9).to_bytes(8, "little") + b'{"a": {}}',
        (200_000).to_bytes(8, "little") + b"[" * 200_000,
    ],
)
def test_a_file_that_is_cut_short_or_no_safetensors_is_named(tmp_path: Path, data: bytes) -> None:
    folder = model(tmp_path / "one", {"model.safetensors": ["a"]})
    (folder / "model.safetensors").write_bytes(data)
    with pytest.raises(CannotRun, match=r"model\.safetensors is no whole safetensors file"):
        check_files(folder)


@pytest.mark.parametrize("name", ["adapter_config.json", "adapter_model.safetensors", "adapter_model.bin"])
def test_an_adapter_beside_whole_weights_is_refused_and_not_packed(tmp_path: Path, name: str) -> None:
    folder = model(tmp_path / "one", {"model.safetensors": ["a"]})
    refuse_adapter(folder)
    (folder / name).write_bytes(b"{}")
    for ask in (lambda: locate(str(folder)), lambda: plain_source(folder, "")):
        with pytest.raises(CannotRun, match="a model and an adapter beside it") as caught:
            ask()
        assert name in caught.value.message
        assert "merge_and_unload" in caught.value.hint


def test_an_adapter_alone_is_told_from_a_model(tmp_path: Path) -> None:
    (tmp_path / "adapter_config.json").write_text('{"peft_type": "LORA", "base_model_name_or_path": "org/base"}')
    (tmp_path / "adapter_model.safetensors").write_bytes(weights(["a"]))
    (tmp_path / "config.json").write_text("{}")
    with pytest.raises(CannotRun, match="is an adapter for org/base, and not a model by itself") as caught:
        locate(str(tmp_path))
    assert "give its base" in caught.value.hint
