"""SQuAD's section of the report: the passage stands over its questions."""

from __future__ import annotations

import json
from pathlib import Path

from hybrid.tasks.squad.data import SAMPLE, read
from tests.support.in_process import Hybrid


def page_of(hybrid: Hybrid, folder: Path, *settings: str) -> str:
    """The report of a real run of qa-eval on two passages, which nobody graded."""
    script = folder / "script.json"
    script.write_text(json.dumps({"answers": {}, "default": "<b>an answer</b>"}))
    chosen = [part for setting in ("limit=2", "questions=2", *settings) for part in ("--set", setting)]
    out = folder / "outputs.json"
    where = ["--folder", folder / "folder", "-o", out, "--backend", "scripted", "--model", script]
    ran = hybrid("run", "local", "qa-eval", *chosen, *where)
    assert ran.code == 0, ran.stderr
    drawn = hybrid("report", out)
    assert drawn.code == 0, drawn.stderr
    return (folder / "report.html").read_text()


def test_a_passage_stands_as_text_over_its_questions(hybrid: Hybrid, tmp_path: Path) -> None:
    page = page_of(hybrid, tmp_path)
    for passage in read(SAMPLE).passages[:2]:
        assert f'<p class="passage" dir="auto">{passage.context.replace(chr(39), "&#x27;")}</p>' in page
        assert page.count(passage.title) >= 1
        for question in passage.questions[:2]:
            assert f"<dd>{question.text.replace(chr(39), '&#x27;')}</dd>" in page
    assert "Task data" not in page
    assert "&lt;b&gt;an answer&lt;/b&gt;" in page


def test_a_passage_that_was_not_shown_is_said_to_be_asked_from_memory(hybrid: Hybrid, tmp_path: Path) -> None:
    page = page_of(hybrid, tmp_path, "context=false")
    assert page.count("asked from memory") == 2
    assert read(SAMPLE).passages[0].context[:40] not in page
