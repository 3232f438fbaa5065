"""Tables of the report: what guards found, the methods beside their controls, clients, and that training happened."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from hybrid.metrics import UNKNOWN, UNTESTED, Interval
from hybrid.report.formatting import count_of, interval_text, percent, signed
from hybrid.report.line_charts import number
from hybrid.report.markup import Html, el, join
from hybrid.report.output_texts import truncated
from pipelines.atlas.comparison import (
    ACCURACY,
    CONTROLS,
    F1,
    MAJORITY,
    MAJORITY_F1,
    MCC,
    TRAFFIC,
    WORST,
    Comparison,
    Figure,
    Summary,
)
from pipelines.atlas.exports import verdict
from pipelines.atlas.guards import VOID, Finding

MOST_FINDINGS = 30
MOST_CLIENTS = 40
"""Clients with a column of their own."""
LONGEST = 300
WATCHED = (
    "No guard was tripped: no two methods are equal to the bit, every client's weights changed in every round that it "
    "trained in, clients hold what the server sent, no two fingerprints are equal, no round is missing, and every "
    "method is above the most frequent label."
)
ROWS = (
    "Accuracy, F1 and MCC are of the last round on the tasks' dev rows, the mean over clients of the model that each "
    "holds; the worst client is by its own held-out rows. "
)
SEEDS = (
    "Differences are in percentage points, paired by seed. A seed counts once, since its clients share models and "
    "rows: intervals are Student's t over seeds, 95 %, and better and worse are said where that of the difference does "
    "not hold 0. They are not corrected for the number of methods: statistical_tests.csv has Holm's correction."
)
ONE_SEED = (
    "With one seed nothing is known of other seeds: there are no intervals, and a difference is told by the own rows "
    "of its clients alone (Student's t over clients, 95 %). Three or more seeds tell more: --set seeds=0,1,2."
)
UNTIL = (
    "Mean over seeds, until the mean accuracy on clients' own held-out rows is reached for the first time; nothing for "
    "a method that does not get there with every seed. The accuracy is what every seed of fedavg-lora (else of local) "
    "ends with, unless the grader was given another target."
)
EVIDENCE = (
    "Optimizer steps of all clients, seeds and rounds; the least that training changed a client's update in any round "
    "(Frobenius norm; 0 would be a fault); the mean training loss of the first and the last round; updates that were "
    "left out, since they were late or cannot be used; the largest relative error of an aggregation against the exact "
    "sum."
)


def guards(found: Sequence[Finding]) -> Html:
    """What the guards found, faults first."""
    if not found:
        return el("p", WATCHED, cls="note atlas-sound")
    shown = [
        el("li", el("b", one.weight, cls=one.weight), " ", truncated(one.text, LONGEST))
        for one in found[:MOST_FINDINGS]
    ]
    if left := len(found) - len(shown):
        shown.append(el("li", f"{count_of(left, 'more finding')}", cls="none"))
    weights = {one.weight for one in found}
    said = "A fault or a missing round takes the score from its series, and the series out of every comparison."
    said = said if weights & set(VOID) else ""
    kind = "atlas-guards" if "fault" in weights else "atlas-guards mild"
    return el("div", el("ul", *shown), el("p", said, cls="note") if said else Html(""), cls=kind)


def methods(comparison: Comparison) -> Html:
    """A row for each method: its figures, and the differences to the controls."""
    figures = [ACCURACY, F1, *([MCC] if comparison.mcc_asked() else []), WORST, TRAFFIC]
    controls = [name for name in CONTROLS if comparison.sound(name)]
    names = ["accuracy", *(one.name for one in figures[1:-1]), "MB in all", *(f"minus {name}" for name in controls)]
    names[names.index(WORST.name)] = "worst client"
    head = el("tr", el("th", "", scope="col"), *(el("th", name, scope="col", cls="n") for name in names))
    rows = [_method(comparison, method, figures, controls, names) for method in comparison.methods]
    majority = _majority(comparison, names)
    table = el("table", el("thead", head), el("tbody", *rows, majority), cls="atlas-methods atlas-stack")
    return join([table, el("p", _reading(comparison), cls="note")])


def _method(
    comparison: Comparison, method: str, figures: Sequence[Figure], controls: Sequence[str], names: Sequence[str]
) -> Html:
    sound, every = comparison.sound(method), [one for one in comparison.series if one.method == method]
    label = el("th", method, el("small", _seeds(len(sound), len(every))), scope="row")
    if not sound:
        return el("tr", label, el("td", "not compared: see above", colspan=len(names), cls="none"), cls="void")
    cells = [_figure(comparison.summary(method, one), one) for one in figures]
    cells += [_difference(comparison, method, control) for control in controls]
    labelled = [el("td", cell, cls="n", data_label=name) for cell, name in zip(cells, names, strict=True)]
    return el("tr", label, *labelled)


def _seeds(sound: int, every: int) -> str:
    return count_of(sound, "seed") if sound == every else f"{sound} of {count_of(every, 'seed')}"


def _figure(found: Summary | None, figure: Figure) -> Html:
    if found is None:
        return Html("–")
    if figure in (MCC, TRAFFIC):
        value = number(float(f"{found.mean:.3g}")) if figure is TRAFFIC else f"{found.mean:.2f}".replace("-", "−")
        return join([el("b", value), el("small", _range(found.interval)) if found.interval else ""])
    return join([el("b", percent(found.mean)), el("small", interval_text(found.interval)) if found.interval else ""])


def _range(interval: Interval) -> str:
    return f"{interval[0]:.2f} – {interval[1]:.2f}".replace("-", "−")


def _difference(comparison: Comparison, method: str, control: str) -> Html:
    """Percentage points, paired by seed; of one seed by the own rows of its clients."""
    found = comparison.paired(method, control)
    if found is None:
        return Html("–")
    if found.interval:
        low, high = found.interval
        said = verdict(found)
        return join([el("b", signed(found.mean)), el("small", f"{signed(low)} – {signed(high)}"), _badge(said)])
    own = comparison.paired_by_client(method, control) if found.n == 1 else None
    if own is None:
        return join([el("b", signed(found.mean)), _badge(UNTESTED)])
    told = UNKNOWN if own.low <= 0 <= own.high else "better" if own.mean > 0 else "worse"
    by_client = f"own rows {signed(own.mean)} ({signed(own.low)} – {signed(own.high)})"
    return join([el("b", signed(found.mean)), el("small", by_client), _badge(told)])


def tasks(comparison: Comparison) -> Html:
    """Of several tasks, the metric that each is judged by, method by method; nothing with one task."""
    figures = comparison.by_task()
    if not figures:
        return Html("")
    names = [one.name for one in figures.values()]
    head = el("tr", el("th", "", scope="col"), *(el("th", name, scope="col", cls="n") for name in names))
    rows = []
    for method in comparison.methods:
        cells = [_by_task(comparison.summary(method, one), one.name) for one in figures.values()]
        rows.append(el("tr", el("th", method, scope="row"), *cells))
    usual = [_usual(comparison, task, one.name) for task, one in figures.items()]
    rows.append(el("tr", el("th", "most frequent label", el("small", "no model"), scope="row"), *usual, cls="control"))
    return el("table", el("thead", head), el("tbody", *rows), cls="atlas-methods atlas-stack atlas-tasks")


def _by_task(found: Summary | None, name: str) -> Html:
    if found is None:
        return el("td", "–", cls="n", data_label=name)
    said = el("small", _range(found.interval)) if found.interval else Html("")
    return el("td", el("b", f"{found.mean:.3f}".replace("-", "−")), said, cls="n", data_label=name)


def _usual(comparison: Comparison, task: str, name: str) -> Html:
    figure = comparison.majority_of(task)
    found = [one for method in comparison.methods if figure and (one := comparison.summary(method, figure))]
    said = "0" if comparison.metrics.get(task) == "mcc" else f"{found[0].mean:.3f}" if found else "–"
    return el("td", said, cls="n", data_label=name)


def _badge(said: str) -> Html:
    return el("i", said, cls={"better": "better", "worse": "worse"}.get(said, "even"))


def _majority(comparison: Comparison, names: Sequence[str]) -> Html:
    """The answer that is always the same, on the same rows."""
    known = [(one, name) for name, one in (("accuracy", MAJORITY), ("F1", MAJORITY_F1))]
    found = {}
    for figure, name in known:
        summaries = [one for method in comparison.methods if (one := comparison.summary(method, figure))]
        if summaries:
            found[name] = percent(summaries[0].mean)
    if "MCC" in names:
        found["MCC"] = "0"
    cells = [el("td", found.get(name, "–"), cls="n", data_label=name) for name in names]
    return el("tr", el("th", "most frequent label", el("small", "no model"), scope="row"), *cells, cls="control")


def _reading(comparison: Comparison) -> str:
    seeds = max((len(comparison.sound(method)) for method in comparison.methods), default=0)
    return ROWS + (SEEDS if seeds > 1 else ONE_SEED)


def until(comparison: Comparison) -> Html:
    """What each method spends until it reaches the target accuracy, and in how many of its seeds it does."""
    figures = comparison.until()
    if not figures:
        return Html("")
    names = ("reached", *(one.name.partition(" until")[0] for one in figures))
    head = el("tr", el("th", "", scope="col"), *(el("th", name, scope="col", cls="n") for name in names))
    rows = []
    for method in comparison.methods:
        reached, seeds = comparison.reached(method)
        cells = [f"{reached} of {count_of(seeds, 'seed')}"]
        cells += [number(found.mean) if (found := comparison.summary(method, one)) else "–" for one in figures]
        labelled = [el("td", cell, cls="n", data_label=name) for cell, name in zip(cells, names, strict=True)]
        rows.append(el("tr", el("th", method, scope="row"), *labelled))
    table = el("table", el("thead", head), el("tbody", *rows), cls="atlas-methods atlas-stack")
    title = f"Until an accuracy of {percent(comparison.target)}"
    return join([el("h3", title), table, el("p", UNTIL, cls="note")])


def clients(comparison: Comparison, truth: Mapping[str, str]) -> Html:
    """How accurate the model of each client is on the client's own rows: methods are rows, clients are columns."""
    own = {name: _by_client(comparison, name) for name in comparison.methods}
    names = sorted(
        {client for values in own.values() for client in values}, key=lambda name: (truth.get(name, ""), name)
    )
    if not names:
        return Html("")
    shown = names[:MOST_CLIENTS]
    known = [value for values in own.values() for value in values.values()]
    low, high = min(known), max(known)
    rows = [
        el("tr", el("th", method, scope="row"), *(_cell(values.get(name), low, high) for name in shown))
        for method, values in own.items()
        if values
    ]
    heads = [el("tr", el("th", "", scope="col"), *_task_heads(shown, truth))] if truth else []
    heads.append(
        el(
            "tr",
            el("th", "", scope="col"),
            *(el("th", name.removeprefix("client-"), scope="col", cls="n") for name in shown),
        )
    )
    table = el("table", el("thead", *heads), el("tbody", *rows), cls="atlas-heat")
    left = f" {count_of(len(names) - len(shown), 'more client')} not shown." if len(names) > len(shown) else ""
    said = f"Percent of a client's own held-out rows, last round, mean over seeds; the more colour, the better.{left}"
    return join([el("h3", "Clients"), el("div", table, cls="scroll", tabindex="0"), el("p", said, cls="note")])


