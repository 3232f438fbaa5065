"""How a run stands, in plain words. What is not known is said not to be known."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from hybrid.execution.stage_view import StageView
from hybrid.machine import home
from hybrid.machine.terminal import clean_line, count_of, duration, per_minute
from hybrid.status.attempts import Attempt
from hybrid.status.standing import RunStanding

LONGEST = 400
MOST_ATTEMPTS = 10
MOST_NAMES = 3
NEW = 60.0
"""Seconds below which nobody asks how old it is."""
MOST_REASONS = 8
MOST_REFUSED = 5
MARGIN = 12


def line(run: RunStanding, apart: Sequence[str] = ()) -> str:
    """The run on one line. `apart` is what tells it from others of its pipeline."""
    if run.error:
        return clean_line(f"{run.id}  {run.error.message}", LONGEST)
    what = models(run)
    parts = [", ".join(_counted(run)), _safe(run), who(run), ", ".join([what, *apart]), _noted(run), _age(run)]
    return clean_line(f"{run.id}  {'; '.join(part for part in parts if part)}", LONGEST)


def lines(run: RunStanding) -> Iterator[str]:
    """All that is known of the run."""
    yield run.id
    if run.error:
        yield from rows("error", [run.error.message, run.error.hint])
        return
    yield from rows("what", _what(run))
    yield from rows("note", list(run.notes))
    yield from rows("done", _done(run))
    yield from rows("safe", _levels(run))
    yield from rows("at work", _workers(run))
    yield from rows("pace", _pace(run))
    yield from rows("orders", _orders(run))
    yield from rows("passed over", _refused(run))


def rows(title: str, texts: list[str]) -> Iterator[str]:
    """Lines under a title, which stands before the first of them."""
    for text in filter(None, texts):
        yield clean_line(f"  {title:{MARGIN}}{text}", LONGEST)
        title = ""


def _counted(run: RunStanding) -> list[str]:
    done, failed, total = run.sum("done"), run.failed, run.total
    unknown = f"{count_of(done, 'item')} done, of how many is not known"
    told = unknown if total is None else f"{done:,} of {count_of(total, 'item')} done"
    return [told, *filter(None, [f"{failed:,} of them failed" if failed else "", "cancelled" if run.cancelled else ""])]


def _safe(run: RunStanding) -> str:
    done, received = run.sum("done"), run.sum("received")
    if not done:
        return ""
    levels = f"{received:,} received here, {done - received:,} in the folder"
    return "all of them received here" if received == done else levels


def who(run: RunStanding, *, names: bool = False) -> str:
    """Who works on it and how long it takes, "" when there is nothing to wait for."""
    if run.over:
        return ""
    if not run.attempts:
        return "nothing was ever heard of a worker"
    working = len(run.at_work)
    if not working:
        return "nobody seems to be at work"
    known = [one.name for one in run.at_work[:MOST_NAMES]] if names else []
    called = f" ({', '.join(known)}{' and others' if working > MOST_NAMES else ''})" if known else ""
    items = "" if run.items_per_minute is None else f", {per_minute(run.items_per_minute)}"
    pace = items if run.tokens_per_second is None else f"{items}, {run.tokens_per_second:,.0f} tokens/s"
    eta = "" if run.eta_seconds is None else f", about {duration(run.eta_seconds)} to go"
    return f"{working} at work{called}{pace}{eta}"


def _noted(run: RunStanding) -> str:
    return f"note: {' / '.join(run.notes)}" if run.notes else ""


def _age(run: RunStanding) -> str:
    """How long nothing has changed, by this machine's clock; "" when that is not known, or has no time yet."""
    return f"nothing new for {duration(run.unchanged)}" if run.unchanged and run.unchanged >= NEW else ""


def by_whom(run: RunStanding) -> str:
    """Whose cancel stands, as far as that is known."""
    if not run.cancelled_by:
        return ""
    return f" by {' and '.join('this machine' if one == home.machine_name() else one for one in run.cancelled_by)}"


def _what(run: RunStanding) -> list[str]:
    about = run.about
    bound = sorted({stage.model[:12] for stage in run.stages if stage.model})
    digest = (
        f"{'the digests are' if len(bound) > 1 else 'its digest is'} {', '.join(bound)}"
        if bound
        else "not bound to its files yet: the first worker's count"
    )
    return [f"pipeline {about['pipeline']}, model {models(run)}; {digest}", _age(run)]


def models(run: RunStanding) -> str:
    """Every model of the run with its backend, the further ones with their roles."""
    return ", ".join(f"{role}{' ' * bool(role)}{name} on {backend}" for role, backend, name in run.models)


def _done(run: RunStanding) -> list[str]:
    several = len(run.stages) > 1
    told = [text for stage in run.stages for text in _stage(stage, f"{stage.name}: " if several else "")]
    if run.why:
        told.append(f"how many items there are is not known: {run.why}")
        said = [one.total for one in run.attempts if one.total is not None]
        told.append(f"a worker said {said[-1]:,.0f}" if said else "")
    return told


def _stage(stage: StageView, name: str) -> Iterator[str]:
    if stage.waits:
        yield f"{name}waits for the stage '{stage.waits}'" + (
            f", {count_of(stage.done, 'item')} so far" if stage.done else ""
        )
    elif stage.total is None:
        yield f"{name}{count_of(stage.done, 'item')}"
    else:
        share = f" ({100 * stage.done // stage.total} %)" if stage.total else ""
        yield f"{name}{stage.done:,} of {count_of(stage.total, 'item')}{share}"
    if stage.failed:
        shown = list(stage.reasons.items())[:MOST_REASONS]
        reasons = ", ".join(f"{kind} {count:,}" for kind, count in shown)
        more = ", and others" if len(stage.reasons) > MOST_REASONS else ""
        handed_on = f"; {stage.handed_on:,} of them in an earlier stage" if stage.handed_on else ""
        yield f"{name}{stage.failed:,} of these failed: {reasons}{more}{handed_on}"
    if stage.again:
        yield f"{name}{stage.again:,} more failed and are to be done again, as ordered"
    if stage.strange:
        yield f"{name}{count_of(stage.strange, 'record')} of no item of the run, not counted"


