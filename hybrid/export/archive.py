"""All that a run came to as one zip: its outputs, grades, report, and the files that its pipeline wrote beside them."""

from __future__ import annotations

import re
import shutil
import zipfile
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import BinaryIO

from hybrid.errors import HybridError
from hybrid.execution.capabilities import frozen_pipeline
from hybrid.execution.pages import pages_beside
from hybrid.export.graded_run import GradedRun
from hybrid.export.inspect_log import member_of
from hybrid.machine.terminal import count_of
from hybrid.outputs import outputs_stem

OWN = re.compile(r"grades(\.[a-z0-9-]{1,60})?\.json|report\.html")
"""Grades and the report, by their names beside outputs.json."""


def write_archive(run: GradedRun, stream: BinaryIO) -> list[str]:
    """The files in order of name, without times: the same files give the same bytes. Links are left out.

    What the pipeline wrote is known by the names and first lines that it gives for these outputs. Where it cannot say
    them, such files are left out, and the returned lines say so.
    """
    notes = []
    try:
        pages = _pages(run)
    except HybridError as error:
        pages = []
        notes.append(f"files that the pipeline wrote are left out: {error.message}")
    paths = sorted([run.outputs.path, *_grades_and_report(run.outputs.path), *pages])
    with zipfile.ZipFile(stream, "w", zipfile.ZIP_DEFLATED) as archive:
        for path in paths:
            with path.open("rb") as source, archive.open(member_of(path.name), "w", force_zip64=True) as target:
                shutil.copyfileobj(source, target, 1 << 20)
    return [f"{count_of(len(paths), 'file')}: {', '.join(path.name for path in paths)}", *notes]


def _pages(run: GradedRun) -> list[Path]:
    frozen = run.outputs.run.get("settings")
    if not (run.pipeline and isinstance(frozen, Mapping)):
        return []
    return pages_beside(frozen_pipeline(run.id, run.pipeline, frozen), run.outputs.path)


def _grades_and_report(outputs: Path) -> Iterator[Path]:
    """The run's grades and report beside its outputs."""
    stem = outputs_stem(outputs)
    before = "" if stem == "outputs" else f"{stem}."
    for path in outputs.parent.iterdir():
        own = path.name.startswith(before) and OWN.fullmatch(path.name.removeprefix(before))
        if own and path != outputs and path.is_file() and not path.is_symlink():
            yield path
