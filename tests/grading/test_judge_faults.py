"""Whatever an Ollama server does, each answer gets the right verdict or none: no fault ever becomes a score."""

from __future__ import annotations

import io
import json
import signal
from collections.abc import Iterator
from contextlib import contextmanager, redirect_stderr, redirect_stdout
from pathlib import Path
from typing import Any

import pytest

from hybrid.cli import main
from tests.support.faulty_ollama import (
    BUSY,
    CRASH,
    MODEL,
    Behaviour,
    Endless,
    ErrorLine,
    FaultyOllama,
    Raw,
    Refuse,
    Say,
    Stall,
    asked,
    by_body,
)

RIGHT, WRONG = json.dumps({"reason": "same", "correct": True}), json.dumps({"reason": "no", "correct": False})
ANSWERS = {"right": RIGHT, "wrong": WRONG}
"""What an answer says about itself -> the verdict that it deserves."""


def verdict_on(body: dict[str, Any]) -> str:
    """What a judge without faults says; to a mere sign of life, anything."""
    return next((verdict for said, verdict in ANSWERS.items() if f"the {said} one" in asked(body)), "a")


def good(body: dict[str, Any]) -> Behaviour:
    return Say(verdict_on(body))


def around(before: str, after: str = "") -> Behaviour:
    return by_body(lambda body: Say(before + verdict_on(body) + after))


GOOD = by_body(good)
FAST = {"patience": "1", "parallel": "2"}
SILENT = {"idle_timeout": "2", "first_timeout": "2"}
"""For a judge that falls silent. Else nothing waits so long, unless this machine is slow."""


@contextmanager
def signals_kept() -> Iterator[None]:
    """What a command does about signals ends with it."""
    before = {number: signal.getsignal(number) for number in (signal.SIGTERM, signal.SIGHUP)}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def graded(server: FaultyOllama, place: Path, **limits: str) -> tuple[int, dict[str, Any], str]:
    """Exit code, verdicts by answer, and what was said, of `hybrid grade` on one right and one wrong answer."""
    path = place / "answers.jsonl"
    path.write_text("".join(
        json.dumps({"key": said, "task": said, "question": f"{said}/0", "reference": "gold",
                    "view": {"question": "Which?"}, "text": f"the {said} one"}) + "\n" for said in ANSWERS
    ))  # fmt: skip
    options = [word for name, value in (FAST | limits).items() for word in ("--backend-option", f"{name}={value}")]
    said = io.StringIO()
    with pytest.MonkeyPatch.context() as patch, redirect_stdout(said), redirect_stderr(said):
        patch.setenv("OLLAMA_HOST", server.url)
        patch.setenv("HYBRID_HOME", str(place / "home"))
        with pytest.raises(SystemExit) as left, signals_kept():
            main(["grade", str(path), "--grader", "judge", "--model", MODEL, *options])
    grades = place / "answers.grades.judge.json"
    found = json.loads(grades.read_text())["grades"] if grades.exists() else []
    return int(left.value.code or 0), {one["task"]: (one["score"], one["reason"]) for one in found}, said.getvalue()


REPAIRED = {
    "fences": around("```json\n", "\n```"),
    "stray text": around("Sure, here is my verdict: ", " I hope that it helps."),
    "white space after it": around("", "\n \n" * 60),
    "one piece at a time": by_body(lambda body: Say(verdict_on(body), pieces=60)),
    "slowly": by_body(lambda body: Say(verdict_on(body), pieces=5, delay=0.4)),
}
"""Faults after which the verdict is still clear."""

ONCE = {
    "503": BUSY,
    "a crash": CRASH,
    "a stall before the first token": Stall(),
    "a stall between tokens": Stall(after='{"reason'),
    "an early end": Say('{"reason": "s', done=False),
    "a cut connection": Raw(b'{"message": {"content": "{\\"correct\\": true}"}, "done": false}\n', closed=True),
    "a broken line": Raw(b'{"message": {"content": "{\\"correct\\": true}"}, "do\n'),
    "no UTF-8": Raw(b'{"message": {"content": "\xff\xfe"}, "done": true}\n'),
    "an error in the stream": ErrorLine("something went wrong", after=RIGHT),
}
"""Faults of the first call; the next ones are well."""

