"""A run as a pandas data frame. Needs pandas, so it is imported when it is asked for."""

from __future__ import annotations

from typing import Any

import pandas as pd

from hybrid.export.graded_run import GradedRun
from hybrid.export.table import Kind, cells_of, columns_of

DTYPES: dict[Kind, str] = {"text": "object", "whole": "int64", "number": "float64"}


def frame_of(run: GradedRun) -> Any:
    """A pandas.DataFrame with one row an output: texts as objects, None where one is missing; numbers with NaN."""
    columns = columns_of(run)
    held: list[list[Any]] = [[] for _ in columns]
    for row in run:
        for cells, cell in zip(held, cells_of(run, row), strict=True):
            cells.append(cell)
    named = zip(columns.items(), held, strict=True)
    return pd.DataFrame({name: pd.Series(cells, dtype=DTYPES[kind]) for (name, kind), cells in named})
