"""What both phases take and compute, from the settings and the bytes of the documents."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from hybrid.loads import RoundsLoad
from pipelines.cvfp.settings import BYTES, COUNTED, TRAINED, CvfpSettings, Variant
from pipelines.cvfp.shape import MIB, Shape, phase1_memory, phase2_memory

BYTES_A_TOKEN = {BYTES: 1.0}
"""Bytes of text of a token, by tokenizer; of byte pairs about four."""
CHUNK_NUMBERS = 1 << 27
"""Logits of a chunk on a GPU (`hybrid.training.label_loss`)."""
OWN_VOCABULARY = 50_257
"""Words of a model's own tokenizer, where it is named: GPT-2's."""


def foreseen_rounds(settings: CvfpSettings, tasks: Mapping[str, Any], texts: Sequence[str]) -> RoundsLoad:
    """The load of all series: the memory of the largest, and the operations of all."""
    how = settings
    written = sum(len(text.encode()) for text in texts)
    own = how.tokenizer not in (TRAINED, BYTES)
    words = OWN_VOCABULARY if own else 256 if how.tokenizer == BYTES else how.vocabulary
    whole = int(written / BYTES_A_TOKEN.get(how.tokenizer, 4.0)) // how.length * how.length
    shape = Shape(words, how.width, how.layers, how.tied, how.head != "token")
    operations, rounds = 0.0, 0
    most = 1
    for of in tasks.values():
        tokens = min(whole, of["pieces"] * how.length) if of["pieces"] else whole
        sweeps, epochs = _rounds(how, of["variant"])
        rounds += sweeps + epochs
        if of["variant"] in COUNTED:
            continue
        most = max(most, tokens)
        operations += 6.0 * tokens * (sweeps * shape.blocks + epochs * (shape.blocks + shape.vocabulary * shape.read))
    chunk = max(16, CHUNK_NUMBERS // shape.vocabulary)
    first = phase1_memory(shape, most, min(how.part, most))
    second = phase2_memory(shape, how.batch, how.window, frozen=how.freeze_context, chunk=chunk)
    larger = max((first, second), key=lambda one: one["total"])
    memory = {name: int(size * MIB) for name, size in larger.items() if name != "total"}
    return RoundsLoad(rounds, memory=memory, operations=operations)


def _rounds(settings: CvfpSettings, variant: Variant) -> tuple[int, int]:
    of: Any = settings
    sweeps, epochs = of.rounds_of(variant)
    return int(sweeps), int(epochs)
