"""LLM as a judge: rules first, then a model's verdicts on whether answer and reference agree; docs/judge.md."""

from __future__ import annotations

import logging
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import partial
from typing import Any, ClassVar, Literal

from hybrid.backends.options import pairs
from hybrid.backends.registry import digest_before_loading, lazy_backend, open_backend, refuse_unknown
from hybrid.bounds import NOT_NEGATIVE, Bounds, help_of, refuse_outside
from hybrid.canonical import Json
from hybrid.errors import UsageError, nearest
from hybrid.grading import reply_cache
from hybrid.grading.answers import RULES, normal
from hybrid.grading.judging import asking, verdict
from hybrid.grading.judging.asking import MAX_TOKENS, USUAL_RULES, VERSION, Asking
from hybrid.grading.judging.verdict import Verdict, Vote
from hybrid.grading.references import acceptable
from hybrid.grading.reply_cache import ReplyCache
from hybrid.protocols import Watcher
from hybrid.records import Failure, Grade, Output, Request
from hybrid.statistics.agreement import KrippendorffAlpha

LOG = logging.getLogger("hybrid")
SPLIT_VOTES = "the votes are split"


@dataclass(frozen=True)
class Judge:
    """1 when a rule or the majority of a model's verdicts calls the answer right, 0 when wrong, else no score."""

    models: tuple[str, ...] = field(default=(), metadata=help_of("who judges; several judges vote"))
    backend: str = field(default="ollama", metadata=help_of("the backend that runs the models"))
    options: tuple[str, ...] = field(default=(), metadata=help_of("name=value options of the backend"))
    rules: tuple[str, ...] = field(
        default=USUAL_RULES, metadata=help_of(f"call right without a model: {', '.join(RULES)}; empty: none")
    )
    samples: int = field(default=1, metadata=help_of("verdicts of each judge; more than 1 needs a temperature"))
    swap: bool = field(default=False, metadata=help_of("ask twice: reference first, and answer first"))
    explain: bool = field(default=True, metadata=help_of("a reason before the verdict: slower"))
    temperature: float = field(default=0.0, metadata=help_of("0 is greedy"))
    seed: int = field(default=0, metadata=help_of("draws the samples"))
    max_tokens: int = field(default=MAX_TOKENS, metadata=help_of("bound of a verdict with its reason"))
    schema: bool = field(default=True, metadata=help_of("hold the model to JSON; false where the backend cannot"))
    retries: int = field(default=1, metadata=help_of("further tries when a verdict cannot be read"))
    asked: Literal["view", "id"] = field(
        default="view", metadata=help_of("the question's text: view.question, or its id")
    )
    instruction: str = field(default="", metadata=help_of("opens the prompt instead of ours"))

    version: ClassVar[int] = VERSION

    def __post_init__(self) -> None:
        if unknown := [rule for rule in self.rules if rule not in RULES]:
            raise UsageError(f"judge: there is no rule '{unknown[0]}'", hint=nearest(unknown[0], RULES))
        refuse_outside(self, samples=Bounds(1, 100), retries=Bounds(0, 10), max_tokens=Bounds(1, 100_000))
        refuse_outside(self, temperature=NOT_NEGATIVE, seed=Bounds(0, 2**31 - 1))
        if self.samples > 1 and self.temperature == 0:
            raise ValueError("samples are all the same at temperature 0; set a temperature")
        if len(set(self.models)) < len(self.models):
            raise ValueError("a judge is named twice: its second vote would equal its first")

    @contextmanager
    def ready(self, outputs: Iterable[Output], watcher: Watcher) -> Iterator[ReadyJudges]:
        """Ask the models for every verdict that no rule settles and that is not cached."""
        if not self.models:
            raise UsageError("judge: no model is named", hint="--model NAME, such as one of `ollama list`")
        options = dict(pairs("options", self.options))
        refuse_unknown(self.backend, options)
        digests = [digest_before_loading(self.backend, model, options) for model in self.models]
        if len(set(digests)) < len(digests):
            raise UsageError(
                f"judge: two of the models are the same: {', '.join(self.models)}",
                hint="the same model under two names gives the same vote twice; name different models, or set samples",
            )
        with reply_cache.opened() as kept:
            for model, digest in zip(self.models, digests, strict=True):
                with lazy_backend(partial(open_backend, self.backend, model, options)) as backend:
                    for attempt in range(self.retries + 1):
                        asked = partial(self._requests, outputs, kept, digest, attempt)
                        counts = kept.ask(digest, asked, backend, watcher, f"judge {model}")
                        if not counts.distinct:
                            break
                        LOG.info("%s: %d distinct calls, %d cached", model, counts.distinct, counts.known)
            yield ReadyJudges(self, digests, kept)

    def control(self, reference: Json) -> str | None:
        """The constant answer that would be right here, in normal form."""
        wanted = acceptable(reference)
        return normal(wanted[0]) if wanted else None

    def settled(self, output: Output) -> Grade | None:
        """The grade by a rule; None when a model has to be asked."""
        return asking.settled(output.text or "", output.reference, self.question_of(output), self.rules)

    def question_of(self, output: Output) -> str:
        """The text of the question; empty when the output does not hold it."""
        return output.question if self.asked == "id" else asking.question_of(output)

    @property
    def places(self) -> list[tuple[bool, int]]:
        """The votes of each judge: whether the order is swapped, and which sample."""
        return [
            (swapped, sample)
            for swapped in ((False, True) if self.swap else (False,))
            for sample in range(self.samples)
        ]

    @property
    def asking(self) -> Asking:
        """How the judges are asked."""
        return Asking(self.explain, self.temperature, self.seed, self.max_tokens, self.schema, self.instruction)

    def request(self, output: Output, place: tuple[bool, int], attempt: int) -> Request:
        """The request for one vote; each attempt has another seed."""
        swapped, sample = place
        asked, wanted = self.question_of(output), acceptable(output.reference)
        return self.asking.request(asked, wanted, output.text or "", swapped=swapped, sample=sample, attempt=attempt)

    def vote(self, output: Output, place: tuple[bool, int], kept: ReplyCache, digest: str, attempts: int) -> Vote:
        """The first readable verdict of `attempts` attempts; else why the last one is unreadable."""
        problem = "not judged"
        for attempt in range(attempts):
            reply = kept.of(digest, self.request(output, place, attempt))
            if reply is None:
                break
            if isinstance(reply, Failure):
                return f"the judge failed: {reply.kind}"
            read = verdict.read(reply.text, reply.finish)
            if isinstance(read, Verdict):
                return read
            problem = read
        return problem

    def _requests(self, outputs: Iterable[Output], kept: ReplyCache, digest: str, attempt: int) -> Iterator[Request]:
        """The requests of this attempt: first all that no rule settles, later those without a readable verdict."""
        for output in outputs:
            if output.text is None or self.settled(output):
                continue
            for place in self.places:
                before = self.vote(output, place, kept, digest, attempt) if attempt else verdict.UNREADABLE
                if before in (verdict.UNREADABLE, verdict.CUT, verdict.CONTRADICTORY):
                    yield self.request(output, place, attempt)


