"""Tables that people bring, as streams of rows: JSON lines, a JSON array, CSV, TSV, Parquet (docs/prompts.md)."""

from hybrid.rows.reading import ENDINGS, read_rows, unit_of
from hybrid.rows.row import Row

__all__ = ["ENDINGS", "Row", "read_rows", "unit_of"]
