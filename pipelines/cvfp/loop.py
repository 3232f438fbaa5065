"""The loop of a series: phase 1 and phase 2 of a variant, or counts of tokens."""

from __future__ import annotations

import hashlib
import math
from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import torch

from hybrid.canonical import Json
from hybrid.errors import BadData, CannotRun
from hybrid.loops import Lab, Loop, RoundFailed, Series
from hybrid.metrics import RoundMetrics
from hybrid.model_files.token_vectors import token_vectors
from hybrid.round_costs import with_costs
from hybrid.training.label_loss import chunk_rows
from pipelines.cvfp import ngrams, phase1, phase2, token_by_token
from pipelines.cvfp.corpus import Corpus, corpus_of
from pipelines.cvfp.diagnostics import MOST_ROWS, growth, measured
from pipelines.cvfp.execution import burn_in
from pipelines.cvfp.model import Model
from pipelines.cvfp.pipeline import Cvfp
from pipelines.cvfp.settings import COUNTED, GUIDED
from pipelines.cvfp.shape import Shape, guide_memory, phase1_memory, phase2_memory
from pipelines.cvfp.state import pack, taken, unpack
from pipelines.cvfp.writing import written_after

BITS = math.log(2)
BEGINNING, WRITTEN = 8, 60
"""Tokens of a held-out document that a text begins with, and tokens that are written."""


def loop(settings: Cvfp, series: Series, lab: Lab, data: Mapping[str, Any]) -> Loop:
    """The loop of a variant on the documents that the run froze."""
    corpus = corpus_of(settings, data, int(str(series.settings["pieces"])))
    if series.settings["variant"] in COUNTED:
        return Counted(str(series.settings["variant"]), corpus)
    return Training(settings, series, lab, corpus)


def of_score(score: phase2.Score, corpus: Corpus) -> dict[str, float]:
    """The metrics of held-out documents."""
    return {
        "loss": score.loss,
        "perplexity": score.perplexity,
        "top1": score.top1,
        "top5": score.top5,
        "bits_per_byte": score.loss / BITS * score.tokens / max(1, corpus.held_out_bytes),
    }


class Counted:
    """Unigrams or bigrams: one round."""

    def __init__(self, kind: str, corpus: Corpus) -> None:
        self.kind, self.corpus = kind, corpus

    def round(self, number: int) -> RoundMetrics:
        """What held-out documents cost."""
        make = ngrams.Unigram if self.kind == "unigram" else ngrams.Bigram
        found = ngrams.score(make(self.corpus.train, self.corpus.vocabulary), self.corpus.held_out)
        return RoundMetrics(number, {"phase": 2.0, **of_score(found, self.corpus)})

    def state(self) -> bytes:
        """Nothing."""
        return b"counted"

    def load(self, state: bytes) -> None:
        """Raises BadData."""
        if state != b"counted":
            raise BadData("the state of counts is empty")

    def close(self) -> None:
        """There is nothing to free."""


