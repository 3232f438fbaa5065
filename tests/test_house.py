"""Rules of this repository that no other tool checks."""

from __future__ import annotations

import ast
import re
import statistics
import subprocess
import sys
import tomllib
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest

from hybrid import cli

ROOT = Path(__file__).parent.parent
PROJECT: dict[str, Any] = tomllib.loads((ROOT / "pyproject.toml").read_text())
CODE = sorted(path for part in ("hybrid", "pipelines", "graders", "benchmarks") for path in (ROOT / part).rglob("*.py"))
LOCKED = sorted(path for path in (ROOT / "requirements").glob("*.txt") if path.name != "overrides.txt")


def committed() -> list[Path]:
    """All files of the project: what git follows or would; from an archive without git, all but caches."""
    listed = subprocess.run(
        ["git", "ls-files", "--cached", "--others", "--exclude-standard", "-z"],
        cwd=ROOT,
        capture_output=True,
        check=False,
    )
    if listed.returncode == 0:
        names = [name for name in listed.stdout.decode().split("\0") if name]
        return [ROOT / name for name in names if (ROOT / name).is_file()]
    hidden = re.compile(r"/(\.|__pycache__|demo/)")
    return [path for path in ROOT.rglob("*") if path.is_file() and not hidden.search(f"/{path.relative_to(ROOT)}")]


def texts() -> list[tuple[str, str]]:
    """Name and text of every text file of the project."""
    found = []
    for path in committed():
        try:
            found.append((path.relative_to(ROOT).as_posix(), path.read_text(encoding="utf-8")))
        except UnicodeDecodeError:
            continue
    return found


def functions(path: Path) -> list[tuple[str, int]]:
    """Name and number of lines of every function in a file."""
    nodes = [
        node
        for node in ast.walk(ast.parse(path.read_text()))
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef)
    ]
    return [(node.name, (node.end_lineno or 0) - node.lineno + 1) for node in nodes]


def body_of(path: Path) -> list[ast.stmt]:
    return ast.parse(path.read_text()).body


def module_of(kind: str, name: str) -> set[str]:
    """Where a name of the command line may be defined."""
    snake = name.replace("-", "_")
    if kind == "graders":
        return {f"graders.{snake}", *(f"pipelines.{'.'.join(part)}.grader" for part in parts_of_rooms())}
    room, _, module = snake.partition("_")
    return {f"pipelines.{room}.{module or 'pipeline'}", f"pipelines.{room}.{module}.pipeline"}


def parts_of_rooms() -> list[tuple[str, ...]]:
    """The packages below `pipelines`, as parts of their names: a room, or a large part of one."""
    folders = [path.parent for path in (ROOT / "pipelines").rglob("__init__.py")]
    return [folder.relative_to(ROOT / "pipelines").parts for folder in folders if folder.name != "pipelines"]


ROOMS = sorted(path.parent for path in (ROOT / "pipelines").glob("*/__init__.py"))


@pytest.mark.parametrize("kind", ["pipelines", "graders"])
def test_the_name_on_the_command_line_says_in_which_file_it_is(kind: str) -> None:
    table = PROJECT["project"]["entry-points"][f"hybrid.{kind}"]
    for name, value in table.items():
        module, _, cls = value.partition(":")
        assert module in module_of(kind, name)
        assert cls == "".join(part.capitalize() for part in name.split("-"))


def test_every_system_and_every_general_grader_is_on_the_command_line() -> None:
    named = {kind: PROJECT["project"]["entry-points"][f"hybrid.{kind}"].values() for kind in ("pipelines", "graders")}
    systems = {value.split(".")[1] for value in named["pipelines"]}
    assert {room.name for room in ROOMS} == systems
    files = [path for path in (ROOT / "graders").iterdir() if path.is_dir() or path.suffix == ".py"]
    general = {value.split(":")[0].split(".")[1] for value in named["graders"] if value.startswith("graders.")}
    assert {path.stem for path in files if not path.name.startswith("_")} == general


def test_the_floors_in_the_documentation_are_those_that_are_held() -> None:
    """The table of docs/architecture.md has the rooms of the contract, floor by floor."""
    contracts = PROJECT["tool"]["importlinter"]["contracts"]
    held = next(one["layers"] for one in contracts if one["name"].startswith("Floors"))
    text = (ROOT / "docs" / "architecture.md").read_text()
    rows = re.findall(r"^\| ((?:`[a-z_]+`(?:, )?)+) \| ", text.split("## Floors")[1].split("\n## ")[0], re.MULTILINE)
    assert [re.findall(r"[a-z_]+", row) for row in rows] == [re.findall(r"[a-z_]+", floor) for floor in held]


