"""The keys of the items of every stage of every pipeline, as they were written before stages had kinds of work.

A key names an item in the shards of existing runs. If one changes here, finished items of such runs are done anew: that
needs a reason, a line in CHANGELOG.md, and a higher version of the stage.
"""

from __future__ import annotations

import json
from typing import Any

import pytest

from hybrid.canonical import digest, encode
from hybrid.plugins.installed import load
from hybrid.records import Item
from hybrid.settings import build
from hybrid.tasks.arc.grid import grid_of
from hybrid.tasks.arc.text import FORMATS
from hybrid.tasks.arc.views import TRANSFORMS
from tests.support.stages_in_memory import run_stages

EDIT = json.dumps(
    {
        "data_generation": {f"use_{name}_augmentations": False for name in ("basic", "size", "chain", "repeat")},
        "training": {
            "strategy": "train_using_output_tokens",
            "learning_rate": 2e-4,
            "num_train_epochs": 1,
        },
    }
)

KNOWN: dict[str, dict[str, tuple[int, str, str]]] = {
    "prompts": {"answer": (36, "67e4e8b3d68e1154", "2080ca743ebccad1")},
    "qa-eval": {"answer": (12, "0c24c24556f74bbe", "a39c1f71bd6711b7")},
    "seal-eval": {"answer": (58, "aff09201f4049d88", "2c500b1a2229d660")},
    "seal-ttt": {"answer": (60, "78c846ef8a8c24ce", "6aee869030afbc8f")},
    "seal-self-edit": {
        "sample": (6, "2adb7d326ac97023", "b472607134987f99"),
        "answer": (24, "772678a6a0c04389", "a075f039a9648010"),
        "edits": (6, "388c00ac00010e46", "2066fc3907288f45"),
    },
    "seal-restem": {
        "sample-0": (8, "83f6aaba1a22a00a", "2bbabd9146b8f029"),
        "answer-0": (36, "29a0e66f9039b0e4", "968cc11a564f7b0f"),
        "edits-0": (8, "54bab505a7b2011b", "9def9663c39b3439"),
        "policy-1": (1, "fed328aca40265cf", "226171e14868a129"),
        "sample-1": (2, "3d877829d1a21ca2", "078aef3fa5643366"),
        "answer-1": (12, "c2f2a5cc668fb23e", "0b00c4a81f8fdebd"),
        "edits-1": (2, "1e2ba6f4e3e42ccf", "719326992e4f2eaa"),
        "curve": (10, "9bd130ffd015931a", "79ba64c92a8dadbe"),
    },
}
"""Pipeline -> stage -> number of items, first key, digest of all keys in the order of outputs.json (16 digits each)."""


def keys_of(name: str) -> dict[str, tuple[int, str, str]]:
    """What a model is made to say: self-edits that ask for training, and the right grid once it was trained."""
    pipeline: Any = build(load("pipelines", name), preset="demo")
    inputs = pipeline.inputs()

    def answer(item: Item) -> str:
        if item.question.startswith("policy-"):
            return encode({"adapter": digest(item.question)}).decode()
        if "transform" not in item.view:
            return EDIT
        truth = grid_of(inputs.references[item.question.partition("@")[0]])
        assert truth is not None
        shown = truth if item.request.tuning else ((0,),)
        return FORMATS[str(item.view["format"])].write(TRANSFORMS[str(item.view["transform"])](shown))

    done = run_stages(pipeline, inputs, answer)
    return {
        stage: (len(outputs), outputs[0].key[:16], digest([one.key for one in outputs])[:16])
        for stage, outputs in done.items()
    }


@pytest.mark.parametrize("name", sorted(KNOWN))
def test_the_items_of_existing_runs_keep_their_keys(name: str) -> None:
    found = keys_of(name)
    assert {stage: found[stage] for stage in KNOWN[name]} == KNOWN[name]
