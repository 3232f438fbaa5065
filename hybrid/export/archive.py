"""All that a run came to as one zip: its outputs, grades, report, and the files that its pipeline wrote beside them."""

from __future__ import annotations

import shutil
import zipfile
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import BinaryIO

from hybrid.errors import HybridError
from hybrid.execution.capabilities import frozen_pipeline
from hybrid.execution.pages import pages_beside
from hybrid.export.graded_run import GradedRun
from hybrid.export.inspect_log import member_of
from hybrid.machine.terminal import count_of
from hybrid.outputs import grades_beside, is_stale, path_beside, stale_message

OTHERS = "grades.json", "report.html"
"""What else of a run stands beside its outputs."""


def write_archive(run: GradedRun, stream: BinaryIO) -> list[str]:
    """The files in order of name, without times: the same files give the same bytes. Links are left out.

    What the pipeline wrote is known by the names and first lines that it gives for these outputs. The returned lines
    name what stands under such a name and is something else, or say why the names are not known.
    """
    pages, notes = _pages(run)
    paths = sorted({run.outputs.path, *_grades_and_report(run.outputs.path), *pages})
    with zipfile.ZipFile(stream, "w", zipfile.ZIP_DEFLATED) as archive:
        for path in paths:
            with path.open("rb") as source, archive.open(member_of(path.name), "w", force_zip64=True) as target:
                shutil.copyfileobj(source, target, 1 << 20)
    return [f"{count_of(len(paths), 'file')}: {', '.join(path.name for path in paths)}", *notes, *_stale(run, paths)]


def _stale(run: GradedRun, paths: Iterable[Path]) -> Iterator[str]:
    """A message for each of these files that judges other outputs."""
    return (stale_message(path, run.outputs.path) for path in paths if is_stale(path, run.outputs.path))


def _pages(run: GradedRun) -> tuple[list[Path], list[str]]:
    """The files that the pipeline wrote, and what is to be said of others."""
    frozen = run.outputs.run.get("settings")
    if not (run.pipeline and isinstance(frozen, Mapping)):
        return [], []
    try:
        found = pages_beside(frozen_pipeline(run.id, run.pipeline, frozen), run.outputs.path)
    except HybridError as error:
        return [], [f"files that the pipeline wrote are left out: {error.message}"]
    return [path for path, why in found.items() if not why], [
        f"{path.name} is left out: {why}" for path, why in found.items() if why
    ]


def _grades_and_report(outputs: Path) -> Iterator[Path]:
    """The run's grades and report beside its outputs, grades of the command's `-o grades.json` too."""
    for path in (*grades_beside(outputs).values(), *(path_beside(outputs, name) for name in OTHERS)):
        if path.is_file() and not path.is_symlink():
            yield path
