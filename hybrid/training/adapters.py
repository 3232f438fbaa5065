"""LoRA adapters outside of their slots, with PEFT's names and file format, so that any other tool loads them.

An adapter is one safetensors file. Its metadata hold PEFT's configuration, so the digest of the file covers rank and
scale too; a folder has the configuration also as `adapter_config.json`.
"""

from __future__ import annotations

import hashlib
import json
import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import safetensors
import safetensors.torch
import torch
from torch.nn.functional import pad

from hybrid.errors import BadData
from hybrid.training.adapter_scales import AdapterScales
from hybrid.training.slots import AdapterBank

PREFIX = "base_model.model."
NAME = re.compile(r"base_model\.model\.([A-Za-z0-9_.]{1,200})\.lora_([AB])\.weight")
MAX_BYTES = 8 * 1024**3


@dataclass(frozen=True, slots=True)
class LoraWeights:
    """LoRA matrices on the CPU: layer -> (A [rank, in], B [out, rank]). The layer's update is alpha / rank * B A x.

    A layer's matrices may have a smaller rank than `rank`; the factor of its update is the same.
    """

    layers: Mapping[str, tuple[torch.Tensor, torch.Tensor]]
    rank: int
    alpha: float

    @property
    def scale(self) -> float:
        return self.alpha / self.rank

    def to(self, dtype: torch.dtype) -> LoraWeights:
        """The same weights in another number format, as they are in the file."""
        layers = {name: (a.to(dtype), b.to(dtype)) for name, (a, b) in self.layers.items()}
        return LoraWeights(layers, self.rank, self.alpha)

    def to_bytes(self, dtype: torch.dtype) -> bytes:
        """The content of the adapter's file."""
        tensors = {}
        for name, (a, b) in self.layers.items():
            tensors[f"{PREFIX}{name}.lora_A.weight"] = a.to(dtype).contiguous()
            tensors[f"{PREFIX}{name}.lora_B.weight"] = b.to(dtype).contiguous()
        data: bytes = safetensors.torch.save(tensors, {"adapter_config": json.dumps(self.config(), sort_keys=True)})
        return data

    def config(self) -> dict[str, Any]:
        """The content of PEFT's adapter_config.json."""
        return {
            "peft_type": "LORA",
            "task_type": "CAUSAL_LM",
            "r": self.rank,
            "lora_alpha": self.alpha,
            "lora_dropout": 0.0,
            "bias": "none",
            "fan_in_fan_out": False,
            "inference_mode": True,
            "base_model_name_or_path": None,
            "target_modules": sorted({name.rpartition(".")[2] for name in self.layers}),
            **self._patterns(),
        }

    def _patterns(self) -> dict[str, Any]:
        """The ranks and alphas of layers with a smaller rank."""
        smaller = {name: len(a) for name, (a, _) in sorted(self.layers.items()) if len(a) != self.rank}
        alphas = {name: self.scale * rank for name, rank in smaller.items()}
        return {"rank_pattern": smaller, "alpha_pattern": alphas} if smaller else {}

    def stacked_on(self, other: LoraWeights) -> LoraWeights:
        """One adapter whose update is the sum of both: their ranks are concatenated, `other`'s first."""
        alpha, scale = self.scale * (self.rank + other.rank), self.scale
        joined = {}
        for name in {**other.layers, **self.layers}:
            (a, b), (c, d) = (part.padded(name) or part.zeros(name, self, other) for part in (other, self))
            joined[name] = torch.cat([a, c]), torch.cat([b * (other.scale / scale), d], dim=1)
        return LoraWeights(joined, self.rank + other.rank, alpha)

    def padded(self, name: str) -> tuple[torch.Tensor, torch.Tensor] | None:
        """A layer's matrices with zeros up to `rank`; None for a layer that this adapter does not change."""
        if name not in self.layers:
            return None
        a, b = self.layers[name]
        more = self.rank - len(a)
        return (pad(a, (0, 0, 0, more)), pad(b, (0, more))) if more else (a, b)

    def zeros(self, name: str, *others: LoraWeights) -> tuple[torch.Tensor, torch.Tensor]:
        """Zero matrices for a layer that one of the `others` changes and this adapter does not."""
        a, b = next(other.layers[name] for other in others if name in other.layers)
        return a.new_zeros(self.rank, a.shape[1]), b.new_zeros(b.shape[0], self.rank)


def adapter_digest(data: bytes) -> str:
    """The digest of an adapter: the sha256 of its file."""
    return hashlib.sha256(data).hexdigest()


