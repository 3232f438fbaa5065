"""Rollouts on the page: some questions of some rounds, what was written to them, what it earned, and whose it is."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import Any

from hybrid.errors import HybridError
from hybrid.metrics import RoundMetrics
from hybrid.protocols import Replayed
from hybrid.records import Output
from hybrid.report.formatting import count_of
from hybrid.report.markup import Html, el, join
from hybrid.report.output_texts import boxed
from hybrid.report.rounds_again import rounds_of
from hybrid.report.sources import ReportRun
from pipelines.sapo.advantages import ONE
from pipelines.sapo.arms import node_name
from pipelines.sapo.results import NODE, SERIES

MOST_SERIES = 12
"""Series whose rollouts are shown; the others are counted."""
QUESTIONS, ANSWERS = 2, 8
"""Of a training set: own questions, and as many foreign ones; and answers to each."""
LONGEST = 600
"""Characters of a question or an answer."""
NOTE = (
    "The first round, the one in the middle and the newest, of the node that took most of others. Questions whose "
    "answers earned unequal rewards come first: the others have no advantage and teach nothing. "
    "`hybrid replay RUN --round N` shows whole training sets."
)
Again = Callable[[str, RoundMetrics, str], Replayed]
NOT_HERE = "The texts of its rollouts are not here: `hybrid fetch --rollouts RUN` brings those of a remote run."


class Looked:
    """The records of the rounds that are shown, kept while all records of a run are read."""

    def __init__(self, run: ReportRun) -> None:
        settings = run.outputs.run.get("settings")
        rounds = settings.get("rounds") if isinstance(settings, Mapping) else None
        self._wanted = {"00000", f"{rounds // 2:05d}" if isinstance(rounds, int) else ""}
        self._chosen: dict[str, dict[str, str]] = {}  # series -> number of a wanted round -> text of its record
        self._newest: dict[str, tuple[str, str]] = {}
        self.more = False
        """Whether there are further series."""

    def passing(self, records: Iterable[Output]) -> Iterator[Output]:
        """The records, of which some are kept."""
        for one in records:
            if one.text is not None and SERIES.fullmatch(one.task):
                self._keep(one.task, one.question.rpartition("/")[2], one.text)
            yield one

    def _keep(self, series: str, number: str, text: str) -> None:
        if series not in self._newest and len(self._newest) == MOST_SERIES:
            self.more = True
            return
        if number in self._wanted:
            self._chosen.setdefault(series, {})[number] = text
        self._newest[series] = max((number, text), self._newest.get(series, ("", "")))

    def rounds(self) -> dict[str, list[str]]:
        """The texts of the records by series, in the order of their rounds."""
        every = {name: {**self._chosen.get(name, {}), number: text} for name, (number, text) in self._newest.items()}
        return {name: [found[number] for number in sorted(found)] for name, found in every.items()}


def rollout_texts(run: ReportRun, looked: Looked) -> Html:
    """A fold for each series; nothing where the run is not at hand."""
    again, rounds = rounds_of(run), looked.rounds()
    if again is None or not rounds:
        return Html("")
    folds = [_series(name, texts, again) for name, texts in rounds.items()]
    if not any(folds):
        return join([el("h3", "Rollouts"), el("p", NOT_HERE, cls="none")])
    left = el("p", "Further series are not shown.", cls="none") if looked.more else Html("")
    return join([el("h3", "Rollouts"), el("p", NOTE, cls="note"), *folds, left])


def _series(name: str, texts: Sequence[str], again: Again) -> Html:
    parts = [one for text in texts if (one := _round(name, text, again))]
    return el("details", el("summary", name), *parts, cls="sapo-rollouts") if parts else Html("")


def _round(series: str, text: str, again: Again) -> Html:
    """A round of the node that took most of others; nothing where its texts are not here."""
    try:
        metrics = RoundMetrics.from_text(text)
        group = _group(metrics)
        made: Any = again(series, metrics, group).value if group else {"groups": ()}
        groups: Sequence[Mapping[str, Any]] = made["groups"]
    except (HybridError, ValueError, KeyError):
        return Html("")
    if not groups:
        return Html("")
    own, foreign = ([one for one in groups if one["own"] is mine] for mine in (True, False))
    shown = [*_shown(own), *_shown(foreign)]
    left = len(groups) - len(shown)
    said = f"Round {metrics.round:,}, {group}: {len(own)} own and {len(foreign)} foreign rollouts"
    more = el("p", f"{count_of(left, 'more rollout')} not shown", cls="none") if left else Html("")
    return join([el("h4", said), *(_rollout(one) for one in shown), more])


def _group(metrics: RoundMetrics) -> str:
    """The node with a training set that took most of others, the first of several."""
    nodes = [one for one in metrics.notes if NODE.fullmatch(one)]
    return min(nodes, key=lambda one: (-metrics.groups.get(one, {}).get("n_ext", 0.0), len(one), one), default="")


def _shown(groups: Sequence[Mapping[str, Any]]) -> list[Mapping[str, Any]]:
    """Those that teach something first."""
    return sorted(groups, key=lambda one: one["advantages"] is None)[:QUESTIONS]


def _rollout(group: Mapping[str, Any]) -> Html:
    whose = "own" if group["own"] else f"foreign, of {node_name(group['node'])}, round {group['round']}"
    rewards, advantages = group["rewards"], group["advantages"] or [None] * len(group["rewards"])
    facts = [whose, str(group["task"]), f"mean reward {sum(rewards) / len(rewards) / ONE:.3g}"]
    facts += ["no advantage"] if group["advantages"] is None else []
    rows = list(zip(group["answers"], rewards, advantages, strict=True))
    answers = [_answer(answer, reward, advantage) for answer, reward, advantage in rows[:ANSWERS]]
    if (left := len(rows) - ANSWERS) > 0:
        answers.append(el("li", f"{count_of(left, 'more answer')} not shown", cls="none"))
    return el("div", el("p", " · ".join(facts), cls="facts"), boxed(group["question"], LONGEST), el("ol", *answers))


def _answer(answer: Mapping[str, Any], reward: int, advantage: float | None) -> Html:
    facts = [f"reward {reward / ONE:g}"]
    facts += [] if advantage is None else [f"advantage {advantage:+.3g}"]
    facts += [] if answer["ended"] else ["cut"]
    text = boxed(answer["text"], LONGEST) if answer["text"] else el("p", "(empty text)", cls="none")
    return el("li", el("p", " · ".join(facts), cls="facts"), text)
