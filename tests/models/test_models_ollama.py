"""A real model goes from one real Ollama server through the folder to another; the commands are killed at any time."""

from __future__ import annotations

import os
import random
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from hybrid.folder.runs import join_folder
from hybrid.models import catalog
from hybrid.models.manifest import read_models
from hybrid.models.ollama_store import STAGING
from tests.support.ollama_server import OllamaServer
from tests.support.packed_models import files_of, ignore_progress

pytestmark = pytest.mark.slow

HELLO = {"messages": [{"role": "user", "content": "Say hello."}], "stream": False, "options": {"num_predict": 8}}
RUN = "import sys; from hybrid.commands.models import models; models(sys.argv[1:])"


def typed(*arguments: str | Path) -> subprocess.Popen[str]:
    """`hybrid models ARGUMENTS` as a process of its own."""
    command = [sys.executable, "-c", RUN, *map(str, arguments)]
    return subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)


def ended(*arguments: str | Path) -> str:
    """The output of a process that must succeed."""
    process = typed(*arguments)
    said, wrong = process.communicate(timeout=300)
    assert process.returncode == 0, wrong
    return said


@pytest.fixture
def other(ollama_binary: Path, tmp_path: Path) -> Iterator[OllamaServer]:
    """Another machine's server, with an empty store."""
    server = OllamaServer(ollama_binary, tmp_path / "other")
    server.root.mkdir()
    server.start()
    yield server
    server.stop()


@pytest.fixture(scope="module")
def folder(ollama_server: OllamaServer, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A shared folder with the model of that server, and a second model on the same weights."""
    root = tmp_path_factory.mktemp("shared") / "folder"
    join_folder(root, make=True)
    ollama_server.create("brief", Path(ollama_server.model), "SYSTEM Be brief.", "PARAMETER temperature 0")
    for name in (ollama_server.model, "brief"):
        ended("pack", name, "--store", ollama_server.store, "--folder", root)
    ollama_server.cli("rm", "brief")
    return root


def test_a_restored_model_has_the_same_digest_and_answers(folder: Path, other: OllamaServer) -> None:
    models = {model.name: model for model in read_models(join_folder(folder, make=False))[0]}
    assert set(models) == {"smollm2:latest", "brief:latest"}
    weights = [max(layer.size for layer in model.layers) for model in models.values()]
    assert sum(path.stat().st_size for path in (folder / "models" / "layers").rglob("*.bin")) < 1.1 * weights[0]
    for name in models:
        assert ended("restore", name, "--store", other.store, "--folder", folder) == f"{name}\n"
    assert other.models() == {name: model.digest for name, model in models.items()}
    assert {line.split()[1] for line in other.cli("list").splitlines()[1:]} == {
        model.digest[:12] for model in models.values()
    }
    for name in models:
        assert other.api("/api/chat", {"model": name, **HELLO})["message"]["content"].strip()


def test_a_restored_model_survives_a_start_of_the_server_that_prunes(folder: Path, other: OllamaServer) -> None:
    other.stop()
    ended("restore", "brief", "--store", other.store, "--folder", folder, "--as", "me/Short:v1")
    for path in other.store.rglob("*"):
        os.utime(path, (0, 0))
    (other.store / "blobs" / ("sha256-" + "0" * 64)).write_bytes(b"orphan")
    os.utime(other.store / "blobs" / ("sha256-" + "0" * 64), (0, 0))
    other.start()
    assert not (other.store / "blobs" / ("sha256-" + "0" * 64)).exists(), "it did prune"
    assert list(other.models()) == ["me/Short:v1"]
    assert other.api("/api/chat", {"model": "me/Short:v1", **HELLO})["message"]["content"].strip()


def kills(seed: int) -> Iterator[float]:
    """Seconds after which a command is killed, over its whole duration; at last it may finish."""
    generator = random.Random(seed)
    return (generator.uniform(0.2, 1.2) for _ in range(12))


def test_a_restore_that_is_killed_again_and_again_ends_whole(folder: Path, other: OllamaServer) -> None:
    killed = 0
    for seconds in kills(1):
        process = typed("restore", "smollm2", "--store", other.store, "--folder", folder)
        time.sleep(seconds)
        process.send_signal(signal.SIGKILL)
        process.communicate()
        killed += process.returncode == -signal.SIGKILL
        if other.models():  # whatever is listed is whole
            assert other.api("/api/chat", {"model": "smollm2", **HELLO})["done"]
            for path in other.store.glob("manifests/*/*/*/*"):
                path.unlink()
            shutil.rmtree(other.store / "blobs")
            (other.store / "blobs").mkdir()
    ended("restore", "smollm2", "--store", other.store, "--folder", folder)
    assert killed
    assert not (other.store / STAGING).exists()
    assert other.api("/api/chat", {"model": "smollm2", **HELLO})["message"]["content"].strip()
    print(f"{killed} kills")


def test_a_pack_that_is_killed_again_and_again_ends_whole(
    folder: Path, ollama_server: OllamaServer, tmp_path: Path
) -> None:
    root, killed = tmp_path / "folder", 0
    place = join_folder(root, make=True)
    for seconds in kills(2):
        process = typed("pack", "smollm2", "--store", ollama_server.store, "--folder", root)
        time.sleep(seconds)
        process.send_signal(signal.SIGKILL)
        process.communicate()
        killed += process.returncode == -signal.SIGKILL
        models, _ = read_models(place)
        if models:
            assert catalog.check(place, models, ignore_progress) == []
            shutil.rmtree(root / "models")
    ended("pack", "smollm2", "--store", ollama_server.store, "--folder", root)
    assert killed
    there = files_of(folder / "models")
    assert files_of(root / "models").items() <= there.items()
    print(f"{killed} kills")


def test_two_restores_at_once_are_one_model(folder: Path, other: OllamaServer) -> None:
    both = [typed("restore", "smollm2", "--store", other.store, "--folder", folder) for _ in range(2)]
    for process in both:
        process.communicate(timeout=300)
    assert 0 in [process.returncode for process in both]
    assert other.api("/api/chat", {"model": "smollm2", **HELLO})["message"]["content"].strip()


def test_an_embedding_model_of_a_folder_travels_too(
    ollama_server: OllamaServer, ollama_embedder: str, other: OllamaServer, tmp_path: Path
) -> None:
    root = tmp_path / "folder"
    join_folder(root, make=True)
    ended("pack", ollama_embedder, "--store", ollama_server.store, "--folder", root)
    ended("restore", ollama_embedder, "--store", other.store, "--folder", root)
    body = {"model": ollama_embedder, "input": ["a cat", "a dog"]}
    assert other.models() == {
        name: digest for name, digest in ollama_server.models().items() if name.startswith(ollama_embedder)
    }
    assert other.api("/api/embed", body)["embeddings"] == ollama_server.api("/api/embed", body)["embeddings"]
