"""The variants of a run of `cvfp` on the page: the ladder of controls, the guide's criteria, curves of both phases."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from contextlib import closing
from dataclasses import dataclass
from statistics import fmean
from typing import ClassVar

from hybrid.metrics import Interval
from hybrid.report.formatting import count_of, percent
from hybrid.report.line_charts import Line, line_chart
from hybrid.report.markup import Html, el, join
from hybrid.report.output_texts import truncated
from hybrid.report.section import Measure, Section
from hybrid.report.sources import ReportRun
from pipelines.cvfp.results import (
    SERIES,
    Trained,
    criteria,
    difference,
    fixed_point,
    names_of,
    read,
    summary_of_best,
    sweeps_until_exact,
)
from pipelines.cvfp.settings import BOUND, MOST_SWEEPS

CURVES = (
    (1, "effective_rank", "Effective rank of the contexts, as a share of their width"),
    (1, "effective_rank_over_noise", "Effective rank over that of as many rows of noise"),
    (1, "growth", "Growth of a small change per token: below 1 the past is forgotten"),
    (1, "change", "Mean squared change of the contexts in a sweep"),
    (2, "train_loss", "Loss on the training documents (nats a token)"),
    (2, "loss", "Loss on the held-out documents (nats a token)"),
)
CLAIM = "the guide's claim"
CLAIMED: Mapping[str, str] = {
    "effective rank over 85 %": "88 – 90 %", "of the last fifth over 75 %": "80 – 83 %",
    "95 % of tokens converged": "yes", "final difference under 0.001": "yes",
}  # fmt: skip
READING = (
    "Perplexity and bits per byte are of held-out documents at the best epoch; intervals are Student's t over seeds, "
    "95 %. A variant is worth its phases only if it is below those that do without them."
)
MEMORY = (
    "The guide's table counts the activations of all tokens at once, though it has those of one, and neither gradients "
    "nor logits. The peak is that of the whole process, the libraries and earlier variants included. Tokens a second "
    "are those of the training documents over the seconds of a round, what is measured in it included."
)
FIXED_POINT = "a fixed point that forgets its past: growth under 1, and the last criterion"
EXACT = (
    f"sweeps until the contexts are within {BOUND:g} of the exact ones without training, {MOST_SWEEPS} at most "
    "(no criterion of the guide's)"
)
CONTROL = "end-to-end"
NEXT = "it trains the same network in phase 2 alone, so add it to variants"
LONGEST = 600
MOST_LINES = 100
LOG = (
    "Its loss is 2 (1 - cos) / d of two sweeps' contexts of a token, so it is small whatever they are: 4 / d is the "
    "most that it can be, and contexts that have nothing to do with each other have 2 / d."
)
CRITERIA = (
    "The guide's criteria of phase 1. A network that was never trained meets the first two, since effective rank says "
    "nothing of convergence; the number of rows alone decides how high it can be."
)


@dataclass(frozen=True)
class CvfpReport(Section):
    """The variants of a run of `cvfp`, side by side."""

    title: ClassVar[str] = "Variants"
    right_or_wrong: ClassVar[bool] = False

    def wants(self, run: ReportRun) -> bool:
        """Runs whose records are rounds of variants with seeds."""
        return run.pipeline == "cvfp" and any(SERIES.fullmatch(one.task) for one in run.first_outputs())

    def headline(self, run: ReportRun) -> Html:
        """The variant with the lowest perplexity, and what the run's own has beside the controls."""
        series = _series(run)
        best = {name: summary_of_best(series, name, "perplexity") for name in names_of(series)}
        known = {name: found.mean for name, found in best.items() if found is not None}
        if not known:
            return Html("No epoch is there yet.")
        first = min(known, key=known.__getitem__)
        own = f"; cvfp has {known['cvfp']:.1f}" if "cvfp" in known and first != "cvfp" else ""
        return join([Html("Lowest held-out perplexity: "), el("b", first), f" with {known[first]:.1f}{own}."])

    def overall(self, runs: Sequence[ReportRun]) -> Html:
        """All parts, run by run."""
        parts = []
        for run in runs:
            series = _series(run)
            parts += [el("h3", run.label)] if len(runs) > 1 else []
            parts += [
                _sources(run, series),
                _failures(series),
                _ladder(series),
                cautions(series),
                criteria_table(series),
                _curves(series),
                _memory(series),
                _texts(series),
                _logs(series),
            ]
        return join(parts)

    def figures(self, run: ReportRun, figures: Mapping[str, Measure]) -> Mapping[str, Measure]:
        """None: their means mix variants."""
        return {}


def _series(run: ReportRun) -> list[Trained]:
    with closing(run.outputs.records()) as records:
        return read(records)