def write_folder(folder: Path, weights: LoraWeights, data: bytes) -> None:
    """Write a folder that PEFT and vLLM load; `data` is the content of the adapter's file."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "adapter_model.safetensors").write_bytes(data)
    (folder / "adapter_config.json").write_text(json.dumps(_config_in(data) or weights.config(), sort_keys=True))


def from_bytes(data: bytes, what: str, config_file: bytes = b"") -> LoraWeights:
    """The adapter in an untrusted file; `config_file`: the content of its adapter_config.json. Raises BadData.

    Where layers have scales of their own, the matrices B contain what differs from the adapter's scale.
    """
    try:
        tensors = safetensors.torch.load(data)
        scales = AdapterScales.of(_config_in(data) or json.loads(config_file))
        layers = _layers(tensors, scales)
        rank = max(len(a) for a, _ in layers.values())
        return LoraWeights(layers, rank, scales.scale * rank)
    except (safetensors.SafetensorError, KeyError, TypeError, ValueError, AttributeError, RecursionError) as error:
        raise BadData(f"{what}: not an adapter: {type(error).__name__}: {error!s:.200}") from error


def _config_in(data: bytes) -> Any:
    """The configuration in the metadata of an adapter's file; None without any. Raises AttributeError, ValueError."""
    metadata = json.loads(data[8 : 8 + int.from_bytes(data[:8], "little")]).get("__metadata__", {})
    return json.loads(metadata["adapter_config"]) if "adapter_config" in metadata else None


def _layers(tensors: Mapping[str, torch.Tensor], scales: AdapterScales) -> dict[str, tuple[torch.Tensor, torch.Tensor]]:
    """The matrices of each layer, B times what the layer's scale is of the adapter's. Raises ValueError."""
    parts: dict[str, dict[str, torch.Tensor]] = {}
    for name, tensor in tensors.items():
        match = NAME.fullmatch(name)
        if not match or tensor.ndim != 2 or not tensor.is_floating_point() or not bool(tensor.isfinite().all()):
            raise ValueError(f"{name:.200} is not a LoRA matrix of finite numbers")
        parts.setdefault(match[1], {})[match[2]] = tensor
    if not parts:
        raise ValueError("it holds no matrix")
    layers = {}
    for name, part in parts.items():
        rank, scale = scales.of_layer(name)
        if set(part) != {"A", "B"} or part["A"].shape[0] != rank or part["B"].shape[1] != rank:
            raise ValueError(f"{name:.200} has not both matrices of rank {rank}")
        layers[name] = part["A"], _times(part["B"], scale / scales.scale)
    return layers


def _times(matrix: torch.Tensor, factor: float) -> torch.Tensor:
    """In fp32 and finite, unless the factor is 1: then it is the matrix itself. Raises ValueError."""
    if math.isclose(factor, 1.0, rel_tol=1e-9):
        return matrix
    found = matrix.double() * factor
    if not bool(found.abs().le(torch.finfo(torch.float32).max).all()):
        raise ValueError("a matrix times its scale is not finite")
    return found.float()


def initial_weights(
    layers: Mapping[str, tuple[int, int]], targets: Sequence[str], rank: int, alpha: float, seed: int
) -> LoraWeights:
    """A new adapter, initialised as in PEFT: A uniform within 1 / sqrt(in) (Kaiming, a = sqrt 5), B zero.

    Each layer has its own random generator, so neither the slot nor other layers change its values.
    """
    matrices = {}
    for name, (width_in, width_out) in layers.items():
        if name.rpartition(".")[2] in targets:
            layer_seed = int.from_bytes(hashlib.sha256(f"{seed} {name}".encode()).digest()[:8], "big") >> 1
            generator = torch.Generator().manual_seed(layer_seed)
            bound = 1 / math.sqrt(width_in)
            a = torch.empty(rank, width_in).uniform_(-bound, bound, generator=generator)
            matrices[name] = a, torch.zeros(width_out, rank)
    return LoraWeights(matrices, rank, alpha)


def load(bank: AdapterBank, slot: int, weights: LoraWeights) -> None:
    """Write an adapter into a slot, padded with zeros to the bank's rank. Raises BadData when its shapes do not fit."""
    host = torch.zeros(bank.size, dtype=bank.values.dtype, pin_memory=bank.values.device.type == "cuda")
    for name, (a, b) in weights.layers.items():
        layout = bank.places.get(name)
        if layout is None or a.shape[1] != layout.width_in or b.shape[0] != layout.width_out:
            raise BadData(f"the adapter's layer {name:.100} is not one of this model", hint="is it of another model?")
        to_a, to_b = (each[0] for each in bank.pair(host[None], name))
        to_a[:, : len(a)] = a.t()
        to_b[: len(a)] = b.t()
    bank.values[slot].copy_(host, non_blocking=True)
    bank.scales[slot] = weights.scale


def extract(bank: AdapterBank, slot: int, weights: LoraWeights) -> LoraWeights:
    """The present values of a slot, with the layers, rank and alpha of `weights`, on the CPU."""
    values = bank.values[slot : slot + 1].to("cpu", copy=True)
    found = {}
    for name, (of_layer, _) in weights.layers.items():
        a, b = (each[0] for each in bank.pair(values, name))
        found[name] = a[:, : len(of_layer)].t().contiguous(), b[: len(of_layer)].t().contiguous()
    return LoraWeights(found, weights.rank, weights.alpha)
