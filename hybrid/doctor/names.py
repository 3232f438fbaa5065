"""What the name of a file says: its file type in the protocol, or why it has none."""

from __future__ import annotations

import re
import unicodedata
from collections import defaultdict
from collections.abc import Iterable
from typing import Literal

from hybrid.folder.names import (
    BESIDE_STAGES,
    DIGEST,
    NAME,
    NOTES,
    RESERVED,
    SEGMENTS,
    TENSORS,
    NoteName,
    SegmentName,
    ShardName,
    TensorName,
    allowed,
)
from hybrid.machine import home
from hybrid.models.manifest import FILE as MODEL
from hybrid.models.manifest import PART_FILE

FileType = Literal["mark", "probe", "spec", "blob", "note", "shard", "segment", "tensors", "model", "part", "beside"]

BESIDE = ("results", "wheels", "notebooks")
"""Places in a folder that are not part of the protocol; hybrid reads nothing in them."""

RUN = re.compile(r"[a-z0-9._-]+-[0-9a-f]{12}")
BLOB = re.compile(r"(inputs|references)-([0-9a-f]{16})\.json\.zst")
BATCH = re.compile(r"[0-9]{3}")
NUMBER = re.compile(r"[0-9]{9}")
WINDOWS = tuple(map(re.compile, ("[0-9a-f]{16}", "[0-9]{4}", "[0-9]{6}")))
"""The patterns of the path components between a run's folder of segments and these."""
LAYERS = tuple(map(re.compile, ("models", "layers", "[0-9a-f]{2}", "[0-9a-f]{64}", BATCH.pattern)))
"""The patterns of the path components above the parts of a model's layer."""

LEFT_OVERS = {
    "Syncthing's own files": r"\.stfolder|\.stversions|\.stignore|~syncthing~.*|\.syncthing\..*",
    "an unfinished download or copy": r".*\.(part|partial|tmp|temp|crdownload|download|filepart|swp)|~\$.*",
    "macOS wrote it": r"\.DS_Store|\._.*|Icon\r?|\.localized|\.Spotlight-V100|\.Trashes|\.fseventsd|\.TemporaryItems",
    "Windows wrote it": r"desktop\.ini|thumbs\.db|ehthumbs\.db|\$RECYCLE\.BIN|System Volume Information",
    "a link to a Google document, without content": r".*\.(gdoc|gsheet|gslides|gdraw|gform|gtable|glink|gsite)",
    "Google Drive wrote it": r"\.tmp\.driveupload|\.tmp\.drivedownload|\.shortcut-targets-by-id|\.Trash.*",
    "rclone wrote it": r"RCLONE_TEST|.*\.rclonelink|.*\.lck",
    "the system or a program hides it": r"\.nfs[0-9a-f]+|\.directory|\.ipynb_checkpoints|\.fuse_hidden.*|lost\+found",
}
_LEFT_OVERS = {why: re.compile(pattern, re.IGNORECASE | re.DOTALL) for why, pattern in LEFT_OVERS.items()}

# What sync programs and file managers add to a name, anywhere in it:
# x (1).zst, x.conflict1, x.sync-conflict-20260801-101010-ABCDEFG.zst, Copy of x,
# x - Copy (2).zst, x copy 2.zst, x (Ann's conflicted copy 2026-08-01).zst, x.bak.
_COPIES = re.compile(
    r"^(?:copy of|kopie von|copie de|copia de) |"
    r"(?: -)? (?:copy|kopie|copie|copia)(?: \d+)?(?= ?\(|\.|$)|"
    r" ?\(\d{1,4}\)|"
    r" ?\([^()]{0,60}conflict[^()]{0,60}\)|"
    r" ?\[conflict\]|"
    r"\.sync-conflict-\d{8}-\d{6}(?:-\w{1,20})?|"
    r"\.conflict\d{0,4}(?=\.|$)|"
    r"(?:~|\.bak|\.orig|\.old)$",
    re.IGNORECASE,
)


def file_type_of(parts: tuple[str, ...]) -> FileType | None:
    """The type of a file at this path; None when nothing reads it."""
    if parts[0] in BESIDE:
        return "beside" if len(parts) > 1 else None
    if parts == ("hybrid.json",):
        return "mark"
    if parts[0] == "probes" and len(parts) == 2:
        name, _, rest = parts[1].partition(".")
        return "probe" if home.NAME.fullmatch(name) and rest == "json" else None
    if parts[0] not in ("runs", "models") or not is_place(parts[:-1]):
        return None
    return _of_model(parts) if parts[0] == "models" else _of_run(parts)


