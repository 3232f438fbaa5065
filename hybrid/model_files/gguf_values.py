"""The single values in a GGUF's metadata and the lists of its tokenizer, read without a library for models."""

from __future__ import annotations

import struct
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from hybrid.model_files.gguf_files import ARRAY, MAX_KEYS, STRING, VALUE_SIZES, HeaderReader, opened_header

FORMS = {0: "<B", 1: "<b", 2: "<H", 3: "<h", 4: "<I", 5: "<i", 6: "<f", 7: "<?", 10: "<Q", 11: "<q", 12: "<d"}
"""How a value is packed, by the id of its type."""
MOST_WORDS = 1 << 22
"""Entries of a list: the largest vocabularies have a quarter of a million, and twice as many merges."""

Value = int | float | bool | str


@dataclass(frozen=True, slots=True)
class Metadata:
    """`values`: the keys with a single value. `lists`: those with texts or numbers, of the tokenizer alone."""

    values: dict[str, Value]
    lists: dict[str, list[str] | list[int]]

    def whole(self, key: str) -> int:
        """A whole number; 0 where it is not there or is none."""
        value = self.values.get(key)
        return value if isinstance(value, int) and not isinstance(value, bool) else 0


def metadata_of(path: Path, lists: tuple[str, ...] = ()) -> Metadata:
    """The metadata of a GGUF, with the `lists` of these names. Raises CannotRun when it is damaged, OSError."""
    with opened_header(path) as reader:
        reader.begin()
        reader.keys()
        return _metadata(reader, lists)


def _metadata(reader: HeaderReader, wanted: tuple[str, ...]) -> Metadata:
    found = Metadata({}, {})
    for name, start, end in reader.entries[:MAX_KEYS]:
        at = start + 8 + len(name.encode())
        (kind,) = struct.unpack("<I", reader.between(at, at + 4))
        data = reader.between(at + 4, end) if kind != ARRAY or name in wanted else b""
        if kind == ARRAY and data:
            found.lists[name] = _listed(data)
        elif kind == STRING:
            found.values[name] = data[8:].decode("utf-8", "replace")
        elif kind in FORMS:
            (found.values[name],) = struct.unpack_from(FORMS[kind], data)
    return found


def _listed(data: bytes) -> list[str] | list[int]:
    inner, length = struct.unpack_from("<IQ", data)
    if length > MOST_WORDS:
        raise ValueError(f"it has a list of {length:,} entries, more than the {MOST_WORDS:,} allowed")
    if inner == STRING:
        return list(_texts(data, length))
    size = VALUE_SIZES.get(inner, 0)
    if FORMS.get(inner, "<f")[1] in "fd" or 12 + size * length > len(data):
        return []
    return [int(one) for (one,) in struct.iter_unpack(FORMS[inner], data[12 : 12 + size * length])]


def _texts(data: bytes, count: int) -> Iterator[str]:
    length, at = struct.Struct("<Q").unpack_from, 12
    for _ in range(count):
        size = length(data, at)[0]
        yield data[at + 8 : at + 8 + size].decode("utf-8", "replace")
        at += 8 + size
