"""How long the GPU side of `seal-knowledge` waits while a laptop judges, and what judging beside training saves.

    python benchmarks/knowledge_round.py [--passages 24] [--evaluation 48] [--slower 2]

Simulated time, with the real workers of both sides, the real stages, and a real folder whose files reach the other side
after `--carried` seconds. What takes time is set: an adapter 10 s, an answer 0.2 s, a text 2 s, a fine-tuning of the
writer 120 s. The judge is half as fast as the GPU side: a verdict takes twice the GPU seconds of an answer, its share
of the training included. Answers are drawn: a fifth is the reference itself, which needs no verdict, and of the rest as
many are alike as in SEAL's published results (a tenth).

`idle_share`: of the time in which the laptop judges and the GPU side still has something to do, the share in which it
does nothing. `ratio`: the seconds of the serial way, in which one side waits for the other, the same trainings, answers
and verdicts one after another, over the seconds until the results are there. `published_ratio` is the same with the
verdicts that the published code asks for: each answer's, and the untrained model's anew for each text.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import re
import sys
import tempfile
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parents[1]))

from hybrid.canonical import digest, encode
from hybrid.folder.medium import Disk
from hybrid.folder.runs import Run, join_folder, open_run, submit
from hybrid.folder.spec import ModelSpec
from hybrid.records import Request
from hybrid.settings import freeze
from pipelines.seal.knowledge.pipeline import JUDGE, SealKnowledge
from tests.support import two_sides
from tests.support.two_sides import TimedMachine, work_together

GOALS = {"idle_share": 0.10, "ratio": 1.6}
TRAIN, ANSWER, WRITE, POLICY = 10.0, 0.2, 2.0, 120.0
"""Seconds of an adapter, an answer, a text, and a fine-tuning of the writer."""
QUESTIONS = 5
SETTLED, GUESSES = 0.2, 16
"""The share of answers that a rule settles, and how many different wrong ones there are to a question."""
ASKED = re.compile(r"What is ([0-9.]+)\?")


def passages(count: int) -> list[dict[str, Any]]:
    """Passages with questions whose answers can be told from the questions."""
    return [
        {
            "title": f"T{number}",
            "context": f"Text {number}.",
            "questions": [
                {"question": f"What is {number}.{n}?", "answer": f"fact {number}.{n}"} for n in range(QUESTIONS)
            ],
        }
        for number in range(count)
    ]


def drawn(*parts: object) -> float:
    """A number from 0 to 1 that depends on `parts` alone."""
    return int.from_bytes(hashlib.sha256(" ".join(map(str, parts)).encode()).digest()[:6], "big") / 2**48


class Gpu:
    """What the GPU side says, and its seconds; a training takes its time once."""

    def __init__(self, write_tokens: int) -> None:
        self._write_tokens, self._trained = write_tokens, set[str]()
        self.counts = {"trained": 0, "answers": 0, "texts": 0, "policies": 0}

    def __call__(self, request: Request) -> tuple[float, str]:
        if request.tuning and not (request.messages or request.prompt):
            self.counts["policies"] += 1
            return POLICY, encode({"adapter": digest(request.tuning.digest), "steps": 1}).decode()
        said = request.messages[-1].content
        if request.sampling.max_tokens == self._write_tokens:
            self.counts["texts"] += 1
            return WRITE, "\n".join(f"line {drawn(request.sampling.seed, n)}" for n in range(5))
        return self._training(request), self._answer(request, said)

    def _training(self, request: Request) -> float:
        self.counts["answers"] += 1
        if request.tuning is None or request.tuning.digest in self._trained:
            return ANSWER
        self._trained.add(request.tuning.digest)
        self.counts["trained"] += 1
        return TRAIN + ANSWER

    def _answer(self, request: Request, said: str) -> str:
        found = ASKED.search(said)
        assert found is not None
        taught = request.tuning.digest if request.tuning else ""
        if drawn(found[1], taught) < SETTLED:
            return f"fact {found[1]}"
        return f"guess {int(GUESSES * drawn('guess', found[1], taught))}"


def judge(seconds: float) -> Callable[[Request], tuple[float, str]]:
    """A judge that likes some answers."""

    def said(request: Request) -> tuple[float, str]:
        right = drawn("judge", request.messages[-1].content) < 0.25
        return seconds, json.dumps({"reason": "r", "correct": right})

    return said


def submitted(folder: Path, pipeline: SealKnowledge) -> Run:
    """The run in a new folder."""
    models = {"": ModelSpec("transformers", "m", ""), JUDGE: ModelSpec("ollama", "j", "")}
    return submit(join_folder(folder, make=True), "seal-knowledge", freeze(pipeline), pipeline.inputs(), models)


def measured(how: argparse.Namespace, root: Path) -> dict[str, Any]:
    """One run in simulated time."""
    data = root / "passages.json"
    data.write_text(json.dumps(passages(how.rounds * how.passages + how.evaluation)))
    pipeline = SealKnowledge(
        data=str(data), rounds=how.rounds, passages=how.passages, eval_passages=how.evaluation, groups=how.groups
    )
    run = submitted(root / "folder", pipeline)
    gpu = Gpu(pipeline.write_tokens)
    seconds = how.slower * (TRAIN / QUESTIONS + ANSWER)
    machines = TimedMachine("gpu", pipeline, gpu), TimedMachine("laptop", pipeline, judge(seconds))

    def is_done() -> bool:
        states = [machine.worker.run_states.get(run.id) for machine in machines if machine.worker]
        return any(state is not None and state.state == "done" for state in states)

    two_sides.COURIER = how.courier
    work_together(root / "folder", machines, is_done, how.carried)
    whole = open_run(Disk(root / "folder"), run.id)
    return {**figures(machines, gpu, seconds, how), "judged": rows(whole)}


def rows(run: Run) -> dict[str, int]:
    """Calls of the judge, and the different rows among them."""
    names = [name for name in run_stages(run) if name.startswith("judged-") and "again" not in name]
    found = [record["view"]["row"] for name in names for _, shard in run.shards(name, []) for record in shard.records]
    return {"calls": len(found), "rows": len(set(found))}


def run_stages(run: Run) -> list[str]:
    """The folders of the run's stages."""
    return [one.name for one in run.folder.entries(run.place) if one.kind == "folder"]


