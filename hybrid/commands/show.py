"""`hybrid show`: what the model saw and said, item by item."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import islice
from pathlib import Path
from typing import Any

import click

from hybrid.canonical import encode
from hybrid.commands.options import FOLDER, FOLDER_HELP, NonEmptyText
from hybrid.errors import SHOWN, UsageError, listed
from hybrid.execution.assembly import MISSING
from hybrid.machine.terminal import clean_line
from hybrid.records import Output
from hybrid.show.exchanges import Exchange, Exchanges, exchanges_of
from hybrid.show.rendering import Prompt, Renderer, renderers
from hybrid.show.words import as_json, lines_of

LIMIT, TEXT = 10, 20_000
LEAST_KEY = 4
"""Characters by which a key is told from a question."""
MAX_LINE = 1000
NO_RENDERER = Renderer(None, why="the run does not say which model was asked")


@click.command()
@click.argument("source", metavar="RUN", type=NonEmptyText())
@click.option("--item", type=NonEmptyText(), help="Only this question, task, or key or beginning of a key.")
@click.option("--failed", is_flag=True, help="Only items that failed.")
@click.option(
    "--limit", type=click.IntRange(min=0), default=LIMIT, show_default=True, help="At most so many items, 0 for all."
)
@click.option("--stage", default="", metavar="NAME", help="Of a run: which stage. [the last that asks its first model]")
@click.option(
    "--model", "models", multiple=True, metavar="[NAME=]PATH", help="Where the files of a model are here, to render."
)
@click.option(
    "--text", type=click.IntRange(min=0), default=TEXT, show_default=True, help="Characters of a text, 0 for all."
)
@click.option("--json", "json_lines", is_flag=True, help="One JSON object a line, with whole texts.")
@click.option("--folder", type=FOLDER, help=FOLDER_HELP)
def show(source: str, item: str | None, failed: bool, limit: int, **how: Any) -> None:
    """Show exactly what the model saw and said in RUN, a run or an outputs file.

    The prompt is rendered by the model's own chat template where its files are here; otherwise the messages are shown,
    and why. No model is loaded. Requests are known where the run is at hand.
    """
    with exchanges_of(source, how["folder"], how["stage"]) as found:
        by_role = renderers(found.models, _places(how["models"]))
        chosen = _Chosen(item, failed)
        stream, shown = chosen.of(found), 0
        for shown, exchange in enumerate(islice(stream, limit or None), start=1):
            renderer = by_role.get(exchange.role, NO_RENDERER)
            prompt = renderer.prompt(exchange.request) if exchange.request else Prompt(None)
            if how["json_lines"]:
                click.echo(encode(as_json(exchange, prompt)))
            else:
                for line in lines_of(shown, exchange, prompt, how["text"]):
                    click.echo(line)
        chosen.refuse_nothing(source, shown)
        for line in _remarks(found, cut=next(stream, None) is not None):
            click.echo(clean_line(line, MAX_LINE), err=True)


class _Chosen:
    """The exchanges that are asked for; remembers the first questions, to name them when none is found."""

    def __init__(self, item: str | None, failed: bool) -> None:
        self._item, self._failed = item, failed
        self._questions: dict[str, None] = {}

    def of(self, found: Exchanges) -> Iterator[Exchange]:
        for exchange in found.stream:
            output = exchange.output
            if len(self._questions) < SHOWN:
                self._questions[output.question] = None
            answered = output.error is None or output.error.kind == MISSING.kind
            if self._is_named(output) and not (self._failed and answered):
                yield exchange

    def _is_named(self, output: Output) -> bool:
        """Whether it is the item that is asked for; without one, whether there is a record of it."""
        if self._item is None:
            return output.error is None or output.error.kind != MISSING.kind
        if self._item in (output.question, output.task):
            return True
        return len(self._item) >= LEAST_KEY and output.key.startswith(self._item)

    def refuse_nothing(self, source: str, shown: int) -> None:
        """Raise UsageError when an item was named and is not there."""
        if self._item is not None and not shown and not self._failed:
            there = f", such as {listed(self._questions)}" if self._questions else ""
            raise UsageError(f"{source}: no item '{self._item:.200}'", hint=f"name a task, a key, or a question{there}")


def _remarks(found: Exchanges, *, cut: bool) -> Iterator[str]:
    """What to know of what was shown."""
    if found.missing:
        yield f"what the model was asked is not known: {found.missing}"
    others = [name for name in found.stages if name != found.stage]
    if others:
        yield f"this is the stage '{found.stage}'; --stage names another: {', '.join(others)}"
    if cut:
        yield "there may be more: --limit 0 shows all"


def _places(texts: tuple[str, ...]) -> dict[str, str]:
    """Name of a model -> where its files are; "" for any model. A path that exists is one, whatever is in it."""
    found = {}
    for one in texts:
        name, equals, path = one.partition("=")
        found.update({name: path} if equals and not Path(one).exists() else {"": one})
    return found
