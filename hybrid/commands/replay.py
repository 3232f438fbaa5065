"""`hybrid replay`: what was used in a round of a loop, made again from what its stage published."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import closing
from dataclasses import dataclass, field
from pathlib import Path

import click

from hybrid.canonical import encode
from hybrid.commands.options import FOLDER, FOLDER_HELP, OUTPUT, NonEmptyText
from hybrid.commands.stdout import STDOUT, refuse_both_on_stdout, spare_path
from hybrid.errors import BadData, Missed, NotFinished, UsageError, nearest
from hybrid.execution.local import chosen_folder, opened_run, outputs_of
from hybrid.execution.rounds_again import rounds_again
from hybrid.folder.runs import Run
from hybrid.machine import home
from hybrid.machine.replacing import replacing
from hybrid.machine.terminal import clean_line, count_of
from hybrid.metrics import RoundMetrics
from hybrid.outputs import open_outputs
from hybrid.protocols import Replayed
from hybrid.records import Output

BEGINS = b'{"format":"hybrid/replay"'
MAX_LINE = 3000
MOST_NAMED = 10
"""Missing parts, and differences, that are named."""


@dataclass(frozen=True, slots=True)
class Wanted:
    """Which rounds: None for all of them."""

    series: str | None
    node: str | None
    round: int | None

    @property
    def name(self) -> str | None:
        """How the questions of a round end."""
        return None if self.round is None else f"{self.round:05d}"


@click.command()
@click.argument("run", type=NonEmptyText())
@click.option("--series", type=NonEmptyText(), help="Of which series, when there are several: 4-4/seed-0.")
@click.option("--node", type=NonEmptyText(), help="Of which node, when there are several: 3 or node-3.")
@click.option("--round", "number", type=click.IntRange(0), help="Which round, from 0. All of them with --verify.")
@click.option("--verify", is_flag=True, help="Only compare: what is named, or every round.")
@click.option("--json", "as_json", is_flag=True, help="One JSON object, with the whole texts.")
@click.option("--folder", type=FOLDER, help=FOLDER_HELP)
@click.option("-o", "--output", type=OUTPUT, help="A file for the JSON, - for standard output.")
def replay(
    run: str,
    series: str | None,
    node: str | None,
    number: int | None,
    verify: bool,
    as_json: bool,
    folder: Path | None,
    output: Path | None,
) -> None:
    """Make again what a node of RUN was trained on in a round, and compare it with the record of the round.

    It reads what the run published: on the laptop, what `hybrid fetch --rollouts` brought. No model is needed.
    """
    refuse_both_on_stdout(output, as_json=as_json)
    if number is None and not verify:
        raise UsageError("which round? --round 12, or --verify to compare all of them")
    place = chosen_folder(folder)
    named = opened_run(place, run)
    again = rounds_again(named)
    if again is None:
        raise UsageError(f"{named.id}: the pipeline {named.spec['pipeline']} has no rounds that can be made again")
    found = _found(place, named, Wanted(series, node, number))
    if not verify:
        _refuse_several(found)
    told = Told()
    for name, metrics, group in found:
        told.add(made := again(name, metrics, group))
        if not verify:
            _show(made, output, as_json=as_json)
    if verify:
        _show(told.replayed(), output, as_json=as_json)
    told.check(named.id)


def _show(made: Replayed, output: Path | None, *, as_json: bool) -> None:
    """Print what was made again, or write it to a file. Raises UsageError for a file of something else."""
    content = BEGINS + b',"replay":' + encode(made.value) + b"}\n"
    if as_json or output == STDOUT:
        click.echo(content, nl=False)
    elif output is not None:
        with replacing(output, BEGINS, home.parts_folder()) as file:
            file.write(content)
        click.echo(output)
    else:
        for line in made.lines:
            click.echo(clean_line(line, MAX_LINE))


@dataclass(slots=True)
class Told:
    """What came of the rounds that were made again."""

    checked: int = 0
    same: int = 0
    missing: list[str] = field(default_factory=list)
    wrong: list[str] = field(default_factory=list)

    def add(self, made: Replayed) -> None:
        """Count one."""
        self.checked += 1
        self.same += not made.missing and not made.wrong
        self.missing += made.missing
        self.wrong += made.wrong

    def replayed(self) -> Replayed:
        """All of them in short."""
        value = {"checked": self.checked, "same": self.same, "missing": self.missing, "wrong": self.wrong}
        return Replayed(value, [f"{self.same:,} of {count_of(self.checked, 'training set')} are as the records say"])

    def check(self, run: str) -> None:
        """Tell what is wrong or missing. Raises BadData, NotFinished."""
        for line in (*self.wrong[:MOST_NAMED], *self.missing[:MOST_NAMED]):
            click.echo(clean_line(line, MAX_LINE), err=True)
        if self.wrong:
            raise BadData(
                f"{run}: {count_of(len(self.wrong), 'difference')} from what the records say",
                hint="somebody has changed what was published, or the records, or this hybrid scores in another way",
            )
        if self.missing:
            raise NotFinished(
                f"{run}: {count_of(len(self.missing), 'rollout')} not here",
                hint=f"of a remote run, `hybrid fetch --rollouts {run}` brings what has been published",
            )


def _found(folder: Path, run: Run, wanted: Wanted) -> list[tuple[str, RoundMetrics, str]]:
    """Series, record and group of all that is wanted. Raises UsageError, NotFinished, Missed."""
    found, failed, series = list[tuple[str, RoundMetrics, str]](), list[Output](), set[str]()
    with spare_path() as spare, closing(open_outputs(outputs_of(folder, run.id, spare))) as opened:
        for output in opened.records():
            series.add(output.task)
            number = output.question.rpartition("/")[2]
            if wanted.series not in (None, output.task) or (
                wanted.round is not None and number != f"{wanted.round:05d}"
            ):
                continue
            if output.text is None:
                failed.append(output)
                continue
            found += [(output.task, metrics, group) for metrics, group in _groups(output, wanted.node)]
    if wanted.series and wanted.series not in series:
        raise UsageError(f"{run.id} has no series {wanted.series!r:.60}", hint=nearest(wanted.series, series))
    if not found and failed:
        _tell_of_failures(run, failed)
    if not found:
        raise UsageError(f"{run.id}: there is no such round, or no such node in it", hint="")
    return found


def _groups(output: Output, node: str | None) -> Iterator[tuple[RoundMetrics, str]]:
    """The groups of a round that have notes. Raises BadData."""
    try:
        metrics = RoundMetrics.from_text(output.text or "")
    except ValueError as error:
        raise BadData(f"{output.question}: {error}") from error
    for group in sorted(metrics.notes):
        if node in (None, group, group.rpartition("-")[2]):
            yield metrics, group


def _tell_of_failures(run: Run, failed: Sequence[Output]) -> None:
    """Raise for rounds that have no metrics: NotFinished for those that are still to come, Missed for failures."""
    first = failed[0]
    if first.error and first.error.kind == "missing":
        raise NotFinished(f"{first.question} of {run.id} is not here", hint=f"`hybrid status {run.id}` tells what is")
    raise Missed(f"{first.question} of {run.id} has failed: {first.error.message if first.error else ''}")


def _refuse_several(found: Sequence[tuple[str, RoundMetrics, str]]) -> None:
    """Raise UsageError when it is not one training set that is meant."""
    if len(found) > 1:
        for option, names in (("--series", {one[0] for one in found}), ("--node", {one[2] for one in found})):
            if len(names) > 1:
                some = ", ".join(sorted(names)[:10])
                raise UsageError(f"there are {len(names)} of them; name one with {option}", hint=some)
