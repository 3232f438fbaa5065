"""How many candidates went how far, level by level, and what they cost of the budget."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from hybrid.report.formatting import count_of
from hybrid.report.markup import Html, el, join
from hybrid.report.output_texts import truncated
from pipelines.branch.reading import CHOSEN, VERDICTS, TreeNode

MOST_LEVELS = 50
DECIDED = "kept", "expanded", "dropped", "rejected"
LONGEST = 60


def funnel(nodes: Sequence[TreeNode]) -> Html:
    """A row a level: candidates, those that came through the door, those in the beam, those that were chosen."""
    own = [one for one in nodes if one.depth and not one.control]
    depths = sorted({one.depth for one in own})[:MOST_LEVELS]
    if not depths:
        return el("p", "No candidates.", cls="none")
    names = ("", "asked", "accepted", "in the beam", "chosen")
    head = el("tr", *(el("th", name, scope="col", cls="n" if name else None) for name in names))
    rows = [_level([one for one in own if one.depth == depth], depth) for depth in depths]
    return el("table", el("thead", head), el("tbody", *rows), cls="funnel")


def outcome(nodes: Iterable[TreeNode]) -> Html:
    """What became of the candidates of all scenarios, the control's apart, in one sentence."""
    found = Counter(one.verdict for one in nodes if one.depth and not one.control)
    every = found.total()
    parts = [
        f"{sum(number for verdict, number in found.items() if verdict.startswith(kind)):,} {word}"
        for kind, word in (("expanded", "grown on"), ("dropped", "dropped"), ("rejected", "rejected"))
    ]
    failed = every - sum(number for verdict, number in found.items() if verdict.startswith(DECIDED))
    said = ", ".join([*parts, f"{failed:,} failed or over the budget"])
    return join([el("b", f"{found['kept']:,} kept"), f" of {count_of(every, 'candidate')}: {said}."])


def _level(nodes: Sequence[TreeNode], depth: int) -> Html:
    verdicts = Counter(one.verdict for one in nodes)
    accepted = sum(one.accepted for one in nodes)
    chosen = sum(verdicts[name] for name in CHOSEN)
    beam = accepted - verdicts["dropped-beam"]
    told = ", ".join(f"{verdicts[name]:,} {name}" for name in VERDICTS if name not in CHOSEN and verdicts[name])
    level = next((one.level for one in nodes if one.level), f"level {depth}")
    cells = [_cell(number, len(nodes)) for number in (len(nodes), accepted, beam, chosen)]
    return el("tr", el("th", truncated(level, LONGEST), el("small", told), scope="row"), *cells)


def _cell(number: int, most: int) -> Html:
    """A number and a bar that is as long as its share of the level's candidates."""
    wide = 60 * number / most if most else 0
    bar = f'<svg class="share" viewBox="0 0 60 4" aria-hidden="true"><path d="M0 2H{wide:.1f}"/></svg>'
    return el("td", el("b", f"{number:,}"), Html(bar), cls="n")


def budget(nodes: Sequence[TreeNode], bounds: Any) -> Html:
    """What was used of each budget; the control has the same again, and is counted apart."""
    known = bounds if isinstance(bounds, Mapping) else {}
    own = [one for one in nodes if one.depth and not one.control]
    control = [one for one in nodes if one.depth and one.control]
    seconds = sum(one.seconds for one in own)
    said = [
        f"{count_of(len(own), 'candidate')}{_bound(known, 'nodes', 1)}",
        f"{count_of(sum(one.tokens for one in own), 'token')}{_bound(known, 'tokens', 1)}",
        f"{seconds:,.0f} s of the model{_bound(known, 'ms', 1000)}",
    ]
    plain = f"{count_of(len(control), 'candidate')}, {count_of(sum(one.tokens for one in control), 'token')}"
    beside = f"Beside it the control: {plain}."
    return el("p", "Used: ", ", ".join(said), ". ", beside if control else "There is no control.", cls="note")


def _bound(bounds: Mapping[str, Any], name: str, unit: int) -> str:
    most = bounds.get(name)
    return f" of {most / unit:,.0f}" if type(most) is int and 0 < most < 10**13 else ""
