"""A GGUF taken apart: which tensors it holds, and smaller files with some of them under the same description.

A library that reads a model whole can so be handed a part of it at a time.
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
from hybrid.model_files.gguf_files import VERSIONS, Reader

MOST_TENSORS = 1 << 20
ALIGNMENT = 32
"""Bytes to whose multiples tensors begin, unless the file says otherwise."""

TOKENIZER = "tokenizer."
BLOCK = re.compile(r"blk\.\d+\.")
PIECE = 1 << 24


@dataclass(frozen=True, slots=True)
class Tensor:
    """A tensor's entry in the header. `start` and `size`: its bytes in the file, with what fills them up."""

    name: str
    shape: tuple[int, ...]
    kind: int
    start: int
    size: int

    @property
    def numbers(self) -> int:
        return prod(self.shape)


@dataclass(frozen=True, slots=True)
class Contents:
    """What a GGUF holds: `described` is its keys but for the tokenizer's, which is larger than all else there."""

    path: Path
    described: bytes
    alignment: int
    tensors: tuple[Tensor, ...]


def contents(path: Path) -> Contents:
    """What is in a GGUF. Raises CannotRun when it is damaged or cut short, OSError."""
    size = path.stat().st_size
    with path.open("rb") as file, mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as data:
        try:
            return _contents(path, Reader(data), size)
        except (ValueError, struct.error) as error:
            raise CannotRun(
                f"{path}: this GGUF is damaged: {error}", hint="is the file whole? fetch it again"
            ) from error


def _contents(path: Path, reader: Reader, size: int) -> Contents:
    count, said = reader.begin(), reader.keys()
    kept = [reader.between(start, end) for name, start, end in reader.entries if not name.startswith(TOKENIZER)]
    described = struct.pack("<Q", len(kept)) + b"".join(kept)
    if count > MOST_TENSORS:
        raise ValueError(f"it has {count:,} tensors, more than the {MOST_TENSORS:,} allowed")
    entries = [_entry(reader) for _ in range(count)]
    if len({name for name, *_ in entries}) < count:
        raise ValueError("it holds two tensors of one name")
    alignment = said.get("general.alignment", ALIGNMENT)
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
    return Contents(path, described, alignment, tuple(tensors))


def _entry(reader: Reader) -> tuple[str, tuple[int, ...], int, int]:
    name = reader.text()
    (dimensions,) = struct.unpack("<I", reader.take(4))
    if not 0 <= dimensions <= 8:
        raise ValueError(f"its tensor {name!r:.200} has {dimensions} dimensions")
    shape = struct.unpack(f"<{dimensions}Q", reader.take(8 * dimensions))
    kind, offset = struct.unpack("<IQ", reader.take(12))
    return name, shape, kind, offset


def steps(tensors: Sequence[Tensor], numbers: int) -> Iterator[list[Tensor]]:
    """The tensors in parts of about so many numbers. Those of one block stay together: some become one weight."""
    together: dict[str, list[Tensor]] = {}
    for tensor in tensors:
        block = BLOCK.match(tensor.name)
        together.setdefault(block[0] if block else "", []).append(tensor)
    part: list[Tensor] = []
    for group in together.values():
        if part and sum(tensor.numbers for tensor in (*part, *group)) > numbers:
            yield part
            part = []
        part = [*part, *group]
    if part:
        yield part


def write(whole: Contents, tensors: Sequence[Tensor], place: Path) -> None:
    """Write a GGUF that holds these tensors of another. Raises OSError."""
    table, offset = bytearray(), 0
    for tensor in tensors:
        table += struct.pack("<Q", len(tensor.name.encode())) + tensor.name.encode()
        table += struct.pack(f"<I{len(tensor.shape)}QIQ", len(tensor.shape), *tensor.shape, tensor.kind, offset)
        offset += -(-tensor.size // whole.alignment) * whole.alignment
    head = struct.pack("<4sIQ", b"GGUF", VERSIONS[-1], len(tensors)) + whole.described + table
    with whole.path.open("rb") as source, place.open("wb") as file:
        file.write(head + bytes(-len(head) % whole.alignment))
        for tensor in tensors:
            source.seek(tensor.start)
            for left in range(tensor.size, 0, -PIECE):
                file.write(source.read(min(PIECE, left)))
            file.write(bytes(-tensor.size % whole.alignment))