ALWAYS = {
    "no JSON": (Say("I would say that this is true."), "unreadable verdict"),
    "two verdicts": (Say(RIGHT + WRONG), "contradictory verdict"),
    "a number": (Say('{"correct": 1}'), "unreadable verdict"),
    "a verdict cut off": (Say('{"reason": "it is the sa', finish="length", tokens=256), "verdict cut off"),
    "nothing": (Say(""), "unreadable verdict"),
    "white space for ever": (Endless(" \n"), ""),
    "one token for ever": (Endless("x", obeys=False), ""),
    "an early end": (Say(RIGHT, done=False), "the judge failed: engine"),
    "stalls": (Stall(after=RIGHT), "the judge failed: stalled"),
    "errors in the stream": (ErrorLine("wrong", after=RIGHT), "the judge failed: engine"),
    "refused": (Refuse(400, "invalid format"), "the judge failed: bad-schema"),
}
"""Faults of every call, and why there is no verdict then."""


def limits_for(fault: str) -> dict[str, str]:
    """Options for a judge with this fault."""
    return SILENT if "stall" in fault else {}


@pytest.mark.parametrize("fault", REPAIRED)
def test_a_clear_verdict_is_found(fault: str, tmp_path: Path) -> None:
    with FaultyOllama([REPAIRED[fault]]) as server:
        code, grades, said = graded(server, tmp_path)
    assert (code, grades) == (0, {"right": (1.0, ""), "wrong": (0.0, "")}), said


@pytest.mark.parametrize("fault", ONCE)
def test_what_passes_is_waited_for_and_asked_again(fault: str, tmp_path: Path) -> None:
    with FaultyOllama([ONCE[fault], GOOD]) as server:
        code, grades, said = graded(server, tmp_path, **limits_for(fault))
    assert (code, grades) == (0, {"right": (1.0, ""), "wrong": (0.0, "")}), said


@pytest.mark.slow
@pytest.mark.parametrize("fault", ALWAYS)
def test_what_stays_is_ungraded_with_its_reason_and_never_a_score(fault: str, tmp_path: Path) -> None:
    behaviour, why = ALWAYS[fault]
    half = by_body(lambda body: behaviour if "the wrong one" in asked(body) else good(body))
    with FaultyOllama([half]) as server:
        code, grades, said = graded(server, tmp_path, **limits_for(fault))
    assert (code, grades["right"]) == (0, (1.0, "")), said
    score, reason = grades["wrong"]
    assert score is None
    assert why in reason


@pytest.mark.parametrize("fault", ["stalls", "an early end", "errors in the stream", "one token for ever"])
def test_a_server_that_never_answers_is_temporary(fault: str, tmp_path: Path) -> None:
    with FaultyOllama([ALWAYS[fault][0]]) as server:
        code, grades, said = graded(server, tmp_path, **dict.fromkeys(limits_for(fault), "1"))  # no call is answered
    assert (code, grades) == (5, {}), said
    assert "run the same command again" in said


def test_a_model_that_changes_meanwhile_ends_the_grading(tmp_path: Path) -> None:
    with FaultyOllama([GOOD], changes_after=2) as server:
        code, grades, said = graded(server, tmp_path)
    assert (code, grades) == (7, {}), said
    assert "another one now" in said


def test_a_server_that_is_away_is_temporary_and_nothing_is_written(tmp_path: Path) -> None:
    with FaultyOllama([GOOD]) as server:
        pass
    code, grades, said = graded(server, tmp_path)
    assert (code, grades) == (5, {}), said
    assert "Ollama" in said
