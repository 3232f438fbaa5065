"""The progress of a stage: lines appear while it runs, with its speed."""

from __future__ import annotations

import io
import threading

from rich.console import Console

from hybrid.machine.terminal import per_minute
from hybrid.progress import ProgressBar, ProgressCounts, ProgressLines
from hybrid.records import Completion, Failure

DONE = Completion("0" * 64, "yes", prompt_tokens=900, cached_tokens=300, completion_tokens=2)
FAILED = Completion("1" * 64, error=Failure("engine", "it stopped"))


class LineCounter(io.StringIO):
    """A stream that sets `third` when a third line was written."""

    def __init__(self) -> None:
        super().__init__()
        self.third = threading.Event()

    def write(self, text: str) -> int:
        written = super().write(text)
        if self.getvalue().count("\n") >= 3:
            self.third.set()
        return written


def test_progress_counts_tell_items_a_minute_and_tokens_that_were_read_beside_new_ones() -> None:
    now = 100.0
    counts = ProgressCounts(lambda: now)
    counts.begin("answer", 10, 4)
    counts.add(DONE)
    counts.add(FAILED)
    now = 130.0
    assert counts.pace == "4.0 items/min, 20 prompt + 0 new tokens/s"
    told = counts.to_json()
    assert (told["items_per_minute"], told["prompt_tokens_per_second"], told["tokens_per_second"]) == (4.0, 20.0, 0.1)
    assert (counts.done, counts.failed) == (6, 1)
    counts.begin("judge", 3, 0)
    assert (counts.failed, counts.prompt_tokens, counts.pace) == (0, 0, "0.00 items/min")


def test_a_rate_is_shown_as_finely_as_it_matters() -> None:
    assert [per_minute(rate) for rate in (0.04, 2.34, 43.2, 5432.1)] == [
        "0.04 items/min",
        "2.3 items/min",
        "43 items/min",
        "5,432 items/min",
    ]


def test_a_stage_without_items_has_no_lines_and_one_without_work_has_one() -> None:
    stream = io.StringIO()
    lines = ProgressLines(stream)
    for stage, total, done in (("empty", 0, 0), ("kept", 6, 6)):
        lines.started(stage, total, done)
        lines.ended()
    assert stream.getvalue() == "kept: 6 items, 6 already done and kept\n"


def test_the_bar_has_no_row_for_a_stage_without_items() -> None:
    stream = io.StringIO()
    bar = ProgressBar(Console(file=stream, force_terminal=True))
    for stage, total in (("empty", 0), ("answer", 1)):
        bar.started(stage, total, 0)
        bar.working()
        if total:
            bar.finished_item(DONE)
        bar.ended()
    assert "answer" in stream.getvalue()
    assert "empty" not in stream.getvalue()


def test_lines_go_on_while_no_item_comes_back() -> None:
    stream = LineCounter()
    lines = ProgressLines(stream, every_seconds=0.01)
    lines.started("answer", 1, 0)
    lines.working()
    assert stream.third.wait(60), stream.getvalue()
    lines.finished_item(DONE)
    lines.ended()
    said = stream.getvalue().splitlines()
    assert said[0] == "answer: 1 item"
    assert said[1].startswith("answer: 0/1, 0.00 items/min")
    assert said[-1].startswith("answer: 1/1, ")
    assert not lines._thread.is_alive()


def test_the_lines_of_a_search_say_so_far_until_it_has_ended() -> None:
    stream = LineCounter()
    lines = ProgressLines(stream, every_seconds=0.01)
    lines.started("search", 2, 1)
    lines.grown(2)
    lines.finished_item(DONE)
    for _ in range(2):  # the first of them may have been made before
        assert stream.third.wait(60)
        stream.third.clear()
    assert stream.third.wait(60)
    lines.ended()
    *under_way, last = stream.getvalue().splitlines()
    assert under_way[-1].startswith("search: 2/2 so far, ")
    assert last.startswith("search: 2/2, ")
