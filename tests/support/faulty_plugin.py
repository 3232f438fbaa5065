"""A pipeline and a grader of another distribution that fail where they are told to.

`install(folder)` puts them where Python looks for packages, with the metadata that pip would write.
"""

from __future__ import annotations

from pathlib import Path

ENTRY_POINTS = """[hybrid.pipelines]
frail = frail_plugin.asking:Frail

[hybrid.graders]
strict = frail_plugin.judging:Strict
"""

ASKING = '''
"""Asks for numbers."""

from dataclasses import dataclass

from hybrid.protocols import Inputs, Stage
from hybrid.records import Item, Message, Request, Sampling
from hybrid.work import Ask


@dataclass(frozen=True)
class Frail:
    """Fails where it is told to."""

    where: str = ""

    def __post_init__(self):
        self.may_fail("made")

    def may_fail(self, here):
        if self.where == here:
            raise KeyError(f"oh {here}")

    def inputs(self):
        self.may_fail("inputs")
        if self.where == "a missing file":
            open("/nowhere/at all")
        if self.where == "inputs of another kind":
            return {}
        if self.where == "inputs that are no JSON":
            return Inputs({"a": {1, 2}}, {}, {})
        return Inputs({"a": 1, "b": 2}, {"a/0": "1", "b/0": "2"}, {"grader": "strict"})

    def stages(self):
        self.may_fail("stages")
        return (Stage("answer", "any", 1, Ask(self.items)),)

    def items(self, tasks):
        for task, number in tasks.items():
            if task == "b":
                self.may_fail("items")
                if self.where == "an item of another kind":
                    yield task
            view = {"x": {1}} if self.where == "an item that is no JSON" else {}
            asked = Message("user", f"Say {number}.")
            yield Item(task, f"{task}/0", Request(Sampling(max_tokens=8), messages=(asked,)), view)
'''

JUDGING = '''
"""Judges them."""

from dataclasses import dataclass

from hybrid.records import Grade


@dataclass(frozen=True)
class Strict:
    """Fails where it is told to."""

    where: str = ""

    def grade(self, output):
        if output.question == "b/0":
            if self.where == "grade":
                return {}[output.text]
            if self.where == "another kind":
                return 1.0
            if self.where == "no JSON":
                return Grade(1.0, detail={"x": {1}})
        return Grade(1.0)
'''


def install(folder: Path) -> Path:
    """Put the plugin into `folder`, as pip would."""
    package, info = folder / "frail_plugin", folder / "frail_plugin-1.0.dist-info"
    for place in (package, info):
        place.mkdir(parents=True)
    for name, text in (("__init__", ""), ("asking", ASKING), ("judging", JUDGING)):
        (package / f"{name}.py").write_text(text)
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: frail-plugin\nVersion: 1.0\n")
    (info / "entry_points.txt").write_text(ENTRY_POINTS)
    return folder
