"""Cosine similarity of the embeddings of answer and reference; docs/graders.md."""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import closing, contextmanager
from dataclasses import dataclass, field, fields
from operator import mul
from typing import Any, ClassVar, Literal, Self

from hybrid.backends.options import pairs
from hybrid.backends.registry import open_embedder
from hybrid.bounds import Bounds, help_of, refuse_outside
from hybrid.canonical import Json
from hybrid.errors import CannotRun, UsageError
from hybrid.grading import calibration, embedding_cache
from hybrid.grading.embedding_cache import EmbeddingCache
from hybrid.grading.references import acceptable, why_not_acceptable
from hybrid.protocols import Vector, Watcher
from hybrid.records import Failure, Grade, Output

NAME = "similarity"
MODELS = {"hashed": "ngrams", "ollama": "all-minilm", "sentence-transformers": "minilm"}


@dataclass(frozen=True)
class Similarity:
    """1 when the cosine of the answer's embedding with that of a reference reaches the threshold, else 0."""

    embedder: Literal["ollama", "openai", "sentence-transformers", "hashed"] = field(
        default="ollama", metadata=help_of("runs the model")
    )
    model: str = field(default="", metadata=help_of("the embedding model; empty: all-MiniLM-L6-v2, or ngrams"))
    options: tuple[str, ...] = field(default=(), metadata=help_of("name=value options of what runs the model"))
    threshold: float | None = field(
        default=None,
        metadata=help_of("right from this cosine on, 0 to 1; none: the one that `hybrid judge check` found"),
    )

    version: ClassVar[int] = 1
    calibrates: ClassVar[str] = "similarity"

    def __post_init__(self) -> None:
        refuse_outside(self, threshold=Bounds(0, 1))

    @contextmanager
    def ready(self, outputs: Iterable[Output], watcher: Watcher) -> Iterator[ReadySimilarity]:
        """Embed each distinct answer and reference that is not cached. Raises CannotRun without a threshold."""
        name = self._model_name()
        with closing(open_embedder(self.embedder, name, dict(pairs("options", self.options)))) as embedder:
            digest = embedder.model.digest
            about: dict[str, Json] = {
                "models": [{"name": name, "digest": digest}],
                "engine": dict(embedder.model.about),
            }
            limit = self.limit(about)
            with embedding_cache.opened(f"{self.embedder} {digest}") as known:
                for output in outputs:
                    for text in _to_embed(output):
                        known.want(text)
                known.fill(embedder, watcher, f"{NAME} {name}")
                yield ReadySimilarity(known, limit, {**about, "version": self.version})

    def limit(self, about: Mapping[str, Json]) -> Mapping[str, Any] | None:
        """The threshold and its origin, {"value", "from"}, with kappa and rows when it comes from a check."""
        if self.threshold is not None:
            return {"value": self.threshold, "from": "set"}
        check = calibration.known(calibration.identity(NAME, self, about)) or {}
        value = _number(check.get("threshold"))
        if value is None or not 0 <= value <= 1:
            raise CannotRun("no threshold is known for this model", hint=self._how())
        kept = {name: check[name] for name in ("kappa", "rows", "graded") if name in check}
        return {"value": value, "from": "check", **kept}

    def _model_name(self) -> str:
        """The embedding model. Raises UsageError where none is usual."""
        if not self.model and self.embedder not in MODELS:
            raise UsageError(f"similarity: no model is named for '{self.embedder}'", hint="--set model=NAME")
        return self.model or MODELS[self.embedder]

    def uncalibrated(self) -> Uncalibrated:
        """The same grader without a threshold, for a check that finds one: its score is the cosine."""
        return Uncalibrated(**{setting.name: getattr(self, setting.name) for setting in fields(self)})

    def _how(self) -> str:
        own = {"embedder": self.embedder, "model": self.model}
        default = type(self)()
        given = "".join(f" --set {name}={value}" for name, value in own.items() if value != getattr(default, name))
        return f"hybrid judge check --grader {NAME}{given} finds one; or give it: --set threshold=0.8"


@dataclass(frozen=True)
class Uncalibrated(Similarity):
    """The grader whose score is the cosine itself."""

    def limit(self, about: Mapping[str, Json]) -> None:
        """No threshold."""

    def uncalibrated(self) -> Self:
        """Itself."""
        return self


class ReadySimilarity:
    """Grades from cached vectors."""

    def __init__(self, known: EmbeddingCache, limit: Mapping[str, Any] | None, about: Mapping[str, Json]) -> None:
        self._known, self._limit, self._about = known, limit, about

    def grade(self, output: Output) -> Grade:
        """Ungraded without a reference, and when the answer or a reference has no vector; an empty answer is wrong."""
        answer, wanted = _clean(output.text), _references(output)
        if not wanted:
            return Grade(None, why_not_acceptable(output.reference))
        if not answer or answer in wanted:
            return self._scored(float(answer in wanted))
        found = [self._known.of(text) for text in (answer, *wanted)]
        for text, vector in zip(("answer", *["reference"] * len(wanted)), found, strict=True):
            if isinstance(vector, Failure):
                return Grade(None, f"the {text} has no vector: {vector.kind}", detail={"why": vector.message})
        return self._scored(_nearest([vector for vector in found if not isinstance(vector, Failure)]))

    def about(self) -> Mapping[str, Json]:
        """The model, how many texts were embedded, the threshold and its origin."""
        counts = self._known.counts()
        texts = {"texts": counts["distinct"], "of them known from before": counts["known"]}
        if counts["failed"]:
            texts["without a vector"] = counts["failed"]
        return {**self._about, "counts": texts, "threshold": self._limit}

    def _scored(self, value: float) -> Grade:
        score = value if self._limit is None else float(value >= self._limit["value"])
        return Grade(score, figures={"similarity": value})


def _nearest(found: Sequence[Vector]) -> float:
    """The largest cosine of the first vector with one of the others, clipped to 0..1."""
    return min(1.0, max(0.0, *(math.fsum(map(mul, found[0], other)) for other in found[1:])))


def _to_embed(output: Output) -> Sequence[str]:
    """Answer and references; empty when the grade needs no model."""
    answer, wanted = _clean(output.text), _references(output)
    return () if not answer or not wanted or answer in wanted else (answer, *wanted)


def _references(output: Output) -> Sequence[str]:
    return [text for text in map(_clean, acceptable(output.reference)) if text]


def _number(value: Any) -> float | None:
    return float(value) if isinstance(value, int | float) and not isinstance(value, bool) else None


def _clean(text: str | None) -> str:
    return (text or "").strip()
