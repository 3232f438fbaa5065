"""The events of a stage while it runs, and three displays of its progress: lines, JSON events, a bar."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from typing import Protocol, TextIO

from rich.console import Console
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    TaskID,
    TextColumn,
    TimeElapsedColumn,
    TimeRemainingColumn,
)

from hybrid.canonical import Json, encode
from hybrid.machine.terminal import clean_line, count_of, duration, per_minute
from hybrid.records import Completion

LONGEST = 300


class Observer(Protocol):
    """Receives the events of a run in the order in which they happen."""

    def loading(self, model: str) -> None:
        """A model is about to be loaded, which may take minutes. Not called when nothing is left to do."""

    def loaded(self, model: str, device: str) -> None:
        """It is loaded, and computes on this device as far as its backend reports one."""

    def started(self, stage: str, total: int, done: int) -> None:
        """A stage begins; `done` of its `total` items already have a record."""

    def grown(self, total: int) -> None:
        """A search has `total` items by now; not called for other stages, whose items are known beforehand."""

    def working(self) -> None:
        """The model is loaded: speed is measured from now on. Not called when nothing is left to do."""

    def finished_item(self, completion: Completion) -> None:
        """One more item has a completion; it is not on disk yet."""

    def closed_shard(self, path: str, records: int) -> None:
        """A shard is on disk: its records survive this process."""

    def ended(self) -> None:
        """The stage has ended, complete or not."""


class ProgressCounts:
    """Counts for every display: items; failures, tokens and speed since this process began the stage."""

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock, self._start = clock, clock()
        self.grows = False  # more items may come than the total that is known
        self.stage, self.total, self.done, self.fresh, self.failed = "", 0, 0, 0, 0
        self.prompt_tokens = self.cached_tokens = self.completion_tokens = 0

    def begin(self, stage: str, total: int, done: int) -> None:
        self.stage, self.total, self.done, self.failed = stage, total, done, 0
        self.grows = False
        self.restart()

    def restart(self) -> None:
        """Measure speed from now on."""
        self._start, self.fresh = self._clock(), 0
        self.prompt_tokens = self.cached_tokens = self.completion_tokens = 0

    def add(self, completion: Completion) -> None:
        self.done += 1
        self.fresh += 1
        self.failed += completion.error is not None
        self.prompt_tokens += completion.prompt_tokens
        self.cached_tokens += completion.cached_tokens
        self.completion_tokens += completion.completion_tokens

    @property
    def seconds(self) -> float:
        return max(self._clock() - self._start, 1e-9)

    @property
    def tokens_per_second(self) -> float:
        """Generated tokens per second, without prompt tokens."""
        return self.completion_tokens / self.seconds

    @property
    def prompt_tokens_per_second(self) -> float:
        """Prompt tokens per second that were computed, without those from a cache."""
        return max(0, self.prompt_tokens - self.cached_tokens) / self.seconds

    @property
    def items_per_minute(self) -> float:
        return 60 * self.fresh / self.seconds

    @property
    def pace(self) -> str:
        """Speed in words: items per minute, and prompt and generated tokens per second where there are any."""
        if not (self.prompt_tokens or self.completion_tokens):  # it asks no model, or nothing is answered yet
            return per_minute(self.items_per_minute)
        tokens = f"{self.prompt_tokens_per_second:,.0f} prompt + {self.tokens_per_second:,.0f} new tokens/s"
        return f"{per_minute(self.items_per_minute)}, {tokens}"

    @property
    def eta_seconds(self) -> float | None:
        """Estimated seconds to the end; None before a twentieth is done, since the first are slow, and in a search."""
        if self.grows:
            return None
        left = self.total - self.done
        return left * self.seconds / self.fresh if self.fresh * 20 >= self.fresh + left and self.fresh else None

    def to_json(self) -> dict[str, Json]:
        eta = self.eta_seconds
        return {
            "stage": self.stage,
            "total": self.total,
            "done": self.done,
            "fresh": self.fresh,
            "failed": self.failed,
            "prompt_tokens": self.prompt_tokens,
            "cached_tokens": self.cached_tokens,
            "completion_tokens": self.completion_tokens,
            "seconds": round(self.seconds, 3),
            "tokens_per_second": round(self.tokens_per_second, 1),
            "prompt_tokens_per_second": round(self.prompt_tokens_per_second, 1),
            "items_per_minute": round(self.items_per_minute, 2),
            "eta_seconds": None if eta is None else round(eta, 1),
        }


def loading(model: str) -> str:
    """The message before a model is loaded."""
    return clean_line(f"loading the model {model}", LONGEST)


def loaded(model: str, device: str) -> str:
    """The line that says on which device a model is."""
    return clean_line(f"the model {model} is loaded on {device}", LONGEST)


class SilentProgress:
    """Counts, and shows nothing."""

    def __init__(self) -> None:
        self.counts = ProgressCounts()

    def loading(self, model: str) -> None:
        """Not shown."""

    def loaded(self, model: str, device: str) -> None:
        """Not shown."""

    def started(self, stage: str, total: int, done: int) -> None:
        self.counts.begin(stage, total, done)

    def grown(self, total: int) -> None:
        self.counts.total, self.counts.grows = total, True

    def working(self) -> None:
        self.counts.restart()

    def finished_item(self, completion: Completion) -> None:
        self.counts.add(completion)

    def closed_shard(self, path: str, records: int) -> None:
        """Not shown."""

    def ended(self) -> None:
        """Not shown."""


class ProgressLines(SilentProgress):
    """Lines on a stream that is not a terminal: at the start, every few seconds, at the end.

    There are none for a stage without items, and none at the end where nothing was done. A separate thread writes
    them, so they continue while a slow model has finished no item.
    """

    def __init__(self, stream: TextIO, *, every_seconds: float = 10.0) -> None:
        super().__init__()
        self._stream, self._every = stream, every_seconds
        self._ended, self._thread = threading.Event(), threading.Thread()

    def loading(self, model: str) -> None:
        self._say(loading(model))

    def loaded(self, model: str, device: str) -> None:
        if device:
            self._say(loaded(model, device))

    def started(self, stage: str, total: int, done: int) -> None:
        super().started(stage, total, done)
        if not total:
            return
        kept = f", {done:,} already done and kept" if done else ""
        self._say(f"{stage}: {count_of(total, 'item')}{kept}")
        self._ended = threading.Event()
        self._thread = threading.Thread(target=self._repeat_line, args=(self._ended,), name="progress", daemon=True)
        self._thread.start()

    def ended(self) -> None:
        self._ended.set()
        if self._thread.ident:
            self._thread.join()
        if self.counts.fresh or self.counts.done < self.counts.total:
            self._say(self._line())

    def _repeat_line(self, ended: threading.Event) -> None:
        while not ended.wait(self._every):
            self._say(self._line())

    def _line(self) -> str:
        counts = self.counts
        left = counts.eta_seconds if counts.done < counts.total else None
        eta = f", about {duration(left)} to go" if left else ""
        failed = f", {counts.failed:,} failed" if counts.failed else ""
        more = not self._ended.is_set() or counts.done < counts.total
        so_far = " so far" if counts.grows and more else ""
        return f"{counts.stage}: {counts.done}/{counts.total}{so_far}{failed}, {counts.pace}{eta}"

    def _say(self, text: str) -> None:
        self._stream.write(text + "\n")
        self._stream.flush()


class ProgressEvents(SilentProgress):
    """One JSON object per line, for programs."""

    def __init__(self, stream: TextIO) -> None:
        super().__init__()
        self._stream = stream

    def started(self, stage: str, total: int, done: int) -> None:
        super().started(stage, total, done)
        self.emit({"event": "started", **self.counts.to_json()})

    def finished_item(self, completion: Completion) -> None:
        super().finished_item(completion)
        error = completion.error.to_json() if completion.error else None
        self.emit({"event": "item", "key": completion.key, "error": error, "done": self.counts.done})

    def working(self) -> None:
        super().working()
        self.emit({"event": "working"})

    def closed_shard(self, path: str, records: int) -> None:
        self.emit({"event": "shard", "path": path, "records": records})

    def ended(self) -> None:
        self.emit({"event": "ended", **self.counts.to_json()})

    def emit(self, event: dict[str, Json]) -> None:
        """Write one event."""
        self._stream.write(encode(event).decode() + "\n")
        self._stream.flush()


class ProgressBar(SilentProgress):
    """A progress bar on a terminal, with a row for each stage that has items."""

    def __init__(self, console: Console) -> None:
        super().__init__()
        self._bar = Progress(
            TextColumn("{task.description}"),
            BarColumn(),
            MofNCompleteColumn(),
            TimeElapsedColumn(),
            TextColumn("{task.fields[speed]}"),
            TimeRemainingColumn(),
            console=console,
        )
        self._row: TaskID | None = None

    def loading(self, model: str) -> None:
        self._bar.console.print(loading(model), markup=False, highlight=False)

    def loaded(self, model: str, device: str) -> None:
        if device:
            self._bar.console.print(loaded(model, device), markup=False, highlight=False)

    def started(self, stage: str, total: int, done: int) -> None:
        super().started(stage, total, done)
        if total:
            self._row = self._bar.add_task(stage, total=total, completed=done, speed="")
            self._bar.start()

    def finished_item(self, completion: Completion) -> None:
        super().finished_item(completion)
        if self._row is not None:
            failed = f"  {self.counts.failed} failed" if self.counts.failed else ""
            speed = f"{self.counts.pace}{failed}"
            self._bar.update(self._row, completed=self.counts.done, total=self.counts.total, speed=speed)

    def ended(self) -> None:
        if self.counts.total:
            self._bar.stop()
