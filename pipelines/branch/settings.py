"""The settings of the pipeline `branch`."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from math import inf
from typing import Any, Literal

from hybrid.bounds import NOT_NEGATIVE, SEED, SHARE, Bounds, help_of, refuse_outside, refuse_repeats
from hybrid.errors import UsageError
from pipelines.branch import budget, policies, strategies
from pipelines.branch.budget import Allowance
from pipelines.branch.scenario import SHIPPED, Scenario, load

Method = Literal["dpp", "mmr", "cosine", "beam"]
LARGEST = Bounds(1, 1000)
MOST = Bounds(0, 10**12)


@dataclass(frozen=True)
class BranchSettings:
    """What is written, how it is asked for, where the tree grows, and what it may cost."""

    scenario: tuple[str, ...] = field(
        default=("demo",), metadata=help_of(f"{', '.join(SHIPPED)}, or a TOML file of your own; several are one run")
    )
    strategy: tuple[strategies.Name, ...] = field(
        default=("iid",), metadata=help_of("how candidates are asked for; several take turns")
    )
    policy: policies.Name = field(default="beam", metadata=help_of("where the tree grows next"))
    select: Method = field(default="dpp", metadata=help_of("how the candidates that go on are chosen"))
    candidates: int | None = field(default=None, metadata=help_of("accepted texts a parent; none: the scenario's"))
    keep: int | None = field(default=None, metadata=help_of("texts that go on from a level; none: the scenario's"))
    levels: int = field(default=0, metadata=help_of("only the first levels; 0: all"))
    temperature: float | None = field(default=None, metadata=help_of("none: the scenario's"))
    top_p: float | None = field(default=None, metadata=help_of("none: the scenario's"))
    balance: float | None = field(
        default=None,
        metadata=help_of("of quality against difference, 0 to 1, in dpp and mmr; none: the method's usual one"),
    )
    duplicate: float = field(
        default=8.0, metadata=help_of("a near-duplicate is so many sigma above unrelated texts, or more")
    )
    similar: float = field(default=7.0, metadata=help_of("sigma above unrelated at which the selection drops a text"))
    relevant: float | None = field(
        default=None,
        metadata=help_of("sigma above unrelated that a text needs to be on topic; none: 0, with 'hashed' no check"),
    )
    retries: float = field(default=2.0, metadata=help_of("further calls for what is refused, as a multiple"))
    novelty: float = field(
        default=0.1, metadata=help_of("stop under a node when a next text is new with a lower chance (Good-Turing)")
    )
    judge: int = field(default=0, metadata=help_of("comparisons a level by the role 'judge', two calls each; 0: none"))
    budget: budget.Mode = field(default="hard", metadata=help_of("soft: what is in flight at the end still counts"))
    nodes: int = field(default=0, metadata=help_of("candidates of a scenario, refused ones too; 0: no bound"))
    tokens: int = field(default=0, metadata=help_of("tokens that are generated for a scenario; 0: no bound"))
    ms: int = field(default=0, metadata=help_of("milliseconds of the model, summed over its calls; 0: no bound"))
    control: bool = field(default=True, metadata=help_of("as many plain samples beside, of which chance keeps some"))
    seed: int = field(default=0, metadata=help_of("draws the samples"))
    date: str = field(default="26 Jul 2024", metadata=help_of("what the chat template says today is"))

    def __post_init__(self) -> None:
        refuse_outside(
            self, candidates=LARGEST, keep=LARGEST, levels=NOT_NEGATIVE, temperature=NOT_NEGATIVE, top_p=SHARE,
            balance=Bounds(0, 1), retries=Bounds(0, 100), novelty=Bounds(0, 1), judge=Bounds(0, 100_000),
            nodes=MOST, tokens=MOST, ms=MOST, seed=SEED,
        )  # fmt: skip
        refuse_repeats(self, "scenario", "strategy")
        if not self.date:
            raise ValueError("date is empty: prompts would change every day")

    def scenarios(self) -> dict[str, Scenario]:
        """The scenarios by name, with the settings that replace what they say. Raises UsageError, CannotRun."""
        found: dict[str, Scenario] = {}
        for name in self.scenario:
            one = self._set(load(name), name)
            if one.name in found:
                raise UsageError(f"two scenarios are called '{one.name}'", hint="give one of the files another `name`")
            found[one.name] = one
        return found

    def allowance(self) -> Allowance:
        """The budget of one scenario."""
        return Allowance(self.nodes or inf, self.tokens or inf, self.ms or inf, self.budget)

    def _set(self, scenario: Scenario, name: str) -> Scenario:
        named = {key: getattr(self, key) for key in ("candidates", "keep", "temperature", "top_p")}
        given: dict[str, Any] = {key: value for key, value in named.items() if value is not None}
        changed = replace(scenario, **given, levels=scenario.levels[: self.levels or None])
        if changed.keep > changed.candidates:
            raise UsageError(
                f"scenario {name}: keep={changed.keep} of candidates={changed.candidates}: more than there are",
                hint=f"--set candidates={changed.keep}, or keep fewer",
            )
        if changed.temperature == 0 and set(self.strategy) & {"iid", "verbalized"}:
            raise UsageError(
                f"scenario {name}: all answers are the same at temperature 0",
                hint="set a temperature, or --set strategy=facets",
            )
        if changed.temperature == 0 and self.control:
            raise UsageError(
                f"scenario {name}: at temperature 0 the plain samples of the control are all the same: no comparison",
                hint="set a temperature, or --set control=false",
            )
        if not any(weight for key, weight in changed.weights.items() if key != "judge" or self.judge):
            raise UsageError(f"scenario {name}: no weight is over 0", hint="[weights] in the file; docs/branch.md")
        return changed
