"""The report in Chromium: hostile text does not run, nothing is fetched, drawings and filters work."""

from __future__ import annotations

import base64
import zlib
from pathlib import Path
from typing import Any

import pytest

from graders.arc import Arc
from graders.exact import Exact
from hybrid.grading.grade_file import grade_file
from hybrid.metrics import RoundMetrics
from hybrid.outputs import write_outputs
from hybrid.records import Failure, Output
from hybrid.report.page import write_report
from hybrid.report.sources import find_source
from tests.support.chromium import Tab
from tests.support.hostile_texts import PAYLOADS
from tests.support.report_runs import laid_down

RIGHT = [[1, 2], [3, 4]]
WRONG = [[1, 2], [3, 5]]
TRUTH = RIGHT


def written(grid: list[list[int]]) -> str:
    return "\n".join("".join(map(str, row)) for row in grid)


def record(task: str, sample: int, answer: str | Failure, reference: Any, view: dict[str, Any]) -> Output:
    text, error = (None, answer) if isinstance(answer, Failure) else (answer, None)
    return Output(f"{task}/{sample}", task, f"{task}/0", view, sample, text, error, reference, finish="stop")


def arc_page(
    folder: Path, answers: dict[str, list[Any]], *, name: str = "arc", run: dict[str, Any] | None = None
) -> Path:
    """A page about tasks whose truth is `TRUTH`; answers are texts, grids or failures."""
    folder.mkdir(exist_ok=True)
    view = {"transform": "identity", "format": "compact"}
    data = {"train": [{"input": [[0, 1]], "output": [[1, 0]]}] * 3, "test": [{"input": [[5, 5]]}]}
    records = [
        record(task, sample, written(answer) if isinstance(answer, list) else answer, TRUTH, view)
        for task in sorted(answers)
        for sample, answer in enumerate(answers[task])
    ]
    path = folder / "outputs.json"
    write_outputs(
        path, {"id": folder.name, "pipeline": "seal-eval", **(run or {})}, [], dict.fromkeys(answers, data), records
    )
    grade_file(path, Arc(), name, folder / "grades.arc.json")
    return write_report([find_source(path)], folder / "report.html")


@pytest.fixture(scope="module")
def page(tmp_path_factory: pytest.TempPathFactory) -> Path:
    lost = Failure("too_long", "the prompt is too long")
    wide = [[1] * 30] * 30
    return arc_page(
        tmp_path_factory.mktemp("pages") / "run",
        {
            "a-right": [RIGHT, RIGHT, WRONG],
            "b-wrong": [WRONG, WRONG, wide],
            "c-lost": [lost, lost],
            "d-right": [WRONG, WRONG, RIGHT, lost],
            "e-split": [[[n]] for n in range(6)],
        },
    )


def test_hostile_text_in_every_place_is_shown_and_does_not_run(tab: Tab, tmp_path: Path) -> None:
    everywhere = "".join(PAYLOADS)
    answers: dict[str, list[Any]] = {f"{number} {payload}": [payload, WRONG] for number, payload in enumerate(PAYLOADS)}
    answers["failed"] = [Failure(everywhere, everywhere)]
    run = {
        "id": everywhere,
        "model": everywhere,
        "settings": {everywhere: everywhere},
        "about": {"x": {everywhere: [everywhere]}},
    }
    tab.open(arc_page(tmp_path / "run", answers, name=everywhere, run=run))
    tab.eval("document.querySelectorAll('details').forEach(fold => fold.open = true)")
    tab.eval(
        "document.querySelectorAll('*').forEach("
        "e => { e.dispatchEvent(new MouseEvent('mouseover')); e.focus && e.focus() })"
    )
    assert tab.eval("typeof window.pwned") == "undefined"
    assert tab.eval("document.title").startswith("<script>")
    assert tab.fetched() == [(tmp_path / "run" / "report.html").as_uri()]
    assert tab.complaints() == []
    assert tab.eval("document.scripts.length") == 1
    assert (
        tab.eval("document.querySelectorAll('iframe, form, img, link, base, textarea, [onerror], [onload]').length")
        == 0
    )
    assert len(tab.shown()) == len(PAYLOADS) + 1
    shown = tab.eval("document.querySelector('#tasks').textContent")
    assert "<img src=x onerror=window.pwned=1>" in shown
    assert "U+202E" in shown
    assert "\u202e" not in tab.eval("document.documentElement.outerHTML")


