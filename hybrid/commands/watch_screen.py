"""What `hybrid status --watch` shows on a terminal: a page of rows about one run or several.

Every text from a run, a file or another machine is cleaned of what a terminal would obey.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field

from rich.console import Console, ConsoleOptions, RenderResult
from rich.text import Text

from hybrid.execution.stage_view import StageView
from hybrid.machine.terminal import clean_line, count_of, duration, per_minute
from hybrid.machine.usage import Usage, watt_hours
from hybrid.status.attempts import Attempt
from hybrid.status.run_status import RunStatus
from hybrid.status.sparklines import Trend, recent, sparkline
from hybrid.status.text import LOCAL, models_text, nobody_text

MAX_TEXT = 400
MAX_REASONS = 8
MAX_WORKERS = 50
MAX_REFUSED = 5
TITLE = 9
BAR, SMALL_BAR, SPARK, SMALL_SPARK = 30, 16, 30, 12
WIDE = 100
"""Columns from which on bars and sparklines have their full length."""
PROBLEM = "bold red"

Parts = Sequence[tuple[float | None, str, str, str]]
"""Of a bar: how many, the character, its ASCII stand-in, the style."""


@dataclass(frozen=True, slots=True)
class Look:
    """What a page is drawn from. `trends` are those of the runs by id, `stale` what is said of outdated grades, `named`
    whether one run was asked for; `differences` are the settings in which runs differ.
    """

    runs: Sequence[RunStatus] = ()
    named: bool = False
    trends: Mapping[str, Trend] = field(default_factory=dict)
    differences: Mapping[str, Sequence[str]] = field(default_factory=dict)
    stale: Sequence[str] = ()


@dataclass(frozen=True, slots=True)
class Page:
    """A screen: as many rows about a look as fit, from row `first` on, over a footer."""

    look: Look | None
    title: str
    footer: str
    first: int = 0

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> RenderResult:
        height = max(2, options.height or console.size.height)
        yield line(self.title, "bold reverse", width=options.max_width)
        rows = list(rows_of(self.look, options.max_width, only_ascii=options.ascii_only)) if self.look else []
        room = height - 2
        first = max(0, min(self.first, len(rows) - room))
        shown = rows[first : first + room]
        if shown and first + room < len(rows):
            hidden = len(rows) - first - room + 1
            shown[-1:] = [line(f"{count_of(hidden, 'more row')} below: the key j, or a taller window", "dim")]
        yield from shown
        for _ in range(room - len(shown)):
            yield line("")
        yield line(self.footer, "dim")


def rows_of(look: Look, width: int, *, only_ascii: bool = False) -> Iterator[Text]:
    """The rows of a page, each of which is cut where the terminal ends."""
    pen = _Pen(width, only_ascii)
    if not look.named:
        for run in look.runs:
            yield from _summary(run, pen, look)
        if not look.runs:
            yield line("there is no run in the folder yet, or all were forgotten (--all)")
        return
    for run in look.runs:
        yield from _details(run, pen, look)


def line(text: str, style: str = "", *, width: int = 0) -> Text:
    """One row of untrusted text, filled up to `width`."""
    return Text(clean_line(text, MAX_TEXT).ljust(width), style, no_wrap=True, overflow="ellipsis", end="\n")


@dataclass(frozen=True, slots=True)
class _Pen:
    """Draws bars and sparklines for a terminal of a width."""

    width: int
    only_ascii: bool

    def bar(self, parts: Parts, total: float, *, small: bool = False) -> Text:
        length = SMALL_BAR if small or self.width < WIDE else BAR
        drawn, so_far, at = Text(), 0.0, 0
        for amount, character, stand_in, style in parts:
            so_far += amount or 0
            end = min(length, round(length * so_far / total)) if total else 0
            drawn.append((stand_in if self.only_ascii else character) * max(0, end - at), style)
            at = max(at, end)
        drawn.append(("." if self.only_ascii else "░") * (length - at), "dim")
        return drawn

    def spark(self, values: Sequence[float | None], top: float) -> str:
        return sparkline(values[-self.columns :], top, only_ascii=self.only_ascii)

    @property
    def columns(self) -> int:
        return SPARK if self.width >= WIDE else SMALL_SPARK


def _row(title: str, *parts: str | Text, style: str = "") -> Text:
    row = line(f"{title:{TITLE}}", "bold")
    for part in parts:
        row.append_text(part if isinstance(part, Text) else Text(clean_line(part, MAX_TEXT), style))
    return row


def _titled(title: str, rows: Iterator[Text] | Sequence[Text]) -> Iterator[Text]:
    """The rows, the first with the title."""
    for row in rows:
        yield Text.assemble(_row(title), row, no_wrap=True, overflow="ellipsis")
        title = ""


def _details(run: RunStatus, pen: _Pen, look: Look) -> Iterator[Text]:
    """All rows about one run, the most important first."""
    if run.error:
        yield from _titled("error", [line(run.error.message, PROBLEM), line(run.error.hint)])
        return
    yield _row("what", f"{run.about['pipeline']}, {models_text(run)}", *(f"; note: {note}" for note in run.notes))
    yield from _titled("done", [row for stage in run.stages for row in _stage(stage, pen)])
    yield from _titled("", [line(run.why, "dim")] if run.why and not run.so_far else [])
    yield from _titled("speed", _speed(run, pen, look.trends.get(run.id)))
    yield from _titled("safe", _safe(run, pen))
    yield from _titled("waits", [line(text) for text in _waits(run)])
    yield from _titled("failed", _failures(run))
    yield from _titled("planned", [line(text) for text in run.planned.lines()] if run.planned else [])
    yield from _titled("spent", [line(text) for text in run.spent.lines()])
    yield from _titled("workers", _workers(run, pen))
    yield from _titled("skipped", [line(text, "dim") for text in run.refused[:MAX_REFUSED]])
    yield from _titled("grades", [line(text, "yellow") for text in look.stale])


def _stage(stage: StageView, pen: _Pen) -> Iterator[Text]:
    row, total = line(""), stage.done if stage.total is None else stage.total
    parts: Parts = (
        (stage.done - stage.failed, "█", "#", "green"),
        (stage.failed, "█", "x", "red"),
    )
    row.append_text(pen.bar(parts, total))
    row.append(f" {clean_line(stage.name, 40)}: ", "bold")
    so_far = " so far" if stage.so_far else ""
    known = (
        f"{stage.done:,} of {count_of(total, 'item')}{so_far}" if stage.total is not None else f"{stage.done:,} done"
    )
    percent = f", {100 * stage.done // total} %" if stage.total and not stage.so_far else ""
    row.append(known + percent)
    if stage.failed:
        row.append(f", {stage.failed:,} failed", "red")
    if stage.again:
        row.append(f", {stage.again:,} to be done again", "yellow")
    yield row


def _speed(run: RunStatus, pen: _Pen, trend: Trend | None) -> Iterator[Text]:
    rates = trend.per_minute() if trend else []
    if run.over or not (run.at_work or run.local or any(rates)):
        return
    known = [
        "" if run.items_per_minute is None else per_minute(run.items_per_minute),
        f"{run.prompt_tokens_per_second:,.0f} prompt tokens/s" if run.prompt_tokens_per_second else "",
        f"{run.tokens_per_second:,.0f} new tokens/s" if run.tokens_per_second else "",
        "time to go not known" if run.eta_seconds is None else f"about {duration(run.eta_seconds)} to go",
    ]
    yield line(", ".join(filter(None, known)))
    if any(rates):
        drawn = pen.spark(rates, max(rates))
        yield line(f"{drawn} speed since this page was opened, at most {per_minute(max(rates))}")


def _safe(run: RunStatus, pen: _Pen) -> Iterator[Text]:
    done, received = run.sum("done"), run.sum("received")
    alone = 0.0 if run.done else run.open_here + sum(one.open_records or 0 for one in run.attempts)
    parts: Parts = (
        (received, "█", "#", "green"),
        (done - received, "▓", "=", "cyan"),
        (alone, "▒", "-", "yellow"),
    )
    row = line("")
    row.append_text(pen.bar(parts, max(run.total or 0, done + alone)))
    row.append(f" {received:,} received here", "green")
    row.append(f", {done - received:,} in the folder alone", "cyan")
    if not run.done:
        row.append(f", {alone:,.0f} on one machine alone", "yellow")
    yield row
    waiting = sum(one.waiting or 0 for one in run.attempts)
    if waiting and not run.done:
        yield line(
            f"{count_of(round(waiting), 'file')} of workers not yet in the folder, as they last reported", "yellow"
        )


def _waits(run: RunStatus) -> Iterator[str]:
    if run.cancelled:
        yield "cancelled: workers stop"
        return
    if run.local:
        yield LOCAL
        return
    yield from map(str, run.sides)
    if run.stopped and run.next_command:
        yield f"nobody is at work; what goes on with it: {run.next_command}"


def _failures(run: RunStatus) -> Iterator[Text]:
    for stage in run.stages:
        if stage.own_failures:
            kinds = [f"{kind} {count:,}" for kind, count in list(stage.reasons.items())[:MAX_REASONS]]
            more = ", and others" if len(stage.reasons) > MAX_REASONS else ""
            yield line(f"{stage.own_failures:,} in '{stage.name}': {', '.join(kinds)}{more}", "red")


def _workers(run: RunStatus, pen: _Pen) -> Iterator[Text]:
    others = [one for one in run.attempts if one.state != "ended"]
    ended = len(run.attempts) - len(others)
    for one in others[-MAX_WORKERS:]:
        yield _worker(one)
        if one.usage:
            yield from _load(one.usage, pen)
        if one.round is not None:
            yield line(f"  round {one.round} of '{one.series}'")
        for subject, message in one.troubles.items():
            yield line(f"  problem with {subject}: {message}", PROBLEM)
    if len(others) > MAX_WORKERS:
        yield line(f"{len(others) - MAX_WORKERS:,} more, earlier by name", "dim")
    if ended:
        yield line(f"{ended:,} ended", "dim")
    if not run.attempts and not run.local:
        yield line(nobody_text(run), "dim")


def _worker(one: Attempt) -> Text:
    states = {"working": "green", "new": "", "silent": "yellow", "gone": PROBLEM}
    age = "first seen" if one.silent_seconds is None else f"heartbeat {duration(one.silent_seconds)} ago"
    words = {"silent": ", doubtful", "gone": ", probably gone"}.get(one.state, "")
    row = line(one.name)
    row.append(f" {age}{words}", states.get(one.state, ""))
    device = one.gpu.get("name") if one.gpu and one.device != "cpu" else one.device
    disk = "" if one.disk_free is None else f"{one.disk_free / 1e9:,.0f} GB of disk free"
    on = [f"on {one.stage}" if one.stage else "", str(device or ""), disk]
    row.append(clean_line("".join(f", {text}" for text in on if text), MAX_TEXT))
    return row


def _load(usage: Usage, pen: _Pen) -> Iterator[Text]:
    """The load of a worker's machine over the last periods."""
    busy, memory, cpu = (usage.last(name) for name in ("gpu_busy", "gpu_memory", "cpu"))
    if busy is not None:
        yield line(f"  {pen.spark(recent(usage, 'gpu_busy', pen.columns), 100)} {_gpu(usage, busy, pen)}")
    if memory is not None:
        values = recent(usage, "gpu_memory", pen.columns)
        top = usage.gpu_memory_total or max(value for value in (*values, memory) if value is not None)
        of = f" of {usage.gpu_memory_total / 1024:.1f}" if usage.gpu_memory_total else ""
        yield line(f"  {pen.spark(values, top)} GPU memory {memory / 1024:.1f}{of} GiB")
    if cpu is not None:
        values, resident = recent(usage, "cpu", pen.columns), usage.last("memory")
        told = f"CPU {cpu:.0f} % of one core" + ("" if resident is None else f", {resident / 1024:.1f} GiB of memory")
        top = max([100.0, *(value for value in values if value is not None)])
        yield line(f"  {pen.spark(values, top)} {told}", "" if busy is None else "dim")


