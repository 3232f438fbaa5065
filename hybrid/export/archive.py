"""All that a run came to as one zip: its outputs, grades, report, and the files that its pipeline wrote beside them."""

from __future__ import annotations

import re
import shutil
import zipfile
from collections.abc import Iterator
from pathlib import Path
from typing import BinaryIO

from hybrid.execution.pages import NAME
from hybrid.export.graded_run import GradedRun
from hybrid.export.inspect_log import member_of
from hybrid.machine.terminal import count_of
from hybrid.outputs import outputs_stem

OWN = re.compile(r"grades(\.[a-z0-9-]{1,60})?\.json|report\.html")
"""Grades and the report, by their names beside outputs.json."""


def write_archive(run: GradedRun, stream: BinaryIO) -> list[str]:
    """The files in order of name, without times: the same files give the same bytes. Links are left out."""
    paths = [run.outputs.path, *_beside(run)]
    with zipfile.ZipFile(stream, "w", zipfile.ZIP_DEFLATED) as archive:
        for path in sorted(paths):
            with path.open("rb") as source, archive.open(member_of(path.name), "w", force_zip64=True) as target:
                shutil.copyfileobj(source, target, 1 << 20)
    names = ", ".join(path.name for path in sorted(paths))
    return [f"{count_of(len(paths), 'file')}: {names}"]


def _beside(run: GradedRun) -> Iterator[Path]:
    """The run's files beside its outputs. In a folder that is not the run's own, files that a pipeline wrote beside an
    `outputs.json` cannot be told from a person's: only what has the name of the outputs before its own is taken there.
    """
    outputs = run.outputs.path
    stem = outputs_stem(outputs)
    before = "" if stem == "outputs" else f"{stem}."
    pages = bool(before) or outputs.absolute().parent.name == run.id
    for path in outputs.parent.iterdir():
        name = path.name.removeprefix(before)
        wanted = OWN.fullmatch(name) or (pages and NAME.fullmatch(name))
        if path.name.startswith(before) and wanted and path != outputs and path.is_file() and not path.is_symlink():
            yield path