def _task_heads(names: Sequence[str], truth: Mapping[str, str]) -> list[Html]:
    heads, start = [], 0
    for place in range(1, len(names) + 1):
        if place == len(names) or truth.get(names[place], "") != truth.get(names[start], ""):
            heads.append(el("th", truth.get(names[start], ""), scope="colgroup", colspan=place - start))
            start = place
    return heads


def _by_client(comparison: Comparison, method: str) -> dict[str, float]:
    found: dict[str, list[float]] = {}
    for one in comparison.sound(method):
        for name, metrics in one.clients.items():
            if "accuracy" in metrics:
                found.setdefault(name, []).append(metrics["accuracy"])
    return {name: sum(values) / len(values) for name, values in found.items()}


def _cell(value: float | None, low: float, high: float) -> Html:
    if value is None:
        return el("td", "–", cls="n")
    step = int(9 * (value - low) / (high - low)) if high > low else 0
    return el("td", f"{100 * value:.0f}", cls=f"n h{min(9, max(0, step))}")


def evidence(comparison: Comparison) -> Html:
    """What shows that clients were trained: steps, changed weights, falling losses."""
    names = ("steps", "least change", "training loss", "left out", "error of aggregation")
    head = el("tr", el("th", "", scope="col"), *(el("th", name, scope="col", cls="n") for name in names))
    rows = [_evidence(comparison, method, names) for method in comparison.methods]
    table = el("table", el("thead", head), el("tbody", *rows), cls="atlas-methods atlas-stack")
    return join([el("h3", "Training happened"), table, el("p", EVIDENCE, cls="note")])


def _evidence(comparison: Comparison, method: str, names: Sequence[str]) -> Html:
    own = [one for one in comparison.series if one.method == method]
    moved = [one.moved for one in own if one.moved is not None]
    losses = [curve for one in own if (curve := list(one.curve("train_loss").values()))]
    errors = [value for one in own for value in one.curve("aggregation_error").values()]
    change = f"{_mean([one[0] for one in losses])} → {_mean([one[-1] for one in losses])}" if losses else "–"
    cells = (
        f"{sum(one.steps for one in own):,.0f}", number(min(moved)) if moved else "–", change,
        f"{sum(one.left_out for one in own):,}", number(max(errors)) if errors else "–",
    )  # fmt: skip
    labelled = [el("td", cell, cls="n", data_label=name) for cell, name in zip(cells, names, strict=True)]
    return el("tr", el("th", method, scope="row"), *labelled)


def _mean(values: Sequence[float]) -> str:
    return number(sum(values) / len(values))