class Training:
    """A variant with a model: its sweeps of phase 1, then its epochs of phase 2. A `hybrid.loops.Loop`."""

    def __init__(self, settings: Cvfp, series: Series, lab: Lab, corpus: Corpus) -> None:
        self.settings, self.corpus, self.lab, self.device = settings, corpus, lab, lab.device
        self.variant, self.seed = series.settings["variant"], int(str(series.settings["seed"]))
        self.sweeps, self.epochs = settings.rounds_of(self.variant)  # type: ignore[arg-type]
        both = settings.reads_both(self.variant)  # type: ignore[arg-type]
        shape = Shape(corpus.vocabulary, settings.width, settings.layers, settings.tied, both)
        embedding = embedding_of(settings.embedding, shape)
        gain = settings.gain_of(self.variant)  # type: ignore[arg-type]
        self.model = Model(shape, embedding, gain, self.seed).to(self.device)
        self.ids = torch.tensor(corpus.train, device=self.device)
        self.held_out = torch.tensor(corpus.held_out, device=self.device)
        self.leaky = torch.tensor(corpus.leaky, device=self.device)
        vectors = (
            embedding if settings.embedding else embedding[:0]
        )  # processors draw random ones unlike in the last bit
        self.inputs = _digest(torch.tensor(corpus.train), torch.tensor(corpus.held_out), vectors)
        walks = settings.execution == "token-by-token" and self.variant in GUIDED
        make = token_by_token.TokenByToken if walks else phase1.PhaseOne
        self.phase1 = make(self.model, self.ids, self._first(), self.seed) if self.sweeps else None
        self.phase2: phase2.PhaseTwo | None = None
        self.best: dict[str, torch.Tensor] = {}  # the weights with the lowest held-out loss
        self.lowest, self.waited = math.inf, 0

    @with_costs
    def round(self, number: int) -> RoundMetrics:
        """A sweep or an epoch. Raises RoundFailed for numbers that are not finite."""
        notes: dict[str, Json] = {"shape": self._shape()} if number == 0 else {}
        if self.phase1 is not None and number < self.sweeps:
            return RoundMetrics(number, self._swept(self.phase1, number, notes), notes=notes)
        self.phase1 = None
        metrics = self._trained(number - self.sweeps)
        if number == self.sweeps + self.epochs - 1:
            notes["text"] = self._text()
        return RoundMetrics(number, metrics, notes=notes)

    def _shape(self) -> dict[str, Json]:
        """The size of the model, and the memory that it is planned to take: the guide's figures, and ours."""
        how, shape, tokens = self.settings, self.model.shape, self.ids.numel()
        frozen = self.second().frozen
        chunk = chunk_rows(shape.vocabulary, self.ids.device)
        return {
            "parameters": shape.parameters, "vocabulary": shape.vocabulary, "tokens": tokens,
            "pieces": len(self.ids), "held_out_pieces": len(self.held_out), "short": self.corpus.short,
            "guide_mib": guide_memory(shape, tokens), "phase1_mib": phase1_memory(shape, tokens, min(how.part, tokens)),
            "phase2_mib": phase2_memory(shape, how.batch, how.window, frozen=frozen, chunk=chunk),
        }  # fmt: skip

    def _text(self) -> str:
        """What the best weights write after the first tokens of a held-out document."""
        now = {name: one.detach().clone() for name, one in self._parts().items()}
        self.take_best()
        beginning, found = self.text_after("")
        self._put(now)
        return f"{beginning} | {found}"

    def text_after(self, prompt: str) -> tuple[str, str]:
        """A prompt, "" for the first tokens of a held-out document, and what the present weights write after it."""
        tokenizer = self.corpus.tokenizer
        asked = tokenizer.encode([prompt])[0] or list(self.corpus.held_out[0][:BEGINNING])
        contexts = self.second().contexts
        found = written_after(self.model, asked, WRITTEN, contexts=contexts, temperature=0.8, seed=self.seed)
        return tokenizer.decode(asked), tokenizer.decode(found)

    def take_best(self) -> None:
        """Put the weights with the lowest held-out loss into the model, if there are any yet."""
        if self.best:
            self._put(self.best)

    def _put(self, weights: Mapping[str, torch.Tensor]) -> None:
        with torch.no_grad():
            for name, one in self._parts().items():
                one.copy_(weights[name])

    def _swept(self, phase: phase1.PhaseOne, number: int, notes: dict[str, Json]) -> dict[str, float]:
        found = phase.sweep(number)
        if not all(map(math.isfinite, (found.change, found.diversity))):
            raise RoundFailed("diverged", f"the losses of sweep {number} are {found.change} and {found.diversity}")
        metrics = {
            "phase": 1.0, "change_loss": found.change, "diversity_loss": found.diversity,
            "stepped": float(found.stepped), "change": found.moved.square, "converged": found.moved.converged,
        }  # fmt: skip
        if number % self.settings.every == 0 or number == self.sweeps - 1:
            metrics |= self._measured(f"after sweep {number}", certify=number == self.sweeps - 1)
        if isinstance(phase, token_by_token.TokenByToken):
            notes["log"] = token_by_token.log_line(number, found, metrics.get("effective_rank"))
        return metrics

    def _measured(self, when: str, *, certify: bool = False) -> dict[str, float]:
        """What the contexts are like. Raises RoundFailed for contexts that are not finite."""
        try:
            found: dict[str, float] = measured(self.model, self.ids, certify=certify)
        except ValueError as error:
            raise RoundFailed("diverged", f"{when}: {error}") from error
        return found

    def _trained(self, number: int) -> dict[str, float]:
        if self.phase2 is None:
            self.phase2 = phase2.PhaseTwo(self.model, self.ids, self.second(), self.seed)
        self.phase2.settings = replace(self.phase2.settings, burn_in=self._burn_in())
        if self.waited >= self.settings.patience:
            return {"phase": 2.0, "stopped": 1.0, "best": self.lowest}
        loss = self.phase2.epoch(number)
        score = phase2.score(self.model, self.held_out, self.phase2.settings)
        if not math.isfinite(loss) or not math.isfinite(score.loss):
            raise RoundFailed("diverged", f"the losses of epoch {number} are {loss} and {score.loss}")
        better = score.loss < self.lowest
        self.waited = 0 if better else self.waited + 1
        if better:
            self.lowest = score.loss
            self.best = {name: one.detach().clone() for name, one in self._parts().items()}
        metrics = {"phase": 2.0, "train_loss": loss, "best": self.lowest, **of_score(score, self.corpus)}
        if number == 0 and str(self.variant).startswith("untrained"):  # what phase 1 is compared with
            metrics |= self._measured("before phase 2")
        leaky = phase2.score(self.model, self.leaky, self.phase2.settings)
        return {**metrics, "leaky_perplexity": leaky.perplexity}

    @torch.no_grad()  # type: ignore[untyped-decorator]
    def _burn_in(self) -> int:
        """Tokens before a piece that its first context is computed from. Raises RoundFailed where none suffice."""
        if self.settings.carry == "document" or self.variant == "token-only":
            return 0
        some = self.ids[: max(1, MOST_ROWS // self.ids.shape[1])]
        try:
            return burn_in(growth(self.model, self.model.embedded(some)))
        except ValueError as error:
            raise RoundFailed(
                "no-fixed-point", f"carry=stream is refused: {error}; carry=document needs none"
            ) from None

    def _parts(self) -> dict[str, torch.Tensor]:
        """The trained weights: all but the embedding."""
        return {name: one for name, one in self.model.named_parameters() if name != "embedding"}

    def _first(self) -> phase1.Settings:
        how = self.settings
        objective: Any = "variance-covariance" if self.variant == "cvfp" else self.variant
        weight = how.diversity if self.variant == "cvfp" else GUIDE_WEIGHT
        noise = GUIDE_NOISE if self.variant.startswith("guide") else how.noise1  # type: ignore[union-attr]
        return phase1.Settings(objective, weight, how.rate1, how.clip, noise, how.part, how.carry == "stream")

    def second(self) -> phase2.Settings:
        """How phase 2 trains and reads."""
        how = self.settings
        return phase2.Settings(
            how.epochs, how.batch, how.window, how.rate2, how.weight_decay, how.clip, how.noise2, how.warm_up,
            how.freeze_context or str(self.variant).startswith("untrained"), self.variant != "token-only",
        )  # fmt: skip

    def state(self) -> bytes:
        """Weights, moments, contexts, and the best weights."""
        tensors = {f"model/{name}": one for name, one in self._parts().items()}
        tensors |= {f"best/{name}": one for name, one in self.best.items()}
        phase = self.phase1 or self.phase2
        if phase is not None:
            tensors |= {f"phase/{name}": one for name, one in phase.state().items()}
        about = {
            "phase": 1 if self.phase1 is not None else 2, "lowest": self.lowest if self.best else None,
            "waited": self.waited, "started": self.phase2 is not None, "inputs": self.inputs,
        }  # fmt: skip
        return pack(tensors, about)

    def load(self, state: bytes) -> None:
        """Raises BadData."""
        tensors, about = unpack(state)
        if about.get("inputs") != self.inputs:
            raise BadData("the state of a training on other texts, or with other token vectors")
        with torch.no_grad():
            for name, one in self._parts().items():
                one.copy_(taken(tensors, f"model/{name}", one))
        if about.get("lowest") is not None:
            self.best = {name: taken(tensors, f"best/{name}", one) for name, one in self._parts().items()}
            self.lowest, self.waited = _best(about)
        if about.get("phase") == 2:
            self.phase1 = None
            if about.get("started"):
                self.phase2 = phase2.PhaseTwo(self.model, self.ids, self.second(), self.seed)
        phase = self.phase1 or self.phase2
        if phase is not None:
            phase.load({name[6:]: one for name, one in tensors.items() if name.startswith("phase/")})

    def close(self) -> None:
        """Free the memory."""
        self.phase1 = self.phase2 = None
        del self.model


GUIDE_WEIGHT, GUIDE_NOISE = 0.5, 0.01
"""Of the guide: weight of the diversity, and standard deviation of the noise on contexts."""


def _best(about: Mapping[str, Any]) -> tuple[float, int]:
    """The lowest loss of a state, and the epochs since then. Raises BadData."""
    try:
        return float(about["lowest"]), int(about["waited"])
    except (KeyError, TypeError, ValueError, OverflowError) as error:
        raise BadData(f"not the state of a training: 'lowest' or 'waited' is no number: {error!s:.100}") from error


def _digest(*tensors: torch.Tensor) -> str:
    """The sha256 of what a training is made of, on the CPU."""
    found = hashlib.sha256()
    for one in tensors:
        found.update(str(list(one.shape)).encode())
        found.update(one.contiguous().numpy())
    return found.hexdigest()


def embedding_of(folder: str, shape: Shape) -> torch.Tensor:
    """Token vectors [vocabulary, width]: those of a model's folder, or random ones, always the same.

    Raises CannotRun for vectors that do not fit.
    """
    if folder:
        vectors = token_vectors(folder)
        if vectors.shape[1] != shape.width:
            raise CannotRun(
                f"the token vectors of {folder} have {vectors.shape[1]:,} numbers, and width={shape.width}",
                hint=f"--set width={vectors.shape[1]}",
            )
        if len(vectors) < shape.vocabulary:
            raise CannotRun(
                f"{folder} has vectors of {len(vectors):,} tokens, and the tokenizer has {shape.vocabulary:,} tokens",
                hint="embedding and tokenizer are to be of one model",
            )
        return vectors[: shape.vocabulary]
    return torch.randn(shape.vocabulary, shape.width, generator=torch.Generator().manual_seed(0))
