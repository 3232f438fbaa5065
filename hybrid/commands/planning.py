"""Plans beside the commands that run: `--dry-run`, and the line of `run remote`."""

from __future__ import annotations

import json
import logging
import os
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import click

from hybrid import settings
from hybrid.errors import HybridError, UsageError
from hybrid.execution.chosen_model import Engine
from hybrid.machine import home, nvidia
from hybrid.machine.late_imports import import_object
from hybrid.machine.terminal import clean_line
from hybrid.plan.gpus import CPU, chosen, named_by
from hybrid.plan.measured import Measured
from hybrid.plan.money import price_table
from hybrid.plan.plans import RunPlan, plan_run
from hybrid.plan.words import one_line, run_json, run_lines
from hybrid.protocols import Pipeline

USUAL = "t4,l4,a100-40,a100-80,h100,h200"
"""GPUs to rent."""
MAX_LINE = 500
DEFAULT_FOLDER = "hybrid-folder"
"""As `hybrid.execution.local` has it."""
PILOTS = "pilots"
"""The folder of pilots in HYBRID_HOME."""
DRY_RUN = click.option("--dry-run", is_flag=True, help="Show what it will need and cost, and start nothing.")


def plan_here(name: str, pipeline: Pipeline, models: Mapping[str, Engine]) -> RunPlan:
    """The plan for this machine: its GPU, if that is a known one, and its CPU."""
    gpu = None if nvidia.hidden() else nvidia.own_gpu()
    known = named_by(gpu.name) if gpu else None
    return plan_run(name, pipeline, models, [*([known] if known else []), *chosen([CPU])])


def plan_for_rent(name: str, pipeline: Pipeline, models: Mapping[str, Engine]) -> RunPlan:
    """The plan for GPUs to rent."""
    return plan_run(name, pipeline, models, chosen([USUAL]))


def piloted(name: str, pipeline: Any, models: Mapping[str, Engine], tasks: int) -> Path:
    """Run the first tasks of a pipeline on this machine. Returns the folder that holds such runs.

    Raises UsageError for a pipeline without the setting `limit`, and what a run raises.
    """
    if "limit" not in {one.name for one in settings.describe(type(pipeline))}:
        raise UsageError(f"{name} has no setting 'limit', so that no pilot can be run", hint="leave --pilot out")
    small = settings.restore(type(pipeline), {**settings.freeze(pipeline), "limit": tasks}, name)
    folder = home.home() / PILOTS
    run_here = import_object("hybrid.execution.local:run_here", needed_for="a pilot")
    lines = import_object("hybrid.progress:ProgressLines", needed_for="a pilot")
    run_here(folder, name, small, models, lines(sys.stderr))
    return folder


def past_of(folder: Path | None, model: Engine) -> Mapping[str, Measured]:
    """What earlier runs of a model in the chosen folder measured. What reads them is imported where there is one."""
    there = folder or os.environ.get("HYBRID_FOLDER") or home.joined_folder() or Path(DEFAULT_FOLDER).exists()
    if not there:
        return {}
    chosen_folder = import_object("hybrid.execution.local:chosen_folder", needed_for="earlier runs")
    measured_in = import_object("hybrid.plan.past_runs:measured_in", needed_for="earlier runs")
    found: Mapping[str, Measured] = measured_in(chosen_folder(folder), model.backend, model.model)
    return found


def show_plan(plan: RunPlan, *, as_json: bool, workers: int = 1) -> None:
    """Print a plan on stdout, also for several workers at once."""
    prices = price_table()
    if as_json:
        click.echo(json.dumps(run_json(plan, prices, workers)))
        return
    for line in run_lines(plan, prices, workers):
        click.echo(line)


def tell_plan(name: str, pipeline: Pipeline, models: Mapping[str, Engine], *, as_json: bool) -> None:
    """Print the line of a plan on stderr. A run that cannot be planned is submitted all the same."""
    if as_json or logging.getLogger().level >= logging.ERROR:
        return
    try:
        line = one_line(plan_for_rent(name, pipeline, models), price_table())
    except HybridError as error:
        line = f"plan: none, {error.message}"
    click.echo(clean_line(line, MAX_LINE), err=True)
