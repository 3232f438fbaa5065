"""The judge on a real Ollama server: nothing is asked twice, whatever is killed, and no fault becomes a score."""

from __future__ import annotations

import json
import random
import signal
import sqlite3
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest

from tests.support.killed_at import killed_at
from tests.support.ollama_server import PATIENCE, SHOWN, OllamaServer, soon
from tests.support.real_machines import heed_signals

pytestmark = pytest.mark.slow

ROWS = 12
IN_FLIGHT = 2
FAST = ("--set", "explain=false", "--set", "rules=", "--set", "retries=0", "--backend-option", f"parallel={IN_FLIGHT}")
HYBRID = (sys.executable, "-m", "hybrid")
KEEPS = ("hybrid.grading.reply_cache", "ReplyCache._keep", "after")


class Grading:
    """`hybrid grade --grader judge` as a user runs it, on a machine of its own."""

    def __init__(self, place: Path, server: OllamaServer, rows: int = ROWS) -> None:
        self.place, self.server, self.home = place, server, place / "home-of-hybrid"
        self.grades = place / "answers.grades.judge.json"
        self.answers = place / "answers.jsonl"
        self.answers.write_text("".join(json.dumps(answer(number)) + "\n" for number in range(rows)))

    def arguments(self, *more: str) -> list[str]:
        grade = ["grade", str(self.answers), "--grader", "judge", "--model", self.server.model, "--json"]
        return [*grade, *FAST, *more]

    @property
    def environment(self) -> dict[str, str]:
        return {**self.server.env, "HYBRID_HOME": str(self.home)}

    def start(self, *more: str, prefix: Sequence[str] = HYBRID) -> subprocess.Popen[str]:
        return subprocess.Popen(
            [*prefix, *self.arguments(*more)], env=self.environment, cwd=self.place, text=True,
            stdout=subprocess.PIPE, stderr=subprocess.PIPE, preexec_fn=heed_signals,  # noqa: PLW1509
        )  # fmt: skip

    def run(self, *more: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            [*HYBRID, *self.arguments(*more)],
            env=self.environment,
            cwd=self.place,
            capture_output=True,
            text=True,
            check=False,
        )

    def kept(self) -> int:
        """Replies that are safe on disk."""
        path = self.home / "replies.sqlite"
        if not path.exists():
            return 0
        with closing(sqlite3.connect(path, timeout=60)) as rows:
            try:
                return int(rows.execute("SELECT count(*) FROM reply").fetchone()[0])
            except sqlite3.OperationalError:
                return 0

    def wait_for(self, replies: int, process: subprocess.Popen[str]) -> None:
        assert soon(lambda: self.kept() >= replies or process.poll() is not None)


def answer(number: int) -> dict[str, Any]:
    return {
        "key": f"{number:064x}", "task": f"t{number}", "question": f"t{number}/0", "reference": "Paris",
        "view": {"question": f"Which city is number {number}?"}, "text": f"I think that it is city {number}.",
    }  # fmt: skip


@pytest.fixture
def own_server(ollama_binary: Path, ollama_server: OllamaServer, tmp_path: Path) -> Iterator[OllamaServer]:
    """A server that the test may kill; it shares the store of the session's."""
    server = OllamaServer(ollama_binary, tmp_path, store=ollama_server.store).start()
    yield server
    server.kill()


def calls(server: OllamaServer) -> int:
    """Verdicts that the server was asked for and finished, from its log."""
    return sum("/api/chat" in line and "| 200 |" in line for line in server.log.read_text().splitlines())


def test_kill_9_at_any_moment_repeats_no_call_that_was_answered(own_server: OllamaServer, tmp_path: Path) -> None:
    grading, rng, kills = Grading(tmp_path, own_server), random.Random(5), 0
    for at in (1, 2):
        process = grading.start(prefix=killed_at(*KEEPS, at))
        _, said = process.communicate(timeout=PATIENCE)
        kills += process.returncode == -signal.SIGKILL
        assert not grading.grades.exists()
    process = grading.start()
    while process.poll() is None:
        before = grading.kept()
        grading.wait_for(before + rng.randint(1, 2), process)
        time.sleep(rng.random() * 0.3)
        if process.poll() is None:
            process.send_signal(signal.SIGKILL)
            kills += 1
        process.communicate()
        if grading.kept() == ROWS:
            break
        assert not grading.grades.exists()
        process = grading.start()
    process.communicate()
    done = grading.run()
    assert done.returncode == 0, done.stderr
    summary = json.loads(done.stdout.splitlines()[-1])["summary"]
    assert kills >= 2, said
    assert grading.kept() == ROWS == summary["n"] + summary["ungraded"]["count"]
    # What was in flight when a process died may have been finished by the server for nobody.
    assert ROWS <= calls(own_server) - SHOWN <= ROWS + kills * (IN_FLIGHT + 1 + SHOWN) + 1
    asked = calls(own_server)
    assert grading.run().returncode == 0
    assert calls(own_server) == asked


def test_a_server_that_goes_away_is_temporary_and_the_same_command_goes_on(
    own_server: OllamaServer, tmp_path: Path
) -> None:
    grading = Grading(tmp_path, own_server)
    assert own_server.process
    gone = killed_at(*KEEPS, 3, to=-own_server.process.pid)
    process = grading.start("--backend-option", "patience=2", prefix=gone)
    _, said = process.communicate(timeout=PATIENCE)
    own_server.kill()
    assert process.returncode == 5, said
    assert "ollama serve" in said
    assert not grading.grades.exists()
    kept = grading.kept()
    assert 3 <= kept < ROWS
    assert grading.run("--backend-option", "patience=1").returncode == 5
    own_server.start()
    before = calls(own_server)
    done = grading.run()
    assert done.returncode == 0, done.stderr
    assert calls(own_server) - before <= ROWS - kept + 1 + SHOWN  # one loads the model
    assert grading.kept() == ROWS


def test_ctrl_c_keeps_what_was_said(own_server: OllamaServer, tmp_path: Path) -> None:
    grading = Grading(tmp_path, own_server)
    process = grading.start(prefix=killed_at(*KEEPS, 2, number=signal.SIGINT))
    _, said = process.communicate(timeout=PATIENCE)
    assert process.returncode == 4, said
    assert "the same command goes on" in said
    assert 2 <= grading.kept() < ROWS


def test_judging_uses_the_slots_of_the_server_and_its_digest(ollama_server: OllamaServer, tmp_path: Path) -> None:
    grading = Grading(tmp_path, ollama_server, rows=6)
    done = grading.run()
    assert done.returncode == 0, done.stderr
    judge = json.loads(done.stdout.splitlines()[-1])["summary"]["judge"]
    assert judge["models"] == [{"name": "smollm2", "digest": ollama_server.models()["smollm2:latest"]}]
    assert grading.grades.stat().st_size > 0
