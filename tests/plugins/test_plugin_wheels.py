"""Wheels of other people's distributions: what travels, and what is told when it cannot."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
import tomllib
import zipfile
from importlib.metadata import Distribution, PathDistribution
from io import BytesIO
from pathlib import Path

import pytest

from hybrid.errors import CannotRun
from hybrid.plugins import plugin_wheels

PACKAGE = Path(__file__).parents[1] / "plugin_package"
INFO = "tiny_plugin-0.0.1.dist-info"


def laid_down(folder: Path, name: str = "odd", *, tag: str = "py3-none-any", requires: str = "") -> Distribution:
    """A distribution of one module, as pip would lay it down."""
    info = folder / f"{name}-1.0.dist-info"
    info.mkdir(parents=True)
    asks = "".join(f"Requires-Dist: {one}\n" for one in requires.split(",") if one)
    (info / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {name}\nVersion: 1.0\n{asks}")
    (info / "WHEEL").write_text(f"Wheel-Version: 1.0\nGenerator: x\nRoot-Is-Purelib: true\nTag: {tag}\n")
    (info / "direct_url.json").write_text(json.dumps({"url": folder.as_uri(), "dir_info": {}}))
    (folder / f"{name}.py").write_text("A = 1\n")
    files = [f"{name}.py", "../../bin/odd", *(f"{info.name}/{one}" for one in ("METADATA", "WHEEL", "RECORD"))]
    (info / "entry_points.txt").write_text("[console_scripts]\nodd = odd:main\n")
    (info / "RECORD").write_text("".join(f"{one},,\n" for one in [*files, f"{info.name}/direct_url.json"]))
    return PathDistribution(info)


def test_what_pip_installed_is_packed_again_as_a_wheel_that_pip_takes(tiny_plugin: Path, tmp_path: Path) -> None:
    made = plugin_wheels.wheel_of(PathDistribution(tiny_plugin / INFO))
    assert made.path == f"wheels/tiny_plugin-0.0.1-{made.sha256[:16]}/tiny_plugin-0.0.1-py3-none-any.whl"
    (tmp_path / made.name).write_bytes(made.data)
    pip = [
        sys.executable,
        "-m",
        "pip",
        "install",
        "--quiet",
        "--no-deps",
        "--no-index",
        "--target",
        str(tmp_path / "x"),
    ]
    subprocess.run([*pip, str(tmp_path / made.name)], check=True, timeout=120)
    assert plugin_wheels.wheel_of(PathDistribution(tmp_path / "x" / INFO)) == made
    entries = (tmp_path / "x" / INFO / "entry_points.txt").read_text()
    assert "tiny-sums = tiny_plugin.sums:Sums" in entries


@pytest.mark.slow
def test_a_project_that_is_being_edited_is_built_and_its_wheel_is_the_same(tiny_plugin: Path, tmp_path: Path) -> None:
    project = tmp_path / "my project é%"
    shutil.copytree(PACKAGE, project)
    info = tmp_path / "site" / INFO
    info.mkdir(parents=True)
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: tiny-plugin\nVersion: 0.0.1\n")
    (info / "direct_url.json").write_text(json.dumps({"url": project.as_uri(), "dir_info": {"editable": True}}))
    assert plugin_wheels.wheel_of(PathDistribution(info)) == plugin_wheels.wheel_of(
        PathDistribution(tiny_plugin / INFO)
    )
    (project / "pyproject.toml").write_text("[build-system]\nrequires = []\nbuild-backend = 'nobody_has_it'\n")
    with pytest.raises(CannotRun, match=r"'tiny-plugin' cannot travel in the shared folder: pip does not build"):
        plugin_wheels.wheel_of(PathDistribution(info))


def test_names_of_versions_fit_the_folder_and_pip_gets_the_true_one(tmp_path: Path) -> None:
    laid_down(tmp_path)
    info = tmp_path / "Odd-1.0+Mine.dist-info"
    (tmp_path / "odd-1.0.dist-info").rename(info)
    record = info / "RECORD"
    record.write_text(record.read_text().replace("odd-1.0.dist-info", info.name))
    made = plugin_wheels.wheel_of(PathDistribution(info))
    assert made.name == "Odd-1.0+Mine-py3-none-any.whl"
    assert made.path == f"wheels/odd-1.0_mine-{made.sha256[:16]}/odd-1.0_mine-py3-none-any.whl"


def test_what_is_of_this_machine_stays_here(tmp_path: Path) -> None:
    made = plugin_wheels.wheel_of(laid_down(tmp_path))
    with zipfile.ZipFile(BytesIO(made.data)) as archive:
        assert sorted(archive.namelist()) == ["odd-1.0.dist-info/METADATA", "odd-1.0.dist-info/RECORD",
                                              "odd-1.0.dist-info/WHEEL", "odd.py"]  # fmt: skip


@pytest.mark.parametrize(
    ("broken", "said"),
    [
        ("compiled", r"it holds compiled code \(odd.so\)"),
        ("tag", r"it holds compiled code \(cp311-cp311-linux_x86_64\)"),
        ("outside", r"it has files outside of its packages \(\.\./\.\./share/odd\.txt\)"),
        ("gone", r"odd\.py cannot be read: No such file or directory; install it again"),
        ("no list", r"there is no list of its files"),
    ],
)
def test_what_cannot_travel_is_told(tmp_path: Path, broken: str, said: str) -> None:
    found = laid_down(tmp_path, tag="cp311-cp311-linux_x86_64" if broken == "tag" else "py3-none-any")
    record = tmp_path / "odd-1.0.dist-info" / "RECORD"
    if broken == "compiled":
        (tmp_path / "odd.so").write_bytes(b"x")
        record.write_text(record.read_text() + "odd.so,,\n")
    elif broken == "outside":
        record.write_text(record.read_text() + "../../share/odd.txt,,\n")
    elif broken == "gone":
        (tmp_path / "odd.py").unlink()
    elif broken == "no list":
        record.unlink()
    with pytest.raises(CannotRun, match=f"the distribution 'odd' cannot travel in the shared folder: {said}"):
        plugin_wheels.wheel_of(found)


def test_local_distributions_that_it_asks_for_travel_too_and_the_rest_is_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    laid_down(tmp_path, "helper", requires="odd")
    wanted = 'helper>=1,click,hybrid,nobody-has-it; python_version > "3",rouge_score; extra == "more"'
    found = laid_down(tmp_path, requires=wanted)
    monkeypatch.syspath_prepend(tmp_path)
    carried = plugin_wheels.wheels_to_bring(found)
    assert [one.name for one in carried.wheels] == ["odd-1.0-py3-none-any.whl", "helper-1.0-py3-none-any.whl"]
    assert carried.requirements == ("click", "hybrid", "nobody-has-it")


def test_the_example_asks_for_nothing_that_an_index_has_under_our_name() -> None:
    about = tomllib.loads((PACKAGE / "pyproject.toml").read_text())["project"]
    assert about["dependencies"] == []
    assert "optional-dependencies" not in about
