"""Clusters of clients beside the tasks that they truly have, and the ranks that layers were given."""

from __future__ import annotations

from collections import Counter
from collections.abc import Hashable, Mapping, Sequence
from math import comb

from hybrid.report.formatting import count_of
from hybrid.report.markup import Html, el, join
from hybrid.report.output_texts import truncated
from pipelines.atlas.comparison import Comparison
from pipelines.atlas.methods import METHODS
from pipelines.atlas.results import SeriesResult

CLUSTERED = frozenset(name for name, method in METHODS.items() if method.groups in ("found", "true", "random"))
"""Methods whose clients are put into clusters."""
MOST_SERIES = 40
"""Series whose clusters are drawn."""
MOST_LAYERS = 300
COLOURS = 6
LONGEST = 60


def clusters(comparison: Comparison, truth: Mapping[str, str]) -> Html:
    """A row for each series of a method with clusters: the cluster of each client, task by task, and the ARI."""
    shown = [one for one in comparison.series if one.method in CLUSTERED and one.clients]
    if not shown:
        return Html("")
    tasks = sorted({truth.get(name, "") for one in shown for name in one.clients})
    head = [el("th", name or "clients", scope="col") for name in tasks]
    if truth:
        head.append(el("th", "ARI", scope="col", cls="n"))
    tested = any(one.structure_p is not None for one in shown)
    if tested:
        head.append(el("th", "p", scope="col", cls="n"))
    rows = [_clusters(one, tasks, truth, tested=tested) for one in shown[:MOST_SERIES]]
    table = el(
        "table",
        el("thead", el("tr", el("th", "", scope="col"), *head)),
        el("tbody", *rows),
        cls="atlas-clusters atlas-stack",
    )
    said = (
        "A square is a client, its letter and colour the cluster that it was put into, in the last round; columns are "
        "the true tasks. ARI is the adjusted Rand index of both: 1 where they agree, about 0 by chance."
        + (
            " p: how often the clients are as clustered when halves of their rows are dealt to them at random; above"
            " 0.05 all clients are one cluster."
            if tested
            else ""
        )
    )
    left = [el("p", f"{count_of(len(shown) - MOST_SERIES, 'more series', 'more series')} not shown", cls="none")]
    return join(
        [
            el("h3", "Clusters and true tasks"),
            el("div", table, cls="scroll", tabindex="0"),
            *(left if len(shown) > MOST_SERIES else []),
            el("p", said, cls="note"),
        ]
    )


def labels_of(one: SeriesResult) -> dict[str, int]:
    """Client -> its cluster, numbered from 0 in the order in which clients meet them."""
    numbers: dict[float, int] = {}
    known = {name: metrics["cluster"] for name, metrics in one.clients.items() if "cluster" in metrics}
    return {name: numbers.setdefault(label, len(numbers)) for name, label in known.items()}


def _clusters(one: SeriesResult, tasks: Sequence[str], truth: Mapping[str, str], *, tested: bool) -> Html:
    labels = labels_of(one)
    cells = []
    for task in tasks:
        own = [(name, label) for name, label in labels.items() if truth.get(name, "") == task]
        cells.append(el("td", *(_square(name, label) for name, label in own), data_label=task or "clients"))
    if truth:
        known = [name for name in labels if name in truth]
        value = adjusted_rand([labels[name] for name in known], [truth[name] for name in known])
        cells.append(el("td", f"{value:.2f}".replace("-", "−"), cls="n", data_label="ARI"))
    if tested:
        shown = "–" if one.structure_p is None else f"{one.structure_p:.3f}"
        cells.append(el("td", shown, cls="n", data_label="p"))
    return el("tr", el("th", one.name, scope="row"), *cells)


def _square(name: str, label: int) -> Html:
    return el(
        "i", letter(label), cls=f"k{label % COLOURS}", title=f"{truncated(name, LONGEST)}: cluster {letter(label)}"
    )


def letter(label: int) -> str:
    """A, B, ... Z, A1, B1, ..."""
    return chr(ord("A") + label % 26) + (str(label // 26) if label >= 26 else "")


def adjusted_rand(labels: Sequence[Hashable], truth: Sequence[Hashable]) -> float:
    """The adjusted Rand index of two partitions (Hubert and Arabie 1985); 1 where both are trivial and equal."""
    pairs = [sum(comb(count, 2) for count in Counter(found).values()) for found in (labels, truth)]
    both = sum(comb(count, 2) for count in Counter(zip(labels, truth, strict=True)).values())
    every = comb(len(labels), 2)
    expected = pairs[0] * pairs[1] / every if every else 0.0
    most = (pairs[0] + pairs[1]) / 2
    return 1.0 if most == expected else (both - expected) / (most - expected)


def ranks(comparison: Comparison) -> Html:
    """The rank of each layer, for each method whose layers were given ranks of their own."""
    found = {
        method: one[0].layers for method in comparison.methods if (one := comparison.sound(method)) and one[0].layers
    }
    if not found:
        return Html("")
    names = list(dict.fromkeys(name for layers in found.values() for name in layers))
    most = max((one.get("rank", 0.0) for layers in found.values() for one in layers.values()), default=0.0) or 1.0
    head = el("tr", el("th", "layer", scope="col"), *(el("th", method, scope="col", cls="n") for method in found))
    rows = [
        el(
            "tr",
            el("th", truncated(name, LONGEST), scope="row"),
            *(_rank(layers.get(name), most) for layers in found.values()),
        )
        for name in names[:MOST_LAYERS]
    ]
    said = "Mean over the clients of the first seed; in brackets the lowest and the highest client, where they differ."
    left = [el("p", f"{count_of(len(names) - MOST_LAYERS, 'more layer')} not shown", cls="none")]
    return join(
        [
            el("h3", "Ranks by layer"),
            el(
                "div", el("table", el("thead", head), el("tbody", *rows), cls="atlas-ranks"), cls="scroll", tabindex="0"
            ),
            *(left if len(names) > MOST_LAYERS else []),
            el("p", said, cls="note"),
        ]
    )


def _rank(found: Mapping[str, float] | None, most: float) -> Html:
    if not found or "rank" not in found:
        return el("td", "–", cls="n")
    rank = found["rank"]
    least, highest = found.get("rank_least", rank), found.get("rank_most", rank)
    spread = el("small", f" ({least:.3g} – {highest:.3g})") if least != highest else Html("")
    step = min(9, max(0, int(9 * rank / most)))
    return el("td", f"{rank:.3g}", spread, cls=f"n h{step}")
