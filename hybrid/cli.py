"""The command line: a table of commands that are imported when used, and the exit code of every error."""

from __future__ import annotations

import io
import logging
import os
import stat
import sys
import traceback
from pathlib import Path
from typing import Any, NoReturn, TextIO

import click
from click.shell_completion import CompletionItem

from hybrid.errors import CannotRun, HybridError, NotFinished, OwnFault, UsageError, nearest
from hybrid.machine.late_imports import import_object
from hybrid.machine.signals import end_with
from hybrid.machine.terminal import clean, clean_line

COMMANDS = {
    "run": ("hybrid.commands.run:run", "Run a pipeline; the same command continues an interrupted run."),
    "plan": ("hybrid.commands.plan:plan", "Show what a run will need and cost, before it starts."),
    "init": ("hybrid.commands.folder:init", "Make or join the folder that laptop and GPU machine share."),
    "worker": ("hybrid.commands.worker:worker", "Run the stages of submitted runs on this machine."),
    "status": ("hybrid.commands.status:status", "Show what is done, where it is safe, and which workers run."),
    "runs": ("hybrid.commands.runs:runs", "List the runs of the folder with their scores and outputs."),
    "fetch": ("hybrid.commands.folder:fetch", "Receive the results of a run: verify, acknowledge, assemble."),
    "grade": ("hybrid.commands.grade:grade", "Grade the outputs of a run: score, interval, controls, ungraded."),
    "judge": ("hybrid.commands.judge:judge", "Measure how good a judge is on answers that are already graded."),
    "report": ("hybrid.commands.report:report", "Draw one self-contained HTML page of one or more runs."),
    "export": ("hybrid.commands.export:export", "Write a run for other tools: inspect, lm-eval, batches, tables."),
    "show": ("hybrid.commands.show:show", "Show what the model saw and said, item by item."),
    "try": ("hybrid.commands.trial:trial", "Try what a loop has learned so far, on this machine."),
    "replay": ("hybrid.commands.replay:replay", "Make again what a node was trained on in a round."),
    "retry": ("hybrid.commands.folder:retry", "Ask for the failed items of a run again."),
    "cancel": ("hybrid.commands.folder:cancel", "Ask the workers of a run to stop."),
    "forget": ("hybrid.commands.folder:forget", "Hide a run from the status."),
    "logs": ("hybrid.commands.logs:logs", "Show the logs of a run's workers, also as they arrive."),
    "doctor": ("hybrid.commands.doctor:doctor", "Check the folder and this machine, and explain every problem."),
    "sync": ("hybrid.commands.sync:sync", "Copy the shared folder to a remote of rclone and back."),
    "notebook": ("hybrid.commands.notebook:notebook", "Write a notebook with a worker for a run, for Colab or Kaggle."),
    "ollama": ("hybrid.commands.ollama:ollama", "Run an Ollama server on a rented machine."),
    "models": ("hybrid.commands.models:models", "Keep models in the shared folder, and restore them."),
    "list": ("hybrid.commands.catalog:list_names", "List the installed pipelines and graders."),
    "describe": ("hybrid.commands.catalog:describe", "Show the settings of a pipeline or grader."),
}
"""Command -> its function, and its line in `hybrid --help`."""

EXIT_CODES = """\b
Exit codes:
  0  done
  1  internal error
  2  usage: the command or a setting is wrong
  3  finished, but items failed or a threshold was missed
  4  not finished yet: the same command continues
  5  temporary (disk, mount, network, another process): run the same command again
  6  corrupt or foreign data
  7  cannot run as asked: missing or damaged model, missing library, memory or permission"""

LONGEST = 2000
"""Most characters of an error's message, and of its hint; each is shown on one line."""


