"""The memory table of the guide to two-phase training, to its printed digit, beside what both phases take."""

from __future__ import annotations

from collections.abc import Iterator

from hybrid.loads import GuideTable
from pipelines.cvfp.shape import FLOAT, GUIDE, MIB, guide_memory, phase1_memory, phase2_memory

TOKENS, BATCH, WINDOW, PART, CHUNK = 100_000, 32, 16, 16_384, 2048


def tables() -> Iterator[GuideTable]:
    """Memory of 100,000 tokens."""
    guided = guide_memory(GUIDE, TOKENS)
    first = phase1_memory(GUIDE, TOKENS, PART)
    second = phase2_memory(GUIDE, BATCH, WINDOW, frozen=False, chunk=CHUNK)
    rows = [(name, f"{value:,.0f}") for name, value in guided.items()]
    rows += [(f"here, phase 1: {name}", f"{value:,.0f}") for name, value in first.items()]
    rows += [(f"here, phase 2: {name}", f"{value:,.0f}") for name, value in second.items()]
    rows.append(("missing there: all logits of phase 2, one copy", f"{FLOAT * TOKENS * GUIDE.vocabulary / MIB:,.0f}"))
    rows.append(("missing there: one matrix of all pairs", f"{FLOAT * TOKENS * TOKENS / MIB:,.0f}"))
    note = (
        f"{GUIDE.parameters:,} parameters; its activations are those of all tokens at once, though it has those of one"
    )
    yield GuideTable(f"cvfp: memory of {TOKENS:,} tokens at width {GUIDE.width}", ("row", "MiB"), tuple(rows), note)
