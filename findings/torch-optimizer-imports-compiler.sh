#!/bin/bash
# torch 2.13.0: making any `torch.optim` optimizer imports torch's compiler (`torch._dynamo`, with sympy: some 900 modules), though
# nothing is compiled. That is about 150 MB and 4 seconds of processor time of a process that only trains. The function that the class
# calls, `torch.optim.adamw.adamw`, with moments of one's own, imports nothing.
# Expected: an optimizer of one small parameter takes next to no memory.
# Seen: the process grows by over 100 MB.
# Exits 0 while it behaves so, 1 when it does not any more. Takes a Python with torch and psutil: PYTHON=python3 of your environment.
set -euo pipefail
work="$(mktemp -d)"
trap 'rm -rf "$work"' EXIT
cat > "$work/try.py" <<'P'
import sys
import time

import psutil
import torch


def megabytes():
    return psutil.Process().memory_info().rss / 2**20


parameter = torch.nn.Parameter(torch.zeros(10))
before, began, modules = megabytes(), time.process_time(), len(sys.modules)
torch.optim.AdamW([parameter], 1e-3)
taken, seconds = megabytes() - before, time.process_time() - began
print("torch", torch.__version__, f"{len(sys.modules) - modules} modules, {taken:.0f} MB, {seconds:.1f} s")
sys.exit(0 if taken > 50 and "torch._dynamo" in sys.modules else 1)
P
"${PYTHON:-python3}" "$work/try.py"
