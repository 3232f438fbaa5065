"""Runs in the folder: a frozen spec, the inputs it names, and the records that came of it.

<folder>/hybrid.json                                      marks the folder
<folder>/runs/<run>/run.json                              the frozen spec; its hash is in the run's id
<folder>/runs/<run>/inputs-<sha16>.json.zst               the tasks
<folder>/runs/<run>/references-<sha16>.json.zst           the truth, never given to a stage
<folder>/runs/<run>/<stage>/<attempt>/<batch>/shard-...   records
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import zstandard

from hybrid.canonical import Json, decode, digest, encode
from hybrid.errors import BadData, HybridError, UsageError, nearest
from hybrid.folder.files import read_bounded, speaking, unpack, write_once
from hybrid.folder.names import DIGEST, checked, run_id
from hybrid.folder.shards import Shard, read_shard, shard_paths
from hybrid.protocols import Inputs

MARK: dict[str, Json] = {"format": "hybrid/folder", "version": 1}
SPEC_FORMAT = "hybrid/run"
DIGESTS = {"model_digest", "inputs", "references"}
TEXTS = {"pipeline", "backend", "model"} | DIGESTS
SPEC_KEYS = {"format", "version", "settings", "about"} | TEXTS
MAX_SPEC = 1024 * 1024
MAX_INPUTS = 512 * 1024 * 1024


@dataclass(frozen=True, slots=True)
class Run:
    """One frozen spec and where its files are."""

    id: str
    spec: Mapping[str, Any]
    path: Path

    def tasks(self) -> dict[str, Any]:
        """What the stages work on."""
        return self._blob("inputs")

    def references(self) -> dict[str, Any]:
        """Question id -> truth. Only what assembles or grades may read it."""
        return self._blob("references")

    def _blob(self, kind: str) -> dict[str, Any]:
        sha256 = str(self.spec[kind])
        path = self.path / blob_name(kind, sha256)
        data = unpack(path, MAX_INPUTS, MAX_INPUTS)
        if hashlib.sha256(data).hexdigest() != sha256:
            raise BadData(
                f"{path}: does not match the sha256 in run.json: damaged or still on its way",
                hint="wait for the sync, or remove the file and submit the run again",
            )
        value = decode(data, what=str(path), limit=MAX_INPUTS)
        if not isinstance(value, dict):
            raise BadData(f"{path}: not a JSON object")
        return value

    def shards(self, stage: str, refused: list[str]) -> Iterator[tuple[Path, Shard]]:
        """Every shard of a stage that verifies and belongs to this run; why others do not goes to `refused`."""
        for path in shard_paths(self.path / checked(stage, what="stage"), refused):
            try:
                shard = read_shard(path)
            except HybridError as error:  # one file that cannot be read must not hide the others
                refused.append(error.message)
                continue
            if (shard.header["run"], shard.header["stage"]) != (self.id, stage):
                refused.append(f"{path}: belongs to run {str(shard.header['run'])[:80]!r}, passed over")
                continue
            if self.spec["model_digest"] != shard.header["model"]["digest"]:
                refused.append(f"{path}: was answered by another model than the run's, passed over")
                continue
            yield path, shard


def blob_name(kind: str, sha256: str) -> str:
    return f"{kind}-{sha256[:16]}.json.zst"


def join_folder(path: Path, *, make: bool) -> Path:
    """The shared folder at `path`, marked as ours; made when `make`. Raises BadData on a foreign mark."""
    mark = path / "hybrid.json"
    content = encode(MARK) + b"\n"
    if make and not (mark.is_file() and mark.stat().st_size >= len(content)):
        with speaking(path, doing="making the folder"):
            path.mkdir(parents=True, exist_ok=True)
        write_once(mark, content)  # also where a crash left only the beginning of it
    if not mark.exists():
        raise UsageError(f"{path} is not a folder of hybrid", hint="name the folder with --folder or HYBRID_FOLDER")
    found = decode(read_bounded(mark, MAX_SPEC), what=str(mark))
    if found != MARK:
        raise BadData(f"{mark}: not the mark of a folder this hybrid reads: {str(found)[:120]}", hint="update hybrid")
    return path


def submit(
    folder: Path,
    pipeline: str,
    settings: Mapping[str, Any],
    inputs: Inputs,
    *,
    backend: str,
    model: str,
    model_digest: str,
) -> Run:
    """Freeze a run into the folder. The id comes from the spec's hash, so submitting twice is one run."""
    blobs = {"inputs": encode(inputs.tasks), "references": encode(inputs.references)}
    sha256 = {kind: hashlib.sha256(data).hexdigest() for kind, data in blobs.items()}
    spec: dict[str, Json] = {
        "format": SPEC_FORMAT,
        "version": 1,
        "pipeline": pipeline,
        "settings": dict(settings),
        "backend": backend,
        "model": model,
        "model_digest": model_digest,
        "about": dict(inputs.about),
        **sha256,
    }
    run = Run(run_id(spec, pipeline), spec, folder / "runs" / run_id(spec, pipeline))
    for kind, data in blobs.items():
        compressed = zstandard.ZstdCompressor(level=10, write_checksum=True).compress(data)
        _write_blob(run.path / blob_name(kind, sha256[kind]), compressed, sha256[kind])
    write_once(run.path / "run.json", encode(spec) + b"\n")
    return run


