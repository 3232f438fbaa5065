"""Curves of a real run whose records hold metrics of rounds; axes and lines of any range."""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest

from hybrid.metrics import RoundMetrics
from hybrid.outputs import write_outputs
from hybrid.records import Output
from hybrid.report.axes import axis_of
from hybrid.report.curves import MAX_WITH_GROUPS, _series
from hybrid.report.line_charts import MAX_GREY_LINES, STYLED_LINES, Line, line_chart, thinned
from hybrid.report.page import write_report
from hybrid.report.sources import find_source
from tests.support.in_process import Hybrid
from tests.support.report_runs import done, in_rounds


@pytest.fixture
def options(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> list[str]:
    return in_rounds(tmp_path, monkeypatch)


@pytest.fixture
def runs(tmp_path: Path, options: list[str], hybrid: Hybrid) -> list[Path]:
    """Three runs that differ in their seed."""
    return [done(hybrid, options, tmp_path / f"seed-{seed}" / "outputs.json", f"seed={seed}") for seed in (0, 2, 7)]


def charts(page: str) -> dict[str, str]:
    figures = re.finditer(r'<figure class="series"><figcaption><b>(.*?)</b>.*?</figure>', page)
    return {found[1]: found[0] for found in figures}


def numbers(chart: str, name: str) -> list[str]:
    """First, lowest, highest and last value of a line, from the legend."""
    row = re.search(rf"<tr><th scope=\"row\"><svg.*?</svg>{re.escape(name)}</th>(.*?)</tr>", chart)
    assert row, name
    return re.findall(r'<td class="n">(.*?)(?:<small>.*?</small>)?</td>', row[1])


def test_each_metric_of_a_real_run_is_a_curve_and_each_group_a_line(runs: list[Path]) -> None:
    page = write_report([find_source(runs[0])], runs[0].parent / "r.html").read_text()
    assert '<section id="section-curves"><h2>Curves</h2>' in page
    found = charts(page)
    assert list(found) == ["drift", "reward"]
    assert numbers(found["reward"], "all") == ["0", "0", "15", "15"]
    assert numbers(found["reward"], "node-1") == ["1", "1", "1", "1"]
    assert numbers(found["drift"], "all") == ["−1e−6", "−4e−6", "−1e−6", "−4e−6"]
    assert "−4e−6</text>" in found["drift"]
    assert 'class="band' not in page.split("</style>")[1]
    assert '<th scope="col" class="n">drift</th>' in page  # the task is a table of its rounds
    assert "not graded" in page


def test_runs_that_differ_only_in_the_seed_are_a_mean_with_a_band(runs: list[Path]) -> None:
    page = write_report([find_source(run) for run in runs], runs[0].parent / "r.html").read_text()
    assert "A line is the mean of 3 runs that differ only in their seed (0, 2, 7)" in page
    reward = charts(page)["reward"]
    assert numbers(reward, "all") == ["3", "3", "18", "18"]
    band = re.search(r'<path class="band k0" d="M([^"]*)Z"/>', reward)
    assert band
    corners = [float(point.split(" ")[1]) for point in band[1].split("L")]
    assert len(corners) == 8
    ticks = {label: float(y) for y, label in re.findall(r'y="([\d.]+)" class="tick">(\d+)<', reward)}
    scale = (ticks["0"] - ticks["20"]) / 20
    assert corners[0] == pytest.approx(ticks["0"] - 7 * scale, abs=0.1)  # the highest seed, round 0
    assert corners[-1] == pytest.approx(ticks["0"], abs=0.1)  # the lowest seed, round 0


def test_runs_that_differ_in_other_settings_are_separate_lines(
    runs: list[Path], options: list[str], tmp_path: Path, hybrid: Hybrid
) -> None:
    out = done(hybrid, options, tmp_path / "longer" / "outputs.json", "rounds=6")
    found = [find_source(runs[0]), find_source(out)]
    page = write_report(found, runs[0].parent / "r.html").read_text()
    assert numbers(charts(page)["reward"], found[0].label)[-1] == "15"
    assert numbers(charts(page)["reward"], found[1].label)[-1] == "25"
    assert "differ in their seed" not in page


def records(folder: Path, rounds: Sequence[RoundMetrics], run: dict[str, Any]) -> Path:
    made = [Output(f"{n:04}", "t", f"t/{n:04}", {}, 0, one.to_text(), None, None) for n, one in enumerate(rounds)]
    folder.mkdir(exist_ok=True)
    write_outputs(folder / "outputs.json", run, [], {}, made)
    return folder / "outputs.json"


def repeats(folder: Path, methods: int, seeds: int, clients: int) -> Path:
    """A run whose series are methods with seeds; the reward is 10 times the method and the seed."""
    made = [
        Output(f"{name} {n}", name, f"{name}/{n:05}", {}, 0, one.to_text(), None, None)
        for method in range(methods)
        for seed in range(seeds)
        for name in [f"method-{method:02}/seed-{seed}"]
        for n in range(3)
        for one in [
            RoundMetrics(n, {"reward": 10.0 * method + seed}, {f"c-{c}": {"reward": 1.0} for c in range(clients)})
        ]
    ]
    folder.mkdir(exist_ok=True)
    write_outputs(folder / "outputs.json", {}, [], {}, made)
    return folder / "outputs.json"


def test_series_of_a_run_that_differ_only_in_the_seed_are_a_mean_with_a_band(tmp_path: Path) -> None:
    page = write_report([find_source(repeats(tmp_path, 2, 3, 2))], tmp_path / "r.html").read_text()
    assert "A line is the mean of the series that differ only in their seed" in page
    reward = charts(page)["reward"]
    assert numbers(reward, "method-01") == ["11", "11", "11", "11"]
    assert numbers(reward, "method-01 · c-1") == ["1", "1", "1", "1"]
    assert "seed-1" not in reward
    assert reward.count('<path class="band') == 6


def test_a_line_whose_seeds_have_no_round_in_common_is_left_out(tmp_path: Path) -> None:
    """As of a client that was late in one round with a seed, and in another one with the next seed."""
    made = [
        Output(f"{seed} {n}", f"m/seed-{seed}", f"m/seed-{seed}/{n:05}", {}, 0, one.to_text(), None, None)
        for seed in range(2)
        for n in range(3)
        for one in [RoundMetrics(n, {"reward": float(n), **({"skipped": 1.0} if n == seed else {})})]
    ]
    write_outputs(tmp_path / "outputs.json", {}, [], {}, made)
    page = write_report([find_source(tmp_path / "outputs.json")], tmp_path / "r.html").read_text()
    assert list(charts(page)) == ["reward"]


def test_thirteen_methods_with_their_clients_are_thirteen_lines(tmp_path: Path) -> None:
    page = write_report([find_source(repeats(tmp_path, 13, 3, 12))], tmp_path / "r.html").read_text()
    reward = charts(page)["reward"]
    assert reward.count('<tr><th scope="row">') == 13
    assert "156 more lines not drawn" in reward


def test_metrics_that_never_change_are_named_and_not_drawn(tmp_path: Path) -> None:
    made = [
        RoundMetrics(n, {"loss": 1.0 - n / 10, "rank": 8.0}, {f"c-{c}": {"cluster": float(c)} for c in range(3)})
        for n in range(3)
    ]
    page = write_report([find_source(records(tmp_path, made, {}))], tmp_path / "r.html").read_text()
    assert list(charts(page)) == ["loss"]
    assert "Not drawn, since they do not change from round to round: cluster (0 to 2), rank (8)." in page


def test_of_one_round_all_metrics_are_named_and_none_is_drawn(tmp_path: Path) -> None:
    made = [RoundMetrics(0, {"loss": 1.0}, {"a": {"loss": 3.0}})]
    page = write_report([find_source(records(tmp_path, made, {}))], tmp_path / "r.html").read_text()
    assert "Not drawn, since they are of one round only: loss (1 to 3)." in page
    assert "from round to round" not in page
    assert charts(page) == {}


def test_a_metric_of_one_round_alone_is_not_said_to_stay(tmp_path: Path) -> None:
    made = [RoundMetrics(n, {"loss": 1.0 - n, "rank": 8.0, **({"p": 0.5} if n == 0 else {})}) for n in range(3)]
    page = write_report([find_source(records(tmp_path, made, {}))], tmp_path / "r.html").read_text()
    assert list(charts(page)) == ["loss"]
    assert "Not drawn, since they do not change from round to round: rank (8)." in page
    assert "Not drawn, since they are of one round only: p (0.5)." in page


def test_of_very_many_lines_of_groups_no_more_than_a_value_is_kept(tmp_path: Path) -> None:
    held = _series(find_source(repeats(tmp_path, 13, 1, 12)))
    assert {len(points) for (_, _, group), points in held.items() if not group} == {3}
    assert sum(len(points) for (_, _, group), points in held.items() if group) < 13 * 12 + 3 * MAX_WITH_GROUPS


def test_a_metric_of_one_of_several_series_has_its_name_and_the_phase_is_not_drawn(tmp_path: Path) -> None:
    run = {"id": "cvfp-0123456789ab", "pipeline": "cvfp", "settings": {}}
    made = [RoundMetrics(number, {"phase": float(number), "loss": 2.0 - number}) for number in range(2)]
    swept = [RoundMetrics(one.round, {**one.metrics, "change": 1.0 + one.round}) for one in made]
    outputs = [
        Output(f"{at:064x}", task, f"{task}/{one.round}", {}, 0, one.to_text(), None, None)
        for at, (task, one) in enumerate([*(("cvfp", one) for one in swept), *(("token-only", one) for one in made)])
    ]
    write_outputs(path := tmp_path / "outputs.json", run, [], {}, outputs)
    found = charts(write_report([find_source(path)], tmp_path / "r.html").read_text())
    assert list(found) == ["change", "loss"]
    assert numbers(found["change"], "cvfp") == ["1", "1", "2", "2"]


def test_names_of_metrics_and_groups_are_escaped(tmp_path: Path) -> None:
    name = "</text><script>window.pwned = 1</script>"
    path = records(tmp_path, [RoundMetrics(0, {name: 1.0}, {name: {name: 2.0}})], {})
    page = write_report([find_source(path)], tmp_path / "r.html").read_text()
    assert "<script>window" not in page
    assert "&lt;script&gt;window" in page


def test_records_of_other_pipelines_have_no_curves(tmp_path: Path) -> None:
    made = [Output("a", "t", "t/0", {}, 0, '{"round": "one"}', None, None)]
    write_outputs(tmp_path / "outputs.json", {}, [], {}, made)
    assert "Curves</h2>" not in write_report([find_source(tmp_path / "outputs.json")], tmp_path / "r.html").read_text()


@pytest.mark.parametrize(
    "values",
    [
        (0, 1), (-3.5, 5), (0, 1e-6), (1e6, 5.5e6), (-1e9, -1e-9), (1_000_000.001, 1_000_000.002), (5, 5), (0, 0),
        (-2e-50, -2e-50), (-1e100, 1e100), (0.1, 0.3), (99, 101), (1e-99, 2e-99), (123456, 123457), (1, 1 + 1e-15),
    ],
)  # fmt: skip
def test_an_axis_contains_its_values_between_round_ticks_with_different_labels(values: tuple[float, float]) -> None:
    axis = axis_of(values)
    assert axis.low <= min(values) <= max(values) <= axis.high
    assert axis.low < axis.high
    labels = [label for _, label in axis.ticks]
    assert 2 <= len(labels) == len(set(labels)) <= 9
    assert [float(label.replace("−", "-")) for label in labels] == [value for value, _ in axis.ticks]
    assert max(map(len, labels)) <= 12


@pytest.mark.parametrize(("numbers", "labels"), [
    ([0, 1, 2, 3], ["0", "1", "2", "3"]), ([0], ["0"]), ([0, 2000], ["0", "500", "1000", "1500", "2000"]),
    ([3, 29], ["5", "10", "15", "20", "25"]),
])  # fmt: skip
def test_rounds_have_integer_ticks(numbers: list[int], labels: list[str]) -> None:
    assert [label for _, label in axis_of(map(float, numbers), 8, whole=True).ticks] == labels


def test_a_long_line_is_thinned_and_keeps_its_extremes() -> None:
    points = {n: float(n % 7) for n in range(10_000)} | {5_001: 900.0, 7_003: -900.0}
    shown = dict(thinned(points))
    assert len(shown) <= 810
    assert (shown[5_001], shown[7_003], 0 in shown, 9_999 in shown) == (900.0, -900.0, True, True)


def test_many_lines_differ_by_dash_and_text_and_the_rest_is_counted() -> None:
    lines = [Line(f"client-{n:02}", {0: 1.0, 1: float(n)}) for n in range(STYLED_LINES + MAX_GREY_LINES + 3)]
    drawn = line_chart("loss", lines)
    assert drawn.count('<path class="line more"') == 2 * MAX_GREY_LINES  # drawn, and in the legend
    assert len(set(re.findall(r'class="line (k\d)"', drawn))) == STYLED_LINES
    assert "3 more lines not drawn" in drawn
    style = (Path(__file__).parents[2] / "hybrid" / "report" / "curves.css").read_text()
    dashes = re.findall(r"\.line\.k\d \{ stroke-dasharray: ([\d ]+);", style)
    assert len(set(dashes)) == STYLED_LINES - 1  # the first is drawn through
