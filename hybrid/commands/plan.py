"""`hybrid plan PIPELINE`: what a run will need and cost, before it starts."""

from __future__ import annotations

import json
from typing import Any

import click

from hybrid.commands.arms import with_arms
from hybrid.commands.roles import engines
from hybrid.commands.run_options import pipeline_with, with_run_options
from hybrid.plan.gpus import chosen
from hybrid.plan.money import price_table
from hybrid.plan.plans import plan_run
from hybrid.plan.words import run_json, run_lines

USUAL = "t4,l4,a100-40,a100-80,h100,h200"


@click.command()
@with_run_options
@click.option(
    "--backend-option", "options", multiple=True, metavar="NAME=VALUE",
    help="An option of the backend, as for a run or a worker. For a further model: ROLE=NAME=VALUE.",
)  # fmt: skip
@click.option(
    "--gpu", "gpus", multiple=True, metavar="NAMES", default=(USUAL,), show_default=True,
    help="For which: t4, l4, a10g, 3090, 4090, l40s, a100-40, a100-80, h100, h200 ..., or cpu, this machine's.",
)  # fmt: skip
@click.option("--exact", is_flag=True, help="Count the tokens of every prompt; else of a sample where there are many.")
@click.option("--json", "as_json", is_flag=True, help="One JSON object.")
def plan(pipeline: str, values: tuple[str, ...], preset: str, limit: int | None, seed: int | None, **how: Any) -> None:
    """Show what a run of PIPELINE will need on each GPU: memory, tokens, time, money. Nothing is loaded or written."""
    devices = chosen(how["gpus"])
    how = with_arms(how)
    made = pipeline_with(pipeline, values, preset, how, limit=limit, seed=seed)
    found = plan_run(pipeline, made, engines(made, how), devices, exact=how["exact"])
    prices = price_table()
    if how["as_json"]:
        click.echo(json.dumps(run_json(found, prices)))
        return
    for line in run_lines(found, prices):
        click.echo(line)
