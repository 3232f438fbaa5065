"""The shapes of models without their weights."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from hybrid.errors import CannotRun
from hybrid.plan.shapes import kv_bytes, shape_of

PUBLISHED = {
    "meta-llama/Llama-3.2-1B-Instruct": 1_235_814_400,
    "llama3.2": 3_212_749_824,
    "meta-llama/Meta-Llama-3.1-8B": 8_030_261_248,
    "Qwen/Qwen2.5-0.5B-Instruct": 494_032_768,
    "qwen3:0.6b": 596_049_920,
    "mistralai/Mistral-7B-Instruct-v0.3": 7_248_023_552,
    "google/gemma-2b": 2_506_172_416,
    "openai-community/gpt2": 124_439_808,
    "distilbert-base-uncased": 66_362_880,
    "microsoft/phi-2": 2_779_683_840,
    "microsoft/Phi-3-mini-4k-instruct": 3_821_079_552,
}
"""Parameters that the models' pages give, or their checkpoints hold."""


@pytest.mark.parametrize("name", PUBLISHED)
def test_a_well_known_name_has_the_parameters_that_were_published(name: str) -> None:
    assert shape_of(name).parameters == PUBLISHED[name]


def test_the_keys_and_values_of_a_token_are_those_of_the_sapo_guides_models() -> None:
    assert [kv_bytes(shape_of(name), 4) for name in ("gpt2", "qwen2.5-0.5b")] == [72 * 1024, 24 * 1024]


def test_a_gguf_and_the_table_agree_about_the_same_model(smollm2_gguf: Path) -> None:
    read, known = shape_of(str(smollm2_gguf)), shape_of("smollm2-135m")
    for part in ("parameters", "vocabulary", "width", "inner", "layers", "heads", "kv_heads", "head", "tied", "gated"):
        assert getattr(read, part) == getattr(known, part), part
    assert smollm2_gguf.stat().st_size == read.stored_bytes() < known.weight_bytes(2)


def test_a_folder_with_weights_tells_exactly_what_it_holds(tiny_llama: Path) -> None:
    held = shape_of(str(tiny_llama))
    config = shape_of(str(tiny_llama / "config.json"))
    assert held.parameters == config.parameters
    assert held.file_bytes == held.parameters * 4


def test_an_unknown_model_is_told_with_what_would_help(tmp_path: Path) -> None:
    with pytest.raises(CannotRun, match="neither here nor in the table") as raised:
        shape_of("nobody/llama3.2-1x")
    assert "llama3.2-1b" in raised.value.hint
    (tmp_path / "config.json").write_text(json.dumps({"hidden_size": -3, "vocab_size": "many"}))
    with pytest.raises(CannotRun, match="does not tell the shape"):
        shape_of(str(tmp_path))


def test_a_damaged_gguf_is_refused_by_name(tmp_path: Path, smollm2_gguf: Path) -> None:
    cut = tmp_path / "cut.gguf"
    cut.write_bytes(smollm2_gguf.read_bytes()[:5000])
    with pytest.raises(CannotRun, match=r"cut\.gguf"):
        shape_of(str(cut))


@pytest.mark.slow
def test_the_formulas_have_the_parameters_of_the_librarys_own_models() -> None:
    """A small model of each family, as transformers builds it without memory."""
    torch, transformers = pytest.importorskip("torch"), pytest.importorskip("transformers")
    small = {"hidden_size": 64, "num_hidden_layers": 3, "num_attention_heads": 4, "vocab_size": 300}
    small |= {"intermediate_size": 112, "max_position_embeddings": 40}
    grouped = {**small, "num_key_value_heads": 2, "head_dim": 16}
    cases = {
        "LlamaForCausalLM": {**grouped, "tie_word_embeddings": False},
        "Qwen2ForCausalLM": {**grouped, "tie_word_embeddings": True},
        "Qwen3ForCausalLM": grouped,
        "MistralForCausalLM": {**grouped, "tie_word_embeddings": False},
        "GemmaForCausalLM": grouped,
        "Gemma2ForCausalLM": grouped,
        "Phi3ForCausalLM": {**small, "num_key_value_heads": 2, "pad_token_id": 0, "tie_word_embeddings": False},
        "PhiForCausalLM": {**small, "tie_word_embeddings": False},
        "GPT2LMHeadModel": {"n_embd": 64, "n_layer": 3, "n_head": 4, "vocab_size": 300, "n_positions": 40},
        "BertModel": small,
        "DistilBertModel": {"dim": 64, "n_layers": 3, "n_heads": 4, "hidden_dim": 112, "vocab_size": 300},
    }
    from hybrid.plan.shapes import shape_of_config

    for name, told in cases.items():
        cls = getattr(transformers, name)
        config = cls.config_class(**told)
        with torch.device("meta"):
            made = cls(config)
        assert shape_of_config(config.to_dict(), name, name).parameters == made.num_parameters(), name
