"""Every console block of the documents is run, in the order of its document and in one folder for each document.

A block opens with ```console. Its lines that start with `$ ` are commands; what follows is what they print, stdout and
stderr together, in which `...` stands for anything; a command with nothing below it may print what it likes. A line
`echo $?` shows an exit code. A block ```console no-run is not run, and a comment above it says why.
"""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
DOCUMENTS = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", *sorted((ROOT / "docs").glob("*.md"))]
BLOCK = re.compile(r"(?P<above>[^\n]*)\n+```console(?P<flags>[^\n]*)\n(?P<body>.*?)^```", re.MULTILINE | re.DOTALL)


def blocks(path: Path) -> list[re.Match[str]]:
    return list(BLOCK.finditer(path.read_text()))


def steps(body: str) -> list[tuple[str, str]]:
    """Command and expected output of each step in a block."""
    parts = re.split(r"^\$ ", body, flags=re.MULTILINE)
    assert not parts[0].strip(), f"a block starts with a command: {parts[0]!r}"
    return [(command, shown.strip()) for command, _, shown in (part.partition("\n") for part in parts[1:])]


def looks_like(shown: str, printed: str) -> bool:
    pattern = ".*".join(re.escape(part) for part in re.split(r"\.\.\.", " ".join(shown.split())))
    return re.fullmatch(pattern, " ".join(printed.split()), re.DOTALL) is not None


@pytest.mark.slow
@pytest.mark.parametrize("path", [path for path in DOCUMENTS if blocks(path)], ids=lambda path: path.name)
def test_the_commands_of_a_document_do_what_it_says(path: Path, tmp_path: Path) -> None:
    place = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
    environment = {**os.environ, "PATH": place, "COLUMNS": "120", "HOME": str(tmp_path)}
    code = 0
    for block in blocks(path):
        if "no-run" in block["flags"]:
            continue
        for command, shown in steps(block["body"]):
            script = f"(exit {code})\n{command}\n"
            done = subprocess.run(
                ["bash", "-c", script], cwd=tmp_path, env=environment, text=True, timeout=600, check=False,
                stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
            )  # fmt: skip
            code = done.returncode
            if shown:
                assert looks_like(shown, done.stdout), f"{path.name}: {command}\nshows\n{shown}\nprints\n{done.stdout}"
            else:
                assert code == 0, f"{path.name}: {command}\n{done.stdout}"


@pytest.mark.parametrize("path", DOCUMENTS, ids=lambda path: path.name)
def test_a_block_that_is_not_run_says_why(path: Path) -> None:
    for block in blocks(path):
        if "no-run" in block["flags"]:
            assert block["above"].startswith("<!-- not run: "), f"{path.name}: {block['body']}"


@pytest.mark.parametrize(
    ("shown", "printed", "same"),
    [
        ("a ... c", "a b\nc", True),
        ("a", "a\n", True),
        ("a", "a b", False),
        ("... b", "a c", False),
        ("1.5", "1x5", False),
    ],
)
def test_three_dots_stand_for_anything_and_everything_else_for_itself(shown: str, printed: str, same: bool) -> None:
    assert looks_like(shown, printed) is same


def test_every_fence_with_commands_is_a_console_block() -> None:
    for path in DOCUMENTS:
        fences = re.findall(r"^```(\w*)[^\n]*\n(.*?)^```", path.read_text(), re.MULTILINE | re.DOTALL)
        assert [
            body for language, body in fences if language != "console" and re.search(r"^\$ ", body, re.MULTILINE)
        ] == []
