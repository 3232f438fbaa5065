"""Seconds to pack a model into the shared folder and to restore it, compared with `cp` and `sha256sum`.

The model is an Ollama store with one large layer: random bytes, or a given file. Everything is on one disk and in the
page cache, so that only our own work is measured. Pack and restore sync each part to disk and `cp` does not, so a
second figure is `cp`, `sync` and OpenSSL's sha256 in one thread, the fastest on a machine.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import os
import subprocess
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

from hybrid.folder.runs import join_folder
from hybrid.models.manifest import Model
from hybrid.models.names import OllamaName
from hybrid.models.ollama_store import OllamaStore
from hybrid.models.packing import ollama_source, pack
from hybrid.models.restoring import restore_ollama

GOAL = 0.9
"""Our bytes per second / those of `cp` followed by `sha256sum`, at least."""
NAME = OllamaName.parse("bench")
PIECE = 16 * 1024 * 1024


def made(path: Path, size: int) -> None:
    """Write a file of incompressible bytes."""
    with path.open("wb") as file:
        for start in range(0, size, PIECE):
            file.write(os.urandom(min(PIECE, size - start)))


def store_of(root: Path, file: Path) -> OllamaStore:
    """A store with one model, whose only large layer is `file`."""
    store = OllamaStore(root)
    (root / "blobs").mkdir(parents=True)
    config = b'{"model_format":"gguf"}'
    with file.open("rb") as stream:
        sha256 = hashlib.file_digest(stream, "sha256").hexdigest()
    store.root.joinpath("blobs", f"sha256-{sha256}").symlink_to(file)
    small = hashlib.sha256(config).hexdigest()
    store.blob(small).write_bytes(config)
    layers = [{"mediaType": "application/vnd.ollama.image.model", "digest": f"sha256:{sha256}"}]
    manifest = {
        "schemaVersion": 2,
        "config": {"digest": f"sha256:{small}", "size": len(config)},
        "layers": [{**layer, "size": file.stat().st_size} for layer in layers],
    }
    path = store.manifest_path(NAME)
    path.parent.mkdir(parents=True)
    path.write_text(json.dumps(manifest))
    return store


def seconds(work: Callable[[], object], memory: int) -> float:
    """Seconds of some work. Its memory is allocated before, since the first allocation is slow on a virtual machine."""
    os.sync()
    bytearray(memory)[::4096] = b"x" * len(range(0, memory, 4096))
    start = time.perf_counter()
    work()
    return time.perf_counter() - start


def copied(file: Path, to: Path) -> None:
    subprocess.run(["cp", file, to], check=True)
    subprocess.run(["sha256sum", to], check=True, stdout=subprocess.DEVNULL)


def copied_to_disk(file: Path, to: Path) -> None:
    subprocess.run(["cp", file, to], check=True)
    subprocess.run(["sync", to], check=True)
    with to.open("rb") as stream:
        hashlib.file_digest(stream, "sha256")


def measured(place: Path, file: Path) -> dict[str, float]:
    """Seconds of each operation, the best of three rounds. Output is removed before the next operation starts."""
    source, size = store_of(place / "store", file), file.stat().st_size
    best: dict[str, float] = {}
    for turn in range(3):
        folder, other = join_folder(place / f"folder{turn}", make=True), OllamaStore(place / f"other{turn}")
        found, packed = ollama_source(source, NAME), list[Model]()
        ways: dict[str, Callable[[], object]] = {
            "peer": lambda: copied(file, place / "copy"),
            "to_disk": lambda: copied_to_disk(file, place / "copy"),
            "pack": lambda: packed.append(pack(folder, found, lambda _: None)),  # noqa: B023
            "restore": lambda: restore_ollama(folder, packed[0], other, NAME, lambda _: None),  # noqa: B023
        }
        for name, work in ways.items():
            took = seconds(work, 2 * size)
            best[name] = min(took, best.get(name, took))
            (place / "copy").unlink(missing_ok=True)
        subprocess.run(["rm", "-r", str(folder), other.root], check=True)
    return best


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("file", nargs="?", type=Path, help="a large file, such as a GGUF [one is made]")
    parser.add_argument("--megabytes", type=int, default=1024)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as root:
        file = options.file.resolve() if options.file else Path(root, "large")
        if not options.file:
            made(file, options.megabytes * 1024 * 1024)
        size = file.stat().st_size
        took = measured(Path(root), file)
    for name, words in (("peer", "cp and sha256sum"), ("to_disk", "cp, sync, OpenSSL"), ("pack", ""), ("restore", "")):
        print(f"{words or name}: {took[name]:.2f} s, {size / took[name] / 1e6:.0f} MB/s")
    ratio = took["peer"] / max(took["pack"], took["restore"])
    result = {
        "name": "models",
        "peer": "cp and sha256sum of the same bytes",
        "bytes": size,
        **{f"{name}_s": round(value, 3) for name, value in took.items()},
        "pack_ratio": round(took["peer"] / took["pack"], 2),
        "restore_ratio": round(took["peer"] / took["restore"], 2),
        "to_disk_ratio": round(took["to_disk"] / max(took["pack"], took["restore"]), 2),
        "ratio": round(ratio, 2),
        "goal": GOAL,
        "met": ratio >= GOAL,
    }
    print(json.dumps(result))


if __name__ == "__main__":
    main()
