"""`hybrid ollama up`: run an Ollama server on this machine, while a command runs or until Ctrl-C."""

from __future__ import annotations

import sys
from pathlib import Path

import click

from hybrid.commands.options import DIRECTORY, OUTPUT
from hybrid.errors import CannotRun, UsageError
from hybrid.machine import home
from hybrid.machine.files import expanded
from hybrid.machine.terminal import clean_line
from hybrid.ollama import child_process
from hybrid.ollama.address import Address, models, parse, version
from hybrid.ollama.binary import find
from hybrid.ollama.server import Server, Settings, started
from hybrid.ollama.storage import default_store, own_disk

MAX_NAMED = 5
"""Most models that are named in a message; the others are counted."""


@click.group()
def ollama() -> None:
    """Run an Ollama server on a rented machine."""


@ollama.command(context_settings={"allow_interspersed_args": False})
@click.option(
    "--from", "place", type=DIRECTORY, help="The program, its folder, or a release archive (.tgz, .tar.zst) [PATH]"
)
@click.option("--models", "store", type=DIRECTORY, help="Where models are kept [OLLAMA_MODELS, ~/.ollama/models]")
@click.option("--host", envvar="OLLAMA_HOST", default="", help="Where it listens [OLLAMA_HOST, 127.0.0.1:11434]")
@click.option(
    "--parallel",
    envvar="OLLAMA_NUM_PARALLEL",
    type=click.IntRange(1, 256),
    default=4,
    help="Requests at once of one model [OLLAMA_NUM_PARALLEL, 4]",
)
@click.option(
    "--context", type=click.IntRange(0, 2**24), default=0, help="Tokens of a request that asks for none [its choice]"
)
@click.option("--log", type=OUTPUT, help="Where the server's own words go [HYBRID_HOME/ollama/PORT.log]")
@click.argument("command", nargs=-1, type=click.UNPROCESSED, metavar="[-- COMMAND ARGUMENTS...]")
def up(
    place: Path | None,
    store: Path | None,
    host: str,
    parallel: int,
    context: int,
    log: Path | None,
    command: tuple[str, ...],
) -> int:
    """Start Ollama on this machine's own disk, run COMMAND with it, and end it; without COMMAND, at Ctrl-C.

    COMMAND finds the server by OLLAMA_HOST, and its exit code is returned. A server that already runs at that address
    is used and left running. A server that was started here ends with this command, even after kill -9.
    """
    if sys.platform == "win32":
        raise CannotRun("`hybrid ollama up` is for Linux and macOS", hint="start Ollama's own app")
    address, words = parse(host), list(command)
    if words:
        child_process.refuse_unknown(words)
    if found := version(address):
        _say(f"{_about(address, found)}: it was there before and stays; its settings are its own")
        with child_process.signals() as received:
            return child_process.run(words, {"OLLAMA_HOST": address.url}, received, watch=_nothing) if words else 0
    if store and not expanded(store).absolute().parent.is_dir():
        raise UsageError(f"--models {store}: there is no folder {store.absolute().parent}", hint="is it typed right?")
    settings = Settings(
        address,
        own_disk(store or default_store(), what="Ollama's models", option="--models"),
        own_disk(log or home.home() / "ollama" / f"{address.port}.log", what="a log", option="--log"),
        parallel,
        context,
    )
    with started(find(place), settings) as server, child_process.signals() as received:
        return _serve_while(server, words, received)


def _serve_while(server: Server, command: list[str], received: list[int]) -> int:
    settings = server.settings
    _say(f"{_about(settings.address, server.version)}, kept in {settings.store}; log: {settings.log}")
    if not command:
        child_process.wait(received, watch=lambda: _refuse_ended(server))
        return 0
    reported: list[str] = []

    def watch() -> None:
        error = server.ended()
        if error and not reported:
            reported.append(error.message)
            _say(f"{error.message}; {error.hint}")

    environment = {"OLLAMA_HOST": settings.address.url, "OLLAMA_MODELS": str(settings.store)}
    return child_process.run(command, environment, received, watch)


def _refuse_ended(server: Server) -> None:
    if error := server.ended():
        raise error


def _nothing() -> None:
    """A server that was running before is not watched."""


def _about(address: Address, version: str) -> str:
    names = models(address)
    more = [f"{len(names) - MAX_NAMED} more"] if len(names) > MAX_NAMED else []
    has = (
        ", ".join([*names[:MAX_NAMED], *more])
        or "none yet (`hybrid models pull` or `hybrid models restore` brings one)"
    )
    return f"Ollama {version} at {address.url}, models: {has}"


def _say(line: str) -> None:
    click.echo(clean_line(line, 1000), err=True)
