"""chatroutes-autobranch 1.3.1, the peer of the benchmarks of `branch`, in an environment of its own.

`installed()` makes the environment; `steps()` runs `BranchSelector.step` there, on vectors that are given, once a job.
This file is also what runs there: it reads jobs from its standard input and writes what was kept, without any of ours.
"""

from __future__ import annotations

import json
import subprocess
import sys
import tempfile
import time
import venv
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

VERSION = "1.3.1"
PACKAGES = (f"chatroutes-autobranch=={VERSION}", "numpy==2.3.5", "scikit-learn")
"""numpy as in the tests, so that both sides multiply with the same library."""

Job = Mapping[str, Any]
"""`prompt`, `texts`, `vectors` of the prompt and then of each text (`arrays`: as such), the settings of `selector`."""


@contextmanager
def installed() -> Iterator[Path]:
    """The Python of a new environment with the peer, which is removed afterwards."""
    with tempfile.TemporaryDirectory() as folder:
        venv.create(folder, with_pip=True, symlinks=True)
        python = Path(folder) / ("Scripts/python.exe" if sys.platform == "win32" else "bin/python")
        subprocess.run([python, "-m", "pip", "install", "-q", *PACKAGES], check=True, stdout=sys.stderr)
        yield python


def steps(python: Path, jobs: Sequence[Job]) -> list[dict[str, Any]]:
    """Of each job the places that were `kept`, the reported `entropy`, and wall and processor `seconds` of the step."""
    done = subprocess.run(
        [python, "-I", __file__], input=json.dumps(list(jobs)), check=True, stdout=subprocess.PIPE, text=True
    )
    found: list[dict[str, Any]] = json.loads(done.stdout)
    return found


class Vectors:
    """The embedding provider of the peer: known vectors, as lists of floats, as its protocol says, or as arrays."""

    def __init__(self, known: Mapping[str, Any]) -> None:
        self._known = known

    def embed(self, texts: list[str]) -> list[Any]:
        """Look them up."""
        return [self._known[text] for text in texts]


def selector(peer: Any, job: Job, provider: Vectors) -> Any:
    """The whole selector with the settings of a job: `k`, `weights`, `novelty` (mmr or cosine), `threshold`..."""
    novelty = (
        peer.MMRNoveltyFilter(job["balance"], job["threshold"], provider)
        if job["novelty"] == "mmr"
        else peer.CosineNoveltyFilter(threshold=job["threshold"], embedding_provider=provider)
    )
    return peer.BranchSelector(
        beam_selector=peer.BeamSelector(
            scorer=peer.CompositeScorer(embedding_provider=provider, weights=job["weights"]), k=job["k"]
        ),
        novelty_filter=novelty,
        entropy_stopper=peer.ShannonEntropyStopper(
            min_entropy=job["min_entropy"], k_max=job["k_max"], embedding_provider=provider
        ),
        budget_manager=peer.BudgetManager(peer.Budget(max_nodes=10**6, max_tokens=10**9, max_ms=10**9), mode="soft"),
    )


def step(peer: Any, job: Job) -> dict[str, Any]:
    """One step on the candidates of a job. Equal texts have one vector, so each text gets its place in front."""
    texts = [f"{place} {text}" for place, text in enumerate(job["texts"])]
    prompt = f"prompt {job['prompt']}"
    vectors = job["vectors"]
    if job.get("arrays"):
        import numpy as np  # noqa: PLC0415 - the peer's own

        vectors = [np.array(vector) for vector in vectors]
    provider = Vectors(dict(zip([prompt, *texts], vectors, strict=True)))
    parent = peer.Candidate(id="parent", text=prompt, meta={"intent": "creative_writing", "depth": 0})
    candidates = [
        peer.Candidate(id=f"creative-{place:05}", text=text, meta={"logprobs": -0.5})
        for place, text in enumerate(texts)
    ]
    whole = selector(peer, job, provider)
    start, processor = time.perf_counter(), time.process_time()
    result = whole.step(parent, candidates)
    return {
        "seconds": time.perf_counter() - start,
        "cpu_seconds": time.process_time() - processor,
        "kept": [int(one.id.rpartition("-")[2]) for one in result.kept],
        "entropy": result.entropy_decision.get("entropy"),
    }


def main() -> None:
    """Run the jobs of the standard input."""
    import chatroutes_autobranch  # type: ignore[import-not-found]  # noqa: PLC0415 - not in the environment of the tests

    json.dump([step(chatroutes_autobranch, job) for job in json.load(sys.stdin)], sys.stdout)


if __name__ == "__main__":
    main()