def figures(
    machines: tuple[TimedMachine, TimedMachine], gpu: Gpu, verdict: float, how: argparse.Namespace
) -> dict[str, Any]:
    """What the times say."""
    (of_gpu, of_judge), end = machines, max(machine.clock.time for machine in machines)
    last = max(when for when, _ in of_gpu.busy)
    judging = [(when - seconds, when) for when, seconds in of_judge.busy if when - seconds < last]
    busy = [(when - seconds, when) for when, seconds in of_gpu.busy]
    judged = sum(min(stop, last) - start for start, stop in judging)
    both = overlap(judging, busy)
    gpu_s, judge_s = (sum(seconds for _, seconds in machine.busy) for machine in machines)
    published = verdict * published_verdicts(how)
    return {
        "idle_share": round(1 - both / judged, 4),
        "gpu_idle_until_its_end": round(1 - gpu_s / last, 4),
        "ratio": round((gpu_s + judge_s) / end, 2),
        "published_ratio": round((gpu_s + published) / end, 2),
        "seconds": {"all": round(end), "gpu": round(gpu_s), "judge": round(judge_s), "gpu_ends": round(last)},
        "gpu": gpu.counts,
        "verdict_s": round(verdict, 2),
    }


def published_verdicts(how: argparse.Namespace) -> int:
    """The verdicts that the published code asks for: of each text's questions before and after its training."""
    texts: int = how.rounds * how.passages * 5 + (how.rounds + 1) * how.evaluation
    controls: int = 2 * QUESTIONS * how.evaluation
    return 2 * QUESTIONS * texts + controls  # two controls beside the untrained model


def overlap(first: list[tuple[float, float]], second: list[tuple[float, float]]) -> float:
    """The seconds that are in an interval of both lists, each of which is in order."""
    total, place = 0.0, 0
    for start, stop in first:
        while place < len(second) and second[place][1] <= start:
            place += 1
        at = place
        while at < len(second) and second[at][0] < stop:
            total += max(0.0, min(stop, second[at][1]) - max(start, second[at][0]))
            at += 1
    return total


def main() -> None:
    """Print the result as one JSON object on the last line."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else "")
    parser.add_argument("--rounds", type=int, default=2)
    parser.add_argument("--passages", type=int, default=24)
    parser.add_argument("--evaluation", type=int, default=96)
    parser.add_argument("--groups", type=int, default=4)
    parser.add_argument("--slower", type=float, default=2.0, help="seconds of a verdict, in those of an answer")
    parser.add_argument("--carried", type=float, default=20.0)
    parser.add_argument("--courier", type=float, default=30.0)
    how = parser.parse_args()
    with tempfile.TemporaryDirectory() as place:
        found = measured(how, Path(place))
    result: Mapping[str, Any] = {
        "name": "knowledge-round",
        "peer": "the serial way: each side waits for the other",
        "goals": GOALS,
        "met": found["idle_share"] <= GOALS["idle_share"] and found["ratio"] >= GOALS["ratio"],
        **found,
    }
    print(json.dumps(result))


if __name__ == "__main__":
    main()
