"""`hybrid worker`: do the stages of runs in the folder that this machine can do."""

from __future__ import annotations

import math
import re
import sys
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import click

from hybrid.backends.options import pairs
from hybrid.commands.cluster import arguments_again, start_on_cluster
from hybrid.commands.options import FOLDER, SHARD_SECONDS, Duration, FiniteRange, TimeOfDay
from hybrid.errors import HybridError, Missed, UsageError
from hybrid.execution.capabilities import Machine
from hybrid.execution.local import chosen_folder
from hybrid.folder.child import IsolatedFolder
from hybrid.folder.leases import LeaseTimeouts
from hybrid.folder.medium import Disk
from hybrid.folder.names import new_attempt
from hybrid.folder.recovery import Journals
from hybrid.folder.runs import check_mark
from hybrid.machine import home
from hybrid.machine.clock import SystemClock
from hybrid.machine.nvidia import gpus
from hybrid.machine.terminal import clean_line, count_of
from hybrid.plan.refusal import refuse_unfitting
from hybrid.worker.group import Group, Member, chosen_devices, end_with_parent
from hybrid.worker.process import alive, has_ended, serve
from hybrid.worker.siblings import Siblings
from hybrid.worker.worker import Worker, WorkerOptions

MAX_LINE = 1000
GPUS_OPTION = re.compile(r"(?:[^=]*=)?gpus=([0-9]{1,3})")
"""The option of a backend, perhaps of a role, that has several GPUs share one model."""
IDLE, PATIENCE = 600.0, 86_400.0
"""Seconds without work after which a worker leaves; of a laptop, which costs nothing, while it waits for the
GPU side, or for a server that is away.
"""


@click.command()
@click.argument("folder", type=FOLDER, required=False)
@click.option("--run", default="", metavar="RUN", help="Only this run: its id or the beginning of it.")
@click.option(
    "--side",
    type=click.Choice(["gpu", "laptop", "any"]),
    help="Only stages of this side [those that this machine can do]",
)
@click.option("--once", is_flag=True, help="Do what can be done now, then leave.")
@click.option(
    "--max-idle",
    type=Duration(),
    help="Leave after so long without work [10m; 24h on the laptop side while a run waits for others]",
)
@click.option("--until", type=TimeOfDay(), help="Leave in time: 17:30, or a duration such as 11h30m.")
@click.option("--linger", type=Duration(), default="60s", show_default=True, help="Longest wait for receipts.")
@click.option("--model", "models", multiple=True, metavar="NAME=PATH", help="Where the model NAME of a run is here.")
@click.option(
    "--backend-option",
    "options",
    multiple=True,
    metavar="NAME=VALUE",
    help="An option of the backend on this machine; not part of the run.",
)
@click.option("--gpus", default="", metavar="all|0,1", help="Start one worker for each GPU, or for these.")
@click.option("--member", is_flag=True, hidden=True, help="One of the processes that --gpus starts.")
@SHARD_SECONDS
@click.option("--beat", type=FiniteRange(1, 3600), default=120, show_default=True, help="Seconds between heartbeats.")
@click.option(
    "--idle-alarm",
    type=Duration(low=1),
    default="10m",
    show_default=True,
    help="Report a GPU that is idle for so long while no item is finished.",
)
@click.option("--ray", metavar="ADDRESS", help="One worker a GPU of this Ray cluster: auto, or HOST:PORT.")
@click.option("--workers", type=click.IntRange(1, 1000), help="With --ray: how many [one a GPU].")
@click.option(
    "--mount-limit", type=FiniteRange(1, 3600), default=120, show_default=True, help="Seconds a mount may hang."
)
def worker(folder: Path | None, run: str, side: str | None, models: tuple[str, ...], **how: Any) -> None:
    """Run the remaining items of the runs in FOLDER [HYBRID_FOLDER, the joined one]; leave when there are none.

    Results are written to this machine's own disk, then to the folder, and are kept here until the laptop has
    acknowledged them. Stop it with Ctrl-C or SIGTERM, or kill it: the same command continues.
    """
    if how["ray"] or how["workers"]:
        if how["gpus"]:
            raise UsageError("--gpus is for this machine and --ray for a cluster", hint="name one of them")
        start_on_cluster(click.get_current_context(), chosen_folder(folder).absolute(), _say)
        return
    place, clock = chosen_folder(folder), SystemClock()
    dict(pairs("--backend-option", how["options"]))  # raises UsageError now, not when the first run is opened
    dict(pairs("--model", models))
    isolated = IsolatedFolder(place, seconds=how["mount_limit"])
    try:
        check_mark(isolated)
    except HybridError:
        isolated.close()
        raise
    until = clock.now() + (math.inf if how["until"] is None else how["until"])
    if how["gpus"]:
        isolated.close()
        _one_a_gpu(click.get_current_context(), place.absolute(), clock, until)
        return
    options = WorkerOptions(
        sides=sides(side),
        run=run,
        once=how["once"],
        max_idle=IDLE if how["max_idle"] is None else how["max_idle"],
        max_wait=PATIENCE if how["max_idle"] is None and sides(side) == ("laptop",) else 0.0,
        until=until,
        linger=how["linger"],
        shard_seconds=how["shard_seconds"],
        idle_alarm=how["idle_alarm"],
        timeouts=LeaseTimeouts(how["beat"]),
    )
    if how["member"]:
        end_with_parent()
    here = Machine(models, how["options"], home.spool_of(place), refuse_unfitting)
    _report(_worked(isolated, here, clock, options, _show if how["member"] else _say), here)