def test_the_content_packages_hold_a_docstring_and_nothing_else_at_their_top() -> None:
    for path in (ROOT / "graders", ROOT / "pipelines", *ROOMS):
        assert [type(node) for node in body_of(path / "__init__.py")] == [ast.Expr]


def test_the_version_is_the_newest_of_the_changelog() -> None:
    headings = re.findall(r"^## \[?([^\]\s]+)", (ROOT / "CHANGELOG.md").read_text(), re.MULTILINE)
    released = [heading for heading in headings if heading != "Unreleased"]
    assert released[0] == PROJECT["project"]["version"]


def test_every_module_says_what_it_is() -> None:
    assert [path.name for path in CODE if not ast.get_docstring(ast.parse(path.read_text()))] == []


def test_no_text_about_a_value_is_torn_off_it() -> None:
    torn = []
    for path in CODE:
        told = [isinstance(each, ast.Expr) and isinstance(each.value, ast.Constant) for each in body_of(path)]
        torn += [path.relative_to(ROOT).as_posix() for pair in pairwise(told) if all(pair)]
    assert torn == []


def test_no_file_is_over_400_lines() -> None:
    long = {path.relative_to(ROOT).as_posix(): path.read_text().count("\n") for path in CODE}
    assert {name: lines for name, lines in long.items() if lines > 400} == {}


MANY = {
    "commands/status.py",
    "execution/index.py",
    "model_files/gguf_files.py",
    "report/page.py",
    "tasks/squad/data.py",
}
"""Where a number before a plural is never 1."""


def test_a_number_of_things_is_said_by_some_which_knows_the_singular() -> None:
    things = "items|shards|records|files|outputs|rows|parts|questions"
    plural = re.compile(rf"\{{[^{{}}'\"]*[a-z)][^{{}}'\"]*\}} ((failed|more|new|open) )?({things})\b")
    said = [path for path in CODE if plural.search(path.read_text())]
    assert {path.relative_to(ROOT / "hybrid").as_posix() for path in said if "hybrid" in path.parts} <= MANY


def test_functions_are_short() -> None:
    sizes = [(f"{path.relative_to(ROOT)}:{name}", lines) for path in CODE for name, lines in functions(path)]
    assert [function for function in sizes if function[1] > 60] == []
    assert statistics.median(lines for _, lines in sizes) <= 10


def test_names_of_files_are_legal_everywhere() -> None:
    names = [path.relative_to(ROOT).as_posix() for path in committed()]
    devices = re.compile(r"^(con|prn|aux|nul|com\d|lpt\d)(\.|$)", re.IGNORECASE)
    illegal = re.compile(r'[<>:"\\|?*\x00-\x1f]|[ .]$')
    parts = [(name, part) for name in names for part in name.split("/")]
    assert [name for name, part in parts if devices.match(part) or illegal.search(part)] == []
    assert len({name.casefold() for name in names}) == len(names)
    assert [name for name in names if len(name) > 150] == []


def test_no_package_registry_is_named_in_any_file() -> None:
    hosts = re.compile(
        r"pypi\.(?:org|python)|files\.pythonhosted|--(?:extra-)?index-url\s+http|^-i\s+http", re.MULTILINE
    )
    assert [name for name, text in texts() if hosts.search(text) and name != "tests/test_house.py"] == []


@pytest.mark.parametrize("path", LOCKED, ids=lambda path: path.name)
def test_pinned_requirements_have_hashes_and_name_no_place(path: Path) -> None:
    entries = path.read_text().replace("\\\n", " ").splitlines()
    pinned = re.compile(r"^[a-z0-9._-]+==[^ ;]+( ; [^#]+?)?( +--hash=sha256:[0-9a-f]{64})+\s*$")
    assert entries
    assert [entry[:80] for entry in entries if not pinned.match(entry)] == []


@pytest.mark.parametrize("name", ["demo", "test", "gpu"])
def test_pinned_requirements_bring_everything_that_the_project_depends_on(name: str) -> None:
    pinned = set(re.findall(r"^([a-z0-9._-]+)==", (ROOT / "requirements" / f"{name}.txt").read_text(), re.MULTILINE))
    needed = {re.split(r"[<>=!~;\[ ]", entry)[0] for entry in PROJECT["project"]["dependencies"]}
    needed |= {re.split(r"[<>=!~;\[ ]", entry)[0] for entry in PROJECT["build-system"]["requires"]}
    assert sorted(needed - pinned) == []


