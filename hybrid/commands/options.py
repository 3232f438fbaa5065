"""Types of options that click lacks, and option values that several commands share."""

from __future__ import annotations

import math
import re
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any

import click

from hybrid.machine import home
from hybrid.machine.store_urls import is_url


class NonEmptyPath(click.Path):
    """A path that is not empty: `"$UNSET"` must not mean the current folder."""

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Any:
        if value == "":
            self.fail("is empty: a name is needed", param, ctx)
        return super().convert(value, param, ctx)


class OutputsPath(NonEmptyPath):
    """Where outputs are written, as one JSON document: under the name of another layout nothing could read them."""

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Any:
        found = super().convert(value, param, ctx)
        if Path(found).suffix in (".jsonl", ".zst"):
            self.fail(
                f"{found}: outputs are one JSON document: name it .json (`hybrid export RUN --to jsonl` writes lines)",
                param,
                ctx,
            )
        return found


class NonEmptyText(click.ParamType):  # type: ignore[type-arg]
    """A text that is not empty: `"$UNSET"` must not mean the only run that there is."""

    name = "text"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> str:
        return str(value) or self.fail("is empty: a name is needed", param, ctx)


class SharedFolder(NonEmptyPath):
    """The path by which commands know a shared folder: a directory's, or the one that stands for a store's URL."""

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Any:
        return home.folder_at(value) if isinstance(value, str) and is_url(value) else super().convert(value, param, ctx)


DIRECTORY = NonEmptyPath(path_type=Path, readable=False)  # we check that it is readable, for the right exit code
FOLDER = SharedFolder(path_type=Path, readable=False)
FOLDER_HELP = "Where runs are [HYBRID_FOLDER, the joined folder, hybrid-folder]"
OUTPUT = NonEmptyPath(path_type=Path, dir_okay=False)
OUTPUTS = OutputsPath(path_type=Path, dir_okay=False)
OUTPUT_HELP = "outputs.json, - for standard output [FOLDER/results/RUN/outputs.json]"

DURATION = re.compile(r"(?:(\d+)d)?(?:(\d+)h)?(?:(\d+)m)?(?:(\d+(?:\.\d+)?)s?)?")
CLOCK = re.compile(r"([01]?\d|2[0-3]):([0-5]\d)")


def seconds_of(text: str) -> float | None:
    """The seconds in `90`, `15m`, `11h30m` or `1d`; None when it is no duration."""
    match = DURATION.fullmatch(text.strip())
    if not match or not any(match.groups()):
        return None
    days, hours, minutes, seconds = (float(part or 0) for part in match.groups())
    return ((days * 24 + hours) * 60 + minutes) * 60 + seconds


class Duration(click.ParamType):  # type: ignore[type-arg]
    """A duration such as `90`, `15m` or `11h30m`, in seconds, of at least `low`."""

    name = "duration"

    def __init__(self, low: float = 0.0) -> None:
        self._low = low

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> float:
        seconds = float(value) if isinstance(value, int | float) else seconds_of(str(value))
        if seconds is None:
            return self.fail(f"{value!r} is not a duration such as 90s, 15m or 11h30m.")
        return seconds if seconds >= self._low else self.fail(f"{value} is too short: at least {self._low:g}s.")


class TimeOfDay(click.ParamType):  # type: ignore[type-arg]
    """A time of day such as `17:30`, by this machine's clock, or a duration; in seconds from now."""

    name = "time"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> float:
        match = CLOCK.fullmatch(str(value).strip())
        if not match:
            seconds = seconds_of(str(value))
            return self.fail(f"{value!r} is no time such as 17:30 or 11h30m.") if seconds is None else seconds
        now = datetime.now().astimezone()
        then = now.replace(hour=int(match[1]), minute=int(match[2]), second=0, microsecond=0)
        return ((then if then > now else then + timedelta(days=1)) - now).total_seconds()


class FiniteRange(click.FloatRange):
    """A number from `min` to `max`. click's own range accepts `nan`."""

    def __init__(self, min: float | None = None, max: float | None = None) -> None:
        super().__init__(min=min, max=max)

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> float:
        number = float(super().convert(value, param, ctx))
        if not math.isfinite(number):
            self.fail(f"{value!r} is not a finite number.", param, ctx)
        return number


SHARD_SECONDS = click.option(
    "--shard-seconds",
    type=FiniteRange(0.1, 3600),
    default=60,
    show_default=True,
    help="Most seconds of work that a kill loses.",
)
