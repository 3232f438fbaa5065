"""One JSON document as a stream of members and elements, each a whole value; NaN and infinities are numbers.

ijson refuses NaN, which inspect and lm-eval write, and makes an event of every token: the decoder of the standard
library, called at the place where a value begins, reads the same samples several times as fast. Faster still is orjson,
which has to be told where a value ends: an indented object ends with the first brace that is indented as its first one,
since no text in JSON holds a line break. What orjson does not take as a whole is left to the other. As in
`reading.parsed`, a whole number beyond 64 bits may become a float.
"""

from __future__ import annotations

import codecs
import json
from collections.abc import Iterator
from contextlib import suppress
from typing import Any, BinaryIO

import orjson

from hybrid.errors import BadData
from hybrid.formats.reading import LARGEST

PIECE = 1024 * 1024
SPACE = " \t\n\r"
NEAR = 16
"""A value that is invalid this near to the end of what was read may only be cut there."""
DEEPEST = 200
"""Most characters by which an object is indented that is read the fast way."""
HINT = "is the file whole? copy it again"


class JsonStream:
    """Reads a document from its start. `name` is for messages."""

    def __init__(self, stream: BinaryIO, name: str) -> None:
        self._stream, self._name = stream, name
        self._decoder = codecs.getincrementaldecoder("utf-8")()
        self._scan = json.JSONDecoder().raw_decode
        self._text, self._at, self._ended = "", 0, False
        self._untaken = False  # the caller has not read the value of the member yet

    def begins(self) -> str:
        """The next character that is no space; "" at the end."""
        while True:
            rest = self._text[self._at : self._at + NEAR].lstrip(SPACE)
            if rest:
                self._at = self._text.index(rest[0], self._at)
                return rest[0]
            self._at = min(self._at + NEAR, len(self._text))
            if self._at == len(self._text) and not self._more():
                return ""

    def members(self) -> Iterator[str]:
        """The names in the object that begins here. A value that the caller does not read is passed over."""
        seen: set[str] = set()
        for _ in self._parts("{", "}"):
            name = self.value()
            if not isinstance(name, str) or self.begins() != ":":
                raise self._wrong("no name and colon where an object's member begins")
            if name in seen:
                raise self._wrong(f"the key {name!r:.60} is there twice")
            seen.add(name)
            self._at += 1
            self._untaken = True
            yield name
            if self._untaken:
                self.skip()

    def elements(self) -> Iterator[Any]:
        """The values in the array that begins here."""
        self._untaken = False
        end = ""
        for _ in self._parts("[", "]"):
            end = end or self._end_of_indented()
            yield self._indented(end) if end else self.value()

    def skip(self) -> None:
        """Pass over the next value; of an array one element after the other is held."""
        self._untaken = False
        if self.begins() == "[":
            for _ in self.elements():
                pass
        else:
            self.value()

    def end(self) -> None:
        """Raise BadData when anything follows."""
        if self.begins():
            raise self._wrong("goes on after the end of the document")

    def value(self) -> Any:
        """The next value, whole. Raises BadData when it is invalid, cut, or has more than LARGEST bytes."""
        self._untaken = False
        self.begins()
        while True:
            try:
                value, end = self._scan(self._text, self._at)
            except RecursionError as error:
                raise self._wrong("nested too deep") from error
            except ValueError as error:
                if not self._may_be_cut(error):
                    raise self._wrong(f"not valid JSON: {error!s:.100}") from error
            else:
                # a number may go on: 12 as 12.5e3
                if self._text[end - 1] in '"]}' or end + NEAR <= len(self._text) or not self._more():
                    self._at = end
                    return value
                continue
            if len(self._text) - self._at > LARGEST:
                raise self._wrong(f"a value of more than the {LARGEST:,} bytes allowed")
            if not self._more():
                raise self._wrong("ends in the middle")

    def _end_of_indented(self) -> str:
        """How the object that begins here ends if it is indented; "" where it is not."""
        if self.begins() != "{":
            return ""
        start = max(0, self._at - DEEPEST)
        _, line, indent = self._text[start : self._at].rpartition("\n")
        return f"\n{indent}}}" if line and not indent.strip(SPACE) else ""

    def _indented(self, end: str) -> Any:
        """The next value, which may be an object that ends with `end`. Raises as `value` does."""
        self.begins()
        found = self._text.find(end, self._at)
        if found < 0 and self._more():
            found = self._text.find(end, self._at)
        if 0 <= found < self._at + LARGEST:
            with suppress(orjson.JSONDecodeError):  # NaN, a lone surrogate, or no such object
                value = orjson.loads(self._text[self._at : found + len(end)])
                self._at = found + len(end)
                return value
        return self.value()

    def _parts(self, opens: str, closes: str) -> Iterator[None]:
        """One None before each member or element; reads the brackets and commas between them."""
        if self.begins() != opens:
            raise self._wrong(f"no {opens} where one is needed")
        self._at += 1
        if self.begins() == closes:
            self._at += 1
            return
        while True:
            yield None
            mark = self.begins()
            self._at += 1
            if mark == closes:
                return
            if mark != ",":
                raise self._wrong("ends in the middle" if not mark else f"{mark!r} where a comma is needed")

    def _may_be_cut(self, error: ValueError) -> bool:
        """Whether more of the text could make the value valid."""
        if not isinstance(error, json.JSONDecodeError):
            return False
        return error.msg.startswith("Unterminated string") or error.pos >= len(self._text) - NEAR

    def _more(self) -> bool:
        """Read at least as much as is left, so that a long value is scanned a few times only; False at the end."""
        if self._ended:
            return False
        left = self._text[self._at :]
        data = self._stream.read(max(PIECE, len(left)))
        try:
            text = self._decoder.decode(data, final=not data)
        except UnicodeDecodeError as error:
            raise self._wrong("not UTF-8") from error
        if data:
            self._text, self._at = left + text, 0
        self._ended = not data
        return bool(data)

    def _wrong(self, what: str) -> BadData:
        return BadData(f"{self._name}: {what}", hint=HINT)
