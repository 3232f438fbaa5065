"""What is chosen of the same candidates, as many of them: by `branch`, by chatroutes-autobranch 1.3.1, and by chance.

    python benchmarks/branch_quality.py [--n 80] [--save FILE | --candidates FILE]

The four scenarios of the peer's guide, with its settings: prompts in its words' sense, weights, filters, k of 7 to 10.
The candidates are n answers a prompt of SmolLM2-135M, embedded with all-MiniLM-L6-v2; `--save` keeps them and
`--candidates` takes them from a file, lines of {"scenario", "text"}. They are dealt into pools of 20, of each of which
all three choose. Ours is `dpp`; its score is the rank of the relevance, since log-probability and intent are constants
in the peer's example. Figures are the Vendi score of what is chosen as a share of k, and its mean relevance, the cosine
with the prompt; chance is the mean of 200 draws. Intervals are those of paired differences over the pools, of these
four prompts. The last line has the differences at the usual weight, which the goal is about, and at others.
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
from hybrid.canonical import digest
from hybrid.records import Message, Request, Sampling
from hybrid.statistics.diversity import effective_number
from hybrid.statistics.intervals import ClusteredMean, PairedDifference, difference
from pipelines.branch.features import mixed
from pipelines.branch.rows import Rows, cosines, unit_rows
from pipelines.branch.selection import WEIGHT, Candidates, select

DRAWS = 200
POOL = 20
WEIGHTS = (0.0, WEIGHT, 0.1, 0.15, 0.2)
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

FIGURES = ("vendi", "relevance")
Figures = tuple[float, float]
"""Vendi score / k, and mean relevance."""


@dataclass(frozen=True)
class Pool:
    """Candidates of a scenario as rows, the prompt as one, and the cosine of each candidate with it."""

    name: str
    prompt: Rows
    rows: Rows
    relevance: list[float]

    def figures(self, chosen: Sequence[int]) -> Figures:
        """Of a choice."""
        near = math.fsum(self.relevance[one] for one in chosen) / len(chosen)
        return effective_number(self.rows[list(chosen)]) / len(chosen), near


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
    """Embed prompts and texts and deal them out; by the digests of the texts, so that it matters not who came first."""
    embedder = open_embedder("sentence-transformers", "minilm", {"device": "cpu"})
    found = []
    for name, prompt in PROMPTS.items():
        texts = sorted({one["text"] for one in candidates if one["scenario"] == name}, key=digest)
        rows = unit_rows([vector for vector in embedder.embed([prompt, *texts]) if isinstance(vector, tuple)])
        for start in range(1, len(rows) - POOL + 1, POOL):
            part = rows[start : start + POOL]
            found.append(Pool(name, rows[0], part, cosines(part, rows[:1])[:, 0].tolist()))
    embedder.close()
    return found


def of_ours(pool: Pool, k: int, weight: float) -> Figures:
    """What `branch` chooses."""
    scores = mixed({"relevance": pool.relevance}, {"relevance": 1.0})
    of = Candidates(pool.rows, scores, [f"{place:02}" for place in range(len(pool.rows))])
    return pool.figures(select("dpp", of, k, balance=weight).kept)


def of_chance(pool: Pool, k: int) -> Figures:
    """The mean of many draws."""
    draws = np.random.default_rng(0)
    found = [pool.figures(draws.choice(len(pool.rows), k, replace=False).tolist()) for _ in range(DRAWS)]
    vendi, relevance = (math.fsum(column) / DRAWS for column in zip(*found, strict=True))
    return vendi, relevance


def of_original(every: Sequence[Pool]) -> list[list[int]]:
    """What the peer chooses of each pool."""
    jobs = [
        {
            "prompt": PROMPTS[pool.name],
            "texts": [str(place) for place in range(len(pool.rows))],
            "vectors": [pool.prompt.tolist(), *pool.rows.tolist()],
            **SETTINGS[pool.name],
        }
        for pool in every
    ]
    with autobranch.installed() as python:
        return [step["kept"] for step in autobranch.steps(python, jobs)]


def compared(every: Sequence[Pool], original: Sequence[Sequence[int]]) -> dict[str, list[Figures]]:
    """The figures of each pool by who chose; all choose as many as the original did."""
    both = list(zip(every, original, strict=True))
    return {
        "original": [pool.figures(chosen) for pool, chosen in both],
        "chance": [of_chance(pool, len(chosen)) for pool, chosen in both],
        **{f"ours {weight}": [of_ours(pool, len(chosen), weight) for pool, chosen in both] for weight in WEIGHTS},
    }


def paired(ours: Sequence[Figures], others: Sequence[Figures], figure: int) -> PairedDifference:
    """The mean difference over pools with its interval."""
    found = ClusteredMean()
    for place, (one, other) in enumerate(zip(ours, others, strict=True)):
        found.add(str(place), one[figure] - other[figure])
    return difference(found)


def means(found: Sequence[Figures]) -> dict[str, float]:
    """The mean of each figure."""
    return {name: round(math.fsum(one[place] for one in found) / len(found), 3) for place, name in enumerate(FIGURES)}


def result(every: Sequence[Pool], found: Mapping[str, list[Figures]]) -> dict[str, Any]:
    """The last line; what came of each scenario is printed before it."""
    for name in PROMPTS:
        of = {
            who: [one for pool, one in zip(every, figures, strict=True) if pool.name == name]
            for who, figures in found.items()
        }
        print(f"{name}: " + ", ".join(f"{who} {means(figures)}" for who, figures in of.items()))
    differences = {
        f"{who} - {other}": {name: paired(found[who], found[other], place) for place, name in enumerate(FIGURES)}
        for other in ("original", "chance")
        for who in found
        if who.startswith("ours")
    }
    usual = differences[f"ours {WEIGHT} - original"]
    ours, original = means(found[f"ours {WEIGHT}"]), means(found["original"])
    return {
        "name": "branch_quality",
        "peer": f"chatroutes-autobranch {autobranch.VERSION}, its own choice of the same candidates; chance",
        "ratio": round(ours["vendi"] / original["vendi"], 3),
        "ratio_relevance": round(ours["relevance"] / original["relevance"], 3),
        "goal": f"Vendi score and relevance of ours {WEIGHT} above the original's, both intervals above 0",
        "met": all(one.low > 0 for one in usual.values()),
        "pools": len(every),
        "means": {who: means(figures) for who, figures in found.items()},
        "differences": {
            pair: {name: [round(one.mean, 3), round(one.low, 3), round(one.high, 3)] for name, one in of.items()}
            for pair, of in differences.items()
        },
        "not_better": [
            f"{pair}: {name}" for pair, of in differences.items() for name, one in of.items() if one.low <= 0
        ],
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
    print(json.dumps(result(every, compared(every, of_original(every)))))


if __name__ == "__main__":
    main()
