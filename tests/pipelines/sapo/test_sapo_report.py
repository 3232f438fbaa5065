"""The page of a run of `sapo` in real Chromium: what has to be known, arms beside controls, curves, tasks, costs."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest

from hybrid.grading.grade_file import grade_file
from hybrid.metrics import RoundMetrics
from hybrid.records import Failure, Output
from hybrid.report.page import write_report
from hybrid.report.sources import find_source
from pipelines.sapo.comparison import Comparison
from pipelines.sapo.context import context_of
from pipelines.sapo.figures import MOST_POINTS, block_size, blocks, curves
from pipelines.sapo.grader import Sapo
from pipelines.sapo.results import read_swarms
from tests.support.chromium import Tab
from tests.support.hostile_texts import PAYLOADS
from tests.support.sapo_rounds import Metrics, record, run_of, sapo_outputs, sapo_run, swarm

ARMS = "8-0", "4-4", "2-6", "equal-compute-4-4"


def page_of(folder: Path, outputs: Sequence[Output], *, grades: bool = True, **settings: Any) -> Path:
    path = sapo_run(folder, outputs, **settings)
    if grades:
        grade_file(path, Sapo(), "sapo", folder / "grades.sapo.json")
    faults: list[str] = []
    page = write_report([find_source(path)], folder / "report.html", on_fault=lambda one: faults.append(one.message))
    assert faults == []
    return page


@pytest.fixture(scope="module")
def page(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Four arms with three seeds."""
    return page_of(tmp_path_factory.mktemp("pages") / "run", sapo_outputs(ARMS))


def texts(tab: Tab, selector: str) -> list[str]:
    found: list[str] = tab.eval(f"[...document.querySelectorAll({selector!r})].map(one => one.textContent)")
    return found


def row(tab: Tab, table: int, name: str) -> list[str]:
    """The cells of a row of one of the section's tables."""
    rows = f"[...document.querySelectorAll('.sapo-table')[{table}].querySelectorAll('tbody tr')]"
    named = f"{rows}.find(one => one.querySelector('th').firstChild.textContent == {name!r})"
    found: list[str] = tab.eval(f"[...{named}.querySelectorAll('td')].map(one => one.textContent)")
    return found


def test_every_part_is_drawn_and_arms_stand_beside_what_never_answers(tab: Tab, page: Path) -> None:
    tab.open(page)
    assert texts(tab, "#section-sapo h3") == [
        "Does sharing help?", "Curves of the arms", "Tasks", "Training", "Costs",
    ]  # fmt: skip
    assert row(tab, 0, "never answers") == ["0.3 %", "0.0 %", "–", "–"]
    own, held_out, *rises = row(tab, 0, "4-4")
    assert own.startswith("45.")
    assert held_out.startswith("48.")
    assert all(one.startswith("+") for one in rises)
    better = row(tab, 1, "4-4 minus 8-0")
    assert [one.endswith("better") for one in better] == [True, True, False]
    assert better[2] == "0.50"
    assert row(tab, 1, "4-4 minus equal-compute-4-4")[2] == "1.00"
    cumulative = row(tab, 3, "8-0")[-2:]
    assert [one.split("never answers: ")[1] for one in cumulative] == ["0.2667", "17.07"]
    assert row(tab, 4, "8-0") == ["60", "15\u202f360", "1\u202f536\u202f000", "921\u202f600", "3", "0.5", "2", "3.00"]
    assert tab.complaints() == []


def test_the_headline_says_what_is_earned_and_whether_sharing_helps_and_no_score_of_all(tab: Tab, page: Path) -> None:
    tab.open(page)
    lede = tab.eval("document.querySelector('.lede').textContent")
    assert lede.startswith("8-0: reward_own 37.")
    assert "against 8-0 +8.6 points in reward_own (better)" in lede
    assert "reward_train" not in lede
    assert lede.endswith("4 arms, 3 seeds.")
    assert texts(tab, "#summary table.scores") == []
    assert "none, since the scores are of several arms" in texts(tab, "#summary .counts")[0]
    assert "must not be compared between arms" in texts(tab, "#section-sapo")[0]


def test_curves_have_a_line_an_arm_with_its_interval(tab: Tab, page: Path) -> None:
    tab.open(page)
    charts = texts(tab, "#section-sapo > .all-series figure figcaption")
    assert [one.partition(":")[0] for one in charts] == [
        "reward_own", "eval_pass1", "reward_train", "dead", "tagged", "Mean age of foreign rollouts, in rounds",
        "Cumulative reward, the paper's",
    ]  # fmt: skip
    first = "#section-sapo > .all-series figure:first-child"
    assert texts(tab, f"{first} tbody th") == list(ARMS)
    assert len(texts(tab, f"{first} path.band")) == 4
    last = "#section-sapo > .all-series figure:last-child"
    ends = texts(tab, f"{last} tbody td:last-child")
    assert ends[0] == "20.18 round 19"
    assert texts(tab, "#section-sapo details summary") == ["Curves of the nodes"]
    assert len(texts(tab, "#section-sapo details figure")) == 4
    assert texts(tab, "article:first-of-type summary") == ["20 rounds", "4 nodes in round 19"]


def test_a_round_in_which_all_seeds_are_equal_does_not_take_the_band_of_the_others() -> None:
    def equal(number: int, node: int, metrics: Metrics) -> None:
        metrics |= {"reward_own": 0.25, "ext_age_mean": 0.0} if number == 3 else {"ext_age_mean": 0.0}

    swarms = read_swarms([one for seed in (0, 1) for one in swarm("4-4", seed, change=equal)])
    drawn = curves(Comparison(swarms, context_of(run_of())))
    assert drawn.count('<path class="band k0"') == 5  # all but tagged, which is level
    assert "Mean age" not in drawn


