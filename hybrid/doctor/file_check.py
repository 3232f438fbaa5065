"""Check a file of the protocol by its path and bytes: it counts, or why not. Uses the readers' own checks."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from typing import Any

from hybrid.canonical import Json, decode, encode
from hybrid.doctor import content
from hybrid.doctor.findings import Finding
from hybrid.doctor.names import BLOB, FileType, file_type_of
from hybrid.errors import BadData, CannotRun, HybridError, Temporary
from hybrid.folder.medium import Medium, NotThere
from hybrid.folder.names import NoteName, ShardName, TensorName
from hybrid.folder.notes import MAX_NOTE, MAX_PACKED, verify_note
from hybrid.folder.runs import MARK, MAX_INPUTS, Run, blob_name
from hybrid.folder.segments import MAX_PACKED as MAX_PACKED_SEGMENT
from hybrid.folder.segments import MAX_SEGMENT, verify_segment
from hybrid.folder.shards import MAX_FILE, MAX_PAYLOAD, Shard, verify_shard
from hybrid.folder.spec import MAX_SPEC, SPEC_FORMAT, check_spec, models_of
from hybrid.folder.tensors import PART, verify_part
from hybrid.machine.files import unpack
from hybrid.models.manifest import MAX_MANIFEST, verify_model

MAX_PROBE = 64 * 1024
LIMITS: Mapping[FileType, tuple[int, int]] = {
    "mark": (MAX_SPEC, MAX_SPEC),
    "probe": (MAX_PROBE, MAX_PROBE),
    "spec": (MAX_SPEC, MAX_SPEC),
    "blob": (MAX_INPUTS, MAX_INPUTS),
    "note": (MAX_PACKED, MAX_NOTE),
    "shard": (MAX_FILE, MAX_PAYLOAD),
    "model": (MAX_MANIFEST, MAX_MANIFEST),
    "tensors": (PART, PART),
    "segment": (MAX_PACKED_SEGMENT, MAX_SEGMENT),
    "part": (0, 0),
    "beside": (0, 0),
}
"""File type -> most bytes of a file, as stored and unpacked."""

WAIT = {
    "mark": "wait for the sync, or run `hybrid init` on the folder",
    "probe": "nothing: the next `hybrid doctor` of that machine writes it anew",
    "spec": "wait for the sync; if it stays so, delete it and submit the run again",
    "blob": "wait for the sync; if it stays so, delete it and submit the run again",
    "model": "wait for the sync; if it stays so, delete it and pack the model again where it still is",
    "note": "wait for the sync; if it stays so, delete it: nothing is lost with it but time",
    "tensors": "wait for the sync; if it stays so, delete it: training goes on from an older one, or is done again",
    "segment": "wait for the sync; if it stays so, delete it: the others go on without it",
    "shard": "wait for the sync; if it stays so, delete it: a worker that still has it writes it again, "
    "else its items are done again",
}
CHANGED = "was changed after it was written, or is of another run: its hash is not that in the run's id"
OTHER_LAYOUT = "its JSON is not laid out as hybrid does, or has a name twice"


class NotCounted(Exception):
    """Why a file that verifies does not count."""

    def __init__(self, kind: str, what: str, do: str = "") -> None:
        super().__init__(what)
        self.kind, self.what, self.do = kind, what, do


class FileChecker:
    """Checks the files of one folder, one at a time, and caches the spec of the last run."""

    def __init__(self, folder: Medium) -> None:
        self._folder = folder
        self._spec: tuple[str, Mapping[str, Any] | None] = ("", None)
        self._model: tuple[str, str, str, str] = ("", "", "", "")  # run, stage, role, digest

    def findings(self, path: str, file_type: FileType) -> list[Finding]:
        """The findings about a file; empty when it is good. Raises Temporary when the folder does not answer."""
        try:
            data = self._folder.read(path, LIMITS[file_type][0])
        except Temporary as error:
            if isinstance(error, NotThere):
                return [Finding("not-here-yet", path, "was listed and cannot be opened: the listing is old", "wait")]
            raise
        except CannotRun as error:
            return [Finding("denied", path, _reason(error, path), "give this user the right to read it")]
        except HybridError as error:
            return [Finding("too-large", path, _reason(error, path), WAIT[file_type])]
        try:
            return self._checked(path, file_type, data)
        except Temporary:
            raise
        except Exception as error:  # noqa: BLE001 - one file on which hybrid fails must not hide the others
            what = f"hybrid fails on it: {type(error).__name__}"
            return [Finding("fault", path, what, "please report it, with the file")]

    def _checked(self, path: str, file_type: FileType, data: bytes) -> list[Finding]:
        try:
            odd = self._check(path, file_type, data)
        except (NotCounted, BadData) as error:
            return [self._refused(path, file_type, data, error)]
        return [Finding("strange", path, f"is counted, but {words}") for words in odd]

    def good(self, path: str) -> bool:
        """Whether the file at a path of the protocol is there and counts."""
        file_type = file_type_of(tuple(path.split("/")))
        try:
            return file_type is not None and self.would_count(path, self._folder.read(path, LIMITS[file_type][0]))
        except HybridError:
            return False

    def would_count(self, path: str, data: bytes) -> bool:
        """Whether these bytes would count at that path."""
        file_type = file_type_of(tuple(path.split("/")))
        try:
            return file_type is not None and self._check(path, file_type, data) is not None
        except Exception:  # noqa: BLE001 - whatever it is: it would not count
            return False

    def _refused(self, path: str, file_type: FileType, data: bytes, error: NotCounted | BadData) -> Finding:
        foreign = isinstance(error, BadData) or error.kind == "foreign"
        home = content.belongs(data) if foreign else path
        if home not in ("", path):
            return self._other_content(path, file_type, home)
        if isinstance(error, NotCounted):
            return Finding(error.kind, path, error.what, error.do)
        return _damage(path, file_type, data, error)

    def _other_content(self, path: str, file_type: FileType, home: str) -> Finding:
        """The finding for a file at its place whose content belongs at `home`."""
        if file_type == "spec":
            return Finding("changed", path, CHANGED, WAIT[file_type])
        if path.rpartition("/")[2] == home.rpartition("/")[2] or not self.good(home):
            return self.elsewhere(path, home)
        return Finding("damaged", path, f"holds what counts at {home}; what belongs here is missing", WAIT[file_type])

    def elsewhere(self, path: str, home: str) -> Finding:
        """The finding for a good file at `path` that would count only at `home`."""
        if self.good(home):
            return Finding(
                "conflict-copy", path, f"the same content counts at {home}, not this one", "it may be deleted"
            )
        run = home.split("/")[1] if home.startswith("runs/") else ""
        if run and not home.endswith("/run.json") and self.spec(run) is None:
            what = f"is good, but belongs to run {run}, which is not in this folder, or not readable"
            return Finding("foreign", path, what, f"in the folder of that run its place is {home}")
        first = ", but keep what stands there now" if self._taken(home) else ""
        return Finding("misplaced", path, "is good, but does not count here", f"copy it to {home}{first}")

    def _taken(self, path: str) -> bool:
        try:
            self._folder.read(path, 0)
        except NotThere:
            return False
        except HybridError:
            return True
        return True

    def spec(self, run: str) -> Mapping[str, Any] | None:
        """The spec of a run in this folder; None when it is not there or not good."""
        if self._spec[0] != run:
            self._spec = (run, self._read_spec(run))
        return self._spec[1]

    def _read_spec(self, run: str) -> Mapping[str, Any] | None:
        path = f"runs/{run}/run.json"
        try:
            spec: Mapping[str, Any] = decode(self._folder.read(path, MAX_SPEC), what=path)
            check_spec(spec, run)
        except Exception:  # noqa: BLE001 - reported when the spec itself is checked
            return None
        return spec

    def _check(self, path: str, file_type: FileType, data: bytes) -> list[str]:
        """How a file that counts differs from what hybrid writes. Raises BadData or NotCounted when it does not."""
        if file_type in ("beside", "part"):
            raise BadData(f"{path}: no part of the protocol")
        checks = {"mark": _mark, "probe": _probe, "spec": _spec, "note": _note, "model": _model, "shard": self._shard}
        checks |= {"tensors": _tensors, "segment": _segment}
        return self._blob(path, data) if file_type == "blob" else checks[file_type](path, data)

    def _shard(self, path: str, data: bytes) -> list[str]:
        shard = verify_shard(path, data)
        _, run, stage, _, batch, _ = path.split("/")
        if not Run(run, {}, self._folder).owns(path, shard):
            header = shard.header
            about = ", ".join(f"{part} {str(header[part])[:100]!r}" for part in ("run", "stage", "attempt"))
            raise NotCounted("foreign", f"says that it is of {about}", "move it there, or delete it")
        role = shard.header["model"].get("role", "")
        digest, model = shard.header["model"]["digest"], self._model_of(run, stage, role)
        if model and digest != model:
            what = f"was answered by model {digest[:12]}, the run's is {model[:12]}"
            raise NotCounted("other-model", what, "give the worker the run's model; this file may stay")
        odd = content.frame_oddities(data, raw := content.unpacked(data)[1])
        odd += [] if _as_written(shard, raw) else [OTHER_LAYOUT]
        odd += _numbering(shard.name, batch)
        if shard.header["seq"] != shard.name.seq:
            odd.append(f"its name says number {shard.name.seq}, its header {str(shard.header['seq'])[:20]}")
        return odd

    def _model_of(self, run: str, stage: str, role: Any) -> str:
        """The digest of the model whose shards count; "" while it is open. `role`: the model's, from a header."""
        spec = self.spec(run)
        if spec is None:
            return ""
        if not isinstance(role, str) or role not in models_of(spec):
            what = f"was answered by a model for {role!r:.100}, which the run does not have"
            raise NotCounted("other-model", what, "it may be deleted")
        if self._model[:3] != (run, stage, role):
            named = Run(run, spec, self._folder, stage_roles={stage: role})
            self._model = (run, stage, role, named.model_digest(stage))
        return self._model[3]

    def _blob(self, path: str, data: bytes) -> list[str]:
        _, run, name = path.split("/")
        match = BLOB.fullmatch(name)
        assert match, "only such names have this type"  # noqa: S101
        spec = self.spec(run)
        if spec and name != blob_name(match[1], str(spec[match[1]])):
            raise NotCounted("unknown", "the run's spec names another file", "it may be deleted")
        unpacked = unpack(data, MAX_INPUTS, path)
        sha256 = hashlib.sha256(unpacked).hexdigest()
        if sha256 != spec[match[1]] if spec else not sha256.startswith(match[2]):
            raise BadData(f"{path}: does not match its sha256: truncated, damaged or still on its way")
        if not isinstance(decode(unpacked, what=path, limit=MAX_INPUTS), dict):
            raise BadData(f"{path}: not a JSON object")
        return content.frame_oddities(data, unpacked)


