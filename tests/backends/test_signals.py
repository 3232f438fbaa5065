"""Ctrl-C during training: the pass is finished, what was computed is kept, and training resumes from it."""

from __future__ import annotations

import signal
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from hybrid.backends.tuned.group import Group, TrainedAdapter, TrainingRequest
from hybrid.folder.medium import Disk
from hybrid.folder.tensors import RunTensors
from tests.support.peft_reference import job, tiny_model, trainer

torch.set_num_threads(1)
JOBS = [replace(one, name=one.tuning.digest) for one in (job("a", 1), job("b", 2, count=4), job("c", 3, count=3))]
WANTED = [TrainingRequest(one.tuning) for one in JOBS]


def group_in(folder: Path, interval: float = 3600) -> Group:
    tensors = RunTensors("run-000000000000", "attempt", Disk(folder))
    return Group(tensors, WANTED, model="m" * 64, dtype=torch.float32, interval=interval)


def trained(folder: Path, stop_at: int = 0, number: int = signal.SIGINT) -> tuple[dict[str, TrainedAdapter], int]:
    """The adapters, and the number of passes. A signal arrives during pass `stop_at`."""
    ours = trainer(tiny_model(), slots=2)
    pack = ours.pack

    def packed(*arguments: Any) -> Any:
        if stop_at and ours.passes == stop_at - 1:
            signal.raise_signal(number)
        return pack(*arguments)

    ours.planned(JOBS)
    ours.pack = packed  # type: ignore[method-assign]
    group = group_in(folder)
    group.found()
    try:
        return group.train(ours, JOBS, {}), ours.passes
    finally:
        trained_passes.append(ours.passes)
        ours.close()


trained_passes: list[int] = []


@pytest.fixture(autouse=True)
def _obeyed_ctrl_c() -> Iterator[None]:
    """A shell starts background jobs with SIGINT ignored."""
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    signal.signal(signal.SIGINT, before)


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_is_obeyed_after_the_pass_and_nothing_of_it_is_lost(tmp_path: Path, number: int) -> None:
    whole, passes = trained(tmp_path / "whole")
    before = signal.signal(signal.SIGTERM, signal.default_int_handler)
    try:
        with pytest.raises(KeyboardInterrupt):
            trained(tmp_path / "stopped", 4, number)
    finally:
        signal.signal(signal.SIGTERM, before)
    assert trained_passes[-1] == 4
    rest, more = trained(tmp_path / "stopped")
    assert more == passes - 4
    assert {name: made.digest for name, made in rest.items()} == {name: made.digest for name, made in whole.items()}


def test_a_signal_after_the_last_pass_is_obeyed_and_the_adapters_are_kept(tmp_path: Path) -> None:
    ours = trainer(tiny_model(), slots=2)
    packed = ours.packed

    @contextmanager
    def interrupted() -> Iterator[None]:
        with packed():
            yield
        if ours.steps == sum(one.steps for one in JOBS):
            signal.raise_signal(signal.SIGINT)

    ours.packed = interrupted  # type: ignore[method-assign, assignment]
    with pytest.raises(KeyboardInterrupt):
        group_in(tmp_path).train(ours, JOBS, {})
    ours.close()
    assert group_in(tmp_path).found().keys() == {one.name for one in WANTED}
