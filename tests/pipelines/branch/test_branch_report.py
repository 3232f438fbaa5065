"""The page of a run of `branch` in real Chromium: the tree, its filter, its pictures, two nodes side by side."""

from __future__ import annotations

import base64
import dataclasses
import json
from pathlib import Path
from typing import Any

import pytest

from hybrid.grading.grade_file import grade_file
from hybrid.records import Output
from hybrid.report.page import write_report
from hybrid.report.sources import find_source
from pipelines.branch.grader import Branch
from pipelines.branch.reading import kept_of, trees
from pipelines.branch.tree_page import MOST_NODES, Names
from tests.support.chromium import Tab
from tests.support.hostile_texts import PAYLOADS
from tests.support.tree_runs import pipeline_outputs, tree_outputs, tree_run


def page_of(folder: Path, outputs: list[Output]) -> Path:
    path = tree_run(folder, outputs)
    grade_file(path, Branch(), "branch", folder / "grades.branch.json")
    return write_report([find_source(path)], folder / "report.html")


@pytest.fixture(scope="module")
def outputs() -> list[Output]:
    return tree_outputs(children=8, keep=4)


@pytest.fixture(scope="module")
def page(tmp_path_factory: pytest.TempPathFactory, outputs: list[Output]) -> Path:
    return page_of(tmp_path_factory.mktemp("pages") / "run", outputs)


def test_what_the_pipeline_itself_records_is_graded_and_drawn_in_all_its_parts(tab: Tab, tmp_path: Path) -> None:
    outputs = pipeline_outputs()
    path = tree_run(tmp_path / "run", outputs)
    summary = grade_file(path, Branch(), "branch", path.with_name("grades.branch.json"))
    assert summary["n"] == sum(one.view["verdict"] == "kept" and not one.view["control"] for one in outputs) > 1
    assert all(one["control"] is not None for one in summary["measures"])
    assert len(summary["measures"]) >= 8
    tab.open(write_report([find_source(path)], tmp_path / "report.html"))
    parts = (".funnel", ".cards .said", ".plane circle", ".heat rect", ".measures td", ".control li.node")
    assert [name for name in parts if not tab.eval(f"document.querySelectorAll({name!r}).length")] == []
    assert tab.eval("document.querySelectorAll('li.node').length") == sum(one.view["depth"] > 0 for one in outputs)


def test_the_headline_says_what_was_kept_and_no_scenario_is_right_or_wrong(
    tab: Tab, page: Path, outputs: list[Output]
) -> None:
    own = [one.view["verdict"] for one in outputs if one.view["depth"] and not one.view["control"]]
    tab.open(page)
    headline = tab.eval("document.querySelector('.lede').textContent")
    assert headline.startswith(f"{own.count('kept')} kept of {len(own)} candidates: ")
    assert "%" not in headline
    shown = tab.eval("[...document.querySelectorAll('#tools input')].map(one => one.value)")
    assert not {"right", "partly", "wrong"} & set(shown)
    assert tab.eval("document.querySelector('article').dataset.status") == "graded"
    assert tab.eval("document.querySelector('article > header').textContent").count("right") == 0


def test_a_card_tells_the_whole_story_that_a_kept_text_grew_from(tab: Tab, page: Path, outputs: list[Output]) -> None:
    ((_, nodes),) = trees(outputs)
    best = kept_of(nodes)[0]
    above = next(one for one in nodes if one.id == best.parent)
    tab.open(page)
    assert tab.eval("document.querySelector('.cards .story .said').textContent") == above.text
    assert not tab.eval("document.querySelector('.cards .story').open")
    assert tab.eval("document.querySelector('main > section').textContent").startswith("Kept")
    numbers = tab.eval("[...document.querySelectorAll('.branch-tree .number')].map(one => one.textContent)")
    assert sorted(numbers, key=int) == [str(number + 1) for number in range(len(kept_of(nodes)))]


