"""The things that travel: what is asked, what came back, how it was judged.

    Item -> Request -> Completion -> Record (in a shard) -> Output (in outputs.json) -> Grade (in grades.json)

A *task* is a cluster for statistics, a *question* is what one grade is for, a *view* is one way of showing it.
"""

from __future__ import annotations

import hashlib
import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal, NoReturn

from hybrid.canonical import Json, encoded, quoted
from hybrid.errors import BadData, PluginFault, keys_of
from hybrid.thoughts import is_marked, split
from hybrid.tuning import Tuning

LARGEST = 2**62
"""The largest whole number in an output, and with a minus before it the smallest."""

NEEDED = frozenset({"key", "task", "question"})
NEEDS = "needed are 'key', 'task', 'question', and 'text' or 'error'"
RECORD = "docs/format.md says what a record of outputs.json holds"

USUAL = 10
"""Members of an output's JSON object that always has them all."""


@dataclass(frozen=True, slots=True)
class Message:
    """One turn of a chat."""

    role: Literal["system", "user", "assistant"]
    content: str


@dataclass(frozen=True, slots=True)
class Example:
    """A text to train on: a chat whose last message is the model's, or a raw `text`, never both.

    `template` is passed to the chat template, as in a request.
    """

    messages: tuple[Message, ...] = ()
    text: str = ""
    template: Mapping[str, Any] = field(default_factory=dict)


Lesson = Example
"""The name of `Example` in earlier versions, for plugins."""


@dataclass(frozen=True, slots=True)
class Sampling:
    """How to decode. `temperature` 0 is greedy; `max_tokens` counts new tokens."""

    max_tokens: int
    temperature: float = 0.0
    top_p: float = 1.0
    seed: int = 0
    stop: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Adapter:
    """A LoRA adapter, named by the sha256 of its content: names and numbers are never reused."""

    digest: str
    path: str


@dataclass(frozen=True, slots=True)
class Request:
    """What a backend is asked: a chat (`messages`) or a raw text (`prompt`), never both.

    `template` is passed to the chat template (`date_string` pins the date); where it says nothing of thinking, that is
    off. With `tuning`, the model that answers is first trained so, from `adapter` if there is one; with neither
    messages nor a prompt, training is all that is asked, and the text of the answer is what came of it
    (docs/format.md). `key` is set by the engine.
    """

    sampling: Sampling
    messages: tuple[Message, ...] = ()
    prompt: str = ""
    template: Mapping[str, Any] = field(default_factory=dict)
    schema: Mapping[str, Any] | None = None
    logprobs: bool = False
    adapter: Adapter | None = None
    tuning: Tuning | None = None
    key: str = ""

    def encoded(self) -> str:
        """All that shapes the completion, as canonical JSON: the part of an item's key that the request gives.

        Written member by member, in the order of their names, and what is usual without a call: a run may have millions
        of keys.
        """
        how, prompt, most, seed = self.sampling, self.prompt, self.sampling.max_tokens, self.sampling.seed
        adapter = "null" if self.adapter is None else encoded(self.adapter.digest)
        tuning = "" if self.tuning is None else f',"tuning":{encoded(self.tuning.digest)}'
        said = [
            f'{{"content":{quoted(what) if type(what := one.content) is str else encoded(what)},'
            f'"role":{quoted(who) if type(who := one.role) is str else encoded(who)}}}'
            for one in self.messages
        ]
        return (
            f'{{"adapter":{adapter},"logprobs":{"false" if self.logprobs is False else encoded(self.logprobs)},'
            f'"messages":[{",".join(said)}],"prompt":{quoted(prompt) if type(prompt) is str else encoded(prompt)},'
            f'"sampling":{{"max_tokens":{most if type(most) is int else encoded(most)},'
            f'"seed":{seed if type(seed) is int else encoded(seed)},'
            f'"stop":{encoded(how.stop) if how.stop != () else "[]"},'
            f'"temperature":{encoded(how.temperature)},"top_p":{encoded(how.top_p)}}},'
            f'"schema":{"null" if self.schema is None else encoded(self.schema)},'
            f'"template":{encoded(self.template) if self.template != {} else "{}"}{tuning}}}'
        )


