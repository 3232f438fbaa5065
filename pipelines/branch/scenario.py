"""A scenario: what is written, level by level, read from a TOML file; what is misspelt or impossible is refused."""

from __future__ import annotations

import re
import tomllib
from collections.abc import Callable, Mapping
from dataclasses import MISSING, asdict, dataclass, field, fields
from pathlib import Path
from typing import Any, TypeVar

from hybrid.bounds import NOT_NEGATIVE, SHARE, Bounds
from hybrid.canonical import Json
from hybrid.errors import BadData, CannotRun, UsageError, listed, nearest
from hybrid.grading.patterns import MOST_WAYS, BadPattern, ways
from hybrid.machine.text_files import utf8

FOLDER = Path(__file__).with_name("scenarios")
SHIPPED = tuple(sorted(path.stem for path in FOLDER.glob("*.toml")))
MAX_FILE = 256 * 1024
NAME = re.compile(r"[a-z0-9][a-z0-9-]{0,39}")
FEATURES = ("relevance", "logprob", "constraints", "variety", "judge")
"""What the score of a candidate is mixed of, each as its rank among the candidates of its level."""
FACETS = ("tone", "viewpoint", "device")
PAGE = "docs/branch.md says what a scenario holds"
LONGEST = 100_000
"""Characters of an answer that a pattern is searched in, at most."""

Made = TypeVar("Made")


@dataclass(frozen=True, slots=True)
class Level:
    """One level of the tree: what is asked for, and what a text must keep to. Lengths are in words."""

    name: str
    ask: str
    max_tokens: int = 160
    min_words: int = 8
    max_words: int = 160
    paragraphs: int = 1
    lists: bool = False  # whether a list is a text that was asked for


@dataclass(frozen=True, slots=True)
class Scenario:
    """What is written. `candidates` texts are accepted for each parent, `keep` of each level go on."""

    name: str
    title: str
    brief: str
    levels: tuple[Level, ...]
    system: str = "You are a writer of fiction. You answer with the text alone."
    candidates: int = 6
    keep: int = 3
    temperature: float = 1.0
    top_p: float = 0.95
    facets: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    weights: Mapping[str, float] = field(default_factory=lambda: {"relevance": 0.3, "logprob": 0.3, "constraints": 0.4})
    boilerplate: tuple[str, ...] = ()

    def to_json(self) -> dict[str, Json]:
        """The scenario as the run stores it."""
        return {**asdict(self), "levels": [asdict(level) for level in self.levels]}


BOUNDS: Mapping[str, Bounds] = {
    "max_tokens": Bounds(1, 100_000),
    "min_words": Bounds(0, 100_000),
    "max_words": Bounds(1, 100_000),
    "paragraphs": Bounds(1, 1000),
    "candidates": Bounds(1, 1000),
    "keep": Bounds(1, 1000),
    "temperature": NOT_NEGATIVE,
    "top_p": SHARE,
}


def load(name: str) -> Scenario:
    """The scenario that comes with hybrid under this name, or that of a TOML file.

    Raises UsageError for what does not exist or is not as it should be, CannotRun for a file that cannot be read.
    """
    path = FOLDER / f"{name}.toml" if name in SHIPPED else Path(name)
    if name not in SHIPPED and path.suffix != ".toml":
        raise UsageError(
            f"there is no scenario '{name}'", hint=f"{nearest(name, SHIPPED)}; your own is a file that ends in .toml"
        )
    try:
        if path.stat().st_size > MAX_FILE:
            raise UsageError(f"{path}: more than {MAX_FILE:,} bytes, which no scenario has", hint=PAGE)
        table = tomllib.loads(utf8(path.read_bytes(), str(path)).decode())
    except (FileNotFoundError, IsADirectoryError, NotADirectoryError) as error:
        raise UsageError(f"{path}: {error.strerror}", hint="name a file: --set scenario=FILE.toml") from error
    except OSError as error:
        raise CannotRun(f"{path}: {error.strerror}", hint="name a file: --set scenario=FILE.toml") from error
    except tomllib.TOMLDecodeError as error:
        raise UsageError(f"{path}: not TOML: {error}", hint=PAGE) from error
    return from_table({"name": _name_of(path), **table}, str(path))


def from_task(task: Any, name: str) -> Scenario:
    """The scenario that a run stores. Raises BadData."""
    try:
        return from_table(dict(task), f"task {name} of the run")
    except (UsageError, TypeError, ValueError) as error:
        raise BadData(
            f"task {name} of the run: not a scenario: {error}", hint="the run was changed by hand or by another version"
        ) from error


def from_table(table: Mapping[str, Any], what: str) -> Scenario:
    """The scenario in a decoded table; `what` names it. Raises UsageError that names the key."""
    levels = table.get("levels", table.get("level"))
    if not isinstance(levels, list) or not levels or not all(isinstance(one, dict) for one in levels):
        raise UsageError(f"{what}: it has no levels", hint=f"[[level]] with name and ask, one or more; {PAGE}")
    known = {key: value for key, value in table.items() if key not in ("levels", "level")}
    made = tuple(_made(Level, level, f"{what}: level {number}") for number, level in enumerate(levels, 1))
    scenario = _made(Scenario, {**known, "levels": made}, what)
    _refuse_impossible(scenario, what)
    return scenario


