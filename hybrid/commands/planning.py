"""Plans beside the commands that run: `--dry-run`, and the line of `run remote`."""

from __future__ import annotations

import json
import logging
from collections.abc import Mapping

import click

from hybrid.errors import HybridError
from hybrid.execution.chosen_model import Engine
from hybrid.machine import nvidia
from hybrid.machine.terminal import clean_line
from hybrid.plan.gpus import CPU, chosen, named_by
from hybrid.plan.money import price_table
from hybrid.plan.plans import RunPlan, plan_run
from hybrid.plan.words import one_line, run_json, run_lines
from hybrid.protocols import Pipeline

USUAL = "t4,l4,a100-40,a100-80,h100,h200"
"""GPUs to rent."""
MAX_LINE = 500
DRY_RUN = click.option("--dry-run", is_flag=True, help="Show what it will need and cost, and start nothing.")


def plan_here(name: str, pipeline: Pipeline, models: Mapping[str, Engine]) -> RunPlan:
    """The plan for this machine: its GPU, if that is a known one, and its CPU."""
    gpu = None if nvidia.hidden() else nvidia.own_gpu()
    known = named_by(gpu.name) if gpu else None
    return plan_run(name, pipeline, models, [*([known] if known else []), *chosen([CPU])])


def plan_for_rent(name: str, pipeline: Pipeline, models: Mapping[str, Engine]) -> RunPlan:
    """The plan for GPUs to rent."""
    return plan_run(name, pipeline, models, chosen([USUAL]))


def show_plan(plan: RunPlan, *, as_json: bool) -> None:
    """Print a plan on stdout."""
    prices = price_table()
    if as_json:
        click.echo(json.dumps(run_json(plan, prices)))
        return
    for line in run_lines(plan, prices):
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
