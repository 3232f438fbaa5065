"""Report sections of plugins: they are drawn, and an exception costs only their own part of the page."""

from __future__ import annotations

import shutil
import sys
import tomllib
from pathlib import Path

import pytest

from hybrid.outputs import write_outputs
from hybrid.records import Output
from hybrid.report.page import write_report
from hybrid.report.sources import find_source
from tests.support.in_process import Hybrid
from tests.support.report_runs import laid_down

ROOT = Path(__file__).parents[2]
PLUGIN = ROOT / "tests" / "plugin_package"

RAISING = """
from dataclasses import dataclass

from hybrid.report.markup import el
from hybrid.report.section import Section


@dataclass(frozen=True)
class Faulty(Section):
    title = "Doubtful"

    def wants(self, run):
        return run.pipeline == "my-pipeline"

    def overall(self, runs):
        {overall}

    def task(self, shown):
        {task}
"""


def outputs(folder: Path, pipeline: str = "my-pipeline") -> Path:
    """An ungraded run of two tasks; one answer is markup."""
    said = {"a": "<b>12345</b>", "b": "7"}
    records = [Output(f"{task}/0", task, f"{task}/0", {}, 0, text, None, "5") for task, text in said.items()]
    write_outputs(folder / "outputs.json", {"id": "r", "pipeline": pipeline}, [], {"a": [2, 3], "b": [4, 1]}, records)
    return folder / "outputs.json"


def test_the_example_in_contributing_is_drawn(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    text = (ROOT / "CONTRIBUTING.md").read_text().split("## Add a report section, in 40 lines")[1]
    block = text.split("```python\n")[1].split("```")[0]
    lines = [line.removeprefix("   ") for line in block.splitlines()]
    assert len(lines) <= 40
    laid_down(tmp_path, "lengths_of", "[hybrid.reports]\nlengths = lengths_of:Lengths\n", "\n".join(lines))
    monkeypatch.syspath_prepend(tmp_path)
    page = write_report([find_source(outputs(tmp_path))], tmp_path / "report.html").read_text()
    assert '<section id="section-lengths"><h2>Length of the answers</h2>' in page
    assert "<td>12 characters</td>" in page
    assert "<li>&lt;b&gt;12345&lt;/b&gt;</li>" in page
    assert "<b>12345</b>" not in page


def test_the_section_of_the_example_distribution_is_drawn(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    declared = tomllib.loads((PLUGIN / "pyproject.toml").read_text())["project"]["entry-points"]["hybrid.reports"]
    entries = "\n".join(f"{name} = {value}" for name, value in declared.items())
    laid_down(tmp_path, "tiny_plugin", f"[hybrid.reports]\n{entries}\n")
    shutil.copytree(PLUGIN / "tiny_plugin", tmp_path / "tiny_plugin")
    monkeypatch.syspath_prepend(tmp_path)
    for name in [name for name in sys.modules if name.partition(".")[0] == "tiny_plugin"]:
        monkeypatch.delitem(sys.modules, name)  # as another test imported it from elsewhere
    page = write_report([find_source(outputs(tmp_path, "tiny-sums"))], tmp_path / "report.html").read_text()
    assert "<li>r: 2 sums</li>" in page
    assert "a = 5; said: &lt;b&gt;12345&lt;/b&gt;" in page
    assert "Sums</h2>" not in write_report([find_source(outputs(tmp_path))], tmp_path / "report.html").read_text()


@pytest.mark.parametrize(
    ("overall", "task", "doing", "said"),
    [
        ("return el('p', 'fine')", "return [][0]", "drawing the task 'a'", "IndexError: list index out of range"),
        ("return 1 / 0", "return ''", "drawing its part", "ZeroDivisionError"),
        ("return 17", "return ''", "drawing its part", "TypeError: int where hybrid wants str"),
    ],
)
def test_an_exception_in_a_section_is_named_and_the_rest_of_the_page_is_drawn(
    overall: str, task: str, doing: str, said: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, hybrid: Hybrid
) -> None:
    name = f"breaker_{tmp_path.name[-8:]}".replace("-", "_")
    module = RAISING.format(overall=overall, task=task)
    laid_down(tmp_path, name, f"[hybrid.reports]\ndoubtful = {name}:Faulty\n", module)
    monkeypatch.syspath_prepend(tmp_path)
    done = hybrid("report", outputs(tmp_path))
    fault = f"the report section 'doubtful' of '{name}' failed while {doing}: {said}"
    assert done.code == 7
    assert done.stdout == f"{tmp_path / 'report.html'}\n"
    assert f"report.html is written, but a part of it is missing: {fault}" in done.stderr
    assert f"({name}.py:" in done.stderr or "where hybrid wants" in said
    page = (tmp_path / "report.html").read_text()
    assert fault.replace("'", "&#x27;") in page
    assert "Parts of this page are missing" in page
    assert page.count("<article ") == 2
    assert page.count("<dt>Answer</dt>") == 2  # rows of text in the place of what was not drawn


CONSTRUCTOR = """
    def __post_init__(self):
        1 / 0
"""
NOT_LOADED = {
    "no module": ("", " of '{name}' cannot be imported from {name}:Faulty"),
    "import error": ("import a_missing_module\n", " of '{name}' cannot be imported from {name}:Faulty"),
    "no dataclass": ("Faulty = 1\n", " is not a dataclass: {name}:Faulty"),
    "wants": (
        RAISING.format(overall="pass", task="pass").replace("return run.pipeline", "return 1 / 0"),
        "failed while deciding whether it wants the run r: ZeroDivisionError",
    ),
    "constructor": (RAISING.format(overall="pass", task="pass") + CONSTRUCTOR, " being made: ZeroDivisionError"),
}


@pytest.mark.parametrize("case", NOT_LOADED)
def test_a_section_that_cannot_be_loaded_is_a_warning_and_no_failure_of_the_report(
    case: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    hybrid: Hybrid,
    caplog: pytest.LogCaptureFixture,
) -> None:
    name = f"not_loaded_{case.replace(' ', '_')}"
    module, message = NOT_LOADED[case]
    laid_down(tmp_path, name, f"[hybrid.reports]\nlost = {name}:Faulty\n", module)
    monkeypatch.syspath_prepend(tmp_path)
    done = hybrid("report", outputs(tmp_path))
    assert done.code == 0, done.stderr
    assert done.stdout == f"{tmp_path / 'report.html'}\n"
    (warning,) = caplog.messages
    assert warning.startswith("the report section 'lost'")
    assert message.format(name=name) in warning
    page = (tmp_path / "report.html").read_text()
    assert "These report sections could not be loaded" in page
    assert "the report section &#x27;lost&#x27;" in page
    assert page.count("<article ") == 2


def test_plain_text_that_a_section_returns_is_escaped(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    module = RAISING.format(overall="return '<script>window.pwned = 1</script>'", task="return '<img src=x>'")
    laid_down(tmp_path, "plain_text", "[hybrid.reports]\nplain = plain_text:Faulty\n", module)
    monkeypatch.syspath_prepend(tmp_path)
    page = write_report([find_source(outputs(tmp_path))], tmp_path / "report.html").read_text()
    assert "&lt;script&gt;window.pwned" in page
    assert "<img" not in page
