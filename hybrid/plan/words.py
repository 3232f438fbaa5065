"""A plan as lines for people and as JSON."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import asdict
from textwrap import wrap

from hybrid.backends.registry import NO_MODEL
from hybrid.canonical import Json
from hybrid.loads import GuideTable
from hybrid.machine.terminal import clean_line, count_of, duration, is_or_are
from hybrid.plan.gpus import GIB
from hybrid.plan.measured import measured_words
from hybrid.plan.money import PriceTable
from hybrid.plan.plans import GpuPlan, Phase, RunPlan, StagePlan
from hybrid.plan.shapes import ModelShape
from hybrid.plan.speed import ANSWERED, Span
from hybrid.plan.workload import StageLoad

NAME_WIDTH = 24
LONGEST = 300


def run_lines(plan: RunPlan, prices: PriceTable, workers: int = 1) -> Iterator[str]:
    """All of a plan; for several `workers` also what they take together."""
    yield from _loads(plan)
    yield from _shapes(plan)
    for one in plan.gpus:
        yield ""
        yield from gpu_lines(one, prices, workers)
    yield ""
    if not all(one.measured for one in plan.gpus):
        share = f"{ANSWERED:.0%}"
        yield f"time: a model of the device; at least with answers of {share} of max_tokens, at most with all of it"
    yield f"prices: {prices.path}, each with its source and day; they go stale"


def guide_lines(tables: Iterable[GuideTable]) -> Iterator[str]:
    """Tables of a guide, the first column to the left, the others to the right."""
    for number, table in enumerate(tables):
        rows = [table.columns, *table.rows]
        widths = [max(len(row[place]) for row in rows) for place in range(len(table.columns))]
        yield from ("",) if number else ()
        yield table.title
        for row in rows:
            cells = (f"{cell:>{width}}" for cell, width in zip(row[1:], widths[1:], strict=True))
            yield f"  {row[0]:<{widths[0]}}  " + "  ".join(cells)
        yield from (f"  {line}" for line in wrap(table.note, 110))


def one_line(plan: RunPlan, prices: PriceTable) -> str:
    """A plan in one line: its items, and the GPU on which it is cheapest among those that it fits."""
    fitting = [gpu for gpu in plan.gpus if gpu.fits and gpu.seconds.high]
    if not fitting:
        names = ", ".join(one.gpu.name for one in plan.gpus)
        none = "" if any(one.fits for one in plan.gpus) else f"; it fits none of {names}"
        return f"plan: {items_of(plan)}{none}"
    costs = {gpu.gpu.name: price.of(gpu.seconds) for gpu in fitting if (price := prices.price(gpu.gpu.name))}
    best = min(fitting, key=lambda gpu: costs.get(gpu.gpu.name, (0.0, float("inf")))[1])
    cost = f", {_dollars(*costs[best.gpu.name])}" if best.gpu.name in costs else ""
    return f"plan: {items_of(plan)}; on {best.gpu.name} {span_of(best.seconds)}{cost}"


def items_of(plan: RunPlan) -> str:
    """Items and tokens of all stages; rounds, where no model is asked anything."""
    given, new = plan.tokens()
    if plan.loads and all(load.rounds and not load.roles for load in plan.loads):
        return f"{count_of(plan.items, 'round')} of training"
    most = "at most " if plan.is_bound else ""
    unknown = sum(bool(one.unknown) for one in plan.loads)
    more = (
        f", and what {count_of(unknown, 'stage')} will ask for that {is_or_are(unknown)} not known" if unknown else ""
    )
    return f"{most}{count_of(plan.items, 'item')}, {given:,} tokens in, at most {new:,} out{more}"


def span_of(seconds: Span) -> str:
    """`2 min to 1 h 5 min`."""
    low, high = duration(seconds.low), duration(seconds.high)
    return low if low == high else f"{low} to {high}"


def _loads(plan: RunPlan) -> Iterator[str]:
    yield f"{plan.pipeline}: {count_of(plan.tasks, 'task')}; {items_of(plan)}"
    for load in plan.loads:
        yield f"  {load.name:<{NAME_WIDTH}} {_load(load)}"
        yield from (f"  {'':<{NAME_WIDTH}} {clean_line(one, LONGEST)}" for one in _how(load))


def _load(load: StageLoad) -> str:
    if load.unknown:
        return clean_line(load.unknown, LONGEST)
    given, new = load.tokens()
    most = "at most " if load.bound else ""
    asked = f"{most}{count_of(load.items, 'round' if load.rounds else 'item')}"
    trained = f", {count_of(sum(n for _, n in load.trainings), 'training')}" if load.trainings else ""
    return f"{asked}, {given:,} tokens in, at most {new:,} out{trained}" if load.roles else asked + trained


def _how(load: StageLoad) -> Iterator[str]:
    yield from dict.fromkeys(one.prompts.how for one in load.roles)
    if load.texts:
        some = "" if load.texts.exact else ", by the texts of a few trainings"
        yield f"trained on: {load.texts.tokens:,} tokens in {count_of(load.texts.steps, 'step')}{some}"
    if load.rounds and load.rounds.trained_tokens:
        yield f"trained on: at most {load.rounds.trained_tokens:,} tokens"


def _shapes(plan: RunPlan) -> Iterator[str]:
    for role, shape in plan.shapes.items():
        chosen = plan.models[role]
        if chosen.backend == NO_MODEL:
            continue
        called = clean_line(f"{role + ' ' if role else ''}{chosen.model} on {chosen.backend}", 100)
        if isinstance(shape, ModelShape):
            kept = f"{shape.parameters:,} parameters, {shape.layers} layers; from {shape.source}"
            yield clean_line(f"model {called}: {kept}", LONGEST)
        else:
            yield clean_line(f"model {called}: {shape}", LONGEST)


def gpu_lines(gpu: GpuPlan, prices: PriceTable, workers: int = 1) -> Iterator[str]:
    """The block of a GPU."""
    yield f"{gpu.gpu.name}: {_verdict(gpu)}"
    if gpu.refusal:
        return
    stage = gpu.largest
    phase = stage.largest if stage else None
    if stage and phase:
        several = sum(bool(one.models) for each in gpu.stages for one in each.phases) > 1
        yield from _memory(stage, phase, several=several)
    if not gpu.seconds.high:
        return  # no model with a known shape: what is not known costs not nothing
    yield f"  {'time':<{NAME_WIDTH}} {span_of(gpu.seconds)}, of which {span_of(gpu.start)} to start"
    if gpu.measured:
        yield f"  {'':<{NAME_WIDTH}} {measured_words(gpu.measured)}"
    if gpu.fits:
        yield from _costs(gpu, prices)
        yield from _shared(gpu, prices, workers)
    if not gpu.fits and phase:
        yield from (f"  change: {hint}" for hint in dict.fromkeys(one.needs.hint for one in phase.models) if hint)


def _verdict(gpu: GpuPlan) -> str:
    if gpu.refusal:
        return f"cannot run it: {gpu.refusal}"
    phase = gpu.largest.largest if gpu.largest else None
    if not phase:
        return "nothing is planned for it"
    words = "fits" if gpu.fits else "does NOT fit"
    return f"{words}: {_gib(phase.bytes)} of {_gib(phase.most)}"


def _memory(stage: StagePlan, phase: Phase, *, several: bool) -> Iterator[str]:
    if several:
        yield f"  {phase.name} in the stage '{stage.load.name}', which needs the most:"
    for model in phase.models:
        named = f"{model.role} " if model.role else ""
        for line in model.needs.lines:
            yield f"  {named + line.name:<{NAME_WIDTH}} {_gib(line.bytes):>10}  {line.how}".rstrip()


def _costs(gpu: GpuPlan, prices: PriceTable) -> Iterator[str]:
    price = prices.price(gpu.gpu.name)
    if price:
        where = f"{price.where}, ${price.usd_per_hour:.2f} an hour on {price.read_on}"
        yield f"  {'money':<{NAME_WIDTH}} {_dollars(*price.of(gpu.seconds))} ({where})"
    for site in prices.lending(gpu.gpu.name):
        low, high = site.sessions(gpu.seconds.low), site.sessions(gpu.seconds.high)
        count = count_of(high, "session") if low == high else f"{low} to {count_of(high, 'session')}"
        week = f" and {site.week_hours:g} h a week" if site.week_hours else ""
        limits = f"of {site.session_hours:g} h{week}, read on {site.read_on}"
        yield f"  {site.where:<{NAME_WIDTH}} {count} {limits}"


def _shared(gpu: GpuPlan, prices: PriceTable, workers: int) -> Iterator[str]:
    if workers > 1:
        seconds, price = gpu.shared(workers), prices.price(gpu.gpu.name)
        cost = f", {_dollars(*price.of(seconds.times(workers, workers)))} for all" if price else ""
        yield f"  {f'{workers:,} workers':<{NAME_WIDTH}} {span_of(seconds)}, each with a GPU of its own{cost}"


def _gib(size: int) -> str:
    return f"{size / GIB:,.2f} GiB"


def _dollars(low: float, high: float) -> str:
    return "under $0.01" if high < 0.01 else f"${low:,.2f} to ${high:,.2f}"


def run_json(plan: RunPlan, prices: PriceTable, workers: int = 1) -> dict[str, Json]:
    """All of a plan as one JSON object."""
    given, new = plan.tokens()
    return {
        "pipeline": plan.pipeline,
        "tasks": plan.tasks,
        "items": plan.items,
        "bound": plan.is_bound,
        "prompt_tokens": given,
        "most_new_tokens": new,
        "stages": [_load_json(one) for one in plan.loads],
        "models": {role: _model_json(plan, role) for role in plan.models},
        "gpus": [_gpu_json(one, prices, workers) for one in plan.gpus],
    }


def _load_json(load: StageLoad) -> Json:
    given, new = load.tokens()
    return {
        "stage": load.name,
        "side": load.stage.side,
        "items": load.items,
        "bound": load.bound,
        "prompt_tokens": given,
        "most_new_tokens": new,
        "trainings": sum(n for _, n in load.trainings),
        "trained_tokens": load.texts.tokens if load.texts else load.rounds.trained_tokens if load.rounds else 0,
        "exact": all(one.prompts.exact for one in load.roles),
        "unknown": load.unknown,
    }


def _model_json(plan: RunPlan, role: str) -> Json:
    shape, chosen = plan.shapes[role], plan.models[role]
    about: dict[str, Json] = {"backend": chosen.backend, "model": chosen.model}
    if isinstance(shape, ModelShape):
        return {**about, "parameters": shape.parameters, "source": shape.source}
    return {**about, "unknown": shape}


def _gpu_json(gpu: GpuPlan, prices: PriceTable, workers: int) -> Json:
    shared = gpu.shared(workers)
    price, phase = prices.price(gpu.gpu.name), gpu.largest.largest if gpu.largest else None
    lines: list[Json] = [
        {"role": model.role, "name": line.name, "bytes": line.bytes, "how": line.how}
        for model in (phase.models if phase else ())
        for line in model.needs.lines
    ]
    return {
        "gpu": gpu.gpu.name,
        "fits": gpu.fits,
        "refusal": gpu.refusal,
        "bytes": phase.bytes if phase else 0,
        "most_bytes": phase.most if phase else gpu.gpu.memory,
        "memory": lines,
        "seconds": [gpu.seconds.low, gpu.seconds.high],
        "measured": asdict(gpu.measured) if gpu.measured else None,
        "usd": list(price.of(gpu.seconds)) if price else None,
        "usd_per_hour": price.usd_per_hour if price else None,
        "shared": {
            "workers": workers,
            "seconds": [shared.low, shared.high],
            "usd": list(price.of(shared.times(workers, workers))) if price else None,
        },
        "sessions": {
            site.where: [site.sessions(gpu.seconds.low), site.sessions(gpu.seconds.high)]
            for site in prices.lending(gpu.gpu.name)
        },
    }
