"""The status of a run as text for people; unknown values are named as unknown."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from hybrid.backends.registry import NO_MODEL
from hybrid.execution.stage_view import StageView
from hybrid.folder.spec import models_of
from hybrid.machine import home
from hybrid.machine.terminal import clean_line, count_of, duration, has_or_have, per_minute
from hybrid.status.attempts import Attempt
from hybrid.status.run_status import RunStatus

MAX_LENGTH = 400
"""Most characters of a line."""
MAX_ATTEMPTS = 10
MAX_NAMES = 3
NOBODY = "no worker has begun yet"
"""Of a run of which there is nothing yet: a worker reports from the moment when it begins with something, not while it
waits for the other side.
"""
UNKNOWN = "no worker is known"
"""Of a run that has records all the same: of `run local`, or of a worker whose heartbeats are on their way."""
MIN_UNCHANGED = 60.0
"""Seconds below which the time without a change is not shown."""
MAX_REASONS = 8
MAX_REFUSED = 5
TITLE_WIDTH = 12
NOTHING = "no language model"
LOCAL = "`hybrid run local` is at work on it on this machine"


def summary_line(run: RunStatus, differences: Sequence[str] = ()) -> str:
    """The run on one line, with the settings in which it differs from other runs of its pipeline."""
    if run.error:
        return clean_line(f"{run.id}  {run.error.message}", MAX_LENGTH)
    what = ", ".join([models_text(run), *differences])
    parts = [", ".join(_counts(run)), _received(run), workers_text(run), what, _notes(run), _unchanged(run)]
    return clean_line(f"{run.id}  {'; '.join(part for part in parts if part)}", MAX_LENGTH)


def detail_lines(run: RunStatus) -> Iterator[str]:
    """All that is known of the run."""
    yield run.id
    if run.error:
        yield from titled_lines("error", [run.error.message, run.error.hint])
        return
    yield from titled_lines("what", _what(run))
    yield from titled_lines("note", list(run.notes))
    yield from titled_lines("done", _done(run))
    yield from titled_lines("safe", _safety(run))
    yield from titled_lines("workers", _workers(run))
    yield from titled_lines("waits", _waits(run))
    yield from titled_lines("next", _next(run))
    yield from titled_lines("speed", _speed(run))
    yield from titled_lines("planned", list(run.planned.lines()) if run.planned else [])
    yield from titled_lines("spent", list(run.spent.lines()))
    yield from titled_lines("orders", _orders(run))
    yield from titled_lines("passed over", _refused(run))


def titled_lines(title: str, texts: list[str]) -> Iterator[str]:
    """The non-empty texts, indented; the title stands before the first."""
    for text in filter(None, texts):
        yield clean_line(f"  {title:{TITLE_WIDTH}}{text}", MAX_LENGTH)
        title = ""


def failed_items(stages: Sequence[StageView], run: str) -> str:
    """`3 of 9 items of RUN failed`; of several stages `3 items of RUN failed (1 of 9 in 'a', 2 of 6 in 'b')`."""
    if len(stages) == 1:
        return f"{stages[0].own_failures:,} of {count_of(stages[0].total or 0, 'item')} of {run} failed"
    failed = sum(stage.own_failures for stage in stages)
    told = [f"{one.own_failures:,} of {one.total or 0:,} in '{one.name}'" for one in stages if one.own_failures]
    return f"{count_of(failed, 'item')} of {run} failed ({', '.join(told)})"


def _counts(run: RunStatus) -> list[str]:
    done, failed, total = run.sum("done"), run.failed, run.total
    so_far = " so far" if run.so_far else ""
    if run.so_far and total is None:  # of the stages after a search nothing is known before it ends
        total = run.sum("total")
    unknown = f"{count_of(done, 'item')} done, total not known"
    counts = [unknown if total is None else f"{done:,} of {count_of(total, 'item')}{so_far} done"]
    counts += [f"{failed:,} of them failed"] if failed else []
    return counts + (["cancelled"] if run.cancelled else [])


def _received(run: RunStatus) -> str:
    done, received = run.sum("done"), run.sum("received")
    open_here = "" if run.done else _amount(run.open_here, "open record")
    if not done:
        return open_here
    levels = f"{received:,} received here, {done - received:,} in the folder{open_here and f', {open_here}'}"
    return "all of them received here" if received == done else levels


def workers_text(run: RunStatus, *, names: bool = False) -> str:
    """How many workers are running and the remaining time; "" for a run that is done or cancelled."""
    if run.over:
        return ""
    if run.local:
        return LOCAL
    if not run.attempts:
        return nobody_text(run)
    running = len(run.at_work)
    if not running:
        return "no worker seems to be running"
    shown = [one.name for one in run.at_work[:MAX_NAMES]] if names else []
    named = f" ({', '.join(shown)}{' and others' if running > MAX_NAMES else ''})" if shown else ""
    items = "" if run.items_per_minute is None else f", {per_minute(run.items_per_minute)}"
    speed = f"{items}, {run.tokens_per_second:,.0f} tokens/s" if run.tokens_per_second else items
    eta = "" if run.eta_seconds is None else f", about {duration(run.eta_seconds)} to go"
    return f"{count_of(running, 'worker')} running{named}{speed}{eta}"


def nobody_text(run: RunStatus) -> str:
    """That no worker is at work, of a run of which no worker has reported anything."""
    return UNKNOWN if run.begun else NOBODY


def _notes(run: RunStatus) -> str:
    return f"note: {' / '.join(run.notes)}" if run.notes else ""


def _unchanged(run: RunStatus) -> str:
    """For how long the run has not changed, by this machine's clock; "" when that is unknown or short."""
    return f"unchanged for {duration(run.unchanged)}" if run.unchanged and run.unchanged >= MIN_UNCHANGED else ""


