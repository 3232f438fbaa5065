"""Plugins are found by name, belong to whom they say, and come from other distributions as from ours."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest

from hybrid.errors import CannotRun, Missed, UsageError
from hybrid.plugins import installed

DECLARED = tomllib.loads((Path(__file__).parents[2] / "pyproject.toml").read_text())["project"]["entry-points"]
HYBRID = Path(sys.executable).with_name("hybrid")


def run(*arguments: str | Path, path: Path | None = None, cwd: Path | None = None) -> subprocess.CompletedProcess[str]:
    """The real command, with `path` as one more place for packages."""
    environment = {**os.environ, "PYTHONPATH": str(path or ""), "COLUMNS": "200"}
    command = [str(argument) for argument in arguments]
    return subprocess.run(command, capture_output=True, text=True, env=environment, cwd=cwd, timeout=120, check=False)


def distribution(folder: Path, name: str, entry_points: str) -> None:
    """Lay down the metadata of an installed distribution, as pip does."""
    info = folder / f"{name}-1.0.dist-info"
    info.mkdir(parents=True)
    (info / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {name}\nVersion: 1.0\n")
    (info / "entry_points.txt").write_text(entry_points)


def test_names_are_listed_without_importing_any_of_them() -> None:
    listed = "print(sorted(installed.names('graders')), 'graders' in sys.modules)"
    code = f"import sys; from hybrid.plugins import installed; {listed}"
    known = sorted(DECLARED["hybrid.graders"])
    assert run(sys.executable, "-c", code).stdout == f"{known} False\n"


def test_a_name_knows_its_distribution() -> None:
    assert installed.names("pipelines")["seal-eval"] == installed.PluginSource("hybrid", "pipelines.seal.eval:SealEval")


def test_an_unknown_name_gets_the_nearest() -> None:
    with pytest.raises(UsageError) as caught:
        installed.load("pipelines", "seal-evil")
    assert caught.value.message == "there is no pipeline 'seal-evil'"
    known = ", ".join(sorted(DECLARED["hybrid.pipelines"]))
    assert caught.value.hint == f"did you mean 'seal-eval'? known: {known}"


@pytest.mark.slow
def test_a_plugin_of_another_distribution_is_listed_and_described(tiny_plugin: Path) -> None:
    assert "tiny-sums           tiny-plugin" in run(HYBRID, "list", path=tiny_plugin).stdout
    shown = run(HYBRID, "describe", "longer-than", path=tiny_plugin).stdout
    assert "grader longer-than, from tiny-plugin" in shown
    assert "length=3\n      a whole number. characters" in shown


@pytest.mark.slow
def test_a_plugin_pipeline_runs_and_a_plugin_grader_judges_it(tiny_plugin: Path, tmp_path: Path) -> None:
    answers = tmp_path / "answers.json"
    answers.write_text(json.dumps({"answers": {}, "default": "12345"}))
    out = tmp_path / "out.json"
    where = ["--folder", tmp_path / "folder", "-o", out, "--backend", "scripted", "--model", answers]
    ran = run(HYBRID, "run", "local", "tiny-sums", "--set", "count=2", *where, path=tiny_plugin)
    assert ran.returncode == 0, ran.stderr
    judge = [HYBRID, "grade", out, "--grader", "longer-than", "--threshold", "0.5"]
    longer = run(*judge, path=tiny_plugin)
    assert longer.returncode == 0, longer.stderr
    drawn = run(HYBRID, "report", out, path=tiny_plugin)
    assert drawn.returncode == 0, drawn.stderr
    assert "2 sums</li>" in Path(drawn.stdout.strip()).read_text(encoding="utf-8")
    much_longer = run(*judge, "--set", "length=5", path=tiny_plugin)
    assert much_longer.returncode == Missed.exit_code, much_longer.stderr


def decoy(folder: Path) -> Path:
    """A foreign package called `graders` that leaves a trace when anything of it is executed."""
    package = folder / "graders"
    package.mkdir()
    for name in ("__init__", "exact"):
        (package / f"{name}.py").write_text(f"open({str(folder / 'executed')!r}, 'w').close()\nclass Exact: pass\n")
    return folder


def test_the_command_does_not_see_a_package_of_the_same_name_in_the_working_directory(tmp_path: Path) -> None:
    done = run(HYBRID, "describe", "exact", cwd=decoy(tmp_path))
    assert done.returncode == 0, done.stderr
    assert not (tmp_path / "executed").exists()


@pytest.mark.parametrize("way", ["python -m hybrid", "PYTHONPATH"])
def test_a_foreign_package_of_the_same_name_is_reported_and_never_executed(tmp_path: Path, way: str) -> None:
    decoy(tmp_path)
    if way == "PYTHONPATH":
        done = run(HYBRID, "describe", "exact", path=tmp_path)
    else:
        done = run(sys.executable, "-m", "hybrid", "describe", "exact", cwd=tmp_path)
    assert done.returncode == CannotRun.exit_code
    assert "'exact' should come from 'hybrid', but Python found another 'graders' first" in done.stderr
    assert str(tmp_path / "graders") in done.stderr
    assert not (tmp_path / "executed").exists()


def test_a_folder_of_the_same_name_that_is_no_package_does_no_harm(tmp_path: Path) -> None:
    (tmp_path / "graders").mkdir()
    done = run(sys.executable, "-m", "hybrid", "describe", "exact", cwd=tmp_path)
    assert done.returncode == 0, done.stderr


@pytest.mark.slow
def test_a_name_that_two_distributions_claim_is_marked_and_only_it_cannot_be_loaded(tmp_path: Path) -> None:
    distribution(tmp_path, "rival", "[hybrid.graders]\nexact = rival:Exact\n")
    listed = run(HYBRID, "list", path=tmp_path)
    assert listed.returncode == 0
    assert "grader    exact               hybrid, claimed by rival too: not loaded\n" in listed.stdout
    assert "grader    contains            hybrid\n" in listed.stdout
    lines = [json.loads(line) for line in run(HYBRID, "list", "--json", path=tmp_path).stdout.splitlines()]
    assert {line["name"] for line in lines if line["rivals"]} == {"exact"}
    assert run(HYBRID, "describe", "contains", path=tmp_path).returncode == 0
    assert "did you mean 'exact'?" in run(HYBRID, "describe", "exat", path=tmp_path).stderr
    done = run(HYBRID, "describe", "exact", path=tmp_path)
    assert done.returncode == CannotRun.exit_code
    assert "the grader 'exact' is claimed twice: by 'hybrid' (graders.exact:Exact) and 'rival'" in done.stderr


def test_a_double_elsewhere_does_not_stop_an_innocent_name(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    distribution(tmp_path, "rival", "[hybrid.graders]\nexact = rival:Exact\n")
    monkeypatch.syspath_prepend(tmp_path)
    assert installed.load("graders", "contains").__name__ == "Contains"


@pytest.mark.parametrize(
    ("source", "said"),
    [
        ("import a_library_nobody_has\nclass Broken: pass\n", "No module named 'a_library_nobody_has'"),
        ("x = 1\n", "has no attribute 'Broken'"),
        ("class Broken: pass\n", "is not a dataclass"),
        ("from dataclasses import dataclass\nBroken = 3\n", "is not a dataclass"),
    ],
)
def test_a_broken_plugin_is_named_with_its_distribution(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, source: str, said: str
) -> None:
    module = tmp_path.name
    distribution(tmp_path, "breaker", f"[hybrid.graders]\nbroken = {module}:Broken\n")
    (tmp_path / f"{module}.py").write_text(source)
    monkeypatch.syspath_prepend(tmp_path)
    with pytest.raises(CannotRun) as caught:
        installed.load("graders", "broken")
    assert said in caught.value.message
    assert "breaker" in f"{caught.value.message} {caught.value.hint}"


def test_an_editable_checkout_in_a_folder_with_odd_letters_is_its_own_owner(tmp_path: Path) -> None:
    checkout = tmp_path / "my projects é%"
    (checkout / "oddly").mkdir(parents=True)
    (checkout / "oddly" / "__init__.py").write_text(
        "from dataclasses import dataclass\n@dataclass(frozen=True)\nclass Odd:\n    'Odd.'\n"
    )
    distribution(tmp_path / "site", "odd", "[hybrid.graders]\nodd = oddly:Odd\n")
    about = {"url": checkout.as_uri(), "dir_info": {"editable": True}}
    (tmp_path / "site" / "odd-1.0.dist-info" / "direct_url.json").write_text(json.dumps(about))
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join([str(tmp_path / "site"), str(checkout)])}
    done = subprocess.run([HYBRID, "describe", "odd"], capture_output=True, text=True, env=environment, check=False)
    assert done.returncode == 0, done.stderr


@pytest.mark.parametrize(("code", "said"), [("oops here", "SyntaxError"), ("undefined", "NameError"), ("1/0", "Zero")])
def test_a_plugin_that_python_cannot_read_is_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, code: str, said: str
) -> None:
    distribution(tmp_path, "broken-one", "[hybrid.graders]\nbroken = broken_one_package:Broken\n")
    (tmp_path / "broken_one_package.py").write_text(code)
    monkeypatch.syspath_prepend(tmp_path)
    with pytest.raises(CannotRun, match=rf"the grader 'broken' of 'broken-one' cannot be imported.*{said}"):
        installed.load("graders", "broken")
