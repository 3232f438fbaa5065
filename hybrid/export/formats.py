"""The formats of `hybrid export`: what writes each, and the name that its file gets."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO, Protocol, cast

from hybrid.export.graded_run import GradedRun
from hybrid.machine import home
from hybrid.machine.late_imports import import_object
from hybrid.machine.replacing import replacing
from hybrid.outputs import path_beside

Write = Callable[[GradedRun, BinaryIO], list[str]]
"""Writes a run into a stream that can seek; returns what the user should know, such as what the format cannot hold."""


class WriteFolder(Protocol):
    """Writes a run into the files of a folder; each that is there already is kept, unless `replace`."""

    def __call__(self, run: GradedRun, folder: Path, *, replace: bool) -> list[str]: ...


@dataclass(frozen=True, slots=True)
class Format:
    """`writer` is `module:function`, a `Write`; `name` that of the file beside the outputs; `folder` says that it is
    a folder of several files, whose writer is a `WriteFolder`; `answers` that it holds more than what was asked; `one`
    that it holds the grades of one grader.
    """

    writer: str
    name: str
    folder: bool = False
    answers: bool = True
    one: bool = True


FORMATS: Mapping[str, Format] = {
    "inspect": Format("hybrid.export.inspect_log:write_inspect", "export.eval"),
    "lm-eval": Format("hybrid.export.lm_eval:write_lm_eval", "lm-eval", folder=True),
    "openai-batch": Format("hybrid.export.openai_batch:write_output", "batch-output.jsonl", one=False),
    "openai-batch-input": Format(
        "hybrid.export.openai_batch:write_input", "batch-input.jsonl", answers=False, one=False
    ),
    "arc-submission": Format("hybrid.export.arc_submission:write_submission", "submission.json"),
    "archive": Format("hybrid.export.archive:write_archive", "results.zip", one=False),
    "jsonl": Format("hybrid.export.text_tables:write_jsonl", "export.jsonl"),
    "csv": Format("hybrid.export.text_tables:write_csv", "export.csv"),
    "parquet": Format("hybrid.export.parquet:write_parquet", "export.parquet"),
}


def default_path(run: GradedRun, name: str) -> Path:
    """Where a format is written without `-o`: beside the outputs, named after them."""
    return path_beside(run.outputs.path, FORMATS[name].name)


def export(run: GradedRun, name: str, path: Path, *, replace: bool = False) -> list[str]:
    """Write a run in the format `name` to `path`; the file appears whole or not at all. Returns what to tell the user.

    A file with other content is only replaced with `replace`; else that raises UsageError. The same run gives the same
    bytes. Raises BadData for damaged outputs or grades, CannotRun without the format's library.
    """
    write: Any = import_object(FORMATS[name].writer, needed_for=f"export to {name}")
    if FORMATS[name].folder:
        return cast("WriteFolder", write)(run, path, replace=replace)
    with replacing(path, b"", home.parts_folder(), only_new=not replace) as stream:
        return cast("Write", write)(run, stream)