def cancelled_by_text(run: RunStatus) -> str:
    """` by MACHINE and MACHINE`: the machines that cancelled the run; "" when that is unknown."""
    if not run.cancelled_by:
        return ""
    return f" by {' and '.join('this machine' if one == home.machine_name() else one for one in run.cancelled_by)}"


def _what(run: RunStatus) -> list[str]:
    digests = sorted({stage.model[:12] for stage in run.stages if stage.model})
    bound = f"{'the digests are' if len(digests) > 1 else 'its digest is'} {', '.join(digests)}"
    unbound = "not bound to model files yet: the first worker's files will count"
    named = models_text(run)
    what = f"pipeline {run.about['pipeline']}, {'model ' * (named != NOTHING)}{named}"
    return [f"{what}; {bound if digests else unbound}", _unchanged(run)]


def models_text(run: RunStatus) -> str:
    """Every model of the run with its backend; further models with their roles."""
    named = [one for one in run.models if one[1] != NO_MODEL]
    return ", ".join(f"{role}{' ' * bool(role)}{name} on {backend}" for role, backend, name in named) or NOTHING


def _done(run: RunStatus) -> list[str]:
    several = len(run.stages) > 1
    lines = [text for stage in run.stages for text in _stage(stage, f"{stage.name}: " if several else "")]
    if run.why and not run.so_far:
        lines.append(f"the number of items is not known: {run.why}")
        reported = [one.total for one in run.attempts if one.total is not None]
        lines.append(f"a worker reported {reported[-1]:,.0f}" if reported else "")
    return lines


def _stage(stage: StageView, name: str) -> Iterator[str]:
    if stage.waits:
        so_far = f", {count_of(stage.done, 'item')} so far" if stage.done else ""
        yield f"{name}waits for the stage '{stage.waits}'{so_far}"
    elif stage.total is None:
        yield f"{name}{count_of(stage.done, 'item')}"
    else:
        percent = f" ({100 * stage.done // stage.total} %)" if stage.total else ""
        percent = " so far: which come next depends on the answers" if stage.so_far else percent
        yield f"{name}{stage.done:,} of {count_of(stage.total, 'item')}{percent}"
    if stage.failed:
        reasons = ", ".join(f"{kind} {count:,}" for kind, count in list(stage.reasons.items())[:MAX_REASONS])
        more = ", and others" if len(stage.reasons) > MAX_REASONS else ""
        earlier = f"; {stage.handed_on:,} of them in an earlier stage" if stage.handed_on else ""
        yield f"{name}{stage.failed:,} of these failed: {reasons}{more}{earlier}"
    if stage.again:
        yield f"{name}{stage.again:,} more failed and are to be done again, as ordered"
    if stage.strange:
        yield f"{name}{count_of(stage.strange, 'record')} of no item of the run, not counted"


def _safety(run: RunStatus) -> list[str]:
    """The levels at which records are safe, the safest first."""
    done, received, copies = run.sum("done"), run.sum("received"), count_of(run.sum("copies"), "shard")
    here = f"{count_of(received, 'item')} received and verified here: {copies} on this machine's disk"
    in_folder = f"{count_of(done - received, 'item')} in the folder alone, verified from here"
    fetch = f"`hybrid fetch {run.id}` copies them to this machine" if done > received else ""
    return [here, in_folder, fetch, *_on_workers(run)]


def _on_workers(run: RunStatus) -> list[str]:
    """What exists on the workers' machines alone, as they reported it."""
    if run.done:
        return []
    lines = []
    if run.open_here:
        lines.append(f"{_amount(run.open_here, 'open record')} on this machine alone, kept when the run goes on here")
    if not run.attempts:
        return lines or ["what a worker's machine alone may hold is not known"]
    for one in run.attempts[-MAX_ATTEMPTS:]:
        parts = [_amount(one.open_records, "open record"), _amount(one.waiting, "file")]
        if any(parts):
            lines.append(f"{' and '.join(filter(None, parts))} on the machine of {one.name} alone, {_reported(one)}")
    return lines or ["nothing else on the workers' machines, as they last reported"]


def _amount(number: float | None, what: str) -> str:
    return count_of(round(number), what) if number else ""


def _reported(attempt: Attempt) -> str:
    if attempt.silent_seconds is None:
        clock = f" (at {attempt.worker_time} by its own clock)" if attempt.worker_time else ""
        return f"as it reported at an unknown time{clock}"
    if attempt.silent_seconds < 1:
        return "as it reported just now"
    return f"as it reported {duration(attempt.silent_seconds)} ago"


