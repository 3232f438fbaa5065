"""Samples of lm-evaluation-harness (`--log_samples`): a row for each document and filter, numbers as texts."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from hybrid.canonical import Json
from hybrid.errors import UsageError
from hybrid.formats.inspect_scores import number_of, recorded
from hybrid.formats.lines import json_rows
from hybrid.formats.reading import Answer, BadRow, Found, Reading, id_of, plain, record, row_in
from hybrid.outputs.source import OutputsSource

KNOWN = frozenset({
    "doc_id", "doc", "target", "arguments", "resps", "filtered_resps", "filter", "metrics",
    "doc_hash", "prompt_hash", "target_hash", "schema_version",
})  # fmt: skip
"""Members of a row that are no metric."""

UNKNOWN = "model, task, settings, seeds, tokens, time, why a response ended"
"""What no samples file says; the results file beside it says some of it."""

NO_RESPONSE = ("no-output", "the row holds no response")


class LmEval:
    """A samples file of one task."""

    def __init__(self, source: OutputsSource, reading: Reading, *, one_filter: bool) -> None:
        self._source, self._reading, self._one_filter = source, reading, one_filter
        first = self._first()
        self._filter = reading.filter or (_filter(first) if one_filter else "")
        names = [f"{name},{_filter(first)}" for name in _metrics(first)]
        about = {"grader": "recorded", "format": "lm-eval samples", "scorers": names, "unknown": UNKNOWN}
        self.run: Mapping[str, Json] = {"about": {**about, "reducers": ["mean"]}}
        self.models: list[Json] = []

    def _first(self) -> dict[str, Any]:
        """The first row that can be read; empty without one."""
        for found in json_rows(self._source):
            try:
                return row_in(found.content)
            except BadRow:
                continue
        return {}

    def rows(self) -> Iterator[Found]:
        """The rows of all filters."""
        return json_rows(self._source)

    def records(self, content: Any) -> list[dict[str, Json]]:
        """The records of a row: one for each response of the document, the first of which has the scores.

        Rows of a filter that was not asked for have none. Raises BadRow, and UsageError when the texts of several
        filters would be graded together.
        """
        row = row_in(content)
        filter = _filter(row)
        if self._filter and filter != self._filter:
            if self._one_filter and not self._reading.filter:
                raise UsageError(
                    f"{self._source.name} has the responses of several filters: {self._filter!r:.80}, {filter!r:.80}",
                    hint="choose whose are graded: --filter NAME",
                )
            return []
        id = id_of(row.get("doc_id"), "doc_id")
        texts, view = _responses(row)
        scores = recorded(*_scores(row, filter))
        return [
            record(
                id,
                Answer(text, None if text is not None else NO_RESPONSE),
                key=f"{id}#{filter}#{number}",
                reference=plain(row.get("target")),
                view={**view, "filter": filter, **(scores if number == 0 else {})},
                sample=number,
            )
            for number, text in enumerate(texts)
        ]

    def lacks(self, rows: int) -> str:
        """Nothing is known of what there should be."""
        return "" if rows else "it holds no rows"


def _filter(row: Mapping[str, Any]) -> str:
    return str(row.get("filter", "none"))[:100]


def _metrics(row: Mapping[str, Any]) -> list[str]:
    named = row.get("metrics")
    if isinstance(named, list):
        return [name for name in named if isinstance(name, str)]
    return [name for name in row if name not in KNOWN]


def _scores(row: Mapping[str, Any], filter: str) -> tuple[dict[str, Json], dict[str, str]]:
    numbers: dict[str, Json] = {}
    reasons: dict[str, str] = {}
    for name in _metrics(row):
        number = number_of(row.get(name))
        if isinstance(number, str):
            reasons[f"{name},{filter}"] = number
        else:
            numbers[f"{name},{filter}"] = number
    return numbers, reasons


def _responses(row: Mapping[str, Any]) -> tuple[Sequence[str | None], dict[str, Json]]:
    """The responses of a document as texts, and what its requests show.

    Of a choice the text is the index of the continuation with the largest log-likelihood, which is what the target is;
    of a single log-likelihood it is empty, since nothing was written.
    """
    asked = _requests(row.get("arguments"))
    view: dict[str, Json] = {"question": asked[0][0]} if asked and isinstance(asked[0][0], str) else {}
    continuations = [one[1] for one in asked if len(one) > 1 and isinstance(one[1], str)]
    found = row.get("filtered_resps", row.get("resps"))
    found = found if isinstance(found, list) else []
    if asked and len(continuations) == len(asked):
        likelihoods = [_likelihood(one) for one in found]
        view |= {"choices": list(continuations), "likelihoods": list(likelihoods)}
        if len(asked) == 1 or len(likelihoods) != len(asked):
            return [""], view
        return [str(max(range(len(likelihoods)), key=likelihoods.__getitem__))], view
    texts = [one for listed in found for one in (listed if isinstance(listed, list) else [listed])]
    if asked and len(asked[0]) == 1:  # the log-likelihood of the whole text
        return [""], view
    if not all(isinstance(one, str) for one in texts):
        raise BadRow("its filtered_resps are no texts")
    return texts or [None], view


def _requests(arguments: Any) -> list[list[Any]]:
    """The arguments of each request, in any of the layouts that lm-eval has written."""
    if isinstance(arguments, dict):
        arguments = list(arguments.values())
    listed = arguments if isinstance(arguments, list) else []
    return [
        list(one.values()) if isinstance(one, dict) else one for one in listed if isinstance(one, dict | list) and one
    ]


def _likelihood(response: Any) -> float:
    """The log-likelihood in a pair of texts or numbers. Raises BadRow."""
    while isinstance(response, list) and response:
        response = response[0]
    number = number_of(response)
    if isinstance(number, str):
        if response in ("-inf", "-Infinity"):
            return -1e308
        raise BadRow(f"a log-likelihood is {response!r:.40}")
    return number
