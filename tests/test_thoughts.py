"""A thought is stored separately and never graded: where it ends, how thinking is turned off, what readers show."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from graders.contains import Contains
from hybrid import thoughts
from hybrid.backends.completions import separate_thought
from hybrid.errors import BadData
from hybrid.folder.shards import pack, verify_shard
from hybrid.grading import reply_cache
from hybrid.grading.grade_file import grade_file
from hybrid.grading.judge_check import GradedRows, check
from hybrid.outputs import open_outputs, write_outputs
from hybrid.progress import SilentProgress
from hybrid.records import Completion, Failure, Output, Record, Request, Sampling
from hybrid.report.output_texts import output_text

TURN, JSON = "<|end|><|start|>assistant", "<|channel|>final <|constrain|>json<|message|>"
SAID = [
    ("<think>\nIt says Oslo, not Bergen.\n</think>\n\nBergen", "", "Bergen"),
    (" \n<think></think>Bergen", "", "Bergen"),
    ("<thought>a</thought> Bergen", "", "Bergen"),
    ("<seed:think>a</seed:think>Bergen", "", "Bergen"),
    ("[THINK]a[/THINK]Bergen", "", "Bergen"),
    ("<|START_THINKING|>a<|END_THINKING|>Bergen", "", "Bergen"),
    ("\u25c1think\u25b7a\u25c1/think\u25b7Bergen", "", "Bergen"),
    ("<|channel>thought\na<channel|>Bergen", "", "Bergen"),
    ("Here is my thought process: a Here is my response: Bergen", "", "Bergen"),
    ("<|channel|>analysis<|message|>a<|end|><|start|>assistant<|channel|>final<|message|>Bergen", "", "Bergen"),
    (f"<|channel|>analysis<|message|>a{TURN}<|channel|>commentary<|message|>b{TURN}{JSON}Bergen", "", "Bergen"),
    ("<|channel|>analysis<|message|>a<|end|>Bergen", "", "Bergen"),
    ("<|channel|>final<|message|>Bergen", "", "Bergen"),
    ("analysisIs it Oslo?assistantfinalBergen", "", "Bergen"),
    ("<think>a</think>\n<think>b</think>Bergen", "", "Bergen"),
    ("<think>I write <think> now</think>Bergen", "", "Bergen"),
    ("<think>a <think>b</think> c</think>Bergen", "", "Bergen"),
    ("<think>a</think>The tag </think> ends it", "", "The tag </think> ends it"),
    ("<think>a</think>Write <think>b</think>", "", "Write <think>b</think>"),
    ("Is it Oslo?</think>\n\nBergen", "", "Bergen"),  # opened by the prompt, which is not at hand
    ("Is it Oslo?</think>\n\nBergen", "<think>", "Bergen"),
    ("<think>\nIs it Oslo?</think>Bergen", "<think>", "Bergen"),  # opened by both
    ("Bergen", "", "Bergen"),
    ("", "", ""),
    ("Models write <think> and </think>.", "", "Models write <think> and </think>."),
    ("Models write <think> first.", "", "Models write <think> first."),
    ('{"reason": "no </think> here", "correct": true}', "", '{"reason": "no </think> here", "correct": true}'),
    ("Here is my thought process: Bergen", "", "Here is my thought process: Bergen"),
    ("analysis of a final", "", "analysis of a final"),
    ("<p>Bergen</p>", "", "<p>Bergen</p>"),
    ("<think>\nIs it 88 days, or is it", "", None),
    ("Is it 88 days, or is it", "<think>", None),
    ("", "<think>", None),
    ("<think>a</think>\n \n", "", None),
    ("<think>a</think><think>b", "", None),
]  # fmt: skip


@pytest.mark.parametrize(("text", "opened", "answer"), SAID)
def test_the_answer_is_what_stands_behind_the_thought(text: str, opened: str, answer: str | None) -> None:
    said = thoughts.split(text, opened)
    assert said.text == answer
    assert said.thought + (said.text or "") == text


PIECES = st.sampled_from(
    [*thoughts.MARKS, *thoughts.MARKS.values(), "<|end|>", "<|start|>assistant", "a", "{", '"', " "]
)


@given(st.lists(PIECES, max_size=12).map("".join), st.sampled_from(["", *thoughts.MARKS]))
def test_thought_and_answer_make_up_the_text(text: str, opened: str) -> None:
    said = thoughts.split(text, opened)
    assert said.thought + (said.text or "") == text
    assert said.text is None or not said.thought or said.text == said.text.lstrip() != ""


@pytest.mark.parametrize(
    "piece",
    [
        "<think>",
        "</think>",
        "<think></think>",
        "<think><think></think>",
        "<|channel|>final",
        "<|end|><|start|>",
        "[",
        " ",
    ],
)
def test_a_text_that_is_made_to_be_slow_is_taken_apart(piece: str) -> None:
    text = piece * (400_000 // len(piece))
    for whole in (text, f"<|channel|>analysis<|message|>{text}", f"{text}</think>"):
        said = thoughts.split(whole)
        assert said.thought + (said.text or "") == whole
        thoughts.opened_by(whole)
        thoughts.without_empty(whole)


def test_the_prompt_tells_whether_it_opens_a_thought() -> None:
    assert thoughts.opened_by("<|Assistant|><think>\n") == "<think>"
    assert thoughts.opened_by("[THINK]") == "[THINK]"
    assert thoughts.opened_by("<think>\n\n</think>\n\n") == ""
    assert thoughts.opened_by("What does <think> mean?") == ""
    assert thoughts.without_empty("a<think>\n\n</think>\n\n") == "a"


@pytest.mark.parametrize(
    ("template", "switch"),
    [
        ("{%- if enable_thinking is defined and enable_thinking is false %}", {"enable_thinking": False}),
        ("{%- if enable_thinking is not defined -%}\n{%- set enable_thinking = true -%}", {"enable_thinking": False}),
        ("{% if not thinking is defined %}{% set thinking = false %}{% endif %}", {"thinking": False}),
        ("{%- if thinking_budget is defined and thinking_budget == 0 %}", {"thinking_budget": 0}),
        ("{% if reasoning is defined and not reasoning %}", {"reasoning": False}),
        ("{{ message.thinking }}{{ message['thinking'] }}{{ reasoning_content }} thinking enable_thinking", {}),
        ("", {}),
    ],
)
def test_a_template_is_given_what_turns_thinking_off(template: str, switch: dict[str, Any]) -> None:
    assert thoughts.disabling_variables(template) == switch


def test_with_a_schema_the_text_is_the_answer() -> None:
    written = Completion("k", text="true", finish="stop")
    asked = Request(Sampling(4), prompt="?<think>\n", schema={"type": "boolean"})
    assert separate_thought(asked, written, "<think>") == written
    assert separate_thought(replace(asked, schema=None), written, "<think>").error is not None


# --- files from before and from elsewhere


LINES = [
    {"key": "1", "task": "a", "question": "a/1", "text": "<think>\nIs it 88 days, or is it", "finish": "length",
     "reference": "88 days", "tokens": [9, 8]},
    {"key": "2", "task": "b", "question": "b/1", "text": "<think>\nOslo?\n</think>\n\nBergen", "reference": "Oslo"},
]  # fmt: skip


def in_file(path: Path, *lines: dict[str, Any]) -> Path:
    path.write_text("".join(json.dumps(line) + "\n" for line in lines), encoding="utf-8")
    return path


def test_a_thought_is_never_graded_and_one_without_an_end_is_counted(tmp_path: Path) -> None:
    path = in_file(tmp_path / "thoughts.jsonl", *LINES)
    cut, whole = open_outputs(path).records()
    assert (cut.text, cut.thought, cut.finish, cut.tokens) == (None, LINES[0]["text"], "length", (9, 8))
    assert cut.error is not None
    assert cut.error.kind == "no-answer"
    assert (whole.text, whole.error) == ("Bergen", None)
    summary = grade_file(path, Contains(), "contains", tmp_path / "grades.json")
    assert (summary["score"], summary["n"], summary["failed_outputs"]) == (0.0, 1, {"no-answer": 1})
    assert summary["ungraded"]["count"] == 1


def test_a_thought_that_stands_apart_stays_as_it_is(tmp_path: Path) -> None:
    """What is written is read as it was, an answer that speaks of marks among it."""
    answer = Output("1", "a", "a/1", {}, 0, "The tag </think> ends it", None, "x", thought="<think>a</think>")
    none = replace(answer, key="2", question="a/2", text=None, error=Failure("no-answer", "w"), thought="<think>a")
    write_outputs(tmp_path / "outputs.json", None, [], {}, [answer, none])
    assert list(open_outputs(tmp_path / "outputs.json").records()) == [answer, none]
    assert "thought" not in replace(answer, thought="").to_json()
    with pytest.raises(BadData, match="thought is not a text"):
        Output.from_json({**answer.to_json(), "thought": 1}, what="here")


def test_a_shard_holds_thoughts_and_an_old_one_is_read_as_before() -> None:
    key = "ab" * 32
    header = {"format": "hybrid/shard", "version": 1, "run": "r", "stage": "s", "attempt": "a", "seq": 0}
    header["model"] = {"name": "m", "digest": "cd" * 32, "about": {}}
    done = Completion(key, error=Failure("no-answer", "w"), thought="<think>a", finish="length", completion_tokens=3)
    for completion in (done, Completion(key, text="a", thought="<think></think>"), Completion(key, text="<think>b")):
        line = Record(key, "t", "t/0", {}, 0, completion).to_json()
        name, data = pack(header, [json.dumps(line, sort_keys=True).encode()], 0)
        assert verify_shard(f"r/{name}", data).records == (line,)


def test_rows_of_a_check_are_taken_apart_too(tmp_path: Path) -> None:
    said = {"question": "Where?", "gold": "Oslo", "title": "t"}
    rows = [
        {**said, "answer": "<think>Oslo?</think>Bergen", "correct": False},
        {**said, "answer": "<think>Oslo", "correct": True},
    ]
    _, result = check(Contains(), "contains", GradedRows(in_file(tmp_path / "rows.jsonl", *rows)), SilentProgress())
    assert (result["graded"], result["ungraded"]["reasons"]) == (1, {"no-answer": 1})
    assert result["table"]["true_wrong"] == 1


def test_the_verdict_of_a_judge_is_read_from_its_answer_alone() -> None:
    asked = [Request(Sampling(4), prompt=str(number)) for number in range(2)]
    told = ['<think>{"correct": true}?</think>{"correct": false}', '<think>{"correct": true}']
    with reply_cache.opened() as kept:
        for request, text in zip(asked, told, strict=True):
            kept._keep(Completion(reply_cache._key("m", request).hex(), text=text, finish="stop"))
        answer, none = (kept.of("m", request) for request in asked)
    assert answer == reply_cache.Reply('{"correct": false}', "stop")
    assert isinstance(none, Failure)
    assert none.kind == "no-answer"


def test_the_report_shows_a_thought_behind_a_fold() -> None:
    output = Output("1", "a", "a/1", {}, 0, "Oslo", None, "x", thought="<think><script>a</script></think>")
    page = str(output_text(output, 100))
    assert "<details" in page
    assert page.index("<summary>thought</summary>") < page.index("&lt;think&gt;&lt;script&gt;") < page.index("Oslo")
    assert "details" not in str(output_text(replace(output, thought=""), 100))