def _workers(run: RunStatus) -> list[str]:
    if run.local:
        return [LOCAL]
    if not run.attempts:
        if run.done:
            return ["no worker took part"]
        if run.begun:
            return [f"{UNKNOWN}: `hybrid run local` began it, or heartbeats are still on their way"]
        return [f"{NOBODY}; one that waits for the other side reports nothing"]
    ended = sum(one.state == "ended" for one in run.attempts)
    others = [one for one in run.attempts if one.state != "ended"]
    lines = [text for one in others[-MAX_ATTEMPTS:] for text in _worker(one)]
    if len(others) > MAX_ATTEMPTS:
        lines.append(f"{len(others) - MAX_ATTEMPTS:,} more, earlier by name")
    if ended:
        have_ended = f"{has_or_have(ended)} ended"
        lines.append(f"{ended:,} more {have_ended}" if others else f"none is running; {ended:,} {have_ended}")
    return lines


def _waits(run: RunStatus) -> list[str]:
    """What each side does or waits for, where more than one has something to do."""
    if run.cancelled or run.local or len(run.sides) == 1:
        return []
    return [str(side) for side in run.sides]


def _next(run: RunStatus) -> list[str]:
    """What goes on with a run that nobody is at work on."""
    if not run.stopped or not run.next_command:
        return []
    local = not run.attempts and all(one.digest for one in models_of(run.spec).values())  # it binds every model
    again = "if `hybrid run local` began it, the same command again also goes on" if local else ""
    return [run.next_command, again]


def _worker(one: Attempt) -> Iterator[str]:
    hardware = ", ".join(filter(None, [_gpu(one), _disk(one)]))
    yield f"{one.name}: {_heartbeat(one)}{'; ' if hardware else ''}{hardware}"
    if one.round is not None:
        metrics = ", ".join(f"{name} {value:.4g}" for name, value in one.metrics.items())
        yield f"  last round of '{one.series}': {one.round}{': ' if metrics else ''}{metrics}"
    for subject, message in one.troubles.items():
        yield f"  problem with {subject}: {message}"


def _heartbeat(one: Attempt) -> str:
    if one.silent_seconds is None:
        clock = f" (written at {one.worker_time} by its own clock)" if one.worker_time else ""
        return f"its heartbeat is seen for the first time, so its age is not known{clock}"
    if one.state == "working":
        age = f"{duration(one.silent_seconds)} ago" if one.silent_seconds >= 1 else "just now"
        return f"running, last heartbeat {age}"
    gone = "probably gone: others take over its items" if one.state == "gone" else "doubtful"
    return f"no heartbeat for {duration(one.silent_seconds)} by this machine's clock, {gone}"


def _gpu(one: Attempt) -> str:
    gpu = one.gpu
    if not gpu or one.device == "cpu":
        return f"on the {one.device}" if one.device else ""
    used, total, busy = gpu["memory_used"], gpu["memory_total"], gpu["busy"]
    memory = "" if used is None or total is None else f": {used / 1024:.1f} of {total / 1024:.1f} GiB"
    power = one.usage.last("power") if one.usage else None
    known = ["" if busy is None else f"{busy:.0f} % busy", "" if power is None else f"{power:.0f} W"]
    return ", ".join(filter(None, [f"{gpu['name'] or 'GPU'}{memory}", *known]))


def _disk(one: Attempt) -> str:
    return f"{one.disk_free / 1e9:,.1f} GB of disk free" if one.disk_free is not None else ""


def _speed(run: RunStatus) -> list[str]:
    if run.over or not run.at_work:
        return []
    generated, prompt = run.tokens_per_second, run.prompt_tokens_per_second
    items, eta = run.items_per_minute, run.eta_seconds
    parts = [
        "" if items is None else per_minute(items),
        f"{prompt:,.0f} prompt tokens/s" if prompt else "",
        f"{generated:,.0f} new tokens/s" if generated else "",
    ]
    known = ", ".join(filter(None, parts))
    speed = f"{known}, as the workers reported" if known else "not known yet"
    return [speed, "remaining time not known" if eta is None else f"about {duration(eta)} to go at this speed"]


def _orders(run: RunStatus) -> list[str]:
    stop = f"cancelled{cancelled_by_text(run)}: workers stop; the same `hybrid run remote` again undoes it"
    if run.forgotten:
        stop = f"forgotten{cancelled_by_text(run)}: `hybrid forget {run.id} --undo --everywhere` undoes it"
    retry = f"`hybrid retry {run.id}` asks for the failed items again" if run.failed and run.done else ""
    return [stop if run.cancelled or run.forgotten else "", retry]


def _refused(run: RunStatus) -> list[str]:
    if not run.refused:
        return []
    more = len(run.refused) - MAX_REFUSED
    end = count_of(more, "more file") if more > 0 else ""
    return [*run.refused[:MAX_REFUSED], end, "`hybrid doctor` explains them"]
