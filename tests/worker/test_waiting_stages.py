"""What a worker does while a stage waits for the other side: anything that is ready, and what others wait for first."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest

from hybrid.errors import BadData, HybridError, Temporary
from hybrid.folder.runs import Run, join_folder, submit
from hybrid.folder.spec import ModelSpec
from hybrid.protocols import Inputs, Stage
from hybrid.records import Item, Output, Request, Sampling
from hybrid.work import Ask
from hybrid.worker.process import progress
from hybrid.worker.worker import TURN
from tests.support.two_sides import TimedMachine, work_together

SECONDS = {"write": 1.0, "judge": 5.0, "learn": 1.0, "more": 1.0, "even-more": 1.0, "idle-talk": 4.0}


@dataclass(frozen=True)
class Gated:
    """The GPU side writes, the laptop side judges, the GPU side learns; both have other things to do, too."""

    def inputs(self) -> Inputs:
        return Inputs({"t": {}}, {}, {})

    def stages(self) -> tuple[Stage, ...]:
        return (
            Stage("write", "gpu", 1, asking("write", 4)),
            Stage("judge", "laptop", 1, asking("judge", 4), after=("write",), role="judge"),
            Stage("learn", "gpu", 1, asking("learn", 4), after=("judge",)),
            Stage("more", "gpu", 1, asking("more", 15)),
            Stage("even-more", "gpu", 1, asking("even-more", 300)),
            Stage("idle-talk", "laptop", 1, asking("idle-talk", 100), role="judge"),
        )


def asking(name: str, count: int) -> Ask:
    def items(tasks: Mapping[str, Any], earlier: Mapping[str, Iterable[Output]] | None = None) -> Iterator[Item]:
        for number in range(count):
            yield Item("t", f"t/{number}", Request(Sampling(1), prompt=f"{name} {number}"))

    return Ask(items)


def submitted(place: Path) -> Path:
    """The folder with the run."""
    models = {"": ModelSpec("scripted", "m", ""), "judge": ModelSpec("scripted", "j", "")}
    submit(join_folder(place / "folder", make=True), "gated", {}, Gated().inputs(), models)
    return place / "folder"


@pytest.fixture
def worked(tmp_path: Path) -> Callable[..., dict[str, list[float]]]:
    """Lets both sides work; when each item of each stage was done."""

    def work(wait: float = 0.0) -> dict[str, list[float]]:
        done: dict[str, list[float]] = {}
        machines: list[TimedMachine] = []

        def answer(machine: TimedMachine) -> Callable[[Request], tuple[float, str]]:
            def said(request: Request) -> tuple[float, str]:
                stage = request.prompt.split(" ")[0]
                done.setdefault(stage, []).append(machine.clock.time + SECONDS[stage])
                return SECONDS[stage], "yes"

            return said

        for side in ("gpu", "laptop"):
            machine = TimedMachine(side, Gated(), lambda request: (0.0, ""))
            machine.answer = answer(machine)
            machines.append(machine)
        machines[0].clock.time = wait
        work_together(submitted(tmp_path), machines, lambda: len(done.get("learn", ())) == 4)
        return done

    return work


def test_a_worker_goes_on_with_what_is_ready_and_comes_back_to_what_others_need(
    worked: Callable[..., dict[str, list[float]]],
) -> None:
    done = worked()
    assert max(done["write"]) < min(done["more"]) < max(done["judge"]), "it does not wait for the verdicts"
    assert max(done["judge"]) < min(done["learn"])
    assert len(done["even-more"]) < 300, "what others need comes before the rest"
    assert min(done["learn"]) - max(done["judge"]) < TURN + 5
    assert {name: len(done[name]) for name in ("write", "judge", "learn", "more")} == {
        "write": 4, "judge": 4, "learn": 4, "more": 15,
    }  # fmt: skip


def test_a_worker_leaves_a_long_stage_of_questions_for_an_earlier_one_that_became_ready(
    worked: Callable[..., dict[str, list[float]]],
) -> None:
    done = worked(wait=30.0)
    assert min(done["idle-talk"]) < 10, "nothing else was ready"
    assert min(done["judge"]) < max(done["write"]) + TURN + 10
    assert len(done["idle-talk"]) < 100


@pytest.mark.parametrize(("options", "leaves"), [({}, 600.0), ({"max_wait": 5000.0}, 5000.0)])
def test_a_worker_waits_longer_for_the_other_side_than_for_work(
    tmp_path: Path, options: dict[str, float], leaves: float
) -> None:
    laptop = TimedMachine("laptop", Gated(), lambda request: (1.0, "yes"))
    options = {"max_idle": 600.0, **options}
    with pytest.raises(AssertionError, match="nobody has anything to do"):
        work_together(submitted(tmp_path), [laptop], lambda: False, **options)
    assert 100 + leaves <= laptop.clock.time <= 100 + leaves + 60, "idle talk takes 100 s"


@dataclass
class WithoutServer(TimedMachine):
    """A machine whose server of models answers from a moment on; `error` says so until then."""

    back: float = math.inf
    error: HybridError = field(default_factory=lambda: Temporary("no server answers"))

    def digest(self, run: Run, role: str) -> str:
        if self.clock.time < self.back:
            raise self.error
        return super().digest(run, role)


@pytest.mark.parametrize(
    ("error", "leaves"), [(Temporary("no server"), 5000.0), (BadData("of another version"), 600.0)]
)
def test_a_worker_waits_for_a_server_as_long_as_for_the_other_side_but_not_for_what_does_not_come_right(
    tmp_path: Path, error: HybridError, leaves: float
) -> None:
    laptop = WithoutServer("laptop", Gated(), lambda request: (1.0, "yes"), error=error)
    with pytest.raises(AssertionError, match="nobody has anything to do"):
        work_together(submitted(tmp_path), [laptop], lambda: False, max_idle=600.0, max_wait=5000.0)
    assert leaves <= laptop.clock.time <= leaves + 60
    assert not laptop.busy


def test_a_server_that_was_away_for_an_hour_costs_nothing(tmp_path: Path) -> None:
    laptop = WithoutServer("laptop", Gated(), lambda request: (1.0, "yes"), back=4000.0)
    folder, options = submitted(tmp_path), {"max_idle": 600.0, "max_wait": 5000.0}
    work_together(folder, [laptop], lambda: laptop.clock.time > 1350, **options)
    assert laptop.worker
    assert progress(laptop.worker).startswith("waiting for work, leaves in 1 h")
    work_together(folder, [laptop], lambda: len(laptop.busy) == 100, **options)
    assert laptop.clock.time <= 4000 + 100 + 60
