"""Files for people that a pipeline writes beside outputs.json, made anew whenever that is."""

from __future__ import annotations

import re
from collections.abc import Mapping
from contextlib import closing
from pathlib import Path

from hybrid.machine import home
from hybrid.machine.replacing import replacing
from hybrid.outputs import open_outputs, path_beside
from hybrid.plugins.faults import attributed_to, checked
from hybrid.protocols import MakesPages, Pipeline

NAME = re.compile(r"[a-z][a-z0-9_-]{0,40}\.(md|txt|csv|json)")
TAKEN = frozenset({"outputs.json", "grades.json"})
"""Names that would be taken for a file of `hybrid`."""


def write_pages(pipeline: Pipeline, outputs: Path) -> list[Path]:
    """Write what `pipeline.pages` makes of an outputs file, and return where; nothing without such a method.

    A page takes the place of an earlier one only if both begin with the same line: it may be somebody's own file.
    Raises UsageError when that is so, PluginFault for pages that cannot be made.
    """
    if not isinstance(pipeline, MakesPages):
        return []
    with closing(open_outputs(outputs)) as opened, attributed_to(pipeline, "making the pages beside the outputs"):
        made = _checked(pipeline.pages(opened.tasks, opened.records()))
    written = []
    for name, text in made.items():
        path, content = path_beside(outputs, name), text.encode("utf-8", "replace")
        with replacing(path, content.partition(b"\n")[0], home.parts_folder()) as file:
            file.write(content)
        written.append(path)
    return written


def _checked(made: Mapping[str, str]) -> Mapping[str, str]:
    """The pages, in order of name. Raises ValueError, TypeError."""
    for name, text in checked(made, Mapping).items():
        if not NAME.fullmatch(name) or name in TAKEN:
            raise ValueError(f"a page is called like kept.md, not {name!r:.80}")
        if checked(text, str).partition("\n")[0].strip() in ("", "{", "["):
            raise ValueError(f"the page {name} has no first line, by which it is known again")
    return dict(sorted(made.items()))