@dataclass(frozen=True, slots=True)
class Item:
    """One unit of work. `view` holds what grading needs to undo the way the question was shown."""

    task: str
    question: str
    request: Request
    view: Mapping[str, Any] = field(default_factory=dict)
    sample: int = 0

    def key(self, stage: str, model: str) -> str:
        """`digest` as 64 hex digits."""
        return self.digest(stage, model).hex()

    def digest(self, stage: str, model: str) -> bytes:
        """sha256 over stage (name and version), model, request, view, sample: no row number. PluginFault: no JSON."""
        task, question, sample = self.task, self.question, self.sample
        try:
            text = (
                f'{{"model":{quoted(model)},'
                f'"question":{quoted(question) if type(question) is str else encoded(question)},'
                f'"request":{self.request.encoded()},"sample":{sample if type(sample) is int else encoded(sample)},'
                f'"stage":{quoted(stage)},"task":{quoted(task) if type(task) is str else encoded(task)},'
                f'"view":{encoded(self.view) if self.view != {} else "{}"}}}'
            )
        except (TypeError, ValueError, AttributeError) as error:
            raise PluginFault(
                f"the stage '{stage}' made an item for the question '{self.question!s:.200}' that is no JSON: {error}",
                hint="the fault is in the pipeline: an item holds texts, numbers, lists and objects",
            ) from error
        return hashlib.sha256(text.encode()).digest()


@dataclass(frozen=True, slots=True)
class Failure:
    """Why there is no output, or no score. `kind` is one word for counting, `message` is for people."""

    kind: str
    message: str

    def to_json(self) -> dict[str, Json]:
        return {"kind": self.kind, "message": self.message}


def unanswered(thought: str) -> Failure:
    """Why there is no answer where a model only thought."""
    told = f"the model only thought ({len(thought):,} characters) and gave no answer: max_tokens bounds both together"
    return Failure("no-answer", told)


@dataclass(frozen=True, slots=True)
class Completion:
    """What a backend answers: `text`, or `error` and no text. A failure is never an empty text.

    `text` is the answer alone; a `thought` that came before it, or instead of it, stands apart (hybrid.thoughts).
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

    def __post_init__(self) -> None:
        if (self.text is None) == (self.error is None):
            raise ValueError("a completion holds a text or an error, one of the two")


@dataclass(frozen=True, slots=True)
class Record:
    """The result of one item as a shard keeps it."""

    key: str
    task: str
    question: str
    view: Mapping[str, Any]
    sample: int
    completion: Completion

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
        }


@dataclass(slots=True)
class Output:
    """One line of outputs.json: what the model said, with the reference it is judged against.

    Nothing may change one. It is not frozen, since Python takes five times as long to make what is, and files hold
    millions.

    `text` is the answer alone. A line in which a thought still stands before it is taken apart when it is read, so no
    grader sees one.
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
        }


def _refuse(reason: str) -> NoReturn:
    raise ValueError(reason)


def _text(value: Any, name: str) -> str:
    return value if isinstance(value, str) else _refuse(f"{name} is not a text")


def _whole(value: Any, name: str) -> int:
    if isinstance(value, int) and not isinstance(value, bool) and -LARGEST <= value <= LARGEST:
        return value
    _refuse(f"{name} is not a whole number of at most 62 bits")


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
    the one that was not trained; what the score gains over these is told. `detail` is kept for the report.
    """

    score: float | None
    reason: str = ""
    figures: Mapping[str, float] = field(default_factory=dict)
    controls: Mapping[str, float] = field(default_factory=dict)
    detail: Mapping[str, Any] = field(default_factory=dict)
    arms: Mapping[str, float] = field(default_factory=dict)

    def __post_init__(self) -> None:
        if self.score is None and not self.reason:
            raise ValueError("a grade without a score needs its reason")
        if self.score in (0.0, 1.0) and not (self.figures or self.controls or self.arms):
            return  # as most are
        named = (*self.figures.items(), *self.controls.items(), *self.arms.items())
        for name, value in (("score", self.score), *named):
            if value is not None and not (math.isfinite(value) and 0.0 <= value <= 1.0):
                raise ValueError(f"'{name}' is {value!r}: scores, figures, controls and arms lie in [0, 1]")


def reference_of(references: Mapping[str, Json], question: str) -> Json:
    """The reference of a question, else that of what it is a variant of: the part before the first `@`; else None."""
    return references[question] if question in references else references.get(question.partition("@")[0])
