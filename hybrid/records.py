"""The things that travel: what is asked, what came back, how it was judged.

    Item -> Request -> Completion -> Record (in a shard) -> Output (in outputs.json) -> Grade (in grades.json)

A *task* is a cluster for statistics, a *question* is what one grade is for, a *view* is one way of showing it.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal, NoReturn, TypeVar

from hybrid.canonical import Json
from hybrid.errors import BadData, keys_of
from hybrid.items import Adapter, Example, Item, Lesson, Message, Request, Sampling
from hybrid.thoughts import is_marked, split
from hybrid.vectors import base64_of, vector_in

__all__ = [
    "Adapter",
    "Completion",
    "Example",
    "Failure",
    "Grade",
    "Item",
    "Lesson",
    "Message",
    "Output",
    "Question",
    "Record",
    "Request",
    "Sampling",
    "reference_of",
    "unanswered",
]

LARGEST = 2**62
"""The largest whole number in an output, and with a minus before it the smallest."""

NEEDED = frozenset({"key", "task", "question"})
NEEDS = "needed are 'key', 'task', 'question', and 'text' or 'error'"
Number = TypeVar("Number", float, None)

RECORD = "docs/format.md says what a record of outputs.json holds"

USUAL = 10
"""Members of an output's JSON object that always has them all."""


@dataclass(frozen=True, slots=True)
class Failure:
    """Why there is no output, or no score. `kind` is one word for counting, `message` is for people."""

    kind: str
    message: str

    def to_json(self) -> dict[str, Json]:
        return {"kind": self.kind, "message": self.message}


NO_RECORD = "missing"
"""The kind of the failure that stands for an item without a record."""


def unanswered(thought: str) -> Failure:
    """Why there is no answer where a model only thought."""
    told = f"the model only thought ({len(thought):,} characters) and gave no answer: max_tokens bounds both together"
    return Failure("no-answer", told)


@dataclass(frozen=True, slots=True)
class Completion:
    """What a backend answers: `text`, or `error` and no text. A failure is never an empty text.

    `text` is the answer alone; a `thought` that came before it, or instead of it, stands apart (hybrid.thoughts). An
    embedding is a `vector`, and an empty text.
    """

    key: str
    text: str | None = None
    error: Failure | None = None
    finish: Literal["stop", "length", ""] = ""
    prompt_tokens: int = 0
    cached_tokens: int = 0  # of prompt_tokens, taken from a cache
    completion_tokens: int = 0
    logprob: float | None = None  # natural log, summed over the completion; none with a schema
    seconds: float = 0.0
    trained: Mapping[str, Json] = field(default_factory=dict)  # what the training for it did; empty without one
    thought: str = ""
    vector: tuple[float, ...] | None = None  # as float32 holds it

    def __post_init__(self) -> None:
        if (self.text is None) == (self.error is None):
            raise ValueError("a completion holds a text or an error, one of the two")


@dataclass(frozen=True, slots=True)
class Record:
    """The result of one item as a shard keeps it.

    Of an item of a search, `history` names what its walk had been sent when it asked (hybrid.walks).
    """

    key: str
    task: str
    question: str
    view: Mapping[str, Any]
    sample: int
    completion: Completion
    history: str = ""

    def to_json(self) -> dict[str, Json]:
        """The JSON object of a shard line (docs/format.md)."""
        done = self.completion
        return {
            "key": self.key,
            "task": self.task,
            "question": self.question,
            "view": self.view,
            "sample": self.sample,
            "text": done.text,
            "error": done.error.to_json() if done.error else None,
            "finish": done.finish,
            "tokens": [done.prompt_tokens, done.completion_tokens],
            "cached": done.cached_tokens,
            "logprob": done.logprob,
            "seconds": round(done.seconds, 3),
            **({"trained": done.trained} if done.trained else {}),
            **({"thought": done.thought} if done.thought else {}),
            **({"vector": base64_of(done.vector)} if done.vector is not None else {}),
            **({"history": self.history} if self.history else {}),
        }