class Commands(click.Group):
    """Lists every command, and imports only the one that is used."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        return list(COMMANDS)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        if cmd_name not in COMMANDS:
            return None
        command: click.Command = import_object(COMMANDS[cmd_name][0], needed_for=f"hybrid {cmd_name}")
        return _talking(command)

    def resolve_command(
        self, ctx: click.Context, args: list[str]
    ) -> tuple[str | None, click.Command | None, list[str]]:
        if args[0] not in COMMANDS and not args[0].startswith("-"):
            raise UsageError(f"there is no command '{args[0]}'", hint=nearest(args[0], COMMANDS))
        return super().resolve_command(ctx, args)

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        with formatter.section("Commands"):
            formatter.write_dl([(name, line) for name, (_, line) in COMMANDS.items()])

    def shell_complete(self, ctx: click.Context, incomplete: str) -> list[CompletionItem]:
        names = [(name, line) for name, (_, line) in COMMANDS.items() if name.startswith(incomplete)]
        return [CompletionItem(name, help=line) for name, line in names] + click.Command.shell_complete(
            self, ctx, incomplete
        )


def _set_verbose(ctx: click.Context, _: click.Parameter, count: int) -> None:
    if count and not ctx.resilient_parsing:
        logging.getLogger().setLevel(logging.INFO if count == 1 else logging.DEBUG)
        logging.getLogger("httpx").setLevel(logging.WARNING if count == 1 else logging.DEBUG)  # it logs every request


def _set_quiet(ctx: click.Context, _: click.Parameter, wanted: bool) -> None:
    if wanted and not ctx.resilient_parsing:
        logging.getLogger().setLevel(logging.ERROR)
        logging.getLogger("hybrid.training").setLevel(logging.ERROR)


TALK = (
    click.Option(
        ["-v", "--verbose"],
        count=True,
        expose_value=False,
        callback=_set_verbose,
        help="Print more; -vv: everything, with tracebacks.",
    ),
    click.Option(["-q", "--quiet"], is_flag=True, expose_value=False, callback=_set_quiet, help="Print only errors."),
)
"""The options that every command has. They set the level of the root logger: ERROR, WARNING, INFO, DEBUG."""


def _talking(command: click.Command) -> click.Command:
    """`command` and its subcommands, with the options TALK."""
    command.params += [option for option in TALK if option not in command.params]
    for subcommand in command.commands.values() if isinstance(command, click.Group) else ():
        _talking(subcommand)
    return command


@click.group(
    cls=Commands, params=list(TALK), epilog=EXIT_CODES, context_settings={"help_option_names": ["-h", "--help"]}
)
@click.version_option(package_name="hybrid", message="%(prog)s %(version)s")
def hybrid() -> None:
    """LLM experiments across a rented GPU and a laptop: run, grade, report.

    Data goes to stdout, messages to stderr.
    """


def main(arguments: list[str] | None = None) -> NoReturn:
    """Run the command line and leave with its exit code."""
    sys.stdout, sys.stderr = _patient(sys.stdout), _patient(sys.stderr)
    logging.basicConfig(level=logging.WARNING, format="%(name)s: %(message)s")
    logging.getLogger("hybrid.training").setLevel(logging.INFO)  # progress: training logs nothing else for minutes
    code = _exit_code(sys.argv[1:] if arguments is None else arguments)
    end_with(code)
    sys.exit(code)


class _Pipe(io.FileIO):
    """A pipe whose reader may close it, such as `| head`: further output is dropped, and the work continues."""

    def write(self, data: Any, /) -> int:
        try:
            return super().write(data)
        except BrokenPipeError:
            os.dup2(os.open(os.devnull, os.O_WRONLY), self.fileno())
            return len(data)


def _patient(stream: TextIO) -> TextIO:
    """`stream`, which escapes characters that its encoding lacks and survives the end of its reader."""
    if not isinstance(stream, io.TextIOWrapper):
        return stream
    stream.reconfigure(errors="backslashreplace")
    try:
        if not stat.S_ISFIFO(os.fstat(stream.fileno()).st_mode):
            return stream
    except (OSError, ValueError):  # without a file descriptor, or closed
        return stream
    stream.flush()
    pipe = io.BufferedWriter(_Pipe(stream.fileno(), "wb", closefd=False))
    return io.TextIOWrapper(
        pipe, encoding=stream.encoding, errors="backslashreplace", line_buffering=stream.line_buffering
    )


def _exit_code(arguments: list[str]) -> int:
    try:
        result: Any = hybrid.main(arguments, prog_name="hybrid", standalone_mode=False)
        sys.stdout.flush()
    except click.exceptions.NoArgsIsHelpError as error:
        error.show()
        return UsageError.exit_code
    except (Exception, KeyboardInterrupt) as error:  # noqa: BLE001 - every error becomes a message and an exit code
        return _tell(_as_ours(error))
    return result if isinstance(result, int) else 0


def _as_ours(error: BaseException) -> HybridError:
    """`error` as a HybridError; an unexpected one is a fault in hybrid and is shown with its traceback."""
    if isinstance(error, HybridError):
        return error
    if isinstance(error, click.ClickException):
        context = getattr(error, "ctx", None)
        message = " ".join(error.format_message().split())  # choices stand on lines of their own
        return UsageError(message, hint=f"see {context.command_path if context else 'hybrid'} --help")
    if isinstance(error, KeyboardInterrupt | click.Abort):
        return NotFinished("interrupted", hint="nothing is lost: the same command goes on where it stopped")
    if isinstance(error, MemoryError):
        return CannotRun("out of memory", hint="close other programs, or ask for less")
    if isinstance(error, OSError) and error.errno:
        explained_error = import_object("hybrid.machine.files:explained_error", needed_for="this error's words")
        said: HybridError = explained_error(error, Path(os.fsdecode(error.filename or ".")), doing="using it")
        return said
    _show_traceback(error)
    return HybridError(
        f"this is a fault in hybrid: {type(error).__name__}", hint="please report it with the lines above"
    )


def _tell(error: HybridError) -> int:
    """Print `error` on stderr, with its traceback for -vv and for faults in hybrid. Returns its exit code."""
    if logging.getLogger().isEnabledFor(logging.DEBUG) or isinstance(error, OwnFault):
        _show_traceback(error)
    click.echo(f"error: {clean_line(error.message, LONGEST)}", err=True)
    if error.hint:
        click.echo(f"hint: {clean_line(error.hint, LONGEST)}", err=True)
    return error.exit_code


def _show_traceback(error: BaseException) -> None:
    click.echo(clean("".join(traceback.format_exception(error))), err=True, nl=False)