class ReadyJudges:
    """Grades from the cached verdicts of all judges."""

    def __init__(self, judge: Judge, digests: list[str], kept: ReplyCache) -> None:
        self._judge, self._digests, self._kept = judge, digests, kept
        self._alpha, self._swaps = KrippendorffAlpha(), [0, 0]
        self._counts = {"by rule": 0, "by verdict": 0, "repaired": 0, "unreadable": 0}

    def grade(self, output: Output) -> Grade:
        """The majority of the votes; no score without a majority of all requested votes."""
        settled = self._judge.settled(output)
        if settled:
            self._counts["by rule"] += 1
            return settled
        judge, tries = self._judge, self._judge.retries + 1
        votes = [judge.vote(output, place, self._kept, one, tries) for one in self._digests for place in judge.places]
        return self._counted(votes)

    def _counted(self, votes: list[Vote]) -> Grade:
        read = [vote for vote in votes if isinstance(vote, Verdict)]
        problems = [vote for vote in votes if isinstance(vote, str)]
        self._counts["by verdict"] += 1
        self._counts["repaired"] += sum(vote.repaired for vote in read)
        self._counts["unreadable"] += len(problems)
        self._alpha.add([vote.correct for vote in read])
        self._count_swaps(votes)
        right = sum(vote.correct for vote in read)
        detail = {"by": "verdict", "verdicts": [verdict.told(vote) for vote in votes]}
        if 2 * max(right, len(read) - right) <= len(votes):
            return Grade(None, problems[0] if problems else SPLIT_VOTES, detail=detail)
        return Grade(float(2 * right > len(votes)), detail=detail)

    def _count_swaps(self, votes: list[Vote]) -> None:
        """Count the verdicts that changed with the order of reference and answer."""
        if not self._judge.swap:
            return
        half = self._judge.samples
        for start in range(0, len(votes), 2 * half):
            for one, other in zip(votes[start : start + half], votes[start + half : start + 2 * half], strict=True):
                if isinstance(one, Verdict) and isinstance(other, Verdict):
                    self._swaps[0] += 1
                    self._swaps[1] += one.correct != other.correct

    def about(self) -> Mapping[str, Json]:
        """Models and their digests, the numbers of grades by rule and by verdict, and the agreement of votes."""
        models = [{"name": name, "digest": one} for name, one in zip(self._judge.models, self._digests, strict=True)]
        asked: dict[str, Any] = {"version": self._judge.version, "prompt": asking.prompt_digest(self._judge.asking)}
        about: dict[str, Any] = {"models": models, **asked, "counts": dict(self._counts)}
        if self._alpha.rows:
            about["agreement"] = {"alpha": self._alpha.value, "rows": self._alpha.rows}
        if self._judge.swap:
            about["swaps"] = {"pairs": self._swaps[0], "changed": self._swaps[1]}
        return about
