"""The pipeline: what is read from either layout, which items, with what in them, and never an answer."""

from __future__ import annotations

import dataclasses
import hashlib
import json
import os
import random
import re
import time
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from graders.contains import Contains
from graders.squad import Squad
from hybrid.canonical import decode, encode
from hybrid.errors import BadData, HybridError, UsageError
from hybrid.execution.roles import stages_with
from hybrid.protocols import Pipeline
from hybrid.records import Item, Output
from hybrid.settings import build
from hybrid.tasks.squad import data as squad
from hybrid.tasks.squad.data import MAX_CONTEXT, SAMPLE, read
from hybrid.testing import check_pipeline
from pipelines.qa.eval import QaEval

OFFICIAL: dict[str, Any] = {
    "version": "v2.0",
    "data": [
        {
            "title": "River_Rhine",
            "paragraphs": [
                {
                    "context": "The Rhine rises in the Alps and flows into the North Sea.",
                    "qas": [
                        {"id": "r1", "question": "Where does it rise?", "answers": [{"text": "the Alps"}]},
                        {
                            "id": "r2",
                            "question": "Into what does it flow?",
                            "is_impossible": False,
                            "answers": [{"text": "the North Sea"}, {"text": "North Sea"}, {"text": "the North Sea"}],
                        },
                        {"id": "r3", "question": "Who owns it?", "is_impossible": True, "answers": []},
                        {"id": "r4", "question": "How deep is it?", "answers": [{"text": " "}]},
                    ],
                }
            ],
        }
    ],
}
SEAL: list[dict[str, Any]] = [
    {
        "title": "River Rhine",
        "context": "The Rhine rises in the Alps and flows into the North Sea.",
        "questions": [
            {"question": "Where does it rise?", "answer": "the Alps"},
            {"question": "Into what does it flow?", "answer": "the North Sea"},
            {"question": "Where does it rise?", "answer": "in the Alps"},
        ],
    },
    {"title": "Oslo", "context": "Oslo is in Norway.", "questions": [{"question": "Where?", "answer": "Norway"}]},
]


def written(tmp_path: Path, value: Any) -> str:
    path = tmp_path / "data.json"
    path.write_text(json.dumps(value))
    return str(path)


def items(pipeline: QaEval) -> list[Item]:
    """The items as a worker gets them: from tasks that went through JSON."""
    tasks = decode(encode(dict(pipeline.inputs().tasks)), what="tasks")
    return list(pipeline.stages()[0].items(tasks))


@pytest.mark.parametrize("chosen", [{}, {"context": False}, {"format": "plain"}, {"samples": 3, "temperature": 1.0}])
def test_it_has_one_stage_on_the_gpu_side_and_with_a_judge_more_on_the_laptop_side(chosen: dict[str, Any]) -> None:
    pipeline = QaEval(**chosen)
    assert isinstance(pipeline, Pipeline)
    assert [(one.name, one.side, one.version) for one in stages_with(pipeline, [])] == [("answer", "gpu", 1)]
    assert [(one.name, one.side, one.role) for one in stages_with(pipeline, ["judge"])] == [
        ("answer", "gpu", ""), ("judged", "laptop", "judge"), ("judged-again", "laptop", "judge"),
        ("answer-judged", "laptop", ""),
    ]  # fmt: skip
    check_pipeline(pipeline)


def test_the_sample_has_three_questions_a_passage_whose_answer_stands_in_it() -> None:
    value = json.loads(SAMPLE.read_text())
    assert len(value["data"]) == 12
    for paragraph in (paragraph for article in value["data"] for paragraph in article["paragraphs"]):
        assert len(paragraph["qas"]) == 3
        for row in paragraph["qas"]:
            first = row["answers"][0]
            assert paragraph["context"][first["answer_start"] :].startswith(first["text"])
            answer = Output("k", "t", "t/0", {}, 0, first["text"], None, [one["text"] for one in row["answers"]])
            assert Squad().grade(answer).score == Contains().grade(answer).score == 1.0