def test_hostile_text_answers_are_shown_and_do_not_run(tab: Tab, tmp_path: Path) -> None:
    records = [record(f"{n:02}", 0, payload, payload[::-1], {payload: payload}) for n, payload in enumerate(PAYLOADS)]
    tasks = {each.task: {"context": payload} for each, payload in zip(records, PAYLOADS, strict=True)}
    write_outputs(tmp_path / "outputs.json", {}, [], tasks, records)
    grade_file(tmp_path / "outputs.json", Exact(), "exact", tmp_path / "grades.exact.json")
    tab.open(write_report([find_source(tmp_path / "outputs.json")], tmp_path / "report.html"))
    assert tab.eval("typeof window.pwned") == "undefined"
    assert len(tab.fetched()) == 1
    assert tab.complaints() == []
    assert len(tab.shown()) == len(PAYLOADS)


def test_injected_markup_would_not_run(tab: Tab, page: Path, tmp_path: Path) -> None:
    holed = tmp_path / "holed.html"
    hole = "<script>window.pwned=1</script><img src=x onerror=window.pwned=1><img src=https://example.invalid/x.png>"
    holed.write_text(page.read_text(encoding="utf-8").replace("<main>", f"<main>{hole}"), encoding="utf-8")
    tab.open(holed)
    assert tab.eval("document.querySelectorAll('main img').length") == 2
    assert tab.eval("typeof window.pwned") == "undefined"
    assert len(tab.complaints()) >= 3


SCRIPTED = """
from dataclasses import dataclass

from hybrid.report.markup import el
from hybrid.report.section import Section


@dataclass(frozen=True)
class Scripted(Section):
    def wants(self, run):
        return True

    def overall(self, runs):
        return el("p", "before", id="NAME")

    def script(self):
        return SAID
"""


