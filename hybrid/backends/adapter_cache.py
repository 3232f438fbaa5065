"""The LoRA adapters that a batch answers with: as many at once as there are slots, the others loaded when asked for."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch

from hybrid.backends.adapter_kinds import CONFIG, MOST_CONFIG, refuse_other_kinds, settings_in
from hybrid.errors import BadData
from hybrid.training.adapters import Weights, from_bytes, load, named
from hybrid.training.slots import Bank, Route, Slots

MAX_FILE = 8 * 1024**3


class AdapterCache:
    """Adapters by digest over one model. `slots` may be in flight together; a row without one takes the plain model."""

    def __init__(self, model: Any, slots: int) -> None:
        self._model, self.slots = model, slots
        self._layers = _linear(model)
        self._known: dict[str, Weights] = {}
        self._held: dict[str, int] = {}  # digest -> slot, the least recently used first
        self._wired: Slots | None = None
        self._bank: Bank | None = None

    def put(self, digest: str, weights: Weights) -> None:
        """Make an adapter known. Raises BadData for one of another model."""
        for name, (a, b) in weights.layers.items():
            if self._layers.get(name) != (a.shape[1], b.shape[0]):
                raise BadData(f"its layer {name:.100} is not one of this model", hint="is it of another model?")
        self._known[digest] = weights

    def forget(self, digests: Collection[str]) -> None:
        """Free the memory of adapters that nothing in flight has."""
        for digest in digests:
            self._known.pop(digest, None)
            self._held.pop(digest, None)

    def knows(self, digest: str) -> bool:
        return digest in self._known

    def read(self, digest: str, folder: Path) -> None:
        """Make the adapter in a folder of PEFT's layout known. Raises BadData, OSError."""
        path, config = folder / "adapter_model.safetensors", folder / CONFIG
        data = _read(path, MAX_FILE)
        if named(data) != digest:
            raise BadData(f"{path}: its sha256 is not {digest[:12]}...")
        beside = _read(config, MOST_CONFIG) if config.is_file() else b""
        weights = from_bytes(data, str(path), beside)
        for settings, what in ((beside, config), (settings_in(data), path)):
            refuse_other_kinds(settings, str(what))
        self.put(digest, weights)

    @contextmanager
    def answering(self, digests: Sequence[str], columns: int) -> Iterator[None]:
        """Inside the block, row i of a batch [rows, columns] takes the adapter digests[i]; "" is none."""
        if not any(digests):
            yield
            return
        wired, route = self._route(digests, columns)
        with wired.routed(route):
            yield

    def _route(self, digests: Sequence[str], columns: int) -> tuple[Slots, Route]:
        wanted = sorted(set(digests) - {""})
        wired, bank = self._loaded(wanted)
        device = bank.values.device
        rows: list[list[int]] = [[] for _ in range(bank.slots)]
        for row, digest in enumerate(digests):
            if digest:
                rows[self._held[digest]].append(row)
        order = torch.tensor([row for slot in rows for row in slot])
        every = (order[:, None] * columns + torch.arange(columns)).flatten().to(device)
        lengths = [len(slot) * columns for slot in rows]
        return wired, Route(bank, lengths, bank.values.dtype, every)

    def _loaded(self, wanted: Sequence[str]) -> tuple[Slots, Bank]:
        """Every adapter of `wanted` in a slot; those that were used longest ago make room."""
        wired, bank = self._fitting(wanted)
        for digest in wanted:
            if digest in self._held:
                self._held[digest] = self._held.pop(digest)  # the most recently used one now
                continue
            free = set(range(bank.slots)) - set(self._held.values())
            if not free:
                oldest = next(one for one in self._held if one not in wanted)
                free = {self._held.pop(oldest)}
            self._held[digest] = min(free)
            load(bank, self._held[digest], self._known[digest])
        return wired, bank

    def _fitting(self, wanted: Sequence[str]) -> tuple[Slots, Bank]:
        """Layers and a bank that have room for the adapters; made anew, and empty, when they had not."""
        adapters = [self._known[digest] for digest in wanted]
        rank = max(one.rank for one in adapters)
        names = {name.rpartition(".")[2] for one in adapters for name in one.layers}
        if self._wired is None or self._bank is None or not names <= self._names() or self._bank.rank < rank:
            names |= self._names()
            self.close()
            self._wired = Slots(self._model, sorted(names))
            self._bank = Bank(self._wired.layers, self.slots, rank, self._model, training=False)
            self._held = {}
        return self._wired, self._bank

    def _names(self) -> set[str]:
        return {name.rpartition(".")[2] for name in self._wired.layers} if self._wired else set()

    def close(self) -> None:
        """Put the model's own layers back and free the slots."""
        if self._wired:
            self._wired.close()
        self._wired = self._bank = None
        self._held = {}


def _linear(model: Any) -> dict[str, tuple[int, int]]:
    """Name -> width in and out of the layers that adapters may change: all linear ones but the output head."""
    modules = [(name, one) for name, one in model.named_modules() if type(one) is torch.nn.Linear]
    head = model.get_output_embeddings()
    return {name: (one.in_features, one.out_features) for name, one in modules if one is not head}


def _read(path: Path, most: int) -> bytes:
    with path.open("rb") as file:
        data = file.read(most + 1)
    if len(data) > most:
        raise BadData(f"{path}: more than the {most:,} bytes allowed")
    return data