def test_both_layouts_give_the_same_passages(tmp_path: Path) -> None:
    official = QaEval(data=written(tmp_path, OFFICIAL)).inputs()
    (rhine,) = official.tasks
    assert rhine.startswith("river-rhine-")
    assert official.references == {f"{rhine}/r1": ["the Alps"], f"{rhine}/r2": ["the North Sea", "North Sea"]}
    assert official.about["whole file"] == {
        "passages": 1, "questions": 2, "impossible, left out": 1, "without an answer, left out": 1,
    }  # fmt: skip
    seal = QaEval(data=written(tmp_path, SEAL)).inputs()
    assert next(iter(seal.tasks)) == rhine
    assert sorted(map(str, seal.references.values())) == ["['Norway']", "['in the Alps']", "['the Alps']",
                                                          "['the North Sea']"]  # fmt: skip
    assert seal.about["whole file"] == {"passages": 2, "questions": 4, "asked again": 1}
    assert (seal.about["passages"], seal.about["questions"], seal.about["grader"]) == (2, 4, "squad")
    assert list(seal.about["files"]) == ["data.json"]


@pytest.mark.parametrize("none", ["del", None, ""])
def test_titles_and_ids_may_be_missing_and_names_are_then_made_of_the_content(tmp_path: Path, none: str | None) -> None:
    """Trap: tools for annotation write SQuAD's layout without titles, and other tools without ids."""
    official, seal = json.loads(json.dumps([OFFICIAL, SEAL[:1]]))
    rows = official["data"][0]["paragraphs"][0]["qas"]
    for part, name in [(official["data"][0], "title"), (seal[0], "title"), *((row, "id") for row in rows)]:
        part.pop(name, None)
        part.update({} if none == "del" else {name: none})
    pipeline = QaEval(data=written(tmp_path, official))
    given = pipeline.inputs()
    (rhine,) = given.tasks
    assert re.fullmatch("passage-[0-9a-f]{12}", rhine)
    questions = ("Where does it rise?", "Into what does it flow?")
    assert set(given.references) == {f"{rhine}/{hashlib.sha256(text.encode()).hexdigest()[:12]}" for text in questions}
    assert "Topic" not in str([item.request for item in items(pipeline)])
    assert list(QaEval(data=written(tmp_path, seal)).inputs().tasks) == [rhine]


def test_no_answer_is_in_the_tasks_or_in_any_request(tmp_path: Path) -> None:
    hidden = "zebra"
    value = [{"title": "T", "context": "C", "questions": [{"question": "Q?", "answer": hidden}]}]
    for chosen in ({}, {"context": False}, {"format": "plain"}):
        pipeline = QaEval(data=written(tmp_path, value), **chosen)
        assert list(pipeline.inputs().references.values()) == [[hidden]]
        seen = encode([pipeline.inputs().tasks, *(dataclasses.asdict(item) for item in items(pipeline))]).decode()
        assert hidden not in seen


def test_without_the_passage_it_is_nowhere_and_the_questions_have_the_same_names() -> None:
    shown, hidden = QaEval(), QaEval(context=False)
    assert shown.inputs().references == hidden.inputs().references
    assert "Mariner" not in encode(dict(hidden.inputs().tasks)).decode()
    for item, other in zip(items(shown), items(hidden), strict=True):
        assert item.view == {"question": other.view["question"], "context": True}
        assert item.key("answer/1", "m") != other.key("answer/1", "m")
        assert "Passage: " in item.request.messages[1].content
        assert "Passage: " not in other.request.messages[1].content


def test_names_do_not_depend_on_what_else_is_in_the_file(tmp_path: Path) -> None:
    keys = {item.key("answer/1", "m") for item in items(QaEval(data=written(tmp_path, SEAL)))}
    alone = {item.key("answer/1", "m") for item in items(QaEval(data=written(tmp_path, SEAL[1:])))}
    turned = {item.key("answer/1", "m") for item in items(QaEval(data=written(tmp_path, SEAL[::-1])))}
    assert len(keys) == 4
    assert alone < keys == turned


def test_what_is_asked_is_the_question_below_the_topic_and_the_passage(tmp_path: Path) -> None:
    item = items(QaEval(data=written(tmp_path, OFFICIAL)))[0]
    assert [message.role for message in item.request.messages] == ["system", "user"]
    assert item.request.messages[1].content == (
        "Topic: River Rhine\nPassage: The Rhine rises in the Alps and flows into the North Sea.\n"
        "Question: Where does it rise?"
    )
    assert item.request.template == {"date_string": "26 Jul 2024"}
    assert (item.request.sampling.max_tokens, item.request.sampling.temperature) == (64, 0.0)
    bare = items(QaEval(data=written(tmp_path, OFFICIAL), context=False, topic=False, instruction="Say it."))[0]
    assert [message.content for message in bare.request.messages] == ["Say it.", "Question: Where does it rise?"]


