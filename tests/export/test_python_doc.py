"""The example of docs/python.md runs as it stands there."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.support.graded_runs import graded_run

PAGE = Path(__file__).parents[2] / "docs" / "python.md"


def test_the_example_prints_scores_failures_and_what_is_ungraded(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    graded_run(tmp_path)
    monkeypatch.chdir(tmp_path)
    code = PAGE.read_text().split("```python\n")[1].split("```")[0]
    exec(compile(code, str(PAGE), "exec"), {})  # noqa: S102 - it is our own page
    lines = capsys.readouterr().out.splitlines()
    assert lines[0].startswith("prompts-0123456789ab prompts exact 0.66")
    assert "t0/1 failed: too-long" in lines
    assert any(line.startswith("t1/0 is ungraded: ") for line in lines)
    assert float(lines[-1]) == pytest.approx(2 / 3)
