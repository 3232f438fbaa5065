"""`hybrid show`: what the model saw and said, of real runs and of files."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from hybrid.folder.spec import ModelSpec
from hybrid.items import Message, Request, Sampling
from hybrid.show.rendering import Renderer, renderers
from tests.support import chat_gguf
from tests.support.in_process import Hybrid

HOSTILE = "\x1b[31mred\x1b[0m\n== 9. forged, sample 0, key 0\nlast"
SAMPLING = Sampling(8)
CHAT = (Message("system", "Be brief."), Message("user", "Hi"))


def table(folder: Path, *rows: dict[str, Any]) -> Path:
    path = folder / "rows.jsonl"
    path.write_text("".join(f"{json.dumps(row)}\n" for row in rows))
    return path


@pytest.fixture
def run(hybrid: Hybrid, tmp_path: Path) -> Path:
    """A run of three prompts, of which one has no answer; returns its folder."""
    rows = [{"id": name, "prompt": f"Ask {name}", "reference": name, "system": "Be brief."} for name in "abc"]
    answers = tmp_path / "answers.json"
    answers.write_text(json.dumps({"answers": {"Ask a": HOSTILE, "Ask b": "<think>\nHm.\n</think>\nbee"}}))
    data = ("--set", f"data={table(tmp_path, *rows)}", "--set", "stop=END", "--set", "max_tokens=50")
    model = ("--backend", "scripted", "--model", answers, "--folder", tmp_path / "folder")
    assert hybrid("run", "local", "prompts", *data, *model, "-o", tmp_path / "outputs.json").code == 3
    return tmp_path / "folder"


def shown(hybrid: Hybrid, *arguments: object) -> list[dict[str, Any]]:
    """The JSON lines of a command that succeeds."""
    done = hybrid("show", *arguments, "--json")
    assert done.code == 0, done.stderr
    return [json.loads(line) for line in done.stdout.splitlines()]


def test_a_run_is_shown_item_by_item_with_what_was_asked_and_said(hybrid: Hybrid, run: Path) -> None:
    done = hybrid("show", "prompts", "--folder", run, "--item", "b")
    assert done.code == 0
    lines = done.stdout.splitlines()
    assert 'sampling: greedy, max_tokens 50, stop "END"' in lines
    assert lines[lines.index("thought:") + 1 : lines.index("thought:") + 4] == [
        "  | <think>",
        "  | Hm.",
        "  | </think>",
    ]
    assert "  | bee" in lines
    assert 'reference: "b"' in lines
    (found,) = shown(hybrid, "prompts", "--folder", run, "--item", "b")
    assert [one["content"] for one in found["request"]["messages"]] == ["Be brief.", "Ask b"]
    assert found["text"] == "bee"
    assert found["model"].startswith("scripted ")


def test_failures_are_chosen_and_a_limit_says_that_there_is_more(hybrid: Hybrid, run: Path) -> None:
    (failed,) = shown(hybrid, "prompts", "--folder", run, "--failed")
    assert failed["question"].endswith("c")
    assert failed["error"]["message"] in hybrid("show", "prompts", "--folder", run, "--failed").stdout
    done = hybrid("show", "prompts", "--folder", run, "--limit", "2")
    assert done.stdout.count("== ") >= 2
    assert "--limit 0 shows all" in done.stderr
    assert len(shown(hybrid, "prompts", "--folder", run, "--limit", "0")) == 3
    assert "--limit 0" not in hybrid("show", "prompts", "--folder", run, "--limit", "3").stderr


def test_an_item_is_named_by_question_task_or_the_beginning_of_its_key(hybrid: Hybrid, run: Path) -> None:
    whole = {one["key"]: one for one in shown(hybrid, "prompts", "--folder", run)}
    for key, one in whole.items():
        for name in (one["question"], one["task"], key, key[:12]):
            assert key in [found["key"] for found in shown(hybrid, "prompts", "--folder", run, "--item", name)]
    done = hybrid("show", "prompts", "--folder", run, "--item", "nobody")
    assert done.code == 2
    assert "no item 'nobody'" in done.stderr


def test_what_a_model_wrote_can_neither_control_the_terminal_nor_pass_for_a_heading(hybrid: Hybrid, run: Path) -> None:
    done = hybrid("show", "prompts", "--folder", run, "--item", "a")
    assert "\x1b" not in done.stdout
    assert "  | \\x1b[31mred\\x1b[0m\n  | == 9. forged, sample 0, key 0\n  | last\n" in done.stdout
    cut = hybrid("show", "prompts", "--folder", run, "--item", "a", "--text", "10").stdout
    assert f"({len(HOSTILE) - 10} of {len(HOSTILE)} characters left out" in cut


def test_a_file_is_shown_without_its_run_and_it_is_said_what_is_missing(hybrid: Hybrid, run: Path) -> None:
    file = run.parent / "outputs.json"
    alone = hybrid("show", file, "--item", "b", "--folder", run.parent / "elsewhere")
    assert alone.code == 0
    assert "  | bee" in alone.stdout
    assert "what the model was asked is not known" in alone.stderr
    (found,) = shown(hybrid, file, "--item", "b", "--folder", run)
    assert found["request"]["messages"][1]["content"] == "Ask b"
    lines = file.with_name("bare.jsonl")
    lines.write_text('{"key":"k1","task":"t","question":"q","text":"yes"}\n')
    assert shown(hybrid, lines)[0]["request"] is None


def test_an_unknown_stage_and_a_stage_of_a_file_are_refused(hybrid: Hybrid, run: Path) -> None:
    done = hybrid("show", "prompts", "--folder", run, "--stage", "anser")
    assert done.code == 2
    assert "did you mean 'answer'?" in done.stderr
    assert hybrid("show", run.parent / "outputs.json", "--stage", "answer").code == 2


def test_a_run_with_a_judge_shows_the_answers_and_on_demand_what_the_judge_saw(hybrid: Hybrid, tmp_path: Path) -> None:
    rows = table(tmp_path, {"id": "a", "prompt": "Which town?", "reference": "Paris"})
    answers, verdicts = tmp_path / "answers.json", tmp_path / "verdicts.json"
    answers.write_text(json.dumps({"answers": {}, "default": "It is Lyon"}))
    verdicts.write_text(json.dumps({"answers": {}, "default": '{"verdict": "incorrect"}'}))
    backends = ("--backend", "scripted", "--backend", "judge=scripted")
    models = (*backends, "--model", answers, "--model", f"judge={verdicts}")
    folder = ("--folder", tmp_path / "folder")
    done = hybrid("run", "local", "prompts", "--set", f"data={rows}", *models, *folder, "-o", tmp_path / "outputs.json")
    assert done.code == 0, done.stderr
    (answer,) = shown(hybrid, "prompts", *folder)
    assert answer["text"] == "It is Lyon"
    (verdict,) = shown(hybrid, "prompts", *folder, "--stage", "judged")
    assert (verdict["role"], verdict["model"]) == ("judge", f"scripted {verdicts}")
    assert "Lyon" in json.dumps(verdict["request"]["messages"])


# --- the prompt as the model saw it


def renderer(path: Path, backend: str = "llamacpp") -> Renderer:
    return renderers({"": ModelSpec(backend, "mine")}, {"mine": str(path)})[""]


def test_a_chat_is_rendered_by_the_models_template_with_its_tokens_counted(smollm2_gguf: Path) -> None:
    request = Request(SAMPLING, CHAT, template={"date_string": "26 Jul 2024"})
    prompt = renderer(smollm2_gguf).prompt(request)
    turns = ["<|im_start|>system\nBe brief.<|im_end|>\n", "<|im_start|>user\nHi<|im_end|>\n", "<|im_start|>assistant\n"]
    assert prompt.text == "".join(turns)
    assert (prompt.tokens, prompt.note) == (18, "")
    raw = renderer(smollm2_gguf).prompt(Request(SAMPLING, prompt="One, two"))
    assert (raw.text, raw.tokens) == ("One, two", 3)


def test_a_template_whose_tokenizer_is_not_known_renders_all_the_same(tmp_path: Path) -> None:
    template = "{% for m in messages %}<|user|>{{ m.content }}<|end|>{% endfor %}<|assistant|>"
    path = chat_gguf.write(tmp_path / "chat.gguf", template)
    data = path.read_bytes()
    path.write_bytes(data.replace(b"smollm", b"nobody"))
    prompt = renderer(path).prompt(Request(SAMPLING, CHAT[1:]))
    assert prompt.text == "<|user|>Hi<|end|><|assistant|>"
    assert prompt.tokens is None
    assert "of a kind that is not known here" in prompt.note


@pytest.mark.parametrize(
    ("spec", "words"),
    [
        (ModelSpec("ollama", "llama3.2"), "the server renders the chats"),
        (ModelSpec("openai", "gpt"), "the server renders the chats"),
        (ModelSpec("scripted", "answers.json"), "has no chat template"),
        (ModelSpec("llamacpp", "/etc/passwd"), "--model PATH"),
        (ModelSpec("transformers", "org/name"), "--model PATH"),
    ],
)
def test_where_a_chat_cannot_be_rendered_the_reason_is_said(spec: ModelSpec, words: str) -> None:
    found = renderers({"": spec}, {})[""]
    prompt = found.prompt(Request(SAMPLING, CHAT))
    assert prompt.text is None
    assert words in prompt.note
    assert found.prompt(Request(SAMPLING, prompt="as it is")).text == "as it is"


def test_a_template_that_refuses_or_raises_is_told_and_ends_nothing(tmp_path: Path) -> None:
    refusal = "{% if messages|length > 1 %}{{ raise_exception('no more') }}{% endif %}"
    template = refusal + "<|user|>{{ messages[0].content }}<|end|>"
    path = chat_gguf.write(tmp_path / "chat.gguf", template)
    found = renderer(path)
    assert found.prompt(Request(SAMPLING, CHAT[1:])).text == "<|user|>Hi<|end|>"
    longer = (*CHAT[1:], Message("assistant", "Yes"), Message("user", "And?"))
    assert (
        "no more" in found.prompt(Request(SAMPLING, longer)).note
        or "not rendered" in found.prompt(Request(SAMPLING, longer)).note
    )
    assert renderer(tmp_path / "nothing.gguf").prompt(Request(SAMPLING, CHAT)).note.startswith("there is no model at")
    assert replace(found, tokenizer=None, why="because").prompt(Request(SAMPLING, CHAT)).note == "because"


@pytest.mark.slow
def test_the_tokens_of_a_rendered_prompt_are_those_that_the_engine_counted(
    hybrid: Hybrid, smollm2_gguf: Path, tmp_path: Path
) -> None:
    rows = [{"prompt": "Name a colour."}, {"prompt": "Naïve — 数字 🙂?", "system": "Be brief."}]
    common = ("--set", f"data={table(tmp_path, *rows)}", "--set", "max_tokens=2", "--folder", tmp_path / "folder")
    assert hybrid("run", "local", "prompts", *common, "-o", tmp_path / "outputs.json").code == 0
    found = shown(hybrid, "prompts", "--folder", tmp_path / "folder")
    assert len(found) == 2
    for one in found:
        assert one["prompt"].endswith("<|im_start|>assistant\n")
        assert one["prompt_tokens"] == one["tokens"][0] > 0
