"""The files of a GGUF model: one, or the parts of a split one, which llama.cpp finds by their names.

The parts of a split model are called `NAME-00001-of-00003.gguf` and so on. File names and headers must agree, and every
part must exist: else the same name could mean other weights elsewhere, or a part could be taken for the whole model.
"""

from __future__ import annotations

import hashlib
import mmap
import re
import struct
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path, PurePath

from hybrid.errors import CannotRun, listed

PART = re.compile(r"(?P<name>.+)-(?P<number>\d{5})-of-(?P<count>(?!0000[01])\d{5})\.gguf")
SUFFIX = ".gguf"
VERSIONS = (2, 3)

MAX_HEADER = 256 * 1024**2
"""Bytes of a header that are read: the largest vocabularies take a tenth of that."""
MAX_KEYS = 1 << 16

VALUE_SIZES = {0: 1, 1: 1, 2: 2, 3: 2, 4: 4, 5: 4, 6: 4, 7: 1, 10: 8, 11: 8, 12: 8}
"""Bytes of a value, by the id of its type."""
UINT16, UINT32, INT32, STRING, ARRAY = 2, 4, 5, 8, 9
READ_KEYS = {"split.no": (UINT16, "<H"), "split.count": (UINT16, "<H"), "split.tensors.count": (INT32, "<i")}
READ_KEYS |= {"general.alignment": (UINT32, "<I")}
"""The keys that are read, of split models and of the tensors' alignment, with the types that llama.cpp requires."""
TEMPLATE = "tokenizer.chat_template"


@dataclass(frozen=True, slots=True)
class Header:
    """What the header of a GGUF says about splitting, and the chat template, "" for none.

    `count`: the number of parts, 1 for a model that is not split; `number`: the index of this part, from 0; `tensors`
    of this file, `tensors_of_all` of all parts.
    """

    count: int
    number: int
    tensors: int
    tensors_of_all: int
    template: str = ""


@dataclass(frozen=True, slots=True)
class Keys:
    """The keys of a header that was read: where they end, and the digest of all up to there."""

    end: int
    sha256: bytes
    values: Mapping[str, int]
    entries: tuple[tuple[str, int, int], ...]
    template: str


MOST_KNOWN = 32
_known: dict[str, Keys] = {}
"""By the name of the file: one command reads a header several times, and a vocabulary takes long."""


def read_header(path: Path) -> Header:
    """The header of a GGUF. Raises CannotRun when it is damaged or of an unknown version, OSError."""
    with opened_header(path) as reader:
        return reader.header()


@contextmanager
def opened_header(path: Path) -> Iterator[HeaderReader]:
    """A reader at the start of a GGUF. Raises CannotRun for what the block finds damaged, OSError."""
    with path.open("rb") as file:
        try:
            with mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as data:
                yield HeaderReader(data, str(path.absolute()))
        except (ValueError, struct.error) as error:  # ValueError: mmap raises it too, for an empty file
            raise CannotRun(
                f"{path}: the header of this GGUF is damaged: {error}", hint="is the file whole? fetch it again"
            ) from error


def parts_of(path: Path) -> list[Path]:
    """The files of the model whose first file is `path`, in order: `path` alone unless it is split.

    Raises CannotRun for a part that is not the first, parts that are missing or do not belong together, a name that
    contradicts the header, and a damaged header; OSError.
    """
    head, named = read_header(path), PART.fullmatch(path.name)
    count_in_name = int(named["count"]) if named else 1
    if head.count != count_in_name:
        raise _misnamed(path, head, count_in_name)
    if named is None or count_in_name == 1:
        return [path]
    files = [path.with_name(name) for name in names_of(named["name"], count_in_name)]
    if int(named["number"]) != head.number + 1:
        raise CannotRun(
            f"{path} is called part {int(named['number'])} of {count_in_name}, and its header says that it is "
            f"{head.number + 1}",
            hint="give the parts the names they had, or fetch the model again",
        )
    _refuse_missing(path, files)
    if path != files[0]:
        raise CannotRun(
            f"{path} is part {head.number + 1} of {count_in_name} of a split model, which is named by its first part",
            hint=f"--model {files[0]}",
        )
    _refuse_mixed_parts(files, head)
    return files


def models_in(files: Iterable[Path]) -> list[Path]:
    """The first file of each of the models in `files`: the parts of a split model are one model."""
    found: dict[tuple[str, ...], Path] = {}
    for file in sorted(files):
        part = PART.fullmatch(file.name)
        found.setdefault((part["name"], part["count"]) if part else (file.name,), file)
    return list(found.values())


def names_of(stem: str, count: int) -> list[str]:
    """The file names of a model of `count` parts."""
    if count == 1:
        return [f"{stem}{SUFFIX}"]
    return [f"{stem}-{number:05d}-of-{count:05d}{SUFFIX}" for number in range(1, count + 1)]


def stem_of(path: PurePath) -> str:
    """The name of a model's file without the suffix of a GGUF or of its part."""
    named = PART.fullmatch(path.name)
    return named["name"] if named else re.sub(rf"{re.escape(SUFFIX)}$", "", path.name, flags=re.IGNORECASE)


def _misnamed(path: Path, head: Header, count_in_name: int) -> CannotRun:
    if head.count > 1:
        return CannotRun(
            f"{path} is part {head.number + 1} of {head.count} of a split model, and its name does not say so",
            hint=f"llama.cpp looks for parts by their names: {names_of('NAME', head.count)[0]} and so on; "
            "llama-gguf-split --merge makes one file of them",
        )
    return CannotRun(
        f"{path} is called part of {count_in_name}, and its header says that it is a whole model",
        hint="if it is whole, give it another name",
    )


