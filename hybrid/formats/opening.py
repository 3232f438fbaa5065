"""Opens any outputs: our own files, and those of other tools, recognized by their content."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path

from hybrid.errors import BadData, HybridError, UsageError, nearest
from hybrid.formats.arc_submission import ArcSubmission
from hybrid.formats.helm import Helm
from hybrid.formats.imported import ImportedOutputs
from hybrid.formats.inspect_logs import InspectEval, InspectJson
from hybrid.formats.lm_eval import LmEval
from hybrid.formats.openai_batch import OpenAiBatch
from hybrid.formats.reading import USUAL, Format, Reading
from hybrid.formats.recognition import FORMATS, ZIP, recognized
from hybrid.formats.tables import Table
from hybrid.outputs import OutputsFile, outputs_in
from hybrid.outputs.source import OutputsSource, open_source

NO_ANSWERS: Mapping[str, Callable[[OutputsSource], HybridError]] = {
    "lm-eval:results": lambda source: BadData(
        f"{source.name}: results of lm-eval, which are means over each task: no answer, no score of a document",
        hint="name a samples_TASK_DATE.jsonl, as lm_eval writes with --log_samples",
    ),
    "openai-batch:input": lambda source: UsageError(
        f"{source.name}: the input of a batch, without answers", hint="name its output, and this file with --input"
    ),
    "arc-submission:solutions": lambda source: UsageError(
        f"{source.name}: solutions of ARC tasks, not attempts", hint="name the submission, and these with --input"
    ),
    "helm:statistics": lambda source: BadData(
        f"{source.name}: statistics or settings of HELM, without answers",
        hint="name the scenario_state.json beside it",
    ),
    "table:unnamed": lambda source: BadData(
        f"{source.name}: no JSON; if it is a table, its name does not say so",
        hint="call it NAME.csv or NAME.tsv, and name its column of answers: --column text=COLUMN",
    ),
}
"""Files that belong to a tool and hold no answers: what to say of them."""


def open_any(path: Path | str, reading: Reading = USUAL, *, one_filter: bool = False) -> OutputsFile:
    """Open outputs, or a file of another tool as outputs. `one_filter`: the texts are graded, so lm-eval's rows of
    several filters must not be mixed.

    Raises UsageError when there is no such file or a column is missing, BadData for a file that nothing here reads.
    """
    if reading.format not in ("", *FORMATS):
        raise UsageError(f"there is no format {reading.format!r:.60}", hint=nearest(reading.format, FORMATS))
    source = open_source(path)
    found = reading.format or recognized(source, reading)
    if found == "hybrid":
        return outputs_in(source)
    return ImportedOutputs(source, found, _opened(source, found, reading, one_filter=one_filter), reading)


def _opened(source: OutputsSource, found: str, reading: Reading, *, one_filter: bool) -> Format:
    """The file as that format. Raises BadData, UsageError for what has no answers in it."""
    if found in NO_ANSWERS:
        raise NO_ANSWERS[found](source)
    with source.open() as stream:
        begins = stream.peek(4)[:4]
    if found == "inspect":
        return InspectEval(source) if begins in ZIP else InspectJson(source)
    if found == "lm-eval":
        return LmEval(source, reading, one_filter=one_filter)
    if found == "openai-batch":
        return OpenAiBatch(source)
    if found == "arc-submission":
        return ArcSubmission(source)
    return Helm(source) if found == "helm" else Table(source, reading, json=begins[:1] in (b"{", b"["))
