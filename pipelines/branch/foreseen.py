"""What a search may ask for: as many calls as levels, parents, candidates and retries allow, and the control's."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from math import ceil, inf
from typing import Any

from hybrid.loads import Foreseen
from hybrid.records import Item, Message, Request, Sampling
from pipelines.branch.scenario import Scenario, from_task
from pipelines.branch.settings import BranchSettings
from pipelines.branch.strategies import STRATEGIES, tokens_a_call

EMBED, JUDGE = "embed", "judge"
CHARACTERS = 4
"""Characters of a token of what is written, which later prompts hold."""
VERDICT_TOKENS = 16


def foreseen_search(settings: BranchSettings, tasks: Mapping[str, Any]) -> Iterator[Foreseen]:
    """The items of all scenarios, at most."""
    for name in sorted(tasks):
        scenario = from_task(tasks[name], name)
        story = ""
        for depth, level in enumerate(scenario.levels):
            calls, tokens = _calls(settings, scenario, depth)
            asked = (Message("system", scenario.system), Message("user", f"{scenario.brief}\n{story}\n{level}"))
            request = Request(Sampling(tokens, scenario.temperature, scenario.top_p), asked)
            yield Foreseen(Item(name, f"{name}/{depth}", request), calls)
            text = "x" * (CHARACTERS * level.max_tokens)
            yield Foreseen(_embedded(name, text), calls)
            if settings.judge:
                yield Foreseen(_judged(name, scenario, text), 2 * settings.judge)
            story += f"\n{text}"


def _calls(settings: BranchSettings, scenario: Scenario, depth: int) -> tuple[int, int]:
    """Calls on a level, and new tokens of one, at most."""
    level, used = scenario.levels[depth], [STRATEGIES[name] for name in settings.strategy]
    parents = scenario.keep if depth else 1
    wanted = parents * scenario.candidates
    tokens = max(tokens_a_call(one, level) for one in used)
    calls = ceil(wanted / min(one.texts_a_call for one in used) * (1 + settings.retries))
    control = wanted * (1 + settings.retries) if settings.control else 0
    left = settings.allowance()
    most = min(left.nodes, left.tokens / tokens if left.tokens != inf else inf)
    return int(min(calls, most) + min(control, most)), tokens


def _embedded(name: str, text: str) -> Item:
    return Item(name, f"{name}/embedding", Request(Sampling(1), prompt=text, embed=True), role=EMBED)


def _judged(name: str, scenario: Scenario, text: str) -> Item:
    asked = (Message("user", f"{scenario.brief}\n{text}\n{text}"),)
    return Item(name, f"{name}/judge", Request(Sampling(VERDICT_TOKENS), asked), role=JUDGE)
