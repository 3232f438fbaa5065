"""Call the code of pipelines, graders and backends, and attribute the exceptions that it raises to its owner.

The code may be a third party's. The error tells its author where to look, and does not blame hybrid.
"""

from __future__ import annotations

import os
import traceback
from collections.abc import Callable, Generator, Iterable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager, suppress
from dataclasses import replace
from functools import partial, update_wrapper
from pathlib import Path
from typing import Any, NoReturn

from hybrid.errors import CannotRun, HybridError, OwnFault, PluginFault
from hybrid.loops import (
    CountingLoop,
    Exchange,
    Lab,
    Loop,
    NotYet,
    Publications,
    PublishingLoop,
    RoundFailed,
    Series,
    SharingLoop,
)
from hybrid.machine.files import explained_error
from hybrid.metrics import RoundMetrics
from hybrid.plugins import installed, wheel
from hybrid.protocols import Inputs, Pipeline, Stage
from hybrid.records import Example, Item
from hybrid.work import Ask, Derive, Derived, FineTuning, Rounds, Search, Together, Tune, Walk, maker_of, with_maker

MAX_MESSAGE = 500
"""Most characters that are shown of a foreign exception."""

PRODUCTS: Mapping[type, tuple[type, ...]] = {
    Ask: (Item,),
    Tune: (Item, FineTuning),
    Derive: (Derived, Item),
    Rounds: (Series,),
}
"""Kind of work -> the types that its function may produce."""


def raise_attributed(owner: object, error: Exception | SystemExit, doing: str) -> NoReturn:
    """Raise `error` as a HybridError that names `owner` (a plugin, or the name of a part of ours) and `doing`.

    HybridErrors are raised unchanged; an OSError and a MemoryError keep their exit codes.
    """
    if isinstance(error, HybridError):
        raise error
    origin = installed.origin(owner)
    what, place = f"{origin.title} failed while {doing}", _place(error, origin.package)
    where = f" ({place})" if place else ""
    if isinstance(error, OSError) and error.errno:
        name = error.filename if isinstance(error.filename, str | bytes) else "."
        said = explained_error(error, Path(os.fsdecode(name)), doing="using it")
        raise type(said)(f"{what}: {said.message}{where}", hint=said.hint) from error
    if isinstance(error, MemoryError):
        raise CannotRun(f"{what}: out of memory{where}", hint="close other programs, or ask for less") from error
    message = f"{what}: {_said(error)}{where}"
    if origin.distribution == wheel.NAME:
        raise OwnFault(message, hint="this is a fault in hybrid: please report it with the lines above") from error
    raise PluginFault(message, hint=f"the fault is in {origin.title}, not in hybrid; -vv shows all of it") from error


def _said(error: BaseException) -> str:
    """Type and message, also of an exception whose `__str__` raises."""
    return traceback.format_exception_only(error)[0].strip()[:MAX_MESSAGE]


def _place(error: BaseException, package: str) -> str:
    """`file:line` of the innermost frame of the owner's code; "" when there is none."""
    for frame, line in reversed(list(traceback.walk_tb(error.__traceback__))):
        module = str(frame.f_globals.get("__name__", ""))
        if module.partition(".")[0] == package and module != __name__:
            path = Path(frame.f_code.co_filename)
            depth = module.count(".") + (path.name == "__init__.py")
            return f"{'/'.join(path.parts[-1 - depth :])}:{line}"
    return ""


@contextmanager
def attributed_to(owner: object, doing: str) -> Iterator[None]:
    """Attribute exceptions of the block to `owner`."""
    try:
        yield
    except (Exception, SystemExit) as error:  # noqa: BLE001 - third-party code, which may call sys.exit
        raise_attributed(owner, error, doing)


def inputs_of(pipeline: Pipeline) -> Inputs:
    """The pipeline's inputs. Raises HybridError, such as PluginFault."""
    with attributed_to(pipeline, "reading its inputs"):
        inputs: Inputs = checked(pipeline.inputs(), Inputs)
    return inputs


def stages_of(pipeline: Pipeline) -> tuple[Stage, ...]:
    """The pipeline's stages; what their functions raise is attributed, too. Raises HybridError."""
    with attributed_to(pipeline, "naming its stages"):
        return tuple(_with_checks(pipeline, checked(stage, Stage)) for stage in pipeline.stages())


def _with_checks(pipeline: Pipeline, stage: Stage) -> Stage:
    if isinstance(stage.work, Search):
        return replace(stage, work=replace(stage.work, walk=CheckedWalk(pipeline, stage)))
    work = with_maker(stage.work, CheckedItems(pipeline, stage.name, maker_of(stage.work), PRODUCTS[type(stage.work)]))
    if isinstance(work, Tune):
        work = replace(work, examples=CheckedExamples(pipeline, stage.name, work.examples))
    if isinstance(work, Rounds):
        work = replace(work, loop=partial(checked_loop, pipeline, stage.name, work.loop))
    return replace(stage, work=work)


def checked(made: Any, *kinds: type[Any]) -> Any:
    """`made`. Raises TypeError when it is of none of the types `kinds`."""
    if not isinstance(made, kinds):
        wanted = " or ".join(kind.__name__ for kind in kinds)
        raise TypeError(f"{type(made).__name__} where hybrid wants {wanted}")
    return made


