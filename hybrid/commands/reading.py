"""What `grade` and `report` share: the options that say how a file of another tool is read."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import click

from hybrid.commands.options import NonEmptyPath
from hybrid.errors import UsageError
from hybrid.formats import FORMATS, Reading

READING = ("format", "columns", "inputs", "filter", "skip_bad")
"""The parameters of `reading_of`, as the options give them to a command."""

RECORDED = "recorded"
"""The grader that shows the scores which another tool gave."""

INPUT = NonEmptyPath(path_type=Path, dir_okay=False, readable=False)


def reading_options(command: Any) -> Any:
    """Add the options; the command gets the parameters of `reading_of`."""
    options = (
        click.option("--from", "format", type=click.Choice(FORMATS), default=None, help="Which tool wrote the file."),
        click.option(
            "--column",
            "columns",
            multiple=True,
            metavar="FIELD=COLUMN",
            help="Of a table: text, reference, id, group, question, sample, error, score; may be repeated.",
        ),
        click.option(
            "--input", "inputs", type=INPUT, help="What was asked, joined by id: a batch's input, a table, solutions."
        ),
        click.option("--filter", default="", metavar="NAME", help="Of lm-eval: the filter whose responses are read."),
        click.option("--skip-bad", is_flag=True, help="Leave bad rows of another tool's file out, and count them."),
    )
    for option in reversed(options):
        command = option(command)
    return command


def reading_of(
    *, format: str | None, columns: tuple[str, ...], inputs: Path | None, filter: str, skip_bad: bool
) -> Reading:
    """What the options say. Raises UsageError for a column without a name, a field given twice, an absent input."""
    if inputs is not None and not inputs.is_file():
        raise UsageError(f"--input: there is no file {inputs}", hint="name what was asked: a batch's input or a table")
    return Reading(format or "", _named(columns), inputs, filter, skip_bad)


def _named(columns: Iterable[str]) -> Mapping[str, str]:
    found: dict[str, str] = {}
    for one in columns:
        field, equals, column = one.partition("=")
        if not (field and equals and column):
            raise UsageError(f"--column {one[:80]}: not FIELD=COLUMN", hint="such as --column text=answer")
        if field in found:
            raise UsageError(f"--column {field[:80]} is given twice", hint="a field has one column")
        found[field] = column
    return found
