"""What this machine has: backends, the default model, a GPU, and files on its own disk that wait for the other side."""

from __future__ import annotations

import importlib.util
import platform
import shutil
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from hybrid.backends.registry import BACKENDS, DEFAULT_MODEL, EMBEDDERS
from hybrid.doctor.findings import Finding
from hybrid.errors import HybridError
from hybrid.folder.medium import Disk, Medium
from hybrid.folder.runs import open_run, run_ids
from hybrid.folder.spec import models_of
from hybrid.folder.spool import is_shard, walk
from hybrid.laptop.receiver import acknowledged, whole
from hybrid.machine import home, nvidia
from hybrid.machine.late_imports import EXTRA_OF, import_object
from hybrid.machine.nvidia import Gpu
from hybrid.machine.terminal import count_of
from hybrid.model_files.location import locate
from hybrid.plugins import installed

LIBRARIES: Mapping[str, tuple[str, ...]] = {
    "llamacpp": ("xllamacpp",),
    "transformers": ("torch", "transformers"),
    "vllm": ("vllm",),
    "ollama": ("httpx", "ollama"),
    "openai": ("httpx",),
    "sentence-transformers": ("torch", "sentence_transformers"),
}
"""Backend or embedder -> the libraries it imports; a backend that is not listed needs none besides hybrid."""


NEWEST_CUDA = "13"
"""The major version of CUDA that current torch is built for."""


def missing_libraries(backend: str) -> list[str]:
    """The libraries of a backend that are not installed here. Imports nothing."""
    return [name for name in LIBRARIES.get(backend, ()) if importlib.util.find_spec(name) is None]


def backend_findings() -> Iterator[Finding]:
    """Which backends are installed here, the default model, the Ollama server, and the GPU."""
    for what in (*(f"backend {name}" for name in BACKENDS), *(f"embedder {name}" for name in EMBEDDERS)):
        missing = missing_libraries(what.split()[1])
        if missing:
            do = f"to use it: pip install '.[{EXTRA_OF[missing[0]]}]' in the checkout"
            yield Finding("machine", "", f"{what}: needs {', '.join(missing)}, not installed", do)
        else:
            yield Finding("machine", "", f"{what}: installed")
    try:
        yield Finding("machine", "", f"default model {DEFAULT_MODEL}: {locate(DEFAULT_MODEL)}")
    except HybridError as error:
        yield Finding("machine", "", f"default model {DEFAULT_MODEL}: {error.message}", error.hint)
    found = nvidia.gpus()
    if not missing_libraries("ollama"):
        yield from _ollama(found)
    yield from _gpus(found)


def _ollama(found: Sequence[Gpu]) -> Iterator[Finding]:
    """The state of the server that the backend `ollama` would use. Takes a few seconds at most."""
    diagnose = import_object("hybrid.backends.ollama.diagnosis:diagnose", needed_for="asking Ollama")
    free = ((found[0].memory_total or 0) - (found[0].memory_used or 0)) << 20 if found else 0
    for what, do in diagnose(free):
        yield Finding("machine", "", what, do)


def _gpus(found: Sequence[Gpu]) -> Iterator[Finding]:
    for gpu in found:
        used = "" if gpu.memory_total is None else f", {gpu.memory_used or 0:,} of {gpu.memory_total:,} MiB in use"
        yield Finding("machine", "", f"GPU: {gpu}{used}", "; ".join(_limits(gpu)))
    if found:
        return
    if shutil.which("nvidia-smi"):
        yield Finding("machine", "", "GPU: nvidia-smi is here and lists none", "is the driver well?")
    elif platform.system() == "Darwin" and platform.machine() == "arm64":
        yield Finding("machine", "", "GPU: Apple silicon")
    else:
        yield Finding("machine", "", "GPU: none, there is no nvidia-smi")


def _limits(gpu: Gpu) -> Iterator[str]:
    """What keeps current torch and vLLM from a GPU."""
    if gpu.too_old():
        yield "current torch and vLLM have no code for it: rent a T4 or newer (Kaggle: GPU T4 x2)"
    if gpu.driver_too_old(NEWEST_CUDA):
        oldest = nvidia.MIN_DRIVER[int(NEWEST_CUDA)]
        yield f"torch for CUDA {NEWEST_CUDA} needs driver {oldest} or newer: update it, or install torch for CUDA 12"
    if nvidia.hidden():
        yield "CUDA_VISIBLE_DEVICES hides it"


def runs_impossible_here(folder: Medium) -> Iterator[Finding]:
    """The runs of the folder that this machine cannot do, and what is missing."""
    pipelines = installed.names("pipelines")
    try:
        runs = run_ids(folder)
    except HybridError:
        return  # the walk reports it
    for run in runs:
        try:
            spec: Mapping[str, Any] = open_run(folder, run).spec
        except (HybridError, RecursionError):
            continue  # the walk reports it
        for reason in _lacking(spec, pipelines):
            yield Finding("cannot-do", f"runs/{run}", reason, "another machine may do it")


def _lacking(spec: Mapping[str, Any], pipelines: Mapping[str, object]) -> Iterator[str]:
    if spec["pipeline"] not in pipelines:
        yield f"its pipeline '{spec['pipeline']:.100}' is not installed here"
    for backend in sorted({model.backend for model in models_of(spec).values()}):
        if backend not in BACKENDS and backend not in EMBEDDERS:
            yield f"its backend '{backend:.100}' is unknown to this hybrid"
        elif missing := missing_libraries(backend):
            yield f"its backend '{backend}' needs {', '.join(missing)}"


def waiting_in_spool(root: Path) -> Iterator[Finding]:
    """The shards that a worker on this machine keeps until a laptop has acknowledged them."""
    place = home.spool_of(root)
    if not place.is_dir():
        return
    try:
        paths = [path for path in walk(Disk(place), "runs") if is_shard(path)]
    except HybridError as error:
        yield Finding("spool", "", f"cannot be read: {error.message}", error.hint)
        return
    if paths:
        do = "a worker here carries them on; `hybrid fetch` on the laptop acknowledges them"
        yield Finding("spool", "", f"{count_of(len(paths), 'shard')} that no laptop has acknowledged, in {place}", do)


def damaged_copies(root: Path) -> Iterator[Finding]:
    """The received shards whose copies on this machine are damaged or gone."""
    store = Disk(home.received_of(root))
    try:
        name = home.machine_name()
        for entry in store.entries("runs"):
            copies = {path for path in walk(store, f"runs/{entry.name}") if is_shard(path)}
            for path in sorted(copies | acknowledged(store, entry.name, name)):
                if not whole(store, path):
                    do = f"`hybrid fetch {entry.name}` takes it over again while the folder has it"
                    yield Finding("received", path, f"its copy in {store} is damaged or gone", do)
    except HybridError as error:
        yield Finding("received", "", f"cannot be read: {error.message}", error.hint)