def _refuse_missing(path: Path, files: list[Path]) -> None:
    missing = [file.name for file in files if not file.is_file()]
    if missing:
        raise CannotRun(
            f"{path} is one of {len(files)} parts, and not all are there: {listed(missing)}",
            hint="put all parts of the model into one folder",
        )


def _refuse_mixed_parts(files: list[Path], head: Header) -> None:
    """Raise CannotRun when the parts were not made by one split."""
    heads = [head, *map(read_header, files[1:])]
    for number, (file, one) in enumerate(zip(files, heads, strict=True)):
        if (one.count, one.number) != (head.count, number):
            raise CannotRun(
                f"{file} says of itself that it is part {one.number + 1} of {one.count}, its name says another one",
                hint="fetch the model again",
            )
    tensors = sum(one.tensors for one in heads)
    if tensors != head.tensors_of_all:
        raise CannotRun(
            f"{files[0]} and its parts hold {tensors} tensors, and the model has {head.tensors_of_all}",
            hint="are the parts of different models? fetch them again",
        )


class HeaderReader:
    """Reads a header from its start, at most MAX_HEADER bytes. All methods raise ValueError, struct.error.

    The keys of a file `name` whose header was read before and is the same are not looked through again.
    """

    def __init__(self, data: mmap.mmap, name: str) -> None:
        self._data, self.at, self._name = data, 0, name
        self._end = min(len(data), MAX_HEADER)
        self._template = ""
        self.entries: list[tuple[str, int, int]] = []
        """Of each key that was read: its name, and the first and the last offset of its entry."""

    def header(self) -> Header:
        tensors, values = self.begin(), self.keys()
        template = self._template
        count, number = values.get("split.count", 1), values.get("split.no", 0)
        if not (count <= 1 or number < count):
            raise ValueError(f"it says that it is part {number + 1} of {count}")
        return Header(max(count, 1), number, tensors, values.get("split.tensors.count", tensors), template)

    def begin(self) -> int:
        """Read the beginning; returns the number of tensors. The keys come next."""
        magic, version, tensors = struct.unpack("<4sIQ", self.take(16))
        if magic != b"GGUF":
            raise ValueError("it does not start as a GGUF does")
        if version not in VERSIONS:
            raise ValueError(f"it is of version {version}, and versions 2 and 3 are known")
        return int(tensors)

    def keys(self) -> dict[str, int]:
        """Read all keys; returns the values of those in READ_KEYS. The tensors come next."""
        known = _known.get(self._name)
        if known and known.sha256 == self._digest(known.end):
            self.entries, self._template, self.at = list(known.entries), known.template, known.end
            return dict(known.values)
        values = self._read_keys()
        if len(_known) >= MOST_KNOWN:
            _known.clear()
        _known[self._name] = Keys(self.at, self._digest(self.at), dict(values), tuple(self.entries), self._template)
        return values

    def _digest(self, end: int) -> bytes:
        return hashlib.sha256(self._data[:end]).digest()

    def _read_keys(self) -> dict[str, int]:
        (keys,) = struct.unpack("<Q", self.take(8))
        if keys > MAX_KEYS:
            raise ValueError(f"it has {keys:,} keys, more than the {MAX_KEYS:,} allowed")
        values: dict[str, int] = {}
        for _ in range(keys):
            start, name = self.at, self.text()
            (kind,) = struct.unpack("<I", self.take(4))
            if name in READ_KEYS:
                values.setdefault(name, self._number(name, kind))
            elif (name, kind) == (TEMPLATE, STRING):
                self._template = self.text()
            else:
                self._skip(kind)
            self.entries.append((name, start, self.at))
        return values

    def text(self) -> str:
        return self._string().decode("utf-8", "replace")

    def between(self, start: int, end: int) -> bytes:
        """The bytes between two offsets."""
        return self._data[start:end]

    def _number(self, name: str, kind: int) -> int:
        wanted, form = READ_KEYS[name]
        if kind != wanted:
            raise ValueError(f"its {name} is not of the type that it must be")
        (value,) = struct.unpack(form, self.take(VALUE_SIZES[kind]))
        return int(value)

    def _skip(self, kind: int) -> None:
        if kind == STRING:
            self._string()
        elif kind == ARRAY:
            inner, length = struct.unpack("<IQ", self.take(12))
            if inner == STRING:
                self._skip_strings(length)
            else:
                self._advance(self._size(inner) * length)
        else:
            self._advance(self._size(kind))

    def _size(self, kind: int) -> int:
        if kind not in VALUE_SIZES:
            raise ValueError(f"it has a value of the unknown type {kind}")
        return VALUE_SIZES[kind]

    def _string(self) -> bytes:
        (length,) = struct.unpack("<Q", self.take(8))
        return self.take(length)

    def _skip_strings(self, count: int) -> None:
        """Skip strings in a tight loop: a large vocabulary has half a million of them."""
        length, data, at, last = struct.Struct("<Q").unpack_from, self._data, self.at, self._end - 8
        for _ in range(count):
            if at > last:
                raise ValueError("it is cut short, or longer than any header")
            at += 8 + length(data, at)[0]
        self.at = at
        self._advance(0)

    def take(self, size: int) -> bytes:
        start = self.at
        self._advance(size)
        return self._data[start : self.at]

    def _advance(self, size: int) -> None:
        self.at += size
        if self.at > self._end:
            raise ValueError("it is cut short, or longer than any header")
