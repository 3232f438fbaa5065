"""Answers from a file: an invalid script is refused, and the error names the file."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path
from typing import Any

import pytest

from graders.arc import Arc
from hybrid.backends.scripted import LOOK_S, ScriptedBackend
from hybrid.errors import BadData, UsageError
from hybrid.grading.grade_file import grade_file
from hybrid.outputs import write_outputs
from hybrid.records import Item, Message, Output, Request, Sampling
from hybrid.testing import impossible_requests
from pipelines.seal.eval import SealEval


def chat(*contents: str) -> list[dict[str, str]]:
    """A chat with alternating messages of user and assistant."""
    return [{"role": ("user", "assistant")[i % 2], "content": text} for i, text in enumerate(contents)]


@pytest.mark.parametrize(
    ("script", "words"),
    [
        ([], "not a script"),
        ({"answers": []}, "not a script"),
        ({"answers": None, "chats": []}, "not a script"),
        ({"default": "a"}, "not a script"),
        ({"chats": {}}, "'chats' is not a list"),
        ({"chats": ["a"]}, "chat 1 is not a list of messages"),
        ({"chats": [[{"role": "assistant", "content": "a"}]]}, "chat 1 is not a list of messages"),
        (
            {"chats": [[{"role": "tool", "content": "a"}, {"role": "assistant", "content": "a"}]]},
            "chat 1 is not a list",
        ),
        ({"chats": [[{"role": "user", "content": 1}, {"role": "assistant", "content": "a"}]]}, "chat 1 is not a list"),
        ({"chats": [[{"role": "user", "content": "a"}] * 2]}, "chat 1 does not end with a message of the assistant"),
        ({"chats": [chat("a", "b"), chat("a", "c")]}, "chat 2 has another answer than an earlier one"),
        ({"answers": {}, "defualt": "a"}, "not a script: no member is called 'defualt'"),
        ({"anwsers": {}}, "no member is called 'anwsers'"),
        ({"answers": {"a": 5}}, "the answer to 'a' is not a text"),
        ({"answers": {"a": None}}, "the answer to 'a' is not a text"),
        ({"answers": {}, "default": 5}, "'default' is not a text"),
        ({"answers": {}, "context": "abc"}, "'context' is not a whole number"),
        ({"answers": {}, "context": True}, "'context' is not a whole number"),
        ({"answers": {}, "context": None}, "'context' is not a whole number"),
        ({"answers": {}, "context": 1e300}, "'context' is not a whole number"),
        ({"answers": {}, "context": -1}, "'context' is not a whole number"),
    ],
)
def test_what_is_no_script_is_refused_by_its_name(tmp_path: Path, script: Any, words: str) -> None:
    path = tmp_path / "script.json"
    path.write_text(json.dumps(script), encoding="utf-8")
    with pytest.raises(BadData, match=words) as caught:
        ScriptedBackend(str(path), {})
    assert str(path) in caught.value.message


def test_a_script_answers(tmp_path: Path) -> None:
    path = tmp_path / "script.json"
    path.write_text(json.dumps({"answers": {"a": "b"}, "default": None}), encoding="utf-8")
    backend = ScriptedBackend(str(path), {})
    asked = [Request(Sampling(9), prompt=prompt) for prompt in ("a", "c")]
    assert [done.text for done in backend.generate(asked)] == ["b", None]
    assert backend.model.context == 8192


def asked(*contents: str) -> Request:
    messages = [Message(**turn) for turn in chat(*contents)]  # type: ignore[arg-type]
    return Request(Sampling(99), tuple(messages))


def test_a_whole_chat_goes_before_its_last_message(tmp_path: Path) -> None:
    path = tmp_path / "script.json"
    script = {"answers": {"q": "plain"}, "chats": [chat("a", "b", "q", "of a"), chat("q", "alone")], "default": "none"}
    path.write_text(json.dumps(script), encoding="utf-8")
    backend = ScriptedBackend(str(path), {})
    requests = [asked("a", "b", "q"), asked("c", "b", "q"), asked("q"), asked("r"), Request(Sampling(99), prompt="q")]
    assert [done.text for done in backend.generate(requests)] == ["of a", "plain", "alone", "none", "plain"]


def test_a_vote_can_be_scripted(tmp_path: Path) -> None:
    """All views of a question in its own orientation end with the same message; only the whole chat distinguishes
    them.
    """
    task = {
        "train": [{"input": [[1, 2]], "output": [[2, 1]]}, {"input": [[3, 4]], "output": [[4, 3]]}],
        "test": [{"input": [[5, 6]]}],
    }
    pipeline = SealEval(include_n=(0, 1), permute_n=1, views=())
    items = list(pipeline.stages()[0].items({"t": task}))
    assert len(items) == 4
    assert len({item.request.messages[-1].content for item in items}) == 1
    texts = ["65", "56", "65", "11"]
    chats = [
        [*({"role": turn.role, "content": turn.content} for turn in item.request.messages), answer(text)]
        for item, text in zip(items, texts, strict=True)
    ]
    path = tmp_path / "script.json"
    path.write_text(json.dumps({"chats": chats}), encoding="utf-8")
    said = {done.key: done.text for done in ScriptedBackend(str(path), {}).generate(keyed(items))}
    outputs = [
        Output(str(number), "t", "t/0", item.view, 0, said[str(number)], None, [[6, 5]])
        for number, item in enumerate(items)
    ]
    assert [output.text for output in outputs] == texts
    write_outputs(tmp_path / "outputs.json", {"id": "r"}, [], {"t": task}, outputs)
    summary = grade_file(tmp_path / "outputs.json", Arc(), "arc", tmp_path / "grades.arc.json")
    assert (summary["score"], summary["figures"]["top1"]["mean"]) == (1.0, 1.0)  # type: ignore[index]


def test_answers_wait_at_a_gate_until_it_lets_them_through(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path, gate, calls = tmp_path / "script.json", tmp_path / "gate", tmp_path / "calls"
    path.write_text(json.dumps({"answers": {}, "default": "yes"}), encoding="utf-8")
    gate.write_text("2")
    looks: list[int] = []

    def open_step_by_step(seconds: float) -> None:
        if seconds == LOOK_S:
            looks.append(len(calls.read_text().split()))
            (lambda: gate.write_text(""), lambda: gate.write_text("3"), gate.unlink)[len(looks) - 1]()

    monkeypatch.setattr("hybrid.backends.scripted.time.sleep", open_step_by_step)
    backend = ScriptedBackend(str(path), {"gate": str(gate), "calls": str(calls)})
    requests = [dataclasses.replace(asked("a"), key=str(number)) for number in range(5)]
    assert [done.text for done in backend.generate(requests)] == ["yes"] * 5
    assert looks == [3, 3, 4]


def test_a_gate_that_is_no_number_lets_nothing_through_and_a_folder_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path, gate = tmp_path / "script.json", tmp_path / "gate"
    path.write_text(json.dumps({"answers": {}, "default": "yes"}), encoding="utf-8")
    later = iter(["none", "9" * 5000])
    gate.write_text("²", encoding="utf-8")
    monkeypatch.setattr("hybrid.backends.scripted.time.sleep", lambda seconds: seconds and gate.write_text(next(later)))
    backend = ScriptedBackend(str(path), {"gate": str(gate)})
    assert [done.text for done in backend.generate([asked("a")])] == ["yes"]
    with pytest.raises(UsageError, match=f"{tmp_path}: Is a directory"):
        list(ScriptedBackend(str(path), {"gate": str(tmp_path)}).generate([asked("a")]))


def answer(text: str) -> dict[str, str]:
    return {"role": "assistant", "content": text}


def keyed(items: list[Item]) -> list[Request]:
    return [dataclasses.replace(item.request, key=str(number)) for number, item in enumerate(items)]


def test_an_impossible_request_is_refused_as_by_a_model(tmp_path: Path) -> None:
    path = tmp_path / "script.json"
    path.write_text(json.dumps({"answers": {}, "default": "yes"}), encoding="utf-8")
    for done in ScriptedBackend(str(path), {}).generate(impossible_requests()):
        assert done.error is not None
        assert done.error.kind == "bad-request"
