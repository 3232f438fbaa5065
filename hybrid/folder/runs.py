"""Runs in the folder: a frozen spec, the inputs it names, and the records that came of it.

<folder>/hybrid.json                                      marks the folder
<folder>/runs/<run>/run.json                              the frozen spec; its hash is in the run's id
<folder>/runs/<run>/inputs-<sha16>.json.zst               the tasks
<folder>/runs/<run>/references-<sha16>.json.zst           the truth, never given to a stage
<folder>/runs/<run>/<stage>/<attempt>/<batch>/shard-...   records
<folder>/runs/<run>/{beats,logs,acks,orders}/...          what the two sides tell each other (notes.py)
<folder>/runs/<run>/tensors/...                           what training keeps (tensors.py)
"""

from __future__ import annotations

import hashlib
import heapq
import json
import re
from collections.abc import Container, Iterator, Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import zstandard

from hybrid.canonical import Json, decode, encode
from hybrid.errors import BadData, CannotRun, HybridError, PluginFault, UsageError, listed, nearest
from hybrid.folder.medium import Disk, Medium, NotThere
from hybrid.folder.names import DIGEST, allowed, run_id, stage_name
from hybrid.folder.object_store import ObjectStore, medium_at
from hybrid.folder.shards import MAX_FILE, Shard, shard_paths, verify_shard
from hybrid.folder.spec import MAX_SPEC, ModelSpec, check_spec, models_of, new_spec
from hybrid.machine import home
from hybrid.machine.files import explain_errors, unpack
from hybrid.protocols import Inputs

MARK: dict[str, Json] = {"format": "hybrid/folder", "version": 1}
RUN_ID = re.compile(r"[a-z0-9](?:[a-z0-9._-]{0,100})-[0-9a-f]{12}")
MAX_INPUTS = 512 * 1024 * 1024


@dataclass(frozen=True, slots=True)
class Run:
    """One frozen spec, the folder it is in, and where its shards are looked for: only there, when `sources` says so.

    Other sources than the folder are a worker's spool and a laptop's received copies. `stage_roles` maps a stage to the
    role of its model. `roots` maps a stage that comes after others to the first stage of its chain that has the same
    role: its records fix the digest of that role's model.
    """

    id: str
    spec: Mapping[str, Any]
    folder: Medium
    sources: tuple[Medium, ...] = ()
    roots: Mapping[str, str] = field(default_factory=dict)
    stage_roles: Mapping[str, str] = field(default_factory=dict)

    @property
    def models(self) -> Mapping[str, ModelSpec]:
        """The run's models by role; "" is the role of the first one."""
        return models_of(self.spec)

    @property
    def place(self) -> str:
        """The run's place in the folder."""
        return f"runs/{self.id}"

    def tasks(self) -> dict[str, Any]:
        """What the stages work on."""
        return self._blob("inputs")

    def references(self) -> dict[str, Any]:
        """Question id -> truth. Only what assembles or grades may read it."""
        return self._blob("references")

    def _blob(self, kind: str) -> dict[str, Any]:
        sha256 = str(self.spec[kind])
        path = f"{self.place}/{blob_name(kind, sha256)}"
        data = unpack(self.folder.read(path, MAX_INPUTS), MAX_INPUTS, path)
        if hashlib.sha256(data).hexdigest() != sha256:
            raise BadData(
                f"{path}: does not match the sha256 in run.json: damaged or still on its way",
                hint="wait for the sync, or remove the file and submit the run again",
            )
        value = decode(data, what=path, limit=MAX_INPUTS)
        if encode(value) != data:  # the fast parser rounds whole numbers beyond 64 bits
            value = json.loads(data)
        if not isinstance(value, dict):
            raise BadData(f"{path}: not a JSON object")
        return value

    def model_digest(self, stage: str) -> str:
        """The digest of the model that this stage's records come from; "" while that is open.

        A spec without one leaves it to who comes first: the shard that is first by attempt and name decides, which is
        the same for everybody who sees the same files. Nothing of two models is ever mixed.
        """
        return self.pinned_digest(stage) or str(self.bound_model(stage).get("digest", ""))

    def bound_model(self, stage: str) -> Mapping[str, Any]:
        """The model that this stage's records come from, as the first shard of it says; empty without one."""
        pinned = self.pinned_digest(stage)
        for _, shard in self._verified(self.roots.get(stage, stage), [], ()):
            model: Mapping[str, Any] = shard.header["model"]
            if not pinned or model["digest"] == pinned:
                return model
        return {}

    def role_digest(self, stage: str, role: str) -> str:
        """The digest of a further model that a search asks; "" while that is open. The first shard that names it
        decides, of those that the stage's own model wrote.
        """
        if pinned := self.models[role].digest:
            return pinned
        own = self.model_digest(stage)
        for _, shard in self._verified(stage, [], ()):
            named = shard.header["model"]
            about = named.get("roles")
            found = about.get(role) if named["digest"] == own and isinstance(about, dict) else None
            if isinstance(found, dict) and DIGEST.fullmatch(str(found.get("digest"))):
                return str(found["digest"])
        return ""

    def pinned_digest(self, stage: str) -> str:
        """The digest that the spec gives the model of this stage; "" while that is open, or the role is not known."""
        models = self.models
        if stage not in self.stage_roles and len(models) > 1:
            return ""
        return models[self.stage_roles.get(stage, "")].digest

    def shards(
        self, stage: str, refused: list[str], *, model: str = "", known: Container[str] = ()
    ) -> Iterator[tuple[str, Shard]]:
        """Every shard of a stage that verifies and belongs to this run; why others do not goes to `refused`.

        `model` is the digest of the only model that counts, by default `model_digest`. The paths in `known` are not
        read.
        """
        model = model or self.model_digest(stage)
        for path, shard in self._verified(stage, refused, known):
            if shard.header["model"]["digest"] == model:
                yield path, shard
            else:
                refused.append(f"{path}: was answered by another model than the run's, passed over")

    def _verified(self, stage: str, refused: list[str], known: Container[str]) -> Iterator[tuple[str, Shard]]:
        place = f"{self.place}/{stage_name(stage)}"
        media = self.sources or (self.folder,)
        found = heapq.merge(*(_located(medium, place, refused) for medium in media), key=lambda one: one[0].split("/"))
        done = ""
        for path, medium in found:
            if path == done or path in known:
                continue
            try:
                shard = verify_shard(path, medium.read(path, MAX_FILE))
            except HybridError as error:  # one file that cannot be read must not hide the others
                refused.append(error.message)
                continue
            if self.owns(path, shard):
                done = path
                yield path, shard
            else:
                refused.append(f"{path}: belongs to run {str(shard.header['run'])[:80]!r}, passed over")

    def owns(self, path: str, shard: Shard) -> bool:
        """Whether a shard at `path` says of itself what its path says."""
        header = shard.header
        return path.split("/")[1:4] == [self.id, header["stage"], header["attempt"]] and header["run"] == self.id


