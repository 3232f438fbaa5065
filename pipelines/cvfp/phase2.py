"""Phase 2: the next token, by mini-batches of documents and truncated back-propagation through time.

The logits of a chunk of rows exist at a time, never those of all tokens.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from random import Random

import torch
import torch.nn.functional as F  # noqa: N812

from hybrid.training.label_loss import chunk_rows
from pipelines.cvfp.adam import Adam
from pipelines.cvfp.execution import exact, starts
from pipelines.cvfp.head import HeadPass, head_pass, scale_gradients, squared_norm
from pipelines.cvfp.late_gradients import LateGradients
from pipelines.cvfp.model import Linear, Model
from pipelines.cvfp.state import taken


@dataclass(frozen=True, slots=True)
class Settings:
    """How phase 2 trains. `window`: tokens of a document that gradients go back through; `batch`: documents of a step.

    `frozen`: only the head is trained. `contexts`: False for a head on the token alone, without blocks. `noise`: of the
    contexts between windows. `warm_up`: share of the steps in which the rate rises; then it falls as a cosine.
    """

    epochs: int
    batch: int
    window: int
    learning_rate: float
    weight_decay: float
    clip: float
    noise: float
    warm_up: float
    frozen: bool
    contexts: bool
    burn_in: int = 0  # tokens before a document that its first context is computed from; 0: it begins with 0


@dataclass(frozen=True, slots=True)
class Score:
    """Of held-out documents: mean loss of a token (nats), and how often it is the likeliest or among the first five."""

    loss: float
    top1: float
    top5: float
    tokens: int

    @property
    def perplexity(self) -> float:
        return math.exp(min(self.loss, 700.0))


class PhaseTwo:
    """Trains a model on documents `ids` [N, T] for the next token. `seed`: of the order and the noise."""

    def __init__(self, model: Model, ids: torch.Tensor, settings: Settings, seed: int) -> None:
        self.model, self.ids, self.settings, self.seed = model, ids, settings, seed
        parts = [model.head] if model.head is not None else []
        parts += [model.norm, *model.blocks] if settings.contexts and not settings.frozen else []
        self.adam = Adam([one for part in parts for one in part.parameters()], settings.weight_decay)
        self.steps = 0

    def state(self) -> dict[str, torch.Tensor]:
        """The step count and AdamW's moments."""
        return {"steps": torch.tensor(self.steps), **self.adam.state()}

    def load(self, state: Mapping[str, torch.Tensor]) -> None:
        """Go on from `state`. Raises BadData."""
        self.steps = int(taken(state, "steps", torch.tensor(0)))
        self.adam.load(state)

    @property
    def steps_of_epoch(self) -> int:
        """Optimizer steps of an epoch."""
        windows = math.ceil((int(self.ids.shape[1]) - 1) / self.settings.window)
        return math.ceil(len(self.ids) / self.settings.batch) * windows

    def epoch(self, number: int) -> float:
        """Train on every document once, in an order of the epoch's own. The mean loss of a token."""
        order = list(range(len(self.ids)))
        Random(f"{self.seed} epoch {number}").shuffle(order)
        noise = torch.Generator().manual_seed(self.seed * 100_003 + number)
        total, count = 0.0, 0
        for at in range(0, len(order), self.settings.batch):
            chosen = order[at : at + self.settings.batch]
            documents, start = self.ids[chosen], begun(self.model, self.ids, chosen, self.settings)
            for first in range(0, documents.shape[1] - 1, self.settings.window):
                window = documents[:, first : first + self.settings.window + 1]
                loss, start = self._step(window, start, noise)
                tokens = window.shape[0] * (window.shape[1] - 1)
                total, count = total + loss * tokens, count + tokens
        return total / max(1, count)

    def _step(
        self, window: torch.Tensor, start: torch.Tensor | None, noise: torch.Generator
    ) -> tuple[float, torch.Tensor | None]:
        """One step on documents [B, window + 1]; the mean loss, and the contexts that the next window begins with."""
        if start is not None and self.settings.noise:
            start = start + self.settings.noise * torch.randn(start.shape, generator=noise).to(start)
        late = LateGradients()
        with torch.set_grad_enabled(self.settings.contexts and not self.settings.frozen):
            rows, end = written(self.model, window[:, :-1], self.settings.contexts, start, late)
        head = head_pass(self.model, rows.detach().flatten(0, 1), window[:, 1:].flatten())
        if rows.requires_grad:
            rows.backward(head.of_rows.view_as(rows))
            late.finish()
        self._take(head)
        self.steps += 1
        return head.loss, None if end is None else end.detach()

    def _take(self, head: HeadPass) -> None:
        """A step with all gradients, cut to the norm `clip`; none with gradients that are not finite."""
        blocks = [*self.model.norm.parameters(), *self.model.blocks.parameters()]
        norm = (head.square + squared_norm(blocks)) ** 0.5
        if math.isfinite(norm):
            factor = min(1.0, (self.settings.clip or math.inf) / (norm + 1e-6))
            rate = self.settings.learning_rate * self._rate()
            scale_gradients(blocks, factor)
            head.step(self.adam, factor, rate)
            self.adam.step(rate)
        self.model.zero_grad()

    def _rate(self) -> float:
        """The share of the learning rate at the present step."""
        whole = max(1, self.settings.epochs * self.steps_of_epoch)
        rising = self.settings.warm_up * whole
        if self.steps < rising:
            return (self.steps + 1) / rising
        return 0.5 * (1 + math.cos(math.pi * min(1.0, (self.steps - rising) / max(1.0, whole - rising))))


