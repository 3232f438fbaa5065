"""Vectors as text: base64 of little-endian float32, which is what a record keeps of an embedding."""

from __future__ import annotations

import base64
import binascii
import math
import sys
from array import array
from collections.abc import Iterable
from typing import Any

MOST_DIMENSIONS = 65_536
WIDTH = 4
"""Bytes of a number."""


def rounded(vector: Iterable[float]) -> tuple[float, ...]:
    """The vector as float32 holds it, so that it is the same before it was written and after it was read."""
    return tuple(array("f", vector))


def base64_of(vector: Iterable[float]) -> str:
    """The text of a vector."""
    numbers = array("f", vector)
    if sys.byteorder == "big":
        numbers.byteswap()
    return base64.b64encode(numbers.tobytes()).decode()


def vector_in(text: Any) -> tuple[float, ...]:
    """The vector in a text. Raises ValueError for what is none: no base64, no number in it, one that is not finite."""
    if not isinstance(text, str) or not 0 < len(text) <= 2 * WIDTH * MOST_DIMENSIONS:
        raise ValueError("a vector is a base64 text of 1 to 65,536 numbers of 32 bits")
    try:
        data = base64.b64decode(text, validate=True)
    except (binascii.Error, ValueError) as error:
        raise ValueError(f"a vector is not base64: {error}") from error
    if not data or len(data) % WIDTH or len(data) > WIDTH * MOST_DIMENSIONS:
        raise ValueError(f"a vector has {len(data):,} bytes, which are not 1 to 65,536 numbers of 32 bits")
    numbers = array("f", data)
    if sys.byteorder == "big":
        numbers.byteswap()
    if not math.isfinite(math.fsum(numbers)):
        raise ValueError("a vector holds a number that is not finite")
    return tuple(numbers)
