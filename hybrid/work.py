"""What a stage does: exactly one kind of work, and the values that its function makes.

`Ask` questions a model, `Tune` trains adapters and questions the model with them, `Derive` computes texts from earlier
outputs, `Search` asks questions that depend on earlier answers, `Rounds` advances a state in rounds. A further kind is
a dataclass here, a member of `Work`, its place in `maker_of` and `with_maker`, and a branch in `hybrid.execution`.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from hybrid.canonical import Json, decode
from hybrid.errors import BadData, Waits
from hybrid.loops import Loop, Series
from hybrid.records import Adapter, Example, Failure, Item, Output, Request, Sampling
from hybrid.tuning import Tuning
from hybrid.walks import EndlessWalk, Finished, Frontier, Replay, Together, Walk, found_in, replayed

__all__ = [
    "Ask",
    "Derive",
    "Derived",
    "EndlessWalk",
    "FineTuning",
    "Finished",
    "Frontier",
    "Rounds",
    "Search",
    "Together",
    "Tune",
    "Walk",
    "Work",
    "adapter_in",
    "answer_of",
    "found_in",
    "item_of",
    "maker_of",
    "replayed",
    "with_maker",
]

FAILURE = "failure"
"""Where the request of a derived item holds the failure that its record is to be."""
ANSWER = "answer"
"""Where it holds what else is known of the answer that its text is."""


@dataclass(frozen=True, slots=True)
class Derived:
    """A text that a `Derive` stage computed. It becomes the `text` of a record, under the same task, question, view and
    sample as an item has. With `failure`, which says why there is no text, the record is that failure. Of a text that
    is the answer of an earlier record, `answer` is what else that record says of it (`answer_of`). Raises TypeError for
    a text that is none.
    """

    task: str
    question: str
    text: str
    view: Mapping[str, Any] = field(default_factory=dict)
    sample: int = 0
    failure: Failure | None = None
    answer: Mapping[str, Json] | None = None

    def __post_init__(self) -> None:
        if not isinstance(self.text, str):
            raise TypeError(f"the text of a Derived is a str, not a {type(self.text).__name__}")


@dataclass(frozen=True, slots=True)
class FineTuning:
    """An adapter that a `Tune` stage trains without asking it anything: `tuning` says how, `adapter` on top of which.

    The text of its record is JSON that says what came of the training (docs/format.md); with `tuning.keep`, requests
    of later stages may name the adapter by the digest in it.
    """

    task: str
    question: str
    tuning: Tuning
    adapter: Adapter | None = None
    view: Mapping[str, Any] = field(default_factory=dict)
    sample: int = 0


def answer_of(output: Output) -> Mapping[str, Json]:
    """How an answer ended, its tokens, its thought and its log probability, for a record that repeats it."""
    logprob = {} if output.logprob is None else {"logprob": output.logprob}
    thought = {"thought": output.thought} if output.thought else {}
    return {"finish": output.finish, "tokens": list(output.tokens), **thought, **logprob}


Examples = Callable[[Mapping[str, Any], Mapping[str, Json]], Sequence[Example]]
"""`examples(tasks, tuning.examples)`: the texts that an adapter is trained on."""


@dataclass(frozen=True, slots=True)
class Ask:
    """Questions a model: every item is a request, every answer a record.

    `items(tasks)` gives the items, in a stage that comes after others `items(tasks, earlier)`; `Stage` says what is in
    `earlier`. It is called several times, on every machine, and gives the same items in the same order each time.
    """

    items: Callable[..., Iterable[Item]]


@dataclass(frozen=True, slots=True)
class Tune:
    """Trains adapters, and questions the model with them.

    `items` is called as that of `Ask`. It gives items whose request has a `tuning` (their model is trained so first),
    items without one, and `FineTuning`s, which train an adapter and ask nothing. `examples(tasks, tuning.examples)`
    gives the texts of one training. It is called in another process, so it is a method of the pipeline, a function of a
    module, or a `functools.partial` of one.
    """

    items: Callable[..., Iterable[Item | FineTuning]]
    examples: Examples


@dataclass(frozen=True, slots=True)
class Derive:
    """Computes texts from the outputs of earlier stages; no model is asked.

    `texts(tasks, earlier)` gives them, called as `items` of `Ask` is. Pipelines written before there was `Derived` give
    items, whose prompt is the text.

    With `of_unfinished` this stage and those before it also make sense of stages that are not finished, in which what
    has no record yet is a failure of the kind `missing`. A run whose last stage is such a one can be graded before its
    end; nothing of that is kept as a record.
    """

    texts: Callable[..., Iterable[Derived | Item]]
    of_unfinished: bool = False


@dataclass(frozen=True, slots=True)
class Search:
    """Asks what depends on earlier answers: one walk a task, all of them at the same time.

    `walk(task, tasks)`, with the name of a task, is a generator (`Walk`); in a stage that comes after others it is
    `walk(task, tasks, earlier)`. It yields a batch of items and is sent their outputs, failures among them; it decides
    what comes of these. It is resumed by replaying it, so it is the same every time that it is sent the same outputs.
    What it returns is not kept: a stage that comes after it replays it (`replayed`), or reads its outputs.

    `roles` are the models of the run that its items may ask (`Item.role`) beside the one of the stage. `reached` is for
    the engine: called as `items` of `Ask` is, it gives the items that the records of a run lead to.
    """

    walk: Callable[..., Walk]
    roles: tuple[str, ...] = ()
    reached: Callable[..., Iterable[Item]] | None = None

    def first_items(self, tasks: Mapping[str, Any], *earlier: Any) -> Iterable[Item]:
        """What the walks ask for before anything is known, each item once."""
        replay = Replay(lambda item: item.digest(item.role, ""), lambda key: None)
        for task in tasks:
            replay.start(task, self.walk(task, tasks, *earlier))
        return replay.items.values()


@dataclass(frozen=True, slots=True)
class Rounds:
    """Advances loops in rounds, each of which is a record: its metrics, as the text of `RoundMetrics`.

    `series(tasks)` gives the series, in a stage that comes after others `series(tasks, earlier)`, called as `items` of
    `Ask` is. `loop(series, lab, tasks)`, or `loop(series, lab, tasks, earlier)`, makes the loop of one of them. One
    worker at a time advances a series; several may share the series of a stage.
    """

    series: Callable[..., Iterable[Series]]
    loop: Callable[..., Loop]


Work = Ask | Tune | Derive | Search | Rounds
MAKERS: Mapping[type, str] = {Derive: "texts", Search: "walk", Rounds: "series"}
"""The field with the function of a kind of work, where it is not `items`."""


def maker_of(work: Work) -> Callable[..., Any]:
    """The function that makes what a stage works on."""
    make: Callable[..., Any] = getattr(work, MAKERS.get(type(work), "items"))
    return make


def with_maker(work: Work, make: Callable[..., Any]) -> Work:
    """The same work with another function that makes what a stage works on."""
    changed: dict[str, Any] = {MAKERS.get(type(work), "items"): make}
    return replace(work, **changed)


def item_of(made: Item | FineTuning | Derived) -> Item:
    """What a stage's function made, as the item that shards, counts and assembly deal with.

    An item's key is the hash of its request. What asks nothing had a request, too, before there were kinds of work: of
    one new token, with the training, or with the text as its prompt. The keys of existing runs are hashes of exactly
    these requests, so this form must never change.
    """
    if isinstance(made, Item):
        return made
    if isinstance(made, FineTuning):
        request = Request(Sampling(max_tokens=1), adapter=made.adapter, tuning=made.tuning)
    else:
        failed = {FAILURE: made.failure.to_json()} if made.failure else {}
        known = {ANSWER: made.answer} if made.answer else {}
        request = Request(Sampling(max_tokens=1), prompt=made.text, template={**failed, **known})
    return Item(made.task, made.question, request, made.view, made.sample)


def adapter_in(output: Output) -> str:
    """The sha256 of the adapter that the record of a `FineTuning` names. Raises Waits when its training failed, since
    later items depend on it; BadData when the record names none.
    """
    if output.text is None:
        why = f"{output.error.kind}: {output.error.message}" if output.error else "no text"
        raise Waits(
            f"{output.question} was not trained: {why}", hint="do it again: --retry-failed, or hybrid retry RUN"
        )
    value = decode(output.text, what=output.question)
    adapter = value.get("adapter") if isinstance(value, dict) else None
    if not isinstance(adapter, str) or len(adapter) != 64 or set(adapter) - set("0123456789abcdef"):
        raise BadData(f"{output.question}: its record names no adapter", hint="docs/format.md says what it holds")
    return adapter