def test_a_cluster_is_named_by_its_size_and_a_text_that_is_alone_by_none(outputs: list[Output]) -> None:
    ((_, nodes),) = trees(outputs)
    first, second, third, *others = [dataclasses.replace(one, cluster=7) for one in nodes]
    first, second, third = (
        dataclasses.replace(one, cluster=cluster) for one, cluster in ((first, 1), (second, 2), (third, 2))
    )
    names = Names("run", "mars", [first, second, third, *others], 100)
    assert [names.cluster(one) for one in (first, second, others[0])] == ["", "cluster 2", "cluster 1"]
    assert names.alone == 1


def choose(tab: Tab, selector: str, value: str) -> None:
    field = f"document.querySelector({json.dumps(selector)})"
    tab.eval(f"{field}.value = {json.dumps(value)}; {field}.dispatchEvent(new Event('input', {{bubbles: true}}))")


def visible(tab: Tab) -> list[Any]:
    """Verdict and score of the nodes that fit the filter and can be seen."""
    found: list[Any] = tab.eval(
        "[...document.querySelectorAll('li.node:not(.dim)')].filter(n => n.checkVisibility())"
        ".map(n => [n.dataset.verdict, n.dataset.score])"
    )
    return found


def test_every_node_stands_in_the_tree_once_under_its_parent(tab: Tab, page: Path, outputs: list[Output]) -> None:
    tab.open(page)
    names: list[str] = tab.eval(
        "[...document.querySelectorAll('li.node')].map(n => n.querySelector('summary b').textContent)"
    )
    assert sorted(names) == sorted(one.question.removeprefix("mars/") for one in outputs)
    parents: list[list[str]] = tab.eval(
        "[...document.querySelectorAll('li.node li.node')].map(n => [n, n.parentElement.closest('li.node')]"
        ".map(one => one.querySelector('summary b').textContent))"
    )
    assert parents
    assert all(child.rpartition(".")[0] == parent for child, parent in parents)
    assert tab.complaints() == []
    assert tab.fetched() == [page.as_uri()]


def test_a_drop_names_its_sibling_and_the_link_opens_every_fold_above_it(tab: Tab, page: Path) -> None:
    tab.open(page)
    link = "li.node.refused .why a, li.node.dropped .why a"
    assert tab.eval(f"document.querySelector('{link}').closest('.why').textContent.includes('similarity 0.')")
    tab.eval("document.querySelectorAll('details').forEach(fold => fold.open = false)")
    tab.eval(f"document.querySelector('{link}').click()")
    tab.eval("new Promise(done => setTimeout(done, 50))")
    assert tab.eval("document.querySelector(location.hash).firstElementChild.querySelector('.said').checkVisibility()")


def test_the_filter_shows_what_fits_with_what_it_grew_from(tab: Tab, page: Path, outputs: list[Output]) -> None:
    tab.open(page)
    wanted = [one for one in outputs if one.view["verdict"] == "dropped-similar"]
    choose(tab, ".filter .verdict", "dropped-similar")
    assert sorted(visible(tab)) == sorted(["dropped-similar", f"{one.view['score']:.4f}"] for one in wanted)
    told = tab.eval("document.querySelector('.filter .found').textContent")
    assert told == f"{len(wanted)} of {len(outputs)} nodes"
    choose(tab, ".filter .verdict", "")
    choose(tab, ".filter .least", "0.9")
    assert visible(tab)
    assert all(float(score) >= 0.9 for _, score in visible(tab))
    choose(tab, ".filter .least", "")
    choose(tab, ".filter .words", "no such words anywhere")
    assert visible(tab) == []


