"""Findings of the doctor: one line each; every kind has a level and an exit code."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass
from typing import Literal

from hybrid.canonical import Json
from hybrid.errors import BadData, CannotRun, Temporary
from hybrid.machine.terminal import clean_line

Level = Literal["info", "note", "problem"]
LONGEST = 600
"""Most characters of a path or a message: anybody may have chosen the names in a folder."""


@dataclass(frozen=True, slots=True)
class FindingKind:
    """A kind of finding: its heading, and the exit code that it asks for."""

    title: str
    level: Level
    exit_code: int = 0


def _problem(title: str, error: type[Temporary | BadData | CannotRun]) -> FindingKind:
    return FindingKind(title, "problem", error.exit_code)


KINDS = {
    "medium": FindingKind("The folder", "info"),
    "machine": FindingKind("This machine", "info"),
    "spool": FindingKind("Waiting on this machine's own disk", "info"),
    "cannot-do": FindingKind("Runs that this machine cannot do", "info"),
    "case": FindingKind("Names that differ only in upper and lower case", "note"),
    "conflict-copy": FindingKind("Copies that a sync program or a person made", "note"),
    "crowded": FindingKind("Large folders", "note"),
    "gap": FindingKind("Shards, or parts of tensors, that are missing between others", "note"),
    "left-over": FindingKind("Left over by other programs", "note"),
    "low-room": FindingKind("Little room", "note"),
    "not-nfc": FindingKind("Names in another Unicode form than other systems write", "note"),
    "placeholders": FindingKind("Files that are fetched when they are opened", "note"),
    "special": FindingKind("Links, devices and pipes, never opened", "note"),
    "strange": FindingKind("Counted, but not as hybrid writes it", "note"),
    "too-deep": FindingKind("Too deep, not looked into", "note"),
    "twice": FindingKind("Two shards of one number", "note"),
    "unknown": FindingKind("Not part of the protocol", "note"),
    "away": _problem("The folder does not answer", Temporary),
    "not-here-yet": _problem("Not here yet", Temporary),
    "slow": _problem("Slow to answer", Temporary),
    "blocked": _problem("Something that is no file, or no folder, stands where one belongs", BadData),
    "changed": _problem("Changed after they were written", BadData),
    "damaged": _problem("Damaged or foreign content", BadData),
    "empty": _problem("Empty files", BadData),
    "error-page": _problem("An error message instead of content", BadData),
    "fault": _problem("Files on which hybrid itself failed: please report them", BadData),
    "foreign": _problem("Of another run, stage, attempt or writer than their place", BadData),
    "misplaced": _problem("Good content under a name that does not count", BadData),
    "received": _problem("Received, and damaged on this machine's own disk", BadData),
    "other-model": _problem("Answered by another model than the run's", BadData),
    "other-version": _problem("Of another version of the format", BadData),
    "too-large": _problem("Larger than allowed", BadData),
    "torn": _problem("Cut short, or still on their way", BadData),
    "denied": _problem("No permission", CannotRun),
}
"""In the order in which they are shown: information, harmless oddities, and problems last, where a user looks first."""


@dataclass(frozen=True, slots=True)
class Finding:
    """One finding: its path, what it is and why it does not count, and what to do (empty: nothing)."""

    kind: str
    path: str
    what: str
    do: str = ""

    @property
    def level(self) -> Level:
        return KINDS[self.kind].level

    def to_json(self) -> dict[str, Json]:
        """The object of a line of `--json`; control characters are escaped."""
        texts = {"path": self.path, "what": self.what, "do": self.do}
        head: dict[str, Json] = {"level": self.level, "kind": self.kind}
        return head | {name: clean_line(text, LONGEST) for name, text in texts.items()}


class FindingCounts:
    """How many findings of each kind there were, and the exit code that follows from them."""

    def __init__(self) -> None:
        self.by_kind: Counter[str] = Counter()

    def add(self, finding: Finding) -> None:
        self.by_kind[finding.kind] += 1

    @property
    def exit_code(self) -> int:
        """The highest of the findings' exit codes (7, 6, 5, 0): what waiting does not mend comes first."""
        return max((KINDS[kind].exit_code for kind in self.by_kind), default=0)

    def levels(self) -> Counter[str]:
        """How many findings there were of each level."""
        found: Counter[str] = Counter()
        for kind, count in self.by_kind.items():
            found[KINDS[kind].level] += count
        return found
