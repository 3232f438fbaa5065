"""What `grade` and `judge check` share: the options that choose a grader, and the progress of its model's calls."""

from __future__ import annotations

import dataclasses
import logging
import sys
from typing import Any

import click
from rich.console import Console

from hybrid.errors import UsageError
from hybrid.plugins import installed
from hybrid.progress import ProgressBar, ProgressLines, SilentProgress
from hybrid.settings import build

SHORT_OPTIONS = (
    ("--model", "model", ("models", "model"), "Who judges; for graders that ask a model. May be repeated."),
    ("--backend", "backend", ("backend", "embedder"), "What runs the model [ollama]."),
    ("--backend-option", "backend_option", ("options",), "Of the backend on this machine, such as parallel=4."),
)
"""Option, parameter, the settings that it sets (the first that the grader has), help."""


def grader_options(command: Any) -> Any:
    """Add the options of a grader: `--set`, and the short options for graders that ask a model."""
    for option, _, _, help in reversed(SHORT_OPTIONS):
        metavar = "NAME=VALUE" if option == "--backend-option" else "NAME"
        command = click.option(option, multiple=True, metavar=metavar, help=help)(command)
    about = "A setting of the grader; may be repeated."
    return click.option("--set", "settings", multiple=True, metavar="NAME=VALUE", help=about)(command)


def built_grader(name: str, settings: tuple[str, ...], **short: tuple[str, ...]) -> Any:
    """The grader with its settings. Raises UsageError, also for a model given to a grader that asks none."""
    cls = installed.load("graders", name)
    fields = {field.name for field in dataclasses.fields(cls)}
    texts = list(settings)
    for option, parameter, wanted, _ in SHORT_OPTIONS:
        values = short[parameter]
        if not values:
            continue
        setting = next((one for one in wanted if one in fields), None)
        if setting is None:
            raise UsageError(f"the grader '{name}' asks no model: it has no {option}", hint="hybrid describe " + name)
        if len(values) > 1 and setting not in ("models", "options"):
            raise UsageError(f"the grader '{name}' takes one {option}", hint=f"it was given {len(values)}")
        texts.append(f"{setting}={','.join(values)}")
    return build(cls, texts, called=name)


def call_progress() -> SilentProgress:
    """The display on stderr of a grader's calls to its model."""
    if logging.getLogger().level >= logging.ERROR:
        return SilentProgress()
    return ProgressBar(Console(stderr=True)) if sys.stderr.isatty() else ProgressLines(sys.stderr)
