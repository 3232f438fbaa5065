"""`hybrid init`, `fetch`, `retry`, `cancel` and `forget`: the laptop's commands for a shared folder."""

from __future__ import annotations

from contextlib import suppress
from pathlib import Path

import click

from hybrid.canonical import encode
from hybrid.commands.failures import missed
from hybrid.commands.options import FOLDER, FOLDER_HELP, OUTPUT_HELP, OUTPUTS, NonEmptyText
from hybrid.commands.stdout import STDOUT, copy_to_stdout, refuse_both_on_stdout, spare_path
from hybrid.errors import BadData, CannotRun, NotFinished, UsageError
from hybrid.execution.local import chosen_folder, note_outputs, opened_run, outputs_path
from hybrid.folder.runs import folder_above, join_folder
from hybrid.laptop import remote_runs
from hybrid.laptop.forgetting import forget as hide
from hybrid.laptop.forgetting import recall
from hybrid.machine import home
from hybrid.machine.terminal import clean_line, count_of, has_or_have, is_or_are, was_or_were
from hybrid.outputs import stale_words

MAX_LINE = 1000


@click.command()
@click.argument("folder", type=FOLDER)
def init(folder: Path) -> None:
    """Make FOLDER a shared folder, or join it, and use it from now on when none is named.

    Do it once on the laptop, in the part of Drive, Syncthing or rclone that both sides see, or in an object store:
    s3://BUCKET/PREFIX, gs://BUCKET/PREFIX. A GPU machine only needs `hybrid worker FOLDER`.
    """
    if above := folder_above(folder):
        raise UsageError(f"{home.shown(folder)} lies in the folder {above}", hint=f"join that: hybrid init {above}")
    join_folder(folder, make=True)
    before = None
    with suppress(BadData):  # a damaged file is replaced
        before = home.joined_folder()
    if before and before != folder.absolute():
        click.echo(f"until now it was {clean_line(home.shown(before), MAX_LINE)}", err=True)
    home.set_joined_folder(folder)
    click.echo(home.shown(folder))


@click.command()
@click.argument("run", type=NonEmptyText())
@click.option("--folder", type=FOLDER, help=FOLDER_HELP)
@click.option("-o", "--output", type=OUTPUTS, help=OUTPUT_HELP)
@click.option("--rollouts", is_flag=True, help="Also what the nodes of a swarm have published, for `hybrid replay`.")
@click.option("--json", "as_json", is_flag=True, help="One JSON object instead of words.")
def fetch(run: str, folder: Path | None, output: Path | None, rollouts: bool, as_json: bool) -> None:
    """Copy the results of RUN that have arrived to this machine: verify, acknowledge, assemble outputs.json.

    Repeat it as often as you like. The GPU machine deletes its copies of acknowledged shards.
    """
    refuse_both_on_stdout(output, as_json=as_json)
    place = chosen_folder(folder)
    named = opened_run(place, run)
    outputs = outputs_path(place, named) if output in (None, STDOUT) else output
    with spare_path() as spare:
        done = remote_runs.fetch(place, named.id, outputs, spare if output == STDOUT else None, published=rollouts)
        if output not in (None, STDOUT) and not done.waits:
            note_outputs(place, named, outputs)
        if as_json:
            click.echo(encode(_as_json(done)))
        else:
            for line in (*fetched_lines(done), *stale_words(outputs)):
                click.echo(clean_line(line, MAX_LINE), err=True)
            if output == STDOUT and not done.waits:
                copy_to_stdout(done.outputs)
            elif not done.waits:
                click.echo(done.outputs)
    check(done)


def _as_json(done: remote_runs.Fetched) -> dict[str, object]:
    return {
        "run": done.run.id,
        "new_shards": done.new.shards,
        "new_records": done.new.records,
        "new_segments": done.new.segments,
        "healed": done.new.healed,
        "refused": done.new.refused,
        "items": done.items,
        "missing": done.missing,
        "failed": done.failed,
        "again": done.again,
        "waits": done.waits,
        "outputs": str(done.outputs),
        "sha256": done.sha256,
    }


