"""The guide's four scenarios on a T4: what its seconds a response come to, beside what its own runs took."""

from __future__ import annotations

from collections.abc import Iterator
from typing import NamedTuple

from hybrid.loads import GuideTable


class Timed(NamedTuple):
    """A scenario: responses, and the seconds of generation and of selection that are reported of it."""

    name: str
    responses: int
    generation: int
    selection: int


SCENARIOS = (
    Timed("AI memory", 10, 195, 10),
    Timed("Mars detective", 12, 239, 8),
    Timed("romantic comedy", 15, 319, 10),
    Timed("styles", 12, 137, 6),
)
FASTEST, SLOWEST = 1, 3
"""Seconds a response on a T4, as the guide says; in all it names 5 to 10 minutes."""
CPU_SECONDS = 44
"""Seconds a response of its run on a CPU, llama3.1:8b: 35 to 40 minutes in all."""


def tables() -> Iterator[GuideTable]:
    """Seconds of all scenarios, one request at a time."""
    rows = [_row(one) for one in SCENARIOS]
    whole = Timed(
        "all",
        sum(one.responses for one in SCENARIOS),
        sum(one.generation for one in SCENARIOS),
        sum(one.selection for one in SCENARIOS),
    )
    columns = (
        "scenario",
        "responses",
        "guide, T4",
        "guide's run, CPU",
        "reported generation",
        "a response",
        "selection",
    )
    note = (
        "seconds. The guide says 5 to 10 minutes on a T4: its own 1 to 3 seconds a response come to at most 2.5; one "
        "request at a time, so a server's other slots idle. Ollama on one's own machine costs nothing a token"
    )
    yield GuideTable("branch: four scenarios", columns, (*rows, _row(whole)), note)


def _row(one: Timed) -> tuple[str, ...]:
    return (
        one.name, str(one.responses), f"{one.responses * FASTEST} to {one.responses * SLOWEST}",
        f"{one.responses * CPU_SECONDS:,}", f"{one.generation:,}", f"{one.generation / one.responses:.1f}",
        str(one.selection),
    )  # fmt: skip
