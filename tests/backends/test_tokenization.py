"""The tokenization worker: it ends with its parent process, however that ends, and ignores Ctrl-C."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping
from pathlib import Path
from types import SimpleNamespace

import pytest

from hybrid.backends.tuned import tokenization
from hybrid.backends.tuned.tokenization import TokenizationWorker, text_digest
from hybrid.canonical import Json
from hybrid.errors import Temporary
from hybrid.records import Example
from tests.support.in_thread import in_thread
from tests.support.processes import is_alive
from tests.support.small_hf_model import chatml, of_words, tuning, write_model

__all__ = ["in_thread"]
ROOT = Path(__file__).parents[2]
ASKS = """
import sys
from itertools import chain
from hybrid.backends.tuned.tokenization import TokenizationWorker
from tests.support.small_hf_model import of_words, tuning
from pathlib import Path
if __name__ == "__main__":
    worker = TokenizationWorker(Path(sys.argv[1]), of_words, 512, short=0)
    for line in chain(["first"], sys.stdin):
        how = tuning({"words": [line]})
        built = worker.tokenized([how], ahead=[])[how.digest]
        print(len(built.texts), *[process.pid for process in worker._pool._processes.values()], flush=True)
"""


FAULTS = """
import sys
import time
from contextlib import closing
from pathlib import Path
from hybrid.backends.tuned.tokenization import TokenizationWorker
from tests.support.small_hf_model import of_words, tuning

def slow(wanted):
    time.sleep(600 * (wanted["words"] == ["slow"]))
    return of_words(wanted)

if __name__ == "__main__":
    with closing(TokenizationWorker(Path(sys.argv[1]), slow, 512, short=0)) as worker:
        ahead = [tuning({"words": [word]}) for word in ("slow", "b", "c")]
        worker.tokenized([tuning({"words": ["quick"]})], ahead=ahead)
        time.sleep(0.5)
        raise ValueError("a fault")
"""


@pytest.fixture
def asking(tmp_path: Path) -> Iterator[subprocess.Popen[str]]:
    """A process that requests texts, once at the start and then for each line of stdin."""
    model = write_model(tmp_path / "model", chatml())
    (tmp_path / "asks.py").write_text(ASKS)
    command = [sys.executable, str(tmp_path / "asks.py"), str(model)]
    with subprocess.Popen(
        command,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
    ) as process:
        yield process
        process.kill()


@pytest.mark.slow
@pytest.mark.skipif(not Path("/proc").is_dir(), reason="needs a small file system: /proc")
def test_it_does_not_outlive_a_killed_asker_and_leaves_ctrl_c_to_it(asking: subprocess.Popen[str]) -> None:
    assert asking.stdin
    assert asking.stdout
    assert asking.stderr
    count, maker = map(int, asking.stdout.readline().split())
    assert count == 1
    os.kill(maker, signal.SIGINT)
    asking.stdin.write("again\n")
    asking.stdin.flush()
    assert asking.stdout.readline().split() == ["1", str(maker)]
    assert is_alive(maker)
    asking.kill()
    end = time.monotonic() + 240
    while is_alive(maker) and time.monotonic() < end:
        time.sleep(0.05)
    assert not is_alive(maker)
    assert "Traceback" not in asking.stderr.read()


@pytest.mark.slow
@pytest.mark.skipif(not Path("/proc").is_dir(), reason="needs a small file system: /proc")
def test_when_it_is_killed_the_asker_says_so(asking: subprocess.Popen[str]) -> None:
    assert asking.stdin
    assert asking.stdout
    assert asking.stderr
    _, maker = map(int, asking.stdout.readline().split())
    os.kill(maker, signal.SIGKILL)
    while is_alive(maker):
        time.sleep(0.05)
    time.sleep(0.5)  # between two groups: the pool knows it when the next text is asked for
    asking.stdin.write("again\n")
    asking.stdin.close()
    asking.stdout.read()
    assert "Temporary: the process that tokenizes training examples was killed" in asking.stderr.read()


@pytest.mark.slow
def test_a_faulted_asker_ends_at_once_whatever_is_tokenized_ahead(tmp_path: Path) -> None:
    """Python waits at its end for what a pool has begun."""
    (tmp_path / "faults.py").write_text(FAULTS)
    command = [sys.executable, str(tmp_path / "faults.py"), str(write_model(tmp_path / "model", chatml()))]
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=300, check=False)
    assert done.returncode == 1
    assert done.stderr.endswith("ValueError: a fault\n"), done.stderr


@pytest.mark.parametrize("short", [0, 60])
def test_texts_are_made_once_for_trainings_that_differ_in_the_rest_alone(
    in_thread: None, tmp_path: Path, short: float
) -> None:
    seen: list[Mapping[str, Json]] = []

    def examples(wanted: Mapping[str, Json]) -> list[Example]:
        seen.append(wanted)
        return of_words(wanted)

    worker = TokenizationWorker(write_model(tmp_path, chatml()), examples, 512, short)
    words: dict[str, Json] = {"words": ["red"]}
    same = [tuning(words), tuning(words, rank=8), tuning(words, epochs=5, learning_rate=1e-3)]
    other = tuning(words, learned="all")
    found = worker.tokenized(same, ahead=[other])
    assert len(found) == 3
    assert len({built.texts for built in found.values()}) == 1
    worker.tokenized([other], ahead=[])
    assert len(seen) == 2
    worker.tokenized(same[:1], ahead=[])
    assert len(seen) == 3  # what neither the last nor the next group needed was forgotten
    assert len({text_digest(one) for one in (*same, other)}) == 2
    worker.close()


def test_few_texts_are_tokenized_without_a_process_and_many_with_one(
    in_thread: None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    clock = [0.0]
    monkeypatch.setattr(tokenization, "time", SimpleNamespace(monotonic=lambda: clock[0]))

    def examples(wanted: Mapping[str, Json]) -> list[Example]:
        clock[0] += 0.2 * (wanted["words"] == ["long"])
        return of_words(wanted)

    worker = TokenizationWorker(write_model(tmp_path, chatml()), examples, 512, short=0.1)
    quick, long, after = (tuning({"words": [word]}) for word in ("quick", "long", "after"))
    worker.tokenized([quick], ahead=[long])
    assert worker._pool is None
    worker.tokenized([long], ahead=[after])
    assert worker._pool is not None
    assert list(worker._submitted) == [text_digest(after)]
    worker.close()


@pytest.mark.parametrize("short", [0, 60])
def test_examples_that_raise_are_an_error_of_the_run(in_thread: None, tmp_path: Path, short: float) -> None:
    def examples(wanted: Mapping[str, Json]) -> list[Example]:
        raise Temporary("the data went away")

    worker = TokenizationWorker(write_model(tmp_path, chatml()), examples, 512, short)
    with pytest.raises(Temporary, match="went away"):
        worker.tokenized([tuning({})], ahead=[])
    worker.close()
