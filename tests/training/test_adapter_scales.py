"""Adapters whose layers have ranks and scales of their own are computed as PEFT computes them, or refused."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save

from hybrid.backends.adapter_cache import AdapterCache
from hybrid.errors import BadData
from hybrid.training.adapter_scales import AdapterScales
from hybrid.training.adapters import LoraWeights, adapter_digest, from_bytes, write_folder
from tests.support.peft_reference import tiny_model

torch.set_num_threads(1)
PLAIN = {"peft_type": "LORA", "r": 4, "lora_alpha": 8.0}
IDS = torch.arange(2, 22)[None]


@pytest.mark.parametrize(
    ("dtype", "settings"),
    [
        (torch.float32, {"rank_pattern": {"q_proj": 2, "model.layers.1.self_attn.v_proj": 7}}),
        (torch.float32, {"alpha_pattern": {"layers.0.self_attn.q_proj": 3, "q_proj": 1, "v_proj": 5.5}}),
        (torch.float32, {"use_rslora": True, "rank_pattern": {"^model.layers.1.self_attn.q_proj": 2}}),
        (torch.bfloat16, {"rank_pattern": {r"0\.self_attn.v_proj": 6}, "alpha_pattern": {"v_proj": 3}}),
    ],
)
@pytest.mark.filterwarnings("ignore")
def test_ranks_and_scales_of_single_layers_are_those_of_peft(
    tmp_path: Path, dtype: torch.dtype, settings: dict[str, Any]
) -> None:
    from peft import LoraConfig, get_peft_model

    torch.manual_seed(0)
    config = LoraConfig(r=4, lora_alpha=8, target_modules=["q_proj", "v_proj"], task_type="CAUSAL_LM", **settings)
    made = get_peft_model(tiny_model(), config)
    for name, value in made.named_parameters():
        if "lora_" in name:
            value.data += torch.randn_like(value) / 5
            value.data = value.data.to(dtype).to(torch.float32)
    made.save_pretrained(tmp_path)
    file = tmp_path / "adapter_model.safetensors"
    file.write_bytes(save({name: value.to(dtype) for name, value in load_file(file).items()}))
    digest = adapter_digest(file.read_bytes())
    model = tiny_model()
    cache = AdapterCache(model, 2)
    cache.read(digest, tmp_path)
    with torch.inference_mode(), cache.answering([digest], IDS.shape[1]):
        ours = model(IDS).logits
    with torch.inference_mode():
        assert torch.allclose(ours, made(IDS).logits, atol=1e-4)
        assert not torch.allclose(ours, tiny_model()(IDS).logits, atol=1e-2)


def layer(rank: int) -> tuple[torch.Tensor, torch.Tensor]:
    return torch.randn(rank, 6), torch.randn(5, rank)


def test_an_adapter_with_smaller_ranks_is_read_as_it_was_written_and_is_put_under_another(tmp_path: Path) -> None:
    torch.manual_seed(0)
    written = LoraWeights({"a.q": layer(3), "a.v": layer(1), "b.q": layer(3)}, 3, 10.0)
    data = written.to_bytes(torch.float32)
    found = from_bytes(data, "it")
    assert (found.rank, found.scale) == (3, pytest.approx(written.scale))
    for name, pair in written.layers.items():
        assert all(torch.equal(one, other) for one, other in zip(pair, found.layers[name], strict=True))
    write_folder(tmp_path, found, data)
    config = json.loads((tmp_path / "adapter_config.json").read_text())
    assert config["rank_pattern"] == {"a.v": 1}
    both = LoraWeights({name: layer(2) for name in written.layers}, 2, 2.0).stacked_on(found)
    assert all(len(a) == b.shape[1] == 5 for a, b in both.layers.values())
    a, b = both.layers["a.v"]
    update = written.scale * written.layers["a.v"][1] @ written.layers["a.v"][0]
    assert not a[1:3].any()  # what is frozen while others are trained above it
    assert torch.allclose(both.scale * b[:, :3] @ a[:3], update, atol=1e-5)


@pytest.mark.parametrize(
    "wrong",
    [
        {"rank_pattern": {"(q|q)*x": 2}},
        {"rank_pattern": {"q_proj": 0}},
        {"rank_pattern": {"q_proj": True}},
        {"rank_pattern": ["q_proj"]},
        {"rank_pattern": {str(number): 2 for number in range(5000)}},
        {"alpha_pattern": {"layers.*": 2}},
        {"alpha_pattern": {"q_proj": -1}},
        {"alpha_pattern": {"q_proj": float("nan")}},
        {"alpha_pattern": {"a.q": 1e300}},
        {"use_rslora": "no"},
        {"rank_pattern": {"a.q": 3}},  # the matrices have rank 4
    ],
)
def test_scales_that_cannot_be_read_are_refused(wrong: dict[str, Any]) -> None:
    a, b = layer(4)
    data = save({"base_model.model.a.q.lora_A.weight": a, "base_model.model.a.q.lora_B.weight": b})
    assert from_bytes(data, "it", json.dumps(PLAIN).encode()).scale == 2
    with pytest.raises(BadData, match="it: not an adapter"):
        from_bytes(data, "it", json.dumps({**PLAIN, **wrong}).encode())


def test_the_first_pattern_that_matches_counts() -> None:
    found = AdapterScales.of({**PLAIN, "rank_pattern": {"q": 1, "0.q": 2, "^1.q": 3}, "alpha_pattern": {"1.q": 2}})
    assert [found.of_layer(name) for name in ("0.q", "1.q", "aq", "1.qa")] == [(1, 8), (1, 2), (4, 2), (4, 2)]


def test_the_same_weights_with_other_settings_are_refused_beside_the_first(tmp_path: Path) -> None:
    model = tiny_model()
    width = model.model.layers[0].self_attn.q_proj.in_features
    layers = {"model.layers.0.self_attn.q_proj": (torch.ones(2, width), torch.ones(width, 2))}
    data = LoraWeights(layers, 2, 4.0).to_bytes(torch.float32)
    digest = adapter_digest(data)
    for name, alpha in (("one", 4.0), ("same", 4.0), ("other", 8.0)):
        (tmp_path / name).mkdir()
        (tmp_path / name / "adapter_model.safetensors").write_bytes(data)
        (tmp_path / name / "adapter_config.json").write_text(json.dumps({**PLAIN, "r": 2, "lora_alpha": alpha}))
    cache = AdapterCache(model, 2)
    cache.read(digest, tmp_path / "one")
    assert cache.knows(digest)
    assert not cache.knows(digest, str(tmp_path / "other"))
    cache.read(digest, tmp_path / "same")
    with pytest.raises(BadData, match=r"other.adapter_config.json: other settings"):
        cache.read(digest, tmp_path / "other")
    cache.forget([digest])
    cache.read(digest, tmp_path / "other")
