"""Notebooks and scripts for a shared folder in an object store: a real server, keys that stay in the environment."""

from __future__ import annotations

import ast
import json
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from hybrid.errors import UsageError
from hybrid.machine import home
from hybrid.notebook import place_there, store_cell
from hybrid.notebook.scripts import SCRIPTS
from hybrid.plugins import wheel
from tests.notebook.test_notebook import code_of, index, invoke, submitted
from tests.support.in_process import Hybrid
from tests.support.s3_servers import BUCKET, KEY_ID, SECRET, environment, served_by_best

URL = f"s3://{BUCKET}/lab/hybrid"


@pytest.fixture
def store(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """The folder in the store, as the laptop knows it. Its keys are in the environment."""
    pytest.importorskip("obstore")
    monkeypatch.setenv("HYBRID_HOME", str(tmp_path / "laptop"))
    with served_by_best(tmp_path / "server") as endpoint:
        for name, value in environment(endpoint).items():
            monkeypatch.setenv(name, value)
        yield home.folder_at(URL)


def executed(
    cells: list[str], root: Path, more: dict[str, str], **parameters: object
) -> subprocess.CompletedProcess[str]:
    """The cells as one script, on a machine that knows nothing but its environment."""
    given = {"LOCAL": str(root / "local"), **parameters}
    script = "\n\n".join([cells[0], *(f"{name} = {value!r}" for name, value in given.items()), *cells[1:]])
    return subprocess.run(
        [sys.executable, "-c", script], capture_output=True, text=True, cwd=root, timeout=120, check=False,
        env={**os.environ, "HYBRID_HOME": str(root / "gpu"), **more},
    )  # fmt: skip


@pytest.mark.slow
def test_a_notebook_reads_the_store_before_hybrid_is_there_and_its_worker_works_in_it(
    tmp_path: Path, store: Path, hybrid: Hybrid
) -> None:
    run = submitted(store)
    path = tmp_path / "x.ipynb"
    assert json.loads(invoke("plain", run.id, f"--folder={URL}", f"--out={path}", "--json"))["at"] == URL
    cells = code_of(path)
    assert not [one for one in (KEY_ID, SECRET) if one in path.read_text()]
    assert "EXTRAS = 's3'" in cells[0]
    fetching = [*cells[:3], f"{cells[3].rpartition('WITH = ')[0]}print(wheel(*WHEELS[0]), flush=True)"]
    packages = index(tmp_path / "index", "", "obstore")
    for words in ("installing what reads the store", "is the shared folder"):
        done = executed(fetching, tmp_path, packages)
        assert done.returncode == 0, done.stdout + done.stderr
        assert words in done.stdout.splitlines()[0]
        assert Path(done.stdout.splitlines()[-1]).read_bytes() == wheel.build().data
    wrong = executed(fetching, tmp_path, {"AWS_SECRET_ACCESS_KEY": "another-secret-of-nobody"}, RUN="seal-eval-0")
    assert f"Stop: {URL} is " in wrong.stderr  # a server that looks at no signature has no such run
    assert "another-secret" not in wrong.stdout + wrong.stderr
    (tmp_path / "answers.json").write_text(json.dumps({"answers": {}, "default": "1"}))
    options = ["--once", "--linger=0", f"--model=answers={tmp_path / 'answers.json'}"]
    done = executed(cells, tmp_path, {}, PYTHON=sys.executable, OPTIONS=options)
    assert "Done: nothing of this run is left" in done.stdout, done.stdout + done.stderr
    assert not [one for one in (KEY_ID, SECRET) if one in done.stdout + done.stderr]
    fetched = hybrid("fetch", run.id, "--folder", URL, "-o", tmp_path / "outputs.json")
    assert fetched.code == 0, fetched.stderr


def test_scripts_read_the_store_too_and_skypilot_mounts_it(tmp_path: Path, store: Path) -> None:
    run = submitted(store)
    ast.parse(store_cell.FOLDER, feature_version=(3, 8))
    assert all("obstore==" in lines[0] and "--hash=sha256:" in lines[0] for lines in store_cell.pins().values())
    for kind in SCRIPTS:
        path = tmp_path / f"script.{kind}"
        invoke(kind, run.id, f"--folder={URL}", f"--out={path}")
        text = path.read_text()
        assert ("def reader():" in text) is (kind != "skypilot")
        assert ("EXTRAS = 's3'" in text) is (kind != "skypilot")
        assert (f'source: "{URL}"' in text) is (kind == "skypilot")
        assert not [one for one in (KEY_ID, SECRET) if one in text]
    found = {"HYBRID_PYTHON": sys.executable, "HOME": str(tmp_path), "AWS_ACCESS_KEY_ID": ""}
    done = subprocess.run(
        ["bash", tmp_path / "script.slurm"], capture_output=True, text=True, timeout=240, check=False, cwd=tmp_path,
        env={**os.environ, **found},
    )  # fmt: skip
    assert (done.returncode, f"has no keys for {URL}. Set AWS_ACCESS_KEY_ID" in done.stdout) == (7, True), done.stderr


def test_colab_and_kaggle_reach_a_bucket_by_a_drive_or_rclone_or_say_how(tmp_path: Path, store: Path) -> None:
    run = submitted(store)
    with pytest.raises(UsageError, match=rf"finds the folder in Google Drive, and {URL} is a bucket") as told:
        invoke("colab", run.id, f"--folder={URL}")
    assert "notebook plain RUN" in told.value.hint
    told_at = json.loads(
        invoke("colab", run.id, f"--folder={URL}", "--at=/content/drive/MyDrive/x", f"--out={tmp_path / 'c'}", "--json")
    )
    assert "in_folder" not in told_at
    assert place_there("kaggle", store) == "s3:bucket/lab/hybrid"
    for kind, words in (("kaggle", "REMOTE:BUCKET/PREFIX"), ("colab", "Google Drive")):
        with pytest.raises(UsageError, match="cannot read the folder at s3://") as refused:
            invoke(kind, run.id, f"--folder={URL}", f"--at={URL}", f"--out={tmp_path / 'y'}")
        assert words in refused.value.hint
    with pytest.raises(UsageError, match="is not a folder in a store that hybrid knows"):
        invoke("ssh", run.id, f"--folder={URL}", "--at=r2://bucket/x", f"--out={tmp_path / 'z'}")
