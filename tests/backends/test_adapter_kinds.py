"""Which adapters are plain LoRA by PEFT's settings, and that PEFT itself computes exactly plain LoRA for them."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from hybrid.backends.adapter_kinds import check_adapter, refuse_other_kinds
from hybrid.errors import BadData

PLAIN = {"peft_type": "LORA", "r": 4, "lora_alpha": 8, "bias": "none", "target_modules": ["q_proj"]}


def refused(**settings: Any) -> bool:
    try:
        refuse_other_kinds(json.dumps({**PLAIN, **settings}).encode(), "it")
    except BadData:
        return True
    return False


@pytest.mark.parametrize("begun", [True, False, None, "gaussian", "Gaussian", "orthogonal", "eva"])
def test_a_beginning_that_leaves_the_model_alone_is_plain(begun: Any) -> None:
    assert not refused(init_lora_weights=begun, modules_to_save=None, alpha_pattern={}, use_dora=False)


@pytest.mark.parametrize(
    "begun", ["pissa", "pissa_niter_16", "PiSSA", "olora", "corda", "loftq", "lora_ga", "mica", "of 2030", 3, ["pissa"]]
)
def test_a_beginning_that_may_change_the_model_is_refused(begun: Any) -> None:
    assert refused(init_lora_weights=begun)


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("bias", "all"),
        ("bias", "lora_only"),
        ("use_rslora", True),
        ("use_dora", True),
        ("use_qalora", True),
        ("lora_bias", True),
        ("fan_in_fan_out", True),
        ("ensure_weight_tying", True),
        ("rank_pattern", {"q_proj": 2}),
        ("alpha_pattern", {"q_proj": 2}),
        ("modules_to_save", ["lm_head"]),
        ("megatron_config", {"a": 1}),
        ("trainable_token_indices", [1]),
        ("target_parameters", ["experts.down_proj"]),
        ("alora_invocation_tokens", [1]),
        ("layer_replication", [[0, 2]]),
        ("use_bdlora", {"nblocks": 2}),
        ("arrow_config", {"top_k": 3}),
        ("kasa_config", {"beta": 1e-4}),
        ("velora_config", {"num_groups": 32}),
        ("monteclora_config", {"num_samples": 4}),
        ("lora_ga_config", {"direction": "ArBr"}),
        ("a_setting_of_2030", 1),
        ("peft_type", "ADALORA"),
        ("peft_type", None),
    ],
)
def test_a_setting_that_changes_what_is_computed_is_refused(name: str, value: Any) -> None:
    assert refused(**{name: value})


@pytest.mark.parametrize("config", [b"[]", b"{", b"[" * 5000, b'"' + b"x" * 2_000_000 + b'"'])
def test_settings_that_are_none_are_refused(tmp_path: Path, config: bytes) -> None:
    (tmp_path / "adapter_config.json").write_bytes(config)
    with pytest.raises(BadData, match=r"adapter_config\.json"):
        check_adapter(tmp_path)


MADE: dict[str, dict[str, Any]] = {
    "plain": {},
    "random": {"init_lora_weights": False},
    "gaussian": {"init_lora_weights": "gaussian"},
    "orthogonal": {"init_lora_weights": "orthogonal"},
    "eva": {"init_lora_weights": "eva"},
    "pissa": {"init_lora_weights": "pissa"},
    "olora": {"init_lora_weights": "olora"},
    "rslora": {"use_rslora": True},
    "dora": {"use_dora": True},
    "other scales": {"alpha_pattern": {"q_proj": 3}},
    "some layers": {"layers_to_transform": [1]},
}


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore")
def test_what_is_taken_as_plain_is_what_peft_computes(tiny_llama: Path, tmp_path: Path) -> None:
    """Each kind is created, changed as training would change it, saved, and loaded by PEFT over the original model."""
    pytest.importorskip("peft", reason="needs peft, which is not installed")
    import torch
    from peft import LoraConfig, PeftModel, get_peft_model
    from safetensors.torch import load_file
    from transformers import AutoModelForCausalLM

    ids, same, taken = torch.arange(2, 30)[None], {}, {}

    def base() -> Any:
        return AutoModelForCausalLM.from_pretrained(tiny_llama, dtype=torch.float32).eval()

    for name, settings in MADE.items():
        torch.manual_seed(0)
        config = LoraConfig(r=4, lora_alpha=8, target_modules=["q_proj", "v_proj"], task_type="CAUSAL_LM", **settings)
        made = get_peft_model(base(), config)
        for key, value in made.named_parameters():
            if "lora_A" in key or "lora_B" in key:
                value.data += torch.randn_like(value) / 5
        made.save_pretrained(tmp_path / name)
        plain, weights = base(), load_file(tmp_path / name / "adapter_model.safetensors")
        with torch.inference_mode():
            theirs = PeftModel.from_pretrained(base(), tmp_path / name).eval()(ids).logits
            for key in [key for key in weights if "lora_A" in key]:
                layer = plain.get_submodule(key.removeprefix("base_model.model.").removesuffix(".lora_A.weight"))
                layer.weight += 8 / 4 * weights[key.replace("lora_A", "lora_B")] @ weights[key]
            same[name] = torch.allclose(plain(ids).logits, theirs, atol=1e-4)
        try:
            check_adapter(tmp_path / name)
            taken[name] = True
        except BadData:
            taken[name] = False
    assert taken == same
    assert [name for name in MADE if not taken[name]] == ["pissa", "olora", "rslora", "dora", "other scales"]
