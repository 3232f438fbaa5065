"""The running batch of the transformers backend: a rectangle of rows that share every step of the model.

Rows are padded on the left, so every row's newest token is in the last column; positions count real tokens only and
the padding is masked, so padding changes no result. A finished row leaves at once and columns that only padded it go
with it; new rows are prefilled together and join. Identical prompts are prefilled once.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Any

import torch
from transformers import DynamicCache
from transformers.cache_utils import DynamicLayer

from hybrid.backends.adapter_cache import AdapterCache
from hybrid.backends.completing import Voice
from hybrid.backends.decoding import Sequence, accept, choose, completion
from hybrid.records import Completion

SPARE = 64
"""Columns that a cache grows by at once, so that a step writes one column instead of copying them all."""


class GrowingLayer(DynamicLayer):  # type: ignore[misc]
    """One layer's keys and values [rows, heads, columns, width], kept in a buffer with spare columns."""

    key_room: torch.Tensor | None = None
    value_room: torch.Tensor | None = None

    def update(
        self, key_states: torch.Tensor, value_states: torch.Tensor, *args: Any, **kwargs: Any
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Append columns and return all of them."""
        if not self.is_initialized:
            self.lazy_initialization(key_states, value_states)
            self.keys, self.values = key_states[:, :, :0], value_states[:, :, :0]
        self.keys, self.key_room = _append(self.keys, self.key_room, key_states)
        self.values, self.value_room = _append(self.values, self.value_room, value_states)
        return self.keys, self.values

    def replace(self, keys: torch.Tensor, values: torch.Tensor) -> None:
        """Hold other rows or columns from now on."""
        self.keys, self.values = keys, values
        self.key_room = self.value_room = None


class GrowingCache(DynamicCache):  # type: ignore[misc]
    """A cache whose layers are all `GrowingLayer`, sliding windows included: their models mask what is out of sight."""

    def __init__(self, layers: int) -> None:
        super().__init__()
        self.layers = [GrowingLayer() for _ in range(layers)]
        self.layer_class_to_replicate = None


def _append(seen: torch.Tensor, room: torch.Tensor | None, new: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    used, needed = seen.shape[2], seen.shape[2] + new.shape[2]
    if room is None or room.shape[2] < needed:
        room = new.new_empty(new.shape[0], new.shape[1], needed + SPARE, new.shape[3])
        room[:, :, :used] = seen
    room[:, :, used:needed] = new
    return room[:, :, :needed], room


class Batch:
    """Rows in flight. `tokens` bounds rows x columns of the cache, `rows` their number, `prefill` a prefill's size.

    Rows may have different adapters, as many at once as the shelf has slots.
    """

    def __init__(
        self,
        model: Any,
        voice: Voice,
        ends: frozenset[int],
        shelf: AdapterCache,
        *,
        rows: int,
        tokens: int,
        prefill: int,
    ) -> None:
        self.model = model
        self.shelf = shelf
        self.voice = voice
        self.ends = ends
        self.limit = (rows, tokens, prefill)
        self.rows: list[Sequence] = []
        self.cache: GrowingCache | None = None
        self.mask = torch.zeros(0, 0, dtype=torch.long, device=model.device)

    def fits(self, sequence: Sequence, others: list[Sequence]) -> bool:
        """Whether there is room for one more beside the rows in flight and the `others`; alone, any has room."""
        rows = [sequence, *others, *self.rows]
        columns = max(row.longest for row in rows)
        if len({row.adapter for row in rows} - {""}) > self.shelf.slots:
            return False
        return len(rows) == 1 or (len(rows) <= self.limit[0] and len(rows) * columns <= self.limit[1])

    def add(self, sequences: list[Sequence]) -> list[Completion]:
        """Prefill new sequences and let them join; those that end with their first token are returned."""
        done: list[Completion] = []
        ordered = sorted(sequences, key=lambda one: (len(one.prompt), one.prompt))  # like lengths: little padding
        for group in _groups(ordered, self.limit[2]):
            cache, mask, logits = self._prefill(group)
            done += self._advance(group, logits, cache, mask)
        return done

    def step(self) -> list[Completion]:
        """One more token for every row; those that end with it are returned."""
        rows, cache = self.rows, self.cache
        if cache is None:
            return []
        newest = torch.tensor([[row.tokens[-1]] for row in rows], device=self.model.device)
        self.mask = torch.nn.functional.pad(self.mask, (0, 1), value=1)
        positions = self.mask.sum(dim=-1, keepdim=True) - 1
        logits = self._forward(rows, newest, self.mask, positions, cache)
        mask = self.mask
        self.rows, self.cache = [], None
        return self._advance(rows, logits, cache, mask)

    def _forward(
        self, rows: list[Sequence], ids: torch.Tensor, mask: torch.Tensor, positions: torch.Tensor, cache: GrowingCache
    ) -> torch.Tensor:
        """Logits [rows, vocabulary] after the last column."""
        with torch.inference_mode(), self.shelf.answering([row.adapter for row in rows], ids.shape[1]):
            answer = self.model(
                input_ids=ids,
                attention_mask=mask,
                position_ids=positions,
                past_key_values=cache,
                use_cache=True,
                logits_to_keep=1,
            )
        logits: torch.Tensor = answer.logits[:, -1]
        return logits

    def _prefill(self, group: list[Sequence]) -> tuple[GrowingCache, torch.Tensor, torch.Tensor]:
        """Run the prompts of `group`, each different one once; rows are then in the group's order."""
        unique: dict[tuple[str, tuple[int, ...]], int] = {}
        place = [unique.setdefault((one.adapter, tuple(one.prompt)), len(unique)) for one in group]
        for row, one in enumerate(group):
            one.cached = len(one.prompt) if place.index(place[row]) < row else 0
        rows = [group[place.index(row)] for row in range(len(unique))]
        columns = max(len(one.prompt) for one in rows)
        ids = torch.tensor([[0] * (columns - len(one.prompt)) + one.prompt for one in rows])
        mask = torch.tensor([[0] * (columns - len(one.prompt)) + [1] * len(one.prompt) for one in rows])
        ids, mask = ids.to(self.model.device), mask.to(self.model.device)
        cache = GrowingCache(self.model.config.get_text_config(decoder=True).num_hidden_layers)
        logits = self._forward(rows, ids, mask, (mask.cumsum(dim=-1) - 1).clamp(min=0), cache)
        if len(unique) == len(group):
            return cache, mask, logits
        _select(cache, place, 0)
        return cache, mask[place], logits[place]

    def _advance(
        self, rows: list[Sequence], logits: torch.Tensor, cache: GrowingCache, mask: torch.Tensor
    ) -> list[Completion]:
        """Draw a token for each row; the rows that go on are joined to the batch, the others are returned."""
        tokens, logprobs = choose(logits, rows)
        drawn = zip(rows, tokens, logprobs, strict=True)
        ends = [accept(row, token, logprob, self.ends, self.voice) for row, token, logprob in drawn]
        on = [index for index, end in enumerate(ends) if not end]
        if on:
            if len(on) < len(rows):
                mask = mask[on]
                empty = int((mask.cumsum(dim=-1).amax(dim=0) == 0).sum())
                mask = mask[:, empty:]
                _select(cache, on, empty)
            self._join([rows[index] for index in on], cache, mask)
        pairs = zip(rows, ends, strict=True)
        return [completion(row, end, self.ends, self.voice) for row, end in pairs if end]

    def _join(self, rows: list[Sequence], cache: GrowingCache, mask: torch.Tensor) -> None:
        if self.cache is None:
            self.rows, self.cache, self.mask = rows, cache, mask
            return
        columns = max(mask.shape[1], self.mask.shape[1])
        for old, new in zip(self.cache.layers, cache.layers, strict=True):
            keys = torch.cat([_padded(old.keys, columns), _padded(new.keys, columns)])
            old.replace(keys, torch.cat([_padded(old.values, columns), _padded(new.values, columns)]))
        sides = [torch.nn.functional.pad(one, (columns - one.shape[1], 0)) for one in (self.mask, mask)]
        self.rows, self.mask = self.rows + rows, torch.cat(sides)


def _groups(sequences: Iterable[Sequence], tokens: int) -> Iterator[list[Sequence]]:
    """Runs of sequences, shortest first, whose padded size is at most `tokens`; a longer one is alone."""
    group: list[Sequence] = []
    for one in sequences:
        if group and (len(group) + 1) * len(one.prompt) > tokens:
            yield group
            group = []
        group.append(one)
    if group:
        yield group


def _select(cache: GrowingCache, rows: list[int], first: int) -> None:
    """Keep `rows`, in that order, and the columns from `first` on."""
    for layer in cache.layers:
        layer.replace(layer.keys[rows, :, first:], layer.values[rows, :, first:])


def _padded(values: torch.Tensor, columns: int) -> torch.Tensor:
    return torch.nn.functional.pad(values, (0, 0, columns - values.shape[2], 0))
