"""`hybrid sync`: bring a shared folder to a remote of rclone and back, once or every so often."""

from __future__ import annotations

import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any, Literal, TypeVar

import click

from hybrid.canonical import encode
from hybrid.commands.options import FOLDER, Duration, NonEmptyText
from hybrid.errors import Temporary, UsageError
from hybrid.execution.local import chosen_folder
from hybrid.folder.medium import NotThere
from hybrid.folder.names import allowed
from hybrid.folder.object_store import directory, medium_at
from hybrid.folder.rclone import Carrier, Moved, Round, refuse_absent
from hybrid.folder.runs import join_folder
from hybrid.machine import home
from hybrid.machine.files import explain_errors
from hybrid.machine.signals import interrupt_on_termination
from hybrid.machine.terminal import clean_line, count_of

MAX_LINE = 1000
Made = TypeVar("Made")


@click.command()
@click.argument("remote", metavar="REMOTE:PATH", type=NonEmptyText())
@click.argument("folder", type=FOLDER, required=False)
@click.option(
    "--side",
    type=click.Choice(["laptop", "gpu"]),
    help="Whose files are sent from here [laptop if FOLDER is the joined one, else gpu]",
)
@click.option("--run", default="", metavar="RUN", help="Only this run, by its whole id, and no packed models.")
@click.option("--every", type=Duration(low=1), help="Go on, with so long between two rounds, until Ctrl-C.")
@click.option("--json", "as_json", is_flag=True, help="One JSON object per round.")
def sync(remote: str, folder: Path | None, side: Any, run: str, every: float | None, as_json: bool) -> int:
    """Copy FOLDER [HYBRID_FOLDER, the joined one] to REMOTE:PATH and back with this user's own rclone.

    Each file goes one way, from the side that writes it: the laptop sends runs, receipts, orders and what its own
    workers write, a GPU machine shards, heartbeats, logs and tensors; packed models go both ways. Nothing is ever
    deleted, on either side. Start it on both machines. Exit code 5: a round was not complete, the next one goes on.
    """
    _refuse_wrong(remote, run)
    place = chosen_folder(folder)
    directory(medium_at(place), "files are synced: both machines take its URL")
    interrupt_on_termination()
    code = Temporary.exit_code
    try:
        waits = partial(_patiently, every, as_json=as_json)
        carrier = waits(partial(Carrier, place, remote, side or _side_of(place), run))
        if not as_json:
            says = f"{place}, {carrier.name}: sent from here is what the {carrier.side} writes"
            click.echo(clean_line(says, MAX_LINE), err=True)
        waits(partial(_prepare, carrier, as_json=as_json))
        while True:
            done = carrier.round()
            code = done.error.exit_code if done.error else 0
            if every is None:
                _tell(done, as_json=as_json, always=True)
                if done.error:
                    raise done.error
                _refuse_absent_run(carrier, run)
                return 0
            _tell(done, as_json=as_json, always=False)
            time.sleep(every)
    except KeyboardInterrupt:
        if every is None:
            raise
        click.echo("stopped; nothing is lost, the same command goes on", err=True)
        return code


def _side_of(place: Path) -> Literal["laptop", "gpu"]:
    """The laptop's side for the folder that this machine joined (`hybrid init`), else a GPU machine's."""
    joined = home.joined_folder()
    return "laptop" if joined and joined == place.absolute() else "gpu"


def _refuse_wrong(remote: str, run: str) -> None:
    """Raise UsageError for what is no remote of rclone, or no id of a run."""
    if ":" not in remote or remote.startswith("-") or "://" in remote:
        raise UsageError(
            f"'{clean_line(remote, 100)}' is no remote of rclone", hint="REMOTE:PATH; `rclone listremotes`"
        )
    if run and not allowed(run):
        raise UsageError(
            f"'{clean_line(run, 100)}' is no id of a run", hint="the whole id, as `hybrid status` shows it"
        )


def _refuse_absent_run(carrier: Carrier, run: str) -> None:
    """Raise NotThere when the run that was named is at neither end: after a whole round it would be here."""
    if run and not (carrier.folder / "runs" / run / "run.json").is_file():
        raise NotThere(
            f"no run is called '{clean_line(run, 100)}' in {carrier.folder} or at {carrier.name}, or not yet",
            hint="the whole id, as `hybrid status` shows it",
        )


def _patiently(every: float | None, act: Callable[[], Made], *, as_json: bool) -> Made:
    """What `act` returns. With `every`, it is called again while something is away for now: a machine may start before
    its network, or before the other side has made the folder.
    """
    while True:
        try:
            return act()
        except Temporary as error:
            if every is None:
                raise
            _tell(Round(error=error), as_json=as_json, always=False)
        time.sleep(every)


def _prepare(carrier: Carrier, *, as_json: bool) -> None:
    """Look whether both ends are what they should be, and bring what this machine lacks."""
    if carrier.side == "laptop":
        join_folder(carrier.folder, make=False)
    there = carrier.check_remote()
    if not there and carrier.side == "gpu":
        raise refuse_absent(carrier.name)
    if there:
        with explain_errors(carrier.folder, doing="making the folder"):
            carrier.folder.mkdir(parents=True, exist_ok=True)
        _tell(Round(received=carrier.restore()), as_json=as_json, always=False)


def _tell(done: Round, *, as_json: bool, always: bool) -> None:
    """Print what one round moved, if it moved something or `always`; and its error, unless the command ends with it."""
    if as_json:
        moved = {"sent": done.sent.paths, "received": done.received.paths}
        sizes = {"bytes_sent": done.sent.bytes, "bytes_received": done.received.bytes}
        click.echo(encode({**moved, **sizes, "error": done.error.message if done.error else ""}))
        return
    if always or done.sent.count or done.received.count:
        click.echo(f"{time.strftime('%H:%M:%S')} sent {_words(done.sent)}; received {_words(done.received)}")
    if done.error and not always:
        click.echo(clean_line(f"waiting: {done.error.message}", MAX_LINE), err=True)


def _words(moved: Moved) -> str:
    if not moved.count:
        return "nothing"
    kinds: dict[str, int] = {}
    for path in moved.paths:
        kinds[_kind(path)] = kinds.get(_kind(path), 0) + 1
    named = ", ".join(f"{number:,} {kind}" for kind, number in sorted(kinds.items()))
    return f"{count_of(moved.count, 'file')} ({named}; {moved.bytes / 1e6:,.1f} MB)"


def _kind(path: str) -> str:
    """What a file is, by the beginning of its name: shard, beat, ack, order, log, part, model."""
    return path.rpartition("/")[2].partition("-")[0].partition(".")[0] or "other"
