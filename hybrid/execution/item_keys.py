"""Lists the items of a stage as their keys, in a second process if that is faster, while this one reads shards.

    python -P -m hybrid.execution.item_keys FOLDER RUN STAGE MODEL

writes strings of keys, each preceded by its length in bytes (`LENGTH`).
"""

from __future__ import annotations

import hashlib
import struct
import subprocess
import sys
import tempfile
from collections.abc import Callable, Collection, Iterator
from contextlib import contextmanager
from functools import partial
from importlib.metadata import version
from pathlib import Path
from typing import IO

from hybrid.execution.capabilities import pipeline_of
from hybrid.execution.chain import bound
from hybrid.execution.index import KEY, in_parts
from hybrid.execution.round_records import RoundRecords
from hybrid.execution.search_records import keys_of
from hybrid.folder.child import IsolatedFolder
from hybrid.folder.runs import Run, open_run
from hybrid.protocols import Stage
from hybrid.work import Rounds, maker_of

MOST_WRAPPED = 100
LENGTH = struct.Struct("<I")
Parts = Iterator[bytes]


def parts_of(run: Run, stage: Stage, model: str) -> Parts:
    """The distinct keys of the stage's items, as `Index.set_items` takes them. Raises HybridError.

    A round whose records are all of a trajectory that does not count has another key, which no record has.
    """
    key_of = keys_of(run, stage, model)
    forked = _forked(run, stage, model)
    keys = (key_of(item) for item in stage.items(run.tasks()))
    yield from in_parts((key if key not in forked else hashlib.sha256(key).digest())[:KEY] for key in keys)


def _forked(run: Run, stage: Stage, model: str) -> Collection[bytes]:
    """The rounds that have records, and none of the trajectory that counts; none of a stage without rounds."""
    if not isinstance(stage.work, Rounds):
        return ()
    records = RoundRecords(run, stage, model, tuple(stage.work.series(run.tasks())))
    records.look()
    return records.forked()


def identity_of(stage: Stage, model: str, earlier: str) -> str:
    """What a stage's list of items depends on beside the run: stage version, model digest, code, and earlier outputs.

    `earlier` is a digest of the stages that the items depend on.
    """
    code = hashlib.sha256()
    for name in sorted(_modules(maker_of(stage.work))):
        place = getattr(sys.modules.get(name), "__file__", None)
        code.update(Path(place).read_bytes() if place and Path(place).is_file() else b"")
    return f"{stage.identity} {model} {version('hybrid')} {code.hexdigest()[:16]} {earlier}"


def _modules(made_by: object) -> set[str]:
    """The modules of a function and of what it wraps or is bound to: the module of a partial is `functools`."""
    found: dict[int, object] = {}
    to_look_at = [made_by]
    while to_look_at and len(found) < MOST_WRAPPED:
        one = to_look_at.pop()
        if id(one) in found:
            continue
        found[id(one)] = one
        if isinstance(one, partial):
            to_look_at += [one.func, *one.args, *one.keywords.values()]
        inner = [getattr(one, name, None) for name in ("__wrapped__", "__func__", "__self__")]
        to_look_at += [other for other in inner if other is not None]
    return {str(getattr(one, "__module__", None) or type(one).__module__) for one in found.values()}


@contextmanager
def listing(run: Run, stage: Stage, model: str, *, apart: bool) -> Iterator[Callable[[], Parts]]:
    """A function that returns what `parts_of` gives; with `apart`, a second process computes it meanwhile."""
    if not apart:
        yield lambda: iter(list(parts_of(run, stage, model)))
        return
    command = [sys.executable, "-P", "-m", "hybrid.execution.item_keys", str(run.folder), run.id, stage.name, model]
    with (
        tempfile.TemporaryFile() as output,
        subprocess.Popen(command, stdout=output, stderr=subprocess.DEVNULL) as process,  # noqa: S603
    ):
        try:
            yield lambda: _written(output) if process.wait() == 0 else iter(list(parts_of(run, stage, model)))
        finally:
            process.kill()


def _written(stream: IO[bytes]) -> Parts:
    stream.seek(0)
    while head := stream.read(LENGTH.size):
        yield stream.read(*LENGTH.unpack(head))


def main(folder: str, run: str, stage: str, model: str) -> None:
    """Write the parts of a stage's keys to standard output."""
    found = open_run(IsolatedFolder(Path(folder)), run)
    (wanted,) = [one for one in bound(found, pipeline_of(found)).stages if one.name == stage]
    for part in parts_of(found, wanted, model):
        sys.stdout.buffer.write(LENGTH.pack(len(part)) + part)


if __name__ == "__main__":
    main(*sys.argv[1:])
