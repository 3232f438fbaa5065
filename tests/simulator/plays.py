"""What is played in a lab, each play with the promises that must hold at its end. A seed says everything."""

from __future__ import annotations

import random
import re

from hybrid.errors import HybridError
from tests.simulator import NONE, Faults
from tests.simulator.lab import IN_FLIGHT, Lab, answer
from tests.simulator.world import SETTLE

HOUR = 3600.0


def history(seed: int, *, chained: bool = False) -> Lab:
    """One history: who takes part, what goes wrong and how often all follow from the seed."""
    chance = random.Random(seed)
    faults = NONE if chance.random() < 0.05 else Faults.random(chance)
    lab = Lab(
        seed,
        faults,
        items=chance.choice((3, 12, 24)),
        workers=chance.choice((1, 2, 3)),
        failing=chance.choice((0, 0, 20)),
        lost_machines=chance.choice((0.0, 0.3, 1.0)),
        chained=chained,
    )
    lab.submit()
    for _ in range(2):
        lab.live(HOUR, kills=chance.choice((0, 0.01, 0.05)), freezes=chance.choice((0, 0, 0.005)))
        meddle(lab, chance.choice(("", "", "cancel", "resume", "retry")))
    return lab


def meddle(lab: Lab, order: str) -> None:
    try:
        if order:
            lab.order(order)
    except HybridError:
        return


def settle(lab: Lab) -> None:
    """After the faults: what was cancelled goes on, what failed is asked for again, and all of it arrives."""
    for _ in range(8):
        lab.finish(hours=2.0)
        if len(lab.good()) == lab.items:
            return
        lab.order("resume")
        lab.order("retry")


def histories(seed: int, *, chained: bool = False) -> None:
    """Everything may go wrong; then it is quiet, and all of it must arrive once and be freed everywhere."""
    with history(seed, chained=chained) as lab:
        settle(lab)
        assert len(lab.good()) == lab.items, f"P4: {lab.items - len(lab.good())} items never arrived"
        outputs = lab.outputs()
        assert set(outputs) == set(lab.keys), "P1: other items than those of the run"
        assert None not in outputs.values(), "P4: an item has no answer"
        for _ in range(8):
            if not lab.unreceipted():
                return
            lab.live(HOUR)
        raise AssertionError(f"P4: {len(lab.unreceipted())} shards are never freed")


def crashes(seed: int) -> tuple[int, int]:
    """One machine whose processes die, a mount that fails in many ways, nobody who deletes: P5 to the item.

    Returns how many deaths there were and how many items were done again.
    """
    chance = random.Random(seed)
    possible = ("F2", "F3", "F6", "F11", "F12", "F13", "F14", "F21", "F25")
    rates = {name: 0.05 for name in possible if chance.random() < 0.5}
    with Lab(seed, Faults(rates), workers=1, lost_machines=0.0) as lab:
        lab.submit()
        lab.live(2 * HOUR, kills=0.05)
        lab.finish()
        assert len(lab.good()) == lab.items
        extra = sum(lab.calls.values()) - lab.items
        allowed = sum(machine.extra for machine in lab.machines.values())
        assert extra <= allowed, f"P5: {extra} items redone, {allowed} were in no file at {lab.kills} deaths"
        return lab.kills, extra


def walls(seed: int) -> None:
    """Other times of day: not one decision changes."""
    with _with_walls(seed, perturbed=False) as true, _with_walls(seed, perturbed=True) as wrong:
        assert trace_of(true) == trace_of(wrong), "P7: something depends on the time of day"
        assert true.calls == wrong.calls, "P7: something depends on the time of day"


def _with_walls(seed: int, *, perturbed: bool) -> Lab:
    lab = Lab(seed, Faults.only(F2=0.1, F3=0.05, F4=0.02, F6=0.05, F12=0.01))
    if perturbed:
        lab.world.perturb_walls()
    lab.submit()
    lab.live(HOUR, kills=0.02, freezes=0.01)
    return lab


