"""What shows that a comparison is void, in finished records: a method that did nothing, clients that did not train.

A fault takes the score from its series, and so does a missing round. A warning does not: it has to be known to read the
numbers.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import combinations
from typing import Literal, get_args

from pipelines.atlas.methods import METHODS
from pipelines.atlas.results import SeriesResult, methods_of

Weight = Literal["fault", "missing", "warning", "note"]
VOID: tuple[Weight, ...] = ("fault", "missing")
"""What takes the score from its series."""
COMBINED: Mapping[str, str] = {name: method.combine for name, method in METHODS.items()}
"""How each method combines updates."""
SAME_FINGERPRINT = 1 - 1e-12
"""Cosine from which on two fingerprints are the same."""
MOST_NAMED = 6
"""Series or clients that a finding names; the others are counted."""


@dataclass(frozen=True, slots=True)
class Finding:
    """What a guard found: `series` are the names of the series that it is about."""

    weight: Weight
    text: str
    series: tuple[str, ...]


def findings(series: Sequence[SeriesResult], same_as: Mapping[str, str]) -> list[Finding]:
    """What all guards found, faults first.

    `same_as` names for a method another one that it is the same as at these settings (method -> method).
    """
    found = [*_doubles(series, same_as), *_idle_seeds(series), *_no_better(series)]
    for one in series:
        found += [*_missing(one), *_untrained(one), *_not_installed(one), *_same_fingerprints(one)]
    order = get_args(Weight)
    return sorted(found, key=lambda finding: order.index(finding.weight))


def void(found: Sequence[Finding]) -> dict[str, str]:
    """The series that get no score: name -> reason."""
    reasons: dict[str, str] = {}
    for one in found:
        if one.weight in VOID:
            for name in one.series:
                reasons.setdefault(name, one.text)
    return reasons


def _doubles(series: Sequence[SeriesResult], same_as: Mapping[str, str]) -> Iterator[Finding]:
    """Pairs of methods whose series learned the same to the bit. All seeds of a pair are one finding."""
    pairs: dict[tuple[str, str], list[tuple[SeriesResult, SeriesResult]]] = {}
    for first, second in combinations(series, 2):
        if first.seed == second.seed and first.method != second.method and _learned_the_same(first, second):
            pairs.setdefault((first.method, second.method), []).append((first, second))
    for (first_name, second_name), equal in pairs.items():
        names = tuple(one.name for pair in equal for one in pair)
        both = f"{first_name} and {second_name} ({_listed([f'seed {one.seed}' for one, _ in equal])})"
        if _root(first_name, same_as) == _root(second_name, same_as):
            yield Finding("note", f"{both} have equal figures: at these settings they are the same method", names)
        elif all(_same_clusters(*pair) for pair in equal):
            yield Finding("note", f"{both} have equal figures: they found the same clusters", names)
        else:
            said = (
                "are equal to the bit in every loss and accuracy: one of them does nothing that the other does not do"
            )
            yield Finding("fault", f"{both} {said}", names)


def _learned_the_same(first: SeriesResult, second: SeriesResult) -> bool:
    """Whether all rounds that both have are equal in what was learned."""
    common = first.learned.keys() & second.learned.keys()
    return bool(common) and all(first.learned[number] == second.learned[number] for number in common)


def _root(method: str, same_as: Mapping[str, str]) -> str:
    """The method that stands for all that are the same as this one."""
    seen = {method}
    while (following := same_as.get(method, "")) and following not in seen:
        method = following
        seen.add(method)
    return method


def _same_clusters(first: SeriesResult, second: SeriesResult) -> bool:
    """Whether both combine updates in the same way, within the same groups of clients.

    Of smoothed methods, whose graphs differ otherwise, only a single group of all clients counts.
    """
    how, groups = COMBINED.get(first.method, first.method), _partition(first)
    if how != COMBINED.get(second.method, second.method) or groups != _partition(second):
        return False
    return bool(groups) and (how != "laplacian" or len(groups) == 1)


def _partition(one: SeriesResult) -> set[frozenset[str]]:
    """The clusters of the last round, as sets of clients."""
    found: dict[float, set[str]] = {}
    for name, metrics in one.clients.items():
        found.setdefault(metrics.get("cluster", 0), set()).add(name)
    return {frozenset(names) for names in found.values()}


def _idle_seeds(series: Sequence[SeriesResult]) -> Iterator[Finding]:
    for method in methods_of(series):
        own = [one for one in series if one.method == method]
        equal = [pair for pair in combinations(own, 2) if _learned_the_same(*pair)]
        if equal:
            names = tuple(dict.fromkeys(one.name for pair in equal for one in pair))
            yield Finding("fault", f"{_listed(names)} are equal to the bit: the seed changes nothing", names)


def _missing(one: SeriesResult) -> Iterator[Finding]:
    if one.whole:
        return
    there = f"{len(one.rounds)} of {one.records} rounds"
    why = f": {one.failure:.200}" if one.failure else ""
    yield Finding("missing", f"{one.name} has {there}{why}; it is not compared as if it were whole", (one.name,))


def _untrained(one: SeriesResult) -> Iterator[Finding]:
    """Clients that took steps and did not change; that updates were left out is a warning."""
    if one.left_out:
        said = f"{one.name}: {one.left_out} updates were left out, since they were late or cannot be used"
        yield Finding("warning", said, (one.name,))
    if one.whole and one.moved is None:
        yield Finding("warning", f"{one.name}: no client says what training changed", (one.name,))
    if one.unmoved:
        named = _listed([f"{client} in round {number}" for number, client in one.unmoved])
        said = f"{one.name}: training did not change the weights of {named}"
        yield Finding("fault", said, (one.name,))


def _not_installed(one: SeriesResult) -> Iterator[Finding]:
    wrong = [name for name, metrics in one.clients.items() if metrics.get("installed", 1.0) != 1.0]
    if wrong:
        said = f"{one.name}: {_listed(wrong)} did not hold what the server had sent"
        yield Finding("fault", said, (one.name,))


def _same_fingerprints(one: SeriesResult) -> Iterator[Finding]:
    same = [name for name, metrics in one.clients.items() if metrics.get("nearest", 0.0) >= SAME_FINGERPRINT]
    if same:
        said = f"{one.name}: {_listed(same)} have the fingerprint of another client: clusters of them mean nothing"
        yield Finding("fault", said, (one.name,))


def _no_better(series: Sequence[SeriesResult]) -> Iterator[Finding]:
    """The tasks in which the seeds of a method are not better than the answer that is always the same."""
    for method in methods_of(series):
        told, names = [], []
        for one in series:
            if one.method != method:
                continue
            for task in one.tasks or ("",):
                accuracy, majority = one.mean("dev_accuracy", task), one.mean("dev_majority", task)
                if accuracy is not None and majority is not None and accuracy <= majority:
                    told.append(f"{accuracy:.3f} against {majority:.3f} ({task + ', ' if task else ''}seed {one.seed})")
                    names.append(one.name)
        yield from _worse_f1(method, [one for one in series if one.method == method])
        if told:
            said = f"{method}: accuracy is not above that of the most frequent label: {_listed(told)}"
            yield Finding("warning", said, tuple(dict.fromkeys(names)))


def _worse_f1(method: str, series: Sequence[SeriesResult]) -> Iterator[Finding]:
    """The seeds whose F1, the mean over clients, is below that of the answer that is always the same."""
    known = [(one, one.mean("dev_f1"), one.mean("dev_majority_f1")) for one in series]
    below = [(one, f1, usual) for one, f1, usual in known if f1 is not None and usual is not None and f1 < usual]
    if below:
        told = _listed([f"{f1:.3f} against {usual:.3f} (seed {one.seed})" for one, f1, usual in below])
        said = f"{method}: F1 is below that of the most frequent label: {told}"
        yield Finding("warning", said, tuple(one.name for one, _, _ in below))


def _listed(names: Sequence[str]) -> str:
    shown = ", ".join(names[:MOST_NAMED])
    return f"{shown} and {len(names) - MOST_NAMED} more" if len(names) > MOST_NAMED else shown
