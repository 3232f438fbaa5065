"""Questions by task, level and index, the same on every machine, and how a model is asked them."""

from __future__ import annotations

import ast
import hashlib
import json
import operator
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from decimal import ROUND_HALF_UP, Context, Decimal, localcontext
from fractions import Fraction
from typing import Any

from hybrid.canonical import Json
from hybrid.items import Message
from hybrid.tasks.reasoning.formulas import judge, written
from hybrid.tasks.reasoning.generators import Unanswerable, generators, system_prompt
from hybrid.tasks.reasoning.levels import EXAMPLES, LEVELS, SHORT, TASKS

MOST_INDEX = 2**48 - 1
MOST_DRAWN = 100
"""Draws for one index; less than one in a hundred has to be drawn again."""

_OPERATORS: Mapping[type, Callable[..., Fraction]] = {
    ast.Add: operator.add,
    ast.Sub: operator.sub,
    ast.Mult: operator.mul,
    ast.Div: operator.truediv,
    ast.USub: operator.neg,
    ast.UAdd: operator.pos,
}


@dataclass(frozen=True, slots=True)
class Question:
    """A question, and a right answer in the form that the task's generator gives it."""

    task: str
    index: int
    level: str
    text: str
    answer: str
    metadata: Mapping[str, Json]


def question(task: str, index: int, level: str = "paper") -> Question:
    """The question of an index, 0 to 2^48 - 1.

    Its generator's seed is a hash of task, level and index, so neighbouring indices have nothing in common. A question
    without a right answer is drawn anew from the same index: a division by zero, say. Raises ValueError for an unknown
    task or level and an index out of range, CannotRun without the library.
    """
    if task not in TASKS or level not in LEVELS:
        raise ValueError(f"no task {task!r:.40} of level {level!r:.40}: {', '.join(TASKS)}; {', '.join(LEVELS)}")
    if not 0 <= index <= MOST_INDEX:
        raise ValueError(f"the index {index} of a question is not between 0 and 2^48 - 1")
    generator = generators()[task, level]
    for attempt in range(MOST_DRAWN):
        try:
            return _drawn(generator, task, index, level, attempt)
        except (Unanswerable, ArithmeticError):
            continue
    raise AssertionError(f"{task} {level} {index}: {MOST_DRAWN} questions, and none has an answer")


def messages(question: Question) -> tuple[Message, ...]:
    """What a model is asked: reasoning-gym's system prompt and the question; a short one with an example if easy."""
    if question.level != "easy":
        return Message("system", system_prompt()), Message("user", question.text)
    system, asked, answer = EXAMPLES[question.task]
    return (
        Message("system", system),
        Message("user", asked),
        Message("assistant", f"<answer>{answer}</answer>"),
        Message("user", question.text),
    )


def seed_of(task: str, index: int, level: str, attempt: int) -> int:
    """The seed of a question's generator, 64 bits: `attempt` counts what was drawn in vain."""
    return int.from_bytes(hashlib.sha256(f"{task}/{level}/{index}/{attempt}".encode()).digest()[:8])


def _drawn(generator: Any, task: str, index: int, level: str, attempt: int) -> Question:
    """Raises Unanswerable or ArithmeticError for a question that has no right answer."""
    with localcontext(Context()):  # decimal_arithmetic sets the precision of this thread and leaves it so
        entry = generator[seed_of(task, index, level, attempt)]
    metadata: dict[str, Any] = json.loads(json.dumps(entry["metadata"]))
    text, answer = str(entry["question"]), entry["answer"]
    match task:
        case "basic_arithmetic" if str(_value(metadata["expression"])) != answer:
            raise Unanswerable  # its answer is that of floor divisions
        case "base_conversion" if not (metadata["source_repr"] and answer):
            raise Unanswerable  # zero is written as no digit at all
        case "decimal_arithmetic":
            metadata["rounded"] = _rounded(text, generator.config.precision)
        case "propositional_logic":
            answer = _conclusion(metadata)
    if level == "easy" and task in SHORT:
        text = SHORT[task](text, metadata)
    return Question(task, index, level, text, answer, metadata)


def _rounded(text: str, precision: int) -> str:
    """The value of the expression in the question, rounded once, as the question says.

    reasoning-gym's answer is rounded after every operation, and half to even.
    """
    value = _value(text.splitlines()[-1].removesuffix(" = ?"))
    context = Context(prec=precision, rounding=ROUND_HALF_UP)
    return str(context.divide(Decimal(value.numerator), Decimal(value.denominator)))


def _conclusion(metadata: Mapping[str, Any]) -> str:
    """A conclusion that follows and says something: the example of reasoning-gym if it does, else all premises."""
    names = metadata["variables"]
    premises = [written(premise, names) for premise in metadata["premises"]]
    together = " ∧ ".join(f"({premise})" for premise in metadata["premises"])
    for candidate in (metadata["example_answer"], together):
        found = judge(premises, written(candidate, names))
        if found.follows and not found.tautology:
            return str(candidate)
    raise Unanswerable  # nothing but tautologies follows from tautologies


def _value(expression: str) -> Fraction:
    """The exact value of an expression of numbers that a generator wrote. Raises ZeroDivisionError."""

    def value(node: ast.expr) -> Fraction:
        match node:
            case ast.BinOp(left, operation, right):
                return _OPERATORS[type(operation)](value(left), value(right))
            case ast.UnaryOp(operation, operand):
                return _OPERATORS[type(operation)](value(operand))
            case ast.Constant(number):
                return Fraction(str(number))
        raise AssertionError(f"not arithmetic: {expression}")

    return value(ast.parse(expression, mode="eval").body)