def _mark(path: str, data: bytes) -> list[str]:
    if decode(data, what=path) != MARK:
        raise BadData(f"{path}: not the mark of a folder that this hybrid reads")
    return _layout(MARK, data)


def _probe(path: str, data: bytes) -> list[str]:
    try:
        value = decode(data, what=path)
    except BadData:
        value = None
    by = path.rpartition("/")[2].removesuffix(".json")
    if not isinstance(value, dict) or (value.get("format"), value.get("machine")) != ("hybrid/probe", by):
        raise NotCounted("unknown", "is not what `hybrid doctor` writes there", WAIT["probe"])
    return _layout(value, data)


def _spec(path: str, data: bytes) -> list[str]:
    spec = decode(data, what=path)
    check_spec(spec, path.split("/")[1])
    return _layout(spec, data)


def _model(path: str, data: bytes) -> list[str]:
    verify_model(path, data)
    return []


def _tensors(path: str, data: bytes) -> list[str]:
    verify_part(path, data)
    return []


def _segment(path: str, data: bytes) -> list[str]:
    verify_segment(path, data)
    return []


def _note(path: str, data: bytes) -> list[str]:
    note = verify_note(path, data)
    name = NoteName.parse(path.rpartition("/")[2], note["format"].removeprefix("hybrid/"))
    assert name, "verified"  # noqa: S101
    raw = content.unpacked(data, MAX_NOTE)[1]
    odd = content.frame_oddities(data, raw) + _numbering(name, path.split("/")[4])
    return odd if _same(note, raw) else [*odd, OTHER_LAYOUT]


