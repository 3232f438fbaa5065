"""Where the numbers come from: settings, models and digests of every run, side by side."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from hybrid.canonical import encode
from hybrid.report.markup import Html, el
from hybrid.report.raw import cut
from hybrid.report.sources import Source

LONGEST = 2000
"""Characters shown of one setting."""


def provenance(sources: Sequence[Source]) -> Html:
    """One table, a column a run; rows whose values differ between runs are marked."""
    columns = [_facts(source) for source in sources]
    names = list(dict.fromkeys(name for column in columns for name in column))
    head = el("tr", el("th", "", scope="col"), *(el("th", source.label, scope="col") for source in sources))
    rows = [_row(name, [column.get(name, "–") for column in columns]) for name in names]
    table = el("table", el("thead", head), el("tbody", *rows), cls="settings")
    return el("section", el("h2", "Settings and digests"), el("div", table, cls="scroll", tabindex="0"), id="settings")


def _row(name: str, values: Sequence[str]) -> Html:
    differs = len(set(values)) > 1
    cells = [el("td", cut(value, LONGEST)) for value in values]
    return el("tr", el("th", name, scope="row"), *cells, cls="differs" if differs else None)


def _facts(source: Source) -> dict[str, str]:
    run = source.outputs.run
    facts = {
        name: _said(run[name])
        for name in ("id", "pipeline", "backend", "model", "model_digest", "inputs", "references")
        if name in run
    }
    facts |= _flat("setting", run.get("settings"))
    facts |= _flat("about", run.get("about"))
    for model in source.outputs.models:
        facts |= _flat(
            f"model {_said(model.get('name', ''))}", {key: value for key, value in model.items() if key != "name"}
        )
    facts["grader"] = source.grades.grader
    facts |= _flat("grader", source.grades.settings)
    return facts | {"outputs sha256": source.grades.outputs, "grades sha256": source.grades.sha256}


def _flat(prefix: str, values: Any, levels: int = 2) -> dict[str, str]:
    """Nested settings as dotted rows, two levels deep; what lies deeper is shown as JSON."""
    if values is None:
        return {}
    if not isinstance(values, Mapping) or not values or not levels:
        return {prefix: _said(values)}
    flat: dict[str, str] = {}
    for name, value in values.items():
        flat |= _flat(f"{prefix} · {name}", "null" if value is None else value, levels - 1)
    return flat


def _said(value: Any) -> str:
    return value if isinstance(value, str) else encode(value).decode()
