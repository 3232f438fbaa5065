#!/bin/bash
# orjson 3.13.0: the bytes that `orjson.dumps` returns for a small value take about 4 kB each for as long as they are kept, whatever
# `sys.getsizeof` says; a copy of them takes what it should. A program that collects lines before it sorts or writes them needs
# ten times the memory that it counts.
# Expected: 60,000 lines of 258 bytes take about 18 MB, as copies of them do.
# Seen: they take over 200 MB.
# Exits 0 while it behaves so, 1 when it does not any more. Installs one small wheel, takes seconds.
set -euo pipefail
work="$(mktemp -d)"
trap 'rm -rf "$work"' EXIT
cd "$work"
python3 -m venv env
env/bin/pip install --quiet --disable-pip-version-check orjson==3.13.0
cat > try.py <<'P'
import resource
import sys
from importlib.metadata import version

import orjson


def megabytes():
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024


value = {"a": "x" * 250}
begin = megabytes()
copies = [bytes(memoryview(orjson.dumps(value))) for _ in range(60_000)]
copied = megabytes() - begin
begin = megabytes()
kept = [orjson.dumps(value) for _ in range(60_000)]
taken = megabytes() - begin
print("orjson", version("orjson"), "size of one by sys.getsizeof", sys.getsizeof(kept[0]))
print(f"copies {copied:.0f} MB, as returned {taken:.0f} MB")
sys.exit(0 if taken > 4 * copied else 1)
P
env/bin/python try.py
