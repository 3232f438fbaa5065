"""Creative candidates as a tree: generated, refused at the door, selected, branched from; docs/branch.md."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

from hybrid.loads import Foreseen, GuideTable
from hybrid.machine.late_imports import import_object
from hybrid.protocols import Inputs, Role, Stage
from hybrid.records import Output
from hybrid.work import Derive, Derived, Search, Walk
from pipelines.branch import guide
from pipelines.branch.foreseen import foreseen_search
from pipelines.branch.kept import kept_page
from pipelines.branch.settings import BranchSettings

SEARCH, TREE = "search", "tree"
EMBED, JUDGE = "embed", "judge"
NEEDED_FOR = "the pipeline branch"


@dataclass(frozen=True)
class Branch(BranchSettings):
    """Write many candidates level by level, refuse what is bad or repeats, and go on with a good and diverse few."""

    presets: ClassVar[Mapping[str, Mapping[str, object]]] = {
        "demo": {"scenario": ["demo"], "strategy": ["facets"]},
        "memory": {"scenario": ["memory"]},
        "mars": {"scenario": ["mars"], "strategy": ["facets"]},
        "romcom": {"scenario": ["romcom"], "strategy": ["facets"]},
        "styles": {"scenario": ["styles"], "strategy": ["facets"]},
        "all": {"scenario": ["memory", "mars", "romcom", "styles"], "strategy": ["facets"]},
    }

    roles: ClassVar[Mapping[str, Role]] = {
        EMBED: Role(
            "embeds the texts; without a model of your own by their letters",
            backend="hashed",
            model="ngrams",
            embeds=True,
        ),
        JUDGE: Role("compares candidates in pairs (--set judge=N)", optional=True),
    }

    def inputs(self) -> Inputs:
        """The scenarios, as they are now. Raises UsageError for what is misspelt or impossible in one."""
        tasks = {name: scenario.to_json() for name, scenario in self.scenarios().items()}
        about = {
            "scenarios": sorted(tasks), "strategy": list(self.strategy), "policy": self.policy, "select": self.select,
            "budget": {"nodes": self.nodes, "tokens": self.tokens, "ms": self.ms, "mode": self.budget},
            "grader": "branch",
        }  # fmt: skip
        return Inputs(tasks, {}, about)

    def guide(self) -> Iterable[GuideTable]:
        """The guide's tables."""
        return guide.tables()

    def stages(self) -> tuple[Stage, ...]:
        """The search, by whoever has the models, and the tree that comes of its records."""
        roles = (EMBED, JUDGE) if self.judge else (EMBED,)
        return (
            Stage(SEARCH, "any", 1, Search(self._walk, roles)),
            Stage(TREE, "any", 2, Derive(self._tree), after=(SEARCH,)),
        )

    def pages(self, tasks: Mapping[str, Any], outputs: Iterable[Output], models: Sequence[str]) -> Mapping[str, str]:
        """What was kept, to be read: the file beside outputs.json."""
        return {"kept.md": kept_page(tasks, outputs)}

    def foresee(self, stage: str, tasks: Mapping[str, Any]) -> Iterable[Foreseen] | None:
        """`hybrid.protocols.Planned`."""
        return foreseen_search(self, tasks) if stage == SEARCH else None

    def _walk(self, task: str, tasks: Mapping[str, Any]) -> Walk:
        walk: Walk = import_object("pipelines.branch.walk:searched", needed_for=NEEDED_FOR)(self, task, tasks)
        return walk

    def _tree(self, tasks: Mapping[str, Any], earlier: Mapping[str, Iterable[Output]]) -> Iterator[Derived]:
        records = import_object("pipelines.branch.tree_records:tree_records", needed_for=NEEDED_FOR)
        found: Iterator[Derived] = records(self, tasks, earlier[SEARCH])
        return found
