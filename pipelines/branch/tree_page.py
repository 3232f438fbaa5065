"""A tree on the page: folds within folds, each node with its verdict, why, and the text; what was kept as cards.

The number of nodes and the depth that are drawn are bounded; what is chosen goes before what is not.
"""

from __future__ import annotations

import hashlib
from collections import Counter, defaultdict
from collections.abc import Iterable, Sequence

from hybrid.report.formatting import count_of
from hybrid.report.markup import Html, el, join
from hybrid.report.output_texts import truncated
from pipelines.branch.reading import CHOSEN, DROPPED, VERDICTS, TreeNode, clusters_of, kept_of, path_to

MOST_NODES = 2000
"""Nodes of a scenario that are drawn; all are counted."""

MOST_DEPTH = 24
MOST_CARDS = 60
PREVIEW = 90
LONGEST_NAME = 80
LONGEST_REASON = 400

SIGNS = {"kept": "✓", "expanded": "↳", "failed": "!", "over-budget": "!"}


class Names:
    """What nodes are called on the page, by number and by anchor, and how much of a text is shown."""

    def __init__(self, label: str, task: str, nodes: Sequence[TreeNode], longest: int) -> None:
        self._salt, self._task, self.longest = f"{label}\0{task}", task, longest
        self._numbers = {one.id: number for number, one in enumerate(kept_of(nodes), start=1)}
        self.clusters = clusters_of(nodes)
        self.alone = len({one.cluster for one in nodes} - {None, *self.clusters})

    def anchor(self, id: str) -> str:
        """The place on the page of a node."""
        return "n" + hashlib.sha256(f"{self._salt}\0{id}".encode("utf-8", "replace")).hexdigest()[:12]

    def number(self, node: TreeNode) -> int:
        """The number of a kept text, the best being 1; 0 for others."""
        return self._numbers.get(node.id, 0)

    def cluster(self, node: TreeNode) -> str:
        """The cluster of a node, as it is called on the page; "" for one that is alone."""
        return f"cluster {self.clusters[node.cluster][0]}" if node.cluster in self.clusters else ""

    def short(self, node: TreeNode) -> str:
        """The id without the name of the scenario."""
        return self.short_id(node.id)

    def short_id(self, id: str) -> str:
        return truncated(id.removeprefix(f"{self._task}/") or id, LONGEST_NAME)


def cards(kept: Sequence[TreeNode], nodes: Sequence[TreeNode], names: Names) -> Html:
    """The kept texts, the best score first, each with what it grew from behind a fold."""
    by_id = {one.id: one for one in nodes}
    drawn = [
        el(
            "li",
            el("p", el("b", f"{names.number(one)}"), " ", _link(one.id, names), " ", _facts(one, names), cls="facts"),
            el("p", truncated(one.text or "", names.longest), cls="said", dir="auto", tabindex="0"),
            _story(path_to(one, by_id)[:-1], names),
        )
        for one in kept[:MOST_CARDS]
    ]
    if len(kept) > MOST_CARDS:
        drawn.append(el("li", f"{count_of(len(kept) - MOST_CARDS, 'more kept text')}: see the tree", cls="none"))
    return el("ol", *drawn, cls="cards") if drawn else el("p", "Nothing was kept.", cls="none")


def _story(above: Sequence[TreeNode], names: Names) -> Html:
    """The texts of the levels before, from the first one."""
    if not above:
        return Html("")
    told = [
        join(
            [
                el("p", cut_plainly(one.level or names.short(one), LONGEST_NAME), cls="facts"),
                el("p", truncated(one.text or one.failure, names.longest), cls="said", dir="auto"),
            ]
        )
        for one in above[:MOST_DEPTH]
    ]
    return el("details", el("summary", "what it grew from"), *told, cls="story")


