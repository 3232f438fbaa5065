"""The pipeline: what is read of a row, what a model is asked, and which row or setting is wrong."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from hybrid.canonical import decode, encode
from hybrid.errors import BadData, UsageError
from hybrid.execution.chosen_model import Engine
from hybrid.records import Item
from hybrid.settings import build
from hybrid.testing import check_pipeline
from pipelines.prompts.pipeline import Prompts
from pipelines.prompts.source import SAMPLE
from pipelines.prompts.template import Template
from tests.support.in_process import Hybrid

ROWS: list[dict[str, Any]] = [
    {"id": "a", "prompt": "One?", "reference": "1", "note": "first"},
    {"prompt": "Two?", "reference": ["2", "two"], "system": "Be brief.", "max_tokens": 5, "stop": "."},
    {"messages": [{"role": "user", "content": "Hi"}, {"role": "assistant", "content": "Ho"},
                  {"role": "user", "content": "Three?"}], "reference": 3, "group": "numbers"},
    {"messages": [{"role": "system", "content": "Be kind."},
                  {"role": "user", "content": [{"type": "text", "text": "4?"}]}], "id": 4,
     "group": "numbers", "schema": {"type": "integer"}},
]  # fmt: skip


def written(place: Path, rows: list[Any], name: str = "rows.jsonl") -> str:
    (place / name).write_text("".join(json.dumps(row) + "\n" for row in rows))
    return str(place / name)


def items(pipeline: Prompts) -> list[Item]:
    """The items as a worker gets them: from tasks that went through JSON."""
    tasks = decode(encode(dict(pipeline.inputs().tasks)), what="tasks")
    return list(pipeline.stages()[0].items(tasks))


def test_a_row_says_what_is_asked_how_and_what_is_right(tmp_path: Path) -> None:
    pipeline = Prompts(data=written(tmp_path, ROWS), system="Usual.")
    inputs = pipeline.inputs()
    assert inputs.references == {"a": "1", "00002": ["2", "two"], "numbers/00003": 3, "numbers/4": None}
    assert list(inputs.tasks) == ["a", "00002", "numbers"]
    assert inputs.about["grader"] == "contains"
    asked = {item.question: item for item in items(pipeline)}
    chats = {name: [(one.role, one.content) for one in item.request.messages] for name, item in asked.items()}
    assert chats == {
        "a": [("system", "Usual."), ("user", "One?")],
        "00002": [("system", "Be brief."), ("user", "Two?")],
        "numbers/00003": [("system", "Usual."), ("user", "Hi"), ("assistant", "Ho"), ("user", "Three?")],
        "numbers/4": [("system", "Be kind."), ("user", "4?")],
    }
    assert asked["00002"].request.sampling.max_tokens == 5
    assert asked["00002"].request.sampling.stop == (".",)
    assert asked["numbers/4"].request.schema == {"type": "integer"}
    assert asked["numbers/00003"].view == {"question": "user: Hi\n\nassistant: Ho\n\nuser: Three?"}
    assert all("reference" not in json.dumps(task) for task in inputs.tasks.values())


@pytest.mark.parametrize(
    "chosen", [{}, {"samples": 3}, {"format": "plain", "system": "Answer."}, {"limit": 3, "shuffle": 1}]
)
def test_it_keeps_what_every_pipeline_promises(chosen: dict[str, Any]) -> None:
    check_pipeline(Prompts(**chosen))


def test_several_samples_are_drawn_at_a_temperature_of_their_own() -> None:
    drawn = items(Prompts(samples=3, limit=1))
    assert [item.sample for item in drawn] == [0, 1, 2]
    assert len({item.request.sampling.seed for item in drawn}) == 3
    assert {item.request.sampling.temperature for item in drawn} == {0.7}
    assert {item.request.sampling.temperature for item in items(Prompts(limit=1))} == {0.0}
    with pytest.raises(UsageError, match="samples are all the same"):
        build(Prompts, ["samples=3", "temperature=0"])


BATCH: dict[str, Any] = {
    "custom_id": "b-1", "method": "POST", "url": "/v1/chat/completions", "reference": "7",
    "body": {"messages": [{"role": "developer", "content": "Count."}, {"role": "user", "content": "?"}],
             "model": "gpt-4o", "max_completion_tokens": 9, "temperature": 0.25, "top_p": 0.5, "seed": 3, "stop": ["x"],
             "response_format": {"type": "json_schema", "json_schema": {"name": "n", "schema": {"type": "number"}}}},
}  # fmt: skip


def test_a_row_of_a_batch_is_asked_as_its_body_says(tmp_path: Path) -> None:
    text = {"custom_id": "b-2", "url": "/v1/completions", "body": {"prompt": "Go on", "max_tokens": 4}}
    pipeline = Prompts(data=written(tmp_path, [BATCH, text]))
    one, other = items(pipeline)
    how = one.request.sampling
    assert (one.question, [m.role for m in one.request.messages]) == ("b-1", ["system", "user"])
    assert (how.max_tokens, how.temperature, how.top_p, how.seed, how.stop) == (9, 0.25, 0.5, 3, ("x",))
    assert one.request.schema == {"type": "number"}
    assert (other.request.messages[0].content, other.request.sampling.max_tokens) == ("Go on", 4)
    assert pipeline.inputs().references == {"b-1": "7", "b-2": None}


def test_the_files_of_a_folder_are_prompts_by_their_names(tmp_path: Path) -> None:
    (tmp_path / "more").mkdir()
    for name, text in {"b.txt": "Second?\n", "a.md": "First?", "more/c.txt": "Third?", ".hidden": "x"}.items():
        (tmp_path / name).write_text(text)
    (tmp_path / "link.txt").symlink_to("/etc/hostname")
    asked = {item.question: item.view["question"] for item in items(Prompts(data=str(tmp_path)))}
    assert asked == {"a.md": "First?", "b.txt": "Second?", "more/c.txt": "Third?"}


def test_columns_of_other_names_are_read(tmp_path: Path) -> None:
    rows = [{"question": "One?", "answer": "1", "topic": "n", "stop": 5, "id": "x"}]
    renamed = ("prompt:question", "reference:answer", "group:topic", "stop:")
    pipeline = Prompts(data=written(tmp_path, rows), columns=renamed)
    assert pipeline.inputs().references == {"n/x": "1"}
    (item,) = items(pipeline)
    assert item.request.sampling.stop == ()


def test_a_template_makes_the_prompt_of_columns(tmp_path: Path) -> None:
    rows = [{"text": "Haus {x}", "to": "English", "n": 2, "tags": ["a"]}]
    pipeline = Prompts(data=written(tmp_path, rows), template="Into {to}, {n} words, {tags} {{text}}: {text}")
    assert [item.view["question"] for item in items(pipeline)] == ['Into English, 2 words, ["a"] {text}: Haus {x}']


@settings(deadline=None)
@given(st.dictionaries(st.text("abc.:![]0 ", min_size=1), st.text(), max_size=4), st.lists(st.text("xy{}"), max_size=4))
def test_a_template_shows_cells_as_they_are_and_evaluates_nothing(cells: dict[str, str], between: list[str]) -> None:
    parts = [*(part.replace("{", "{{").replace("}", "}}") for part in between), *(f"{{{name}}}" for name in cells)]
    assert Template("".join(parts)).filled(cells) == "".join([*between, *cells.values()])


@pytest.mark.parametrize("text", ["{", "}", "{}", "a {b", "{a{b}}", "}} {"])
def test_a_brace_without_a_partner_is_refused(text: str) -> None:
    with pytest.raises(UsageError, match="template has a single"):
        build(Prompts, [f"template={text}"])


BAD: dict[str, tuple[Any, str]] = {
    "no prompt": ({"note": "x"}, "no prompt"),
    "an empty prompt": ({"prompt": "  "}, "its prompt is empty"),
    "a prompt that is a list": ({"prompt": ["x"]}, "'prompt' is not a text"),
    "a NUL in the prompt": ({"prompt": "a\0b"}, "'prompt' holds a NUL character"),
    "an id that is there twice": ({"id": "a", "prompt": "x"}, "the id 'a' is that of line 1, too"),
    "an id with a line end": ({"id": "x\ny", "prompt": "x"}, "'id' is not a text of 1 to 200 characters on one line"),
    "messages of nobody": ({"messages": [{"role": "robot", "content": "x"}]}, "message 1 has no role of system"),
    "a late system message": ({"messages": [{"role": "user", "content": "x"}, {"role": "system", "content": "x"}]},
                              "message 2 is of the system"),
    "no question": ({"messages": [{"role": "assistant", "content": "x"}]}, "the last message is not of the user"),
    "a picture": ({"messages": [{"role": "user", "content": [{"type": "image_url"}]}]}, "the content of message 1 has"),
    "a wrong bound": ({"prompt": "x", "max_tokens": 1.5}, "'max_tokens' is 1.5, not a whole number from 1 to"),
    "a bound that is no number": ({"prompt": "x", "max_tokens": "many"}, "'max_tokens' is 'many'"),
    "an empty stop": ({"prompt": "x", "stop": ["a", ""]}, "'stop' is not one to 16 texts"),
    "a schema that is no object": ({"prompt": "x", "schema": "[1]"}, "'schema' is not a JSON schema"),
    "a row that is no object": (["x"], "not a JSON object"),
    "a batch for a picture": ({**BATCH, "url": "/v1/images"}, "a request to '/v1/images'"),
    "a batch with tools": ({**BATCH, "body": {**BATCH["body"], "tools": [1]}}, "its body asks for 'tools'"),
    "a batch for several": ({**BATCH, "body": {**BATCH["body"], "n": 2}}, "its body asks for n=2 answers"),
    "a batch with a strange format": ({**BATCH, "body": {**BATCH["body"], "response_format": {"type": "xml"}}},
                                      "its response_format is no text"),
}  # fmt: skip


@pytest.mark.parametrize(("row", "reason"), BAD.values(), ids=list(BAD))
def test_a_bad_row_is_refused_by_its_number_or_left_out(
    tmp_path: Path, hybrid: Hybrid, caplog: pytest.LogCaptureFixture, row: Any, reason: str
) -> None:
    path, script = written(tmp_path, [ROWS[0], row, ROWS[1]]), tmp_path / "script.json"
    script.write_text('{"answers": {}, "default": "1"}')
    run = ["run", "local", "prompts", "--folder", tmp_path / "f", "--backend", "scripted", "--model", script]
    refused = hybrid(*run, "--set", f"data={path}")
    assert refused.code == 6
    assert f"{path}, line 2: {reason}" in refused.stderr
    kept = hybrid(*run, "--set", f"data={path}", "--set", "skip_bad=true", "-o", tmp_path / "o.json")
    assert kept.code == 0
    assert f"line 2: {reason}" in caplog.text
    assert "1 bad row left out, 2 kept" in caplog.text
    about = json.loads((tmp_path / "o.json").read_text())["run"]["about"]
    assert (sum(about["left out"].values()), about["prompts"]) == (1, 2)


def test_the_data_is_read_before_a_model_is_looked_at(
    tmp_path: Path, hybrid: Hybrid, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It can take long to tell the digest of a model; what is wrong with a table can be told at once."""
    monkeypatch.delattr(Engine, "spec")
    data, model = written(tmp_path, [["no object"]]), tmp_path / "script.json"
    model.write_text('{"answers": {}, "default": "1"}')
    run = ("run", "local", "prompts", "--folder", tmp_path / "f", "--backend", "scripted", "--model", model)
    refused = hybrid(*run, "--set", f"data={data}")
    assert (refused.code, f"{data}, line 1" in refused.stderr) == (6, True)


