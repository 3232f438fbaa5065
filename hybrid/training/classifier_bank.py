"""K adapters with K heads over one frozen classifier model: all train in the same passes, independently of each other.

Nothing here knows of clients or rounds: who calls it decides which slot sees which text when.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager
from functools import partial
from typing import Any

import torch
import torch.nn.functional as F  # noqa: N812

from hybrid.errors import CannotRun
from hybrid.loops import EncodedText, LabelledText
from hybrid.training import adapters, crossing
from hybrid.training.adapters import LoraWeights, initial_weights
from hybrid.training.classifier_model import ClassifierModel
from hybrid.training.heads import SlotHeads, initial_head
from hybrid.training.optimizer import SlotAdamW
from hybrid.training.out_of_memory import fits
from hybrid.training.recompute import repeatable_layers
from hybrid.training.slot_states import StatefulBank
from hybrid.training.slots import Route, SlottedModel
from hybrid.tuning import Tuning

LOG = logging.getLogger("hybrid")
PASS_TOKENS = 16384
"""Tokens of a pass on a GPU. More are no faster, and take memory."""
CPU_TOKENS, CPU_NUMBERS = (512, 4096), 1 << 18
"""Tokens of a pass on a CPU: as many as have so many numbers in a layer. A narrow model needs more to be fast."""


TINY = 1e-12
"""The least norm that something is divided by."""


class ClassifierBank(StatefulBank):
    """`slots` adapters of `rank` or less, each with a head of up to `labels` labels.

    `targets` as in `hybrid.loops.Lab.classifiers`. `tokens`: of a pass, halved whenever memory is lacking; without
    memory for one text, CannotRun is raised. It must be used from one thread; other banks may use the same model.
    """

    def __init__(
        self,
        model: ClassifierModel,
        slots: int,
        rank: int,
        targets: Sequence[str] | None,
        labels: int,
        *,
        tokens: int = 0,
    ) -> None:
        self.model, self.labels = model, labels
        self._slotted = _slotted(model, targets)
        self.layers: Mapping[str, tuple[int, int]] = self._slotted.layers
        self._heads = SlotHeads(model.layers, labels, 0)
        super().__init__(self.layers, slots, rank, model.base, training=True, more=self._heads.size)
        self._heads = SlotHeads(model.layers, labels, self.size - self._heads.size)
        self.optimizer = SlotAdamW(self, scaled=model.dtype == torch.float16)
        self._counts = torch.zeros(slots, dtype=torch.long, device=model.device)  # labels of each slot's head
        self._shapes: dict[int, LoraWeights] = {}  # slot -> what was put there, for the shapes of the result
        self._pending: list[list[LabelledText]] = [[] for _ in range(slots)]  # texts of the step that is open
        self.tokens = tokens or pass_tokens(model)

    def new_adapter(self, rank: int, alpha: float, seed: int, *, ranks: Mapping[str, int] | None = None) -> LoraWeights:
        """A new adapter; `ranks`: of single layers, at most `rank`.

        The A of a smaller rank is the first rows of that of a larger one with the same seed.
        """
        whole = initial_weights(self.layers, [name.rpartition(".")[2] for name in self.layers], rank, alpha, seed)
        own = {name: (ranks or {}).get(name, rank) for name in whole.layers}
        layers = {name: (a[: own[name]], b[:, : own[name]]) for name, (a, b) in whole.layers.items()}
        return LoraWeights({name: layers[name] for name in layers if own[name]}, rank, alpha)

    def adapter(self, layers: Mapping[str, tuple[Any, Any]], rank: int, alpha: float) -> LoraWeights:
        """An adapter of arrays or tensors: layer -> (A [rank or less, in], B [out, the same])."""
        made = {
            name: tuple(torch.as_tensor(part).to("cpu", torch.float32) for part in pair)
            for name, pair in layers.items()
        }
        return LoraWeights({name: (a, b) for name, (a, b) in made.items()}, rank, alpha)

    def new_head(self, labels: int, seed: int) -> dict[str, torch.Tensor]:
        """A new head, by the names of transformers."""
        return initial_head(self.model.layers, labels, self.model.deviation, seed)

    def put(
        self,
        slot: int,
        adapter: LoraWeights,
        head: Mapping[str, Any],
        tuning: Tuning,
        *,
        frozen: int = 0,
        train_a: bool = True,
    ) -> None:
        """Write an adapter and a head into a slot and reset its optimizer.

        The first `frozen` ranks are never changed, and without `train_a` no A is. Raises ValueError for a rank above
        the bank's and a head that does not fit, BadData for an adapter of another model.
        """
        if any(len(a) > self.rank for a, _ in adapter.layers.values()):
            raise ValueError(f"an adapter has more ranks than the {self.rank} of its bank")
        adapters.load(self, slot, adapter)
        labels = len(head[f"{self.model.layers[-1].name}.weight"])
        self._heads.load(self.values, slot, head, labels)
        self._counts[slot] = labels
        self.optimizer.begin(slot, tuning, self._frozen(frozen, train_a=train_a) if frozen or not train_a else None)
        self._shapes[slot] = adapter
        self._pending[slot] = []

    def backward(self, texts: Sequence[LabelledText]) -> torch.Tensor:
        """Accumulate the gradients of the texts' losses in their slots, in passes of at most `tokens` tokens.

        Returns the slots' losses [slots], on the device. Raises ValueError for a slot that holds nothing and a label
        that its head does not have.
        """
        self._refuse(texts)
        slots = {text.slot for text in texts}
        earlier = [text for slot in slots for text in self._pending[slot]]
        losses = self.values.new_zeros(self.slots)
        again: Sequence[LabelledText] = ()
        with self._slotted_layers():
            while not fits(partial(self._accumulate_all, again, texts, losses)):
                self._take_less([text.text for text in texts])
                again = earlier  # the open steps of these slots start again, in smaller passes
                losses.zero_()
                for slot in slots:
                    self.optimizer.forget_gradients(slot)
        for text in texts:
            self._pending[text.slot].append(text)
        return losses

    @torch.no_grad()  # type: ignore[untyped-decorator]
    def penalise_ranks(self, slot: int, first: int, weight: float) -> None:
        """Add the gradient of `weight` times the sum over layers of |A| |B| (Frobenius) of the ranks from `first` on.

        At |B| = 0 that of B is taken as zero.
        """
        if self.grads is None:
            raise ValueError("the bank has no gradients")
        rows, grads = self.values[slot : slot + 1], self.grads[slot : slot + 1]
        for name, (whole, _) in self._shapes[slot].layers.items():
            (a, b), (of_a, of_b), end = self.pair(rows, name), self.pair(grads, name), len(whole)
            a, b = a[:, :, first:end], b[:, first:end]
            sizes, share = (a.norm(), b.norm()), weight * self.optimizer.scale[slot]
            of_a[:, :, first:end] += a * (share * sizes[1] / sizes[0].clamp(min=TINY))
            of_b[:, first:end] += b * (share * sizes[0] / sizes[1].clamp(min=TINY))

    def step(self, slots: Sequence[int], learning_rate: float) -> torch.Tensor:
        """One optimizer step of the slots with their gradients, which are then zero; the tunings' `clip` is per slot.

        Returns [len(slots)]: 1 where the step was skipped, because a gradient was not finite, else 0.
        """
        for slot in slots:
            self._pending[slot] = []
        return self.optimizer.step_together(slots, learning_rate)

    def forget_gradients(self, slot: int) -> None:
        """Zero what was accumulated of the slot's step."""
        self._pending[slot] = []
        self.optimizer.forget_gradients(slot)

    def gradients_of_b(self, slot: int) -> dict[str, torch.Tensor]:
        """The accumulated gradients of the layers' B [out, rank], on the CPU."""
        if self.grads is None:
            raise ValueError("the bank has no gradients")
        rows = self.grads[slot : slot + 1] / self.optimizer.scale[slot]
        layers = self._shapes[slot].layers
        return {name: self.pair(rows, name)[1][0, : len(a)].t().to("cpu", copy=True) for name, (a, _) in layers.items()}

    def weights(self, slot: int) -> LoraWeights:
        """The present adapter of a slot, on the CPU."""
        return adapters.extract(self, slot, self._shapes[slot])

    def head(self, slot: int) -> dict[str, torch.Tensor]:
        """The present head of a slot, on the CPU."""
        return self._heads.extract(self.values, slot, int(self._counts[slot]))

    @torch.no_grad()  # type: ignore[untyped-decorator]
    def logits(self, texts: Sequence[tuple[int, EncodedText]]) -> torch.Tensor:
        """The logits [texts, labels] of texts by the classifiers of their slots, on the CPU, in the given order.

        They are -inf for labels that a slot's head does not have.
        """
        found = torch.zeros(len(texts), self.labels)
        with self._slotted_layers():
            while not fits(partial(self._fill, texts, found)):
                self._take_less([text for _, text in texts])
        return found

    def cut(self, after: int, kind: str) -> AbstractContextManager[crossing.Crossing]:
        """Within it, what the first `after` blocks give to the others is sent as `kind`; see `training.crossing`."""
        return crossing.cut(self.model.base, after, kind)

    @property
    def sizes(self) -> tuple[int, int, int]:
        """Of the base model: its numbers, its blocks, and the width of what they give to each other."""
        base = self.model.base
        return sum(one.numel() for one in base.parameters()), len(crossing.blocks_of(base)), self.model.width

    def close(self) -> None:
        """Free the memory of the slots."""
        self.values = self.values.new_zeros(0, self.size)
        self.grads = None
        del self.optimizer

    def _refuse(self, texts: Sequence[LabelledText]) -> None:
        counts = self._counts.tolist()
        for text in texts:
            if text.slot not in self._shapes:
                raise ValueError(f"slot {text.slot} holds nothing to train")
            if not 0 <= text.label < counts[text.slot]:
                raise ValueError(f"the label {text.label} is none of the {counts[text.slot]} of slot {text.slot}")

    def _take_less(self, texts: Sequence[EncodedText]) -> None:
        self.tokens = fewer_tokens(self.tokens, texts)

    def _accumulate_all(
        self, again: Sequence[LabelledText], texts: Sequence[LabelledText], losses: torch.Tensor
    ) -> None:
        self._accumulate(again, torch.zeros_like(losses))
        self._accumulate(texts, losses)

    def _accumulate(self, texts: Sequence[LabelledText], losses: torch.Tensor) -> None:
        for part in passes(sorted(texts, key=lambda text: text.slot), self.tokens, lambda text: text.text):
            slots = torch.tensor([text.slot for text in part], device=losses.device)
            labels = torch.tensor([text.label for text in part], device=losses.device)
            weights = torch.tensor([text.weight for text in part], device=losses.device, dtype=losses.dtype)
            logits = self._logits_of([text.slot for text in part], [text.text for text in part], slots, self.grads)
            each = F.cross_entropy(logits, labels, reduction="none") * weights
            (each * self.optimizer.scale[slots]).sum().backward()
            losses.index_add_(0, slots, each.detach())

    def _fill(self, texts: Sequence[tuple[int, EncodedText]], found: torch.Tensor) -> None:
        order = sorted(range(len(texts)), key=lambda index: (texts[index][0], len(texts[index][1].ids)))
        for part in passes(order, self.tokens, lambda index: texts[index][1]):
            slots = [texts[index][0] for index in part]
            which = torch.tensor(slots, device=self.values.device)
            found[torch.tensor(part)] = self._logits_of(slots, [texts[i][1] for i in part], which, None).float().cpu()

    def _logits_of(
        self, slots: Sequence[int], texts: Sequence[EncodedText], which: torch.Tensor, grads: torch.Tensor | None
    ) -> torch.Tensor:
        """The logits [texts, labels] of texts that are sorted by slot."""
        first, end = min(slots), max(slots) + 1
        rows, tokens = [0] * (end - first), [0] * (end - first)
        for slot, text in zip(slots, texts, strict=True):
            rows[slot - first] += 1
            tokens[slot - first] += len(text.ids)
        route = Route(self.window(first, end), tokens, self.model.dtype)
        with self._slotted.routed(route):
            features = self.model.features(
                self.model.pack(texts), narrowed=lambda: self._slotted.routed(route.narrowed(rows))
            )
        own = None if grads is None else grads[first:end]
        logits = self._heads.logits(features.to(self.values.dtype), rows, self.values[first:end], own)
        missing = torch.arange(self.labels, device=logits.device) >= self._counts[which][:, None]
        return logits.masked_fill(missing, -torch.inf)

    @contextmanager
    def _slotted_layers(self) -> Iterator[None]:
        self._slotted.open()
        try:
            yield
        finally:
            self._slotted.close()

    def _frozen(self, ranks: int, *, train_a: bool) -> torch.Tensor:
        """A mask [N] of a slot's parameters that are never changed."""
        marks = torch.zeros(1, self.size, dtype=torch.bool)
        for name in self.places:
            a, b = self.pair(marks, name)
            a[:, :, : ranks if train_a else None] = True
            b[:, :ranks] = True
        return marks[0]


