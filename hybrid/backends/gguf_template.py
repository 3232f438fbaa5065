"""The chat template in the header of a GGUF. llama.cpp does not tell a model without one: it writes chats in ChatML."""

from __future__ import annotations

import mmap
import struct
from pathlib import Path

KEY = b"tokenizer.chat_template"
STRING = 8
"""The number of the type."""

MOST_HEADER = 256 * 1024**2
MOST_TEMPLATE = 1024**2
"""Bytes. The longest templates have a tenth of that."""


def template_of(path: Path) -> str:
    """The model's chat template, empty when it has none. Raises OSError."""
    before = struct.pack("<Q", len(KEY)) + KEY + struct.pack("<I", STRING)  # as a header holds a name and a type
    with path.open("rb") as file, mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as data:
        at = data.find(before, 0, MOST_HEADER)
        if at < 0 or at + len(before) + 8 > len(data):
            return ""
        start = at + len(before) + 8
        (length,) = struct.unpack("<Q", data[start - 8 : start])
        return data[start : start + min(length, MOST_TEMPLATE)].decode("utf-8", "replace")
