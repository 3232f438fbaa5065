"""Rows per second of `hybrid grade --grader judge` and of a minimal parallel loop on the same Ollama server and model.

    python benchmarks/judge.py [--rows 200] [--server URL --model NAME]

Without a server it starts the one that `make ollama` built (or the one on PATH) with SmolLM2-135M. The loop is minimal
code: as many threads as the server has slots, one HTTP request per row with the same prompt, schema and options, no
checks, replies discarded. `ratio` is the loop's time / ours on distinct rows; our time is that of the whole command.
`repeat_ratio` is the same on a file whose rows repeat as often as in a round of SEAL's ReST-EM: 6,750 answers, of which
3,241 are distinct; the loop sends a request for each.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import httpx

ROOT = Path(__file__).parents[1]
sys.path.insert(0, str(ROOT))

from graders.judge import Judge  # noqa: E402
from hybrid.model_files.location import locate  # noqa: E402
from hybrid.records import Output  # noqa: E402
from tests.support.ollama_server import OllamaServer, find_binary  # noqa: E402

GOAL = 0.95
SLOTS = 4
REPEATS = 6750 / 3241
JUDGE = Judge(models=("m",), explain=False, rules=())
TOPICS = ("river", "mountain", "painter", "treaty", "metal", "planet", "composer", "harbour", "enzyme", "bridge")


def outputs(rows: int, salt: str) -> Iterator[Output]:
    """Distinct answers, with the lengths of SEAL's graded rows, 5 to 60 words."""
    rng = random.Random(salt)
    for row in range(rows):
        topic = rng.choice(TOPICS)
        words = [f"{rng.choice(TOPICS)}{rng.randrange(100)}" for _ in range(rng.choice((5, 8, 13, 20, 60)))]
        view = {"question": f"Which {topic} of {salt} was named in the year {row}?"}
        answer = f"It was {' '.join(words)}, number {row}."
        yield Output(f"{rng.getrandbits(256):064x}", f"t{row}", f"t{row}/0", view, 0, answer, None, f"{topic} {row}")


def repeated(rows: int, salt: str) -> list[Output]:
    """`rows` answers, of which a fraction of 1 / `REPEATS` is distinct."""
    kinds = list(outputs(max(1, round(rows / REPEATS)), salt))
    rng = random.Random(salt)
    chosen = kinds + rng.choices(kinds, k=rows - len(kinds))
    return [
        Output(f"{n:064x}", f"t{n}", f"t{n}/0", one.view, 0, one.text, None, one.reference)
        for n, one in enumerate(chosen)
    ]


def by_hand(url: str, model: str, rows: Sequence[Output]) -> float:
    """Seconds of the minimal loop."""

    def ask(row: Output) -> None:
        request = JUDGE.request(row, (False, 0), 0)
        body = {
            "model": model,
            "messages": [{"role": one.role, "content": one.content} for one in request.messages],
            "stream": False,
            "think": None,
            "format": request.schema,
            "options": {"temperature": 0, "num_predict": JUDGE.max_tokens, "num_ctx": 2048, "seed": 0},
        }
        client.post(f"{url}/api/chat", json=body).raise_for_status()

    with httpx.Client(timeout=600, trust_env=False) as client, ThreadPoolExecutor(SLOTS) as crew:
        start = time.perf_counter()
        list(crew.map(ask, rows))
        return time.perf_counter() - start


def ours(url: str, model: str, rows: Sequence[Output], place: Path) -> float:
    """Seconds of the real command, with an empty cache."""
    path = place / "answers.jsonl"
    path.write_text("".join(json.dumps(one.to_json()) + "\n" for one in rows))
    environment = {**os.environ, "OLLAMA_HOST": url, "HYBRID_HOME": tempfile.mkdtemp(dir=place)}
    command = [sys.executable, "-m", "hybrid", "grade", str(path), "--grader", "judge", "--model", model, "--json"]
    command += ["--set", "explain=false", "--set", "rules=", "--set", "retries=0", "--backend-option", "context=2048"]
    start = time.perf_counter()
    done = subprocess.run(command, check=True, capture_output=True, text=True, env=environment)
    seconds = time.perf_counter() - start
    summary: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])["summary"]
    print(f"ours: {len(rows):,} rows in {seconds:.1f} s; ungraded {summary['ungraded']['count']}")
    return seconds


@contextmanager
def server(url: str, model: str, place: Path) -> Iterator[tuple[str, str]]:
    """URL and model of the named server, or of one that is started with the small model."""
    if url:
        yield url.rstrip("/"), model
        return
    binary = find_binary()
    if binary is None:
        sys.exit("error: there is no Ollama server\nhint: make ollama, or --server URL --model NAME")
    own = OllamaServer(binary, place, {"OLLAMA_NUM_PARALLEL": str(SLOTS)}).start()
    try:
        yield own.url, own.create("smollm2", locate("smollm2"))
    finally:
        own.stop()


def main() -> None:
    """Print the result as one JSON object on the last line."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--rows", type=int, default=200)
    parser.add_argument("--pairs", type=int, default=3, help="how often both are timed, in turn")
    parser.add_argument("--server", default="")
    parser.add_argument("--model", default="smollm2")
    chosen = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder, server(chosen.server, chosen.model, Path(folder)) as (url, model):
        by_hand(url, model, list(outputs(8, "warm")))
        ratios, rates = [], []
        for turn in range(chosen.pairs):
            mine, theirs = list(outputs(chosen.rows, f"a{turn}")), list(outputs(chosen.rows, f"b{turn}"))
            hand, hybrid = by_hand(url, model, theirs), ours(url, model, mine, Path(folder))
            ratios.append(hand / hybrid)
            rates.append(chosen.rows / hybrid)
        hand = by_hand(url, model, repeated(chosen.rows, "c"))
        repeat_ratio = hand / ours(url, model, repeated(chosen.rows, "d"), Path(folder))
    ratio = sorted(ratios)[len(ratios) // 2]
    print(
        json.dumps(
            {
                "name": "judge",
                "peer": "a bare loop of parallel requests",
                "ratio": round(ratio, 3),
                "ratios": [round(one, 3) for one in ratios],
                "goal": GOAL,
                "met": ratio >= GOAL,
                "repeat_ratio": round(repeat_ratio, 2),
                "rows": chosen.rows,
                "rows_per_second": round(sorted(rates)[len(rates) // 2], 2),
            }
        )
    )


if __name__ == "__main__":
    main()
