"""What the stages after the replies may come to: every reply another training, each of them the one chosen by hand."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator, Mapping
from typing import Any

from hybrid.loads import Foreseen
from pipelines.seal.editing import Editing


def foreseen_answers(editing: Editing, tasks: Mapping[str, Any], edits: int) -> Iterator[Foreseen]:
    """The items of a stage that trains and answers with `edits` replies a task, at most."""
    randoms = edits if editing.randoms < 0 else editing.randoms
    for id in sorted(tasks):
        tuning = editing.fixed(id, tasks[id]).tuning
        for item in editing.task_items(id, tasks[id]):
            yield Foreseen(item)
            if tuning is not None:
                trained = dataclasses.replace(item.request, tuning=tuning)
                yield Foreseen(dataclasses.replace(item, request=trained), 1 + edits + randoms)
