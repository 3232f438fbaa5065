"""Tables of a run beside outputs.json."""

from __future__ import annotations

import csv
import io
from collections.abc import Iterable

from hybrid.records import Output
from pipelines.cvfp.results import read


def pages(outputs: Iterable[Output]) -> dict[str, str]:
    """`rounds.csv`: a row for each sweep and epoch, with whatever was measured in it."""
    series = read(outputs)
    names = sorted({name for one in series for of in one.rounds.values() for name in of} - {"phase"})
    text = io.StringIO()
    table = csv.writer(text, lineterminator="\n")
    table.writerow(["variant", "pieces", "seed", "round", "phase", *names])
    for one in series:
        for number, of in sorted(one.rounds.items()):
            row = [one.variant, one.pieces, one.seed, number, int(of.get("phase", 0))]
            table.writerow([*row, *(of.get(name, "") for name in names)])
    return {"rounds.csv": text.getvalue()}