def test_two_nodes_stand_side_by_side_and_escape_puts_them_away(tab: Tab, page: Path, outputs: list[Output]) -> None:
    tab.open(page)
    assert tab.eval("document.querySelector('.pair').hidden")
    tab.click("li.node.chosen .pick")
    tab.click("li.node.chosen li.node.chosen .pick")
    sides: list[str] = tab.eval("[...document.querySelectorAll('.pair .said')].map(one => one.textContent)")
    texts = {one.text for one in outputs}
    assert len(sides) == 2
    assert set(sides) <= texts
    left, right = tab.eval("[...document.querySelectorAll('.pair > div')].map(one => one.getBoundingClientRect().top)")
    assert left == right
    assert tab.eval("document.querySelector('li.node.chosen > details').open"), "comparing folds nothing"
    tab.press("Escape", 27)
    assert tab.eval("document.querySelector('.pair').hidden")


def test_folds_open_by_keyboard(tab: Tab, page: Path) -> None:
    tab.open(page)
    tab.eval("document.querySelector('li.others summary').focus()")
    assert tab.eval("!document.activeElement.parentElement.open")
    tab.press("Enter", 13, "\r")
    assert tab.eval("document.activeElement.parentElement.open")


def test_map_and_heat_map_show_what_was_kept(tab: Tab, page: Path, outputs: list[Output]) -> None:
    ((_, nodes),) = trees(outputs)
    kept = kept_of(nodes)
    tab.open(page)
    numbers = [str(number + 1) for number in range(len(kept))]
    assert sorted(tab.eval("[...document.querySelectorAll('.plane text')].map(one => one.textContent)")) == numbers
    assert tab.eval("document.querySelectorAll('.heat rect').length") == len(kept) * (len(kept) - 1)
    cosine = sum(a * b for a, b in zip(kept[0].vector, kept[1].vector, strict=True))
    titles = tab.eval("[...document.querySelectorAll('.heat title')].map(one => one.textContent)")
    assert f"1 and 2: {cosine:.2f}" in titles
    colours = tab.eval(
        "[...document.querySelectorAll('.plane a circle')]"
        ".map(c => [c.getAttribute('class'), getComputedStyle(c).fill])"
    )
    clusters = {one.cluster for one in kept}
    assert all(name.startswith("k") for name, _ in colours)
    assert len({fill for _, fill in colours}) == len({name for name, _ in colours}) == len(clusters)


def test_a_scenario_of_shares_is_not_said_to_have_nothing_right(tab: Tab, page: Path) -> None:
    tab.open(page)
    assert "right" not in tab.eval("document.querySelector('article > header').textContent")


def test_every_figure_stands_beside_its_control(tab: Tab, page: Path) -> None:
    tab.open(page)
    cells: list[list[str]] = tab.eval(
        "[...document.querySelectorAll('.measures tbody tr:not(.group)')]"
        ".map(r => [...r.children].map(c => c.textContent))"
    )
    assert len(cells) >= 8
    assert all(control != "–" and value for _, value, control, _ in cells)


@pytest.mark.parametrize(("width", "mode"), [(400, "light"), (400, "dark"), (1200, "dark")])
def test_the_page_fits_a_phone_and_a_screenshot_holds_the_whole_of_it(
    tab: Tab, page: Path, width: int, mode: str
) -> None:
    tab.call("Emulation.setDeviceMetricsOverride", width=width, height=800, deviceScaleFactor=1, mobile=width < 500)
    tab.call("Emulation.setEmulatedMedia", features=[{"name": "prefers-color-scheme", "value": mode}])
    try:
        tab.open(page)
        tab.eval("document.querySelectorAll('details').forEach(fold => fold.open = true)")
        assert tab.eval("document.documentElement.scrollWidth") <= width
        high = tab.eval("document.documentElement.scrollHeight")
        clip = {"x": 0, "y": 0, "width": width, "height": high, "scale": 1}
        shot = base64.b64decode(tab.call("Page.captureScreenshot", captureBeyondViewport=True, clip=clip)["data"])
        assert int.from_bytes(shot[20:24]) == high
        paper = tab.eval("getComputedStyle(document.body).backgroundColor")
        assert (paper == "rgb(20, 22, 26)") == (mode == "dark")
    finally:
        tab.call("Emulation.clearDeviceMetricsOverride")
        tab.call("Emulation.setEmulatedMedia", features=[])


