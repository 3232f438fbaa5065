"""The log lines of a run's workers as they arrive in the folder, each once."""

from __future__ import annotations

from collections import deque

from hybrid.folder.medium import Medium
from hybrid.folder.notes import Note, read_notes

MOST_REMEMBERED = 10_000
"""Last lines of an attempt that are remembered, for a log that is written anew."""


class LogLines:
    """Reads the new lines at each look.

    A log file that is torn is read when it is whole. Of one that was written anew under its number, with other content,
    only lines that were not seen before are new.
    """

    def __init__(self, run: str) -> None:
        self._run = run
        self._known: set[str] = set()
        self._numbers: set[tuple[str, int]] = set()
        self._seen: dict[str, deque[str]] = {}

    def read(self, folder: Medium) -> dict[str, list[str]]:
        """The new lines by attempt, in the order of the attempts' names. Raises Temporary."""
        found: dict[str, list[str]] = {}
        for path, note in read_notes(folder, self._run, "log", known=self._known, refused=[]):
            self._known.add(path)
            if new := self._new(note):
                found.setdefault(str(note["by"]), []).extend(new)
        return dict(sorted(found.items()))

    def _new(self, note: Note) -> list[str]:
        by, number, lines = str(note["by"]), int(note["number"]), lines_of(note)
        seen = self._seen.setdefault(by, deque(maxlen=MOST_REMEMBERED))
        if (by, number) in self._numbers:
            known = set(seen)
            lines = [line for line in lines if line not in known]
        self._numbers.add((by, number))
        seen.extend(lines)
        return lines


def lines_of(note: Note) -> list[str]:
    """The lines of a log; what is no text is left out."""
    lines = note.get("lines")
    return [one for one in lines if isinstance(one, str)] if isinstance(lines, list) else []
