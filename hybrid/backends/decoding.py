"""One request in flight: sample its next token, and detect the end of its text.

Each request samples with its own generator, so its draws do not depend on which requests share the batch.
"""

from __future__ import annotations

import random
import time
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Literal

import torch

from hybrid.backends.completions import Detokenizer, separate_thought
from hybrid.records import Completion, Request

if TYPE_CHECKING:
    from hybrid.backends.grammar import Grammar

Finish = Literal["stop", "length", ""]


@dataclass(slots=True)
class Sequence:
    """A request with its prompt tokens and what has been generated so far."""

    request: Request
    prompt: list[int]
    cached: int = 0
    tokens: list[int] = field(default_factory=list)
    logprob: float = 0.0
    started: float = field(default_factory=time.monotonic)
    rng: random.Random = field(init=False)
    grammar: Grammar | None = None

    def __post_init__(self) -> None:
        self.rng = random.Random(self.request.sampling.seed)

    @property
    def adapter(self) -> str:
        """The digest of its adapter, "" for none."""
        return self.request.adapter.digest if self.request.adapter else ""

    @property
    def longest(self) -> int:
        """The largest possible number of tokens, prompt and completion together."""
        return len(self.prompt) + self.request.sampling.max_tokens


def sample_tokens(logits: torch.Tensor, sequences: list[Sequence]) -> tuple[list[int], list[float]]:
    """The next token of each row of `logits` [rows, vocabulary], and its log-probability before temperature.

    Greedy rows take the largest logit. Sampled rows are restricted to the nucleus (Holtzman et al. 2020), and the
    cumulative distribution is inverted at one uniform number of the row's own generator. A row with a grammar takes
    only tokens that its grammar allows.
    """
    logits = logits.float()
    if any(sequence.grammar for sequence in sequences):
        logits = torch.stack([_allowed(logits[row], sequence) for row, sequence in enumerate(sequences)])
    tokens = logits.argmax(dim=-1)
    sampled = [row for row, sequence in enumerate(sequences) if sequence.request.sampling.temperature > 0]
    if sampled:
        tokens[sampled] = _sample(logits[sampled], [sequences[row] for row in sampled])
    chosen = torch.log_softmax(logits, dim=-1).gather(-1, tokens[:, None])[:, 0]
    return tokens.tolist(), chosen.tolist()


def _allowed(logits: torch.Tensor, sequence: Sequence) -> torch.Tensor:
    """One row of logits, with minus infinity for the tokens that its grammar forbids."""
    return logits.masked_fill(sequence.grammar.forbidden(logits.device), -torch.inf) if sequence.grammar else logits


def _sample(logits: torch.Tensor, sequences: list[Sequence]) -> torch.Tensor:
    def column(values: list[float]) -> torch.Tensor:
        return torch.tensor(values, dtype=torch.float32, device=logits.device)[:, None]

    settings = [sequence.request.sampling for sequence in sequences]
    temperature = column([one.temperature for one in settings])
    scaled, order = torch.sort(logits / temperature, dim=-1, descending=True)
    total = torch.softmax(scaled, dim=-1).cumsum(dim=-1)
    before = torch.nn.functional.pad(total[:, :-1], (1, 0))
    # The most probable token is always kept.
    kept = (before < column([one.top_p for one in settings])).sum(dim=-1, keepdim=True)
    kept_probability = total.gather(-1, kept - 1)
    point = column([sequence.rng.random() for sequence in sequences]) * kept_probability
    index = (total <= point).sum(dim=-1, keepdim=True).clamp(max=kept - 1)
    return order.gather(-1, index)[:, 0]


def accept(
    sequence: Sequence, token: int, logprob: float, end_tokens: frozenset[int], detokenizer: Detokenizer
) -> Finish:
    """Append one token. Returns why the sequence ends with it, or "" when it goes on."""
    sequence.tokens.append(token)
    # The sum is over the text alone: llama.cpp returns no log-probability for the end token.
    sequence.logprob += 0.0 if token in end_tokens else logprob
    if sequence.grammar:
        sequence.grammar.accept(token)
        if sequence.grammar.finished:
            return "stop"
    if token in end_tokens or _ends_with_stop_string(sequence, detokenizer):
        return "stop"
    return "length" if len(sequence.tokens) >= sequence.request.sampling.max_tokens else ""


def completion(sequence: Sequence, finish: Finish, end_tokens: frozenset[int], detokenizer: Detokenizer) -> Completion:
    """The completion of a finished sequence: cut before the first stop string, without the end token."""
    tokens = sequence.tokens[:-1] if sequence.tokens[-1] in end_tokens else sequence.tokens
    text = detokenizer.text(tokens)
    cut = min((at for at in map(text.find, sequence.request.sampling.stop) if at >= 0), default=-1)
    written = Completion(
        sequence.request.key,
        text=text if cut < 0 else text[:cut],
        finish=finish if cut < 0 else "stop",
        prompt_tokens=len(sequence.prompt),
        cached_tokens=sequence.cached,
        completion_tokens=len(sequence.tokens),
        logprob=sequence.logprob if sequence.request.logprobs else None,
        seconds=time.monotonic() - sequence.started,
    )
    return separate_thought(sequence.request, written, detokenizer.open_thought(sequence.prompt))


def _ends_with_stop_string(sequence: Sequence, detokenizer: Detokenizer) -> bool:
    """Whether the newest tokens complete a stop string; only as many tokens as the longest one can span are decoded."""
    stops = sequence.request.sampling.stop
    if not stops:
        return False
    reach = max(len(stop.encode()) for stop in stops) + 4  # a token is at least a byte; 4 to start at a whole character
    tail = detokenizer.text(sequence.tokens[-reach:])
    return any(stop in tail for stop in stops)