def test_hostile_texts_in_every_place_of_a_tree_are_shown_and_do_not_run(tab: Tab, tmp_path: Path) -> None:
    tab.open(page_of(tmp_path / "run", tree_outputs(children=12, hostile=PAYLOADS)))
    tab.eval("document.querySelectorAll('details').forEach(fold => fold.open = true)")
    tab.eval("document.querySelectorAll('.pick').forEach(button => button.click())")
    tab.eval("document.querySelectorAll('*').forEach(e => { e.dispatchEvent(new MouseEvent('mouseover')); e.focus() })")
    assert tab.eval("typeof window.pwned") == "undefined"
    assert tab.complaints() == []
    assert len(tab.fetched()) == 1
    assert tab.eval("document.querySelectorAll('iframe, form, img, link, base, textarea, [onerror]').length") == 0
    assert "<img src=x onerror=window.pwned=1>" in tab.eval("document.querySelector('.branch-tree').textContent")
    assert "\u202e" not in tab.eval("document.documentElement.outerHTML")


@pytest.mark.slow
def test_ten_thousand_nodes_make_a_page_that_is_bounded_and_says_so(tab: Tab, tmp_path: Path) -> None:
    one = tree_outputs(children=2)[0]
    many = [
        dataclasses.replace(one, key=f"{n}", question=f"mars/{n}", view={**one.view, "verdict": "dropped-beam"})
        for n in range(10_000)
    ]
    some = [dataclasses.replace(each, view={**each.view, "verdict": "kept"}) for each in many[-30:]]
    source = tree_run(tmp_path / "run", sorted([*many[:-30], *some], key=lambda each: each.question))
    path = write_report([find_source(source)], tmp_path / "report.html")
    assert path.stat().st_size < 8_000_000
    tab.open(path)
    assert tab.eval("document.querySelectorAll('li.node').length") == MOST_NODES
    assert tab.eval("document.querySelectorAll('li.node.chosen').length") == 30
    assert "8\u202f000 more nodes not drawn" in tab.eval("document.querySelector('.branch-tree').textContent")
    assert "10\u202f000" in tab.eval("document.querySelector('.funnel + .note').textContent")


def test_parents_in_a_circle_unknown_and_very_deep_ones_are_drawn_or_counted(tab: Tab, tmp_path: Path) -> None:
    one = tree_outputs(children=2)[0]

    def node(id: str, parent: str) -> Output:
        return dataclasses.replace(one, question=id, view={**one.view, "parent": parent, "verdict": "expanded"})

    odd = [node("mars/1", "mars/2"), node("mars/2", "mars/1"), node("mars/3", "mars/3"), node("mars/4", "lost")]
    deep = [node(f"mars/x{n:03}", f"mars/x{n - 1:03}") for n in range(300)]
    tab.open(page_of(tmp_path / "run", [*odd, *deep]))
    drawn = tab.eval("[...document.querySelectorAll('li.node > details > summary > b')].map(b => b.textContent)")
    assert {"1", "2", "3", "4", "x000"} <= set(drawn)
    assert len(drawn) == len(set(drawn))
    assert "too deep to be drawn" in tab.eval("document.querySelector('.branch-tree').textContent")


def test_without_a_script_the_whole_tree_is_there_and_no_dead_filter(tab: Tab, page: Path) -> None:
    tab.call("Emulation.setScriptExecutionDisabled", value=True)
    try:
        tab.open(page)
    finally:
        tab.call("Emulation.setScriptExecutionDisabled", value=False)
    assert tab.eval("document.querySelector('.filter').hidden")
    assert tab.eval("document.querySelectorAll('.pick').length") == 0
    assert tab.eval("document.querySelectorAll('li.node').length") > 40
