"""The options of a command line that define a run, and the pipeline with its settings that they say."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable, Mapping
from typing import Any

import click

from hybrid import settings
from hybrid.commands.arms import arms_given
from hybrid.commands.options import FOLDER, FOLDER_HELP
from hybrid.commands.roles import MODELS
from hybrid.errors import UsageError
from hybrid.plugins import installed

RUN_OPTIONS = (
    click.argument("pipeline"),
    click.option("--folder", type=FOLDER, help=FOLDER_HELP),
    click.option("--set", "values", multiple=True, metavar="NAME=VALUE", help="A setting; see `hybrid describe`."),
    click.option("--preset", default="", help="A named set of settings, such as 'paper'; --set overrides it."),
    *MODELS,
    click.option(
        "--arm", "arms", multiple=True, metavar="NAME[:SETTING=VALUE,...]",
        help="An arm that is compared with the others (pipeline prompts); its own model is --model ARM=NAME.",
    ),
    click.option("--limit", type=int, help="Only the first N tasks: short for --set limit=N."),
    click.option("--seed", type=int, help="Short for --set seed=N."),
    click.option("--note", help="A line that `hybrid status` shows for the run; it does not change the run's id."),
)  # fmt: skip
"""The options of `run local` and `run remote` that define the run."""


def with_run_options(command: Any) -> Any:
    for option in reversed(RUN_OPTIONS):
        command = option(command)
    return command


def pipeline_with(
    pipeline: str, values: Iterable[str], preset: str, how: Mapping[str, Any], **short: int | None
) -> Any:
    """The pipeline with its settings, and with the arms in the further options `how`."""
    texts = [*values, *(f"{name}={value}" for name, value in short.items() if value is not None)]
    made, arms = installed.load("pipelines", pipeline), arms_given(how)
    if arms and "arms" not in {one.name for one in dataclasses.fields(made)}:
        raise UsageError(f"{pipeline} compares no arms of --arm", hint=f"hybrid describe {pipeline}: its settings")
    return settings.build(made, texts, preset, pipeline, arms)
