"""`hybrid judge compare`: runs of the same questions, judged in pairs."""

from __future__ import annotations

from contextlib import ExitStack, closing
from pathlib import Path
from typing import Any

import click

from hybrid.canonical import encode
from hybrid.commands.grade import show_summary
from hybrid.commands.judging import built_grader, call_progress, grader_options
from hybrid.commands.options import FOLDER, FOLDER_HELP, OUTPUTS, NonEmptyText
from hybrid.commands.stdout import STDOUT, spare_path
from hybrid.errors import NotFinished, UsageError
from hybrid.execution.assembly import MISSING
from hybrid.execution.local import find_outputs
from hybrid.grading.compared import GRADER, Source, write_compared
from hybrid.grading.grade_file import grade_file
from hybrid.machine.signals import interrupt_on_termination
from hybrid.machine.terminal import count_of, is_or_are
from hybrid.outputs import grades_of, open_outputs, outputs_stem

DEFAULT = Path("compared.json")


@click.command("compare")
@click.argument("sources", nargs=-1, required=True, type=NonEmptyText(), metavar="[NAME=]SOURCE...")
@click.option("--folder", type=FOLDER, help=FOLDER_HELP)
@grader_options
@click.option(
    "-o", "--out", type=OUTPUTS, default=DEFAULT, show_default=True, help="The outputs of all, each with its arm."
)
@click.option("--json", "as_json", is_flag=True, help="One JSON object on one line instead of the table.")
def compare_command(sources: tuple[str, ...], folder: Path | None, out: Path, as_json: bool, **asked: Any) -> None:
    """Judge the answers of several runs to the same questions in pairs.

    A SOURCE is what `hybrid grade` takes. The outputs of all are written to one file, in which each is an arm, and the
    grades beside it: `hybrid report` draws both, and other graders grade the file.
    """
    interrupt_on_termination()
    if out == STDOUT:
        raise UsageError("the outputs of all runs go to a file", hint="-o FILE")
    grader = built_grader(GRADER, **asked)
    with ExitStack() as stack:
        opened = [_opened(source, folder, out, stack) for source in sources]
        write_compared(_with_own_names(opened), out)
    grades = grades_of(out, GRADER)
    summary = grade_file(out, grader, GRADER, grades, call_progress())
    if as_json:
        click.echo(encode({"outputs": str(out), "grader": GRADER, "grades": str(grades), "summary": summary}))
    else:
        show_summary(summary, GRADER, grades)
    if missing := summary["failed_outputs"].get(MISSING.kind, 0):
        raise NotFinished(
            f"a run is not finished: {count_of(missing, 'output')} {is_or_are(missing)} missing, and not compared",
            hint="compare again when the rest is there; `hybrid status` shows its status",
        )


def _opened(source: str, folder: Path | None, out: Path, stack: ExitStack) -> Source:
    """The outputs of a source. Raises UsageError when it is the file that is to be written."""
    name, found = _name_and_source(source)
    path = find_outputs(found, folder, stack.enter_context(spare_path()))
    if path != "-" and out.exists() and out.samefile(path):
        raise UsageError(f"{out} is one of the runs: it would be overwritten", hint="name another file: -o FILE")
    outputs = stack.enter_context(closing(open_outputs(path)))
    return Source(name or _name_of(Path(path)), outputs)


def _name_and_source(text: str) -> tuple[str, str]:
    """The name in front of a source, "" for none. A file whose own name has an equals sign has no name in front."""
    name, equals, source = text.partition("=")
    return (name.strip(), source) if equals and source and not Path(text).exists() else ("", text)


def _name_of(path: Path) -> str:
    """The file's own name, or that of its folder when every run's file is called like it."""
    stem = outputs_stem(path)
    return path.absolute().parent.name if stem in ("outputs", "output") else stem


def _with_own_names(sources: list[Source]) -> list[Source]:
    """The second source called `a` becomes `a (2)`."""
    seen: dict[str, int] = {}
    named = []
    for one in sources:
        again = seen[one.arm] = seen.get(one.arm, 0) + 1
        named.append(one if again == 1 else Source(f"{one.arm} ({again})", one.outputs))
    return named