def begun(model: Model, ids: torch.Tensor, chosen: Sequence[int], settings: Settings) -> torch.Tensor | None:
    """The contexts that the chosen documents of `ids` begin with; None for 0."""
    if not (settings.burn_in and settings.contexts):
        return None
    return starts(model, ids, chosen, settings.burn_in)


def written(
    model: Model, ids: torch.Tensor, contexts: bool, start: torch.Tensor | None = None, linear: Linear = F.linear
) -> tuple[torch.Tensor, torch.Tensor | None]:
    """What the head reads [B, T, read] of documents, and their last contexts [B, d]; tokens alone without contexts."""
    tokens = model.embedded(ids)
    if not contexts:
        return tokens, None
    found, token = exact(model, tokens, start, linear)
    return model.rows(found, token), found[:, -1]


@torch.no_grad()  # type: ignore[untyped-decorator]
def score(model: Model, ids: torch.Tensor, settings: Settings, batch: int = 64) -> Score:
    """How well a model predicts the tokens of documents [N, T] after the first."""
    weight, bias = model.head_weights()
    loss, first, five, count = 0.0, 0, 0, 0
    for at in range(0, len(ids), batch):
        part = ids[at : at + batch]
        start = begun(model, ids, range(at, at + len(part)), settings)
        rows, _ = written(model, part[:, :-1], settings.contexts, start)
        for some, targets in _chunks(rows.reshape(-1, rows.shape[-1]), part[:, 1:].reshape(-1), len(weight)):
            logits = torch.nn.functional.linear(some, weight, bias).float()
            loss += float(torch.nn.functional.cross_entropy(logits, targets, reduction="sum"))
            best = logits.topk(min(5, logits.shape[1]), dim=-1).indices == targets[:, None]
            first, five, count = first + int(best[:, 0].sum()), five + int(best.any(1).sum()), count + len(targets)
    return Score(loss / max(1, count), first / max(1, count), five / max(1, count), count)


def _chunks(rows: torch.Tensor, targets: torch.Tensor, vocabulary: int) -> Iterator[tuple[torch.Tensor, torch.Tensor]]:
    size = chunk_rows(vocabulary, rows.device)
    yield from zip(rows.split(size), targets.split(size), strict=True)
