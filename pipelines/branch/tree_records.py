"""The records of the stage `tree`: one for each node, with its verdict, measures, cluster and place on a map."""

from __future__ import annotations

import base64
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from typing import Any

import numpy as np

from hybrid.canonical import Json
from hybrid.errors import BadData
from hybrid.records import Failure, Output
from hybrid.work import Derived, Finished, found_in, replayed
from pipelines.branch.nodes import Node
from pipelines.branch.settings import BranchSettings
from pipelines.branch.walk import Found, searched

STEPS = 1000
"""Decimals of a position: a thousandth."""


def tree_records(settings: BranchSettings, tasks: Mapping[str, Any], outputs: Iterable[Output]) -> Iterator[Derived]:
    """The nodes of each scenario, replayed from the outputs of its search. Raises BadData when some are missing."""
    known = found_in(outputs)
    for task in sorted(tasks):
        end = replayed(searched(settings, task, tasks), known)
        if not isinstance(end, Finished):
            raise BadData(
                f"the search of '{task}' has no end in its records: {len(end.items):,} more are asked for",
                hint="the records are of other settings or another version; run the pipeline again",
            )
        yield from _records(task, end.value)


def _records(task: str, found: Found) -> Iterator[Derived]:
    nodes = [*found.tree, *(found.control or ())]
    placed = [node for node in nodes if node.row is not None]
    if found.selecting:
        for node, cluster in zip(placed, found.selecting.clusters(placed), strict=True):
            node.cluster = int(cluster)
    positions = dict(zip((node.id for node in placed), _map(placed), strict=True))
    for node in nodes:
        yield Derived(task, node.id, node.text or "", _view(node, positions.get(node.id)), failure=node.failure)
    if short := _short(found):
        view = {"parent": task, "depth": 0, "level": "", "verdict": "failed", "reason": short.message, "control": False}
        yield Derived(task, f"{task}/short", "", view, failure=short)


def _view(node: Node, position: tuple[float, float] | None) -> dict[str, Json]:
    return {
        "parent": node.parent,
        "depth": node.depth,
        "level": node.level,
        "strategy": node.strategy,
        "prompt": node.prompt,
        "verdict": node.verdict,
        "reason": node.reason,
        "sibling": node.sibling,
        "similarity": node.similarity,
        "score": node.score,
        "features": node.features,
        "cluster": node.cluster,
        "position": None if position is None else list(position),
        "tokens": node.tokens,
        "seconds": round(node.seconds, 3),
        "control": node.control,
        "preference": node.preference,
        **({"shown_first": node.shown_first, "first_won": node.first_won} if node.shown_first else {}),
        "vector": "" if node.vector is None else base64.b64encode(_little_endian(node.vector)).decode(),
    }


def _little_endian(vector: Iterable[float]) -> bytes:
    return np.asarray(vector, dtype="<f4").tobytes()


def _map(nodes: list[Node]) -> list[tuple[float, float]]:
    """The first two principal components, the longer axis first; the sign of each is that of its largest entry.

    Of fewer than three nodes there is no map: all are at the origin.
    """
    if len(nodes) < 3:
        return [(0.0, 0.0)] * len(nodes)
    rows = np.array([node.row for node in nodes])
    rows = rows - rows.mean(axis=0)
    if len(rows) <= rows.shape[1]:
        values, vectors = np.linalg.eigh(rows @ rows.T)
        found = vectors[:, -2:] * np.sqrt(np.maximum(values[-2:], 0.0))
    else:
        _, vectors = np.linalg.eigh(rows.T @ rows)
        found = rows @ vectors[:, -2:]
    found = found[:, ::-1]
    largest = found[np.abs(np.round(found, 6)).argmax(axis=0), [0, 1]]
    found = np.rint(found * np.where(largest < 0, -1.0, 1.0) * STEPS) / STEPS + 0.0
    return [(float(x), float(y)) for x, y in found]


def _short(found: Found) -> Failure | None:
    """Why fewer texts are kept than were wanted, None when all are there."""
    if found.failure:
        return found.failure
    kept = sum(node.verdict == "kept" for node in found.tree)
    wanted = found.scenario.keep
    last = len(found.scenario.levels)
    deepest = found.tree.deepest()
    if kept >= wanted and deepest == last:
        return None
    verdicts = [node.verdict for node in found.tree if not node.accepted or node.verdict == "dropped-similar"]
    why = ", ".join(f"{count:,} {verdict}" for verdict, count in sorted(Counter(verdicts).items()))
    level = f" at the level '{found.scenario.levels[deepest - 1].name}'" if deepest else ""
    told = f"{kept} of {wanted} texts kept{level} ({deepest} of {last} levels reached)"
    return Failure("short", f"{told}; {len(found.tree):,} candidates{f', of them {why}' if why else ''}")
