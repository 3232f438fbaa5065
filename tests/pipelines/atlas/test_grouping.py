"""The clusters of clients by gradients of a real model: tasks that differ are found, and random labels are not."""

from __future__ import annotations

from typing import Any

import pytest

from hybrid.loops import Lab
from hybrid.settings import build
from pipelines.atlas.fingerprints import agreement
from pipelines.atlas.loop import loop
from pipelines.atlas.pipeline import DATA, Atlas

pytestmark = pytest.mark.slow


def begun(lab: Lab, *settings: str) -> Any:
    """A federation of the method cluster after one round."""
    pipeline = build(Atlas, ["methods=cluster", "rounds=1", "dev=8", "rank=4", *settings])
    tasks = pipeline.inputs().tasks
    (series, *_) = pipeline.stages()[0].work.series(tasks)  # type: ignore[union-attr]
    federation = loop(pipeline, series, lab, tasks[DATA])
    federation.record = federation.round(0)
    federation.close()
    return federation


@pytest.mark.parametrize("seed", [0, 1])
def test_clients_of_three_tasks_are_in_three_clusters(lab: Lab, seed: int) -> None:
    federation = begun(lab, "tasks=polarity,paraphrase,agreement", "clients=6", "samples=80", f"seeds={seed}")
    found = federation.grouping
    assert (
        agreement(
            found.labels, [["polarity", "paraphrase", "agreement"].index(one.task) for one in federation.members]
        ).ari
        == 1.0
    )
    assert found.p_value <= 0.05
    assert federation.record.metrics["clusters"] == 3


def test_clients_with_random_labels_are_one_cluster(lab: Lab) -> None:
    federation = begun(lab, "tasks=random-labels", "clients=8", "samples=60")
    assert set(federation.grouping.labels) == {0}
    assert federation.grouping.p_value > 0.05
    assert federation.record.metrics["structure_p"] == federation.grouping.p_value