@pytest.mark.parametrize(
    ("chosen", "words"),
    [
        ("columns=prompt:promt", "has no column 'promt'"),
        ("columns=reference:truth", "has no column 'truth'"),
        ("columns=promt:prompt", "it is written FIELD:COLUMN"),
        ("columns=prompt:prompt,prompt:id", "'prompt' is given twice"),
        ("columns=stop:,stop:id", "'stop' is given twice"),
        ("template=Say {texts}", "has no column 'texts'"),
        ("template=Say {note.x}", "has no column 'note.x'"),
        ("stop=a,,b", "stop has an empty text"),
        ("max_tokens=0", "max_tokens=0 is not"),
    ],
)
def test_a_wrong_setting_is_refused_with_what_is_known(tmp_path: Path, hybrid: Hybrid, chosen: str, words: str) -> None:
    done = hybrid("run", "local", "prompts", "--set", f"data={written(tmp_path, ROWS[:1])}", "--set", chosen)
    assert done.code == 2
    assert words in done.stderr
    if "has no column" in words:
        assert "known: id, note, prompt, reference" in done.stderr


def test_a_table_without_a_prompt_column_shows_its_columns(tmp_path: Path) -> None:
    (tmp_path / "t.csv").write_text("question,answer\nOne?,1\n")
    with pytest.raises(UsageError, match="line 2: no prompt; its columns are question, answer") as raised:
        Prompts(data=str(tmp_path / "t.csv")).inputs()
    assert "columns=prompt:COLUMN" in raised.value.hint


