"""Judges of scripted models: what each says to which request, and the calls that were made."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from hybrid.progress import SilentProgress
from hybrid.records import Grade, Output


class ScriptedJudges:
    """The judges of a test; a grader's own test says how it asks (`settings` are for the grader)."""

    def __init__(self, place: Path) -> None:
        self.place, self.calls = place, place / "calls"
        self.settings: Mapping[str, Any] = {"backend": "scripted", "options": (f"calls={self.calls}",)}

    def script(self, name: str, answers: Mapping[str, str], default: str | None = None) -> str:
        """A model that answers these last messages so; its path."""
        path = self.place / f"{name}.json"
        path.write_text(json.dumps({"answers": answers, "default": default, "context": 1 << 20}))
        return str(path)

    def grades(self, grader: Any, outputs: Sequence[Output]) -> list[Grade]:
        """The grades of these outputs; what the grader says about its judges is kept in `about`."""
        with grader.ready(outputs, SilentProgress()) as ready:
            graded = [ready.grade(one) for one in outputs]
            self.about: Any = ready.about()
        return graded

    @property
    def made(self) -> int:
        """How many calls were made."""
        return len(self.calls.read_text().splitlines()) if self.calls.exists() else 0
