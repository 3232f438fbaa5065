"""The page of a run of `atlas` in real Chromium: guards, methods beside their controls, curves, clients, clusters."""

from __future__ import annotations

import itertools
import random
from collections import Counter
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from hybrid.grading.grade_file import grade_file
from hybrid.metrics import RoundMetrics
from hybrid.records import Failure, Output
from hybrid.report.page import write_report
from hybrid.report.sources import find_source
from pipelines.atlas.clusters_table import adjusted_rand
from pipelines.atlas.grader import Atlas
from tests.support.atlas_runs import WORTH, Groups, atlas_outputs, atlas_run, federation, output
from tests.support.chromium import Tab
from tests.support.hostile_texts import PAYLOADS


def page_of(folder: Path, outputs: Sequence[Output], **about: Any) -> Path:
    path = atlas_run(folder, outputs, **about)
    grade_file(path, Atlas(), "atlas", folder / "grades.atlas.json")
    faults: list[str] = []
    page = write_report([find_source(path)], folder / "report.html", on_fault=lambda one: faults.append(one.message))
    assert faults == []
    return page


@pytest.fixture(scope="module")
def page(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """All methods with three seeds and twelve clients."""
    return page_of(tmp_path_factory.mktemp("pages") / "run", atlas_outputs(tuple(WORTH), clients=12, rounds=3))


def texts(tab: Tab, selector: str) -> list[str]:
    found: list[str] = tab.eval(f"[...document.querySelectorAll({selector!r})].map(one => one.textContent)")
    return found


def row(tab: Tab, method: str) -> list[str]:
    """The cells of a method in the table of methods."""
    rows = "[...document.querySelector('.atlas-methods').querySelectorAll('tbody tr')]"
    named = f"{rows}.find(one => one.querySelector('th').firstChild.textContent == {method!r})"
    found: list[str] = tab.eval(f"[...{named}.querySelectorAll('td')].map(one => one.textContent)")
    return found


def test_each_method_stands_beside_its_controls_and_the_headline_says_how_it_compares(tab: Tab, page: Path) -> None:
    tab.open(page)
    assert [cell.split(" %")[0] for cell in row(tab, "most frequent label")[:2]] == ["55.0", "50.0"]
    assert texts(tab, ".atlas-tasks th[scope=col]") == [
        "",
        "MCC of agreement",
        "F1 of paraphrase",
        "accuracy of polarity",
    ]
    assert texts(tab, ".atlas-tasks .control td") == ["0", "0.500", "0.550"]
    atlas, local, random_clusters = (row(tab, name) for name in ("atlas", "local", "random-clusters"))
    assert atlas[-2].endswith("better")
    assert local[-2:] == ["–", local[-1]]
    assert local[-1].endswith("worse")
    assert random_clusters[-1].endswith("worse")
    assert tab.eval("document.querySelectorAll('.atlas-methods')[0].querySelectorAll('tbody tr').length") == 14
    lede = tab.eval("document.querySelector('.lede').textContent")
    assert lede.startswith(f"atlas: {atlas[0].split(' %')[0]} % of the dev rows, +")
    assert "points against local (better)" in lede
    assert "13 methods, 3 seeds" in lede
    assert "No guard was tripped" in texts(tab, "#section-atlas")[0]


def test_every_part_is_drawn_and_the_general_curves_have_a_line_a_method(tab: Tab, page: Path) -> None:
    tab.open(page)
    until = texts(tab, "#section-atlas h3")[3]
    assert until.startswith("Until an accuracy of ")
    assert texts(tab, "#section-atlas h3") == [
        "Accuracy by round", "Accuracy by traffic", "Accuracy by virtual time", until,
        "Communication, memory and time of a round", "Clients", "Clusters and true tasks", "Ranks by layer",
        "Training happened",
    ]  # fmt: skip
    names = texts(tab, ".atlas-grid figcaption b")
    assert names == [*WORTH, *(name for name in WORTH if name != "local"), *WORTH]  # local sends nothing
    assert [cells[:2] for cells in _rows(tab, ".atlas-costs tbody tr")[:2]] == [["0", "0"], ["48", "48"]]  # MB
    assert len(texts(tab, ".atlas-heat tbody td")) == 13 * 12
    agreement = [cells[-2:] for cells in _rows(tab, ".atlas-clusters tbody tr")]
    assert agreement[:9] == [["1.00", "0.005"]] * 6 + [["1.00", "–"]] * 3  # cluster, atlas, oracle-clusters
    assert len(agreement) == 12
    assert [cells[-1] for cells in _rows(tab, ".atlas-ranks tbody tr")] == ["2", "3", "4", "5", "6", "7"]
    assert len(texts(tab, "#section-curves figure.series:first-child tbody th")) == 13
    assert texts(tab, "article:first-of-type summary") == ["3 rounds", "12 clients in round 3"]
    assert tab.complaints() == []


def test_what_a_round_costs_is_drawn_from_its_files_and_the_machine_that_computed_it(tab: Tab, tmp_path: Path) -> None:
    cost = {"": {"round_seconds": 30.0, "peak_bytes": 2e8}}
    dear = [replace(one, trained={"costs": cost}) for one in federation("fedavg", 0)]
    tab.open(page_of(tmp_path / "run", [*federation("ffa", 0), *dear]))
    assert texts(tab, ".atlas-costs thead th") == ["", "MB sent", "MB fetched", "memory, MB", "seconds"]
    assert _rows(tab, ".atlas-costs tbody tr") == [["24", "24", "200", "30"], ["0.24", "0.24", "–", "–"]]
    widths: list[float] = tab.eval(
        "[...document.querySelectorAll('.atlas-costs path')].map(one => one.getBoundingClientRect().width)"
    )
    assert widths[0] == pytest.approx(100 * widths[4], rel=0.01)


def _rows(tab: Tab, selector: str) -> list[list[str]]:
    rows = f"[...document.querySelectorAll({selector!r})]"
    found: list[list[str]] = tab.eval(f"{rows}.map(row => [...row.querySelectorAll('td')].map(one => one.textContent))")
    return found


@pytest.mark.parametrize("dark", [False, True])
def test_the_page_fits_a_phone_and_its_texts_are_readable_in_light_and_dark(tab: Tab, page: Path, dark: bool) -> None:
    tab.call("Emulation.setDeviceMetricsOverride", width=400, height=800, deviceScaleFactor=1, mobile=True)
    scheme = {"name": "prefers-color-scheme", "value": "dark" if dark else "light"}
    tab.call("Emulation.setEmulatedMedia", features=[scheme])
    try:
        tab.open(page)
        assert tab.eval("document.documentElement.scrollWidth") <= 400
        wide = "[...document.querySelectorAll('#section-atlas td')].filter(one => !one.closest('.scroll'))"
        assert tab.eval(f"{wide}.every(one => one.getBoundingClientRect().right <= 400)")
        assert (
            tab.eval("getComputedStyle(document.querySelector('.atlas-methods td'), '::before').content")
            == '"accuracy"'
        )
        contrasts = tab.eval(CONTRASTS)
        assert len(contrasts) > 150
        assert min(contrasts) >= 4.5
    finally:
        tab.call("Emulation.clearDeviceMetricsOverride")
        tab.call("Emulation.setEmulatedMedia", features=[])


CONTRASTS = """(() => {
  const canvas = document.createElement('canvas').getContext('2d', {willReadFrequently: true});
  const painted = colours => {
    for (const one of colours) { canvas.fillStyle = one; canvas.fillRect(0, 0, 1, 1); }
    return [...canvas.getImageData(0, 0, 1, 1).data].slice(0, 3);
  };
  const light = rgb => rgb.map(one => one / 255).map(one => one <= .03928 ? one / 12.92 : ((one + .055) / 1.055) ** 2.4)
    .reduce((sum, one, place) => sum + one * [.2126, .7152, .0722][place], 0);
  const paper = getComputedStyle(document.body).backgroundColor;
  const coloured = '.atlas-heat td, .atlas-ranks td, .atlas-clusters i, .atlas-methods i';
  return [...document.querySelectorAll(coloured)].map(one => {
    const style = getComputedStyle(one);
    const [a, b] = [light(painted([paper, style.backgroundColor])), light(painted([style.color]))];
    return (Math.max(a, b) + .05) / (Math.min(a, b) + .05);
  });
})()"""
"""The contrast of each coloured cell's text with its ground (WCAG 2)."""


def test_faults_stand_on_top_and_take_their_series_out_of_the_comparison(tab: Tab, tmp_path: Path) -> None:
    own = federation("local", 0)
    doubled = [output("atlas/seed-0", n, RoundMetrics.from_text(one.text or "")) for n, one in enumerate(own)]
    lost = federation("ffa", 0)
    lost[-1] = output("ffa/seed-0", 3, Failure("diverged", "the loss is nan"))
    tab.open(page_of(tmp_path / "run", [*doubled, *federation("fedavg-lora", 0), *lost, *own]))
    assert texts(tab, ".atlas-guards li b") == ["fault", "missing"]
    assert "local and atlas (seed 0) are equal to the bit" in texts(tab, ".atlas-guards li")[0]
    lede = tab.eval("document.querySelector('.lede').textContent")
    assert lede.startswith("1 fault found by the guards, 1 series is not whole: see Methods. fedavg-lora: ")
    assert row(tab, "atlas") == row(tab, "ffa") == ["not compared: see above"]
    assert row(tab, "fedavg-lora")[0].endswith("%")


def test_one_seed_says_that_nothing_is_known_of_others(tab: Tab, tmp_path: Path) -> None:
    tab.open(page_of(tmp_path / "run", atlas_outputs(seeds=(0,))))
    assert "With one seed nothing is known of other seeds" in texts(tab, "#section-atlas")[0]
    assert "own rows +" in row(tab, "atlas")[-2]
    assert row(tab, "atlas")[-2].endswith("better")


def test_hostile_names_and_failures_are_shown_and_do_not_run(tab: Tab, tmp_path: Path) -> None:
    def hostile(number: int, metrics: dict[str, float], groups: Groups) -> None:
        for place, payload in enumerate(PAYLOADS):
            metrics[payload[:100]] = float(place)
            for kind in ("client", "task", "layer"):
                groups[f"{kind}-{payload}"[:100]] = {"accuracy": 0.5, "cluster": 0, "rank": 2.0, payload[:100]: 1e100}

    outputs = [one for place in range(2) for one in federation("atlas", place, change=hostile)]
    outputs += [output(f"local/seed-{n}", 0, Failure("lost", payload)) for n, payload in enumerate(PAYLOADS)]
    page = page_of(
        tmp_path / "run",
        sorted(outputs, key=lambda one: (one.task, one.question)),
        same_as=[1],
        metrics={"polarity": PAYLOADS[0]},
    )
    tab.open(page)
    assert tab.eval("window.pwned") is None
    assert tab.complaints() == []
    assert len(tab.fetched()) == 1
    assert len(texts(tab, ".atlas-methods")) == 4


def test_the_adjusted_rand_index_counts_pairs() -> None:
    draw = random.Random(0)
    for size in (2, 3, 12, 40):
        for kinds in (2, 5):
            labels, truth = ([draw.randrange(kinds) for _ in range(size)] for _ in range(2))
            pairs = list(itertools.combinations(range(size), 2))
            told = Counter((labels[a] == labels[b], truth[a] == truth[b]) for a, b in pairs)
            a, b, c, d = (told[one] for one in ((True, True), (True, False), (False, True), (False, False)))
            below = (a + b) * (b + d) + (a + c) * (c + d)
            wanted = 2 * (a * d - b * c) / below if below else 1.0
            assert adjusted_rand(labels, truth) == pytest.approx(wanted)  # Hubert and Arabie 1985, by pairs
    assert adjusted_rand([0], ["x"]) == adjusted_rand([], []) == 1.0
    assert adjusted_rand([0, 0, 1, 1], "aabb") == adjusted_rand([1, 1, 0, 0], "aabb") == 1.0
