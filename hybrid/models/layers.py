"""Layers in the shared folder: written and read part by part, two parts in memory at most, each verified by its sha256.

A layer's sha256 and that of a part are computed at once, in two threads beside the one that reads or writes.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import closing, contextmanager
from dataclasses import replace
from pathlib import Path
from typing import BinaryIO

from hybrid.errors import BadData, HybridError
from hybrid.folder.medium import Medium, NotThere
from hybrid.folder.runs import check_mark
from hybrid.machine.files import speaking
from hybrid.models.manifest import Layer, Model, Part, parts_of

Told = Callable[[int], None]
"""Is told how many more bytes are done."""

PIECE = 256 * 1024
"""Bytes of one call to write: larger ones take memory in large pieces, which a virtual machine is slow to give."""

HEAL = "pack the model again where it still is: only what is missing or damaged is written"


@contextmanager
def opened(path: Path) -> Iterator[BinaryIO]:
    """A local file to read, unbuffered. Raises BadData when it is no regular file, and what `speaking` does."""
    with speaking(path, doing="reading it"):
        if not path.is_file():
            raise BadData(f"{path}: not there, or not a regular file")
        with path.open("rb", buffering=0) as stream:
            yield stream


class Sums:
    """sha256 of a whole, and of each of its parts: two threads that the caller's does not wait for."""

    def __init__(self) -> None:
        self._whole, self.size = hashlib.sha256(), 0
        self._threads = ThreadPoolExecutor(2, thread_name_prefix="sha256")
        self._last: Future[None] | None = None

    def add(self, data: bytes) -> Future[str]:
        """Begin with the next part. The result is its sha256."""
        self.size += len(data)
        self._wait()
        self._last = self._threads.submit(self._whole.update, data)
        return self._threads.submit(_sha256, data)

    def whole(self) -> str:
        """sha256 of all parts so far."""
        self._wait()
        return self._whole.hexdigest()

    def close(self) -> None:
        self._threads.shutdown()

    def _wait(self) -> None:
        if self._last:
            self._last.result()


def _sha256(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()


def write_layer(folder: Medium, file: Path, layer: Layer, part_size: int, told: Told) -> Layer:
    """Bring a local file into the folder as `layer`; returns it with its parts. What is there already is only compared.

    While one part is hashed, the one before it is written. Raises BadData when the file is not what the layer says:
    what was written of it then is named by no manifest. Raises what `Medium.write` raises.
    """
    hashes: list[str] = []
    before = b""
    with opened(file) as stream, closing(Sums()) as sums:
        while (data := _next(stream, part_size)) and sums.size < layer.size:
            summed = sums.add(data)
            _put(folder, layer, part_size, hashes, before)
            hashes.append(summed.result())
            told(len(data))
            before = data
        if (sums.whole(), sums.size) != (layer.sha256, layer.size):
            raise BadData(
                f"{file}: is not the {layer.size:,} bytes of sha256 {layer.sha256[:12]} that it should be",
                hint="this copy of the model is damaged: pull, download or create it again",
            )
        _put(folder, layer, part_size, hashes, before)
    return replace(layer, parts=parts_of(layer, part_size, hashes))


def _next(stream: BinaryIO, size: int) -> bytes:
    """The next part; shorter only at the end of the file."""
    pieces = []
    while size and (piece := stream.read(size)):
        pieces.append(piece)
        size -= len(piece)
    return pieces[0] if len(pieces) == 1 else b"".join(pieces)


def _put(folder: Medium, layer: Layer, part_size: int, hashes: list[str], data: bytes) -> None:
    """Write the last of the parts with these hashes. The folder's mark is read before: a mount may have gone away."""
    if data:
        check_mark(folder)
        folder.write(parts_of(layer, part_size, hashes)[-1].path, data, heal=True)


def _verify(part: Part, data: bytes, sha256: str) -> None:
    """Raise BadData when these bytes, which have that sha256, are not the part."""
    if len(data) < part.size:
        what = f"cut short, or still on its way: {len(data):,} of {part.size:,} bytes are here"
        raise BadData(f"{part.path}: {what}", hint=f"wait for the sync; if it stays so, {HEAL}")
    if sha256 != part.sha256:
        raise BadData(f"{part.path}: damaged: does not match the sha256 in its name", hint=HEAL)


def read_layer(folder: Medium, layer: Layer, into: BinaryIO, told: Told) -> None:
    """Write a layer into an open local file, from the end of the parts that are in it already and verify.

    Nothing that does not verify is left in the file. Raises NotThere, BadData, and what `Medium.read` raises.
    """
    with closing(Sums()) as sums:
        done = _resumed(layer, into, sums, told)
        for part in layer.parts[done:]:
            end = into.tell()
            try:
                data = folder.read(part.path, part.size)
                summed = sums.add(data)
                _fill(into, data)
                _verify(part, data, summed.result())
            except HybridError:
                into.truncate(end)
                raise
            told(part.size)
        into.truncate()
        if sums.whole() != layer.sha256:
            raise BadData(
                f"{layer.place}: its parts together are not what it is named by", hint="this model cannot be trusted"
            )


def _resumed(layer: Layer, into: BinaryIO, sums: Sums, told: Told) -> int:
    """How many parts the file begins with; it is at their end then."""
    for number, part in enumerate(layer.parts):
        start = into.tell()
        data = into.read(part.size)
        if len(data) < part.size or _sha256(data) != part.sha256:
            into.seek(start)
            return number
        sums.add(data)
        told(part.size)
    return len(layer.parts)


def _fill(into: BinaryIO, data: bytes) -> None:
    """Write all of it, in pieces: the system begins to bring them to disk meanwhile."""
    view = memoryview(data)
    while view:
        view = view[into.write(view[:PIECE]) :]


def check_layer(folder: Medium, layer: Layer, told: Told) -> list[HybridError]:
    """Read a whole layer. What is missing or damaged of it; if nothing is, whether the parts make the layer."""
    wrong: list[HybridError] = []
    with closing(Sums()) as sums:
        for part in layer.parts:
            try:
                data = folder.read(part.path, part.size)
                _verify(part, data, sums.add(data).result())
            except (NotThere, BadData) as error:
                wrong.append(error)
            told(part.size)
        if not wrong and sums.whole() != layer.sha256:
            wrong.append(BadData(f"{layer.place}: its parts together are not what it is named by"))
    return wrong


def present(folder: Medium, model: Model) -> set[str]:
    """The paths of the model's parts that a listing shows. Whether they are whole is not looked at."""
    parts = model.parts
    listed = {
        f"{place}/{entry.name}"
        for place in {path.rpartition("/")[0] for path in parts}
        for entry in folder.entries(place)
        if entry.kind == "file"
    }
    return listed & parts.keys()