def _located(medium: Medium, place: str, refused: list[str]) -> Iterator[tuple[str, Medium]]:
    return ((path, medium) for path in shard_paths(medium, place, refused))


def blob_name(kind: str, sha256: str) -> str:
    return f"{kind}-{sha256[:16]}.json.zst"


def join_folder(path: Path, *, make: bool) -> Medium:
    """The shared folder at `path`, marked as ours; made when `make`.

    Raises BadData on a foreign mark, NotThere when there is none: perhaps a mount is away and this is what is below it.
    """
    folder = medium_at(path)
    if make:
        if isinstance(folder, Disk):
            with explain_errors(path, doing="making the folder"):
                path.mkdir(parents=True, exist_ok=True)
        with suppress(BadData):  # another mark, or ours in another layout: the check says which
            folder.write("hybrid.json", encode(MARK) + b"\n")  # also where a crash left only the beginning of it
    try:
        check_mark(folder)
    except NotThere as error:
        if isinstance(folder, ObjectStore) or not path.exists():  # never where a dead mount may be
            error.hint += " `hybrid init` makes a new folder"
        raise
    return folder


def folder_above(path: Path) -> str:
    """The shared folder in which `path` lies; "" when it lies in none."""
    if not (url := home.store_url(path)):
        return next((str(one) for one in path.absolute().parents if (one / "hybrid.json").is_file()), "")
    places = [url.rsplit("/", cut)[0] for cut in range(1, url.count("/") - 1)]
    return next((one for one in places if _is_marked(ObjectStore(one))), "")


def _is_marked(folder: Medium) -> bool:
    try:
        folder.read("hybrid.json", MAX_SPEC)
    except (NotThere, CannotRun):  # keys may be good for a part of a bucket only
        return False
    return True


def check_mark(folder: Medium) -> None:
    """Raise BadData when the folder carries another mark than ours, NotThere when it has none."""
    try:
        data = folder.read("hybrid.json", MAX_SPEC)
    except NotThere as error:
        raise NotThere(
            f"{folder} is not a folder of hybrid, or not now: it has no hybrid.json",
            hint="is it mounted, synced, and the right place?",
        ) from error
    present = data.rstrip(b"\0")
    if (encode(MARK) + b"\n").startswith(present) and len(present) < len(encode(MARK)):
        raise NotThere(
            f"{folder}/hybrid.json: not whole yet",
            hint="wait for the sync; if it stays so: `hybrid init`, on the laptop",
        )
    found = decode(data, what=f"{folder}/hybrid.json")
    if found != MARK:
        ours = isinstance(found, dict) and found.get("format") == MARK["format"]
        raise BadData(
            f"{folder}/hybrid.json: not the mark of a folder this hybrid reads: {str(found)[:120]}",
            hint="update hybrid" if ours else "the file is somebody else's: choose another folder",
        )