def _worked(
    folder: IsolatedFolder, here: Machine, clock: SystemClock, options: WorkerOptions, show: Callable[[str], None]
) -> Worker:
    """A worker that has ended. Raises the error that it ended with."""
    attempt, spool = new_attempt(on_laptop="gpu" not in options.sides), home.spool_of(folder.root)
    with alive(spool / "locks", attempt) as gone:
        ended = partial(has_ended, spool / "locks")
        siblings = Siblings(spool / "claims.sqlite", attempt, clock, ended, options.timeouts, gone)
        this_worker = Worker(folder, Disk(spool), clock, here, options, attempt=attempt, gone=gone, siblings=siblings)
        this_worker.journals = Journals(home.journals_of(folder.root))
        _say(f"worker {attempt} on {folder}, for the side{'s' * (len(options.sides) > 1)} {', '.join(options.sides)}")
        others = [other for other in spool.parent.glob("*/runs/*/*/*/*/shard-*") if spool not in other.parents]
        if others:
            _say(
                f"{count_of(len(others), 'shard')} of a folder at another place in {spool.parent}: mount it there again"
            )
        try:
            serve(this_worker, _say, show)
        finally:
            folder.close()
            siblings.close()
    return this_worker


def sides(side: str | None) -> tuple[str, ...]:
    """The sides whose stages this machine does: with a GPU only `gpu`, unless `--side` names another."""
    if side == "any":
        return ("gpu", "laptop")
    return (side or ("gpu" if gpus() else "laptop"),)


def _one_a_gpu(context: click.Context, folder: Path, clock: SystemClock, until: float) -> None:
    """Run the command of `context` once for each GPU that its option `--gpus` names, or for `gpus=N` of them each.

    Raises the worst error of theirs.
    """
    given = context.params
    each = [int(found[1]) for one in given["options"] if (found := GPUS_OPTION.fullmatch(one))]
    devices = chosen_devices(given["gpus"], max(each, default=1) or 1)
    again = list(arguments_again(context, ("gpus", "until")))

    def command() -> list[str]:
        left = [] if math.isinf(until) else [f"--until={max(0.0, until - clock.now()):f}"]
        return [sys.executable, "-P", "-m", "hybrid", "worker", str(folder), "--member", *left, *again]

    _say(f"one worker for each of: {', '.join(f'GPU {one}' for one in devices)}")
    Group([Member(one) for one in devices], command, _say).run()


def _show(line: str) -> None:
    """A line of progress, for the parent."""
    click.echo(clean_line(line, MAX_LINE))


def _say(line: str) -> None:
    click.echo(clean_line(line, MAX_LINE), err=True)


def _report(this_worker: Worker, here: Machine) -> None:
    for text in here.unused_models() if this_worker.run_states else ():
        _say(f"--model {text} was not needed: of the runs with something to do here, none has a model of that name")
    waiting = len(this_worker.spool.unreceipted)
    if waiting:
        _say(
            f"{count_of(waiting, 'shard')} in the folder without a receipt: `hybrid fetch` on the laptop gives it."
            " Until then this machine keeps a copy"
        )
    if not this_worker.run_states:
        _say("there is no run in the folder")
    elif all(run_state.state == "done" for run_state in this_worker.run_states.values()):
        _say("all runs are done")
    failed = sum(run_state.failed for run_state in this_worker.run_states.values())
    if failed:
        raise Missed(f"{count_of(failed, 'item')} failed", hint="`hybrid retry RUN` asks for them again")
