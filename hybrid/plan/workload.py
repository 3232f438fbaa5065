"""What each stage of a pipeline will ask for: items, tokens in, the bound of tokens out, trainings, rounds.

The items of stages that depend on nothing are made by the pipeline itself, as in a run; those of others are bounded by
what the pipeline foresees (`hybrid.protocols.Planned`), if it does.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from hybrid.backends.ollama.context_window import estimated
from hybrid.items import Request
from hybrid.loads import Foreseen, RoundsLoad
from hybrid.plan.counting import Counting, PromptTokens, TokenCounter
from hybrid.plan.training_texts import TrainingTexts, training_texts
from hybrid.plugins.faults import attributed_to
from hybrid.protocols import Pipeline, Planned, Stage
from hybrid.tuning import Tuning
from hybrid.work import Derive, Rounds, Search, Tune

Counters = Callable[[str], TokenCounter]
"""Role -> the counter of its model's tokens."""


@dataclass(frozen=True, slots=True)
class RoleLoad:
    """What a stage asks the model of a role: `new` bounds the tokens of all answers together.

    `sampled`: some are drawn at a temperature. `widest`: the request for which Ollama would need the largest context.
    """

    role: str
    count: int
    prompts: PromptTokens
    new: int
    sampled: bool
    widest: Request | None = field(repr=False, default=None)

    @property
    def mean(self) -> float:
        """Tokens of a prompt and its completion, at most."""
        return (self.prompts.total + self.new) / max(1, self.count)


@dataclass(frozen=True, slots=True)
class StageLoad:
    """The load of a stage. `bound`: the counts are what it may come to, not what is known. `unknown`: why there are no
    counts, "" where there are. `trainings`: each with how many adapters are trained so, and the `texts` of all.
    """

    stage: Stage
    items: int
    roles: tuple[RoleLoad, ...] = ()
    trainings: tuple[tuple[Tuning, int], ...] = ()
    texts: TrainingTexts | None = None
    rounds: RoundsLoad | None = None
    bound: bool = False
    unknown: str = ""

    @property
    def name(self) -> str:
        return self.stage.name

    def tokens(self) -> tuple[int, int]:
        """Tokens in, and the bound of tokens out."""
        return sum(one.prompts.total for one in self.roles), sum(one.new for one in self.roles)


def loads_of(
    pipeline: Pipeline, stages: Sequence[Stage], tasks: Mapping[str, Any], counters: Counters, *, exact: bool = False
) -> list[StageLoad]:
    """The load of every stage. What a pipeline raises that nobody foresaw is its fault: raises HybridError."""
    found = []
    for stage in stages:
        with attributed_to(pipeline, f"foreseeing the stage '{stage.name}'"):
            found.append(_load(pipeline, stage, tasks, counters, exact=exact))
    return found


def _load(pipeline: Pipeline, stage: Stage, tasks: Mapping[str, Any], counters: Counters, *, exact: bool) -> StageLoad:
    if isinstance(stage.work, Derive):
        return StageLoad(stage, 0)
    if not (stage.after or isinstance(stage.work, Search | Rounds)):
        return _of_items(stage, map(Foreseen, stage.items(tasks)), counters, tasks, bound=False, exact=exact)
    foreseen = pipeline.foresee(stage.name, tasks) if isinstance(pipeline, Planned) else None
    if foreseen is None:
        rounds = 0 if stage.after else sum(1 for _ in stage.items(tasks)) if isinstance(stage.work, Rounds) else 0
        return StageLoad(stage, rounds, unknown="its items depend on answers, and the pipeline does not foresee them")
    if isinstance(foreseen, RoundsLoad):
        asked = _of_items(stage, foreseen.asked, counters, tasks, bound=True, exact=exact)
        return StageLoad(stage, foreseen.rounds, asked.roles, rounds=foreseen, bound=not isinstance(stage.work, Rounds))
    return _of_items(stage, foreseen, counters, tasks, bound=True, exact=exact)


def _of_items(
    stage: Stage,
    items: Iterable[Foreseen],
    counters: Counters,
    tasks: Mapping[str, Any],
    *,
    bound: bool,
    exact: bool,
) -> StageLoad:
    """The load of items: what each role is asked, and each training once."""
    asked: dict[str, _Asked] = {}
    trainings: dict[str, tuple[Tuning, int]] = {}
    count = 0
    for item, times in items:
        count += times
        request, role = item.request, item.role or stage.role
        if request.tuning is not None:
            tuning, before = trainings.get(request.tuning.digest, (request.tuning, 0))
            trainings[request.tuning.digest] = tuning, max(before, times)
        if request.messages or request.prompt:
            if role not in asked:
                asked[role] = _Asked(Counting(counters(role), all_of_them=exact))
            asked[role].add(request, times)
    roles = tuple(one.load(role) for role, one in asked.items())
    trained, texts = tuple(trainings.values()), None
    if trained and isinstance(stage.work, Tune):
        texts = training_texts(stage.work, tasks, trained, counters(stage.role))
    return StageLoad(stage, count, roles, trained, texts, bound=bound)


@dataclass(slots=True)
class _Asked:
    """What is known of the requests to a role so far: sums, and none of the requests but the widest."""

    prompts: Counting
    count: int = 0
    new: int = 0
    embeds: bool = True
    sampled: bool = False
    widest: Request | None = None
    width: int = 0

    def add(self, request: Request, times: int) -> None:
        self.prompts.add(request, times)
        self.count += times
        self.new += request.sampling.max_tokens * times
        self.embeds = self.embeds and request.embed
        self.sampled = self.sampled or request.sampling.temperature > 0
        width = estimated(request)
        if width > self.width:
            self.widest, self.width = request, width

    def load(self, role: str) -> RoleLoad:
        new = 0 if self.embeds else self.new
        return RoleLoad(role, self.count, self.prompts.found(), new, self.sampled, self.widest)
