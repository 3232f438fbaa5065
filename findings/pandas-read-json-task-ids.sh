#!/bin/bash
# pandas 3.1.1: `read_json` on records whose ids are texts of digits, such as 00576224, a task of ARC.
# Expected: JSON says what is a text and what a number, so texts stay texts, and a table that pandas wrote comes back as it was.
# Seen: a column of texts that all look like numbers becomes numbers, without a warning: 00576224 is 576224, 4e9 and 4000000000 are the
# same number, so that a join with the tasks finds nothing, or the wrong one. It depends on the rows: one id with another letter
# keeps them all. With dtype=False they stay.
# Exits 0 while it behaves so, 1 when it does not any more. Installs about 100 MB, takes seconds.
set -euo pipefail
work="$(mktemp -d)"
trap 'rm -rf "$work"' EXIT
cd "$work"
python3 -m venv env
env/bin/pip install --quiet --disable-pip-version-check pandas==3.1.1 numpy==2.3.5
cat > try.py <<'P'
import sys
import warnings
from importlib.metadata import version

import pandas

warnings.simplefilter("error")


def back(*ids, **how):
    pandas.DataFrame({"task": ids}).to_json("scores.jsonl", orient="records", lines=True)
    return pandas.read_json("scores.jsonl", lines=True, **how)["task"].tolist()


arc, mixed, powers = ("00576224", "00576225"), ("00576224", "007bbfb7"), ("4e9", "4000000000")
print(f"pandas {version('pandas')}: {arc} come back as {back(*arc)}, {mixed} as {back(*mixed)}, {powers} as {back(*powers)}")
numbers = back(*arc) == [576224, 576225] and len(set(back(*powers))) == 1
kept = back(*mixed) == list(mixed) and back(*arc, dtype=False) == list(arc)
sys.exit(0 if numbers and kept else 1)
P
env/bin/python try.py
