"""kept.md: what a run kept, to be read; beside each text how it came about.

The texts are a model's. Each stands in a quotation, in which nothing is markup that could load or hide something.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from hybrid.machine.terminal import clean, clean_line
from hybrid.records import Output
from pipelines.branch.reading import TreeNode, clusters_of, kept_of, path_to, trees

FIRST_LINE = "# What was kept"
LONGEST = 20_000
"""Characters of one text; hybrid.report and outputs.json have more."""

LONGEST_LINE = 300
MARKUP = re.compile(r"([\\`*_<>\[\]!|#])")
LIVELY = re.compile(r"([\\<\[\]])")
"""What begins a tag, a link or a picture."""


def kept_page(tasks: Mapping[str, Any], outputs: Iterable[Output]) -> str:
    """The page of a run: each scenario's kept texts, the best score first, with all that they grew from."""
    parts = [FIRST_LINE, ""]
    for task, nodes in trees(outputs):
        parts += _scenario(task, tasks.get(task), nodes)
    if len(parts) == 2:
        parts += ["Nothing: the run has no candidates.", ""]
    return "\n".join(parts)


def _scenario(task: str, data: Any, nodes: Sequence[TreeNode]) -> list[str]:
    known = data if isinstance(data, Mapping) else {}
    title, brief = known.get("title"), known.get("brief")
    kept, by_id = kept_of(nodes), {one.id: one for one in nodes}
    made = sum(1 for one in nodes if one.depth and not one.control)
    parts = [f"## {_plain(title) if isinstance(title, str) and title else _plain(task)}", ""]
    if isinstance(brief, str) and brief:
        parts += [_plain(brief), ""]
    parts += [f"{len(kept):,} kept of {made:,} candidates.", ""]
    parts += [line for one in nodes if not one.depth and one.reason for line in (f"*{_plain(one.reason)}*", "")]
    clusters = {cluster: f"cluster {number}" for cluster, (number, _) in clusters_of(nodes).items()}
    for number, node in enumerate(kept, start=1):
        parts += _kept(
            number, node, path_to(node, by_id), "" if node.cluster is None else clusters.get(node.cluster, "")
        )
    return parts


def _kept(number: int, node: TreeNode, path: Sequence[TreeNode], cluster: str) -> list[str]:
    facts = [node.strategy, "" if node.score is None else f"score {node.score:.2f}"]
    facts += [cluster, f"{node.tokens:,} tokens" if node.tokens else ""]
    said = " · ".join(_plain(fact) for fact in facts if fact)
    parts = [f"### {number}. {_plain(node.id)}", "", *([said, ""] if said else [])]
    for step in path:
        parts += [f"**{_plain(step.level)}**", ""] if step.level else []
        parts += [*_quoted(step.text if step.text is not None else step.failure), ""]
    return parts


def _plain(text: str) -> str:
    """One line in which nothing is markup."""
    return MARKUP.sub(r"\\\1", clean_line(" ".join(text.split()), LONGEST_LINE))


def _quoted(text: str) -> list[str]:
    """A text as a quotation, cut to `LONGEST` characters."""
    lines = LIVELY.sub(r"\\\1", clean(text, LONGEST)).strip().split("\n")
    return [f"> {line}".rstrip() for line in lines]
