"""Completions of many policies over one model in one decode loop: all slots, all prompts and all of their samples.

Equal prompts of a slot are prefilled once, and their keys and values held once for all samples. Rows are sorted by
slot, so that a step computes the adapters of all slots; rows that have ended leave when that saves more than copying
the others costs. Everything stays on the device until the last row has ended.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import AbstractContextManager
from typing import Any, NamedTuple, Protocol

import torch
from transformers import DynamicCache

from hybrid.backends.completions import Detokenizer
from hybrid.backends.policy_cache import SharingCache, bytes_of_token, decoding
from hybrid.backends.token_draws import Draws
from hybrid.errors import Temporary
from hybrid.loops import Prompt, Sampled
from hybrid.training.out_of_memory import fits

COPY_COST = 1.0
"""Steps that a row may be computed in vain, for each row that would be copied to be rid of it."""


class SlottedBank(Protocol):
    """The weights of the slots."""

    slots: int
    together: bool
    """Whether rows of several slots may be computed together."""

    def using(self, lengths: Sequence[int]) -> AbstractContextManager[None]:
        """Within it the model computes batches sorted by slot, `lengths[k]` tokens of slot k."""
        ...


class Limits(NamedTuple):
    """Most rows in flight, bytes of memory for them, and padded tokens of a prefill."""

    rows: int
    memory: int
    prefill: int


class PolicySampler:
    """Samples from the policies of a bank over `model`.

    `decode_steps`, `prefilled` and `passes` count the steps of the loops, the prompt tokens that were computed, and
    the loops: one for each set of rows that fits `limits`. What a row draws depends on its own seed; through the
    rounding of sums of another order its log-probabilities depend on the rows that are computed with it.
    """

    def __init__(self, model: Any, bank: SlottedBank, detokenizer: Detokenizer, ends: frozenset[int], limits: Limits):
        self.name = ""
        self._model, self._bank, self._detokenizer = model, bank, detokenizer
        self._ends, self._limits = ends, limits
        self.decode_steps = self.prefilled = self.passes = 0

    def sample(self, prompts: Sequence[Prompt]) -> list[Sampled]:
        """`hybrid.loops.Policies.sample`, for prompts that fit the context. Raises Temporary without memory for one."""
        found: dict[int, Sampled] = {}
        slots = [range(self._bank.slots)] if self._bank.together else [[slot] for slot in range(self._bank.slots)]
        with torch.inference_mode():
            for some in slots:
                of_these = [number for number, one in enumerate(prompts) if one.slot in some]
                for numbers in _waves(prompts, of_these, self._limits, self._bytes_of_row):
                    self._fill(found, prompts, numbers)
        return [found[number] for number in range(len(prompts))]

    def close(self) -> None:
        """There is nothing to free: model and bank are others'."""

    def _fill(self, found: dict[int, Sampled], prompts: Sequence[Prompt], numbers: list[int]) -> None:
        """Sample these prompts together; in two halves, and fewer from then on, when the memory does not suffice."""

        def compute() -> None:
            found.update(zip(numbers, self._wave([prompts[number] for number in numbers]), strict=True))

        if fits(compute):
            return
        half = len(numbers) // 2
        if not half:
            raise Temporary(
                f"no memory for one completion: {len(prompts[numbers[0]].ids):,} tokens of prompt",
                hint="fewer max_tokens, shorter prompts, fewer policies or a smaller model",
            )
        self._limits = self._limits._replace(rows=half)
        for part in (numbers[:half], numbers[half:]):
            self._fill(found, prompts, part)

    def _bytes_of_row(self, prompt: Prompt, samples: int) -> int:
        """Memory for one of `samples` of a prompt: keys and values, a share of the prompt's, and logits with copies."""
        width = int(self._model.get_output_embeddings().weight.shape[0])
        itemsize = int(self._model.dtype.itemsize)
        columns = prompt.sampling.max_tokens + -(-len(prompt.ids) // samples)
        return columns * bytes_of_token(self._model.config, itemsize) + width * (itemsize + 8)

    def _wave(self, prompts: list[Prompt]) -> list[Sampled]:
        """The completions of prompts in flight together, sorted by slot, equal ones side by side."""
        self.passes += 1
        rows = RowsInFlight(prompts, self._ends, self._model.device)
        logits = self._prefill(rows)
        with decoding(self._model, rows.cache):
            while rows.advance(logits, self._detokenizer):
                with self._bank.using(rows.lengths(self._bank.slots)):
                    answer = self._model(
                        input_ids=rows.newest[:, None],
                        attention_mask=rows.mask[:, : rows.columns],
                        position_ids=rows.positions[:, None],
                        past_key_values=rows.cache,
                        use_cache=True,
                        logits_to_keep=1,
                    )
                logits = answer.logits[:, -1]
                self.decode_steps += 1
        return rows.sampled(self._detokenizer)

    def _prefill(self, rows: RowsInFlight) -> torch.Tensor:
        """Compute each distinct prompt once. Returns the logits [rows, vocabulary] behind the prompts."""
        width = self._model.get_output_embeddings().weight.shape[0]
        logits = torch.empty(rows.count, width, device=self._model.device, dtype=self._model.dtype)
        for group in _groups(rows.shared, self._limits.prefill):
            longest = max(len(one.ids) for one in group)
            self.prefilled += sum(len(one.ids) for one in group)
            padded = [[0] * (longest - len(one.ids)) + list(one.ids) for one in group]
            shown = [[0] * (longest - len(one.ids)) + [1] * len(one.ids) for one in group]
            ids, mask = (torch.tensor(one, device=self._model.device) for one in (padded, shown))
            cache = DynamicCache()
            with self._bank.using(_lengths([one.slot for one in group], self._bank.slots, longest)):
                answer = self._model(
                    input_ids=ids,
                    attention_mask=mask,
                    position_ids=(mask.cumsum(dim=-1) - 1).clamp_(min=0),
                    past_key_values=cache,
                    use_cache=True,
                    logits_to_keep=1,
                )
            for row, one in enumerate(group):
                rows.cache.write(one.number, cache, row)
                logits[one.first : one.first + one.rows] = answer.logits[row, -1]
        return logits


class SharedPrompt(NamedTuple):
    """A prompt, and the `rows` that begin with it, from `first` on."""

    slot: int
    ids: tuple[int, ...]
    number: int
    first: int
    rows: int


class RowsInFlight:
    """The rows of a loop and what they have drawn; `count` of them are computed, those that have ended among them.

    `newest`, `positions` [rows]: the token that is computed next, and its position; `mask` [rows, columns]: 1 for real
    tokens, of which `columns` are in use. Row numbers are those of the prompts that were given.
    """

    def __init__(self, prompts: Sequence[Prompt], ends: frozenset[int], device: torch.device) -> None:
        self.count, self._prompts = len(prompts), prompts
        self.shared = _shared(prompts)
        self.columns = max(len(one.ids) for one in prompts)
        longest = max(one.sampling.max_tokens for one in prompts)
        every = self.columns + longest
        numbers = torch.tensor([one.number for one in self.shared for _ in range(one.rows)], device=device)
        self.cache = SharingCache(numbers, self.columns, longest)
        lengths = torch.tensor([len(one.ids) for one in prompts])
        column = torch.arange(every)
        self.mask = (column >= self.columns - lengths[:, None]).long().to(device)
        self.positions = lengths.to(device) - 1
        self.newest = torch.zeros_like(self.positions)
        self._slots = [one.slot for one in prompts]
        self._draws = Draws([one.sampling for one in prompts], device)
        self._ends = torch.tensor(sorted(ends), device=device)
        self._limit = torch.tensor([one.sampling.max_tokens for one in prompts], device=device)
        self._row = torch.arange(self.count, device=device)
        self._alive = torch.ones(self.count, dtype=torch.bool, device=device)
        self._tokens = torch.zeros(self.count, longest, dtype=torch.long, device=device)
        self._logprobs = torch.zeros(self.count, longest, device=device)
        self._drawn = torch.zeros_like(self._row)
        self._ended = torch.zeros_like(self._alive)
        self._stopping = [number for number, one in enumerate(prompts) if one.sampling.stop]
        self._step = self._vain = 0

    def lengths(self, slots: int) -> list[int]:
        """Rows of each slot."""
        return _lengths(self._slots, slots, 1)

    def advance(self, logits: torch.Tensor, detokenizer: Detokenizer) -> bool:
        """Draw a token for each row of logits [rows, vocabulary]. Returns whether one goes on after that."""
        tokens, logprobs = self._draws.next(logits, self._step)
        self._tokens[self._row, self._step] = tokens
        self._logprobs[self._row, self._step] = logprobs
        self._step += 1
        self._drawn[self._row[self._alive]] = self._step
        ended = torch.isin(tokens, self._ends) & self._alive
        if self._stopping:
            ended |= torch.isin(self._row, self._stopped(detokenizer)) & self._alive
        self._ended[self._row[ended]] = True
        self._alive &= ~ended & (self._limit > self._step)
        alive = int(self._alive.sum())
        if not alive:
            return False
        self.newest, self.positions = tokens, self.positions + 1
        self.columns += 1
        self._vain += self.count - alive
        if self._vain > COPY_COST * alive:
            self._leave()
        return True

    def _leave(self) -> None:
        """Drop the rows that have ended, and the columns that only they needed."""
        rows = self._alive.nonzero()[:, 0]
        mask = self.mask[rows]
        first = int(mask.argmax(dim=-1).min())
        self.cache.keep(rows, first)
        self._draws.keep(rows)
        self.mask, self.columns = mask[:, first:], self.columns - first
        self.newest, self.positions, self._row, self._limit, self._alive = (
            one[rows] for one in (self.newest, self.positions, self._row, self._limit, self._alive)
        )
        self._slots = [self._slots[row] for row in rows.tolist()]
        self.count, self._vain = len(rows), 0

    def _stopped(self, detokenizer: Detokenizer) -> torch.Tensor:
        """The rows whose newest tokens complete a stop string. Only as many as the longest can span are decoded."""
        found = []
        for row in self._stopping:
            stops = self._prompts[row].sampling.stop
            reach = max(len(stop.encode()) for stop in stops) + 4  # a token is a byte or more; 4 for a whole character
            tail = detokenizer.text(self._tokens[row, max(0, self._step - reach) : self._step].tolist())
            if any(stop in tail for stop in stops):
                found.append(row)
        self._stopping = [row for row in self._stopping if row not in found]
        return torch.tensor(found, dtype=torch.long, device=self._row.device)

    def sampled(self, detokenizer: Detokenizer) -> list[Sampled]:
        """What was drawn, in the order of the prompts."""
        ends = set(self._ends.tolist())
        drawn, ended, tokens, logprobs = (
            one.tolist() for one in (self._drawn, self._ended, self._tokens, self._logprobs)
        )
        found = []
        for row, one in enumerate(self._prompts):
            ids = tokens[row][: drawn[row]]
            text = detokenizer.completion(ids, ends, one.sampling.stop)
            found.append(Sampled(tuple(ids), text, ended[row], tuple(logprobs[row][: drawn[row]])))
        return found


def _waves(
    prompts: Sequence[Prompt], numbers: list[int], limits: Limits, bytes_of: Callable[[Prompt, int], int]
) -> Iterator[list[int]]:
    """The numbers of prompts in parts of about equal size that fit the memory, each sorted by slot.

    Equal ones are side by side, and long ones in the same parts. A part has at least one.
    """
    samples = Counter(prompts[number][:2] for number in numbers)
    sizes = {number: bytes_of(prompts[number], samples[prompts[number][:2]]) for number in numbers}
    ordered = sorted(numbers, key=lambda number: (-sizes[number], prompts[number].ids, prompts[number].slot))
    start = 0
    while start < len(ordered):
        left = len(ordered) - start
        fitting = max(1, min(limits.rows, limits.memory // sizes[ordered[start]]))
        size = -(-left // -(-left // fitting))
        part = ordered[start : start + size]
        yield sorted(part, key=lambda number: (prompts[number].slot, prompts[number].ids, number))
        start += size


def _shared(prompts: Sequence[Prompt]) -> list[SharedPrompt]:
    """The distinct prompts of sorted ones."""
    found: list[SharedPrompt] = []
    for row, one in enumerate(prompts):
        if found and (one.slot, one.ids) == found[-1][:2]:
            found[-1] = found[-1]._replace(rows=found[-1].rows + 1)
        else:
            found.append(SharedPrompt(one.slot, one.ids, len(found), row, 1))
    return found


def _groups(prompts: Iterable[SharedPrompt], tokens: int) -> Iterator[list[SharedPrompt]]:
    """Prompts of like lengths of at most `tokens` padded tokens, sorted by slot; a longer one is alone."""
    group: list[SharedPrompt] = []
    for one in sorted(prompts, key=lambda one: (len(one.ids), one.slot)):
        if group and (len(group) + 1) * len(one.ids) > tokens:
            yield sorted(group, key=lambda one: one.slot)
            group = []
        group.append(one)
    if group:
        yield sorted(group, key=lambda one: one.slot)


def _lengths(slot_of_row: Sequence[int], slots: int, tokens: int) -> list[int]:
    """The tokens of each slot, `tokens` a row."""
    counted = Counter(slot_of_row)
    return [counted[slot] * tokens for slot in range(slots)]
