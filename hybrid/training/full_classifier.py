"""A classifier all of whose parameters are trained, one model at a time: full fine-tuning."""

from __future__ import annotations

import copy
from collections.abc import Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from functools import partial
from typing import Any

import torch
import torch.nn.functional as F  # noqa: N812

from hybrid.loops import EncodedText, LabelledText
from hybrid.training.classifier_bank import fewer_tokens, pass_tokens, passes
from hybrid.training.classifier_model import ClassifierModel
from hybrid.training.heads import initial_head
from hybrid.training.out_of_memory import fits
from hybrid.tuning import Tuning


class FullClassifier:
    """A copy of a model in float32, with a new head; passes compute in the model's own type.

    It must be used from one thread.
    """

    def __init__(self, model: ClassifierModel, labels: int, seed: int, *, tokens: int = 0) -> None:
        self._dtype = model.dtype
        self._model = ClassifierModel(copy.deepcopy(model.base).float().requires_grad_(requires_grad=True))
        self.begin_head(labels, seed)
        self.tokens = tokens or pass_tokens(model)

    def begin_head(self, labels: int, seed: int) -> None:
        """Put a new head of so many labels in place of the one that is there."""
        head = initial_head(self._model.layers, labels, self._model.deviation, seed)
        self._head = {name: value.to(self._model.device).requires_grad_() for name, value in head.items()}
        self.labels = labels

    @property
    def head_names(self) -> tuple[str, ...]:
        """The names of the head's parameters in `weights`."""
        return tuple(self._head)

    def weights(self) -> dict[str, torch.Tensor]:
        """Copies on the CPU of all parameters, by name."""
        return {name: value.detach().to("cpu", copy=True) for name, value in self._parameters().items()}

    @torch.no_grad()  # type: ignore[untyped-decorator]
    def load(self, weights: Mapping[str, Any]) -> None:
        """Write all parameters. Raises ValueError for other names or shapes."""
        own = self._parameters()
        given = {name: torch.as_tensor(value) for name, value in weights.items()}
        if given.keys() != own.keys():
            raise ValueError(f"other parameters than the model's: {sorted(given.keys() ^ own.keys())[:5]}")
        for name, value in own.items():
            if value.shape != given[name].shape:
                raise ValueError(f"{name} is {tuple(given[name].shape)}, and must be {tuple(value.shape)}")
            value.copy_(given[name])

    def train(self, batches: Sequence[Sequence[LabelledText]], learning_rate: float, tuning: Tuning) -> list[float]:
        """One step a batch, with a new AdamW; of `tuning` its `clip` and `weight_decay` count. Slots are ignored.

        Returns the losses of the batches. A step whose gradient is not finite is skipped.
        """
        parameters = list(self._parameters().values())
        optimizer = torch.optim.AdamW(parameters, learning_rate, weight_decay=tuning.weight_decay, fused=True)
        scaler = torch.amp.GradScaler(self._model.device.type, enabled=self._dtype == torch.float16)
        losses = []
        for batch in batches:
            found: list[float] = []
            while not fits(partial(self._gradients, batch, scaler, found)):
                self._take_less([text.text for text in batch])
            scaler.unscale_(optimizer)
            norm = torch.nn.utils.clip_grad_norm_(parameters, tuning.clip or torch.inf)
            if bool(norm.isfinite()) or scaler.is_enabled():  # the scaler skips by itself
                scaler.step(optimizer)
            scaler.update()
            optimizer.zero_grad()
            losses.append(sum(found))
        return losses

    @torch.no_grad()  # type: ignore[untyped-decorator]
    def logits(self, texts: Sequence[EncodedText]) -> torch.Tensor:
        """The logits [texts, labels], on the CPU, in the given order."""
        found = torch.zeros(len(texts), self.labels)
        while not fits(partial(self._fill, texts, found)):
            self._take_less(texts)
        return found

    def close(self) -> None:
        """Free the memory."""
        del self._model, self._head

    def _gradients(self, batch: Sequence[LabelledText], scaler: torch.amp.GradScaler, found: list[float]) -> None:
        found.clear()
        for value in self._parameters().values():
            value.grad = None
        for part in passes(batch, self.tokens, lambda text: text.text):
            labels = torch.tensor([text.label for text in part], device=self._model.device)
            weights = torch.tensor([text.weight for text in part], device=self._model.device)
            each = F.cross_entropy(self._logits_of([text.text for text in part]), labels, reduction="none") * weights
            loss = each.sum()
            scaler.scale(loss).backward()
            found.append(float(loss.detach()))

    def _fill(self, texts: Sequence[EncodedText], found: torch.Tensor) -> None:
        order = sorted(range(len(texts)), key=lambda index: len(texts[index].ids))
        for part in passes(order, self.tokens, lambda index: texts[index]):
            found[torch.tensor(part)] = self._logits_of([texts[index] for index in part]).cpu()

    def _logits_of(self, texts: Sequence[EncodedText]) -> torch.Tensor:
        with self._computing():
            rows = self._model.features(self._model.pack(texts))
        rows = rows.float()
        for layer in self._model.layers:
            rows = layer.activated(
                F.linear(rows, self._head[f"{layer.name}.weight"], self._head.get(f"{layer.name}.bias"))
            )
        return rows

    def _computing(self) -> AbstractContextManager[Any]:
        half = self._dtype in (torch.float16, torch.bfloat16)
        return torch.autocast(self._model.device.type, self._dtype) if half else nullcontext()

    def _take_less(self, texts: Sequence[EncodedText]) -> None:
        self.tokens = fewer_tokens(self.tokens, texts)

    def _parameters(self) -> dict[str, torch.Tensor]:
        return {**dict(self._model.base.named_parameters()), **self._head}