def _levels(run: RunStanding) -> list[str]:
    """Where records are safe, the safest first."""
    done, received, copies = run.sum("done"), run.sum("received"), count_of(run.sum("copies"), "shard")
    here = f"{count_of(received, 'item')} received and verified here: {copies} on this machine's disk"
    there = f"{count_of(done - received, 'item')} in the folder alone, verified from here"
    fetch = f"`hybrid fetch {run.id}` takes over what is in the folder" if done > received else ""
    return [here, there, fetch, *_only_there(run)]


def _only_there(run: RunStanding) -> list[str]:
    """What is on the machines of workers alone, as they said."""
    if run.done:
        return []
    if not run.attempts:
        return ["what a GPU machine alone may hold is not known"]
    told = []
    for one in run.attempts[-MOST_ATTEMPTS:]:
        parts = [_amount(one.open_records, "open record"), _amount(one.waiting, "file")]
        if any(parts):
            told.append(f"{' and '.join(filter(None, parts))} on the machine of {one.name} alone, {_when(one)}")
    return told or ["nothing else on the workers' machines, as they last said"]


def _amount(number: float | None, what: str) -> str:
    return count_of(round(number), what) if number else ""


def _when(attempt: Attempt) -> str:
    if attempt.silent is None:
        clock = f", at {attempt.stamp} by its own clock" if attempt.stamp else ""
        return f"as it said some time ago{clock}"
    return f"as it said {duration(attempt.silent)} ago" if attempt.silent >= 1 else "as it said just now"


def _workers(run: RunStanding) -> list[str]:
    if not run.attempts:
        return ["nothing was ever heard of a worker"]
    ended = [one for one in run.attempts if one.state == "ended"]
    others = [one for one in run.attempts if one.state != "ended"]
    told = [text for one in others[-MOST_ATTEMPTS:] for text in _worker(one)]
    if len(others) > MOST_ATTEMPTS:
        told.append(f"{len(others) - MOST_ATTEMPTS:,} more, earlier by name")
    if ended:
        have = "has" if len(ended) == 1 else "have"
        told.append(f"{len(ended):,} more {have} ended" if others else f"nobody; {len(ended):,} {have} ended")
    return told


def _worker(one: Attempt) -> Iterator[str]:
    hardware = ", ".join(filter(None, [_gpu(one), _disk(one)]))
    yield f"{one.name}: {_silence(one)}{'; ' if hardware else ''}{hardware}"
    for what, words in one.troubles.items():
        yield f"  it has trouble with {what}: {words}"


def _silence(one: Attempt) -> str:
    if one.silent is None:
        clock = f"; its own clock said {one.stamp}" if one.stamp else ""
        return f"heard of for the first time now, how long ago it said so is not known{clock}"
    if one.state == "working":
        return f"working, last heard of {duration(one.silent)} ago" if one.silent >= 1 else "working, just heard of"
    gone = ", probably gone: others take over its items" if one.state == "gone" else ", doubtful"
    return f"silent for {duration(one.silent)} by this machine's clock{gone}"


def _gpu(one: Attempt) -> str:
    gpu = one.gpu
    if not gpu:
        return ""
    used, total, busy = gpu["memory_used"], gpu["memory_total"], gpu["busy"]
    memory = "" if used is None or total is None else f": {used / 1024:.1f} of {total / 1024:.1f} GiB"
    return f"{gpu['name'] or 'GPU'}{memory}" + (f", {busy:.0f} % busy" if busy is not None else "")


def _disk(one: Attempt) -> str:
    return f"{one.disk_free / 1e9:,.1f} GB of disk free" if one.disk_free is not None else ""


def _pace(run: RunStanding) -> list[str]:
    if run.over or not run.at_work:
        return []
    tokens, prompts = run.tokens_per_second, run.prompt_tokens_per_second
    items, eta = run.items_per_minute, run.eta_seconds
    told = [
        "" if items is None else per_minute(items),
        "" if prompts is None else f"{prompts:,.0f} tokens of prompts a second",
        "" if tokens is None else f"{tokens:,.0f} new tokens a second",
    ]
    known = ", ".join(filter(None, told))
    speed = f"{known}, as the workers said" if known else "how fast is not known yet"
    return [speed, "how long it takes is not known" if eta is None else f"about {duration(eta)} to go at this pace"]


def _orders(run: RunStanding) -> list[str]:
    stop = f"cancelled{by_whom(run)}: workers stop; the same `hybrid run remote` again takes it back"
    if run.forgotten:
        stop = f"forgotten{by_whom(run)}: `hybrid forget {run.id} --undo --everywhere` takes it back"
    cancelled = stop if run.cancelled or run.forgotten else ""
    failed = run.failed
    retry = f"`hybrid retry {run.id}` asks for the failed items again" if failed and run.done else ""
    return [cancelled, retry]


def _refused(run: RunStanding) -> list[str]:
    if not run.refused:
        return []
    more = len(run.refused) - MOST_REFUSED
    end = count_of(more, "more file") if more > 0 else ""
    return [*run.refused[:MOST_REFUSED], end, "`hybrid doctor` explains them"]
