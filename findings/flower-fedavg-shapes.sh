#!/bin/bash
# Flower 1.42.0: FedAvg averages replies in which the same tensor has another shape at each client, as LoRA factors of clients
# with ranks 4 and 1 have.
# Expected: the shapes differ, so the round's aggregation is refused, as it is where names differ.
# Seen: nothing compares shapes, and the sum is made in place in the first reply's array. If the larger one comes first, the
# smaller is broadcast over it: its one row is added to all four, and the average is returned without an error or a warning. If the
# smaller one comes first, numpy raises a ValueError. So the same round fails or passes by the
# order in which replies stand in the list that the strategy is given.
# Exits 0 while it behaves so, 1 when it does not any more. Installs about 150 MB, takes seconds.
set -euo pipefail
work="$(mktemp -d)"
trap 'rm -rf "$work"' EXIT
cd "$work"
python3 -m venv env
env/bin/pip install --quiet --disable-pip-version-check flwr==1.42.0
cat > try.py <<'P'
import sys
from importlib.metadata import version

import numpy as np
from flwr.app import Array, ArrayRecord, Message, MetricRecord, RecordDict
from flwr.serverapp.strategy import FedAvg
from flwr.supercore.task_identity import TaskIdentity

TaskIdentity.run_id = TaskIdentity.node_id = TaskIdentity.task_id = 1  # as in a process that Flower starts
LARGE = np.ones((4, 8), np.float32)  # lora_A of rank 4
SMALL = np.full((1, 8), 3.0, np.float32)  # lora_A of rank 1


def reply(name, value):
    asked = Message(RecordDict(), dst_node_id=1, message_type="train")
    found = {"arrays": ArrayRecord({name: Array(value)}), "metrics": MetricRecord({"num-examples": 1})}
    return Message(RecordDict(found), reply_to=asked)


def averaged(*replies):
    """What FedAvg makes of the replies: an array, None, or the name of an error."""
    try:
        arrays, _ = FedAvg().aggregate_train(1, replies)
    except Exception as error:
        return type(error).__name__
    return None if arrays is None else next(iter(arrays.values())).numpy()


larger_first = averaged(reply("lora_A", LARGE), reply("lora_A", SMALL))
smaller_first = averaged(reply("lora_A", SMALL), reply("lora_A", LARGE))
other_name = averaged(reply("lora_A", LARGE), reply("lora_B", LARGE))
print(f"flwr {version('flwr')}: larger first: {getattr(larger_first, 'shape', larger_first)}, first column "
      f"{getattr(larger_first, 'T', [None])[0]}; smaller first: {smaller_first}; other names: {other_name}")  # fmt: skip
broadcast = isinstance(larger_first, np.ndarray) and np.array_equal(larger_first, np.full((4, 8), 2.0))
sys.exit(0 if broadcast and smaller_first == "ValueError" and other_name == "InconsistentMessageReplies" else 1)
P
env/bin/python try.py 2> log || { code=$?; tail -n 5 log >&2; exit "$code"; }
! grep -iE "warn|broadcast" log
