"""What a plugin raises names the plugin, what it was doing and its own line; the rest of the work goes on."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from hybrid import cli
from hybrid.errors import BadData, OwnFault, PluginFault
from hybrid.plugins.faults import CheckedExamples, attributed_to
from hybrid.plugins.installed import load
from hybrid.settings import build
from tests.support.faulty_plugin import install

PIPELINE = "the pipeline 'frail' of 'frail-plugin' failed while"
GRADER = "the grader 'strict' of 'frail-plugin' failed while"
AFTER = "making the items of the stage 'answer' after 1 of them, the last for the question 'a/0'"

Command = Callable[..., tuple[int, str]]


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Where the plugin is installed; one place, since Python imports it once."""
    return install(tmp_path_factory.mktemp("site"))


@pytest.fixture
def command(site: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Command:
    """Runs a command in this process where the plugin is installed: (exit code, what it said on stderr)."""
    monkeypatch.syspath_prepend(site)
    (tmp_path / "answers.json").write_text(json.dumps({"answers": {}, "default": "1"}))

    def run(*arguments: str | Path) -> tuple[int, str]:
        code = cli._exit_code(list(map(str, arguments)))
        return code, capsys.readouterr().err

    return run


def local(tmp_path: Path, where: str = "") -> list[str]:
    model = [f"--model={tmp_path / 'answers.json'}", f"--folder={tmp_path / 'folder'}", f"-o{tmp_path / 'out.json'}"]
    return ["run", "local", "frail", "--backend=scripted", f"--set=where={where}", *model]


@pytest.mark.parametrize(
    ("where", "code", "said"),
    [
        ("inputs", 7, f"{PIPELINE} reading its inputs: KeyError: 'oh inputs' (frail_plugin/asking.py:22)"),
        ("inputs of another kind", 7, f"{PIPELINE} reading its inputs: TypeError: dict where hybrid wants Inputs"),
        ("inputs that are no JSON", 7, "the inputs that the pipeline 'frail' reads are no JSON: "),
        ("a missing file", 2, f"{PIPELINE} reading its inputs: /nowhere/at all: No such file or directory while"),
        ("stages", 7, f"{PIPELINE} naming its stages: KeyError: 'oh stages' (frail_plugin/asking.py:22)"),
        ("items", 7, f"{PIPELINE} {AFTER}: KeyError: 'oh items' (frail_plugin/asking.py:22)"),
        ("an item of another kind", 7, f"{PIPELINE} {AFTER}: TypeError: str where hybrid wants Item"),
        ("an item that is no JSON", 7, "the stage 'answer/1' made an item for the question 'a/0' that is no JSON: "),
        ("made", 7, "frail_plugin.asking.Frail cannot be made with these settings: KeyError: 'oh made'"),
    ],
)
def test_a_pipeline_that_fails_is_named_with_its_line(
    tmp_path: Path, command: Command, where: str, code: int, said: str
) -> None:
    found, words = command(*local(tmp_path, where))
    assert found == code, words
    assert said in words
    assert "Traceback" not in words
    assert "fault in hybrid" not in words


@pytest.mark.parametrize(
    ("where", "said"),
    [
        ("grade", f"{GRADER} judging the question 'b/0' of the task 'b': KeyError: '1' (frail_plugin/judging.py:18)"),
        ("another kind", f"{GRADER} judging the question 'b/0' of the task 'b': TypeError: float where hybrid wants"),
        ("no JSON", f"{GRADER} judging the question 'b/0' of the task 'b': TypeError: Object of type set is not JSON"),
    ],
)
def test_a_grader_that_fails_is_named_with_the_question(
    tmp_path: Path, command: Command, where: str, said: str
) -> None:
    assert command(*local(tmp_path))[0] == 0
    code, words = command("grade", tmp_path / "out.json", f"--set=where={where}")
    assert code == PluginFault.exit_code, words
    assert said in words
    assert "hint: the fault is in the grader 'strict' of 'frail-plugin', not in hybrid" in words
    assert not list(tmp_path.glob("*grades*"))


def test_all_of_it_is_shown_when_asked_for(site: Path, tmp_path: Path, command: Command) -> None:
    environment = {**os.environ, "PYTHONPATH": str(site)}
    shown = [sys.executable, "-m", "hybrid", *local(tmp_path, "items"), "-vv"]
    done = subprocess.run(shown, env=environment, capture_output=True, text=True, check=False, timeout=240)
    assert done.returncode == PluginFault.exit_code
    assert "self.may_fail(" in done.stderr


def test_a_fault_in_what_is_ours_is_ours_and_is_shown() -> None:
    ours = build(load("pipelines", "seal-eval"))
    said = "the pipeline 'seal-eval' failed while x: ZeroDivisionError"
    with pytest.raises(OwnFault, match=said) as caught, attributed_to(ours, "x"):
        _ = 1 / 0
    assert caught.value.exit_code == 1
    engine = "the backend 'llamacpp'"
    with pytest.raises(OwnFault, match=f"{engine} failed while y: RuntimeError: z"), attributed_to(engine, "y"):
        raise RuntimeError("z")


def test_errors_that_were_foreseen_stay_as_they_are() -> None:
    with pytest.raises(BadData, match=r"^as it was$"), attributed_to("x", "y"):
        raise BadData("as it was")


def test_training_examples_that_fail_are_named_too() -> None:
    with pytest.raises(
        PluginFault, match=r"Pipe failed while making the training examples of the stage 'learn': IndexError"
    ):
        CheckedExamples(Pipe(), "learn", lambda tasks: [tasks[3]])([])  # type: ignore[arg-type]


class Pipe:
    """A pipeline that no distribution declares."""


def test_a_worker_names_the_plugin_and_does_the_other_runs(tmp_path: Path) -> None:
    site = install(tmp_path / "site")
    asking = site / "frail_plugin" / "asking.py"
    (tmp_path / "answers.json").write_text(json.dumps({"answers": {}, "default": "1"}))
    environment = {**os.environ, "PYTHONPATH": str(site), "HYBRID_FOLDER": str(tmp_path / "folder")}

    def run(*arguments: str) -> subprocess.CompletedProcess[str]:
        command = [sys.executable, "-m", "hybrid", *arguments]
        return subprocess.run(command, env=environment, capture_output=True, text=True, check=False, timeout=240)

    assert run("init", str(tmp_path / "folder")).returncode == 0
    submit = ["run", "remote", "frail", "--backend=scripted", "--model=m"]
    broken, good = (run(*submit, f"--set=where={where}").stdout.strip() for where in ("later", "never"))
    assert broken
    assert good
    here = asking.read_text()  # an edit after it was submitted: a run that nobody could do is not
    asking.write_text(here.replace('self.may_fail("items")', 'self.where == "later" and {}["oh items"]'))
    done = run("worker", f"--model=m={tmp_path / 'answers.json'}", "--side=any", "--once", "--linger=0s")
    assert done.returncode == PluginFault.exit_code, done.stderr
    assert f"{broken}: {PIPELINE} {AFTER}: KeyError: 'oh items'" in done.stderr
    assert f"{good}: done" in done.stderr
