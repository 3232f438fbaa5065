"""The one door to reasoning-gym: nine of its hundred generators, without the libraries that the others need.

Importing `reasoning_gym` imports all tasks, with compiled solvers that it pins. So the modules of the nine are
imported below empty packages of the same names, which then leave `sys.modules` again: whoever imports the whole
library, before or after, has it whole. What they need beside the standard library is `bfi`.
"""

from __future__ import annotations

import importlib.util
import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from functools import cache
from math import gcd
from threading import Lock
from types import ModuleType
from typing import Any

from hybrid.errors import CannotRun
from hybrid.machine.late_imports import import_object
from hybrid.tasks.reasoning.levels import LEVELS, TASKS

LIBRARY = "reasoning_gym"
NEEDED_FOR = "the tasks of reasoning-gym"
PLACES = {
    "base_conversion": "algorithmic",
    "basic_arithmetic": "arithmetic",
    "arc_1d": "arc",
    "bf": "code",
    "propositional_logic": "logic",
    "fraction_simplification": "arithmetic",
    "decimal_arithmetic": "arithmetic",
    "calendar_arithmetic": "arithmetic",
    "binary_matrix": "algorithmic",
}
"""Task -> its package."""
MOST_TRIED = 10**10
"""The divisors of a number are looked for up to its square root: a second for 10^14, hours for what a product of five
numbers of four digits can be."""

_LOCK = Lock()


class Unanswerable(Exception):
    """The generator made no question that can be answered, or none in a bounded time: another has to be drawn."""


@cache
def generators() -> Mapping[tuple[str, str], Any]:
    """(task, level) -> its data set, whose item k is drawn by `random.Random(k)`. Raises CannotRun."""
    with _LOCK, _bare_packages() as library:
        create = library("factory").create_dataset
        for task, package in PLACES.items():
            library(f"{package}.{task}")
        made = {
            (task, level): create(task, seed=0, **_as_lists(parameters.get(task, {})))
            for level, parameters in LEVELS.items()
            for task in TASKS
        }
        _bound(library("arithmetic.basic_arithmetic"))
        library("code.contrib.bfit.Compiler.Optimizer").print = _silent  # it writes dots to stdout
    return made


@cache
def system_prompt() -> str:
    """The text by which reasoning-gym asks for an answer in tags. Raises CannotRun."""
    with _LOCK, _bare_packages() as library:
        return str(library("utils").SYSTEM_PROMPTS["default"])


@contextmanager
def _bare_packages() -> Iterator[Any]:
    """A function that imports a module of the library by its name in it, while its packages are empty."""
    known = {name: sys.modules.pop(name) for name in list(sys.modules) if name.partition(".")[0] == LIBRARY}
    try:
        place = _place()
        for name in ("", *(f".{one}" for one in {*PLACES.values(), "coaching"})):
            package = ModuleType(LIBRARY + name)
            package.__path__ = [place + name.replace(".", "/")]
            sys.modules[LIBRARY + name] = package
        coaching = sys.modules[f"{LIBRARY}.coaching"]
        for module, name in (
            ("attributes", "RangeAttributeDefinition"),
            ("attributes", "ScalarAttributeDefinition"),
            ("base_curriculum", "BaseCurriculum"),
        ):
            setattr(coaching, name, _library(f"coaching.{module}:{name}"))
        yield _library
    finally:
        for name in [name for name in sys.modules if name.partition(".")[0] == LIBRARY]:
            del sys.modules[name]
        sys.modules.update(known)


def _place() -> str:
    """The folder of the library, which is found without importing it. Raises CannotRun."""
    found = {name: importlib.util.find_spec(name) for name in (LIBRARY, "bfi")}
    missing = [name.replace("_", "-") for name, spec in found.items() if spec is None]
    spec = found[LIBRARY]
    if missing or spec is None or not spec.submodule_search_locations:
        raise CannotRun(
            f"{NEEDED_FOR} need the package '{' and '.join(missing) or LIBRARY}', which is not installed here",
            hint="in the environment that holds hybrid: pip install --no-deps reasoning-gym bfi",
        )
    return str(next(iter(spec.submodule_search_locations)))


def _library(name: str) -> Any:
    return import_object(f"{LIBRARY}.{name}", needed_for=NEEDED_FOR)


def _as_lists(parameters: Mapping[str, Any]) -> dict[str, Any]:
    return {name: list(value) if isinstance(value, tuple) else value for name, value in parameters.items()}


def _bound(arithmetic: Any) -> None:
    """Let the generator of basic_arithmetic give up a number whose divisors it would look for too long."""
    divisors = arithmetic.find_common_divisors

    def bounded(first: int, second: int) -> Any:
        if gcd(first, second) > MOST_TRIED:
            raise Unanswerable
        return divisors(first, second)

    arithmetic.find_common_divisors = bounded


def _silent(*_: object, **__: object) -> None:
    pass
