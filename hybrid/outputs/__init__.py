"""outputs.json: the outputs of a run as one valid JSON document, written and read as a stream (docs/format.md)."""

from hybrid.outputs.file import (
    BEGINS,
    OutputsFile,
    grades_beside,
    grades_of,
    open_outputs,
    outputs_in,
    outputs_stem,
    path_beside,
    write_outputs,
)
from hybrid.outputs.stale import is_stale, stale_message, stale_words

__all__ = [
    "BEGINS",
    "OutputsFile",
    "grades_beside",
    "grades_of",
    "is_stale",
    "open_outputs",
    "outputs_in",
    "outputs_stem",
    "path_beside",
    "stale_message",
    "stale_words",
    "write_outputs",
]
