"""The examples of CONTRIBUTING.md work as they stand there, and are as short as it says."""

from __future__ import annotations

import importlib.util
import json
import re
import sys
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

import hybrid
from hybrid import BadData, CannotRun, Derive, Derived, Failure, Inputs, Output, Stage
from hybrid.execution.local import Engine, run_here
from hybrid.progress import SilentProgress
from hybrid.testing import check_grader, check_pipeline
from tests.support.stages_in_memory import run_stages

ROOT = Path(__file__).parents[1]


@pytest.fixture
def example(tmp_path: Path, request: pytest.FixtureRequest) -> ModuleType:
    """The example below the heading that the test names, as a module."""
    heading, lines = re.search(rf"^## (Add a {request.param}, in (\d+) lines)$", text(), re.MULTILINE).groups()  # type: ignore[union-attr]
    block = text().split(heading)[1].split("```python\n")[1].split("```")[0]
    code = [line.removeprefix("   ") for line in block.rstrip().splitlines()]
    assert len(code) <= int(lines)
    path = tmp_path / f"example_{request.param}.py"
    path.write_text("\n".join(code))
    spec = importlib.util.spec_from_file_location(path.stem, path)
    assert spec
    assert spec.loader
    module = importlib.util.module_from_spec(spec)
    sys.modules[path.stem] = module
    spec.loader.exec_module(module)
    return module


def text() -> str:
    return (ROOT / "CONTRIBUTING.md").read_text()


@pytest.mark.parametrize("example", ["grader"], indirect=True)
def test_the_grader_judges(example: ModuleType) -> None:
    check_grader(example.StartsWith(), "Paris", right="paris, of course")
    output = Output("k", "t", "t/0", {}, 0, "Paris", None, "paris")
    assert [example.StartsWith(ignore_case=each).grade(output).score for each in (True, False)] == [1.0, 0.0]


@pytest.mark.parametrize("example", ["pipeline"], indirect=True)
def test_the_pipeline_asks_and_says_what_is_wrong_with_its_data(example: ModuleType, tmp_path: Path) -> None:
    data = tmp_path / "questions.jsonl"
    rows = [{"id": n, "question": f"{n} + {n}?", "answer": str(2 * n)} for n in range(3)]
    data.write_text("".join(f"{json.dumps(row)}\n" for row in rows))
    pipeline = example.Lines(data=str(data))
    check_pipeline(pipeline)
    (stage,) = pipeline.stages()
    assert [item.request.messages[0].content for item in stage.items(pipeline.inputs().tasks)] == [
        "0 + 0?",
        "1 + 1?",
        "2 + 2?",
    ]
    data.write_text('{"id": 1}\n')
    with pytest.raises(BadData, match="question"):
        pipeline.inputs()
    with pytest.raises(CannotRun, match="No such file"):
        example.Lines(data=str(tmp_path / "none")).inputs()


def test_the_stage_that_comes_after_another_hands_failures_on() -> None:
    block = text().split("## Add a pipeline")[1].split("```python\n")[2].split("```")[0]
    known: dict[str, Any] = {"Derive": Derive, "Derived": Derived, "Stage": Stage}
    exec(block, known)  # noqa: S102 - it is our own page
    failure = Failure("engine", "away")
    outputs = [Output("k", "t", "t/0", {}, 0, "yes", None, "x"), Output("l", "t", "t/1", {}, 0, None, failure, "x")]
    made = list(known["_shouted"]({}, {"answer": outputs}))
    assert [(one.text, one.failure) for one in made] == [("YES", None), ("", failure)]


def test_the_stage_after_a_search_replays_its_walks() -> None:
    block = text().split("## Add a pipeline")[1].split("```python\n")[3].split("```")[0]
    known: dict[str, Any] = {name: getattr(hybrid, name) for names in hybrid.NAMES.values() for name in names}
    exec(block, known)  # noqa: S102 - it is our own page

    @dataclass(frozen=True)
    class Example:
        def inputs(self) -> Inputs:
            return Inputs({"a": {}, "b": {}}, {"a/end": "", "b/end": ""}, {})

        def stages(self) -> tuple[Stage, ...]:
            stages: tuple[Stage, ...] = known["STAGES"]
            return stages

    check_pipeline(Example())
    done = run_stages(Example(), Example().inputs(), lambda item: f"{len(item.request.messages[0].content)}")
    assert [one.text for one in done["end"]] == ["2 14 15", "2 14 15"]
    assert len(done["chain"]) == 6


def test_the_stage_of_rounds_is_run(tmp_path: Path) -> None:
    block = text().split("## Add a pipeline")[1].split("```python\n")[4].split("```")[0]
    known: dict[str, Any] = {name: getattr(hybrid, name) for names in hybrid.NAMES.values() for name in names}
    known["json"] = json
    exec(block, known)  # noqa: S102 - it is our own page

    @dataclass(frozen=True)
    class Example:
        def inputs(self) -> Inputs:
            return Inputs({"a": 8.0, "b": 1024}, {}, {})

        def stages(self) -> tuple[Stage, ...]:
            stages: tuple[Stage, ...] = known["STAGES"]
            return stages

    check_pipeline(Example())
    done = run_here(tmp_path, "example", Example(), {"": Engine("none", "none")}, SilentProgress())
    records = json.loads(done.outputs.read_text())["records"]
    assert [json.loads(one["text"])["metrics"]["value"] for one in records] == [
        start / 2 ** (number + 1) for start in (8, 1024) for number in range(10)
    ]