def _sources(run: ReportRun, series: Sequence[Trained]) -> Html:
    """Which documents were read, and how many of them are left out, and why."""
    about = run.outputs.run.get("about")
    data = about.get("data") if isinstance(about, Mapping) else None
    if not isinstance(data, Mapping):
        return Html("")
    short = next((found for one in series if isinstance(found := one.shape.get("short"), int)), 0)
    left = [
        f"{count:,} {why}"
        for count, why in (
            (data.get("duplicates", 0), "that stood twice"), (data.get("empty", 0), "without a word"),
            (short, "shorter than a piece"),
        )
        if isinstance(count, int) and count
    ]  # fmt: skip
    sides = [count for name in ("documents", "held_out") if isinstance(count := data.get(name), int)]
    if len(sides) < 2:
        return Html("")
    told = f"{sides[0]:,} documents to train on and {sides[1]:,} held out, none on both sides"
    return el("p", f"{told}; left out: {', '.join(left)}." if left else f"{told}.", cls="note")


def _failures(series: Sequence[Trained]) -> Html:
    failed = [
        el("li", el("b", f"{one.name}, seed {one.seed}"), f" ended early: {one.failure:.300}")
        for one in series
        if one.failure
    ]
    return el("ul", *failed) if failed else Html("")


def _ladder(series: Sequence[Trained]) -> Html:
    """A row for each variant, the best last."""
    rows = []
    for name in names_of(series):
        found = {metric: summary_of_best(series, name, metric) for metric in
                 ("perplexity", "bits_per_byte", "top1", "top5")}  # fmt: skip
        perplexity = found["perplexity"]
        if perplexity is None:
            continue
        against = difference(series, name, _token_only(name))
        told = "–" if against is None or name == _token_only(name) else _told(against.mean, against.interval)
        cells = (
            name, f"{perplexity.mean:.1f}{_from_to(perplexity.interval)}", _two(found["bits_per_byte"]),
            _share(found["top1"]), _share(found["top5"]), told, str(perplexity.n),
        )  # fmt: skip
        rows.append((perplexity.mean, cells))
    if not rows:
        return Html("")
    head = ("variant", "perplexity", "bits per byte", "top 1", "top 5", "loss − token-only (nats)", "seeds")
    table = _table(head, [row for _, row in sorted(rows, key=lambda one: -one[0])])
    return join([el("h3", "Held-out documents"), table, el("p", READING, cls="note")])


def cautions(series: Sequence[Trained]) -> Html:
    """What the table must not be read as: of variants that more epochs would help, or whose phase 1 has no control."""
    told, names = [], names_of(series)
    for name in names:
        of = [one for one in series if one.name == name]
        if improving := sum(one.still_improving for one in of):
            seeds = f" ({improving} of {count_of(sum(one.ended for one in of), 'seed')}): more epochs may help it."
            told.append(el("li", el("b", name), f" was still improving at its last epoch{seeds}"))
    swept = any(one.curve("phase", 1) for one in series)
    if swept and not any(one.variant == CONTROL for one in series):
        told.append(el("li", "without ", el("b", CONTROL), f" nothing tells what phase 1 is worth: {NEXT}."))
    return el("ul", *told) if told else Html("")


def _token_only(name: str) -> str:
    _, comma, size = name.partition(", ")
    return f"token-only{comma}{size}"


def _told(mean: float, interval: Interval | None) -> str:
    if interval is None:
        return f"{mean:+.3f}"
    verdict = "better" if interval[1] < 0 else "worse" if interval[0] > 0 else "not told apart"
    return f"{mean:+.3f} ({interval[0]:+.3f} to {interval[1]:+.3f}): {verdict}"


def _from_to(interval: Interval | None) -> str:
    return "" if interval is None else f" ({interval[0]:.1f} to {interval[1]:.1f})"


def _two(found: object) -> str:
    return "–" if found is None else f"{found.mean:.3f}"  # type: ignore[attr-defined]


def _share(found: object) -> str:
    return "–" if found is None else percent(found.mean)  # type: ignore[attr-defined]


def criteria_table(series: Sequence[Trained]) -> Html:
    """The guide's criteria: its claim, and each variant whose contexts were measured, over the seeds."""
    found = {name: fixed_point([one for one in series if one.name == name]) for name in names_of(series)}
    named = [name for name, told in found.items() if told]
    if not named:
        return Html("")
    rows = []
    for criterion, claimed in CLAIMED.items():
        cells = [criterion, claimed]
        for name in named:
            met = [criteria(one)[criterion] for one in series if one.name == name]
            known = [one for one in met if one is not None]
            cells.append(f"{sum(known)} of {count_of(len(known), 'seed')}" if known else "–")
        rows.append(cells)
    rows.append([FIXED_POINT, "yes", *(found[name] for name in named)])
    seeds = ([one for one in series if one.name == name] for name in named)
    rows.append([EXACT, "–", *map(sweeps_until_exact, seeds)])
    table = _table(("criterion", CLAIM, *named), rows)
    return join([el("h3", "Criteria of phase 1"), table, unconverged(series), el("p", CRITERIA, cls="note")])


