"""The formats of `hybrid export`: what writes each, and the name that its file gets."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO, cast

from hybrid.export.graded_run import GradedRun
from hybrid.machine import home
from hybrid.machine.late_imports import import_object
from hybrid.machine.replacing import replacing
from hybrid.outputs import path_beside

Write = Callable[[GradedRun, BinaryIO], list[str]]
"""Writes a run into a stream that can seek; returns what the user should know, such as what the format cannot hold."""


@dataclass(frozen=True, slots=True)
class Format:
    """`writer` is `module:function`, a `Write`; `name` that of the file beside the outputs; `folder` says that it is
    a folder of several files, whose writer gets the folder and `replace`.
    """

    writer: str
    name: str
    folder: bool = False


FORMATS: Mapping[str, Format] = {
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
    write = cast("Write", import_object(FORMATS[name].writer, needed_for=f"export to {name}"))
    with replacing(path, b"", home.parts_folder(), only_new=not replace) as stream:
        return write(run, stream)
