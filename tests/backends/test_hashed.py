"""The embedder without a model: the same floats everywhere, near for texts that are spelt alike."""

from __future__ import annotations

import hashlib
import math
import struct

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from graders.similarity import Similarity
from hybrid.backends.hashed import LONGEST
from hybrid.backends.registry import open_embedder
from hybrid.errors import CannotRun, UsageError
from hybrid.progress import SilentProgress
from hybrid.protocols import Vector
from hybrid.records import Failure, Output

TEXTS = ("The rain had not stopped for three days.", "", "été 水 \x00", "A detective on Mars finds a letter.\n" * 9)


def vectors(*texts: str) -> list[Vector]:
    found = list(open_embedder("hashed", "", {}).embed(iter(texts)))
    return [one for one in found if isinstance(one, tuple)]


def cosine(one: Vector, other: Vector) -> float:
    return math.fsum(a * b for a, b in zip(one, other, strict=True))


def test_the_floats_are_the_same_on_every_machine() -> None:
    """The bytes of these vectors are part of the model `ngrams`: where they change, its version must."""
    joined = b"".join(struct.pack("<384d", *vector) for vector in vectors(*TEXTS))
    assert hashlib.sha256(joined).hexdigest() == "362a4ca9d588bc9668b8d856025e2730793836d8ef594e5c0aa3f7056d4a6a78"
    model = open_embedder("hashed", "ngrams", {}).model
    assert (model.name, model.about["dimensions"], model.about["engine"]) == ("ngrams", 384, "hashed")
    assert model.digest == "81de2056ced050a25c0181a7762480d5eccddf16abcf111e2602f45bcd7a1714"


@settings(max_examples=50, deadline=None)
@given(st.text(max_size=50))
def test_every_text_has_a_vector_of_length_one(text: str) -> None:
    (vector,) = vectors(text)
    assert len(vector) == 384
    assert math.hypot(*vector) == pytest.approx(1, abs=1e-12)
    assert vectors(f"  {text}\n") == [vector] or not text.split()


def test_texts_that_are_spelt_alike_are_near() -> None:
    first, typo, capitals, other = vectors(
        "The rain had not stopped for three days.",
        "The rain had not stoped for three days.",
        "THE RAIN  HAD NOT STOPPED FOR THREE DAYS.",
        "A detective on Mars finds an old letter.",
    )
    assert cosine(first, capitals) == pytest.approx(1)
    assert cosine(first, typo) > 0.8
    assert cosine(first, other) < 0.5


def test_a_text_that_is_too_long_and_an_unpaired_surrogate_lose_no_neighbour() -> None:
    found = list(open_embedder("hashed", "", {}).embed(["a", "b" * (LONGEST + 1), "\ud800"]))
    assert [type(one) for one in found] == [tuple, Failure, tuple]
    assert found[2:] == vectors("?")


def test_another_model_or_option_is_refused() -> None:
    with pytest.raises(CannotRun, match="has no model 'minilm'"):
        open_embedder("hashed", "minilm", {})
    with pytest.raises(UsageError, match="no option"):
        open_embedder("hashed", "", {"batch": "1"})


def test_answers_can_be_graded_by_it(tmp_path: object, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HYBRID_HOME", str(tmp_path))
    said = {"The rain stopped.": 1.0, "Nothing of that kind": 0.0}
    outputs = [
        Output(text, "t", f"t/{text}", {}, 0, text=text, error=None, reference="The rain has stopped.") for text in said
    ]
    with Similarity(embedder="hashed", threshold=0.5).ready(outputs, SilentProgress()) as ready:
        assert [ready.grade(output).score for output in outputs] == list(said.values())
