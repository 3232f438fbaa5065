"""Every error raised on purpose, each with the exit code of the command line.

HybridError            1  internal error (never raised by name)
+-- UsageError         2  the command or a setting is wrong
+-- Missed             3  finished, but items failed or a threshold was missed
+-- NotFinished        4  stopped before the end; the same command goes on
|   +-- Waits          4  an earlier stage is not finished
+-- Temporary          5  mount, network, quota, another process: run the same command again
+-- BadData            6  corrupt, truncated or foreign data
+-- CannotRun          7  does not fit, missing or damaged model, missing library, no permission
    +-- PluginFault    7  a pipeline or grader that is not ours raised what nobody foresaw
        +-- OwnFault   1  one of ours, or a backend, did
"""

from __future__ import annotations

import difflib
from collections.abc import Iterable, Mapping


class HybridError(Exception):
    """An error that a user can read: what happened, to what, and what to do next."""

    exit_code = 1

    def __init__(self, message: str, *, hint: str = "") -> None:
        super().__init__(message)
        self.message = message
        self.hint = hint


class UsageError(HybridError):
    """The command line or a setting is wrong."""

    exit_code = 2


class Missed(HybridError):
    """The work is finished, but items failed or a threshold was missed."""

    exit_code = 3


class NotFinished(HybridError):
    """Stopped before the end; nothing is lost and the same command goes on."""

    exit_code = 4


class Waits(NotFinished):
    """The items of a stage are not known here: an earlier one is not finished, as far as can be seen."""


class Temporary(HybridError):
    """Something outside is away for now: mount, network, quota, another process."""

    exit_code = 5


class BadData(HybridError):
    """A file is corrupt, truncated, foreign or of another version."""

    exit_code = 6


class CannotRun(HybridError):
    """This machine cannot do it as asked: missing model, library, memory or permission."""

    exit_code = 7


class PluginFault(CannotRun):
    """The code of a pipeline or grader raised what nobody foresaw, or made what nobody can use."""


class OwnFault(PluginFault):
    """The same of one that comes with hybrid, or of a backend: for whoever runs it a fault in hybrid."""

    exit_code = 1


def nearest(word: str, known: Iterable[str]) -> str:
    """The hint of a misspelt name: the closest known one, then all of them."""
    names = sorted(known)
    close = difflib.get_close_matches(word, names, n=1, cutoff=0.5)
    guess = f"did you mean '{close[0]}'? " if close else ""
    return f"{guess}known: {', '.join(names) or 'none'}"


SHOWN = 5
"""Names in a message: a model may lack thousands."""


def listed(names: Iterable[str]) -> str:
    """The first few of many names, sorted, and how many more there are."""
    every = sorted(names)
    more = f" and {len(every) - SHOWN} more" if len(every) > SHOWN else ""
    return ", ".join(f"{name:.200}" for name in every[:SHOWN]) + more


KINDS = {type(None): "null", bool: "true or false", int: "a number", float: "a number", str: "a text", list: "a list"}


def keys_of(value: object) -> str:
    """What JSON value stands where an object with other keys is needed: its keys, or what else it is."""
    if not isinstance(value, Mapping):
        return f"it is {KINDS.get(type(value), 'something else')}, not an object"
    return f"its keys are {listed(f'{str(key)[:40]!r}' for key in value)}" if value else "it is an empty object"
