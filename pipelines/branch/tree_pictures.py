"""Pictures of a scenario: its candidates in the plane, coloured by cluster, and how similar the kept ones are."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from itertools import combinations

from hybrid.report.formatting import count_of
from hybrid.report.markup import Html, el, plain
from pipelines.branch.reading import TreeNode
from pipelines.branch.tree_page import Names

MOST_POINTS = 1500
COLOURS = 8
WIDE, HIGH, MARGIN = 340, 260, 16
MOST_CELLS = 24
"""Kept texts of a heat map."""

CELL, LABEL = 24, 22
NUMBERED = 12
"""Kept texts up to which a cell has its number written in it."""


def plane(nodes: Sequence[TreeNode], kept: Sequence[TreeNode], names: Names) -> Html:
    """The first two principal components of the embeddings. Kept texts have their number, plain samples are crosses."""
    chosen = {one.id for one in kept}
    some = sorted(
        (one for one in nodes if one.position), key=lambda one: (one.id in chosen, one.chosen, not one.control)
    )
    some = some[-MOST_POINTS:]
    if len({one.position for one in some}) < 3:
        return el("p", "No map: fewer than three texts have an embedding.", cls="none")
    at = _scaled(some)
    colours = _colours(names)
    drawn = [_point(one, *at(one), _colour(one, colours), names) for one in some]
    spoken = f"Map of {count_of(len(some), 'text')} by their embeddings, {count_of(len(kept), 'kept text')} numbered"
    svg = (
        f'<svg class="plane" role="img" aria-label="{plain(spoken)}" viewBox="0 0 {WIDE} {HIGH}">{"".join(drawn)}</svg>'
    )
    said = "Near is similar. A number is a kept text, a ring one that was expanded, a cross a plain sample."
    return el(
        "figure",
        el("figcaption", el("b", "Map of the embeddings")),
        Html(svg),
        _legend(names, colours),
        el("p", said, cls="note"),
    )


def _scaled(nodes: Sequence[TreeNode]) -> Callable[[TreeNode], tuple[float, float]]:
    """Where a node stands in the drawing; both axes have the same scale."""
    places = [one.position for one in nodes if one.position]
    lows, highs = [min(axis) for axis in zip(*places, strict=True)], [max(axis) for axis in zip(*places, strict=True)]
    spans = [max(high - low, 1e-9) for low, high in zip(lows, highs, strict=True)]
    scale = min((WIDE - 2 * MARGIN) / spans[0], (HIGH - 2 * MARGIN) / spans[1])

    def at(node: TreeNode) -> tuple[float, float]:
        x, y = node.position or (0.0, 0.0)
        left = (WIDE - scale * spans[0]) / 2
        top = (HIGH - scale * spans[1]) / 2
        return left + scale * (x - lows[0]), HIGH - top - scale * (y - lows[1])

    return at


def _colours(names: Names) -> dict[int, str]:
    """The class of each cluster with a colour of its own: those of the most texts."""
    return {cluster: f"k{place}" for place, cluster in enumerate(list(names.clusters)[:COLOURS])}


def _colour(node: TreeNode, colours: Mapping[int, str]) -> str:
    return "none" if node.cluster is None else colours.get(node.cluster, "none")


def _point(node: TreeNode, x: float, y: float, colour: str, names: Names) -> str:
    title = f"<title>{plain(names.short(node))}: {plain(node.verdict or 'no verdict')}</title>"
    if node.control:
        return f'<path class="cross {colour}" d="M{x - 3:.1f} {y - 3:.1f}l6 6m0-6l-6 6">{title}</path>'
    if names.number(node):
        at = f'x="{x:.1f}" y="{y:.1f}"'
        mark = f'<circle class="{colour}" cx="{x:.1f}" cy="{y:.1f}" r="9"/><text {at}>{names.number(node)}</text>'
        return f'<a href="#{names.anchor(node.id)}">{title}{mark}</a>'
    kind = "ring" if node.chosen else "spot"
    return f'<circle class="{kind} {colour}" cx="{x:.1f}" cy="{y:.1f}" r="{5 if node.chosen else 3.5}">{title}</circle>'


def _legend(names: Names, colours: Mapping[int, str]) -> Html:
    said = [
        el("span", el("i", cls=colour, aria_hidden="true"), f"cluster {number}: {count_of(size, 'text')}")
        for (number, size), colour in ((names.clusters[cluster], colour) for cluster, colour in colours.items())
    ]
    if left := len(names.clusters) - len(colours):
        said.append(el("span", el("i", cls="none", aria_hidden="true"), count_of(left, "more cluster")))
    if names.alone:
        said.append(
            el("span", el("i", cls="none", aria_hidden="true"), f"{count_of(names.alone, 'text')} in no cluster")
        )
    return el("p", *said, cls="clusters")


def heat_map(kept: Sequence[TreeNode], names: Names) -> Html:
    """The cosine of each two kept texts, and which two are the most alike."""
    shown = [one for one in kept if one.vector][:MOST_CELLS]
    if len(shown) < 2 or len({len(one.vector) for one in shown}) > 1:
        return el("p", "No similarities: fewer than two kept texts have comparable embeddings.", cls="none")
    pairs = {(a, b): _cosine(shown[a], shown[b]) for a, b in combinations(range(len(shown)), 2)}
    (a, b), most = max(pairs.items(), key=lambda one: one[1])
    mean = math.fsum(pairs.values()) / len(pairs)
    numbers = [names.number(one) for one in shown]
    said = f"Most alike: {numbers[a]} and {numbers[b]}, cosine {most:.2f}; mean of all {mean:.2f}."
    size = LABEL + CELL * len(shown)
    cells = [_square(a, b, cosine, numbers) + _square(b, a, cosine, numbers) for (a, b), cosine in pairs.items()]
    labels = [_labels(place, one, names) for place, one in enumerate(shown)]
    spoken = f"Similarity of {count_of(len(shown), 'kept text')}. {said}"
    svg = (
        f'<svg class="heat" role="img" aria-label="{plain(spoken)}" '
        f'width="{size * 3 // 2}" viewBox="0 0 {size} {size}">'
        f"{''.join(cells)}{''.join(labels)}</svg>"
    )
    left = f" The first {len(shown)} of {count_of(len(kept), 'kept text')} are drawn." if len(shown) < len(kept) else ""
    caption = el("figcaption", el("b", "Similarity of the kept"))
    return el("figure", caption, Html(svg), el("p", said, left, cls="note"), cls="similar")


def _cosine(one: TreeNode, other: TreeNode) -> float:
    return math.fsum(a * b for a, b in zip(one.vector, other.vector, strict=True))


def _square(row: int, column: int, cosine: float, numbers: Sequence[int]) -> str:
    x, y, held = LABEL + CELL * column, LABEL + CELL * row, min(max(cosine, 0.0), 1.0)
    title = f"<title>{numbers[row]} and {numbers[column]}: {cosine:.2f}</title>"
    area = f'x="{x}" y="{y}" width="{CELL - 1}" height="{CELL - 1}" fill-opacity="{0.05 + 0.7 * held:.2f}"'
    drawn = f"<rect {area}>{title}</rect>"
    if len(numbers) > NUMBERED:
        return drawn
    said = f"{cosine:.2f}".replace("0.", ".", 1).replace("-", "−")
    return f'{drawn}<text x="{x + CELL / 2 - 0.5}" y="{y + CELL / 2}">{said}</text>'


def _labels(place: int, node: TreeNode, names: Names) -> str:
    middle, edge = LABEL + CELL * place + CELL / 2, LABEL / 2
    number, link = names.number(node), f'<a href="#{names.anchor(node.id)}">'
    return (
        f'{link}<text class="label" x="{edge}" y="{middle}">{number}</text></a>'
        f'<text class="label" x="{middle}" y="{edge}">{number}</text>'
    )
