"""What a round costs is its own: no round has the peak of memory of an earlier one."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace

import pytest

from hybrid.metrics import RoundMetrics
from hybrid.round_costs import with_costs

BYTES = 200 * 2**20


class Rounds:
    """Of which the first takes much memory and gives it back."""

    lab = SimpleNamespace(device="cpu")

    @with_costs
    def round(self, number: int) -> RoundMetrics:
        taken = b"x" * (BYTES if number == 0 else 1)
        return RoundMetrics(number, {"length": len(taken)})


def test_the_peak_of_a_round_is_that_of_no_earlier_round() -> None:
    try:
        Path("/proc/self/clear_refs").write_text("5", encoding="ascii")
    except OSError:
        pytest.skip("this system lets no process forget its peak")
    loop = Rounds()
    first, second = (loop.round(number).costs[""]["peak_bytes"] for number in range(2))
    assert first - second > 0.9 * BYTES