def _write_blob(path: Path, data: bytes, sha256: str) -> None:
    """Another zstd release may pack the same content into other bytes, so content decides, not bytes."""
    if path.exists():
        try:
            if hashlib.sha256(unpack(path, MAX_INPUTS, MAX_INPUTS)).hexdigest() == sha256:
                return
        except BadData:
            path.unlink()
    write_once(path, data)


def run_ids(folder: Path) -> list[str]:
    """The ids of all runs in the folder, sorted."""
    runs = folder / "runs"
    return sorted(entry.name for entry in runs.iterdir() if (entry / "run.json").is_file()) if runs.is_dir() else []


def open_run(folder: Path, name: str) -> Run:
    """The run with that id or unique beginning of an id. Raises UsageError (none, several) or BadData."""
    known = run_ids(folder)
    found = [name] if name in known else [one for one in known if one.startswith(name)]
    if len(found) != 1:
        what = f"several runs begin with '{name}'" if found else f"no run is called '{name}'"
        if not name:
            what = f"a run must be named, of the {len(known)}"
        raise UsageError(f"{what} in {folder}", hint=nearest(name, found or known))
    path = folder / "runs" / found[0]
    if path.is_symlink():
        raise BadData(f"{path}: a link, which is not followed")
    spec = decode(read_bounded(path / "run.json", MAX_SPEC), what=str(path / "run.json"))
    check_spec(spec, path)
    return Run(found[0], spec, path)


def check_spec(spec: Any, path: Path) -> None:
    """Refuse a run.json that is not ours, not of this version, or does not hash to the run's id."""
    where = path / "run.json"
    if not isinstance(spec, dict) or spec.get("format") != SPEC_FORMAT:
        raise BadData(f"{where}: not a run of hybrid")
    if spec.get("version") != 1:
        raise BadData(f"{where}: run version {spec.get('version')!r}, this hybrid reads 1", hint="update hybrid")
    if set(spec) != SPEC_KEYS or not _typed(spec):
        raise BadData(f"{where}: its fields are not those of a run: {', '.join(sorted(set(spec) ^ SPEC_KEYS))}")
    if path.name != f"{spec['pipeline']}-{digest(spec)[:12]}":
        raise BadData(f"{where}: was changed after it was written: its hash is not that in the run's id")


def _typed(spec: Mapping[str, Any]) -> bool:
    """Whether the fields are of their types; the digests become parts of file names."""
    return all(isinstance(spec[key], str) for key in TEXTS) and all(DIGEST.fullmatch(spec[key]) for key in DIGESTS)
