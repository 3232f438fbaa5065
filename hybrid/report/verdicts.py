"""What judges said of an answer, of its criteria or of pairs of answers, as lines below it."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from itertools import islice
from typing import Any

from hybrid.report.markup import Html, el
from hybrid.report.output_texts import truncated

MOST = 50
"""Most lines that are shown of one question."""


def judged(detail: Mapping[str, Any], longest: int) -> tuple[Html, ...]:
    """The basis of a judge's grade: a rule, or verdicts with their reasons; nothing for other grades."""
    if not isinstance(detail.get("by"), str):
        return ()
    lines = islice(_lines(detail), MOST)
    return el("dt", "Judged"), *(el("dd", truncated(line, longest)) for line in lines)


def _lines(detail: Mapping[str, Any]) -> Iterator[str]:
    for name, of_one in (("criteria", _on_criterion), ("pairs", _on_pair)):
        if isinstance(detail.get(name), list):
            for one in _objects(detail[name]):
                yield from of_one(one)
            return
    if isinstance(verdicts := detail.get("verdicts"), list):
        yield from map(_verdict, verdicts)
    else:
        yield str(detail["by"])


def _on_criterion(one: Mapping[str, Any]) -> Iterator[str]:
    """What was said on one criterion of a rubric, verdict by verdict."""
    for verdict in _objects(one.get("verdicts")):
        yield f"{one.get('name', '')}: {_said(verdict)}"


def _said(verdict: Mapping[str, Any]) -> str:
    if "said" not in verdict:
        return _with_reason("no verdict", verdict.get("problem"))
    said = verdict["said"]
    return _with_reason("yes" if said is True else "no" if said is False else str(said), verdict.get("reason"))


def _on_pair(one: Mapping[str, Any]) -> Iterator[str]:
    """Who won, and what was said with each of the two answers as the first."""
    arms = one.get("arms")
    names = [str(name) for name in arms] if isinstance(arms, list) else []
    winner = "not judged" if one.get("winner") is None else str(one["winner"])
    changed = "the order changed the verdict" if one.get("changed") is True else None
    yield f"{' against '.join(names)}: {_with_reason(winner, one.get('problem') or changed)}"
    for vote in one["verdicts"] if isinstance(one.get("verdicts"), list) else ():
        for place, verdict in enumerate(_objects(vote)):
            shown = names[place % len(names)] if names else ""
            yield f"{shown} first: {_with_reason(str(verdict.get('better', 'no verdict')), verdict.get('reason'))}"


def _verdict(one: Any) -> str:
    if not isinstance(one, dict) or "correct" not in one:
        return str(one.get("problem", "no verdict")) if isinstance(one, dict) else "no verdict"
    verdict = "right" if one["correct"] is True else "wrong"
    return f"{verdict}: {one['reason']}" if one.get("reason") else verdict


def _objects(values: Any) -> Sequence[Mapping[str, Any]]:
    return [one for one in values if isinstance(one, dict)] if isinstance(values, list) else ()


def _with_reason(text: str, reason: Any) -> str:
    return f"{text} ({reason})" if reason else text
