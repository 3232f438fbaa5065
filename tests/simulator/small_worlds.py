"""Small worlds for the simulator's own tests: two machines, some files, and what they show."""

from __future__ import annotations

from collections.abc import Callable

from hybrid.errors import HybridError
from tests.simulator import Actor, Faults, World

HOUR = 3600.0
LIMIT = 1000


def world(seed: int = 1, **rates: float) -> World:
    return World(seed, Faults.only(**rates))


def said(act: Callable[..., object], *arguments: object) -> str:
    """The name of the class of the HybridError that `act` raises, or an empty string."""
    try:
        act(*arguments)
    except HybridError as error:
        return type(error).__name__
    return ""


def pair(some: World) -> tuple[Actor, Actor]:
    return some.actor("laptop"), some.actor("gpu")


def fill(actor: Actor, number: int, place: str = "a") -> list[str]:
    """Write some files; their names are in the order of writing."""
    paths = [f"{place}/{one:03d}.zst" for one in range(number)]
    for path in paths:
        actor.folder.write(path, path.encode())
    return paths


def names(actor: Actor, place: str = "a") -> list[str]:
    return sorted(entry.name for entry in actor.folder.entries(place))


def shows(some: World, act: Callable[[], bool], tries: int = 200, seconds: float = 0.0) -> bool:
    """Whether `act` returns true in one of `tries` calls, `seconds` apart."""
    for _ in range(tries):
        if act():
            return True
        some.wait(seconds)
    return False
