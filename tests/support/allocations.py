"""What torch's allocator hands out while something runs, by its own records: nothing of the plan is in them."""

from __future__ import annotations

from collections.abc import Callable

from torch.profiler import ProfilerActivity, profile


def allocated_peak(act: Callable[[], object]) -> int:
    """The peak of the bytes that are held while `act` runs on the CPU."""
    with profile(activities=[ProfilerActivity.CPU], profile_memory=True) as records:
        act()
    events = [one for one in records.profiler.kineto_results.events() if one.name() == "[memory]"]
    held = peak = 0
    for event in sorted(events, key=lambda one: one.start_ns()):
        held += event.nbytes()
        peak = max(peak, held)
    return peak
