"""Formulas of propositional logic, compared by truth tables: an integer holds the values for all assignments."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import NamedTuple

LONGEST = 200
"""Characters of a formula that is looked at, and so the depth of its nesting: the longest right ones have 90."""
MOST_NAMES = 14
"""Names in one comparison: 2^14 assignments."""
NOT = "¬"
BINARY = "↔→∨∧"
"""Operators of two operands, the one that binds least first."""

_VALUES: Mapping[str, Callable[[int, int, int], int]] = {
    "∧": lambda left, right, _: left & right,
    "∨": lambda left, right, _: left | right,
    "→": lambda left, right, all_true: (all_true ^ left) | right,
    "↔": lambda left, right, all_true: all_true ^ left ^ right,
}


class Formula(NamedTuple):
    """A name, or an operator ("" for a name) with its operands."""

    operator: str
    name: str = ""
    operands: tuple[Formula, ...] = ()

    def names(self) -> set[str]:
        """The names in it."""
        return {self.name} if not self.operator else set().union(*(one.names() for one in self.operands))

    def table(self, columns: Mapping[str, int], all_true: int) -> int:
        """Its truth table, given those of the names."""
        if not self.operator:
            return columns[self.name]
        values = [one.table(columns, all_true) for one in self.operands]
        if self.operator == NOT:
            return all_true ^ values[0]
        return _VALUES[self.operator](values[0], values[1], all_true)


class Judgement(NamedTuple):
    """Whether a conclusion holds wherever all premises do, and whether it holds always."""

    follows: bool
    tautology: bool


def parse(text: str, *, implies_last: bool = False) -> Formula:
    """The formula that a text is; what has no operator outside parentheses is a name, whatever it is.

    P → Q → R is P → (Q → R); with `implies_last`, as reasoning-gym reads it, (P → Q) → R. Raises ValueError when a
    part is empty, or the text has more than LONGEST characters.
    """
    if len(text) > LONGEST:
        raise ValueError(f"a formula of {len(text):,} characters")
    text = text.strip()
    if not text:
        raise ValueError("an empty part of a formula")
    if _enclosed(text):
        return parse(text[1:-1], implies_last=implies_last)
    outside = _outside(text)
    for operator in BINARY:
        if places := [place for place in outside if text[place] == operator]:
            place = places[0] if operator == "→" and not implies_last else places[-1]
            sides = text[:place], text[place + 1 :]
            return Formula(operator, operands=tuple(parse(side, implies_last=implies_last) for side in sides))
    if text.startswith(NOT):
        return Formula(NOT, operands=(parse(text[1:], implies_last=implies_last),))
    return Formula("", text)


def written(text: str, names: Iterable[str]) -> Formula:
    """The well-formed formula over `names` that a text is. Raises ValueError."""
    formula = parse(text)
    if text.count("(") != text.count(")") or not formula.names() <= set(names):
        raise ValueError(f"not a formula over {', '.join(names)}: {text!r:.80}")
    return formula


def judge(premises: Sequence[Formula], conclusion: Formula) -> Judgement:
    """What a conclusion is worth. Raises ValueError for more than MOST_NAMES names."""
    names = sorted(set().union(*(one.names() for one in (*premises, conclusion))))
    if len(names) > MOST_NAMES:
        raise ValueError(f"{len(names)} names in formulas")
    all_true = (1 << (1 << len(names))) - 1
    columns = {name: all_true // ((1 << (1 << place)) + 1) for place, name in enumerate(names)}
    held = all_true
    for premise in premises:
        held &= premise.table(columns, all_true)
    table = conclusion.table(columns, all_true)
    return Judgement(not held & ~table, table == all_true)


def _enclosed(text: str) -> bool:
    """Whether the first character is the parenthesis that the last one closes."""
    if not (text[0] == "(" and text[-1] == ")"):
        return False
    depth = 0
    for character in text[1:-1]:
        depth += (character == "(") - (character == ")")
        if depth < 0:
            return False
    return depth == 0


def _outside(text: str) -> list[int]:
    """The places that no parenthesis encloses, seen from the end."""
    places, depth = [], 0
    for place in range(len(text) - 1, -1, -1):
        if text[place] in "()":
            depth += 1 if text[place] == ")" else -1
        elif depth == 0:
            places.append(place)
    return places[::-1]