def tree(nodes: Sequence[TreeNode], names: Names) -> Html:
    """The tree and, in a fold of its own, that of the control, with what filters them and compares two nodes."""
    own = [one for one in nodes if one.depth and not one.control]
    control = [one for one in nodes if one.depth and one.control]
    drawn = Drawing(own, names, MOST_NODES).markup()
    beside = Drawing(control, names, MOST_NODES // 4).markup() if control else Html("")
    folded = el(
        "details", el("summary", f"The control: {count_of(len(control), 'plain sample')}"), beside, cls="control"
    )
    return el(
        "div",
        el("h4", "Tree"),
        _tools(nodes),
        drawn,
        folded if control else Html(""),
        el("div", cls="pair", hidden=True, role="region", aria_label="Two nodes side by side"),
        cls="branch-tree",
    )


def _tools(nodes: Sequence[TreeNode]) -> Html:
    """The filter; hidden until the script is there to serve it."""
    counts = Counter(one.verdict for one in nodes if one.depth)
    options = [el("option", f"{name} ({counts[name]:,})", value=name) for name in VERDICTS if counts[name]]
    score = el("input", type="number", min="0", max="1", step="0.05", cls="least", inputmode="decimal")
    words = el("input", type="search", cls="words", autocomplete="off", spellcheck="false")
    return el(
        "div",
        el("label", "Verdict", el("select", el("option", "all", value=""), *options, cls="verdict")),
        el("label", "Score at least", score),
        el("label", "Text", words),
        el("output", "", cls="found", aria_live="polite"),
        cls="filter",
        hidden=True,
        role="search",
    )


class Drawing:
    """The markup of one tree. Parents that are unknown or in a circle are as none: their nodes stand at the top."""

    def __init__(self, nodes: Sequence[TreeNode], names: Names, most: int) -> None:
        self._names, self._nodes = names, nodes
        self._by_id = {one.id: one for one in nodes}
        self._children: defaultdict[str, list[TreeNode]] = defaultdict(list)
        for one in sorted(nodes, key=lambda one: (one.place, one.id)):
            self._children[one.parent if one.parent in self._by_id else ""].append(one)
        first = sorted(nodes, key=lambda one: (not one.chosen, not one.accepted, one.depth, one.place, one.id))
        self._shown = {one.id for one in first[:most]}
        self._seen: set[str] = set()

    def markup(self) -> Html:
        """The tree from its top."""
        tops = self._list(self._children[""], 1)
        lost = [one for one in self._nodes if one.id not in self._seen and one.id in self._shown]
        circle = self._list(lost, 1) if lost else Html("")
        left = len(self._by_id) - len(self._shown)
        more = (
            [el("p", f"{count_of(left, 'more node')} not drawn; all are counted above.", cls="none")]
            if left > 0
            else []
        )
        return join([tops, circle, *more])

    def _list(self, nodes: Iterable[TreeNode], depth: int) -> Html:
        every = [one for one in nodes if one.id not in self._seen]
        self._seen |= {one.id for one in every}
        chosen = [self._node(one, depth) for one in every if one.chosen and one.id in self._shown]
        others = [one for one in every if not one.chosen]
        return el("ul", *chosen, self._others(others, depth) if others else Html(""))

    def _others(self, nodes: Sequence[TreeNode], depth: int) -> Html:
        counts = Counter(one.verdict or "no verdict" for one in nodes)
        told = ", ".join(f"{number:,} {name}" for name, number in counts.most_common())
        drawn = [self._node(one, depth) for one in nodes if one.id in self._shown]
        return el("li", el("details", el("summary", f"not chosen: {told}"), el("ul", *drawn)), cls="others")

    def _node(self, node: TreeNode, depth: int) -> Html:
        below = self._below(node, depth)
        said = node.text if node.text is not None else node.failure
        preview = " ".join(said[: 4 * PREVIEW].split())
        head = el(
            "summary",
            badge(node.verdict),
            " ",
            el("span", f"{number}", cls="number") if (number := self._names.number(node)) else "",
            el("b", self._names.short(node)),
            " ",
            _facts(node, self._names),
            " ",
            el("span", cut_plainly(preview, PREVIEW), cls="preview"),
        )
        score = "" if node.score is None else f"{node.score:.4f}"
        return el(
            "li",
            el("details", head, _told(node, self._names), below, open=bool(below)),
            id=self._names.anchor(node.id),
            data_verdict=node.verdict,
            data_score=score,
            cls=f"node {kind_of(node.verdict)}",
        )

    def _below(self, node: TreeNode, depth: int) -> Html:
        children = self._children.get(node.id)
        if not children:
            return Html("")
        if depth >= MOST_DEPTH:
            return el("p", "What grows from it is too deep to be drawn.", cls="none")
        return self._list(children, depth + 1)


def badge(verdict: str) -> Html:
    """What became of a node: a sign and a word, so that colour is never alone."""
    sign = SIGNS.get(verdict) or ("−" if verdict in DROPPED else "✕" if verdict else "?")
    return el(
        "span", el("span", sign, aria_hidden="true"), f" {verdict or 'no verdict'}", cls=f"mark {kind_of(verdict)}"
    )


def kind_of(verdict: str) -> str:
    """The class of a verdict, which gives its colour."""
    if verdict in CHOSEN:
        return "chosen"
    if verdict in DROPPED:
        return "dropped"
    return "lost" if verdict in ("failed", "over-budget") else "refused"


def cut_plainly(text: str, longest: int) -> str:
    """The text, or its beginning and an ellipsis."""
    return text if len(text) <= longest else f"{text[: longest - 1]}…"


def _facts(node: TreeNode, names: Names) -> Html:
    said = ["" if node.score is None else f"score {node.score:.2f}", cut_plainly(node.strategy, LONGEST_NAME)]
    said.append(names.cluster(node))
    return el("span", " · ".join(one for one in said if one), cls="facts")


def _told(node: TreeNode, names: Names) -> Html:
    """Why it has its verdict, what it was asked, how it was measured, and its text."""
    measured = [f"{cut_plainly(name, 40)} {value:.2f}" for name, value in node.features.items()]
    if node.preference is not None:
        measured.append(f"preferred to plain samples {node.preference:.0%}")
    measured += [f"{node.tokens:,} tokens"] * bool(node.tokens)
    asked = el("p", "Asked: ", cut_plainly(node.prompt, LONGEST_REASON), cls="facts") if node.prompt else Html("")
    text = el("p", truncated(node.text, names.longest), cls="said", dir="auto") if node.text is not None else Html("")
    return el(
        "div",
        _why(node, names),
        text,
        asked,
        el("p", " · ".join(measured), cls="facts") if measured else "",
        cls="told",
    )


def _why(node: TreeNode, names: Names) -> Html:
    parts: list[Html | str] = []
    if node.failure:
        parts.append(truncated(node.failure, LONGEST_REASON))
    if node.reason:
        parts.append(truncated(node.reason, LONGEST_REASON))
    if node.sibling:
        near = "" if node.similarity is None else f", similarity {node.similarity:.2f}"
        parts.append(join(["like ", _link(node.sibling, names), near]))
    if not parts or (node.verdict in CHOSEN and not node.reason):
        return Html("")
    return el("p", join(parts, "; "), cls="why")


def _link(id: str, names: Names) -> Html:
    return el("a", names.short_id(id), href=f"#{names.anchor(id)}")