def _numbering(name: ShardName | NoteName, batch: str) -> list[str]:
    return [] if batch == name.batch else [f"its number belongs in the folder {name.batch}"]


def _layout(value: Json, data: bytes) -> list[str]:
    return [] if _same(value, data.removesuffix(b"\n")) and data.endswith(b"\n") else [OTHER_LAYOUT]


def _same(value: Json, data: bytes) -> bool:
    try:
        return encode(value) == data
    except (BadData, ValueError, RecursionError):
        return False


def _as_written(shard: Shard, raw: bytes) -> bool:
    """Whether a shard's lines are what `ShardWriter` makes of its records: not with a duplicate name in an object."""
    try:
        payload = b"\n".join([encode(shard.header), *map(encode, shard.records), b""])
    except (BadData, ValueError, RecursionError):
        return False
    footer = encode({"count": shard.name.count, "sha256": hashlib.sha256(payload).hexdigest()})
    return payload + footer + b"\n" == raw


def _damage(path: str, file_type: FileType, data: bytes, error: BadData) -> Finding:
    kind, what = _what_is_wrong(path, file_type, data) or ("damaged", _reason(error, path))
    return Finding(kind, path, what, "update hybrid" if kind == "other-version" else WAIT[file_type])


def _what_is_wrong(path: str, file_type: FileType, data: bytes) -> tuple[str, str] | None:
    if not data:
        return "empty", "is empty"
    if content.is_page(data):
        return "error-page", "holds an error message of a web service instead of its content"
    if not data.strip(b"\0"):
        return "torn", "holds zeros only: its length arrived before its content"
    if file_type == "tensors":
        name = TensorName.parse(path.rpartition("/")[2])
        short = name and name.part < name.of - 1 and len(data) < PART
        return ("torn", f"ends early: only {len(data):,} bytes are here") if short else None
    if file_type in ("blob", "note", "shard", "segment"):
        return _wrong_frame(path, file_type, data)
    return _wrong_json(file_type, data)