def test_an_empty_table_is_refused(tmp_path: Path) -> None:
    (tmp_path / "empty.jsonl").write_text("")
    with pytest.raises(BadData, match="no prompt in it"):
        Prompts(data=str(tmp_path / "empty.jsonl")).inputs()


def test_limit_and_shuffle_choose_whole_groups(tmp_path: Path) -> None:
    rows = [{"id": n, "group": f"g{n % 4}", "prompt": "x"} for n in range(12)]
    path = written(tmp_path, rows)
    assert {task: len(asked) for task, asked in Prompts(data=path, limit=2).inputs().tasks.items()} == {
        "g0": 3,
        "g1": 3,
    }
    drawn = [tuple(Prompts(data=path, limit=2, shuffle=seed).inputs().tasks) for seed in range(8)]
    assert all(len(tasks) == 2 for tasks in drawn)
    assert len(set(drawn)) > 1


def test_the_references_choose_the_grader(tmp_path: Path) -> None:
    def grader(*references: Any) -> object:
        rows = [{"prompt": "x", "reference": one} for one in references]
        return Prompts(data=written(tmp_path, rows)).inputs().about.get("grader")

    assert (grader(1, [2.5, 3]), grader("1", 2), grader(None, None), grader(None, 3)) == (
        "numeric", "contains", None, "numeric",
    )  # fmt: skip