def fetched_lines(done: remote_runs.Fetched) -> list[str]:
    """The result of a fetch in words."""
    here = done.items - done.missing
    records, shards = count_of(done.new.records, "record"), count_of(done.new.shards, "shard")
    new = f"{records} in {shards} {is_or_are(done.new.records)} new"
    lines = [f"{done.run.id}: {new}; {here:,} of {count_of(done.items, 'item')} {is_or_are(here)} here"]
    if done.new.healed:
        shards, was = count_of(done.new.healed, "shard"), was_or_were(done.new.healed)
        lines.append(f"{shards} {was} damaged or gone on this machine and {was} taken over again")
    if done.new.segments:
        lines.append(f"{count_of(done.new.segments, 'published file')} {is_or_are(done.new.segments)} new here")
    lines += [f"passed over: {reason}" for reason in done.new.refused[:10]]
    if len(done.new.refused) > 10:
        lines.append(f"passed over: {count_of(len(done.new.refused) - 10, 'more file')}; `hybrid doctor` explains each")
    return lines


def check(done: remote_runs.Fetched) -> None:
    """Raise Temporary or CannotRun when the acknowledgement was not written, NotFinished while items are missing,
    Missed when some failed.
    """
    if unsent := done.new.unsent:
        again = "the workers keep their copies until this is fetched again where the folder can be written"
        raise type(unsent)(
            f"what is here could not be acknowledged: {unsent.message}",
            hint=f"nothing is lost; {again if isinstance(unsent, CannotRun) else unsent.hint}",
        )
    if done.waits:
        raise NotFinished(done.waits, hint="`hybrid status` tells who works on it; fetch again later")
    items = f"{count_of(done.items, 'item')} of {done.run.id}"
    if done.missing:
        raise NotFinished(
            f"{done.missing:,} of {items} {has_or_have(done.missing)} not arrived",
            hint="`hybrid status` tells who works on it; fetch again later",
        )
    if done.again:
        raise NotFinished(
            f"{count_of(done.again, 'failed item')} of {done.run.id} {is_or_are(done.again)} to be done again",
            hint="a worker does them when it sees the order; fetch again later",
        )
    if done.failed:
        raise missed(done.run, done.stages, done.outputs, f"`hybrid retry {done.run.id}` asks for them again")


@click.command()
@click.argument("run", type=NonEmptyText())
@click.option("--folder", type=FOLDER, help=FOLDER_HELP)
def cancel(run: str, folder: Path | None) -> None:
    """Ask the workers of RUN to stop. Nothing is deleted; `hybrid run remote` again undoes it."""
    place = chosen_folder(folder)
    named = remote_runs.cancel(place, opened_run(place, run).id)
    click.echo(f"{named.id}: cancelled; its workers stop when they see this", err=True)


@click.command()
@click.argument("run", type=NonEmptyText())
@click.option("--folder", type=FOLDER, help=FOLDER_HELP)
@click.option("--everywhere", is_flag=True, help="For every machine, by a marker in the folder; its workers stop, too.")
@click.option("--undo", is_flag=True, help="Show it again; with --everywhere, its workers continue.")
def forget(run: str, folder: Path | None, everywhere: bool, undo: bool) -> None:
    """Hide RUN from `hybrid status` on this machine. Nothing is deleted; submitting it again shows it, too."""
    place = chosen_folder(folder)
    named = (recall if undo else hide)(place, run, everywhere=everywhere)
    where = "everywhere" if everywhere else "on this machine"
    done = "is shown again" if undo else "is forgotten"
    click.echo(f"{named}: {done} {where}; `hybrid status --all` tells of forgotten runs, too", err=True)


@click.command()
@click.argument("run", type=NonEmptyText())
@click.option("--folder", type=FOLDER, help=FOLDER_HELP)
def retry(run: str, folder: Path | None) -> None:
    """Ask for the failed items of RUN again, and only for those. Old failures count until there are answers."""
    place = chosen_folder(folder)
    named, count = remote_runs.retry(place, opened_run(place, run).id)
    failed = f"{count_of(count, 'failed item')} {is_or_are(count)}"
    click.echo(f"{named.id}: {failed} to be done again, by the next worker that sees this", err=True)
