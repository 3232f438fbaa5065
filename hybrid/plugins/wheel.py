"""A wheel of the installed hybrid, for a machine without a checkout: a notebook installs it.

The same code gives the same bytes on every machine: files are sorted by name, not compressed (zlibs differ), and have
a constant time.
"""

from __future__ import annotations

import base64
import hashlib
import io
import re
import zipfile
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from importlib.metadata import Distribution, PackageNotFoundError, distribution
from pathlib import Path

from hybrid.errors import CannotRun

ROOT = Path(__file__).parents[2]
"""Where the packages are that run here."""
NAME = "hybrid"
PACKAGES = ("hybrid", "pipelines", "graders")
TIME = (1980, 1, 1, 0, 0, 0)
ABOUT = "Wheel-Version: 1.0\nGenerator: hybrid\nRoot-Is-Purelib: true\nTag: py3-none-any\n"


@dataclass(frozen=True, slots=True)
class Wheel:
    """A wheel's file name and its bytes."""

    name: str
    data: bytes

    @property
    def sha256(self) -> str:
        return hashlib.sha256(self.data).hexdigest()

    @property
    def path(self) -> str:
        """Its path in a shared folder, which contains its hash. Names in the folder are in lower case."""
        name = re.sub(r"[^a-z0-9._-]", "_", self.name.lower())
        return f"wheels/{'-'.join(name.split('-')[:2])}-{self.sha256[:16]}/{name}"


def build() -> Wheel:
    """The wheel of the installed hybrid, from an installation or a checkout. Raises CannotRun."""
    try:
        found = distribution(NAME)
    except PackageNotFoundError as error:
        raise CannotRun(
            "hybrid runs here without being installed, so no wheel can be made of it",
            hint="in the checkout: pip install -e .",
        ) from error
    files = {name: (ROOT / name).read_bytes() for name in _names(ROOT, found)}
    info = f"{NAME}-{found.version}.dist-info"
    return make_wheel(info, files | {f"{info}/{name}": text.encode() for name, text in _about(found).items()})


def make_wheel(info: str, files: Mapping[str, bytes]) -> Wheel:
    """The wheel of these pure Python files; the RECORD is added in the folder `info`, NAME-VERSION.dist-info."""
    record = f"{info}/RECORD"
    lines = [*(_recorded(name, data) for name, data in sorted(files.items())), f"{record},,"]
    listed = "".join(f"{line}\n" for line in lines).encode()
    return Wheel(f"{info.removesuffix('.dist-info')}-py3-none-any.whl", _packed({**files, record: listed}))


def _names(root: Path, found: Distribution) -> list[str]:
    """The files of the packages: those of the RECORD, or in a checkout all that exist."""
    recorded = [path.as_posix() for path in found.files or ()]
    if f"{NAME}/__init__.py" not in recorded:
        recorded = [path.relative_to(root).as_posix() for package in PACKAGES for path in _files(root / package)]
    return [name for name in recorded if name.split("/")[0] in PACKAGES and "__pycache__" not in name]


def _files(place: Path) -> Iterator[Path]:
    """Every file below a package, in any order, without hidden files and links."""
    for path in place.rglob("*"):
        hidden = any(part.startswith(".") for part in path.relative_to(place).parts)
        if path.is_file() and not path.is_symlink() and not hidden:
            yield path


def _about(found: Distribution) -> dict[str, str]:
    """The metadata files of the wheel without its RECORD."""
    licenses = [f"licenses/{name}" for name in found.metadata.get_all("License-File") or ()]
    texts = {name: found.read_text(name) or "" for name in ("METADATA", "entry_points.txt", *licenses)}
    return {**texts, "WHEEL": ABOUT}


def _recorded(name: str, data: bytes) -> str:
    sha256 = base64.urlsafe_b64encode(hashlib.sha256(data).digest()).rstrip(b"=").decode()
    quoted = '"{}"'.format(name.replace('"', '""')) if set(name) & set(',"') else name
    return f"{quoted},sha256={sha256},{len(data)}"


def _packed(files: Mapping[str, bytes]) -> bytes:
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", zipfile.ZIP_STORED) as archive:
        for name in sorted(files):
            entry = zipfile.ZipInfo(name, TIME)
            entry.create_system = 3  # Unix, on every system
            entry.external_attr = 0o100644 << 16
            archive.writestr(entry, files[name])
    return buffer.getvalue()
