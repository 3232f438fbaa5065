"""Scores of an inspect sample as numbers, by the name of the scorer; what is no number keeps its reason.

Letters are numbers as in `inspect_ai.scorer.value_to_float`: C and I, P and N, yes and no. inspect counts other texts
as 0; here they are no score.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from hybrid.canonical import Json
from hybrid.formats.reading import plain
from hybrid.metrics import LARGEST

LETTERS: Mapping[str, float] = {
    "C": 1.0,
    "I": 0.0,
    "P": 0.5,
    "N": 0.0,
    "yes": 1.0,
    "true": 1.0,
    "no": 0.0,
    "false": 0.0,
}
NAN = "NaN"
MOST = 200
"""Most scores of a sample that are read."""


def numbers_in(scores: Any) -> tuple[dict[str, Json], dict[str, str]]:
    """The scores of a sample by name, and for each that is no number the reason.

    A score that is an object or a list has a number for each of its members: `multi/short`, `list/0`.
    """
    numbers: dict[str, Json] = {}
    reasons: dict[str, str] = {}
    for name, value in _leaves(scores):
        if len(numbers) + len(reasons) >= MOST:
            break
        number = number_of(value)
        if isinstance(number, str):
            reasons[name] = number
        else:
            numbers[name] = number
    return numbers, reasons


def number_of(value: Any) -> float | str:
    """A score as a number; for what is none, the reason."""
    if isinstance(value, str):
        found = LETTERS.get(value, LETTERS.get(value.lower()) if len(value) > 1 else None)
        return found if found is not None else _in_text(value)
    if isinstance(value, bool | int | float):
        return _bounded(value)
    return "null" if value is None else "no number"


def _in_text(value: str) -> float | str:
    try:
        number = float(value)
    except ValueError:
        return f"the text {value[:40]!r}"
    return number if abs(number) <= LARGEST else f"the text {value[:40]!r}"


def _bounded(value: float) -> float | str:
    if value != value:  # noqa: PLR0124 - NaN alone is not itself
        return NAN
    return float(value) if abs(value) <= LARGEST else "too large"


def _leaves(scores: Any) -> Iterator[tuple[str, Any]]:
    """Name and value of every single score."""
    for name, score in (scores if isinstance(scores, dict) else {}).items():
        value = score.get("value") if isinstance(score, dict) else score
        if isinstance(value, dict):
            yield from ((f"{name}/{key}", one) for key, one in value.items())
        elif isinstance(value, list):
            yield from ((f"{name}/{place}", one) for place, one in enumerate(value))
        else:
            yield name, value


def score_names(results: Any, scorers: Any) -> list[str]:
    """The names under which `numbers_in` gives the scores, as far as the header of a log says, in its order."""
    results = results if isinstance(results, dict) else {}
    listed = results.get("scores")
    if not isinstance(listed, list):  # version 1 of the format: one scorer
        listed = [results.get("scorer")]
    names = [_score_name(one) for one in listed if isinstance(one, dict) and isinstance(one.get("name"), str)]
    if not names and isinstance(scorers, list):
        names = [str(one["name"]) for one in scorers if isinstance(one, dict) and isinstance(one.get("name"), str)]
    return list(dict.fromkeys(names))[:MOST]


def _score_name(score: dict[str, Any]) -> str:
    name, scorer = str(score["name"]), score.get("scorer")
    return name if not isinstance(scorer, str) or scorer == name else f"{scorer}/{name}"


def headline(results: Any) -> str:
    """The score that the log calls its headline; "" when it names none."""
    found = results.get("headline") if isinstance(results, dict) else None
    if not isinstance(found, dict) or not isinstance(found.get("score"), str):
        return ""
    return _score_name({"name": found["score"], "scorer": found.get("scorer")})


def reducers(config: Any) -> list[str]:
    """How the log reduces the epochs of a sample to one score, `mean` when it does not say."""
    found = config.get("epochs_reducer") if isinstance(config, dict) else None
    found = [found] if isinstance(found, str) else found
    return [str(one)[:40] for one in found][:20] if isinstance(found, list) and found else ["mean"]


def recorded(numbers: Mapping[str, Json], reasons: Mapping[str, str]) -> dict[str, Json]:
    """The members of a record's view that hold scores which the other tool gave."""
    found: dict[str, Json] = {"scores": plain(dict(numbers))} if numbers else {}
    return {**found, **({"unscored": dict(reasons)} if reasons else {})}
