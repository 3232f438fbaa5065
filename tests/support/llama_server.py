"""llama.cpp's own HTTP server in a process of its own, as a user starts `llama-server`: the one in xllamacpp.

python -m tests.support.llama_server MODEL PORT KEY SLOTS NAME EMBEDS: serves until its standard input ends.
"""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from tests.support.ports import free_port

KEY = "the-key-of-this-test"
NAME = "small"
CONTEXT = 2048
READY_SECONDS = 120.0


@contextmanager
def llama_server(model: Path, *, key: str = KEY, slots: int = 1, embeds: bool = False) -> Iterator[str]:
    """The address of a server with `model` as `small`; it ends with the block, or with this process.

    One that `embeds` gives vectors instead of answers.
    """
    port = free_port()
    command = [sys.executable, "-m", __name__, str(model), str(port), key, str(slots), NAME, "embeds" * embeds]
    process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE)
    assert process.stdin is not None
    assert process.stdout is not None
    try:
        assert process.stdout.readline() == b"ready\n", "llama.cpp's server did not start"
        yield f"http://127.0.0.1:{port}"
    finally:
        process.stdin.close()
        process.stdout.close()
        try:
            process.wait(READY_SECONDS)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()


def main(model: str, port: str, key: str, slots: str, name: str, embeds: str) -> None:
    """Serve `model` until the standard input ends."""
    import xllamacpp

    params = xllamacpp.CommonParams()
    params.model.path = model
    params.model_alias = {name}
    params.port, params.api_keys = int(port), [key] if key else []
    params.n_parallel, params.n_ctx = int(slots), CONTEXT * int(slots)
    params.cpuparams.n_threads, params.warmup, params.verbosity, params.ctx_shift = 1, False, 0, False
    if embeds:
        params.embedding, params.pooling_type = True, xllamacpp.llama_pooling_type.LLAMA_POOLING_TYPE_MEAN
    server = xllamacpp.Server(params)
    print("ready", flush=True)
    sys.stdin.read()
    del server


if __name__ == "__main__":
    main(*sys.argv[1:])