class CheckedItems:
    """A stage's function that yields its items. Results must be of the types `kinds`; exceptions are attributed."""

    def __init__(
        self, pipeline: Pipeline, stage: str, make: Callable[..., Iterable[Any]], kinds: tuple[type, ...]
    ) -> None:
        update_wrapper(self, make)
        self._pipeline, self._stage, self._make, self._kinds = pipeline, stage, make, kinds

    def __call__(self, *given: Any) -> Iterator[Any]:
        count, last = 0, None
        try:
            for item in self._make(*given):
                if type(item) is not Item:  # millions of items: a call would cost more than the rest of this loop
                    checked(item, *self._kinds)
                elif item.role:
                    raise ValueError(f"an item asks the role {item.role!r:.40}: only those of a Search may")
                yield item
                count += 1
                last = item
        except (Exception, SystemExit) as error:  # noqa: BLE001 - third-party code, which may call sys.exit
            after = f" after {count} of them, the last for the question '{_name(last):.200}'" if last else ""
            raise_attributed(self._pipeline, error, f"making the items of the stage '{self._stage}'{after}")


def _name(made: Any) -> str:
    return str(made.name if isinstance(made, Series) else made.question)


class CheckedWalk:
    """The walk of a search. Exceptions are attributed, also those that are thrown into it where it stands."""

    def __init__(self, pipeline: Pipeline, stage: Stage) -> None:
        self._walk = maker_of(stage.work)
        update_wrapper(self, self._walk)
        self._pipeline, self._stage, self._roles = pipeline, stage.name, stage.roles

    def __call__(self, task: str, *given: Any) -> Walk:
        return self._attributed(lambda: self._walk(task, *given), f"walking the task '{task:.200}'")

    def _attributed(self, make: Callable[[], Walk], doing: str) -> Walk:
        try:
            sent, walk = None, checked(make(), Generator)
            while True:
                try:
                    made = walk.send(sent)
                except StopIteration as end:
                    return end.value
                try:
                    sent = yield self._checked(made, doing)
                except Exception as error:  # thrown in, so that it is told with the walk's own line
                    with suppress(StopIteration):
                        walk.throw(error)
                    raise
        except (Exception, SystemExit) as error:  # noqa: BLE001 - third-party code, which may call sys.exit
            raise_attributed(self._pipeline, error, f"{doing} in the stage '{self._stage}'")

    def _checked(self, made: Any, doing: str) -> Any:
        """What a walk has yielded; the walks of a `Together` are checked in the same way."""
        if isinstance(made, Together):
            return Together([self._attributed(lambda walk=walk: walk, doing) for walk in made.walks])  # type: ignore[misc]
        for item in made if isinstance(made, list | tuple) else ():
            if isinstance(item, Item) and item.role and item.role not in self._roles:
                raise ValueError(f"an item asks the role {item.role!r:.40}, which is none of the stage's roles")
        return made


class CheckedExamples:
    """A stage's function that returns training examples. It can be pickled for another process."""

    def __init__(self, pipeline: Pipeline, stage: str, make: Callable[..., Sequence[Example]]) -> None:
        self._pipeline, self._stage, self._make = pipeline, stage, make

    def __call__(self, *given: Any) -> Sequence[Example]:
        with attributed_to(self._pipeline, f"making the training examples of the stage '{self._stage}'"):
            return [checked(example, Example) for example in self._make(*given)]


def checked_loop(
    pipeline: Pipeline, stage: str, make: Callable[..., Loop], series: Series, lab: Lab, *given: Any
) -> CheckedLoop:
    """The loop that `make` makes, whose exceptions are attributed to the pipeline."""
    place = f"'{series.name:.200}' in the stage '{stage}'"
    with attributed_to(pipeline, f"making the loop of {place}"):
        loop = make(series, lab, *given)
        kind = {
            (False, False): CheckedLoop,
            (True, False): CheckedSharingLoop,
            (False, True): CheckedPublishingLoop,
            (True, True): CheckedMeetingLoop,
        }[isinstance(loop, SharingLoop), isinstance(loop, PublishingLoop)]
        return kind(pipeline, place, loop)


class CheckedLoop:
    """A loop whose exceptions are attributed, but for RoundFailed and NotYet."""

    def __init__(self, pipeline: Pipeline, place: str, loop: Loop) -> None:
        self._pipeline, self._place, self._loop = pipeline, place, loop

    def round(self, number: int) -> RoundMetrics:
        with self._attributed(f"computing round {number}"):
            try:
                found: RoundMetrics = checked(self._loop.round(number), RoundMetrics)
            except (RoundFailed, NotYet) as error:
                raised: Exception = error
            else:
                return found
        raise raised

    def state(self) -> bytes:
        with self._attributed("giving its state"):
            state: bytes = checked(self._loop.state(), bytes)
        return state

    def load(self, state: bytes) -> None:
        with self._attributed("loading a state"):
            self._loop.load(state)

    @property
    def rounds_done(self) -> int | None:
        with self._attributed("counting its rounds"):
            return self._loop.rounds_done if isinstance(self._loop, CountingLoop) else None

    def close(self) -> None:
        with self._attributed("being closed"):
            self._loop.close()

    def _attributed(self, doing: str) -> AbstractContextManager[None]:
        return attributed_to(self._pipeline, f"{doing} of {self._place}")


class CheckedSharingLoop(CheckedLoop):
    """The same of a loop that shares something."""

    _loop: SharingLoop

    def connect(self, exchange: Exchange) -> None:
        with self._attributed("being connected"):
            self._loop.connect(exchange)


class CheckedPublishingLoop(CheckedLoop):
    """The same of a loop that publishes."""

    _loop: PublishingLoop

    def publish_to(self, publications: Publications) -> None:
        with self._attributed("being told where to publish"):
            self._loop.publish_to(publications)


class CheckedMeetingLoop(CheckedSharingLoop, CheckedPublishingLoop):
    """The same of a loop that does both."""

    _loop: Any
