"""Files for people that a pipeline writes beside outputs.json, made anew whenever that is."""

from __future__ import annotations

import os
import re
from collections.abc import Iterable, Iterator, Mapping
from contextlib import closing
from itertools import chain
from pathlib import Path

from hybrid.machine import home
from hybrid.machine.replacing import replacing
from hybrid.outputs import OutputsFile, open_outputs, path_beside
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
        for name, (first, rest) in _made(pipeline, opened).items():
            path = path_beside(outputs, name)
            with replacing(path, _first_line(first), home.parts_folder()) as file:
                for part in chain((first,), rest):
                    file.write(part.encode("utf-8", "replace"))
            written.append(path)
    return written


def pages_beside(pipeline: Pipeline, outputs: Path) -> dict[Path, str]:
    """What is there under the names that the pipeline gives to the pages of these outputs: path -> why it is none of
    them, "" for a page, which is a regular file that begins with the page's first line.

    Raises PluginFault for pages that cannot be made.
    """
    if not isinstance(pipeline, MakesPages):
        return {}
    with closing(open_outputs(outputs)) as opened, attributed_to(pipeline, "naming the pages beside the outputs"):
        made = _made(pipeline, opened)
        lines = {path_beside(outputs, name): _first_line(first) for name, (first, _) in made.items()}
    return {path: _other_than(path, begins) for path, begins in lines.items() if os.path.lexists(path)}


def _first_line(text: str) -> bytes:
    return text.encode("utf-8", "replace").partition(b"\n")[0]


def _other_than(path: Path, begins: bytes) -> str:
    if path.is_symlink():
        return "it is a link"
    if not path.is_file():
        return "it is no file"
    with path.open("rb") as stream:
        own = stream.read(len(begins)) == begins
    return "" if own else "another version wrote it, or it is your own"


def _made(pipeline: MakesPages, opened: OutputsFile) -> dict[str, tuple[str, Iterator[str]]]:
    """The first part and the others of each page, in order of name. Raises ValueError, TypeError."""
    names = [one.get("name") for one in opened.models if isinstance(one, Mapping)]
    models = list(dict.fromkeys(name for name in names if isinstance(name, str)))
    made = pipeline.pages(opened.tasks, opened.records(), models)
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
