"""Provenance of the numbers: settings, models, digests and timing of every run, side by side."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from hybrid.canonical import encode
from hybrid.errors import HybridError
from hybrid.execution.timing import timing_of
from hybrid.folder.runs import join_folder, open_run
from hybrid.plan.prediction import predicted
from hybrid.report.markup import Html, el
from hybrid.report.output_texts import truncated
from hybrid.report.sources import ReportRun, Totals

MAX_LENGTH = 2000
"""Most characters shown of one setting."""

UNKNOWN = "not recorded"

CPU = "cpu"
MIN_SECONDS = 10.0
"""Seconds below which no speed is shown: the start of an attempt is known to the second only."""


def provenance(sources: Sequence[ReportRun], totals: Sequence[Totals]) -> Html:
    """A table with a column per run; rows whose values differ between runs are marked."""
    columns = [_facts(source, total) for source, total in zip(sources, totals, strict=True)]
    names = list(dict.fromkeys(name for column in columns for name in column))
    head = el("tr", el("th", "", scope="col"), *(el("th", source.label, scope="col") for source in sources))
    rows = [_row(name, [column.get(name, "–") for column in columns]) for name in names]
    table = el("table", el("thead", head), el("tbody", *rows), cls="settings")
    return el("section", el("h2", "Settings and digests"), el("div", table, cls="scroll", tabindex="0"), id="settings")


def _row(name: str, values: Sequence[str]) -> Html:
    differs = len(set(values)) > 1
    cells = [el("td", truncated(value, MAX_LENGTH)) for value in values]
    return el("tr", el("th", name, scope="row"), *cells, cls="differs" if differs else None)


def _facts(source: ReportRun, total: Totals) -> dict[str, str]:
    run = source.outputs.run
    facts = _computed(source, total)
    facts |= {
        name: _as_text(run[name])
        for name in ("id", "pipeline", "backend", "model", "model_digest", "inputs", "references")
        if name in run
    }
    facts |= _flat("setting", run.get("settings"))
    facts |= _flat("models", _by_role(run.get("models")))
    facts |= _flat("about", run.get("about"))
    for model in source.outputs.models:
        role = f"{_as_text(model['role'])} " if model.get("role") else ""
        named = f"model {role}{_as_text(model.get('name', ''))}"
        facts |= _flat(named, {key: value for key, value in model.items() if key not in ("name", "role")})
    facts["grader"] = source.grader or "none: not graded"
    if source.grades:
        facts |= _flat("grader", source.grades.settings)
    facts["outputs sha256"] = source.grades.outputs if source.grades else str(source.outputs.sha256)
    return facts | ({"grades sha256": source.grades.sha256} if source.grades else {})


def _computed(run: ReportRun, total: Totals) -> dict[str, str]:
    """Date, wall time, device, tokens and speed of a run, where they were recorded (docs/report.md)."""
    name = run.outputs.run.get("id")
    timing = timing_of(run.folder, name) if run.folder and isinstance(name, str) else None
    found = timing or total
    facts = {"date": UNKNOWN, "wall time": UNKNOWN, "tokens a second": UNKNOWN}
    if timing:
        began, ended = min(span[0] for span in timing.spans.values()), max(span[1] for span in timing.spans.values())
        facts["date"] = f"{began:%Y-%m-%d %H:%M} to {ended:%Y-%m-%d %H:%M} UTC"
        facts["wall time"] = f"{timing.seconds:,.0f} s"
        if timing.completion_tokens:
            rate = timing.completion_tokens / max(timing.seconds, MIN_SECONDS)
            facts["tokens a second"] = f"{rate:,.1f} out" if timing.seconds >= MIN_SECONDS else "run too short"
    stages, devices = " (all stages)" if timing else "", list(dict.fromkeys(_devices(run.outputs.models)))
    return {
        **facts,
        **({"planned": planned} if (planned := _planned(run, devices)) else {}),
        "device": ", ".join(devices) or UNKNOWN,
        "tokens in": f"{found.prompt_tokens:,}{stages}" if found.prompt_tokens else UNKNOWN,
        "tokens out": f"{found.completion_tokens:,}{stages}" if found.completion_tokens else UNKNOWN,
    }


def _planned(run: ReportRun, devices: Sequence[str]) -> str:
    """What was to be expected of the run on its GPU; "" where that cannot be told.

    Of a CPU it depends on the machine that asks, and a page does not.
    """
    name = run.outputs.run.get("id")
    gpus = [device for device in devices if device != CPU]
    if run.folder is None or not isinstance(name, str) or not gpus:
        return ""
    try:
        plan = predicted(open_run(join_folder(run.folder, make=False), name), gpus[0])
    except HybridError:
        return ""
    return "; ".join(plan.lines()) if plan and plan.seconds.high else ""


def _by_role(models: Any) -> Any:
    """The models of a run by role, from a list or an object; the first model has no role."""
    if isinstance(models, list):
        named = [one for one in models if isinstance(one, Mapping)]
        models = {str(one.get("role", "")): {key: one[key] for key in one if key != "role"} for one in named}
    return {role or "first": model for role, model in models.items()} if isinstance(models, Mapping) else models


def _devices(models: Sequence[Any]) -> Iterator[str]:
    """The devices of the models, as their backends report them."""
    for model in models:
        about = model.get("about") if isinstance(model, Mapping) else None
        if isinstance(about, Mapping) and about.get("device"):
            yield _as_text(about["device"])


def _flat(prefix: str, values: Any, levels: int = 2) -> dict[str, str]:
    """Nested settings as rows `a · b`, two levels deep; deeper ones are shown as JSON."""
    if values is None:
        return {}
    if not isinstance(values, Mapping) or not values or not levels:
        return {prefix: _as_text(values)}
    flat: dict[str, str] = {}
    for name, value in values.items():
        flat |= _flat(f"{prefix} · {name}", "null" if value is None else value, levels - 1)
    return flat


def _as_text(value: Any) -> str:
    return value if isinstance(value, str) else encode(value).decode()
