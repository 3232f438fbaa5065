"""Files for people that a pipeline writes beside outputs.json, made anew whenever that is."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Mapping
from contextlib import closing
from itertools import chain
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
    written = []
    with closing(open_outputs(outputs)) as opened, attributed_to(pipeline, "making the pages beside the outputs"):
        for name, (first, rest) in _checked(pipeline.pages(opened.tasks, opened.records())).items():
            path, begins = path_beside(outputs, name), first.encode("utf-8", "replace").partition(b"\n")[0]
            with replacing(path, begins, home.parts_folder()) as file:
                for part in chain((first,), rest):
                    file.write(part.encode("utf-8", "replace"))
            written.append(path)
    return written


def _checked(made: Mapping[str, str | Iterable[str]]) -> dict[str, tuple[str, Iterator[str]]]:
    """The first part and the others of each page, in order of name. Raises ValueError, TypeError."""
    found: dict[str, tuple[str, Iterator[str]]] = {}
    for name, page in sorted(checked(made, Mapping).items()):
        if not NAME.fullmatch(name) or name in TAKEN:
            raise ValueError(f"a page is called like kept.md, not {name!r:.80}")
        parts = (checked(part, str) for part in ((page,) if isinstance(page, str) else checked(page, Iterable)))
        first: str = next(parts, "")
        if first.partition("\n")[0].strip() in ("", "{", "["):
            raise ValueError(f"the page {name} has no first line, by which it is known again")
        found[name] = first, parts
    return found
