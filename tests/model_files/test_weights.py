"""A checkpoint that lacks weights, or holds others than its model's, is refused by every backend."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("torch", reason="needs torch, which is not installed")
pytest.importorskip("transformers", reason="needs transformers, which is not installed")

import torch
from safetensors.torch import load_file, save_file

from hybrid.backends.devices import find_device
from hybrid.backends.transformers import load
from hybrid.errors import CannotRun
from hybrid.model_files.gguf import as_folder
from hybrid.model_files.weights import check_folder
from tests.support.small_gguf import write_model

pytestmark = [pytest.mark.slow, pytest.mark.filterwarnings("ignore")]

Tensors = dict[str, torch.Tensor]
QUERY = "model.layers.1.self_attn.q_proj.weight"


def changed(model: Path, folder: Path, change: Callable[[Tensors], Any], **config: Any) -> Path:
    """A copy of a model with other tensors, and other settings."""
    shutil.copytree(model, folder)
    tensors = load_file(folder / "model.safetensors")
    change(tensors)
    save_file(tensors, folder / "model.safetensors", {"format": "pt"})
    said = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps({**said, **config}))
    return folder


def opened(folder: Path) -> Any:
    return load(str(folder), find_device("cpu", "float32"))[1]


def squared(tensors: Tensors) -> None:
    tensors[QUERY] = torch.zeros(3, 3)


FAULTS: dict[str, Callable[[Tensors], Any]] = {
    "it lacks lm_head.weight": lambda tensors: tensors.pop("lm_head.weight"),
    f"it lacks {QUERY}": lambda tensors: tensors.pop(QUERY),
    "it lacks model.embed_tokens.weight": lambda tensors: tensors.pop("model.embed_tokens.weight"),
    "it holds model.layers.7.norm.weight": lambda tensors: tensors.update(
        {"model.layers.7.norm.weight": torch.ones(2)}
    ),
    f"shapes differ: {QUERY} is 3x3 and must be 32x32": squared,
    "and 13 more": lambda tensors: [tensors.pop(name) for name in [*tensors] if ".layers." in name],
}


@pytest.mark.parametrize("fault", FAULTS)
def test_weights_that_are_not_those_of_the_model_are_refused_with_their_names(
    tiny_llama: Path, tmp_path: Path, fault: str
) -> None:
    folder = changed(tiny_llama, tmp_path / "model", FAULTS[fault])
    for ask in (opened, check_folder):  # what transformers and training load; what is looked at before vLLM loads
        with pytest.raises(CannotRun, match="not those of its model") as caught:
            ask(folder)
        assert fault in caught.value.message
        assert str(folder) in caught.value.message
        assert len(caught.value.message) < 700


def tied(tensors: Tensors) -> None:
    del tensors["lm_head.weight"]


def frequencies(tensors: Tensors) -> None:
    tensors["model.layers.0.self_attn.rotary_emb.inv_freq"] = torch.ones(4)


@pytest.mark.parametrize(
    ("change", "config"),
    [
        (lambda tensors: None, {}),
        (tied, {"tie_word_embeddings": True}),
        (lambda tensors: tensors.update({"lm_head.weight": tensors["model.embed_tokens.weight"].clone()}),
         {"tie_word_embeddings": True}),
        (frequencies, {}),
    ],
    ids=["whole", "tied, one stored", "tied, both stored", "left-over buffers"],
)  # fmt: skip
def test_tied_weights_and_harmless_left_overs_are_allowed(
    tiny_llama: Path, tmp_path: Path, change: Callable[[Tensors], Any], config: dict[str, Any]
) -> None:
    folder = changed(tiny_llama, tmp_path / "model", change, **config)
    check_folder(folder)
    assert torch.isfinite(opened(folder)(torch.arange(2, 9)[None]).logits).all()


def test_two_heads_where_the_settings_say_one_are_not_chosen_from(tiny_llama: Path, tmp_path: Path) -> None:
    """transformers uses the stored one, vLLM the other: only the first is what the files contain."""
    folder = changed(tiny_llama, tmp_path / "model", lambda tensors: None, tie_word_embeddings=True)
    with pytest.raises(CannotRun, match=r"lm_head\.weight is the same as model\.embed_tokens\.weight") as caught:
        check_folder(folder)
    assert "tie_word_embeddings: false" in caught.value.hint
    assert not torch.equal(opened(folder).lm_head.weight, opened(folder).model.embed_tokens.weight)


def test_a_file_that_is_cut_short_is_refused_in_words(tiny_llama: Path, tmp_path: Path) -> None:
    folder = changed(tiny_llama, tmp_path / "model", lambda tensors: None)
    with (folder / "model.safetensors").open("r+b") as file:
        file.truncate(5000)
    for ask in (opened, check_folder):
        with pytest.raises(CannotRun, match="no whole safetensors file"):
            ask(folder)


def test_a_model_that_the_library_does_not_know_is_left_to_the_engine(tiny_llama: Path, tmp_path: Path) -> None:
    check_folder(changed(tiny_llama, tmp_path / "other", lambda tensors: None, model_type="no-such-thing"))


@pytest.fixture
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    pytest.importorskip("gguf", reason="needs gguf, which is not installed")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    return tmp_path / "cache" / "hybrid" / "models"


def test_a_gguf_that_lacks_a_tensor_is_not_converted(tmp_path: Path, cache: Path) -> None:
    (path,) = write_model(tmp_path / "m", without=["blk.1.attn_q.weight"])
    with pytest.raises(CannotRun, match=f"it lacks {QUERY}"):
        as_folder(path)
    assert list(cache.iterdir()) == []


def test_what_lies_beside_a_gguf_does_not_change_what_is_made_of_it(tmp_path: Path, cache: Path) -> None:
    (path,) = write_model(tmp_path / "m")
    (tmp_path / "adapter_config.json").write_text('{"peft_type": "LORA", "base_model_name_or_path": "no/where"}')
    (tmp_path / "config.json").write_text('{"model_type": "no-such-thing"}')
    (tmp_path / "chat_template.jinja").write_text("another template")
    folder = as_folder(path)
    assert json.loads((folder / "config.json").read_text())["num_hidden_layers"] == 2
    assert "another template" not in "".join(file.read_text() for file in folder.glob("*.jinja"))
    assert sorted(file.suffix for file in folder.iterdir() if file.is_dir()) == []
    check_folder(folder)


def test_a_split_gguf_is_not_converted_by_its_first_part(tmp_path: Path, cache: Path) -> None:
    first, *_ = write_model(tmp_path / "m", parts=2)
    with pytest.raises(CannotRun, match="is a split GGUF") as caught:
        as_folder(first)
    assert "llamacpp" in caught.value.hint
    assert "llama-gguf-split --merge" in caught.value.hint
