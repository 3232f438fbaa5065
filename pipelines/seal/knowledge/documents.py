"""From what the writer wrote to the texts that an adapter is trained on."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

from hybrid.canonical import Json, digest
from hybrid.errors import BadData
from hybrid.records import Example

Division = Literal["auto", "lines", "questions", "whole"]
_RULE = re.compile(r"^[ \t]*-{3,}[ \t]*$", re.MULTILINE)
_QUESTION = re.compile(r"^(?=[ \t]*Question \d+:)", re.MULTILINE)


@dataclass(frozen=True, slots=True)
class Documents:
    """How a completion is divided into documents. `kind` is what was asked for; `most` 0 is no bound.

    `auto` is by questions for the kind `self-qa`, else by lines.
    """

    kind: str = "implications"
    division: Division = "auto"
    most: int = 30

    def of(self, completion: str) -> tuple[str, ...]:
        """The different documents of a completion in its order, without empty ones. A line of dashes always divides.

        As SEAL does, a first line is left out before a list that begins with "1.": it only announces the list.
        """
        by = ("questions" if self.kind == "self-qa" else "lines") if self.division == "auto" else self.division
        if self.kind == "self-qa" and not _QUESTION.match(completion.lstrip()):
            completion = f"Question 1: {completion.lstrip()}" if completion.strip() else ""
        parts = [part for block in _RULE.split(completion) for part in _divided(block, by)]
        found = [text for part in parts if (text := part.strip())]
        if by == "lines" and len(found) > 1 and found[1].startswith("1."):
            found = found[1:]
        return tuple(dict.fromkeys(found))[: self.most or None]

    def examples(self, tasks: Mapping[str, Any], about: Sequence[tuple[str, Sequence[str]]]) -> dict[str, Json]:
        """The `examples` of a tuning on passages, each with completions about it: (task, completions)."""
        named: list[Json] = [[id, digest(_passage(tasks, id)), list(texts)] for id, texts in about]
        return {"passages": named, "kind": self.kind, "division": self.division, "most": self.most}


def training_examples(tasks: Mapping[str, Any], examples: Mapping[str, Json]) -> tuple[Example, ...]:
    """`Tune.examples`: the documents of each passage's completions, then the passage, each below the title.

    Raises BadData when a passage is missing or has changed.
    """
    try:
        told: dict[str, Any] = dict(examples)
        passages = told.pop("passages")
        documents = Documents(**told)
        return tuple([example for one in passages for example in _of_passage(tasks, documents, *one)])
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        raise BadData(
            f"the texts about a passage cannot be made: {type(error).__name__}: {error}",
            hint="the run was changed by hand, or written by another version of hybrid",
        ) from error


def _of_passage(
    tasks: Mapping[str, Any], documents: Documents, id: str, named: str, completions: Sequence[str]
) -> list[Example]:
    title, context = _passage(tasks, id)
    if digest([title, context]) != named:
        raise ValueError("another passage")
    texts = [text for completion in completions for text in documents.of(completion)]
    return [Example(text=f"{title}\n{text}" if title else text) for text in (*dict.fromkeys(texts), context)]


def _passage(tasks: Mapping[str, Any], id: str) -> list[str]:
    return [tasks[id]["title"], tasks[id]["context"]]


def _divided(block: str, by: str) -> list[str]:
    if by == "lines":
        return block.splitlines()
    return _QUESTION.split(block) if by == "questions" else [block]