def _of_run(parts: tuple[str, ...]) -> FileType | None:
    if len(parts) == 3:
        return "spec" if parts[2] == "run.json" else "blob" if BLOB.fullmatch(parts[2]) else None
    if parts[2:3] == (TENSORS,):
        return "tensors" if len(parts) == 7 and TensorName.parse(parts[6]) else None
    if parts[2:3] == (SEGMENTS,):
        return "segment" if len(parts) == 7 and SegmentName.parse(parts[6]) else None
    return _leaf(parts) if len(parts) == 6 and allowed(parts[5]) else None


def _of_model(parts: tuple[str, ...]) -> FileType | None:
    if len(parts) == 3:
        return "model" if parts[1] == "manifests" and MODEL.fullmatch(parts[2]) else None
    return "part" if len(parts) == 6 and PART_FILE.fullmatch(parts[5]) else None


def _leaf(parts: tuple[str, ...]) -> FileType | None:
    if parts[2] in NOTES:
        return "note" if NoteName.parse(parts[5], parts[2].removesuffix("s")) else None
    return "shard" if ShardName.parse(parts[5]) else None


def is_place(parts: tuple[str, ...]) -> bool:
    """Whether readers list a folder at this path."""
    if parts in {(), ("runs",), ("probes",), ("models", "manifests")} or parts[0] in BESIDE:
        return True
    if parts[0] == "models":
        shaped = all(shape.fullmatch(part) for shape, part in zip(LAYERS, parts, strict=False))
        return len(parts) <= 5 and shaped and (len(parts) < 4 or parts[3].startswith(parts[2]))
    if parts[0] != "runs" or not RUN.fullmatch(parts[1]) or not all(map(allowed, parts)):
        return False
    if parts[2:3] in ((TENSORS,), (SEGMENTS,)):
        shapes = (DIGEST, NAME, NUMBER) if parts[2] == TENSORS else WINDOWS
        return len(parts) <= 6 and all(shape.fullmatch(part) for shape, part in zip(shapes, parts[3:], strict=False))
    return len(parts) <= 5


def must_be_folder(parts: tuple[str, ...]) -> bool:
    """Whether a file at this path hides what a folder of that name would hold."""
    if len(parts) == 1:
        return parts[0] in ("runs", "probes", "models", *BESIDE)
    if parts[0] == "models":
        return is_place(parts)
    fixed = {2: True, 3: parts[-1] in BESIDE_STAGES, 5: bool(BATCH.fullmatch(parts[-1])), 6: True}
    return is_place(parts) and parts[0] == "runs" and fixed.get(len(parts), False)


def left_over(name: str) -> str:
    """Which program leaves files of such a name behind; "" when none is known for it."""
    return next((why for why, pattern in _LEFT_OVERS.items() if pattern.fullmatch(name)), "")


def original_of(name: str) -> str:
    """The name of the file that a copy was made of; "" when `name` is not the name of a copy."""
    original = _COPIES.sub("", name)
    return original if original != name else ""


def why_unknown(name: str) -> str:
    """Why no file of the protocol has such a name, in words for a message."""
    for wrong, why in (
        (len(name.encode(errors="surrogateescape")) > 120, "its name is longer than 120 bytes"),
        (any("\ud800" <= one <= "\udfff" for one in name), "its name is not valid UTF-8"),
        (any(ord(one) < 32 or one == "\x7f" for one in name), "its name holds control characters"),
        (name != name.strip(" ."), "its name begins or ends with a space or a dot"),
        (not name.isascii(), "its name holds other characters than a-z, 0-9, dot, _ and -"),
        (name != name.lower(), "its name holds upper-case letters"),
        (".." in name, "its name holds two dots"),
        (name.partition(".")[0] in RESERVED, "its name is that of a device on Windows"),
        (not NAME.fullmatch(f"x{name}x"), "its name holds other characters than a-z, 0-9, dot, _ and -"),
        (not NAME.fullmatch(name), "its name does not begin and end with a letter or a digit"),
    ):
        if wrong:
            return why
    return "nothing of that name belongs there"


def clashes(names: Iterable[str]) -> list[list[str]]:
    """The groups of names in one folder that Windows or macOS take for the same name, sorted."""
    alike: defaultdict[str, list[str]] = defaultdict(list)
    for name in names:
        alike[unicodedata.normalize("NFC", unicodedata.normalize("NFC", name).casefold())].append(name)
    return sorted(sorted(group) for group in alike.values() if len(group) > 1)


def is_nfc(name: str) -> bool:
    """Whether the name is in the form that Linux and Windows write; macOS may write another."""
    return unicodedata.is_normalized("NFC", name)
