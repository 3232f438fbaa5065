"""Tables of the report: what has to be known, the arms, whether sharing helps, tasks, how it was trained, costs."""

from __future__ import annotations

import math
from collections.abc import Sequence
from statistics import fmean

from hybrid.report.formatting import count_of, interval_text, percent, signed
from hybrid.report.line_charts import number
from hybrid.report.markup import Html, el, join
from hybrid.report.output_texts import truncated
from pipelines.sapo.comparison import Comparison, Figure, Paired
from pipelines.sapo.findings import Finding
from pipelines.sapo.grader import silent_total
from pipelines.sapo.results import EVAL, REWARD, Swarm

MOST_FINDINGS = 30
LONGEST = 400
GIGABYTE = 1e9
NEVER = "never answers"
CHOSEN = (
    "reward_train is the mean reward of a node's whole training set, as in the paper. It must not be compared between "
    "arms: foreign rollouts are chosen by their rewards (those with equal ones, mostly groups of zeros, are dropped), "
    "so it is higher where more is shared, before anything is learned. reward_own and eval_pass1 have no such bias."
)
SEEDS = (
    "Intervals are Student's t over seeds, 95 %; a seed counts once, since its nodes train on each other's rollouts. "
)
NODES = (
    "With one seed the intervals are over its nodes, which train on each other's rollouts, and nothing is known of "
    "other seeds: they are narrower than they should be. --set seeds=0,1,2 tells more. "
)
PAIRED = (
    "Percentage points in the last part of the run, of the same seeds, in the rounds that both arms have; better and "
    "worse are said where the interval of the difference does not hold 0. They are not corrected for the number of "
    "comparisons: comparisons.csv has Holm's correction."
)
UNITS = (
    "The paper adds up the mean rewards of training sets over rounds and nodes; its fork adds up the rewards of own "
    "completions. Below each sum stands what a model that never answers adds up to in that unit."
)
COSTS = (
    "Seconds are of a round: of all nodes where they are trained together, else the mean of a node. They differ from "
    "run to run."
)


def notices(found: Sequence[Finding]) -> Html:
    """What has to be known to read the figures, faults first."""
    if not found:
        return Html("")
    shown = [
        el("li", el("b", one.weight, cls=one.weight), " ", truncated(one.text, LONGEST))
        for one in found[:MOST_FINDINGS]
    ]
    if left := len(found) - len(shown):
        shown.append(el("li", f"{count_of(left, 'more notice')}", cls="none"))
    mild = "" if any(one.weight == "fault" for one in found) else " mild"
    return el("div", el("ul", *shown), cls=f"sapo-notices{mild}")


def arms(comparison: Comparison) -> Html:
    """A row for each arm: rewards in the last part of the run, and their rise."""
    figures, context = comparison.figures, comparison.context
    columns: Sequence[tuple[str, Figure, float | None]] = (
        ("reward_own", figures.own, context.never_answers), ("eval_pass1", figures.held_out, context.never_right),
        ("rise of reward_own", figures.own_rise, None), ("rise of eval_pass1", figures.held_out_rise, None),
    )  # fmt: skip
    rows = [
        (arm, _seeds(comparison, arm), [_share(comparison, arm, figure) for _, figure, _ in columns])
        for arm in comparison.arms
    ]
    silent = [Html(percent(value)) if value is not None else Html("–") for _, _, value in columns]
    table = _table([name for name, _, _ in columns], rows, (NEVER, "no model", silent))
    part = (
        f"The last {100 * context.part:.0f} % of the rounds; a rise is against the first {100 * context.part:.0f} %. "
    )
    several = any(len(comparison.of(arm)) > 1 for arm in comparison.arms)
    return join([table, el("p", part, SEEDS if several else NODES, CHOSEN, cls="note")])


def sharing(comparison: Comparison) -> Html:
    """Each arm that shares against those that it is compared with."""
    figures = comparison.figures
    rows = []
    for arm in comparison.arms:
        for control in comparison.controls(arm):
            pairs = [comparison.paired(arm, control, one) for one in (figures.own, figures.held_out)]
            known = next((one for one in pairs if one), None)
            if known:
                by = "seed" if known.over == "seeds" else "node"
                wrote = "–" if known.wrote is None else f"{known.wrote:.2f}"
                cells = [*(_difference(one) for one in pairs), Html(wrote)]
                rows.append((f"{arm} minus {control}", f"paired by {by}, n {known.found.n}", cells))
    if not rows:
        return Html("")
    names = ["reward_own", "eval_pass1", "completions for each of its own"]
    return join([el("h3", "Does sharing help?"), _table(names, rows), el("p", PAIRED, cls="note")])


def tasks(comparison: Comparison) -> Html:
    """The mean reward of each task in the last part, and of held-out questions, beside what no answer scores."""
    names = sorted({task for one in comparison.swarms for kind in (REWARD, EVAL) for task in one.tasks(kind)})
    if len(names) < 2:
        return Html("")
    rows = []
    for arm in comparison.arms:
        for kind, label in ((REWARD, "reward_own"), (EVAL, "eval_pass1")):
            values = [_of_task(comparison, arm, f"{kind}{task}") for task in names]
            if any(value is not None for value in values):
                rows.append((arm, label, [Html(percent(value)) for value in values]))
    silent = comparison.context.silent or {}
    control = (NEVER, "reward", [Html(percent(silent.get(task))) for task in names])
    said = "Percent in the last part of the run, mean over nodes and seeds. eval_pass1 is scored strictly."
    table = _table([name.replace("_", " ") for name in names], rows, control)
    return join([el("h3", "Tasks"), el("div", table, cls="scroll", tabindex="0"), el("p", said, cls="note")])


