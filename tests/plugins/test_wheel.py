"""The wheel that hybrid makes of itself: the same bytes from a checkout and from an installation, and pip takes it."""

from __future__ import annotations

import base64
import csv
import hashlib
import io
import os
import shutil
import subprocess
import sys
import tomllib
import zipfile
from importlib.metadata import distribution
from pathlib import Path

import pytest

from hybrid.plugins import wheel

ROOT = Path(__file__).parents[2]


def unpacked(data: bytes) -> dict[str, bytes]:
    with zipfile.ZipFile(io.BytesIO(data)) as archive:
        return {name: archive.read(name) for name in archive.namelist()}


def of_packages(files: dict[str, bytes]) -> dict[str, bytes]:
    return {name: data for name, data in files.items() if name.split("/")[0] in wheel.PACKAGES}


@pytest.fixture
def installed(tmp_path: Path) -> Path:
    """The Python of a fresh environment in which pip has installed the wheel; what it depends on comes from here."""
    made = wheel.build()
    file = tmp_path / made.name
    file.write_bytes(made.data)
    subprocess.run([sys.executable, "-m", "venv", "--without-pip", tmp_path / "venv"], check=True, timeout=120)
    python = tmp_path / "venv" / "bin" / "python"
    pip = [sys.executable, "-m", "pip", "--python", python, "install", "--quiet", "--no-index", "--no-deps"]
    subprocess.run([*pip, file], check=True, timeout=120)
    (packages,) = (tmp_path / "venv").glob("lib/python*/site-packages")
    (packages / "dependencies.pth").write_text(str(distribution("click").locate_file("")))
    return python


def run(*command: str | Path, cwd: Path) -> str:
    done = subprocess.run(command, capture_output=True, text=True, cwd=cwd, check=False, timeout=240)
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_building_again_gives_the_same_bytes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    first = wheel.build()
    monkeypatch.chdir(tmp_path)
    assert wheel.build() == first
    assert first.path == f"wheels/hybrid-{distribution('hybrid').version}-{first.sha256[:16]}/{first.name}"


def test_times_and_rights_of_the_files_do_not_shape_the_wheel(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for package in wheel.PACKAGES:
        shutil.copytree(ROOT / package, tmp_path / package)
    for path in tmp_path.rglob("*.py"):
        os.utime(path, (1, 1))
        path.chmod(0o600)
    (tmp_path / "hybrid" / "__pycache__").mkdir(exist_ok=True)
    (tmp_path / "hybrid" / "__pycache__" / "x.pyc").write_bytes(b"x")
    (tmp_path / "hybrid" / ".notes").write_text("not part of it")
    (tmp_path / "hybrid" / "secret.py").symlink_to("/etc/passwd")
    first = wheel.build()
    monkeypatch.setattr(wheel, "ROOT", tmp_path)
    assert wheel.build() == first
    (tmp_path / "hybrid" / "more.py").write_text("")
    assert wheel.build().sha256 != first.sha256


def test_the_record_names_every_file_with_its_sha256_and_size() -> None:
    files = unpacked(wheel.build().data)
    (record,) = [name for name in files if name.endswith("/RECORD")]
    rows = {row[0]: row[1:] for row in csv.reader(io.StringIO(files[record].decode()))}
    assert rows.pop(record) == ["", ""]
    assert set(rows) == set(files) - {record}
    for name, (sha256, size) in rows.items():
        expected = base64.urlsafe_b64encode(hashlib.sha256(files[name]).digest()).rstrip(b"=").decode()
        assert (sha256, size) == (f"sha256={expected}", str(len(files[name]))), name


def test_it_holds_the_same_files_as_the_wheel_of_the_build_backend(tmp_path: Path) -> None:
    command = [sys.executable, "-m", "hatchling", "build", "-t", "wheel", "-d", str(tmp_path)]
    subprocess.run(command, cwd=ROOT, check=True, capture_output=True, timeout=120)
    (built,) = tmp_path.glob("*.whl")
    ours, theirs = unpacked(wheel.build().data), unpacked(built.read_bytes())
    assert set(ours) == set(theirs)
    assert of_packages(ours) == of_packages(theirs)
    assert built.name == wheel.build().name


def test_a_copy_that_is_not_installed_is_refused_with_what_to_do(tmp_path: Path) -> None:
    code = f"import sys; sys.path[:] = [p for p in sys.path if 'site-packages' not in p] + [{str(ROOT)!r}]\n"
    code += "from hybrid import errors\nfrom hybrid.plugins import wheel\n"
    code += "try: wheel.build()\nexcept errors.CannotRun as e: print(e.hint)"
    assert "pip install -e ." in run(sys.executable, "-S", "-c", code, cwd=tmp_path)


@pytest.mark.slow
def test_pip_installs_it_and_the_command_works_there(installed: Path, tmp_path: Path) -> None:
    listed = run(installed.with_name("hybrid"), "list", cwd=tmp_path)
    names = [line.split()[:2] for line in listed.splitlines()]
    declared = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["entry-points"]
    pipelines, graders = (sorted(declared[f"hybrid.{kind}"]) for kind in ("pipelines", "graders"))
    assert names == [*(["pipeline", name] for name in pipelines), *(["grader", name] for name in graders)]
    place = run(installed, "-c", "import hybrid; print(hybrid.__file__)", cwd=tmp_path)
    assert place.startswith(str(tmp_path))
    assert "seal-eval, from hybrid" in run(installed.with_name("hybrid"), "describe", "seal-eval", cwd=tmp_path)


@pytest.mark.slow
def test_what_pip_has_installed_makes_the_same_wheel_again(installed: Path, tmp_path: Path) -> None:
    code = "from hybrid.plugins import wheel; print(wheel.build().sha256)"
    assert run(installed, "-c", code, cwd=tmp_path).strip() == wheel.build().sha256
