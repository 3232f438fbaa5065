"""What stages will ask for before their items are known: the real functions, given texts as long as they may become."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from hybrid.protocols import Stage
from hybrid.records import Item, Output

Found = dict[str, Sequence[Output]]
REFERENCE = ["a few words"]
LINES = 20
"""Lines of an imagined text about a passage."""


def imagined_items(stages: Sequence[Stage], name: str, tasks: Mapping[str, Any]) -> Iterable[Item]:
    """The items of a stage that writes, answers or judges, as many as there may be. Each answer is another one, so that
    each is judged; none is judged again, and the writer is never another model than the first.
    """
    by_name = {stage.name: stage for stage in stages}
    return _items(by_name, by_name[name], tasks, {})


def imagined_text(tokens: int, about: object) -> str:
    """A text of about so many tokens, unlike those about anything else."""
    words = max(1, tokens // LINES - 2)
    return "\n".join(f"{number} {about} {'word ' * words}".strip() for number in range(min(LINES, tokens)))


def _items(stages: Mapping[str, Stage], stage: Stage, tasks: Mapping[str, Any], known: Found) -> Iterable[Item]:
    if not stage.after:
        return stage.items(tasks)
    return stage.items(tasks, {name: _outputs(stages, stages[name], tasks, known) for name in stage.after})


def _outputs(stages: Mapping[str, Stage], stage: Stage, tasks: Mapping[str, Any], known: Found) -> Sequence[Output]:
    if not stage.name.startswith(("write-", "answer-")):  # no verdict and no other writer is known
        return ()
    if stage.name not in known:
        items = list(_items(stages, stage, tasks, known))
        known[stage.name] = [_output(item, number) for number, item in enumerate(items)]
    return known[stage.name]


def _output(item: Item, number: int) -> Output:
    text = imagined_text(item.request.sampling.max_tokens, number)
    return Output("", item.task, item.question, item.view, item.sample, text, None, REFERENCE)