def test_many_rounds_are_blocks_of_means_and_the_sum_is_that_at_the_end_of_each() -> None:
    def constant(number: int, node: int, metrics: Metrics) -> None:
        metrics |= {"reward_own": float(number), "reward_train": 0.5}

    (one,) = read_swarms(swarm("8-0", 0, nodes=2, rounds=130, change=constant))
    assert block_size([one]) == 3
    found = blocks(one.nodes[0], "reward_own", 3)
    assert (len(found), found[0], found[126], found[129]) == (44, 1.0, 127.0, 129.0)
    assert len(found) <= MOST_POINTS


@pytest.mark.parametrize("dark", [False, True])
def test_the_page_fits_a_phone_in_light_and_dark(tab: Tab, page: Path, dark: bool) -> None:
    tab.call("Emulation.setDeviceMetricsOverride", width=400, height=800, deviceScaleFactor=1, mobile=True)
    scheme = {"name": "prefers-color-scheme", "value": "dark" if dark else "light"}
    tab.call("Emulation.setEmulatedMedia", features=[scheme])
    try:
        tab.open(page)
        assert tab.eval("document.documentElement.scrollWidth") <= 400
        wide = "[...document.querySelectorAll('#section-sapo td')].filter(one => !one.closest('.scroll'))"
        assert tab.eval(f"{wide}.every(one => one.getBoundingClientRect().right <= 400)")
        assert tab.eval("getComputedStyle(document.querySelector('.sapo-table td'), '::before').content") == (
            '"reward_own"'
        )
    finally:
        tab.call("Emulation.clearDeviceMetricsOverride")
        tab.call("Emulation.setEmulatedMedia", features=[])


def test_a_running_run_of_nodes_in_the_folder_is_drawn_up_to_where_it_is(tab: Tab, tmp_path: Path) -> None:
    outputs = [
        *swarm("6-2", 0, exchange="folder"),
        *swarm("4-4", 0, exchange="folder", present=12),
        *swarm("2-6", 0, exchange="folder", present=0),
    ]
    outputs.sort(key=lambda one: (one.task, one.question))
    tab.open(page_of(tmp_path / "run", outputs, grades=False))
    assert texts(tab, ".sapo-notices li b")[:2] == ["missing", "missing"]
    assert texts(tab, ".sapo-notices li")[0] == "missing no round is there of 2-6/seed-0: not computed yet"
    assert row(tab, 0, "4-4")[0].endswith("%")
    lede = tab.eval("document.querySelector('.lede').textContent")
    assert lede.endswith("2 arms, 1 seed.")
    assert "(not told apart, by the nodes of one seed)" in lede
    assert "not finished" in lede
    assert "they are narrower than they should be" in texts(tab, "#section-sapo")[0]
    assert texts(tab, "article:first-of-type summary") == []  # 2-6 has no round yet


def test_runs_of_other_arms_of_the_same_swarm_are_compared_on_their_seeds(tab: Tab, tmp_path: Path) -> None:
    paths = [sapo_run(tmp_path / arm, sapo_outputs((arm,), seeds=(0, 1))) for arm in ("4-4", "8-0")]
    other = sapo_run(tmp_path / "other", sapo_outputs(("2-6",), seeds=(0, 1)), group=4)
    tab.open(write_report([find_source(path) for path in paths], tmp_path / "both.html"))
    assert texts(tab, "#section-sapo h3")[0] == "All runs together"
    assert row(tab, 1, "4-4 minus 8-0")[0].endswith("better")
    tab.open(write_report([find_source(path) for path in (*paths, other)], tmp_path / "three.html"))
    assert "All runs together" not in texts(tab, "#section-sapo h3")


def test_a_cold_start_stands_in_the_headline(tab: Tab, tmp_path: Path) -> None:
    def cold(number: int, node: int, metrics: Metrics) -> None:
        metrics |= {"dead": 1.0, "reward_own": 0.0}

    tab.open(page_of(tmp_path / "run", [*swarm("8-0", 0), *swarm("4-4", 0, change=cold)]))
    lede = tab.eval("document.querySelector('.lede').textContent")
    assert lede.startswith("1 warning: see Arms. Nothing is learned by 4-4 (cold start). 8-0: ")


def test_nothing_yet_and_failures_are_said(tab: Tab, tmp_path: Path) -> None:
    failed = [record("4-4/seed-0", number, Failure("diverged", "the loss is nan")) for number in range(3)]
    tab.open(page_of(tmp_path / "run", failed))
    assert "No round is there yet." in tab.eval("document.querySelector('.lede').textContent")
    assert "the loss is nan" in texts(tab, "article .error")[0]


def test_names_and_texts_of_hostile_records_are_text(tab: Tab, tmp_path: Path) -> None:
    outputs = [
        *swarm("4-4", 0, rounds=2),
        *(record(f"4-4/seed-{seed}", 0, RoundMetrics(0, {}, {"node-0": {f"reward/{text[:80]}": 0.5}, text[:90]: {}}))
          for seed, text in enumerate(PAYLOADS, start=1)),
        *(record("8-0/seed-0", number, Failure("x", text)) for number, text in enumerate(PAYLOADS)),
    ]  # fmt: skip
    outputs.sort(key=lambda one: (one.task, one.question))
    tab.open(page_of(tmp_path / "run", outputs))
    assert tab.eval("window.pwned === undefined")
    assert tab.eval("document.querySelectorAll('#section-sapo script, #section-sapo img').length") == 0
    assert tab.complaints() == []


def test_a_comparison_without_swarms_has_no_arms() -> None:
    assert Comparison([], context_of(run_of())).arms == []
