"""What the writer is asked: implications of a passage, or another kind of text about it.

SEAL (arXiv 2506.10943) asks a model that was never taught to chat; the format `plain` is in its way.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal, get_args

from hybrid.records import Message, Request, Sampling
from hybrid.tasks.squad.prompts import Format

Kind = Literal["implications", "long", "very-long", "rewrite", "self-qa", "none"]
KINDS: tuple[str, ...] = get_args(Kind)
PASSAGE, TITLE = "{passage}", "{title}"

LIST = "produce a {size}list of implications derived directly or indirectly from the content."
TASKS: Mapping[str, tuple[str, str]] = {
    "implications": (LIST.replace("{size}", ""), "Implications:\n"),
    "long": (LIST.replace("{size}", "long "), "Implications:\n"),
    "very-long": (LIST.replace("{size}", "very long "), "Implications:\n"),
    "rewrite": ("rewrite it in a few different ways, each one on a line of its own.", "Rewritten passages:\n"),
    "self-qa": ("rewrite it as questions and answers.", "Question 1:"),
}
"""What is to be done with the passage, and how the text begins that a model continues; `none` only shows it."""


@dataclass(frozen=True, slots=True)
class Writing:
    """How texts about a passage are asked for; `prompt` with `{passage}` in it is one's own, "" that of the kind."""

    kind: Kind = "implications"
    format: Format = "chat"
    prompt: str = ""
    date: str = ""

    def request(self, title: str, context: str, sampling: Sampling) -> Request:
        """What is asked about one passage."""
        text = self._text(title, context)
        if self.format == "plain":
            return Request(sampling, prompt=text)
        return Request(sampling, (Message("user", text),), template={"date_string": self.date})

    def _text(self, title: str, context: str) -> str:
        shown = f"{title}\n{context}" if title else context
        if self.prompt:
            before, _, after = self.prompt.partition(PASSAGE)  # what a passage holds is no placeholder
            return f"{before.replace(TITLE, title)}{context}{after.replace(TITLE, title)}"
        if self.kind == "none":
            return f"{shown}\n"
        task, begins = TASKS[self.kind]
        if self.format == "plain":
            return f"Let's read the following passage and {task}\n\nPassage:\n{shown}\n\n{begins}"
        form = ' Write "Question 1: ...", then "Answer: ...", and so on.' if self.kind == "self-qa" else ""
        return f"Read the following passage and {task}{form}\n\nPassage:\n{shown}"
