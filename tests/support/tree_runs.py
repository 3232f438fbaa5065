"""Runs of the pipeline `branch` without a model: records of its stage `tree`, with texts and vectors like real ones."""

from __future__ import annotations

import base64
import random
import struct
from collections.abc import Iterator, Mapping, Sequence
from contextlib import closing
from pathlib import Path
from typing import Any

from hybrid.backends.registry import open_embedder
from hybrid.outputs import write_outputs
from hybrid.records import Failure, Item, Output
from hybrid.sampling import item_seed
from pipelines.branch.pipeline import Branch
from tests.support.walks_in_memory import driven

WHO = ("the doctor", "an old miner", "her own clone", "the airlock", "the dead man", "a child of the colony")
DID = ("sold the oxygen", "wrote the last log entry", "never left the dome", "buried the samples", "cut the cable")
WHY = ("to hide a birth", "out of pity", "because Earth paid for it", "and forgot it by morning", "for a wager")
FEEL = (
    "Dust hissed on the glass while the lamps died one by one",
    "Inspector Okafor counted the boots again and found one pair too many",
    "Nobody had told the greenhouse that its gardener was gone",
    "The verdict came with the supply ship, eleven months late",
)
STRATEGIES = ("facets", "iid")
LEVELS = ("premise", "twist")


def tree_outputs(
    task: str = "mars", *, children: int = 6, keep: int = 3, seed: int = 0, hostile: Sequence[str] = ()
) -> list[Output]:
    """The nodes of a scenario of two levels and of its control; `hostile` texts stand wherever a text can."""
    draw = random.Random(f"{task} {seed}")
    rows: list[tuple[str, str | None, dict[str, Any]]] = []
    for control in (False, True):
        root = f"{task}/control" if control else task
        parents = [root]
        for depth, level in enumerate(LEVELS, start=1):
            made = [
                _node(draw, f"{parent}{'/' if parent == root else '.'}{number}", parent, depth, level, control, number)
                for parent in parents
                for number in range(children)
            ]
            _decide(draw, made, keep, last=depth == len(LEVELS), control=control)
            rows += made
            parents = [id for id, _, view in made if view["verdict"] == "expanded"]
    for place, payload in enumerate(hostile):
        id, _, view = rows[place % len(rows)]
        told = {"reason": payload, "prompt": payload, "level": payload, "strategy": payload, "sibling": payload}
        rows[place % len(rows)] = (id, payload, view | told | {"features": {payload: 0.5}})
    _embed(rows)
    return [_output(task, *row) for row in sorted(rows, key=lambda row: row[0])]


def tree_run(folder: Path, outputs: Sequence[Output] = (), tasks: Mapping[str, Any] | None = None) -> Path:
    """outputs.json of a run of `branch` in `folder`."""
    made = list(outputs) or tree_outputs()
    known = {one.task: {"title": "A detective on Mars", "brief": "A crime story."} for one in made}
    about = {"grader": "branch", "budget": {"nodes": 100, "tokens": 20_000, "ms": 0, "mode": "hard"}}
    run = {"id": f"branch-{folder.name}", "pipeline": "branch", "model": "smollm2", "about": about, "settings": {}}
    folder.mkdir(parents=True, exist_ok=True)
    write_outputs(folder / "outputs.json", run, [], dict(tasks or known), made)
    return folder / "outputs.json"


def pipeline_outputs() -> list[Output]:
    """The records of a real search of the pipeline with made-up answers, and the embedder that needs no model."""
    pipeline = Branch(scenario=("demo",), candidates=4, keep=3, levels=2, strategy=("iid", "facets"))
    tasks = pipeline.inputs().tasks

    def answer(item: Item) -> str:
        draw = random.Random(item_seed(item.request.sampling.seed, item.request.messages[-1].content))
        return f"The lighthouse keeps working. {draw.choice(FEEL)}, since {draw.choice(WHO)} {draw.choice(DID)} here."

    done = driven(pipeline._walk("demo", tasks), answer)
    found = sorted(done.outputs, key=lambda one: (one.task, one.question, one.sample))
    made = [
        Output(f"{place}", one.task, one.question, one.view, 0, None if one.failure else one.text, one.failure, None)
        for place, one in enumerate(pipeline._tree(tasks, {"search": found}))
    ]
    return sorted(made, key=lambda one: one.question)


def _node(
    draw: random.Random, id: str, parent: str, depth: int, level: str, control: bool, number: int
) -> tuple[str, str | None, dict[str, Any]]:
    who, did, why = draw.choice(WHO), draw.choice(DID), draw.choice(WHY)
    text = f"{draw.choice(FEEL)}. It was {who} who {did} {why}, in sector {number}."
    relevance = round(draw.uniform(0.3, 0.9), 3)
    view = {
        "parent": parent, "depth": depth, "level": level, "strategy": "iid" if control else STRATEGIES[number % 2],
        "prompt": f"{level}: tone melancholy, told by the airlock", "verdict": "", "reason": "", "sibling": "",
        "similarity": None, "score": round(draw.random(), 3), "cluster": draw.randrange(4),
        "features": {"relevance": relevance, "constraints": draw.choice((0.75, 1.0))},
        "position": [round(draw.uniform(-0.5, 0.5), 3), round(draw.uniform(-0.4, 0.4), 3)],
        "tokens": draw.randrange(30, 90), "seconds": 1.5, "control": control, "preference": None,
    }  # fmt: skip
    return id, text, view


def _decide(
    draw: random.Random, made: list[tuple[str, str | None, dict[str, Any]]], keep: int, *, last: bool, control: bool
) -> None:
    ranked = sorted(range(len(made)), key=lambda place: -made[place][2]["score"])
    reasons = {
        "dropped-similar": "too like a better one", "dropped-beam": "below the best", "failed": "",
        "rejected-duplicate": "a near-duplicate", "rejected-boilerplate": "it talks to the reader: 'Here is'",
        "rejected-constraint": "140 words, more than 90",
    }  # fmt: skip
    best = made[ranked[0]][0]
    for order, place in enumerate(ranked):
        id, text, view = made[place]
        if order < keep:
            view["verdict"] = "kept" if last else "expanded"
            view["preference"] = draw.choice((0.25, 0.5, 1.0)) if last and not control else None
            continue
        view["verdict"] = "dropped-beam" if control else draw.choice(list(reasons))
        view["reason"] = reasons[view["verdict"]]
        if view["verdict"] in ("dropped-similar", "rejected-duplicate"):
            view |= {"sibling": best, "similarity": round(draw.uniform(0.8, 0.99), 3)}
        if view["verdict"] == "failed":
            made[place] = (id, None, view | {"score": None, "cluster": None, "position": None, "features": {}})


def _embed(rows: list[tuple[str, str | None, dict[str, Any]]]) -> None:
    with closing(open_embedder("hashed", "", {})) as embedder:
        texts = [text for _, text, _ in rows if text]
        vectors: Iterator[Any] = iter(embedder.embed(texts))
        for _, text, view in rows:
            found = next(vectors) if text else ()
            known = not isinstance(found, Failure)
            view["vector"] = base64.b64encode(struct.pack(f"<{len(found)}f", *found)).decode() if known else ""


def _output(task: str, id: str, text: str | None, view: dict[str, Any]) -> Output:
    failure = None if text is not None else Failure("no-answer", "the model only thought and gave no answer")
    return Output(f"key {id}", task, id, view, 0, text, failure, None)
