"""The running batch of the transformers backend: rows of one rectangle that are decoded together.

Rows are padded on the left, so every row's newest token is in the last column. Positions count real tokens only and
the padding is masked, so padding changes no result. A finished row is removed at once, with the columns that only it
needed. New rows are prefilled together and then join the batch. Identical prompts are prefilled once.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Any

import torch
from transformers import DynamicCache
from transformers.cache_utils import DynamicLayer

from hybrid.backends.adapter_cache import AdapterCache
from hybrid.backends.completions import Detokenizer
from hybrid.backends.decoding import Sequence, accept, completion, sample_tokens
from hybrid.records import Completion

SPARE_COLUMNS = 64
"""Columns that the cache grows by at once, so that a decoding step writes one column instead of copying all of them."""


class GrowingLayer(DynamicLayer):  # type: ignore[misc]
    """One layer's keys and values [rows, heads, columns, width], kept in a buffer with spare columns."""

    key_buffer: torch.Tensor | None = None
    value_buffer: torch.Tensor | None = None

    def update(
        self, key_states: torch.Tensor, value_states: torch.Tensor, *args: Any, **kwargs: Any
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Append columns and return all of them."""
        if not self.is_initialized:
            self.lazy_initialization(key_states, value_states)
            self.keys, self.values = key_states[:, :, :0], value_states[:, :, :0]
        self.keys, self.key_buffer = _append(self.keys, self.key_buffer, key_states)
        self.values, self.value_buffer = _append(self.values, self.value_buffer, value_states)
        return self.keys, self.values

    def replace(self, keys: torch.Tensor, values: torch.Tensor) -> None:
        """Replace keys and values, for other rows or columns."""
        self.keys, self.values = keys, values
        self.key_buffer = self.value_buffer = None


class GrowingCache(DynamicCache):  # type: ignore[misc]
    """A cache of `GrowingLayer` only, also for layers with a sliding window: the model masks what is outside of it."""

    def __init__(self, layers: int) -> None:
        super().__init__()
        self.layers = [GrowingLayer() for _ in range(layers)]
        self.layer_class_to_replicate = None


def _append(seen: torch.Tensor, buffer: torch.Tensor | None, new: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    used, needed = seen.shape[2], seen.shape[2] + new.shape[2]
    if buffer is None or buffer.shape[2] < needed:
        buffer = new.new_empty(new.shape[0], new.shape[1], needed + SPARE_COLUMNS, new.shape[3])
        buffer[:, :, :used] = seen
    buffer[:, :, used:needed] = new
    return buffer[:, :, :needed], buffer


class Batch:
    """Rows in flight: at most `rows` rows, `tokens` cached tokens (rows x columns) and `prefill` tokens in one prefill.

    Rows may use different adapters, as many at once as the adapter cache has slots.
    """

    def __init__(
        self,
        model: Any,
        detokenizer: Detokenizer,
        end_tokens: frozenset[int],
        adapter_cache: AdapterCache,
        *,
        rows: int,
        tokens: int,
        prefill: int,
    ) -> None:
        self.model = model
        self.adapter_cache = adapter_cache
        self.detokenizer = detokenizer
        self.end_tokens = end_tokens
        self.limit = (rows, tokens, prefill)
        self.rows: list[Sequence] = []
        self.cache: GrowingCache | None = None
        self.mask = torch.zeros(0, 0, dtype=torch.long, device=model.device)

    def fits(self, sequence: Sequence, others: list[Sequence]) -> bool:
        """Whether one more sequence fits beside the rows in flight and the `others`.

        Any sequence fits when it is alone.
        """
        rows = [sequence, *others, *self.rows]
        columns = max(row.longest for row in rows)
        if len({row.adapter for row in rows} - {""}) > self.adapter_cache.slots:
            return False
        return len(rows) == 1 or (len(rows) <= self.limit[0] and len(rows) * columns <= self.limit[1])

    def add(self, sequences: list[Sequence]) -> list[Completion]:
        """Prefill new sequences and add them to the batch; those that end with their first token are returned."""
        done: list[Completion] = []
        ordered = sorted(sequences, key=lambda one: (len(one.prompt), one.prompt))  # similar lengths: little padding
        for group in _groups(ordered, self.limit[2]):
            cache, mask, logits = self._prefill(group)
            done += self._advance(group, logits, cache, mask)
        return done

    def step(self) -> list[Completion]:
        """Decode one token for every row; the rows that end with it are returned."""
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
        with torch.inference_mode(), self.adapter_cache.answering([row.adapter for row in rows], ids.shape[1]):
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
        """Prefill the prompts of `group`, each distinct one once; the resulting rows are in the group's order."""
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
        """Sample a token for each row; unfinished rows join the batch, finished ones are returned."""
        tokens, logprobs = sample_tokens(logits, rows)
        drawn = zip(rows, tokens, logprobs, strict=True)
        finishes = [accept(row, token, logprob, self.end_tokens, self.detokenizer) for row, token, logprob in drawn]
        unfinished = [index for index, end in enumerate(finishes) if not end]
        if unfinished:
            if len(unfinished) < len(rows):
                mask = mask[unfinished]
                empty = int((mask.cumsum(dim=-1).amax(dim=0) == 0).sum())
                mask = mask[:, empty:]
                _select(cache, unfinished, empty)
            self._join([rows[index] for index in unfinished], cache, mask)
        pairs = zip(rows, finishes, strict=True)
        return [completion(row, end, self.end_tokens, self.detokenizer) for row, end in pairs if end]

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
    """Groups of neighbouring sequences of at most `tokens` padded tokens; a longer sequence is alone."""
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