def _gpu(usage: Usage, busy: float, pen: _Pen) -> str:
    count = f"{usage.gpus:.0f} GPUs" if (usage.gpus or 1) > 1 else "GPU"
    power, energy = usage.last("power"), usage.energy_wh
    told = [f"{count} {busy:.0f} % busy", "" if power is None else f"{power:,.0f} W"]
    told += [] if energy is None else [f"{watt_hours(energy)} so far"]
    return f"{', '.join(filter(None, told))}; the last {duration(min(len(usage.at), pen.columns) * usage.period)}"


def _summary(run: RunStatus, pen: _Pen, look: Look) -> Iterator[Text]:
    """The rows about one of several runs."""
    row = line(run.id, "bold")
    if run.error:
        yield Text.assemble(
            row, (f"  {clean_line(run.error.message, MAX_TEXT)}", PROBLEM), no_wrap=True, overflow="ellipsis"
        )
        return
    done, total = run.sum("done"), run.total
    parts: Parts = ((done - run.failed, "█", "#", "green"), (run.failed, "█", "x", "red"))
    counts = line("  ")
    counts.append_text(pen.bar(parts, total or run.sum("total") or done, small=True))
    counts.append(f" {done:,} of {total:,}" if total is not None else f" {done:,} done, total not known")
    if run.failed:
        counts.append(f", {run.failed:,} failed", "red")
    counts.append(clean_line(f", {_state(run)}", MAX_TEXT), "yellow" if run.stopped else "")
    if shown := next((one.usage for one in run.at_work if one.usage and one.usage.last("gpu_busy") is not None), None):
        drawn = pen.spark(recent(shown, "gpu_busy", SMALL_SPARK), 100)
        counts.append(f"  GPU {drawn} {shown.last('gpu_busy'):.0f} %")
    about = "; ".join(filter(None, [models_text(run), *look.differences.get(run.id, ()), *run.notes]))
    row.append(f"  {clean_line(about, MAX_TEXT)}", "dim")
    yield row
    yield counts
    troubles = [f"{one.name}: problem with {what}: {why}" for one in run.at_work for what, why in one.troubles.items()]
    yield from (line(f"  {text}", PROBLEM) for text in troubles[:1])


def _state(run: RunStatus) -> str:
    if run.cancelled and not run.done:
        return "cancelled"
    if run.done:
        received = run.sum("received")
        return "done, all received here" if received == run.sum("done") else f"done, {received:,} received here"
    if run.local:
        return "`hybrid run local` is at work"
    if not run.at_work:
        return "nobody is at work"
    speed = "" if run.items_per_minute is None else f", {per_minute(run.items_per_minute)}"
    eta = "" if run.eta_seconds is None else f", about {duration(run.eta_seconds)} to go"
    return f"{count_of(len(run.at_work), 'worker')}{speed}{eta}"