def _wrong_frame(path: str, file_type: FileType, data: bytes) -> tuple[str, str] | None:
    limit = LIMITS[file_type][1]
    state, _ = content.unpacked(data, limit)
    if state == "bomb":
        return "too-large", f"unpacks to more than the {limit:,} bytes allowed"
    if state == "cut":
        return "torn", f"ends early: only {len(data):,} bytes are here"
    header = content.header_of(data) if file_type != "blob" else {}
    kind = (
        path.split("/")[2].removesuffix("s") if file_type == "note" else file_type
    )  # a note is in the folder of its kind
    return _wrong_version(header, f"hybrid/{kind}")


def _wrong_json(file_type: FileType, data: bytes) -> tuple[str, str] | None:
    try:
        value = decode(data, what="")
    except BadData:
        return None if data.endswith(b"}\n") else ("torn", f"ends early: only {len(data):,} bytes are here")
    wanted = SPEC_FORMAT if file_type == "spec" else str(MARK["format"])
    if not isinstance(value, dict) or value.get("format") != wanted:
        return None
    if file_type == "spec" and value.get("version") == 1:
        return "changed", CHANGED
    return _wrong_version(value, wanted)


def _wrong_version(value: Mapping[str, Any], wanted: str) -> tuple[str, str] | None:
    version = value.get("version")
    if value.get("format") != wanted or version == 1:
        return None
    return "other-version", f"is of version {version!r:.20}, this hybrid reads 1"


def _reason(error: HybridError, path: str) -> str:
    """An error's message without the path, which is shown beside it."""
    return error.message.removeprefix(f"{path}: ").removeprefix(f"{path} ") or type(error).__name__
