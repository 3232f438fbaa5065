"""An LRU cache of LoRA adapters in the slots of one model, so that the rows of a batch can use different adapters."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Sequence
from contextlib import contextmanager
from hashlib import sha256
from pathlib import Path
from typing import Any

import torch

from hybrid.backends.adapter_kinds import CONFIG, MAX_CONFIG, refuse_other_kinds, settings_in
from hybrid.errors import BadData
from hybrid.training.adapters import LoraWeights, adapter_digest, from_bytes, load
from hybrid.training.slots import AdapterBank, Route, SlottedModel

MAX_FILE = 8 * 1024**3


class AdapterCache:
    """Adapters by digest. At most `slots` are loaded at once; a row without an adapter uses the plain model."""

    def __init__(self, model: Any, slots: int) -> None:
        self._model, self.slots = model, slots
        self._layers = _linear(model)
        self._registered: dict[str, LoraWeights] = {}
        self._settings: dict[str, bytes] = {}  # digest -> sha256 of the configuration that its weights were read with
        self._folders = set[tuple[str, Path]]()  # those that were read
        self._slot_of: dict[str, int] = {}  # digest -> slot, the least recently used first
        self._slotted: SlottedModel | None = None
        self._bank: AdapterBank | None = None

    def put(self, digest: str, weights: LoraWeights) -> None:
        """Register an adapter. Raises BadData when its layers are not those of this model."""
        for name, (a, b) in weights.layers.items():
            if self._layers.get(name) != (a.shape[1], b.shape[0]):
                raise BadData(f"its layer {name:.100} is not one of this model", hint="is it of another model?")
        self._registered[digest] = weights

    def forget(self, digests: Collection[str]) -> None:
        """Free the memory of adapters that no request in flight uses."""
        for digest in digests:
            self._registered.pop(digest, None)
            self._slot_of.pop(digest, None)
            self._settings.pop(digest, None)
            self._folders = {one for one in self._folders if one[0] != digest}

    def clear(self) -> None:
        """Free the memory of all adapters and of the slots."""
        self.close()
        self._registered, self._settings, self._folders = {}, {}, set()

    def knows(self, digest: str, folder: str = "") -> bool:
        """Whether the adapter is registered; with `folder`, whether that one was read."""
        return digest in self._registered and (not folder or (digest, Path(folder)) in self._folders)

    def read(self, digest: str, folder: Path) -> None:
        """Register the adapter in a folder of PEFT's layout. Raises BadData, OSError.

        The digest is that of the weights, but the configuration has their scales: the same weights with another
        configuration are another adapter, and are refused beside the first.
        """
        path, config = folder / "adapter_model.safetensors", folder / CONFIG
        data = _read(path, MAX_FILE)
        if adapter_digest(data) != digest:
            raise BadData(f"{path}: its sha256 is not {digest[:12]}...")
        config_data = _read(config, MAX_CONFIG) if config.is_file() else b""
        weights = from_bytes(data, str(path), config_data)
        for settings, what in ((config_data, config), (settings_in(data), path)):
            refuse_other_kinds(settings, str(what), scales=True)
        found = sha256(config_data).digest()
        if self._settings.get(digest, found) != found:
            raise BadData(
                f"{config}: other settings than those that the same weights were loaded with before",
                hint="answer with one of the two adapters in a run of its own",
            )
        self.put(digest, weights)
        self._settings[digest] = found
        self._folders.add((digest, folder))

    @contextmanager
    def answering(self, digests: Sequence[str], columns: int) -> Iterator[None]:
        """Inside the block, row i of a batch [rows, columns] uses the adapter digests[i]; "" is none."""
        if not any(digests):
            yield
            return
        slotted, route = self._route(digests, columns)
        with slotted.routed(route):
            yield

    def _route(self, digests: Sequence[str], columns: int) -> tuple[SlottedModel, Route]:
        wanted = sorted(set(digests) - {""})
        slotted, bank = self._load(wanted)
        device = bank.values.device
        rows: list[list[int]] = [[] for _ in range(bank.slots)]
        for row, digest in enumerate(digests):
            if digest:
                rows[self._slot_of[digest]].append(row)
        order = torch.tensor([row for slot in rows for row in slot])
        token_order = (order[:, None] * columns + torch.arange(columns)).flatten().to(device)
        lengths = [len(slot) * columns for slot in rows]
        return slotted, Route(bank, lengths, bank.values.dtype, token_order)

    def _load(self, wanted: Sequence[str]) -> tuple[SlottedModel, AdapterBank]:
        """Load every adapter of `wanted` into a slot; the least recently used ones are evicted."""
        slotted, bank = self._with_room(wanted)
        for digest in wanted:
            if digest in self._slot_of:
                self._slot_of[digest] = self._slot_of.pop(digest)  # now the most recently used
                continue
            free = set(range(bank.slots)) - set(self._slot_of.values())
            if not free:
                evicted = next(one for one in self._slot_of if one not in wanted)
                free = {self._slot_of.pop(evicted)}
            self._slot_of[digest] = min(free)
            load(bank, self._slot_of[digest], self._registered[digest])
        return slotted, bank

    def _with_room(self, wanted: Sequence[str]) -> tuple[SlottedModel, AdapterBank]:
        """Layers and a bank for these adapters, rebuilt and empty when their layers or rank do not suffice."""
        adapters = [self._registered[digest] for digest in wanted]
        rank = max(one.rank for one in adapters)
        names = {name.rpartition(".")[2] for one in adapters for name in one.layers}
        if self._slotted is None or self._bank is None or not names <= self._slotted_names() or self._bank.rank < rank:
            names |= self._slotted_names()
            self.close()
            self._slotted = SlottedModel(self._model, sorted(names))
            self._bank = AdapterBank(self._slotted.layers, self.slots, rank, self._model, training=False)
            self._slot_of = {}
        return self._slotted, self._bank

    def _slotted_names(self) -> set[str]:
        return {name.rpartition(".")[2] for name in self._slotted.layers} if self._slotted else set()

    def close(self) -> None:
        """Restore the model's own layers and free the slots."""
        if self._slotted:
            self._slotted.close()
        self._slotted = self._bank = None
        self._slot_of = {}


def _linear(model: Any) -> dict[str, tuple[int, int]]:
    """Name -> (input width, output width) of the linear layers, without the output head."""
    modules = [(name, one) for name, one in model.named_modules() if type(one) is torch.nn.Linear]
    head = model.get_output_embeddings()
    return {name: (one.in_features, one.out_features) for name, one in modules if one is not head}


def _read(path: Path, most: int) -> bytes:
    with path.open("rb") as file:
        data = file.read(most + 1)
    if len(data) > most:
        raise BadData(f"{path}: more than the {most:,} bytes allowed")
    return data
