"""Backend options: texts from the command line (`--backend-option name=value`), parsed and checked."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Iterator, Mapping

from hybrid.errors import UsageError, nearest


def whole_number(options: Mapping[str, str], name: str, default: int, *, low: int, high: int) -> int:
    """The option `name`, from `low` to `high`; `default` when it is not given. Raises UsageError."""
    text = options.get(name, "").strip()
    if not text:
        return default
    try:
        value = int(text)
    except ValueError:
        value = low - 1
    if not low <= value <= high:
        raise UsageError(f"the backend option {name}={text} is not a whole number from {low:,} to {high:,}")
    return value


def fraction(options: Mapping[str, str], name: str, default: float) -> float:
    """A fraction above 0 and at most 1. Raises UsageError."""
    text = options.get(name, "").strip()
    try:
        value = float(text) if text else default
    except ValueError:
        value = 0.0
    if not 0.0 < value <= 1.0:
        raise UsageError(f"the backend option {name}={text} is not above 0 and at most 1")
    return value


def one_of(options: Mapping[str, str], name: str, known: tuple[str, ...]) -> str:
    """One of the words `known`; the first is the default. Raises UsageError."""
    value = options.get(name, "").strip() or known[0]
    if value not in known:
        raise UsageError(f"the backend option {name}={value} is not known", hint=nearest(value, known))
    return value


def by_role(texts: Iterable[str], roles: Collection[str]) -> dict[str, list[str]]:
    """The texts of an option by role: `judge=TEXT` is TEXT of the judge where that is a role, all else is of "".

    A text of the first model that begins like one of a role is written `=TEXT`.
    """
    found: dict[str, list[str]] = {}
    for text in texts:
        role, equals, rest = text.partition("=")
        told = (role, rest) if equals and role in ("", *roles) else ("", text)
        found.setdefault(told[0], []).append(told[1])
    return found


def pairs(option: str, texts: Iterable[str]) -> Iterator[tuple[str, str]]:
    """Split the `name=value` texts of an option into pairs. Raises UsageError."""
    for text in texts:
        name, equals, value = text.partition("=")
        if not equals or not name:
            raise UsageError(f"{option} is written name=value, got '{text}'")
        yield name, value
