"""The next token of many rows at once: greedy, or drawn with each row's own random numbers.

The cumulative distribution is inverted at a uniform number of the row's generator: first over blocks of tokens, then
within one block, so nothing of the vocabulary's size is sorted or summed up token by token. Only a nucleus (Holtzman et
al. 2020) is sorted for.
"""

from __future__ import annotations

import random
from collections.abc import Sequence

import torch

from hybrid.records import Sampling

BLOCK = 256
"""Tokens of a block."""
FIRST_CANDIDATES = 1024
"""Tokens that are sorted to find a nucleus; the whole vocabulary where that is not enough."""
LARGEST = 1 - 2.0**-40
"""Of the uniform numbers, so that a product with them is smaller."""


class Draws:
    """The random numbers and settings of rows in flight; `keep` drops rows.

    A row's numbers come from `random.Random(seed)`, one a token, so they depend on nothing else.
    """

    def __init__(self, samplings: Sequence[Sampling], device: torch.device) -> None:
        longest = max(one.max_tokens for one in samplings)
        sampled = [one.temperature > 0 for one in samplings]
        numbers = torch.zeros(len(samplings), longest if any(sampled) else 0, dtype=torch.float64)
        for row, one in enumerate(samplings):
            if sampled[row]:
                draw = random.Random(one.seed).random
                numbers[row, : one.max_tokens] = torch.tensor(
                    [draw() for _ in range(one.max_tokens)], dtype=torch.float64
                )
        self._numbers = numbers.clamp_(max=LARGEST).to(device)
        temperatures = [one.temperature if one.temperature > 0 else 1.0 for one in samplings]
        self._temperature = torch.tensor(temperatures, dtype=torch.float32, device=device)[:, None]
        self._plain = all(one == 1.0 for one in temperatures)
        self._sampled = torch.tensor(sampled, device=device)
        self._any_sampled, self._any_greedy = any(sampled), not all(sampled)
        self._top_p = torch.tensor([one.top_p for one in samplings], dtype=torch.float64, device=device)
        self._any_nucleus = any(one.top_p < 1 and some for one, some in zip(samplings, sampled, strict=True))
        self._weights = torch.empty(0, device=device)

    def keep(self, rows: torch.Tensor) -> None:
        """Keep the rows of these numbers, in their order."""
        self._numbers, self._temperature, self._sampled, self._top_p = (
            one[rows] for one in (self._numbers, self._temperature, self._sampled, self._top_p)
        )

    def next(self, logits: torch.Tensor, step: int) -> tuple[torch.Tensor, torch.Tensor]:
        """Token number `step` of each row of logits [rows, vocabulary], and its log-probability, both [rows].

        The log-probability is at the row's temperature, before a nucleus is taken, and at 1 for a greedy row; it is not
        a number where logits are none.
        """
        scaled = logits.float()
        if not self._plain:
            scaled = scaled / self._temperature
        largest, best = scaled.max(dim=-1, keepdim=True)
        blocks = self._exponentials(scaled, largest)
        sums = blocks.sum(dim=-1).double()
        tokens = best[:, 0]
        if self._any_sampled:
            drawn = _inverted(blocks, sums, self._numbers[:, step])
            if self._any_nucleus:
                drawn = self._within_nuclei(drawn, blocks, sums, step)
            tokens = torch.where(self._sampled, drawn, tokens) if self._any_greedy else drawn
        chosen = scaled.gather(-1, tokens[:, None])[:, 0]
        return tokens, (chosen - largest[:, 0]).double().sub_(sums.sum(dim=-1).log_()).float()

    def _exponentials(self, scaled: torch.Tensor, largest: torch.Tensor) -> torch.Tensor:
        """exp(scaled - largest) as [rows, blocks, BLOCK], with zeros behind the vocabulary; the memory is reused."""
        rows, width = scaled.shape
        padded = -(-width // BLOCK) * BLOCK
        if self._weights.shape[-1] != padded or self._weights.shape[0] < rows:
            self._weights = scaled.new_zeros(rows, padded)
        weights = self._weights[:rows]
        torch.sub(scaled, largest, out=weights[:, :width])
        weights[:, :width].exp_()
        return weights.view(rows, -1, BLOCK)

    def _within_nuclei(self, drawn: torch.Tensor, blocks: torch.Tensor, sums: torch.Tensor, step: int) -> torch.Tensor:
        """The tokens, drawn anew for rows whose `top_p` is below 1."""
        rows = ((self._top_p < 1) & self._sampled).nonzero()[:, 0]
        drawn[rows] = _of_nucleus(
            blocks[rows].flatten(1), sums[rows].sum(dim=-1), self._top_p[rows], self._numbers[rows, step]
        )
        return drawn


def _inverted(blocks: torch.Tensor, sums: torch.Tensor, number: torch.Tensor) -> torch.Tensor:
    """The token [rows] at which the cumulative distribution exceeds `number` [rows] times the total.

    `sums` are those of the blocks. Sums are in fp64, so that no token's probability is lost in them.
    """
    ends = sums.cumsum(dim=-1)
    point = number * ends[:, -1]
    block = (ends <= point[:, None]).sum(dim=-1).clamp_(max=blocks.shape[1] - 1)
    row = torch.arange(len(block), device=block.device)
    inner = blocks[row, block].double().cumsum(dim=-1)
    # The sum of a block may be rounded otherwise than its cumulative one: the point stays within the block.
    rest = torch.minimum(point - (ends[row, block] - sums[row, block]), inner[:, -1] * LARGEST)
    place = (inner <= rest[:, None]).sum(dim=-1).clamp_(max=BLOCK - 1)
    return block * BLOCK + place


def _of_nucleus(weights: torch.Tensor, total: torch.Tensor, top_p: torch.Tensor, number: torch.Tensor) -> torch.Tensor:
    """A token of each row among the most probable ones that have `top_p` of the `total` together; at least one."""
    wanted = top_p * total
    for count in (min(FIRST_CANDIDATES, weights.shape[1]), weights.shape[1]):
        found, order = weights.topk(count, dim=-1)
        ends = found.double().cumsum(dim=-1)
        if bool((ends[:, -1] >= wanted).all()):
            break
    kept = ((ends - found) < wanted[:, None]).sum(dim=-1, keepdim=True).clamp_(min=1)
    point = number[:, None] * ends.gather(-1, kept - 1)
    return order.gather(-1, torch.minimum((ends <= point).sum(dim=-1, keepdim=True), kept - 1))[:, 0]
