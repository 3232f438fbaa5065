"""What fewer bytes cost in accuracy: number formats of updates, and ranks that prune themselves, beside whole updates.

    python benchmarks/fed_traffic.py --data FOLDER [--rounds 4] [--samples 100] [--seeds 0,1,2] [--only NAME,...]

The model, the task (SST-2 in FOLDER), the clients and the seeds are those of `fed_learning`; each way of sending is a
run of its own on the same rows from the same start. For each it prints the accuracy of the final models on the dev
rows, the MB that clients sent and fetched, the mean rank at the end, and the difference to whole updates in fp32 of the
same method on the same seeds, with its 95 % interval (Student's t over seeds), which one seed does not have. `--only`
runs some of the ways, and the whole updates that they are compared with.

The last line has of each way `ratio`, the MB that whole updates sent / those that it sent. There is no goal: whether a
loss is worth the bytes is for the reader. All are nine runs of three seeds.
"""

from __future__ import annotations

import argparse
import json
import statistics
import tempfile
import time
from collections.abc import Mapping, Sequence
from contextlib import closing
from pathlib import Path
from typing import NamedTuple

from fed_learning import hybrid, model_options, settings_of

from hybrid.outputs import open_outputs
from hybrid.statistics.paired import compared
from pipelines.atlas.results import SeriesResult, read_series

MEGABYTE = 1_000_000
AVERAGED = {"methods": "fedavg-lora"}
UNEQUAL = {"methods": "hetlora", "rank": "4,8,16"}
WAYS: Mapping[str, Mapping[str, str]] = {
    "fedavg-lora fp32": AVERAGED,
    "fedavg-lora topk 0.1": {**AVERAGED, "wire": "topk", "top": "0.1"},
    "hetlora fp32": UNEQUAL,
    "hetlora decay 0.75": {**UNEQUAL, "hetlora_decay": "0.75"},
    "fedavg-lora int8": {**AVERAGED, "wire": "int8"},
    "hetlora decay 0.99": {**UNEQUAL, "hetlora_decay": "0.99"},
    "fedavg-lora topk 0.01": {**AVERAGED, "wire": "topk", "top": "0.01"},
    "fedavg-lora fp16": {**AVERAGED, "wire": "fp16"},
    "hetlora topk 0.1": {**UNEQUAL, "wire": "topk", "top": "0.1"},
}
"""What is compared: the settings of each; the first of a method is what the others are compared with."""


class Ended(NamedTuple):
    """How a series ended: the accuracy on dev rows, the MB that clients sent and fetched, and their mean rank."""

    accuracy: float
    up: float
    down: float
    rank: float


def ended(one: SeriesResult) -> Ended:
    """Of one seed. Raises ValueError for a series that did not end."""
    accuracy, rank = one.mean("dev_accuracy"), one.mean("rank")
    if not one.whole or accuracy is None or rank is None:
        raise ValueError(f"{one.name} did not end: {one.failure}")
    up, down = (sum(one.curve(f"{name}_bytes").values()) / MEGABYTE for name in ("upload", "download"))
    return Ended(accuracy, up, down, rank)


def measured(way: Mapping[str, str], options: argparse.Namespace) -> dict[int, Ended]:
    """How each seed of a way of sending ended."""
    with tempfile.TemporaryDirectory() as root:
        outputs = Path(root, "outputs.json")
        chosen = settings_of({"tasks": "sst2", "data": options.data, **way}, options)
        hybrid(
            "run", "local", "atlas", *model_options(), *chosen, "--folder", root, "-o", str(outputs), home=Path(root)
        )
        with closing(open_outputs(outputs)) as opened:
            return {one.seed: ended(one) for one in read_series(opened.records())}


def whole_of(name: str) -> str:
    """The way of sending with which a way is compared."""
    return next(other for other, way in WAYS.items() if way["methods"] == WAYS[name]["methods"])


def chosen(names: Sequence[str]) -> list[str]:
    """These ways of sending, or all, and those they are compared with, in their order. Raises ValueError."""
    if unknown := [name for name in names if name not in WAYS]:
        raise ValueError(f"{', '.join(unknown)}: no way of sending; there are {', '.join(WAYS)}")
    wanted = {each for name in names or WAYS for each in (name, whole_of(name))}
    return [name for name in WAYS if name in wanted]


def row(name: str, found: Mapping[int, Ended], whole: Mapping[int, Ended]) -> dict[str, object]:
    """A way of sending beside whole updates of the same method; these themselves without a difference."""
    means = {
        field: round(statistics.fmean(values), 4)
        for field, values in zip(Ended._fields, zip(*found.values(), strict=True), strict=True)
    }
    told = {"way": name, **means, "seeds": [one.accuracy for one in found.values()]}
    if name == whole_of(name):
        return told
    apart = compared([(whole[seed].accuracy, one.accuracy) for seed, one in found.items()])
    interval = {"interval": [round(value, 4) for value in apart.interval]} if apart.interval else {}
    return {**told, "minus_whole": round(apart.mean, 4), **interval}


def result(found: Mapping[str, Mapping[int, Ended]], seconds: float) -> dict[str, object]:
    """The last line: how many times fewer MB each way sent than whole updates of the same method."""
    sent = {name: statistics.fmean(one.up for one in ways.values()) for name, ways in found.items()}
    ratio = {name: round(sent[whole_of(name)] / up, 2) for name, up in sent.items() if name != whole_of(name)}
    about = {"name": "fed_traffic", "peer": "whole updates in fp32 of the same method"}
    return {**about, "ratio": ratio, "goal": None, "met": None, "seconds": round(seconds, 1)}


def main() -> None:
    """Print a JSON object for each way of sending, and one for all."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--data", required=True)
    parser.add_argument("--rounds", default="4")
    parser.add_argument("--samples", default="100")
    parser.add_argument("--seeds", default="0,1,2")
    parser.add_argument("--only", default="", help="some of the ways of sending, by comma")
    options = parser.parse_args()
    try:
        names = chosen([name.strip() for name in options.only.split(",") if name.strip()])
    except ValueError as error:
        parser.error(f"--only {error}")
    began, found = time.monotonic(), dict[str, dict[int, Ended]]()
    for name in names:
        found[name] = measured(WAYS[name], options)
        print(json.dumps(row(name, found[name], found[whole_of(name)])), flush=True)
    print(json.dumps(result(found, time.monotonic() - began)))


if __name__ == "__main__":
    main()