def test_a_sections_script_runs_and_its_exception_stops_no_other(
    tab: Tab, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    change = "document.getElementById('{}').textContent = 1 < 2 ? 'after' : ''"
    scripts = {"one": "throw new Error('broken')", "two": change.format("two"), "three": "</script><b>"}
    for name, script in scripts.items():
        module = SCRIPTED.replace("NAME", name).replace("SAID", repr(script))
        laid_down(tmp_path / "site", f"script_{name}", f"[hybrid.reports]\n{name} = script_{name}:Scripted\n", module)
    monkeypatch.syspath_prepend(tmp_path / "site")
    tab.open(arc_page(tmp_path / "run", {"a": [RIGHT]}))
    assert tab.eval("document.getElementById('two').textContent") == "after"
    assert tab.eval("document.getElementById('three').textContent") == "before"
    assert [event["method"] for event in tab.complaints()] == ["Runtime.exceptionThrown"]
    tab.click("#tools input[value=wrong] + span")
    assert tab.shown() == []


def test_the_drawings_are_shown(tab: Tab, page: Path) -> None:
    tab.open(page)
    sizes = tab.eval(
        "[...document.querySelectorAll('svg.grid')].map(s => s.getBoundingClientRect()).map(r => [r.width, r.height])"
    )
    assert len(sizes) >= 5 * 8
    assert all(width > 10 and height > 10 for width, height in sizes)
    assert tab.eval("document.querySelectorAll('svg[role=img]:not([aria-label])').length") == 0
    colour = tab.eval("getComputedStyle(document.querySelector('svg.grid path.s2')).stroke")
    assert colour == "rgb(255, 65, 54)"


def test_filters_show_and_count_the_tasks_that_they_name(tab: Tab, page: Path) -> None:
    tab.open(page)
    assert tab.shown() == ["a-right", "b-wrong", "c-lost", "d-right", "e-split"]
    expected = {
        "right": ["a-right", "d-right"],
        "wrong": ["b-wrong", "e-split"],
        "ungraded": ["c-lost"],
        "failed": ["c-lost", "d-right"],
        "all": ["a-right", "b-wrong", "c-lost", "d-right", "e-split"],
    }
    for value, ids in expected.items():
        tab.click(f"#tools input[value={value}] + span")
        assert tab.shown() == ids
        assert tab.eval("document.querySelector('#shown').textContent") == f"{len(ids)} of 5 shown"
        assert tab.eval(f"document.querySelector('#tools input[value={value}] + span b').textContent") == str(len(ids))


def test_the_search_takes_the_slash_key_and_part_of_an_id(tab: Tab, page: Path) -> None:
    tab.open(page)
    tab.press("/", 191, "/")
    assert tab.eval("document.activeElement.id") == "find"
    tab.call("Input.insertText", text="RIGHT")
    assert tab.shown() == ["a-right", "d-right"]
    tab.call("Input.insertText", text="x")
    assert tab.shown() == []
    assert tab.eval("document.querySelector('#nothing').hidden") is False


def test_sorting_by_keyboard_orders_the_tasks(tab: Tab, page: Path) -> None:
    tab.open(page)
    tab.eval("document.querySelector('#sort').focus()")
    orders = {}
    for _ in range(6):
        tab.press("ArrowDown", 40)
        orders[tab.eval("document.querySelector('#sort').value")] = tab.shown()
    assert orders["id"] == ["a-right", "b-wrong", "c-lost", "d-right", "e-split"]
    assert orders["best"] == ["a-right", "d-right", "b-wrong", "e-split", "c-lost"]
    assert orders["worst"] == ["b-wrong", "e-split", "a-right", "d-right", "c-lost"]
    assert orders["-votes"][0] in ("a-right", "b-wrong")
    assert orders["+votes"][0] == "e-split"


def test_a_square_leads_to_its_task_even_when_it_is_filtered_out(tab: Tab, page: Path) -> None:
    tab.open(page)
    tab.click("#tools input[value=wrong] + span")
    tab.click(".squares a:nth-child(4)")
    tab.eval("new Promise(done => setTimeout(done, 100))")
    assert "d-right" in tab.shown()


def test_output_texts_are_folded(tab: Tab, page: Path) -> None:
    tab.open(page)
    assert tab.eval("document.querySelector('article pre').checkVisibility()") is False
    tab.click("article details summary")
    assert tab.eval("document.querySelector('article pre').checkVisibility()") is True
    assert tab.eval("document.querySelector('article pre').textContent") == "12\n34"


def colours(png: bytes) -> int:
    """The number of colours in a PNG of 8 bits per channel, without undoing its line filters."""
    assert png[24:26] in (b"\x08\x02", b"\x08\x06")
    width, deep = int.from_bytes(png[16:20]), 3 if png[25] == 2 else 4
    data, place = b"", 8
    while place < len(png):
        size, kind = int.from_bytes(png[place : place + 4]), png[place + 4 : place + 8]
        data += png[place + 8 : place + 8 + size] if kind == b"IDAT" else b""
        place += 12 + size
    raw = zlib.decompress(data)
    line = width * deep + 1
    return len({raw[at : at + deep] for top in range(0, len(raw), line) for at in range(top + 1, top + line, deep)})


def test_a_screenshot_of_the_whole_page_shows_the_last_task_and_the_settings(tab: Tab, tmp_path: Path) -> None:
    tab.open(arc_page(tmp_path / "long", {f"{n:03}": [RIGHT, WRONG] for n in range(12)}))
    for last in ("#tasks article:last-child .attempts", "#settings table"):
        place = tab.eval(
            f"(() => {{ const r = document.querySelector('{last}').getBoundingClientRect();"
            " return {x: r.x + scrollX, y: r.y + scrollY, width: r.width, height: r.height, scale: 1} })()"
        )
        assert place["y"] > 3000  # far below what the window shows
        shot = tab.call("Page.captureScreenshot", captureBeyondViewport=True, clip=place)["data"]
        assert colours(base64.b64decode(shot)) > 10


def test_curves_are_drawn_in_both_colour_modes_within_the_security_policy(tab: Tab, tmp_path: Path) -> None:
    rounds = [
        RoundMetrics(n, {"loss": 1e-6 * n - 3e-6}, {f"node-{k}": {"loss": 1e-6 * k} for k in range(3)})
        for n in range(5)
    ]
    made = [Output(f"{n}", "t", f"t/{n}", {}, 0, one.to_text(), None, None) for n, one in enumerate(rounds)]
    write_outputs(tmp_path / "outputs.json", {}, [], {}, made)
    page = write_report([find_source(tmp_path / "outputs.json")], tmp_path / "report.html")
    line, style = "document.querySelector('.lines path.line.{}')", "getComputedStyle({}).{}"
    strokes = []
    try:
        for scheme in ("light", "dark"):
            tab.call("Emulation.setEmulatedMedia", features=[{"name": "prefers-color-scheme", "value": scheme}])
            tab.open(page)
            assert tab.complaints() == []
            assert tab.eval(f"{line.format('k1')}.getBoundingClientRect().width") > 200
            dashes = [tab.eval(style.format(line.format(f"k{n}"), "strokeDasharray")) for n in range(4)]
            assert len(set(dashes)) == 4
            strokes.append([tab.eval(style.format(line.format(f"k{n}"), "stroke")) for n in range(4)])
    finally:
        tab.call("Emulation.setEmulatedMedia", features=[])
    assert all(light != dark for light, dark in zip(*strokes, strict=True))
    assert len(set(strokes[0])) == 4


@pytest.mark.slow
def test_a_print_contains_every_task(tab: Tab, tmp_path: Path) -> None:
    tab.open(arc_page(tmp_path / "long", {f"{n:03}": [RIGHT, WRONG] for n in range(12)}))
    pages = [base64.b64decode(tab.call("Page.printToPDF", **part)["data"]) for part in ({"pageRanges": "1"}, {})]
    numbers = [page.count(b"/Type /Page\n") for page in pages]
    assert numbers[0] == 1
    assert numbers[1] > 3
    assert len(pages[1]) > len(pages[0]) * 2


@pytest.mark.parametrize("width", [320, 390])
def test_a_phone_scrolls_only_vertically(tab: Tab, page: Path, width: int) -> None:
    tab.open(page)
    try:
        tab.call("Emulation.setDeviceMetricsOverride", width=width, height=844, deviceScaleFactor=2, mobile=True)
        tab.eval("document.querySelectorAll('details').forEach(fold => fold.open = true)")
        assert tab.eval("innerWidth") == width
        assert tab.eval("document.documentElement.scrollWidth") <= width
        assert (
            tab.eval(
                "Math.max(...[...document.querySelectorAll('article *')].map(e => e.getBoundingClientRect().right))"
            )
            <= width
        )
    finally:
        tab.call("Emulation.clearDeviceMetricsOverride")


def test_dark_mode_changes_background_and_text_but_not_arc_colours(tab: Tab, page: Path) -> None:
    tab.open(page)
    seen = {}
    try:
        for scheme in ("light", "dark"):
            tab.call("Emulation.setEmulatedMedia", features=[{"name": "prefers-color-scheme", "value": scheme}])
            style = "getComputedStyle(document.{}).{}"
            looks = [("body", "backgroundColor"), ("body", "color"), ("querySelector('path.s2')", "stroke")]
            seen[scheme] = [tab.eval(style.format(*look)) for look in looks]
    finally:
        tab.call("Emulation.setEmulatedMedia", features=[])
    light, dark = seen["light"], seen["dark"]
    assert light[0] != dark[0]
    assert light[1] != dark[1]
    assert light[2] == dark[2]


@pytest.mark.slow
def test_without_javascript_everything_is_shown_without_the_filter(tab: Tab, page: Path) -> None:
    tab.call("Emulation.setScriptExecutionDisabled", value=True)
    try:
        tab.open(page)
        root = tab.call("DOM.getDocument")["root"]["nodeId"]
        tools = tab.call("DOM.querySelector", nodeId=root, selector="#tools[hidden]")["nodeId"]
        hidden = tab.call("DOM.querySelectorAll", nodeId=root, selector="article[hidden]")["nodeIds"]
        assert tools
        assert hidden == []
    finally:
        tab.call("Emulation.setScriptExecutionDisabled", value=False)
