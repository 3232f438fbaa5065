"""What is chosen of the same candidates, as many of them: by `branch`, by chatroutes-autobranch 1.3.1, and by chance.

    python benchmarks/branch_quality.py [--n 80] [--save FILE | --candidates FILE]

The four scenarios of the peer's guide, with its settings: prompts in its words' sense, weights, filters, k of 7 to 10.
The candidates are n answers a prompt of SmolLM2-135M, embedded with all-MiniLM-L6-v2; `--save` keeps them and
`--candidates` takes them from a file, lines of {"scenario", "text"}. Ours is `dpp` with its usual weight; the score is
the rank of the relevance, since log-probability and intent are constants in the peer's example. Figures are the Vendi
score of what is chosen and its mean relevance, the cosine with the prompt. Intervals are those of a jackknife over the
candidates: for each part of them all three choose again. Chance is the mean of 200 draws. The last line has the mean
differences over the scenarios, and where ours is not better.
"""

from __future__ import annotations

import argparse
import json
import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from peers import autobranch

from hybrid.backends.registry import open_backend, open_embedder
from hybrid.records import Message, Request, Sampling
from hybrid.statistics.agreement import Estimate
from hybrid.statistics.diversity import effective_number, jackknife
from pipelines.branch.features import mixed
from pipelines.branch.rows import Rows, cosines, unit_rows
from pipelines.branch.selection import Candidates, select

DRAWS = 200
GROUPS = 20
TOKENS = 100
SYSTEM = "You are a creative writer. Answer with the text alone: no list, no heading, no comment."
PROMPTS = {
    "memory": "Write ONE opening paragraph of a short story about an artificial intelligence that was lost and begins "
    "to remember.",
    "mars": "Write ONE plot twist, in a few sentences, for a detective story on Mars.",
    "romcom": "Write ONE ending of a romantic comedy about two rival bakers: tragic, absurd or heartwarming.",
    "styles": "Continue in ONE paragraph, in the voice of Hemingway, Austen or Murakami: 'The rain had not stopped for "
    "three days. She stood at the window and watched the street.'",
}


def guide(k: int, novelty: str, balance: float, threshold: float, k_max: int, **weights: float) -> dict[str, Any]:
    """The settings of a scenario in the peer's guide (v1.1)."""
    return {
        "k": k,
        "novelty": novelty,
        "balance": balance,
        "threshold": threshold,
        "min_entropy": 0.6,  # only what it says depends on it
        "k_max": k_max,
        "weights": weights,
    }


SETTINGS = {
    "memory": guide(7, "mmr", 0.6, 0.80, 5, confidence=0.15, relevance=0.25, novelty_parent=0.4, intent_alignment=0.2),
    "mars": guide(8, "cosine", 0.0, 0.75, 4, confidence=0.20, relevance=0.30, novelty_parent=0.50),
    "romcom": guide(10, "mmr", 0.5, 0.78, 3, confidence=0.15, relevance=0.3, novelty_parent=0.35, intent_alignment=0.2),
    "styles": guide(9, "mmr", 0.4, 0.75, 3, confidence=0.1, relevance=0.25, novelty_parent=0.4, intent_alignment=0.25),
}

Places = Sequence[int]
Figures = dict[str, tuple[float, float]]
"""Who chose -> Vendi score and mean relevance of the choice."""


@dataclass(frozen=True)
class Pool:
    """The candidates of a scenario as rows, the prompt as one, and the cosine of each candidate with it."""

    name: str
    prompt: Rows
    rows: Rows
    relevance: list[float]


def generated(n: int) -> Iterator[dict[str, str]]:
    """Scenario and text of n answers a prompt."""
    backend = open_backend("llamacpp", "smollm2", {"context": "1024"})
    try:
        how = [Sampling(TOKENS, temperature=1.2, top_p=0.95, seed=1000 + sample) for sample in range(n)]
        asked = (
            Request(sampling, messages=(Message("system", SYSTEM), Message("user", prompt)), key=name)
            for name, prompt in PROMPTS.items()
            for sampling in how
        )
        for done in backend.generate(asked):
            if done.text and done.text.strip():
                yield {"scenario": done.key, "text": done.text.strip()}
    finally:
        backend.close()


def pools(candidates: Sequence[Mapping[str, str]]) -> list[Pool]:
    """Embed prompts and texts; candidates in the order of their texts, so that no choice depends on who came first."""
    embedder = open_embedder("sentence-transformers", "minilm", {"device": "cpu"})
    found = []
    for name, prompt in PROMPTS.items():
        texts = sorted(one["text"] for one in candidates if one["scenario"] == name)
        rows = unit_rows([vector for vector in embedder.embed([prompt, *texts]) if isinstance(vector, tuple)])
        found.append(Pool(name, rows[0], rows[1:], cosines(rows[1:], rows[:1])[:, 0].tolist()))
    embedder.close()
    return found


def of_ours(pool: Pool, places: Places, k: int) -> list[int]:
    """What `branch` chooses among some candidates of a pool."""
    scores = mixed({"relevance": [pool.relevance[place] for place in places]}, {"relevance": 1.0})
    of = Candidates(pool.rows[list(places)], scores, [f"{place:05}" for place in places])
    return [places[place] for place in select("dpp", of, k).kept]


def figures(pool: Pool, chosen: Places) -> tuple[float, float]:
    """Vendi score and mean relevance."""
    return effective_number(pool.rows[list(chosen)]), math.fsum(pool.relevance[one] for one in chosen) / len(chosen)


