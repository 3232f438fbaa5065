"""A run as a Parquet file. Needs pyarrow, so it is imported when it is asked for."""

from __future__ import annotations

from typing import Any, BinaryIO

import pyarrow as pa
from pyarrow import parquet

from hybrid.export.graded_run import GradedRun
from hybrid.export.table import Cell, Kind, cells_of, columns_of

MOST_ROWS = 10_000
"""Rows of a group, which are in memory together."""
MOST_CHARACTERS = 16 * 1024 * 1024
"""Characters of texts after which a group is closed."""


def write_parquet(run: GradedRun, stream: BinaryIO) -> list[str]:
    """One row an output in row groups, packed with zstd. The same version of pyarrow writes the same bytes."""
    types: dict[Kind, Any] = {"text": pa.string(), "whole": pa.int64(), "number": pa.float64()}
    schema = pa.schema([(name, types[kind]) for name, kind in columns_of(run).items()])
    with parquet.ParquetWriter(stream, schema, compression="zstd") as writer:
        rows: list[list[Cell]] = []
        characters = 0
        for row in run:
            rows.append(cells := cells_of(run, row))
            characters += sum(len(cell) for cell in cells if isinstance(cell, str))
            if len(rows) == MOST_ROWS or characters > MOST_CHARACTERS:
                writer.write_table(_table(schema, rows))
                rows, characters = [], 0
        if rows:
            writer.write_table(_table(schema, rows))
    return []


def _table(schema: Any, rows: list[list[Cell]]) -> Any:
    columns = zip(schema, zip(*rows, strict=True), strict=True)
    return pa.Table.from_arrays([pa.array(cells, type=one.type) for one, cells in columns], schema=schema)