def _slotted(model: ClassifierModel, targets: Sequence[str] | None) -> SlottedModel:
    """The model's layers with slots, which are not in place yet."""
    found = SlottedModel(model.base, targets, inside=repeatable_layers(model.base), probe=model.probe)
    found.close()
    return found


def pass_tokens(model: ClassifierModel) -> int:
    """The tokens of a pass, unless memory is lacking."""
    if model.device.type != "cpu":
        return PASS_TOKENS
    least, most = CPU_TOKENS
    return min(most, max(least, CPU_NUMBERS // model.width))


def passes(texts: Sequence[Any], tokens: int, text_of: Callable[[Any], EncodedText]) -> Iterator[list[Any]]:
    """The texts in consecutive parts of at most `tokens` tokens, or one text."""
    part: list[Any] = []
    size = 0
    for text in texts:
        more = len(text_of(text).ids)
        if part and size + more > tokens:
            yield part
            part, size = [], 0
        part.append(text)
        size += more
    if part:
        yield part


def fewer_tokens(tokens: int, texts: Sequence[EncodedText]) -> int:
    """Half of the tokens of a pass over `texts` that ran out of memory. Raises CannotRun when it was one text."""
    if tokens <= min((len(text.ids) for text in texts), default=1):
        raise CannotRun(
            "the device has not enough memory for a pass over one text",
            hint="take a smaller rank, shorter texts, a smaller model or a larger device",
        )
    LOG.warning("a pass ran out of memory; from now on passes have %d tokens", tokens // 2)
    return tokens // 2
