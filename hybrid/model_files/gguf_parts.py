"""The tensors of a GGUF, and smaller GGUF files with the same metadata and some of the tensors.

With them, a library that reads whole models can read a part at a time.
"""

from __future__ import annotations

import mmap
import re
import struct
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from math import prod
from pathlib import Path

from hybrid.errors import CannotRun
from hybrid.model_files.gguf_files import VERSIONS, HeaderReader

MAX_TENSORS = 1 << 20
ALIGNMENT = 32
"""Default alignment of tensors, in bytes."""

TOKENIZER = "tokenizer."
BLOCK = re.compile(r"blk\.\d+\.")
COPY_SIZE = 1 << 24


@dataclass(frozen=True, slots=True)
class Tensor:
    """A tensor's entry in the header. `start` and `size`: its bytes in the file, padding included."""

    name: str
    shape: tuple[int, ...]
    kind: int
    start: int
    size: int

    @property
    def parameters(self) -> int:
        return prod(self.shape)


@dataclass(frozen=True, slots=True)
class Contents:
    """What a GGUF holds. `metadata`: its keys without the tokenizer's, which are larger than all others."""

    path: Path
    metadata: bytes
    alignment: int
    tensors: tuple[Tensor, ...]


def contents(path: Path) -> Contents:
    """The contents of a GGUF. Raises CannotRun when it is damaged or cut short, OSError."""
    size = path.stat().st_size
    with path.open("rb") as file, mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as data:
        try:
            return _contents(path, HeaderReader(data, str(path.absolute())), size)
        except (ValueError, struct.error) as error:
            raise CannotRun(
                f"{path}: this GGUF is damaged: {error}", hint="is the file whole? fetch it again"
            ) from error


def _contents(path: Path, reader: HeaderReader, size: int) -> Contents:
    count, values = reader.begin(), reader.keys()
    kept = [reader.between(start, end) for name, start, end in reader.entries if not name.startswith(TOKENIZER)]
    metadata = struct.pack("<Q", len(kept)) + b"".join(kept)
    if count > MAX_TENSORS:
        raise ValueError(f"it has {count:,} tensors, more than the {MAX_TENSORS:,} allowed")
    entries = [_entry(reader) for _ in range(count)]
    if len({name for name, *_ in entries}) < count:
        raise ValueError("it holds two tensors of one name")
    alignment = values.get("general.alignment", ALIGNMENT)
    if not 0 < alignment <= 1 << 20:
        raise ValueError(f"its tensors are said to begin at multiples of {alignment}")
    begin = -(-reader.at // alignment) * alignment
    starts = [begin + offset for *_, offset in entries]
    ends = dict(zip(sorted(starts), [*sorted(starts)[1:], size], strict=True))
    for (name, *_), start in zip(entries, starts, strict=True):
        if start >= size:
            raise ValueError(
                f"it is cut short: its tensor {name!r:.200} begins at {start:,}, and it has {size:,} bytes"
            )
    tensors = (Tensor(*entry[:3], start, ends[start] - start) for entry, start in zip(entries, starts, strict=True))
    return Contents(path, metadata, alignment, tuple(tensors))


def _entry(reader: HeaderReader) -> tuple[str, tuple[int, ...], int, int]:
    name = reader.text()
    (dimensions,) = struct.unpack("<I", reader.take(4))
    if not 0 <= dimensions <= 8:
        raise ValueError(f"its tensor {name!r:.200} has {dimensions} dimensions")
    shape = struct.unpack(f"<{dimensions}Q", reader.take(8 * dimensions))
    kind, offset = struct.unpack("<IQ", reader.take(12))
    return name, shape, kind, offset


def split_tensors(tensors: Sequence[Tensor], parameters: int) -> Iterator[list[Tensor]]:
    """The tensors in parts of about `parameters` parameters.

    A block is not split: some of its tensors become one weight.
    """
    together: dict[str, list[Tensor]] = {}
    for tensor in tensors:
        block = BLOCK.match(tensor.name)
        together.setdefault(block[0] if block else "", []).append(tensor)
    part: list[Tensor] = []
    for group in together.values():
        if part and sum(tensor.parameters for tensor in (*part, *group)) > parameters:
            yield part
            part = []
        part = [*part, *group]
    if part:
        yield part


def write_subset(whole: Contents, tensors: Sequence[Tensor], place: Path) -> None:
    """Write a GGUF with some tensors of another one, `whole`. Raises OSError."""
    table, offset = bytearray(), 0
    for tensor in tensors:
        table += struct.pack("<Q", len(tensor.name.encode())) + tensor.name.encode()
        table += struct.pack(f"<I{len(tensor.shape)}QIQ", len(tensor.shape), *tensor.shape, tensor.kind, offset)
        offset += -(-tensor.size // whole.alignment) * whole.alignment
    head = struct.pack("<4sIQ", b"GGUF", VERSIONS[-1], len(tensors)) + whole.metadata + table
    with whole.path.open("rb") as source, place.open("wb") as file:
        file.write(head + bytes(-len(head) % whole.alignment))
        for tensor in tensors:
            source.seek(tensor.start)
            for left in range(tensor.size, 0, -COPY_SIZE):
                file.write(source.read(min(COPY_SIZE, left)))
            file.write(bytes(-tensor.size % whole.alignment))
