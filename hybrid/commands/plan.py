"""`hybrid plan PIPELINE`: what a run will need and cost, before it starts."""

from __future__ import annotations

import json
from dataclasses import asdict
from typing import Any

import click

from hybrid.commands.arms import with_arms
from hybrid.commands.planning import USUAL, past_of, piloted, show_plan
from hybrid.commands.roles import engines
from hybrid.commands.run_options import pipeline_with, with_run_options
from hybrid.errors import CannotRun, UsageError
from hybrid.machine.terminal import clean_line
from hybrid.plan.gpus import chosen
from hybrid.plan.plans import PLANNED, Basis, RunPlan, plan_run
from hybrid.plan.words import guide_lines
from hybrid.protocols import Guided


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
@click.option(
    "--workers", type=click.IntRange(1, 10_000), default=1, show_default=True, metavar="N",
    help="Also for N workers at once, each with a GPU of its own: several GPUs of a host, or a cluster.",
)  # fmt: skip
@click.option(
    "--pilot", type=click.IntRange(1, 10_000), metavar="N",
    help="Run the first N tasks on this machine first, and correct its time by them.",
)  # fmt: skip
@click.option("--exact", is_flag=True, help="Count the tokens of every prompt; else of a sample where there are many.")
@click.option(
    "--guide", is_flag=True, help="The tables of the guide to the system, by its own formulas, and what is true."
)
@click.option("--json", "as_json", is_flag=True, help="One JSON object.")
def plan(pipeline: str, values: tuple[str, ...], preset: str, limit: int | None, seed: int | None, **how: Any) -> None:
    """Show what a run of PIPELINE will need on each GPU: memory, tokens, time, money. Nothing is loaded or written."""
    devices = chosen(how["gpus"])
    how = with_arms(how)
    made = pipeline_with(pipeline, values, preset, how, limit=limit, seed=seed)
    if how["guide"]:
        _show_guide(pipeline, made, as_json=how["as_json"])
        return
    models = engines(made, how)
    folder = piloted(pipeline, made, models, how["pilot"]) if how["pilot"] else how["folder"]
    past = past_of(folder, models[""]) if len(models) == 1 else {}
    found = plan_run(pipeline, made, models, devices, Basis(how["exact"], past))
    show_plan(found, as_json=how["as_json"], workers=how["workers"])
    _refuse_unknown(found)


def _refuse_unknown(found: RunPlan) -> None:
    """Raise CannotRun when nothing could be planned of a model whose backend is planned."""
    for role, shape in found.shapes.items():
        if isinstance(shape, str) and found.models[role].backend in PLANNED:
            raise CannotRun(f"neither memory nor time is planned of '{clean_line(found.models[role].model)}': {shape}")


def _show_guide(name: str, pipeline: Any, *, as_json: bool) -> None:
    """The tables of a pipeline's guide. Raises UsageError when it has none."""
    if not isinstance(pipeline, Guided):
        raise UsageError(
            f"there is no guide to '{name}' whose tables could be shown",
            hint="there is one to seal-ttt, sapo, atlas, cvfp and branch",
        )
    tables = list(pipeline.guide())
    if as_json:
        click.echo(json.dumps([asdict(one) for one in tables]))
        return
    for line in guide_lines(tables):
        click.echo(line)
