"""`hybrid notebook kaggle --push`: Kaggle's own command line, and a stand-in for its site."""

from __future__ import annotations

import json
from collections.abc import Iterator
from importlib.metadata import PackageNotFoundError
from pathlib import Path

import pytest

from hybrid.errors import CannotRun, Temporary, UsageError
from hybrid.notebook import NotebookPlan
from hybrid.notebook.kaggle_push import kernel_metadata
from hybrid.plugins import wheel
from tests.notebook.test_notebook import Site, invoke, submitted
from tests.support.in_process import Hybrid
from tests.support.kaggle_site import KaggleSite

OLD = """#!/bin/sh
case "$*" in
  "config view") echo "- username: me";;
  *--no-run*) echo "kaggle: error: unrecognized arguments: --no-run" >&2; exit 2;;
  *) echo "Kernel version 1 successfully pushed.  Please check progress at https://www.kaggle.com/code/me/x";;
esac
"""
"""A version of the command line before it could save without running."""

KEY = "thisKeyMustNeverBeWrittenAnywhere"


@pytest.fixture
def kaggle(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[KaggleSite]:
    """The site, and an environment without keys that leads there."""
    pytest.importorskip("kagglesdk")
    (tmp_path / "home").mkdir()
    with KaggleSite(tmp_path / "home") as site:
        for name, value in site.environment.items():
            monkeypatch.setenv(name, value)
        yield site


def started(site: Site) -> str:
    """What is printed when the notebook is pushed to be run at once."""
    return invoke(
        "kaggle", site.run.id, f"--folder={site.folder}", f"--out={site.root / 'x.ipynb'}", "--push", "--start"
    )


@pytest.mark.slow
def test_a_notebook_is_pushed_privately_for_two_t4_and_the_key_is_written_nowhere(
    tmp_path: Path, kaggle: KaggleSite, hybrid: Hybrid, monkeypatch: pytest.MonkeyPatch
) -> None:
    site = Site(tmp_path, submitted(tmp_path / "shared", backend="transformers", model="org/name"))
    monkeypatch.setenv("KAGGLE_USERNAME", "me")
    monkeypatch.setenv("KAGGLE_KEY", KEY)
    monkeypatch.setenv("VERBOSE", "true")  # then it prints its requests, keys included
    out = tmp_path / "x.ipynb"
    done = hybrid("notebook", "kaggle", site.run.id, f"--folder={site.folder}", f"--out={out}", "--push")
    assert done.code == 0, done.stderr
    assert done.stdout.splitlines() == [str(out), f"https://www.kaggle.com/code/me/{site.run.id}"]
    assert "does not run yet" in done.stderr
    assert "tick RCLONE_CONF" in done.stderr
    (saved,) = kaggle.saved
    pushed = json.loads(saved.pop("text"))
    assert saved == {
        "slug": f"me/{site.run.id}",
        "newTitle": site.run.id,
        "language": "python",
        "kernelType": "notebook",
        "isPrivate": True,
        "enableGpu": True,
        "enableTpu": False,
        "enableInternet": True,
        "machineShape": "NvidiaTeslaT4",
        "kernelExecutionType": "QUICK_SAVE",
    }
    written = json.loads(out.read_bytes())["cells"]
    assert [cell["source"] for cell in pushed["cells"]] == ["".join(cell["source"]) for cell in written]
    assert KEY not in done.stdout + done.stderr
    holding = [path for path in tmp_path.rglob("*") if path.is_file() and KEY.encode() in path.read_bytes()]
    assert holding == []


@pytest.mark.slow
def test_a_notebook_that_kaggle_does_not_take_and_a_site_that_is_away_are_told(
    tmp_path: Path, kaggle: KaggleSite, monkeypatch: pytest.MonkeyPatch
) -> None:
    site = Site(tmp_path, submitted(tmp_path / "shared"))
    with pytest.raises(CannotRun, match="has no key that Kaggle accepts"):
        site.write("kaggle", "--push")
    monkeypatch.setenv("KAGGLE_API_TOKEN", KEY)
    assert "www.kaggle.com/code/by-token/" in started(site)
    assert "kernelExecutionType" not in kaggle.saved.pop()
    kaggle.error = "Maximum number of batch sessions reached"
    with pytest.raises(CannotRun, match=r"did not take the notebook: Kernel push error: Maximum number of batch"):
        site.write("kaggle", "--push")
    assert kaggle.saved[0]["slug"].startswith("by-token/")
    assert "machineShape" not in kaggle.saved[0]
    kaggle.status = 503
    with pytest.raises(Temporary, match=r"cannot be reached: .*the site is not well"):
        site.write("kaggle", "--push")


def test_without_kaggles_command_line_the_hint_says_what_to_do(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    site = Site(tmp_path, submitted(tmp_path / "shared"))
    monkeypatch.setenv("PATH", str(tmp_path))

    def absent(name: str) -> str:
        raise PackageNotFoundError(name)

    monkeypatch.setattr("hybrid.notebook.kaggle_push.version", absent)
    with pytest.raises(CannotRun, match="is not installed here") as told:
        site.write("kaggle", "--push")
    assert "File > Import" in told.value.hint
    with pytest.raises(UsageError, match="--push is for Kaggle"):
        invoke("colab", site.run.id, f"--folder={site.folder}", "--push")
    with pytest.raises(UsageError, match="--start is for what --push saves"):
        invoke("kaggle", site.run.id, f"--folder={site.folder}", "--start")


def test_an_old_command_line_that_only_runs_notebooks_is_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    old = tmp_path / "bin" / "kaggle"
    old.parent.mkdir()
    old.write_text(OLD)
    old.chmod(0o755)
    monkeypatch.setattr("hybrid.notebook.kaggle_push._command", lambda: [str(old)])
    site = Site(tmp_path, submitted(tmp_path / "shared"))
    with pytest.raises(CannotRun, match="cannot save a notebook without running it") as told:
        site.write("kaggle", "--push")
    assert "--upgrade kaggle" in told.value.hint
    assert "https://www.kaggle.com/code/me/x" in started(site)


def test_the_title_of_a_run_with_a_long_name_still_gives_the_slug(tmp_path: Path) -> None:
    run = submitted(tmp_path / "shared")
    plan = NotebookPlan("kaggle", run, (wheel.build(),), "drive:shared")
    assert kernel_metadata(plan, "me")["id"] == f"me/{run.id}"
    object.__setattr__(run, "id", f"an_Odd.name-{'of-many-words-' * 5}0123456789ab")
    made = kernel_metadata(plan, "me")
    assert made["id"] == f"me/{made['title']}"
    assert made["title"].endswith("-0123456789ab")
    assert len(made["title"]) <= 50
    slugify = pytest.importorskip("slugify").slugify
    assert slugify(made["title"]) == made["title"]