def _refuse_impossible(scenario: Scenario, what: str) -> None:
    """Raise UsageError for values that are each possible, but not together."""
    if not NAME.fullmatch(scenario.name):
        raise UsageError(f"{what}: name is '{scenario.name:.60}'; it is made of a-z, 0-9 and -, 40 at most")
    for key, text in (("brief", scenario.brief), *((f"ask of '{one.name}'", one.ask) for one in scenario.levels)):
        if not text.strip():
            raise UsageError(f"{what}: the {key} is empty: there is nothing to ask for", hint=PAGE)
    if scenario.keep > scenario.candidates:
        raise UsageError(
            f"{what}: keep={scenario.keep} of candidates={scenario.candidates}: more than there are",
            hint="raise candidates, or keep fewer",
        )
    for level in scenario.levels:
        if level.min_words > level.max_words:
            raise UsageError(f"{what}: level '{level.name}' has min_words over max_words")
    for pattern in scenario.boilerplate:
        _refuse_slow(pattern, what)


def _refuse_slow(pattern: str, what: str) -> None:
    try:
        slow = ways(pattern, LONGEST) > MOST_WAYS
    except BadPattern as error:
        hint = r"write \\( for a bracket itself, and so for [ { * + ?; in TOML a pattern stands in '...'"
        raise UsageError(f"{what}: boilerplate {pattern!r:.80}: {error}", hint=hint) from error
    if slow:
        raise UsageError(
            f"{what}: boilerplate {pattern!r:.80}: it could take minutes on a long text",
            hint="begin it with ^ or a fixed word, without .* inside",
        )


def _made(cls: Callable[..., Made], table: Mapping[str, Any], what: str) -> Made:
    """An instance of a dataclass from a table: no unknown key, none missing, each value of its type."""
    known: dict[str, Any] = {one.name: one for one in fields(cls)}  # type: ignore[arg-type]
    for key, value in table.items():
        if key not in known:
            shown = {"level" if name == "levels" else name for name in known}
            raise UsageError(f"{what}: no key is called '{key:.60}'", hint=nearest(key[:60], shown))
        if key in BOUNDS and isinstance(value, int | float) and not BOUNDS[key].hold(value):
            raise UsageError(f"{what}: {key}={value} is not {BOUNDS[key]}")
    needed = [key for key, one in known.items() if one.default is MISSING and one.default_factory is MISSING]
    if missing := [key for key in needed if key not in table]:
        raise UsageError(f"{what}: the key '{missing[0]}' is missing", hint=PAGE)
    return cls(**{key: _value(key, known[key].type, value, what) for key, value in table.items()})


def _value(key: str, kind: str, value: Any, what: str) -> Any:
    """The value of a key, checked. `kind` is the annotation of its field."""
    if key == "levels":
        return value
    if key == "facets":
        return {name: _texts(f"facets.{name}", one, what) for name, one in _table(key, value, FACETS, what).items()}
    if key == "weights":
        return {name: _weight(name, one, what) for name, one in _table(key, value, FEATURES, what).items()}
    if kind == "tuple[str, ...]":
        return _texts(key, value, what)
    if kind == "float" and type(value) in (int, float):
        return float(value)
    if type(value).__name__ != kind:
        words = {"str": "a text", "int": "a whole number", "float": "a number", "bool": "true or false"}
        raise UsageError(f"{what}: {key} is {value!r:.60}, not {words[kind]}")
    return value


def _table(key: str, value: Any, names: tuple[str, ...], what: str) -> Mapping[str, Any]:
    if not isinstance(value, dict):
        raise UsageError(f"{what}: {key} is not a table", hint=f"[{key}] with {listed(names)}")
    if odd := sorted(value.keys() - set(names)):
        raise UsageError(f"{what}: {key} has no '{odd[0]:.60}'", hint=nearest(odd[0][:60], names))
    return value


def _texts(key: str, value: Any, what: str) -> tuple[str, ...]:
    if isinstance(value, list | tuple) and all(isinstance(one, str) and one.strip() for one in value):
        return tuple(value)
    raise UsageError(f"{what}: {key} is not a list of texts")


def _weight(name: str, value: Any, what: str) -> float:
    if type(value) in (int, float) and NOT_NEGATIVE.hold(value):
        return float(value)
    raise UsageError(f"{what}: the weight of '{name}' is {value!r:.60}, not {NOT_NEGATIVE}")


def _name_of(path: Path) -> str:
    """A name from the name of the file: lower case, everything else but letters and digits as one dash."""
    return re.sub(r"[^a-z0-9]+", "-", path.stem.lower()).strip("-")[:40].strip("-") or "scenario"