@pytest.mark.slow
def test_an_environment_that_fits_its_requirements_costs_nothing_and_an_old_python_is_told(tmp_path: Path) -> None:
    wanted = tmp_path / "none.txt"
    wanted.write_text("")
    command = [sys.executable, str(ROOT / "requirements" / "environment.py"), str(tmp_path / "venv"), str(wanted)]
    first = subprocess.run(command, capture_output=True, text=True, timeout=240, check=True)
    again = subprocess.run(command, capture_output=True, text=True, timeout=240, check=True)
    assert "making" in first.stderr
    assert again.stderr == ""
    old = f"import sys; sys.version_info = (3, 10, 1); sys.version = '3.10.1 x'; sys.argv = {command[1:]!r}\n"
    run = f"import runpy; runpy.run_path({command[1]!r}, run_name='__main__')"
    told = subprocess.run([sys.executable, "-c", old + run], capture_output=True, text=True, timeout=240, check=False)
    assert told.returncode == 1
    assert told.stderr == "error: Python 3.11 or newer is needed, this is 3.10.1\nhint: make PYTHON=python3.12 ...\n"


def docker_lines() -> list[str]:
    text = (ROOT / "Dockerfile").read_text().replace("\\\n", " ")
    return [line for line in text.splitlines() if line and not line.startswith("#")]


def test_everything_that_the_dockerfile_copies_is_there_and_not_ignored() -> None:
    let_in = {line[1:] for line in (ROOT / ".dockerignore").read_text().splitlines() if line.startswith("!")}
    copied = [line.split()[1:-1] for line in docker_lines() if line.startswith("COPY") and "--from=" not in line]
    assert copied
    for source in [source for sources in copied for source in sources]:
        assert (ROOT / source).exists(), source
        assert source.split("/")[0] in let_in, source


def test_the_dockerfile_installs_pinned_packages_only_and_runs_without_rights() -> None:
    lines = docker_lines()
    for line in lines:
        if "pip install" in line:
            assert "--no-deps" in line
            assert "--require-hashes -r" in line or "--no-build-isolation /src" in line, line
    stages = " ".join(lines).split("FROM ")[1:]
    images = [stage for stage in stages if "ENTRYPOINT" in stage]
    assert sorted(re.search(r"AS (\S+)", stage).group(1) for stage in images) == ["gpu", "laptop"]  # type: ignore[union-attr]
    assert all(stage.index("USER hybrid") < stage.index("ENTRYPOINT") for stage in images)


def test_the_stages_that_the_dockerfile_copies_from_exist() -> None:
    text = "\n".join(docker_lines())
    assert set(re.findall(r"--from=(\S+)", text)) <= set(re.findall(r"AS (\S+)", text))


def test_the_documents_mention_every_command() -> None:
    words = "\n".join(path.read_text() for path in [ROOT / "README.md", *(ROOT / "docs").glob("*.md")])
    for name in cli.COMMANDS:
        assert f"hybrid {name}" in words


def test_the_documents_mention_no_command_that_does_not_exist() -> None:
    known = {*cli.COMMANDS, "--help", "--version"}
    for path in [ROOT / "README.md", ROOT / "CONTRIBUTING.md", *sorted((ROOT / "docs").glob("*.md"))]:
        used = set(re.findall(r"^\$ hybrid (\S+)", path.read_text(), re.MULTILINE))
        assert used <= known, path


def test_links_between_documents_lead_somewhere() -> None:
    for path in [ROOT / "README.md", ROOT / "CONTRIBUTING.md", *sorted((ROOT / "docs").glob("*.md"))]:
        for target in re.findall(r"\]\((?!https?:|mailto:|#)([^)#]+)", path.read_text()):
            assert (path.parent / target).exists(), f"{path.name}: {target}"


def test_every_benchmark_is_in_the_table_of_benchmarks() -> None:
    table = (ROOT / "benchmarks" / "README.md").read_text()
    assert [path.stem for path in (ROOT / "benchmarks").glob("*.py") if f"NAME={path.stem}" not in table] == []


def test_nothing_tells_anybody_to_install_our_name_from_an_index() -> None:
    """On the public package index it belongs to another project."""
    told = re.compile(r"pip3? (?:install|download|wheel)\b[^\n`]*[ \"']hybrid(?![\w./-])")
    assert [f"{name}: {line}" for name, text in texts() for line in text.splitlines() if told.search(line)] == []