def trace_of(lab: Lab) -> list[str]:
    """The history without what depends on the time of day: digests in names, and contents."""
    plain = [[one for one in event if not isinstance(one, tuple)] for event in lab.world.trace]
    return [re.sub(r"[0-9a-f]{16}", "#", repr(event)) for event in plain]


def models(seed: int) -> None:
    """A run that does not pin its model, and two machines with different files under its name: nothing is mixed."""
    with Lab(seed, Faults.only(F2=0.1, F3=0.1), items=12, workers=2, digests=("1" * 64, "2" * 64)) as lab:
        lab.submit()
        lab.live(HOUR)
        lab.finish()
        outputs = lab.outputs()
        assert set(outputs) == set(lab.keys_with(lab.bound())), "two models are mixed"
        assert None not in outputs.values(), "the run is not finished"


def cancelled(seed: int) -> None:
    """A cancelled run costs nothing more, until it is taken up again."""
    with Lab(seed, items=96) as lab:
        lab.submit()
        lab.live(300)
        lab.order("cancel")
        lab.live(600)
        before = sum(lab.calls.values())
        assert 0 < before < lab.items
        lab.live(2 * HOUR)
        assert sum(lab.calls.values()) == before, "work on a cancelled run"
        lab.order("resume")
        lab.finish()
        assert len(lab.good()) == lab.items


def lost_order(seed: int) -> None:
    """An order that found no room, or whose file vanished, goes out when it is given again; so does taking it back."""
    with Lab(seed, Faults.only(F13=0.3, F14=0.3, F25=0.3), items=96) as lab:
        lab.submit()
        lab.live(300)
        for kind in ("cancel", "resume"):
            for _ in range(3):
                meddle(lab, kind)
            lab.world.calm()
            lab.world.advance(SETTLE)  # nobody looks meanwhile
            if lab.world.cloud.tree.find(f"runs/{lab.run_id}/orders"):
                lab.world.human.delete(f"runs/{lab.run_id}/orders")
            lab.order(kind)
            lab.live(600)
            before = sum(lab.calls.values())
            lab.live(2 * HOUR)
            if kind == "cancel":
                assert 0 < before < lab.items, "nothing to cancel"
                assert sum(lab.calls.values()) == before, "work on a cancelled run"
        assert len(lab.good()) == lab.items, "the run was not taken up again"


def failed(seed: int) -> None:
    """Only what failed is done again, and only when that is asked for."""
    with Lab(seed, workers=1, failing=40) as lab:
        lab.submit()
        lab.finish(hours=1.0)
        bad = {key for key in lab.keys if int(key, 16) % 97 < 40}
        assert bad
        assert lab.good() == set(lab.keys) - bad
        lab.order("retry")
        lab.finish(hours=2.0)
        assert lab.good() == set(lab.keys), "a failure is never done again"
        assert {key for key, count in lab.calls.items() if count > 1} == bad, (
            "other items than the failed were done again"
        )


def remade(seed: int) -> None:
    """A failure that becomes an answer makes new items of the stages after it, in a worker that was there before."""
    with Lab(seed, workers=1, failing=40, chained=True, stays=True) as lab:
        lab.submit()
        lab.live(HOUR)
        assert None in lab.outputs().values() or "it failed" in lab.prompts(), "nothing failed"
        for _ in range(3):
            lab.order("retry")
            lab.live(HOUR)
        assert lab.machines["gpu0"].lives == 1
        assert lab.prompts() == {answer(key) for key in lab.asked()}
        assert set(lab.outputs()) == set(lab.keys)
        assert None not in lab.outputs().values()


def fenced(seed: int) -> None:
    """A worker that cannot say that it lives takes no more work."""
    with Lab(seed, items=256, workers=1) as lab:
        lab.submit()
        lab.live(120)
        lab.machines["gpu0"].actor.view.fail("away", 1e9)
        lab.live(lab.patience.fence + 120)
        before = sum(lab.calls.values())
        lab.live(HOUR)
        assert IN_FLIGHT < before < lab.items
        assert sum(lab.calls.values()) <= before + IN_FLIGHT, "a worker that nobody hears goes on"
