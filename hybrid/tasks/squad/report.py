"""SQuAD's report section: each passage above its questions."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar, TypeGuard

from hybrid.report.markup import Html, el, join
from hybrid.report.output_texts import truncated
from hybrid.report.question_rows import question_rows
from hybrid.report.section import Scope, Section, TaskView
from hybrid.report.sources import ReportRun


@dataclass(frozen=True)
class SquadReport(Section):
    """Draws each passage as text, then its questions with reference and answer."""

    scope: ClassVar[Scope] = "data"

    def wants(self, run: ReportRun) -> bool:
        """Whether the run has passages with questions."""
        return any(map(_is_passage, run.first_tasks()))

    def task(self, shown: TaskView) -> Html:
        """Title and passage, or a note that it was not shown; empty for tasks of other data."""
        if not _is_passage(shown.data):
            return Html("")
        title, context = shown.data.get("title"), shown.data.get("context")
        name = el("h4", truncated(title, 200)) if isinstance(title, str) and title else Html("")
        memory = el("p", "The passage was not shown: asked from memory.", cls="none")
        passage = el("p", truncated(context, shown.longest), cls="passage", dir="auto") if context else memory
        return join([name, passage, question_rows(shown)])

    def style(self) -> str:
        """The CSS of passages."""
        return (
            ".passage { font: 1rem/1.55 var(--serif); max-width: 44rem; white-space: pre-line; unicode-bidi: isolate; }"
        )


def _is_passage(data: Any) -> TypeGuard[Mapping[str, Any]]:
    """Whether a task's data is a passage with questions."""
    if not isinstance(data, Mapping) or not isinstance(data.get("questions"), list):
        return False
    return isinstance(data.get("context", ""), str) and isinstance(data.get("title"), str)
