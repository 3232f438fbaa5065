"""What the model was asked, behind a fold of the report."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from tests.support.in_process import Hybrid

PROMPT = "Is <script>alert(1)</script> safe?"


@pytest.fixture
def ran(hybrid: Hybrid, tmp_path: Path) -> Path:
    """The outputs of a run of one prompt; its folder stands beside them."""
    rows, answers = tmp_path / "rows.jsonl", tmp_path / "answers.json"
    rows.write_text(json.dumps({"id": "a", "prompt": PROMPT, "system": "Be brief.", "reference": "no"}) + "\n")
    answers.write_text(json.dumps({"answers": {PROMPT: "no"}}))
    how = ("--set", f"data={rows}", "--set", "max_tokens=77", "--backend", "scripted", "--model", answers)
    done = hybrid("run", "local", "prompts", *how, "--folder", tmp_path / "folder", "-o", tmp_path / "outputs.json")
    assert done.code == 0, done.stderr
    return tmp_path / "outputs.json"


def page_of(hybrid: Hybrid, outputs: Path, *options: object) -> str:
    out = outputs.with_name("page.html")
    done = hybrid("report", outputs, "-o", out, *options)
    assert done.code == 0, done.stderr
    return out.read_text()


def test_the_request_of_an_output_stands_in_a_fold_and_is_no_markup(hybrid: Hybrid, ran: Path) -> None:
    folder = ("--folder", ran.parent / "folder")
    page = page_of(hybrid, ran, "--requests", *folder)
    fold = page.partition("<summary>asked</summary>")[2].partition("</details>")[0]
    assert "Be brief." in fold
    assert "Is &lt;script&gt;alert(1)&lt;/script&gt; safe?" in fold
    assert "max_tokens&quot;:77" in fold or 'max_tokens":77' in fold
    assert "<script>alert" not in page
    assert page_of(hybrid, ran, "--requests", "--text", "5", *folder).count("5 of 34 characters shown") == 1
    assert page_of(hybrid, ran, "--requests", *folder) == page
    assert "<summary>asked</summary>" not in page_of(hybrid, ran, *folder)


def test_without_the_run_the_page_is_made_all_the_same_and_it_is_said(
    hybrid: Hybrid, ran: Path, caplog: pytest.LogCaptureFixture
) -> None:
    alone = ran.parent / "alone" / "outputs.json"
    alone.parent.mkdir()
    alone.write_bytes(ran.read_bytes())
    page = page_of(hybrid, alone, "--requests", "--folder", ran.parent / "elsewhere")
    assert "<summary>asked</summary>" not in page
    assert "what the model was asked is not shown" in caplog.text
