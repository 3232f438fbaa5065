"""The embedder `openai`: against llama.cpp's real server, and against one with one fault at a time."""

from __future__ import annotations

import json
import math
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("httpx", reason="needs httpx, which is not installed")

from hybrid.backends.registry import digest_before_loading, open_embedder
from hybrid.errors import CannotRun, Temporary
from hybrid.protocols import Embedder, Vector
from hybrid.records import Failure
from tests.support.faulty_openai import MODEL, Answer, FaultyOpenai, refused
from tests.support.in_process import Hybrid
from tests.support.llama_server import KEY, NAME, llama_server

TEXTS = ("A cat sleeps on the sofa.", "The stock market fell.", "été 水")


def vectors_of(*rows: Any, **more: Any) -> Answer:
    """A reply with these rows."""
    return Answer(200, json.dumps({"object": "list", "data": list(rows), **more}).encode())


def row(place: int, *numbers: Any) -> dict[str, Any]:
    return {"object": "embedding", "index": place, "embedding": list(numbers)}


def opened(server: FaultyOpenai, **options: str) -> Embedder:
    """The embedder; the first answer of the script was its question whether the server embeds at all."""
    return open_embedder("openai", MODEL, {"url": server.url, "patience": "1", **options})


GOOD = vectors_of(row(0, 3, 4))


# --- a real server


@pytest.fixture(scope="module")
def embedding_server(smollm2_gguf: Path) -> Iterator[str]:
    pytest.importorskip("xllamacpp", reason="needs xllamacpp, which is not installed")
    with llama_server(smollm2_gguf, embeds=True) as url:
        yield url


@pytest.mark.slow
def test_a_real_llama_server_gives_vectors_in_the_order_of_the_texts(
    embedding_server: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HYBRID_OPENAI_KEY", KEY)
    embedder = open_embedder("openai", NAME, {"url": embedding_server})
    found = list(embedder.embed(iter([*TEXTS, "word " * 3000, *reversed(TEXTS)])))
    long = found.pop(len(TEXTS))
    assert isinstance(long, Failure)
    assert long.kind == "too-long", long
    rows: list[Vector] = [one for one in found if isinstance(one, tuple)]
    assert len(rows) == 2 * len(TEXTS)
    assert all(abs(math.hypot(*one) - 1) < 1e-9 for one in rows)
    for one, other in zip(rows[: len(TEXTS)], reversed(rows[len(TEXTS) :]), strict=True):
        assert math.fsum(a * b for a, b in zip(one, other, strict=True)) > 0.999
    assert digest_before_loading("openai", NAME, {"url": embedding_server}, embeds=True) == embedder.model.digest


@pytest.mark.slow
def test_similarity_is_graded_by_the_vectors_of_a_server(
    embedding_server: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path, hybrid: Hybrid
) -> None:
    monkeypatch.setenv("HYBRID_OPENAI_KEY", KEY)
    answers = tmp_path / "answers.jsonl"
    answers.write_text('{"key":"1","task":"a","question":"a/1","text":"It was Rome.","reference":"Rome"}\n')
    asked = ["--grader", "similarity", "--set", "embedder=openai", "--set", "threshold=0.1", "--json"]
    nameless = hybrid("grade", answers, *asked)
    assert (nameless.code, "--set model=NAME" in nameless.stderr) == (2, True), nameless.stderr
    done = hybrid("grade", answers, *asked, "--set", f"model={NAME}", "--set", f"options=url={embedding_server}")
    assert done.code == 0, done.stderr
    assert json.loads(done.stdout)["summary"]["score"] == 1.0


@pytest.mark.slow
def test_a_real_llama_server_without_embeddings_is_refused(smollm2_gguf: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("xllamacpp", reason="needs xllamacpp, which is not installed")
    monkeypatch.setenv("HYBRID_OPENAI_KEY", KEY)
    with llama_server(smollm2_gguf) as url, pytest.raises(CannotRun, match="embeds no texts") as caught:
        open_embedder("openai", NAME, {"url": url})
    assert "--embeddings" in caught.value.hint


# --- a server that has faults


def test_vectors_are_put_in_the_order_of_the_texts_and_have_the_length_one() -> None:
    with FaultyOpenai([GOOD, vectors_of(row(1, 0, 2), row(0, 3, 4))]) as server:
        assert list(opened(server).embed(["a", "b"])) == [(0.6, 0.8), (0.0, 1.0)]
        (path, _, body) = server.heard[-2 if server.heard[-1][0].endswith("models") else -1]
    assert (path, body) == ("/v1/embeddings", {"model": MODEL, "input": ["a", "b"], "encoding_format": "float"})


@pytest.mark.parametrize(
    "fault",
    [
        vectors_of(),
        vectors_of(row(1, 3, 4)),
        vectors_of(row(0, 3, 4), row(0, 3, 4), row(2, 3, 4)),
        vectors_of(row(0, "3", 4)),
        vectors_of(row(0, 3, 4, 5)),
        vectors_of({"index": 0}),
        Answer(200, b"[]"),
        Answer(200, b'{"data": [{"index": 0, "embedding": [NaN, 1.0]}]}'),
        refused(429, "slow down"),
    ],
    ids=["none", "place", "places", "texts", "dimensions", "no-vector", "list", "NaN", "busy"],
)  # fmt: skip
def test_what_is_no_vector_is_asked_for_again(fault: Answer) -> None:
    with FaultyOpenai([GOOD, GOOD, fault, GOOD]) as server:
        embedder = opened(server)
        assert list(embedder.embed(["a"])) == list(embedder.embed(["a"])) == [(0.6, 0.8)]


def test_the_text_that_is_too_long_fails_alone() -> None:
    long = refused(500, "input (600 tokens) is too large to process. increase the physical batch size")
    with FaultyOpenai([GOOD, long, GOOD, long]) as server:
        good, bad = opened(server, parallel="1").embed(["a", "b" * 1000])
    assert good == (0.6, 0.8)
    assert isinstance(bad, Failure)
    assert bad.kind == "too-long"


def test_a_server_that_embeds_nothing_or_never_a_vector_is_told() -> None:
    with FaultyOpenai([refused(501, "This server does not support embeddings.")]) as server:
        with pytest.raises(CannotRun, match="embeds no texts with 'faulty': This server does not support"):
            opened(server)
        server.script = [GOOD, vectors_of()]
        with pytest.raises(Temporary, match="has stopped embedding"):
            list(opened(server).embed(["a"]))
        server.script = [refused(401, "no key")]
        with pytest.raises(CannotRun, match="no key"):
            opened(server)
