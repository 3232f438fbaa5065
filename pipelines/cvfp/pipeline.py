"""Two-phase training of a recurrent model, beside the controls that tell what each phase is worth; docs/cvfp.md."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

from hybrid.canonical import Json
from hybrid.errors import BadData
from hybrid.loads import GuideTable, RoundsLoad
from hybrid.loops import Lab, Loop, Series, Tried
from hybrid.machine.late_imports import import_object
from hybrid.protocols import Inputs, Role, Stage
from hybrid.records import Output
from hybrid.work import Rounds
from pipelines.cvfp import guide
from pipelines.cvfp.corpus import refuse_unfit
from pipelines.cvfp.documents import read_documents
from pipelines.cvfp.settings import COUNTED, CvfpSettings, Variant

DATA = "data"
GPT2 = "openai-community/gpt2"
"""The model whose tokenizer and token vectors the guide takes; a folder that holds it does as well."""
NEEDED_FOR = "the pipeline cvfp"
MOST_TEXT = 256 * 1024 * 1024
"""Bytes of all documents: they are kept in the run."""


@dataclass(frozen=True)
class Cvfp(CvfpSettings):
    """Train contexts towards a fixed point, then the next token from them, and show what that is worth."""

    roles: ClassVar[Mapping[str, Role]] = {"": Role("", backend="none", model="none")}

    # fmt: off
    presets: ClassVar[Mapping[str, Mapping[str, object]]] = {
        "demo": {
            "variants": ["cvfp", "untrained-chaotic", "token-only", "end-to-end", "unigram", "bigram"],
            "documents": 60, "length": 64, "vocabulary": 1000, "width": 96, "layers": 3, "sweeps": 20, "epochs": 4,
        },
        "good": {"seeds": [0, 1, 2], "head": "context-and-token"},
        "ladder": {
            "variants": ["cvfp", "untrained", "token-only", "bigram"], "data": "ultrachat", "documents": 900,
            "tokenizer": GPT2, "embedding": GPT2, "width": 768, "layers": 6, "pieces": [50, 78, 195, 390, 781],
        },
        "guide": {
            "variants": ["guide", "untrained-chaotic", "unigram", "bigram"], "data": "ultrachat", "documents": 781,
            "tokenizer": GPT2, "embedding": GPT2, "width": 768, "layers": 6, "gain": 0.1, "sweeps": 10,
            "diversity": 0.5, "noise1": 0.01, "epochs": 10,
        },
    }
    # fmt: on

    def inputs(self) -> Inputs:
        """The documents, as they are now. Raises HybridError for files that cannot be read."""
        found = read_documents(self.data, self.held_out, self.documents)
        refuse_unfit(self, found)
        size = sum(len(text.encode()) for text in (*found.train, *found.held_out))
        if size > MOST_TEXT:
            raise BadData(f"{size:,} bytes of documents, {MOST_TEXT:,} are the most", hint="--set documents=1000, say")
        series: dict[str, Any] = {
            name: {"variant": variant, "seed": seed, "pieces": pieces}
            for pieces in self.pieces
            for variant in self.variants
            for seed in (self.seeds if variant not in COUNTED else self.seeds[:1])
            for name in [f"{variant}/" + (f"pieces-{pieces}/" if len(self.pieces) > 1 else "") + f"seed-{seed}"]
        }
        texts: dict[str, Json] = {"train": list(found.train), "held_out": list(found.held_out)}
        about = {
            "grader": "cvfp",
            "data": {
                "source": found.source, "digest": found.digest, "duplicates": found.duplicates, "empty": found.empty,
                "bytes": size,
                "documents": len(found.train), "held_out": len(found.held_out),
            },
        }  # fmt: skip
        return Inputs({**series, DATA: texts}, {}, about)

    def guide(self) -> Iterable[GuideTable]:
        """The guide's tables."""
        return guide.tables()

    def stages(self) -> tuple[Stage, ...]:
        """One stage of rounds: the sweeps of phase 1, then the epochs of phase 2."""
        return (Stage("rounds", "gpu", 7, Rounds(self._series, self._loop)),)

    def pages(self, tasks: Mapping[str, Any], outputs: Iterable[Output], models: Sequence[str]) -> Mapping[str, str]:
        """The tables beside outputs.json."""
        pages: Mapping[str, str] = import_object("pipelines.cvfp.exports:pages", needed_for=NEEDED_FOR)(outputs)
        return pages

    def foresee(self, stage: str, tasks: Mapping[str, Any]) -> RoundsLoad:
        """`hybrid.protocols.Planned`."""
        make = import_object("pipelines.cvfp.foreseen:foreseen_rounds", needed_for=NEEDED_FOR)
        load: RoundsLoad = make(self, {name: of for name, of in tasks.items() if name != DATA}, tasks[DATA]["train"])
        return load

    def try_state(self, tasks: Mapping[str, Any], series: Series, state: bytes, lab: Lab, prompt: str) -> Tried:
        """`hybrid.loops.TriesStates`."""
        try_it = import_object("pipelines.cvfp.trial:tried", needed_for=NEEDED_FOR)
        found: Tried = try_it(self, series, lab, tasks[DATA], state, prompt)
        return found

    def rounds_of(self, variant: Variant) -> tuple[int, int]:
        """The sweeps of phase 1 and the epochs of phase 2 of a variant; a counted one has one round."""
        if variant in COUNTED:
            return 0, 1
        first = self.sweeps if variant not in ("untrained", "untrained-chaotic", "token-only", "end-to-end") else 0
        return first, self.epochs

    def _series(self, tasks: Mapping[str, Any]) -> Iterator[Series]:
        for name, of in tasks.items():
            if name != DATA:
                yield Series(name, sum(self.rounds_of(of["variant"])), of)

    def _loop(self, series: Series, lab: Lab, tasks: Mapping[str, Any]) -> Loop:
        loop: Loop = import_object("pipelines.cvfp.loop:loop", needed_for=NEEDED_FOR)(self, series, lab, tasks[DATA])
        return loop