def compared(pool: Pool, places: Places, original: Places) -> Figures:
    """The figures of as many candidates of `places` as the original chose there."""
    draws = np.random.default_rng(0)
    k = len(original)
    chance = [figures(pool, draws.choice(places, k, replace=False).tolist()) for _ in range(DRAWS)]
    means = [math.fsum(column) / DRAWS for column in zip(*chance, strict=True)]
    return {
        "ours": figures(pool, of_ours(pool, places, k)),
        "original": figures(pool, original),
        "chance": (means[0], means[1]),
    }


def parts(n: int) -> list[tuple[int, ...]]:
    """All candidates, and then all but each group, as `jackknife` asks for them."""
    asked: list[tuple[int, ...]] = []

    def note(places: Places) -> float:
        asked.append(tuple(places))
        return 0.0

    jackknife(n, note, groups=GROUPS)
    return asked


def of_original(every: Sequence[Pool]) -> list[dict[tuple[int, ...], Places]]:
    """What the peer chooses in every part of every pool."""
    asked = [(number, part) for number, pool in enumerate(every) for part in parts(len(pool.rows))]
    jobs = [
        {
            "prompt": PROMPTS[every[number].name],
            "texts": [str(place) for place in part],
            "vectors": [every[number].prompt.tolist(), *every[number].rows[list(part)].tolist()],
            **SETTINGS[every[number].name],
        }
        for number, part in asked
    ]
    with autobranch.installed() as python:
        steps = autobranch.steps(python, jobs)
    found: list[dict[tuple[int, ...], Places]] = [{} for _ in every]
    for (number, part), step in zip(asked, steps, strict=True):
        found[number][part] = [part[place] for place in step["kept"]]
    return found


def measured(pool: Pool, original: Mapping[tuple[int, ...], Places]) -> dict[str, Any]:
    """The figures of one scenario, and the differences of ours from the others with their intervals."""
    known = {part: compared(pool, part, chosen) for part, chosen in original.items()}
    whole = known[tuple(range(len(pool.rows)))]

    def difference(other: str, figure: int) -> Estimate:
        def of(places: Places) -> float:
            found = known[tuple(places)]
            return found["ours"][figure] - found[other][figure]

        return jackknife(len(pool.rows), of, groups=GROUPS)

    return {
        "k": len(original[tuple(range(len(pool.rows)))]),
        "n": len(pool.rows),
        **{who: {"vendi": round(vendi, 3), "relevance": round(near, 3)} for who, (vendi, near) in whole.items()},
        "differences": {
            f"{name} from {other}": difference(other, figure)
            for other in ("original", "chance")
            for figure, name in enumerate(("vendi", "relevance"))
        },
    }


def mean(estimates: Sequence[Estimate]) -> Estimate:
    """The mean of independent estimates: their half widths add up as squares."""
    value = math.fsum(one.value for one in estimates) / len(estimates)
    half = math.sqrt(math.fsum(((one.high - one.low) / 2) ** 2 for one in estimates)) / len(estimates)
    return Estimate(value, value - half, value + half)


def result(every: Mapping[str, dict[str, Any]]) -> dict[str, Any]:
    """The last line."""
    names = next(iter(every.values()))["differences"]
    means = {name: mean([one["differences"][name] for one in every.values()]) for name in names}
    ratios = [one["ours"]["vendi"] / one["original"]["vendi"] for one in every.values()]
    worse = [
        f"{scenario}: {name} {found.value:+.3f}"
        for scenario, one in every.items()
        for name, found in one["differences"].items()
        if found.value <= 0
    ]
    return {
        "name": "branch_quality",
        "peer": f"chatroutes-autobranch {autobranch.VERSION}, its own choice of the same candidates; chance",
        "ratio": round(math.fsum(ratios) / len(ratios), 3),
        "goal": "vendi and relevance above the original's, both intervals above 0",
        "met": all(means[f"{name} from original"].low > 0 for name in ("vendi", "relevance")),
        "differences": {name: [round(value, 3) for value in found] for name, found in means.items()},
        "not_better": worse,
        "scenarios": {
            name: {who: one[who] for who in ("n", "k", "ours", "original", "chance")} for name, one in every.items()
        },
    }


def main() -> None:
    """Print the result as one JSON object on the last line."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0] if __doc__ else "")
    parser.add_argument("--n", type=int, default=80)
    parser.add_argument("--save", type=Path)
    parser.add_argument("--candidates", type=Path)
    chosen = parser.parse_args()
    if chosen.candidates:
        candidates = [json.loads(line) for line in chosen.candidates.read_text(encoding="utf-8").splitlines()]
    else:
        candidates = list(generated(chosen.n))
    if chosen.save:
        chosen.save.write_text("".join(json.dumps(one) + "\n" for one in candidates), encoding="utf-8")
    every = pools(candidates)
    found = {pool.name: measured(pool, original) for pool, original in zip(every, of_original(every), strict=True)}
    for name, one in found.items():
        differences: dict[str, Estimate] = one["differences"]
        told = [f"{what} {d.value:+.3f} ({d.low:+.3f} to {d.high:+.3f})" for what, d in differences.items()]
        print(f"{name}, {one['k']} of {one['n']}: {', '.join(told)}")
    print(json.dumps(result(found)))


if __name__ == "__main__":
    main()
