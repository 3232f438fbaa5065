"""The planned memory of both phases of cvfp is what torch's allocator hands out."""

from __future__ import annotations

import pytest
import torch

from hybrid.training.label_loss import chunk_rows
from pipelines.cvfp import phase1, phase2
from pipelines.cvfp.model import Model
from pipelines.cvfp.shape import MIB, Shape, phase1_memory, phase2_memory
from tests.support.allocations import allocated_peak

SHAPES = [(Shape(2000, 256, 4), 32, 2048), (Shape(6000, 128, 6), 64, 2048)]


def made(shape: Shape) -> Model:
    return Model(shape, torch.randn(shape.vocabulary, shape.width), 0.02, 0)


@pytest.mark.parametrize(("shape", "documents", "part"), SHAPES)
def test_the_memory_of_phase_1_is_planned(shape: Shape, documents: int, part: int) -> None:
    ids = torch.randint(shape.vocabulary, (documents, 64))

    def act() -> None:
        phase = phase1.PhaseOne(made(shape), ids, phase1.Settings("variance-covariance", 0.05, 2e-3, 1, 0, part), 0)
        for number in range(2):
            phase.sweep(number)

    planned = phase1_memory(shape, ids.numel(), min(part, ids.numel()))["total"]
    assert planned == pytest.approx(allocated_peak(act) / MIB, rel=0.1)


@pytest.mark.parametrize(
    ("shape", "documents", "frozen"),
    [
        (SHAPES[0][0], 32, False),
        (SHAPES[1][0], 64, False),
        (Shape(3000, 768, 2), 32, False),
        (SHAPES[0][0], 32, True),
        (Shape(2000, 256, 4, both=True), 32, False),
    ],
)
def test_the_memory_of_phase_2_is_planned(shape: Shape, documents: int, frozen: bool) -> None:
    ids = torch.randint(shape.vocabulary, (documents, 34))

    def act() -> None:
        how = phase2.Settings(1, 32, 16, 2e-3, 0, 1, 0.1, 0, frozen=frozen, contexts=True)
        phase2.PhaseTwo(made(shape), ids, how, 0).epoch(0)

    rows = phase2_memory(shape, 32, 16, frozen=frozen, chunk=chunk_rows(shape.vocabulary, ids.device))
    assert rows["total"] - rows["best weights"] == pytest.approx(allocated_peak(act) / MIB, rel=0.1)
