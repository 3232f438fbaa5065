"""Wheels of other people's distributions that are installed here, for a machine that cannot get them elsewhere.

Only pure Python travels. What was installed is packed again, by its own list of files; a project that is installed as
it is being edited is built. Either way the same files give the same bytes.
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

MOST = 64 * 1024 * 1024
"""Bytes of a wheel: code, no data."""
BUILDING = 600.0
"""Seconds that building a project may take."""
COMPILED = (".so", ".pyd", ".dll", ".dylib")
OF_THIS_MACHINE = ("RECORD", "INSTALLER", "REQUESTED", "direct_url.json")
"""What pip writes down about an installation."""
REQUIREMENT = re.compile(r"\s*([A-Za-z0-9][A-Za-z0-9._-]*)")


@dataclass(frozen=True, slots=True)
class Carried:
    """The wheels of a distribution and of the local ones that it asks for; and what else it asks for."""

    wheels: tuple[Wheel, ...]
    asks: tuple[str, ...]


def carried(found: Distribution) -> Carried:
    """What has to travel with a distribution. Those that were installed from a place on this machine are in no index.

    Raises CannotRun.
    """
    wheels: dict[str, Wheel] = {}
    asks, left = set[str](), [found]
    while left:
        one = left.pop()
        if plain(one.name) in wheels:
            continue
        wheels[plain(one.name)] = of(one)
        for name in _required(one):
            other = _installed(name)
            if other and _local(other) and plain(name) != wheel.NAME:
                left.append(other)
            else:
                asks.add(plain(name))
    return Carried(tuple(wheels.values()), tuple(sorted(asks)))


def plain(name: str) -> str:
    """A distribution's name in its normal form."""
    return re.sub(r"[-_.]+", "-", name).lower()


def of(found: Distribution) -> Wheel:
    """The wheel of a distribution that is installed here. Raises CannotRun when it cannot travel."""
    project = _edited(found)
    files = _built(project, found.name) if project else _listed(found)
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
    if sum(map(len, kept.values())) > MOST:
        raise _refused(found.name, f"it has more than {MOST // 1024**2} MiB")
    return wheel.made(info, kept)


def _refused(name: str, why: str) -> CannotRun:
    return CannotRun(
        f"the distribution '{name}' cannot travel in the shared folder: {why}",
        hint="install it as a wheel of pure Python; or with --without-plugins name it in the notebook's PACKAGES",
    )


def _listed(found: Distribution) -> dict[str, bytes]:
    """The files of a distribution as it was installed, but for programs that its entry points make anew."""
    record = found.read_text("RECORD")  # `found.files` leaves out, in some versions of Python, what is gone
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


def _direct(found: Distribution) -> Mapping[str, object]:
    said = json.loads(found.read_text("direct_url.json") or "{}")
    return said if isinstance(said, dict) else {}


def _local(found: Distribution) -> bool:
    """Whether it was installed from this machine."""
    return str(_direct(found).get("url", "")).startswith("file:")


def _edited(found: Distribution) -> Path | None:
    """The project of an editable installation."""
    how = _direct(found).get("dir_info")
    if not (_local(found) and isinstance(how, dict) and how.get("editable")):
        return None
    path = unquote(urlsplit(str(_direct(found)["url"])).path)
    return Path(re.sub(r"^/([A-Za-z]:)", r"\1", path))  # file:///C:/x is C:/x


def _built(project: Path, name: str) -> dict[str, bytes]:
    """The files of a project's wheel, built with what is installed here, else with what pip fetches for it."""
    with tempfile.TemporaryDirectory(prefix="hybrid-wheel-") as place:
        pip = [sys.executable, "-P", "-m", "pip", "wheel", "--quiet", "--no-deps", "--no-input"]
        pip += ["--disable-pip-version-check", "--wheel-dir", place]
        said = ""
        for how in (["--no-build-isolation"], []):
            try:
                done = subprocess.run(  # noqa: S603
                    [*pip, *how, str(project)],
                    stdin=subprocess.DEVNULL, capture_output=True, text=True, timeout=BUILDING, check=False, cwd=place,
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
    """The names of what a distribution always asks for."""
    for text in found.requires or ():
        match = REQUIREMENT.match(text)
        if match and not re.search(r"extra\s*==", text):
            yield match[1]


def _installed(name: str) -> Distribution | None:
    try:
        return distribution(name)
    except PackageNotFoundError:
        return None
