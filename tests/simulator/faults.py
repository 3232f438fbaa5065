"""The faults and their rates. A rate is the probability that a fault occurs on one occasion; 1 is always, 0 never."""

from __future__ import annotations

import random
from collections.abc import Mapping
from dataclasses import dataclass, field

FAULTS = {
    "F1": "a file that was not uploaded is lost with its VM, or with a mount that died: each on its own, so any subset",
    "F2": "a change overtakes others, or is overtaken",
    "F3": "a change takes ten seconds to nine hours, each way on its own",
    "F4": "a listing lacks names or still has deleted ones; a file that is there is not found",
    "F5": "a read gives an older content",
    "F6": "a file arrives empty, cut, half zeros or as an error text, and heals; for ever when its VM died in between",
    "F7": "a name is made twice, of a file or a folder; of two folders of one name only one is looked into",
    "F8": "a conflict copy appears beside a file, or instead of it",
    "F9": "a rename is seen as a creation and a deletion, in any order",
    "F11": "an upload waits until the mount is made anew",
    "F12": "the mount dies (107), fails (errno 5), hangs, or is a plain empty folder of the VM for a while",
    "F13": "the local disk is full for a while",
    "F14": "the quota is full for a while: writes fail, or succeed and are not uploaded",
    "F15": "a place with more than 500 names cannot be listed",
    "F16": "half a second passes between two uploads of a machine",
    "F17": "wall clocks are wrong by up to a year, and the clock of a process jumps ahead by up to an hour",
    "F18": "what a dead VM still had on its way arrives hours later",
    "F19": "somebody deletes, moves, renames or copies a file or folder, or opens it with Docs",
    "F20": "a name that no other system would allow, or that differs in case only, appears",
    "F21": "the sign-in has expired: nothing works for hours",
    "F22": "the mount is the folder of another account for a while",
    "F23": "a bad listing is taken for a deletion: files of a folder vanish for everybody",
    "F24": "a file is a placeholder that cannot be fetched: half a minute, then an error",
    "F25": "a write succeeds, and its reply is lost",
    "F26": "the folder is put back as it was some time before, for everybody",
}
"""F10 (no mutual exclusion) has no rate: it always holds."""


@dataclass(frozen=True)
class Faults:
    """A rate for each fault that may happen."""

    rates: Mapping[str, float] = field(default_factory=dict)

    def __post_init__(self) -> None:
        if unknown := [name for name in self.rates if name not in FAULTS]:
            raise ValueError(f"no such faults: {', '.join(unknown)}")

    @classmethod
    def only(cls, **rates: float) -> Faults:
        """`Faults.only(F4=0.1, F6=1)`."""
        return cls(rates)

    @classmethod
    def random(cls, rng: random.Random) -> Faults:
        """A random subset of the faults: a bug is found sooner where other faults do not hide it."""
        return cls({name: rng.choice((0.01, 0.05, 0.2)) for name in FAULTS if rng.random() < 0.4})


NONE = Faults()
