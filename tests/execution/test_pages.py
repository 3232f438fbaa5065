"""Pages that a pipeline writes beside its outputs, and what the grader measures of all outputs together."""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest

from hybrid.errors import HybridError, OwnFault, PluginFault, UsageError
from hybrid.execution.local import Engine, run_here
from hybrid.execution.pages import write_pages
from hybrid.grading.grade_file import grade_file
from hybrid.metrics import Measured
from hybrid.outputs import write_outputs
from hybrid.progress import SilentProgress
from hybrid.protocols import Inputs, Stage, Watcher
from hybrid.records import Grade, Item, Message, Output, Request, Sampling
from hybrid.report.page import write_report
from hybrid.report.sources import find_source
from hybrid.work import Ask


@dataclass(frozen=True)
class AnswerPage:
    """Asks one question, and writes a page with its answer."""

    made: Mapping[str, Any] = field(default_factory=dict)

    def inputs(self) -> Inputs:
        return Inputs({"a": "who?"}, {}, {})

    def stages(self) -> tuple[Stage, ...]:
        return (Stage("ask", "any", 1, Ask(self.ask)),)

    def ask(self, tasks: Mapping[str, Any]) -> Iterator[Item]:
        yield Item("a", "a/0", Request(Sampling(8), messages=(Message("user", tasks["a"]),)))

    def pages(
        self, tasks: Mapping[str, Any], outputs: Iterable[Output], models: Sequence[str]
    ) -> Mapping[str, str | Iterable[str]]:
        return self.made or {
            "answers.md": "# Answers\n\n" + "".join(f"{tasks[one.task]} {one.text}\n" for one in outputs)
        }


def outputs(path: Path) -> Path:
    write_outputs(path, {"id": "r"}, [], {"a": "who?"}, [Output("1", "a", "a/0", {}, 0, "I", None, None)])
    return path


def test_a_local_run_ends_with_the_page_beside_its_outputs(tmp_path: Path) -> None:
    answers = tmp_path / "answers.json"
    answers.write_text(json.dumps({"answers": {}, "default": "nobody"}))
    engine = Engine("scripted", str(answers))
    done = run_here(tmp_path / "folder", "answers", AnswerPage(), {"": engine}, SilentProgress())
    assert done.outputs.with_name("answers.md").read_text() == "# Answers\n\nwho? nobody\n"


def test_a_page_is_made_anew_and_never_takes_the_place_of_somebody_elses_file(tmp_path: Path) -> None:
    path = outputs(tmp_path / "outputs.json")
    assert write_pages(AnswerPage({"kept.md": "# Kept\n1"}), path) == [tmp_path / "kept.md"]
    write_pages(AnswerPage({"kept.md": "# Kept\n2"}), path)
    assert (tmp_path / "kept.md").read_text() == "# Kept\n2"
    assert write_pages(AnswerPage(), outputs(tmp_path / "other.json")) == [tmp_path / "other.answers.md"]
    data = tmp_path / "exp1_local.json"
    for number in (1, 2):
        write_pages(AnswerPage({data.name: f'{{"made_by": "me",\n"n": {number}}}'}), path)
        assert json.loads(data.read_text())["n"] == number
    (tmp_path / "kept.md").write_text("my own notes")
    with pytest.raises(UsageError, match=r"kept\.md holds something else"):
        write_pages(AnswerPage({"kept.md": "# Kept\n3"}), path)
    assert (tmp_path / "kept.md").read_text() == "my own notes"
    write_pages(AnswerPage({"rows.csv": iter(["a,b\n", "1,2\n", "3,4\n"])}), path)  # never held as one text
    assert (tmp_path / "rows.csv").read_text() == "a,b\n1,2\n3,4\n"


@pytest.mark.parametrize(
    "made",
    [
        {"../kept.md": "# x"}, {"kept.html": "# x"}, {"kept.md": ""}, {"kept.md": 3},
        {"a.csv": iter([])}, {"a.csv": iter(["a\n", 3])}, {"a.md": "# fine", "b.csv": [1]},
        {"outputs.json": '{"a": 1}'}, {"grades.json": '{"a": 1}'}, {"exp1.json": "{\n}"}, {"exp1.json": " { \n}"},
    ],
)  # fmt: skip
def test_a_page_of_a_strange_name_or_without_a_text_is_a_fault_of_the_pipeline(tmp_path: Path, made: Any) -> None:
    with pytest.raises((OwnFault, PluginFault), match="making the pages"):
        write_pages(AnswerPage(made), outputs(tmp_path / "outputs.json"))
    assert [one.name for one in tmp_path.iterdir()] == ["outputs.json"]


@dataclass(frozen=True)
class Together:
    """Measures all outputs together."""

    value: float = 2.5

    @contextmanager
    def ready(self, outputs: Iterable[Output], watcher: Watcher) -> Iterator[Measures]:
        yield Measures(self.value, len(list(outputs)))


@dataclass(frozen=True)
class Measures:
    """What was measured."""

    value: float
    n: int

    def grade(self, output: Output) -> Grade:
        return Grade(1.0)

    def measures(self) -> Iterator[Measured]:
        yield Measured("a", "<b>Vendi</b>", self.value, self.n, (2.0, 3.0), 1.5, (1.0, 2.0), "plain")


def test_what_a_grader_measures_together_stands_in_the_grades_and_is_read_back(tmp_path: Path) -> None:
    path = outputs(tmp_path / "outputs.json")
    grades = tmp_path / "grades.together.json"
    summary = grade_file(path, Together(), "together", grades)
    assert summary["measures"] == [
        {"group": "a", "name": "<b>Vendi</b>", "value": 2.5, "n": 1, "interval": [2.0, 3.0], "control": 1.5,
         "control_interval": [1.0, 2.0], "against": "plain", "better": "", "standing": "above"}
    ]  # fmt: skip
    run = find_source(path)
    assert run.grades
    (read,) = run.grades.summary["measures"]
    assert read == next(Measures(2.5, 1).measures())
    assert "<b>Vendi" not in write_report([run], tmp_path / "r.html").read_text()
    with pytest.raises(HybridError):
        grade_file(path, Together(float("nan")), "together", tmp_path / "nan.json")
