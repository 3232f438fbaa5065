"""Models of other families: packed training is exact, or refused with a reason."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
import torch

from hybrid.errors import CannotRun
from hybrid.training.packing import PackedText
from hybrid.training.policies import policy_bank
from hybrid.training.slots import AdapterBank, Route
from hybrid.training.trainer import Trainer
from hybrid.tuning import PolicyTuning
from tests.support.peft_reference import VOCABULARY, texts

torch.set_num_threads(1)
SHAPE: dict[str, Any] = {
    "vocab_size": VOCABULARY,
    "hidden_size": 32,
    "intermediate_size": 48,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "head_dim": 8,
    "max_position_embeddings": 256,
}


def family(name: str, **more: Any) -> Any:
    import transformers

    torch.manual_seed(0)
    config = getattr(transformers, f"{name}Config")(**{**SHAPE, **more})
    return getattr(transformers, f"{name}ForCausalLM")(config).eval()


@pytest.mark.parametrize(
    ("name", "more"),
    [
        ("Qwen2", {}),
        ("Qwen3", {}),
        ("Mistral", {"sliding_window": 7}),
        ("Phi3", {"pad_token_id": 0}),
        ("Granite", {"logits_scaling": 3.0, "residual_multiplier": 0.5}),
        ("Gemma", {}),
    ],
)
def test_logits_in_a_pack_are_those_of_each_text_alone(name: str, more: dict[str, Any]) -> None:
    model = family(name, **more)
    rows = [replace(text, learned=(True,) * len(text.ids)) for text in texts(4, 4)]
    alone = torch.cat([model(input_ids=torch.tensor([text.ids])).logits[0, :-1] for text in rows])
    names = ("qkv_proj", "down_proj") if name == "Phi3" else ("q_proj", "v_proj")
    ours = Trainer(model, names, slots=4, tokens=4096, free=lambda: 1 << 30)
    bank = AdapterBank(ours.slotted.layers, 2, 4, model, training=False)
    one = ours.pack([PackedText(number % 2, text, 1.0) for number, text in enumerate(rows)], 2)
    with ours.packed(), torch.no_grad():
        packed = ours.logits_of(one, Route(bank, one.lengths, ours.dtype))
    ours.close()
    order = [0, 2, 1, 3]
    sizes = [len(text.ids) - 1 for text in rows]
    parts = dict(zip(order, packed.split([sizes[number] for number in order]), strict=True))
    assert torch.allclose(torch.cat([parts[number] for number in range(4)]), alone, atol=1e-4)


def test_capped_attention_is_refused_and_not_trained_wrongly() -> None:
    model = family("Gemma2", attn_logit_softcapping=50.0, query_pre_attn_scalar=8)
    ours = Trainer(model, ("q_proj",), slots=1, tokens=64, free=lambda: 1 << 30)
    bank = AdapterBank(ours.slotted.layers, 1, 4, model, training=False)
    one = ours.pack([PackedText(0, texts(1, 1)[0], 1.0)], 1)
    with pytest.raises(CannotRun, match="caps, drops or masks"), ours.packed():
        ours.logits_of(one, Route(bank, one.lengths, ours.dtype))
    ours.close()


@pytest.mark.parametrize("name", ["Bloom", "GPTNeo"])
def test_a_model_with_attention_of_its_own_is_refused_and_not_trained_wrongly(name: str) -> None:
    more = {"num_layers": 2, "num_heads": 4, "attention_types": [[["global"], 2]]} if name == "GPTNeo" else {}
    model = family(name, n_layer=2, n_head=4, num_key_value_heads=4, **more)
    target = "query_key_value" if name == "Bloom" else "q_proj"
    with pytest.raises(CannotRun, match="attention of its own"):
        policy_bank(model, 1, PolicyTuning(rank=4, targets=(target,)), 64)
    ours = Trainer(model, (target,), slots=1, tokens=64, free=lambda: 1 << 30)
    with pytest.raises(CannotRun, match="attention of its own"), ours.packed():
        pass
    ours.close()


def test_a_model_without_such_linear_layers_is_refused_with_the_names_it_has() -> None:
    from transformers import GPT2Config, GPT2LMHeadModel

    model = GPT2LMHeadModel(GPT2Config(vocab_size=50, n_embd=16, n_layer=1, n_head=2))
    with pytest.raises(CannotRun, match="no linear layer called q_proj") as caught:
        Trainer(model, ("q_proj",), slots=1, tokens=64, free=lambda: 1 << 30)
    assert "its linear layers are called c_attn, c_fc, c_proj" in str(caught.value.hint)


def test_the_output_head_takes_no_adapter() -> None:
    with pytest.raises(CannotRun, match="no linear layer called lm_head"):
        Trainer(family("Qwen2"), ("q_proj", "lm_head"), slots=1, tokens=64, free=lambda: 1 << 30)
