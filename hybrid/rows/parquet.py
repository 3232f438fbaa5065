"""Rows of a Parquet file, read by pyarrow a few rows at a time."""

from __future__ import annotations

import datetime as dt
import math
from collections.abc import Iterator, Mapping
from decimal import Decimal
from typing import Any

from hybrid.canonical import Json
from hybrid.machine.files import explain_errors
from hybrid.machine.late_imports import import_object
from hybrid.rows.row import Faults, Row

BATCH = 64
"""Rows that are decoded at once."""
HINT = "is it a whole Parquet file? copy or write it again"


class _NotJson(Exception):
    """A cell holds what JSON has no word for."""


def parquet_rows(faults: Faults) -> Iterator[Row]:
    """The rows of the file. Times and dates are texts (ISO 8601), decimals are texts, NaN is null.

    Raises CannotRun without pyarrow, BadData for a damaged file.
    """
    opened = import_object("pyarrow.parquet:ParquetFile", needed_for=f"reading {faults.path.name}")
    damage = import_object("pyarrow:ArrowException", needed_for=f"reading {faults.path.name}")
    return _rows(faults, opened, damage)


def _rows(faults: Faults, opened: Any, damage: type[Exception]) -> Iterator[Row]:
    number = 0
    with explain_errors(faults.path, doing="reading it"), faults.path.open("rb") as stream:
        try:
            for batch in opened(stream).iter_batches(batch_size=BATCH, use_threads=False):
                for values in batch.to_pylist():
                    number += 1
                    yield from _row(number, values, faults)
        except (damage, OSError, UnicodeDecodeError) as error:
            if isinstance(error, OSError) and error.errno:
                raise
            raise faults.fatal(number + 1, f"cannot be read: {error!s:.200}", HINT) from error


def _row(number: int, values: Mapping[str, Any], faults: Faults) -> Iterator[Row]:
    try:
        row = faults.row(number, {name: _plain(value) for name, value in values.items()})
    except _NotJson as error:
        faults.found(number, str(error))
    else:
        yield row


def _plain(value: Any) -> Json:
    """A cell as JSON has it. Raises _NotJson."""
    if value is None or isinstance(value, bool | int | str):
        return value
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    if isinstance(value, Mapping):
        return {str(name): _plain(one) for name, one in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(one) for one in value]
    if isinstance(value, dt.date | dt.time):
        return value.isoformat()
    if isinstance(value, Decimal | dt.timedelta):
        return str(value)
    raise _NotJson(f"holds {type(value).__name__}, not text, numbers or lists of them")
