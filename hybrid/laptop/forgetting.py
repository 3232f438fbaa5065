"""Hide runs and show them again, and the note of a run. Nothing is ever deleted.

A run is hidden on this machine by a marker file in its home folder, or everywhere by an order in the shared folder.
"""

from __future__ import annotations

import os
from pathlib import Path

from hybrid.errors import UsageError
from hybrid.execution.local import opened_run
from hybrid.folder.medium import Disk
from hybrid.folder.runs import Run, find_run, join_folder
from hybrid.laptop.receiver import receiver_of
from hybrid.machine import home
from hybrid.machine.files import explain_errors, write_once
from hybrid.machine.terminal import clean_line

MOST_NOTE = 200
"""Characters of a note."""


def forget(folder: Path, name: str, *, everywhere: bool) -> str:
    """Hide a run on this machine, or `everywhere`: its workers are stopped as well. Returns its id.

    A run that cannot be read can be hidden here. Raises UsageError when there is no such run, BadData, Temporary.
    """
    run = find_run(join_folder(folder, make=False), name)
    if everywhere:
        receiver = receiver_of(folder, opened_run(folder, run))
        receiver.cancel()  # older versions of hybrid know only this order
        receiver.forget()
    write_once(home.forgotten_of(folder) / run, b"")
    return run


def recall(folder: Path, name: str, *, everywhere: bool) -> str:
    """Show a run again here, or `everywhere`: workers then resume it. Returns its id."""
    run = find_run(join_folder(folder, make=False), name)
    if everywhere:
        receiver_of(folder, opened_run(folder, run)).resume()
    _show_here(folder, run)
    return run


def submitted(folder: Path, run: Run, note: str | None) -> None:
    """Show a run that is submitted or executed here, if it was hidden. A `note` replaces the run's notes."""
    _show_here(folder, run.id)
    receiver = receiver_of(folder, run)
    if receiver.orders().forgotten:
        receiver.resume()
    if note is not None:
        receiver.note(note)


def forgotten_here(folder: Path) -> set[str]:
    """The runs that this machine hides."""
    return {entry.name for entry in Disk(home.forgotten_of(folder)).entries("") if entry.kind == "file"}


def checked_note(text: str | None) -> str | None:
    """`text`, if it fits on one line. Raises UsageError when it is too long or has control characters."""
    if text is None:
        return None
    if len(text) > MOST_NOTE or clean_line(text, MOST_NOTE) != text:
        raise UsageError(
            f"--note: {len(text):,} characters, or some that cannot be shown",
            hint=f"one line of at most {MOST_NOTE} characters",
        )
    return text


def _show_here(folder: Path, run: str) -> None:
    path = home.forgotten_of(folder) / run
    if os.path.lexists(path):
        with explain_errors(path, doing="removing it"):
            path.unlink(missing_ok=True)