def unconverged(series: Sequence[Trained]) -> Html:
    """Each variant whose contexts did not converge, and what was measured of them."""
    told = []
    for name in names_of(series):
        of = [one for one in series if one.name == name and one.converged is False]
        if of:
            growth, apart = (
                fmean(one.of_contexts(metric) or 0.0 for one in of) for metric in ("growth", "final_difference")
            )
            why = "so its past is never forgotten" if growth >= 1 else f"and two passes differ by {apart:.2g}"
            seeds = count_of(len(of), "seed")
            told.append(
                el(
                    "li",
                    el("b", name),
                    f" did not converge ({seeds}): a small change grows {growth:.3f} times a token, {why}.",
                )
            )
    return el("ul", *told) if told else Html("")


def _table(head: Sequence[str], rows: Sequence[Sequence[str]]) -> Html:
    """A table of figures, by the text in its first column; one that is wider than a phone scrolls by itself."""
    heads = [el("th", one, cls="n" if place else None) for place, one in enumerate(head)]
    body = [
        el("tr", el("th", name, scope="row"), *(el("td", one, cls="n") for one in figures)) for name, *figures in rows
    ]
    table = el("table", el("thead", el("tr", *heads)), el("tbody", *body), cls="stages")
    return el("div", table, cls="scroll", tabindex="0")


def _memory(series: Sequence[Trained]) -> Html:
    """What each variant of the first seed was planned to take, and took."""
    rows = []
    for name in names_of(series):
        one = next(found for found in series if found.name == name)
        planned = [_total(one.shape, key) for key in ("guide_mib", "phase1_mib", "phase2_mib")]
        if any(planned):
            speeds = (one.tokens_per_second(phase) or 0 for phase in (1, 2))
            cells = [f"{value:,.0f}" if value else "–" for value in (*planned, one.peak_bytes / 2**20, *speeds)]
            parameters = one.shape.get("parameters")
            count = f"{parameters:,}" if isinstance(parameters, int) else "–"
            rows.append((name, count, *cells))
    if not rows:
        return Html("")
    head = ("variant", "parameters", "guide's table", "planned, phase 1", "planned, phase 2", "peak of the process",
            "tokens a second, phase 1", "tokens a second, phase 2")  # fmt: skip
    table = _table(head, rows)
    return join([el("h3", "Memory in MiB, and speed"), table, el("p", MEMORY, cls="note")])


def _total(shape: Mapping[str, object], key: str) -> float:
    rows = shape.get(key)
    value = rows.get("total") if isinstance(rows, dict) else None
    return float(value) if isinstance(value, int | float) else 0.0


def _texts(series: Sequence[Trained]) -> Html:
    """What each variant's best weights write."""
    found = {one.name: one.text for one in reversed(series) if one.text}
    if not found:
        return Html("")
    shown = [join([el("dt", name), el("dd", truncated(text, LONGEST))]) for name, text in reversed(found.items())]
    return join([el("h3", "Written after the beginning of a held-out document"), el("dl", *shown)])


def _logs(series: Sequence[Trained]) -> Html:
    """What the guide's own log says of its phase 1, of each series that was trained in its order."""
    shown = [
        join([el("dt", f"{one.name}, seed {one.seed}"), el("dd", el("pre", "\n".join(one.log[:MOST_LINES])))])
        for one in series
        if one.log
    ]
    return join([el("h3", "The guide's log"), el("dl", *shown), el("p", LOG, cls="note")]) if shown else Html("")


def _curves(series: Sequence[Trained]) -> Html:
    charts = []
    for phase, metric, title in CURVES:
        lines = []
        for name in names_of(series):
            found: dict[int, list[float]] = {}
            for one in series:
                points = one.curve(metric, phase) if one.name == name else []
                first = min((number for number, _ in one.curve("phase", phase)), default=0)
                for number, value in points:
                    found.setdefault(number - first, []).append(value)
            if found and max(found) > 0:
                bands = {at: (min(values), max(values)) for at, values in found.items() if len(values) > 1}
                lines.append(Line(name, {at: fmean(values) for at, values in sorted(found.items())}, bands))
        if lines:
            charts.append(line_chart(title, lines))
    if not charts:
        return Html("")
    note = el("p", "Lines are means over seeds, bands from the lowest to the highest seed.", cls="note")
    return join([el("h3", "Both phases"), note, el("div", *charts, cls="all-series")])