def test_the_seal_preset_asks_as_seal_does(tmp_path: Path) -> None:
    pipeline = build(QaEval, [f"data={written(tmp_path, OFFICIAL)}"], "seal")
    assert items(pipeline)[0].request.prompt == (
        "Let's answer a question directly and concisely.\nQuestion: Topic: River Rhine\nWhere does it rise?\nAnswer:\n"
    )
    assert items(pipeline)[0].request.messages == ()


def test_the_seal_preset_draws_what_pythons_generator_draws(tmp_path: Path) -> None:
    value = [{**SEAL[1], "title": f"T{n}"} for n in range(500)]
    order = list(range(500))
    random.seed(42)
    random.shuffle(order)
    inputs = build(QaEval, [f"data={written(tmp_path, value)}"], "seal").inputs()
    assert [task["title"] for task in inputs.tasks.values()] == [f"T{n}" for n in order[:200]]


def test_limit_counts_passages_and_questions_those_of_each() -> None:
    assert len(items(QaEval(limit=2, questions=2))) == 4
    assert len(items(build(QaEval, (), "demo"))) == 12
    inputs = QaEval(limit=1, questions=1).inputs()
    assert (inputs.about["passages"], inputs.about["questions"], len(inputs.references)) == (1, 1, 1)


def test_items_come_in_the_order_in_which_they_are_graded_and_every_answer_has_a_seed_of_its_own() -> None:
    asked = items(QaEval(samples=2, temperature=0.7))
    assert [(item.task, item.question) for item in asked] == sorted((item.task, item.question) for item in asked)
    assert len({item.request.sampling.seed for item in asked}) == len(asked) == 72
    assert all(0 <= item.request.sampling.seed < 2**31 for item in asked)


@pytest.mark.parametrize(
    "setting",
    ["limit=-1", "questions=-1", "samples=0", "samples=2", "seed=-1", "shuffle=-1", "temperature=-1", "top_p=0",
     "max_tokens=0", "date=", "format=xml", "context=maybe"],
)  # fmt: skip
def test_settings_that_make_no_sense_are_refused(setting: str) -> None:
    with pytest.raises(UsageError):
        build(QaEval, [setting])


def changed(path: str, value: Any) -> Any:
    """OFFICIAL or SEAL (`path` begins with a number) with another value at the path; `del` takes it out."""
    whole: Any = json.loads(json.dumps(SEAL if path[0].isdigit() else OFFICIAL))
    *steps, last = [int(step) if step.isdigit() else step for step in path.split(".")]
    place = whole
    for step in steps:
        place = place[step]
    if value == "del":
        del place[last]
    else:
        place[last] = value
    return whole


@pytest.mark.parametrize(
    ("path", "value", "said"),
    [
        ("data", "del", "data.json: 'data' is not a list: its keys are 'version'"),
        ("data", {}, "'data' is not a list"),
        ("data", [], "no question with an answer"),
        ("data.0", None, "data[0]: 'title' is not a text"),
        ("data.0.title", 5, "data[0]: 'title' is not a text"),
        ("data.0.paragraphs", "x", "data[0]: 'paragraphs' is not a list"),
        ("data.0.paragraphs.0.context", "del", "data[0].paragraphs[0]: 'context' is not a text"),
        ("data.0.paragraphs.0.context", " ", "'context' is not a text"),
        ("data.0.paragraphs.0.context", "x" * (MAX_CONTEXT + 1), "'context' has 200,001 characters"),
        ("data.0.paragraphs.0.qas.1", [1], "data[0].paragraphs[0].qas[1]: 'id' is not a text"),
        ("data.0.paragraphs.0.qas.1.id", [], "qas[1]: 'id' is not a text"),
        ("data.0.paragraphs.0.qas.1.question", "", "qas[1]: 'question' is not a text"),
        ("data.0.paragraphs.0.qas.1.answers", {"text": ["x"]}, "qas[1]: 'answers' is not a list"),
        ("data.0.paragraphs.0.qas.1.answers.0", "x", "qas[1].answers[0]: 'text' is not a text"),
        ("data.0.paragraphs.0.qas.1.answers", [{"text": "x"}] * 101, "101 answers"),
        ("0.questions", "del", "data.json: [0]: 'questions' is not a list: its keys are 'context', 'title'"),
        ("0.questions", None, "[0]: 'questions' is not a list"),
        ("0.questions.0.answer", ["x"], "[0].questions[0]: 'answer' is not a text"),
        ("0.questions.0.question", "q" * 10_001, "'question' has 10,001 characters"),
        ("0.title", 5, "[0]: 'title' is not a text"),
    ],
)
def test_a_malformed_file_is_refused_with_the_place(tmp_path: Path, path: str, value: Any, said: str) -> None:
    with pytest.raises(BadData) as caught:
        read(Path(written(tmp_path, changed(path, value))))
    assert said in caught.value.message
    assert len(caught.value.message) < 1000