def training(comparison: Comparison) -> Html:
    """What was trained on, and the cumulative rewards in both units."""
    figures = comparison.figures
    shares = figures.train, figures.dead, figures.tagged, figures.ended, figures.taken
    names = ["reward_train", "dead", "tagged", "ended", "n_ext of ext_wanted", "age of foreign ones",
             "cumulative (paper)", "cumulative (fork)"]  # fmt: skip
    rows = []
    for arm in comparison.arms:
        cells = [_share(comparison, arm, figure) for figure in shares]
        cells.append(_plain(comparison, arm, figures.age))
        cells += [_total(comparison, arm, figure) for figure in (figures.cumulative, figures.completions)]
        rows.append((arm, _seeds(comparison, arm), cells))
    return join([el("h3", "Training"), _table(names, rows), el("p", UNITS, cls="note")])


def costs(comparison: Comparison) -> Html:
    """Completions, tokens, seconds and memory of each arm."""
    names = ["rounds", "completions", "tokens written", "tokens trained", "s writing", "s waiting", "s training",
             "peak GB"]  # fmt: skip
    rows = [(arm, _seeds(comparison, arm), _costs(comparison, comparison.of(arm))) for arm in comparison.arms]
    return join([el("h3", "Costs"), _table(names, rows), el("p", COSTS, cls="note")])


def _costs(comparison: Comparison, swarms: Sequence[Swarm]) -> list[Html]:
    written = comparison.figures.written
    completions = math.fsum(written.value(one, one.done) or 0.0 for one in swarms)
    sums = [
        math.fsum(value for one in swarms for value in one.sums(name).values())
        for name in ("tokens_generated", "tokens_trained")
    ]
    seconds = [_seconds(swarms, f"{name}_seconds") for name in ("generate", "wait", "train")]
    peaks = [value for one in swarms for rounds in (one.together, *one.nodes.values())
             for value in rounds.values("peak_bytes")]  # fmt: skip
    cells = [f"{sum(one.done for one in swarms):,}", *(_whole(value) for value in (completions, *sums)),
             *("–" if value is None else number(value) for value in seconds),
             f"{max(peaks) / GIGABYTE:.2f}" if peaks else "–"]  # fmt: skip
    return [Html(cell.replace(",", "\u202f")) for cell in cells]


def _seconds(swarms: Sequence[Swarm], name: str) -> float | None:
    """The mean seconds of a round: of all nodes together where they are known, else of a node."""
    together = [value for one in swarms for value in one.together.values(name)]
    each = [value for one in swarms for node in one.nodes.values() for value in node.values(name)]
    values = together or each
    return fmean(values) if values else None


def _whole(value: float) -> str:
    return f"{value:,.0f}"


def _of_task(comparison: Comparison, arm: str, metric: str) -> float | None:
    values = [
        value
        for one in comparison.of(arm)
        if (value := one.mean(metric, comparison.context.ends(one.done)[1])) is not None
    ]
    return fmean(values) if values else None


def _seeds(comparison: Comparison, arm: str) -> str:
    swarms = comparison.of(arm)
    done = min(one.done for one in swarms)
    so_far = "" if all(one.whole for one in swarms) else f", {done:,} of {count_of(swarms[0].rounds, 'round')}"
    return f"{count_of(len(swarms), 'seed')}{so_far}"


def _share(comparison: Comparison, arm: str, figure: Figure) -> Html:
    found = comparison.summary(arm, figure)
    if found is None:
        return Html("–")
    rise = figure.range[0] < 0
    value = signed(found.mean) if rise else percent(found.mean)
    if found.interval is None:
        return el("b", value)
    low, high = found.interval
    return join(
        [el("b", value), el("small", f"{signed(low)} – {signed(high)}" if rise else interval_text((low, high)))]
    )


def _plain(comparison: Comparison, arm: str, figure: Figure) -> Html:
    found = comparison.summary(arm, figure)
    return Html("–") if found is None else el("b", number(found.mean))


def _total(comparison: Comparison, arm: str, figure: Figure) -> Html:
    found, silent = comparison.summary(arm, figure), silent_total(comparison, arm, figure)
    if found is None:
        return Html("–")
    beside = "" if silent is None else f"{NEVER}: {number(silent)}"
    return join([el("b", number(found.mean)), el("small", beside)])


def _difference(paired: Paired | None) -> Html:
    if paired is None:
        return Html("–")
    said, interval = paired.verdict, paired.found.interval
    between = f"{signed(interval[0])} – {signed(interval[1])}" if interval else "no interval"
    badge = el("i", said, cls={"better": "better", "worse": "worse"}.get(said, "even"))
    return join([el("b", signed(paired.found.mean)), el("small", between), badge])


Row = tuple[str, str, Sequence[Html]]


def _table(names: Sequence[str], rows: Sequence[Row], control: Row | None = None) -> Html:
    """A table whose rows have a name and a remark; `control` is the last one."""
    head = el("tr", el("th", "", scope="col"), *(el("th", name, scope="col", cls="n") for name in names))
    body = [_row(names, row) for row in rows]
    if control:
        body.append(_row(names, control, "control"))
    return el("table", el("thead", head), el("tbody", *body), cls="sapo-table")


def _row(names: Sequence[str], row: Row, kind: str | None = None) -> Html:
    name, remark, cells = row
    labelled = [el("td", cell, cls="n", data_label=label) for cell, label in zip(cells, names, strict=True)]
    return el("tr", el("th", name, el("small", remark), scope="row"), *labelled, cls=kind)