def submit(
    folder: Medium,
    pipeline: str,
    settings: Mapping[str, Any],
    inputs: Inputs,
    models: Mapping[str, ModelSpec],
) -> Run:
    """Freeze a run into the folder. The id comes from the spec's hash, so submitting twice is one run.

    `models` are by role, "" being that of the first one. A digest may be "": the first worker's model then is the
    run's. run.json is written last. Raises PluginFault for inputs that are no JSON.
    """
    try:
        blobs = {"inputs": encode(inputs.tasks), "references": encode(inputs.references)}
        encode(dict(inputs.about))
    except (TypeError, ValueError) as error:
        raise PluginFault(
            f"the inputs that the pipeline '{pipeline}' reads are no JSON: {error}",
            hint="the fault is in the pipeline: tasks, references and about are texts, numbers, lists and objects",
        ) from error
    sha256 = {kind: hashlib.sha256(data).hexdigest() for kind, data in blobs.items()}
    spec: dict[str, Json] = new_spec(pipeline, settings, inputs.about, sha256, models)
    run = Run(run_id(spec, pipeline), spec, folder)
    for kind, data in blobs.items():
        compressed = zstandard.ZstdCompressor(level=10, write_checksum=True).compress(data)
        _write_blob(folder, f"{run.place}/{blob_name(kind, sha256[kind])}", compressed, sha256[kind])
    folder.write(f"{run.place}/run.json", encode(spec) + b"\n", heal=True)  # its hash is in the id: else it is damage
    return run


def _write_blob(folder: Medium, path: str, data: bytes, sha256: str) -> None:
    """Another zstd release may pack the same content into other bytes, so content decides, not bytes."""
    try:
        present = unpack(folder.read(path, MAX_INPUTS), MAX_INPUTS, path)
        if hashlib.sha256(present).hexdigest() == sha256:
            return
    except (NotThere, BadData):
        pass
    folder.write(path, data, heal=True)


def run_ids(folder: Medium) -> list[str]:
    """The ids of all runs in the folder, sorted. Raises Temporary."""
    names = [entry.name for entry in folder.entries("runs") if entry.kind == "folder" and allowed(entry.name)]
    return sorted(name for name in names if any(one.name == "run.json" for one in folder.entries(f"runs/{name}")))


def open_run(folder: Medium, name: str, copies: tuple[Medium, ...] = ()) -> Run:
    """The run with that id or unique beginning of an id, with the `copies` of its shards that this machine has.

    Raises UsageError (the beginning of none, or of several), BadData, Temporary.

    A whole id is opened without looking at a listing, which may not have it yet. Somebody has such a run: NotThere. So
    it is where nothing has arrived at all.
    """
    run = name if RUN_ID.fullmatch(name) else find_run(folder, name)
    try:
        spec = decode(folder.read(f"runs/{run}/run.json", MAX_SPEC), what=f"runs/{run}/run.json")
    except BadData as error:
        error.hint = error.hint or "wait for the sync; if it stays so, submit the run again: that heals it"
        raise
    except NotThere as error:
        if run == name:
            hint = f"wait for the sync, or submit it again; {nearest(name, run_ids(folder))}"
            raise NotThere(f"no run is called '{name}' in {folder}, or not yet", hint=hint) from error
        raise
    check_spec(spec, run)
    return Run(run, spec, folder, (*copies, folder))


def find_run(folder: Medium, name: str) -> str:
    """The id of the run that `name` is, or is the only beginning of. Raises UsageError, Temporary."""
    known = run_ids(folder)
    found = [name] if name in known else [one for one in known if one.startswith(name)]
    if len(found) == 1:
        return found[0]
    if not found and (not known or _on_its_way(folder, name)):
        raise NotThere(
            f"no run is called '{name}' in {folder}, or not yet",
            hint=f"wait for the sync, or submit it; {nearest(name, known)}",
        )
    what = f"several runs begin with '{name}'" if found else f"no run is called '{name}'"
    if not name:
        what = f"a run must be named, of the {len(known)}"
    hint = f"name one of them: {listed(found)}" if found and name else nearest(name, known)
    raise UsageError(f"{what} in {folder}", hint=hint)


def _on_its_way(folder: Medium, name: str) -> bool:
    """Whether there is a place for a run that begins so, and nothing in it yet that makes it one."""
    return any(one.name.startswith(name) for one in folder.entries("runs") if one.kind == "folder")
