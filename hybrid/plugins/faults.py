"""Call the code of pipelines, graders and backends, and name whose it is when it raises what nobody foresaw.

Such code may be anybody's. What it raises tells its author where to look, and is no fault in hybrid.
"""

from __future__ import annotations

import os
import traceback
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import replace
from functools import update_wrapper
from pathlib import Path
from typing import Any, NoReturn

from hybrid.errors import CannotRun, HybridError, OwnFault, PluginFault
from hybrid.machine.files import explained_error
from hybrid.plugins import installed, wheel
from hybrid.protocols import Inputs, Pipeline, Stage
from hybrid.records import Example, Item
from hybrid.work import Ask, Derive, Derived, FineTuning, Tune, maker_of, with_maker

LONGEST = 500
"""Most characters of what a foreign error says of itself."""

MADE: Mapping[type, tuple[type, ...]] = {Ask: (Item,), Tune: (Item, FineTuning), Derive: (Derived, Item)}
"""Kind of work -> what its function may make."""


def refuse(owner: object, error: Exception, doing: str) -> NoReturn:
    """Raise `error` as what it means to a user. `owner` is the plugin that was `doing` something, or what it is called.

    Our own errors stay as they are; those of the operating system and of a lack of memory keep their exit codes.
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


def _said(error: Exception) -> str:
    """Type and message; the message may itself be unable to show itself."""
    return traceback.format_exception_only(error)[0].strip()[:LONGEST]


def _place(error: Exception, package: str) -> str:
    """`file:line` of the last line of the owner's own code that was at work; "" when none was."""
    for frame, line in reversed(list(traceback.walk_tb(error.__traceback__))):
        module = str(frame.f_globals.get("__name__", ""))
        if module.partition(".")[0] == package and module != __name__:
            path = Path(frame.f_code.co_filename)
            depth = module.count(".") + (path.name == "__init__.py")
            return f"{'/'.join(path.parts[-1 - depth :])}:{line}"
    return ""


@contextmanager
def naming(owner: object, doing: str) -> Iterator[None]:
    """What the block raises is the owner's."""
    try:
        yield
    except Exception as error:  # noqa: BLE001 - it is anybody's code
        refuse(owner, error, doing)


def inputs_of(pipeline: Pipeline) -> Inputs:
    """What the pipeline works on. Raises HybridError, PluginFault among them."""
    with naming(pipeline, "reading its inputs"):
        inputs: Inputs = checked(pipeline.inputs(), Inputs)
    return inputs


def stages_of(pipeline: Pipeline) -> tuple[Stage, ...]:
    """The pipeline's stages; what they raise later names them, too. Raises HybridError, PluginFault among them."""
    with naming(pipeline, "naming its stages"):
        return tuple(_guarded(pipeline, checked(stage, Stage)) for stage in pipeline.stages())


def _guarded(pipeline: Pipeline, stage: Stage) -> Stage:
    work = with_maker(stage.work, Items(pipeline, stage.name, maker_of(stage.work), MADE[type(stage.work)]))
    if isinstance(work, Tune):
        work = replace(work, examples=Examples(pipeline, stage.name, work.examples))
    return replace(stage, work=work)


def checked(made: Any, *kinds: type[Any]) -> Any:
    """`made`, which is to be of one of the kinds. Raises TypeError."""
    if not isinstance(made, kinds):
        wanted = " or ".join(kind.__name__ for kind in kinds)
        raise TypeError(f"a {type(made).__name__} where hybrid wants a {wanted}")
    return made


class Items:
    """A stage's function that makes what it works on, of the types `kinds`."""

    def __init__(
        self, pipeline: Pipeline, stage: str, make: Callable[..., Iterable[Any]], kinds: tuple[type, ...]
    ) -> None:
        update_wrapper(self, make)
        self._pipeline, self._stage, self._make, self._kinds = pipeline, stage, make, kinds

    def __call__(self, *given: Any) -> Iterator[Any]:
        count, last = 0, None
        try:
            for item in self._make(*given):
                if type(item) is not Item:  # a call costs more than the rest of this loop, and there are millions
                    checked(item, *self._kinds)
                yield item
                count += 1
                last = item
        except Exception as error:  # noqa: BLE001 - it is anybody's code
            after = f" after {count} of them, the last for the question '{last.question:.200}'" if last else ""
            refuse(self._pipeline, error, f"making the items of the stage '{self._stage}'{after}")


class Examples:
    """A stage's function that makes training examples. It travels to another process."""

    def __init__(self, pipeline: Pipeline, stage: str, make: Callable[..., Sequence[Example]]) -> None:
        self._pipeline, self._stage, self._make = pipeline, stage, make

    def __call__(self, *given: Any) -> Sequence[Example]:
        with naming(self._pipeline, f"making the training examples of the stage '{self._stage}'"):
            return [checked(example, Example) for example in self._make(*given)]