@dataclass(slots=True)
class Output:
    """One line of outputs.json: what the model said, with the reference it is judged against.

    Nothing may change one. It is not frozen, since Python takes five times as long to make what is, and files hold
    millions.

    `text` is the answer alone. A line in which a thought still stands before it is taken apart when it is read, so no
    grader sees one. `logprob` and `seconds` are known to the stages of a run, they are not in outputs.json.
    """

    key: str
    task: str
    question: str
    view: Mapping[str, Any]
    sample: int
    text: str | None
    error: Failure | None
    reference: Json
    finish: str = ""
    tokens: tuple[int, int] = (0, 0)  # prompt, completion
    trained: Mapping[str, Any] = field(default_factory=dict)  # what the training for it did; empty without one
    thought: str = ""
    vector: tuple[float, ...] | None = None  # of an embedding, which has an empty text
    logprob: float | None = None  # natural log, summed over the completion
    seconds: float = 0.0

    @classmethod
    def plain(cls, value: Any) -> Output | None:
        """What `from_json` gives, in a fraction of its time, for the usual record; None for what it has to look at."""
        try:
            key, task, question, text = value["key"], value["task"], value["question"], value["text"]
            view, sample, finish, (prompt, completion) = (
                value["view"],
                value["sample"],
                value["finish"],
                value["tokens"],
            )
            if (
                len(value) == USUAL
                and type(key) is type(task) is type(question) is type(text) is type(finish) is str
                and type(view) is dict
                and type(value["tokens"]) is list
                and type(sample) is type(prompt) is type(completion) is int
                and 0 <= sample <= LARGEST
                and 0 <= prompt <= LARGEST
                and 0 <= completion <= LARGEST
                and value["error"] is None
                and not is_marked(text)
            ):
                return cls(
                    key, task, question, view, sample, text, None, value["reference"], finish, (prompt, completion), {}
                )
        except (KeyError, TypeError, ValueError):
            pass
        return None

    @classmethod
    def from_json(cls, value: Any, *, what: str) -> Output:
        """The output in a decoded line; `what` names file and line. Raises BadData."""
        if not isinstance(value, dict) or not value.keys() >= NEEDED or not value.keys() & {"text", "error"}:
            raise BadData(f"{what}: not an output record: {keys_of(value)}; {NEEDS}", hint=RECORD)
        try:
            error, text, view = value.get("error"), value.get("text"), value.get("view")
            view = {} if view is None else view
            if (text is None) == (error is None) or not (isinstance(text, str | None) and isinstance(view, dict)):
                _refuse("needs a text or an error, one of the two, and a view that is an object")
            tokens = [0, 0] if value.get("tokens") is None else value["tokens"]
            if not isinstance(tokens, list) or len(tokens) != 2:
                _refuse("tokens are two whole numbers")
            if not isinstance(trained := value.get("trained", {}), dict):
                _refuse("trained is not an object")
            thought, error = _text(value.get("thought", ""), "thought"), _failure(error)
            if text is not None and not thought:
                thought, text = split(text)
                error = None if text is not None else unanswered(thought)
            return cls(
                key=_text(value["key"], "key"),
                task=_text(value["task"], "task"),
                question=_text(value["question"], "question"),
                view=view,
                sample=_whole(value.get("sample", 0), "sample"),
                text=text,
                error=error,
                reference=value.get("reference"),
                finish=_text(value.get("finish", ""), "finish"),
                tokens=(_whole(tokens[0], "tokens"), _whole(tokens[1], "tokens")),
                trained=trained,
                thought=thought,
                vector=vector_in(vector) if isinstance(vector := value.get("vector"), str) else None,
                logprob=_number(value.get("logprob"), None),
                seconds=_number(value.get("seconds"), 0.0),
            )
        except (KeyError, TypeError, ValueError, AttributeError, IndexError) as error:
            raise BadData(f"{what}: not an output record: {error}", hint=RECORD) from error

    def to_json(self) -> dict[str, Json]:
        """The JSON object of a line of outputs.json (docs/format.md)."""
        return {
            "key": self.key,
            "task": self.task,
            "question": self.question,
            "view": self.view,
            "sample": self.sample,
            "text": self.text,
            "error": self.error.to_json() if self.error else None,
            "finish": self.finish,
            "tokens": list(self.tokens),
            "reference": self.reference,
            **({"trained": self.trained} if self.trained else {}),
            **({"thought": self.thought} if self.thought else {}),
            **({"vector": base64_of(self.vector)} if self.vector is not None else {}),
        }


def _refuse(reason: str) -> NoReturn:
    raise ValueError(reason)


def _text(value: Any, name: str) -> str:
    return value if isinstance(value, str) else _refuse(f"{name} is not a text")


def _whole(value: Any, name: str) -> int:
    if isinstance(value, int) and not isinstance(value, bool) and -LARGEST <= value <= LARGEST:
        return value
    _refuse(f"{name} is not a whole number of at most 62 bits")


def _number(value: Any, otherwise: Number) -> float | Number:
    """A number of a shard. A file that others made may have anything under its name, or nothing."""
    return value if type(value) in (int, float) and math.isfinite(value) else otherwise


def _failure(value: Any) -> Failure | None:
    if value is None:
        return None
    if not isinstance(value, dict) or not value.keys() >= {"kind", "message"}:
        _refuse(f"an error needs the keys 'kind' and 'message'; {keys_of(value)}")
    return Failure(_text(value["kind"], "kind"), _text(value["message"], "message"))


@dataclass(slots=True)
class Question:
    """All outputs that answer one question, with what the run knows of its task (`source`, None if nothing).

    As with outputs, nothing may change one.
    """

    task: str
    id: str
    reference: Json
    outputs: tuple[Output, ...]
    source: Json = None


@dataclass(frozen=True, slots=True)
class Grade:
    """A verdict: a score in [0, 1], or None and the reason why there is none.

    `figures` are secondary measures in [0, 1] that are averaged beside the score, `controls` are the scores that a
    method without a model would get on the same question, `arms` are the scores that another model got on it, such as
    the one that was not trained; what the score gains over these is told. `detail` is kept for the report. `due` is
    False for what has no score by its nature, such as a round before the last one: it is not counted as ungraded.
    """

    score: float | None
    reason: str = ""
    figures: Mapping[str, float] = field(default_factory=dict)
    controls: Mapping[str, float] = field(default_factory=dict)
    detail: Mapping[str, Any] = field(default_factory=dict)
    arms: Mapping[str, float] = field(default_factory=dict)
    due: bool = True

    def __post_init__(self) -> None:
        if self.score is None and not self.reason:
            raise ValueError("a grade without a score needs its reason")
        if self.score is not None and not self.due:
            raise ValueError(f"a score of {self.score!r} where none is due")
        if self.score in (0.0, 1.0) and not (self.figures or self.controls or self.arms):
            return  # as most are
        named = (*self.figures.items(), *self.controls.items(), *self.arms.items())
        for name, value in (("score", self.score), *named):
            if value is not None and not (math.isfinite(value) and 0.0 <= value <= 1.0):
                raise ValueError(f"'{name}' is {value!r}: scores, figures, controls and arms lie in [0, 1]")


def reference_of(references: Mapping[str, Json], question: str) -> Json:
    """The reference of a question, else that of what it is a variant of: the part before the first `@`; else None."""
    return references[question] if question in references else references.get(question.partition("@")[0])
