"""Tables of a run beside outputs.json."""

from __future__ import annotations

import csv
import io
from collections.abc import Iterable

from hybrid.records import Output
from pipelines.cvfp.results import read


def pages(outputs: Iterable[Output]) -> dict[str, str]:
    """`rounds.csv`: a row for each figure of each sweep and epoch. So its head is the same whatever was measured."""
    text = io.StringIO()
    table = csv.writer(text, lineterminator="\n")
    table.writerow(["variant", "pieces", "seed", "round", "phase", "metric", "value"])
    for one in read(outputs):
        for number, of in sorted(one.rounds.items()):
            row = [one.variant, one.pieces, one.seed, number, int(of.get("phase", 0))]
            table.writerows([*row, name, value] for name, value in sorted(of.items()) if name != "phase")
    return {"rounds.csv": text.getvalue()}
