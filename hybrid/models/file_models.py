"""Models that are local files: a folder in Hugging Face's layout, or a GGUF, perhaps split."""

from __future__ import annotations

import re
from fnmatch import fnmatchcase
from pathlib import Path

from hybrid.errors import UsageError
from hybrid.machine.files import explain_errors
from hybrid.model_files.gguf_files import names_of, parts_of, stem_of
from hybrid.model_files.location import TEXTS, WEIGHTS, files_of, locate
from hybrid.model_files.weight_files import check_files
from hybrid.models.manifest import Kind
from hybrid.models.names import collide, is_inner, is_plain


def described(path: Path) -> tuple[Kind, dict[str, Path]]:
    """The kind of the model at a path, and its files by the path that each will have. Raises CannotRun, UsageError."""
    found = locate(str(path.absolute()))
    if found.is_dir():
        check_files(found)
        return "folder", _files(path)
    files = parts_of(found)
    own = path if path.is_file() else found  # `found` is the target of a link, whose name may be meaningless
    stem = re.sub(r"[^A-Za-z0-9_.+-]+", "-", stem_of(own)).strip("-.+")[:80] or "model"
    return "gguf", dict(zip(names_of(stem, len(files)), files, strict=True))


def name_for(path: Path, wanted: str) -> str:
    """The name of a packed model: `wanted`, else derived from the path. Raises UsageError."""
    name = wanted or (path.resolve().name if path.is_dir() else stem_of(path))
    if not is_plain(name):
        raise UsageError(f"'{name}' cannot be the name of a packed model", hint="--as NAME, of letters, digits, . _ -")
    return name


def _files(folder: Path) -> dict[str, Path]:
    """The files of a model folder: all that its digest covers, and files of the same kinds in subfolders.

    Links to files are followed, since the Hub's cache consists of them; hidden folders and pickled weights are omitted.
    """
    with explain_errors(folder, doing="listing it"):
        found = {path.name: path for path in files_of(folder)}
        for path in sorted(folder.rglob("*")):
            inner = path.relative_to(folder)
            hidden = any(part.startswith(".") for part in inner.parts)
            if not hidden and path.is_file() and any(fnmatchcase(path.name, kind) for kind in (*TEXTS, WEIGHTS)):
                found[inner.as_posix()] = path
    odd = [path for path in found if not is_inner(path)]
    if odd or collide(list(found)):
        what = f"{odd[0]!r:.200} cannot be a name" if odd else "two files have one name, but for upper case"
        raise UsageError(f"{folder}: {what} on every system", hint="rename or remove it, then pack the model again")
    return found
