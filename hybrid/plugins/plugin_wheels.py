"""Wheels of installed third-party distributions, for a machine that cannot get them from an index.

Only pure Python is supported. An installed distribution is packed again by its list of files (RECORD); an editable
install is built from its project. In both cases the same files give the same bytes.
"""

from __future__ import annotations

import csv
import io
import json
import re
import subprocess
import sys
import tempfile
import zipfile
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from importlib.metadata import Distribution, PackageNotFoundError, distribution
from pathlib import Path, PurePosixPath
from urllib.parse import unquote, urlsplit

from hybrid.errors import CannotRun
from hybrid.plugins import wheel
from hybrid.plugins.wheel import Wheel

MAX_WHEEL_BYTES = 64 * 1024 * 1024
"""Largest wheel: it should hold code, not data."""
BUILD_TIMEOUT = 600.0
"""Seconds."""
COMPILED = (".so", ".pyd", ".dll", ".dylib")
OF_THIS_MACHINE = ("RECORD", "INSTALLER", "REQUESTED", "direct_url.json")
"""Files that pip writes about an installation."""
REQUIREMENT = re.compile(r"\s*([A-Za-z0-9][A-Za-z0-9._-]*)")


@dataclass(frozen=True, slots=True)
class PluginWheels:
    """The wheels of a distribution and of its local requirements; and the names of its other requirements."""

    wheels: tuple[Wheel, ...]
    requirements: tuple[str, ...]


def wheels_to_bring(found: Distribution) -> PluginWheels:
    """The wheels that another machine needs to install a distribution. Raises CannotRun.

    A requirement that was installed from a local path is in no index, so its wheel is included.
    """
    wheels: dict[str, Wheel] = {}
    requirements, left = set[str](), [found]
    while left:
        one = left.pop()
        if normalized(one.name) in wheels:
            continue
        wheels[normalized(one.name)] = wheel_of(one)
        for name in _required(one):
            other = _installed(name)
            if other and _local(other) and normalized(name) != wheel.NAME:
                left.append(other)
            else:
                requirements.add(normalized(name))
    return PluginWheels(tuple(wheels.values()), tuple(sorted(requirements)))


def normalized(name: str) -> str:
    """A distribution's name in its normal form."""
    return re.sub(r"[-_.]+", "-", name).lower()


def wheel_of(found: Distribution) -> Wheel:
    """The wheel of an installed distribution. Raises CannotRun when it cannot be packed."""
    project = _editable_project(found)
    files = _files_built(project, found.name) if project else _files_installed(found)
    names = [name for name in files if name.endswith(".dist-info/WHEEL")]
    if len(names) != 1:
        raise _refused(found.name, "it was not installed as a wheel")
    about = files[names[0]].decode(errors="replace")
    tags = re.findall(r"^Tag:\s*(\S+)", about, re.MULTILINE)
    compiled = [name for name in files if name.endswith(COMPILED)]
    if compiled or not tags or not all(tag.endswith("-none-any") for tag in tags):
        raise _refused(found.name, f"it holds compiled code ({', '.join(compiled[:3]) or ', '.join(tags[:3])})")
    info = names[0].partition("/")[0]
    kept = {name: data for name, data in files.items() if name.removeprefix(f"{info}/") not in OF_THIS_MACHINE}
    if sum(map(len, kept.values())) > MAX_WHEEL_BYTES:
        raise _refused(found.name, f"it has more than {MAX_WHEEL_BYTES // 1024**2} MiB")
    return wheel.make_wheel(info, kept)


def _refused(name: str, why: str) -> CannotRun:
    return CannotRun(
        f"the distribution '{name}' cannot travel in the shared folder: {why}",
        hint="install it as a wheel of pure Python; or with --without-plugins name it in the notebook's PACKAGES",
    )


def _files_installed(found: Distribution) -> dict[str, bytes]:
    """The installed files of a distribution, without the scripts that pip generates from entry points."""
    record = found.read_text("RECORD")  # `found.files` omits missing files in some versions of Python
    if record is None:
        raise _refused(found.name, "there is no list of its files: it was not installed by pip")
    programs = {entry.name for entry in found.entry_points if entry.group in ("console_scripts", "gui_scripts")}
    files: dict[str, bytes] = {}
    for name in (row[0] for row in csv.reader(record.splitlines()) if row):
        path = PurePosixPath(name)
        outside = ".." in path.parts or path.is_absolute()
        if path.suffix == ".pyc" or (outside and path.stem in programs and path.parent.name in ("bin", "Scripts")):
            continue
        if outside:
            raise _refused(found.name, f"it has files outside of its packages ({name})")
        try:
            files[name] = Path(str(found.locate_file(name))).read_bytes()
        except OSError as error:
            raise _refused(found.name, f"{name} cannot be read: {error.strerror}; install it again") from error
    return files


def _direct_url(found: Distribution) -> Mapping[str, object]:
    said = json.loads(found.read_text("direct_url.json") or "{}")
    return said if isinstance(said, dict) else {}


def _local(found: Distribution) -> bool:
    """Whether it was installed from a local path."""
    return str(_direct_url(found).get("url", "")).startswith("file:")


def _editable_project(found: Distribution) -> Path | None:
    """The project folder of an editable install; None for other installs."""
    how = _direct_url(found).get("dir_info")
    if not (_local(found) and isinstance(how, dict) and how.get("editable")):
        return None
    path = unquote(urlsplit(str(_direct_url(found)["url"])).path)
    return Path(re.sub(r"^/([A-Za-z]:)", r"\1", path))  # file:///C:/x is C:/x


def _files_built(project: Path, name: str) -> dict[str, bytes]:
    """The files of a project's wheel, built with the installed build tools, else with those that pip downloads."""
    with tempfile.TemporaryDirectory(prefix="hybrid-wheel-") as place:
        pip = [sys.executable, "-P", "-m", "pip", "wheel", "--quiet", "--no-deps", "--no-input"]
        pip += ["--disable-pip-version-check", "--wheel-dir", place]
        said = ""
        for how in (["--no-build-isolation"], []):
            try:
                done = subprocess.run(  # noqa: S603
                    [*pip, *how, str(project)],
                    stdin=subprocess.DEVNULL, capture_output=True, text=True, timeout=BUILD_TIMEOUT, check=False,
                    cwd=place,
                )  # fmt: skip
            except (OSError, subprocess.SubprocessError) as error:
                raise _refused(name, f"pip cannot build {project}: {error}") from error
            if done.returncode == 0:
                (path,) = Path(place).glob("*.whl")
                return _unpacked(path.read_bytes())
            said = said or (done.stderr.strip().splitlines() or ["?"])[-1]
    raise _refused(name, f"pip does not build {project}: {said:.300}")


def _unpacked(data: bytes) -> dict[str, bytes]:
    with zipfile.ZipFile(io.BytesIO(data)) as archive:
        return {entry.filename: archive.read(entry) for entry in archive.infolist() if not entry.is_dir()}


def _required(found: Distribution) -> Iterator[str]:
    """The names of a distribution's requirements without those of extras."""
    for text in found.requires or ():
        match = REQUIREMENT.match(text)
        if match and not re.search(r"extra\s*==", text):
            yield match[1]


def _installed(name: str) -> Distribution | None:
    try:
        return distribution(name)
    except PackageNotFoundError:
        return None
