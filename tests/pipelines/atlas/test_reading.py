"""The tasks of a run: generated and in files, together, and refused before the first round when they are too small."""

from __future__ import annotations

from pathlib import Path

import pytest

from hybrid.errors import BadData, UsageError
from hybrid.settings import build
from pipelines.atlas.pipeline import DATA, Atlas
from pipelines.atlas.reading import read_tasks


def reviews(path: Path, count: int) -> str:
    """A file of rows that alternate between two labels."""
    path.parent.mkdir(exist_ok=True)
    path.write_text("body,stars\n" + "".join(f"review {n},{n % 2}\n" for n in range(count)))
    return str(path)


def test_a_file_of_ones_own_is_a_task_under_its_short_name(tmp_path: Path) -> None:
    path = reviews(tmp_path / "reviews.csv", 90)
    pipeline = build(Atlas, [f"tasks={path},polarity", "columns=body,stars", "clients=3", "samples=20", "dev=10"])
    inputs = pipeline.inputs()
    data = inputs.tasks[DATA]
    assert data["clients"] == {"client-00": "reviews", "client-01": "polarity", "client-02": "reviews"}
    assert {name: (len(one["train"]), len(one["dev"])) for name, one in data["tasks"].items()} == {
        "reviews": (40, 10),
        "polarity": (20, 10),
    }
    digests = [inputs.about["data"]["reviews"]["rows"]]
    reviews(tmp_path / "reviews.csv", 91)
    digests.append(pipeline.inputs().about["data"]["reviews"]["rows"])
    assert digests[0] != digests[1]
    assert "reviews.csv, 90 rows" in inputs.about["data"]["reviews"]["source"]


def test_too_few_rows_or_two_tasks_of_one_name_are_refused(tmp_path: Path) -> None:
    path, other = reviews(tmp_path / "reviews.csv", 20), reviews(tmp_path / "b" / "reviews.csv", 20)
    columns = "columns=body,stars"
    with pytest.raises(BadData, match=r"reviews\.csv: its 12 clients need 2 rows each, and 1\d are"):
        read_tasks(build(Atlas, [f"tasks={path}", columns, "clients=12"]))
    with pytest.raises(UsageError, match="two are called reviews"):
        read_tasks(build(Atlas, [f"tasks={path},{other}", columns, "clients=2"]))
    with pytest.raises(UsageError, match="polarty: neither a task nor a file"):
        read_tasks(build(Atlas, ["tasks=polarty"]))