@pytest.mark.parametrize(
    "text", ["", "{", "null", "5", '"x"', "[" * 5000 + "]" * 5000, '{"data": NaN}', '["\\ud800"]', "\x00", "[[]]"]
)
def test_what_is_no_such_json_is_refused(tmp_path: Path, text: str) -> None:
    path = tmp_path / "data.json"
    path.write_text(text)
    with pytest.raises(BadData):
        read(path)


def test_what_is_no_file_is_refused_at_once(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe")
    for path in (tmp_path, tmp_path / "none", tmp_path / "pipe", Path("x\0y")):
        with pytest.raises(UsageError):
            read(path)


def test_a_file_that_is_too_large_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = Path(written(tmp_path, SEAL))
    monkeypatch.setattr(squad, "MAX_FILE", path.stat().st_size)
    assert len(read(path).passages) == 2
    monkeypatch.setattr(squad, "MAX_FILE", path.stat().st_size - 1)
    with pytest.raises(BadData, match="more than"):
        read(path)


def test_names_that_cannot_be_names_become_hashes_and_names_twice_get_a_number(tmp_path: Path) -> None:
    rows = [{"id": id, "question": f"Q{n}?", "answers": [{"text": "A"}]}
            for n, id in enumerate(["../../etc", "x", "x", "x-2", 7, "a\x1b[2J", "\u0439" * 500])]  # fmt: skip
    value = {"data": [{"title": "\u6771\u4eac/..", "paragraphs": [{"context": "C", "qas": rows}]}]}
    found = read(Path(written(tmp_path, value)))
    names = [one.name for one in found.passages[0].questions]
    assert names[1:5] == ["x", "x-2", "x-2-2", "7"]
    assert len(set(names)) == 7
    assert all(name.isascii() and name.replace("-", "").isalnum() for name in [*names, found.passages[0].id])
    assert found.passages[0].id.startswith("passage-")
    assert found.about["whole file"]["asked again"] == 2


def test_one_question_many_thousand_times_takes_seconds(tmp_path: Path) -> None:
    path = written(tmp_path, [{**SEAL[1], "questions": SEAL[1]["questions"] * 30_000}])
    start = time.process_time()
    assert read(Path(path)).about["whole file"]["asked again"] == 29_999
    assert time.process_time() - start < 10


def test_a_passage_that_stands_there_twice_is_one(tmp_path: Path) -> None:
    found = read(Path(written(tmp_path, [SEAL[1], SEAL[0], SEAL[1]])))
    assert [len(passage.questions) for passage in found.passages] == [2, 3]


@pytest.mark.parametrize(
    "task",
    [None, [], {}, {"title": "T", "questions": []}, {"title": "T", "context": 5, "questions": []},
     {"title": "T", "context": "C", "questions": [["a"]]}, {"title": "T", "context": "C", "questions": [["a", 5]]}],
)  # fmt: skip
def test_a_task_of_something_else_is_refused(task: Any) -> None:
    with pytest.raises(BadData):
        list(QaEval().stages()[0].items({"t": task}))


JSON = st.recursive(
    st.none() | st.booleans() | st.integers(-5, 5) | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=3)
    | st.dictionaries(
        st.sampled_from(["data", "title", "paragraphs", "context", "qas", "id", "question", "answers", "text",
                         "questions", "answer", "is_impossible"]),
        inner,
        max_size=4,
    ),
    max_leaves=30,
)  # fmt: skip


@pytest.mark.slow
@settings(deadline=None)
@given(JSON)
def test_whatever_is_in_a_file_is_read_or_refused(tmp_path_factory: pytest.TempPathFactory, value: Any) -> None:
    path = tmp_path_factory.getbasetemp() / "any.json"
    path.write_text(json.dumps(value))
    try:
        found = read(path)
    except HybridError:
        return
    assert all(passage.questions for passage in found.passages)
