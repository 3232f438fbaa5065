"""Where the numbers come from: settings, models and digests of every run, side by side."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from hybrid.canonical import encode
from hybrid.report.markup import Html, el
from hybrid.report.raw import cut
from hybrid.report.sources import ReportRun, Totals

LONGEST = 2000
"""Characters shown of one setting."""

UNKNOWN = "not recorded"


def provenance(sources: Sequence[ReportRun], totals: Sequence[Totals]) -> Html:
    """One table, a column a run; rows whose values differ between runs are marked."""
    columns = [_facts(source, total) for source, total in zip(sources, totals, strict=True)]
    names = list(dict.fromkeys(name for column in columns for name in column))
    head = el("tr", el("th", "", scope="col"), *(el("th", source.label, scope="col") for source in sources))
    rows = [_row(name, [column.get(name, "–") for column in columns]) for name in names]
    table = el("table", el("thead", head), el("tbody", *rows), cls="settings")
    return el("section", el("h2", "Settings and digests"), el("div", table, cls="scroll", tabindex="0"), id="settings")


def _row(name: str, values: Sequence[str]) -> Html:
    differs = len(set(values)) > 1
    cells = [el("td", cut(value, LONGEST)) for value in values]
    return el("tr", el("th", name, scope="row"), *cells, cls="differs" if differs else None)


def _facts(source: ReportRun, total: Totals) -> dict[str, str]:
    run = source.outputs.run
    facts = {
        "device": ", ".join(dict.fromkeys(_devices(source.outputs.models))) or UNKNOWN,
        "tokens in": f"{total.prompt_tokens:,}" if total.prompt_tokens else UNKNOWN,
        "tokens out": f"{total.completion_tokens:,}" if total.completion_tokens else UNKNOWN,
    }
    facts |= {
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
    facts["grader"] = source.grader or "none: not graded"
    if source.grades:
        facts |= _flat("grader", source.grades.settings)
    facts["outputs sha256"] = source.grades.outputs if source.grades else str(source.outputs.sha256)
    return facts | ({"grades sha256": source.grades.sha256} if source.grades else {})


def _devices(models: Sequence[Any]) -> Iterator[str]:
    """Where models ran, as they tell it."""
    for model in models:
        about = model.get("about") if isinstance(model, Mapping) else None
        if isinstance(about, Mapping) and about.get("device"):
            yield _said(about["device"])


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
