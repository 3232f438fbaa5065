#!/bin/bash
# inspect-ai 0.3.285: the scorers `exact` and `f1` on answers that are letters, as those of multiple-choice questions are.
# Expected: the answer B is right where the target is B, and the answer A where it is A.
# Seen: articles are taken out of both texts, and A is one; a target of which nothing is left matches nothing. So with the target A
# every answer is wrong, A as well. Whoever answers all of 100 questions right, a quarter of whose answers are A, scores 0.75; the
# scorer `match`, which takes no articles out, gives 1.
# Exits 0 while it behaves so, 1 when it does not any more. Installs about 150 MB, takes seconds after that.
set -euo pipefail
work="$(mktemp -d)"
trap 'rm -rf "$work"' EXIT
cd "$work"
python3 -m venv env
env/bin/pip install --quiet --disable-pip-version-check inspect-ai==0.3.285
cat > try.py <<'P'
import asyncio
import sys
from importlib.metadata import version

from inspect_ai.model import ModelName, ModelOutput
from inspect_ai.scorer import Target, exact, f1, match, value_to_float
from inspect_ai.solver import TaskState

LETTERS = "ABCD" * 25


def answered(text):
    output = ModelOutput.from_content("none", text)
    return TaskState(ModelName("none/none"), sample_id=1, epoch=1, input="", messages=[], output=output)


async def mean(scorer):
    number = value_to_float()
    scores = [number((await scorer(answered(letter), Target(letter))).value) for letter in LETTERS]
    return sum(scores) / len(scores)


found = {name: asyncio.run(mean(scorer)) for name, scorer in (("exact", exact()), ("f1", f1()), ("match", match()))}
print(f"inspect-ai {version('inspect-ai')}: the score of an answer sheet without a mistake: {found}")
sys.exit(0 if found == {"exact": 0.75, "f1": 0.75, "match": 1.0} else 1)
P
env/bin/python try.py
