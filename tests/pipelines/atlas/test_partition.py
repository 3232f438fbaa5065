"""Rows divided among clients: every row once, skewed as asked, the same for the same seed."""

from __future__ import annotations

from collections import Counter
from statistics import pstdev

import pytest

from hybrid.errors import BadData
from pipelines.atlas.partition import Kind, divide
from pipelines.atlas.task_data import Row

ROWS = [Row(f"text {n}", None, int(n < 300)) for n in range(900)]  # sorted by label, as many files are


@pytest.mark.parametrize("kind", ["iid", "dirichlet", "quantity"])
@pytest.mark.parametrize("concentration", [1e-9, 0.3, 1e6])
@pytest.mark.parametrize("clients", [1, 7, 450])
def test_every_row_goes_to_one_client_which_trains_and_is_tested(
    kind: Kind, concentration: float, clients: int
) -> None:
    parts = divide(ROWS, clients, kind, concentration, "0", 0.2)
    assert len(parts) == clients
    assert sorted(row for train, test in parts for row in [*train, *test]) == sorted(ROWS)
    assert all(train and test for train, test in parts)
    assert parts == divide(ROWS, clients, kind, concentration, "0", 0.2)
    assert parts != divide(ROWS, clients, kind, concentration, "1", 0.2)


def shares_of_label(concentration: float, kind: Kind = "dirichlet") -> list[float]:
    parts = divide(ROWS, 6, kind, concentration, "2", 0.2)
    return [sum(row.label for row in train + test) / len(train + test) for train, test in parts]


def sizes(concentration: float, kind: Kind = "quantity") -> list[int]:
    return [len(train) + len(test) for train, test in divide(ROWS, 6, kind, concentration, "2", 0.2)]


def test_a_low_concentration_skews_labels_or_sizes_and_a_high_one_does_not() -> None:
    assert pstdev(shares_of_label(0.1)) > 0.3
    assert pstdev(shares_of_label(1000)) < 0.1
    assert max(sizes(0.1)) > 400
    assert max(sizes(1000)) < 200
    assert set(sizes(1, "iid")) == {150}
    assert pstdev(shares_of_label(1, "iid")) < 0.05
    assert pstdev(shares_of_label(0.5, "quantity")) < pstdev(shares_of_label(0.5)) / 2


def test_a_share_of_each_client_is_held_out_and_never_all() -> None:
    for held_out, tests in ((0.2, 30), (0.001, 1), (0.999, 149)):
        assert {len(test) for _, test in divide(ROWS, 6, "iid", 1, "0", held_out)} == {tests}
    labels = Counter(row.label for _, test in divide(ROWS, 6, "iid", 1, "0", 0.2) for row in test)
    assert 40 <= labels[1] <= 80


def test_too_few_rows_are_told() -> None:
    with pytest.raises(BadData, match="9 rows for 5 clients of a task: each needs 2") as caught:
        divide(ROWS[:9], 5, "iid", 1, "0", 0.2)
    assert caught.value.hint == "fewer clients: --set clients=N"