@pytest.mark.slow
def test_a_small_model_answers_the_sample_and_the_answers_are_graded(
    tmp_path: Path, hybrid: Hybrid, smollm2_gguf: Path
) -> None:
    chosen = ("--preset", "demo", "--limit", "4", "--set", "max_tokens=12", "--folder", tmp_path / "f")
    done = hybrid("run", "local", "prompts", *chosen, "-o", tmp_path / "o.json")
    assert done.code == 0
    graded = hybrid("grade", tmp_path / "o.json", "--json")
    summary = json.loads(graded.stdout)["summary"]
    assert (summary["n"], summary["outputs"], summary["failed_outputs"]) == (4, 12, {})
    assert summary["score"] > 0  # it knows the capital of France
    rows = {row["id"]: row for row in map(json.loads, SAMPLE.read_text().splitlines())}
    for record in json.loads((tmp_path / "o.json").read_text())["records"]:
        assert record["reference"] == rows[record["question"]]["reference"]
        assert record["view"] == {"question": rows[record["question"]]["prompt"]}


@pytest.mark.slow
def test_a_model_keeps_to_the_schema_and_the_stop_of_each_row(
    tmp_path: Path, hybrid: Hybrid, smollm2_gguf: Path
) -> None:
    rows = [
        {"id": "schema", "prompt": "What is 2 + 3?", "schema": {"type": "integer"}, "max_tokens": 8},
        {"id": "stop", "prompt": "What is the capital of France?", "stop": ["France"]},
    ]
    chosen = ("--set", f"data={written(tmp_path, rows)}", "--folder", tmp_path / "f", "-o", tmp_path / "o.json")
    assert hybrid("run", "local", "prompts", *chosen).code == 0
    found = {one["question"]: one["text"] for one in json.loads((tmp_path / "o.json").read_text())["records"]}
    assert isinstance(json.loads(found["schema"]), int)
    assert found["stop"].strip()
    assert "France" not in found["stop"]
