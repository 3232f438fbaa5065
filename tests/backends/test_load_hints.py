"""A model that does not load: the hint fits what is wrong with it."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest

from hybrid.backends.load_hints import VLLM, VLLM_ELSE, VLLM_SAMPLER, VLLM_SAMPLER_ELSE, cannot_load, reason_of, stopped
from hybrid.backends.registry import open_backend
from hybrid.errors import CannotRun, HybridError, Temporary

CONTEXT = (
    "1 validation error for ModelConfig\n  Value error, User-specified max_model_len (100000) is greater than the "
    "derived max_model_len (max_position_embeddings=256.0). [type=value_error, input_value=ArgsKwargs((), {})]\n    For"
)


@pytest.mark.parametrize(
    ("said", "hint"),
    [
        (CONTEXT, "context=N of at most what the model was made for"),
        ("CUDA out of memory. Tried to allocate 2.00 GiB", "context=4096"),
        ("Free memory on device (3.1/80 GiB) is less than desired GPU memory utilization (0.9, 72 GiB).", "memory="),
        ("To serve one request with the max seq len (131072), 4 GiB KV cache is needed", "context=4096"),
        ("Transformers does not recognize this architecture.", "--backend transformers"),
        ("Model architectures ['Odd'] are not supported for now.", "--backend transformers"),
        ("Failed to infer device type, please set the environment variable", "sees no GPU"),
        ("Bfloat16 is only supported on GPUs with compute capability of at least 8.0.", "dtype=float16"),
        ("Following weights were not initialized from checkpoint: {'model.norm.weight'}", "fetch the model again"),
        ("OddForCausalLM does not support LoRA yet.", "loras=N"),
        ("Total number of attention heads (9) must be divisible by tensor parallel size (2).", "gpus=N"),
        ("Unsupported CPU attention configuration: head_dim=16 isa=2 kv_cache_idx=0", "heads of this size"),
        ("Please pass the argument `trust_remote_code=True`", "never run"),
        ("Engine core initialization failed. See root cause above.", "stands above"),
        ("CuMem allocator can only be used for one instance per process.", "sleep=false"),
        ("Sleep mode is not supported on current platform.", "sleep=false"),
        ("what nobody has seen", VLLM_ELSE),
        ("/models/lora-tokenizer: what nobody has seen", VLLM_ELSE),
    ],
)  # fmt: skip
def test_the_hint_is_about_what_vllm_says(said: str, hint: str) -> None:
    error = cannot_load("vLLM", "/models/lora-tokenizer", reason_of(RuntimeError(said)), VLLM, VLLM_ELSE)
    assert hint in error.hint
    assert len(error.message) < 600


@pytest.mark.parametrize(
    ("said", "hint"),
    [
        ("CUDA out of memory. Tried to allocate 2.00 GiB", "smaller memory=N"),
        ("CUDA out of memory. Tried to allocate 2.00 GiB for the KV cache", "smaller memory=N"),
        ("4.0 GiB KV cache is needed, which is larger than the available KV cache memory (1.0 GiB)", "larger memory=N"),
        ("No available memory for the cache blocks", "on a CPU a larger VLLM_CPU_KVCACHE_SPACE=N"),
        (
            "Available memory on node 0 (0.5/4 GiB) on kv cache allocation is less than requested memory for kv",
            "on a CPU a smaller VLLM_CPU_KVCACHE_SPACE=N",
        ),
        (
            "Free memory on device (3.1/80 GiB) is less than desired GPU memory utilization (0.9, 72 GiB).",
            "smaller memory=N",
        ),
        ("No available memory for the cache blocks. Try increasing `gpu_memory_utilization`", "larger memory=N"),
        ("OddForCausalLM does not support LoRA yet.", "takes no adapters for this model"),
        ("what nobody has seen", VLLM_SAMPLER_ELSE),
    ],
)
def test_vllm_beside_the_trainer_is_given_less_memory_and_no_options_of_another_backend(said: str, hint: str) -> None:
    error = cannot_load("vLLM", "/models/m", reason_of(RuntimeError(said)), VLLM_SAMPLER, VLLM_SAMPLER_ELSE)
    assert hint in error.hint
    assert not [name for name in ("loras=", "lora_rank=", "0.95", "0.8") if name in error.hint]


TOO_WIDE = "out of resource: shared memory, Required: 98304, Hardware limit: 65536. Reducing block sizes may help."


def stopped_vllm(error: Exception) -> HybridError:
    return stopped("vLLM", error, VLLM, VLLM_ELSE, again="rows=64")


@pytest.mark.parametrize(
    "error",
    [
        RuntimeError("Unsupported CPU attention configuration: head_dim=16 isa=2 kv_cache_idx=0"),
        ValueError("Head size 80 is not supported by PagedAttention."),
        RuntimeError("CUDA error: no kernel image is available for execution on the device"),
        NotImplementedError("this layer"),
        type("OutOfResources", (Exception,), {})(TOO_WIDE),
        ValueError("LoRA rank 16 is greater than max_lora_rank 8."),
        AssertionError(),
    ],
)
def test_an_error_that_would_come_again_is_no_reason_to_run_again(error: Exception) -> None:
    said = stopped_vllm(error)
    assert isinstance(said, CannotRun)
    assert "vLLM cannot compute with this model here" in said.message
    assert "--backend transformers" in said.hint or "lora_rank=N" in said.hint


def test_heads_that_are_too_wide_for_a_gpu_are_called_that() -> None:
    error = type("OutOfResources", (Exception,), {})(TOO_WIDE)
    hint = "this model's heads are too wide for this GPU: --backend transformers"
    assert (stopped_vllm(error).exit_code, stopped_vllm(error).hint) == (7, hint)
    assert cannot_load("vLLM", "/models/wide", reason_of(error), VLLM, VLLM_ELSE).hint == hint


def test_a_changed_library_is_no_reason_to_run_again() -> None:
    said = stopped_vllm(AttributeError("'LLMEngine' object has no attribute 'step'"))
    assert said.exit_code == 7
    assert "not the version that hybrid knows" in said.message
    assert "install" in said.hint


@pytest.mark.parametrize(
    "error",
    [
        RuntimeError("CUDA out of memory. Tried to allocate 2 GiB"),
        RuntimeError("EngineCore encountered an issue"),
        RuntimeError("CUDA error: an illegal memory access was encountered\nCompile with TORCH_USE_CUDA_DSA"),
        MemoryError(),
        TimeoutError(),
        BrokenPipeError(32, "Broken pipe"),
    ],
)
def test_an_error_that_may_pass_is_left_to_the_next_run(error: Exception) -> None:
    said = stopped_vllm(error)
    assert isinstance(said, Temporary)
    assert "TORCH_USE" not in said.message
    assert said.hint == "run the same command again; rows=64"


def test_what_frames_an_error_is_left_out() -> None:
    assert reason_of(ValueError(CONTEXT)).startswith("User-specified max_model_len (100000)")
    assert reason_of(ValueError(CONTEXT)).endswith("256.0).")
    assert reason_of(MemoryError()) == "MemoryError"


@pytest.mark.slow
@pytest.mark.parametrize(
    ("fault", "why", "hint"),
    [
        ("less", "tensor 'blk.1.attn_q.weight' not found", "fetch it again"),
        ("other", "unknown model architecture: 'lxama'", "does not know such a model"),
        ("cut", "not within the file bounds", "fetch it again"),
    ],
)
def test_llamacpp_says_why_it_does_not_load(
    tmp_path: Path, fault: str, why: str, hint: str, capfd: pytest.CaptureFixture[str]
) -> None:
    pytest.importorskip("xllamacpp", reason="needs xllamacpp, which is not installed")
    pytest.importorskip("gguf", reason="needs gguf, which is not installed")
    from tests.support.small_gguf import write_model

    (path,) = write_model(tmp_path / "m", without=["blk.1.attn_q.weight"] if fault == "less" else [])
    data = path.read_bytes()
    path.write_bytes({"other": data.replace(b"llama", b"lxama"), "cut": data[:-2000]}.get(fault, data))
    with pytest.raises(CannotRun, match=why) as caught:
        open_backend("llamacpp", str(path), {"context": "128"})
    assert str(path) in caught.value.message
    assert hint in caught.value.hint
    assert "error loading model" not in capfd.readouterr().err


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore")
def test_transformers_says_why_it_does_not_load(tiny_llama: Path, tmp_path: Path) -> None:
    for fault, hint in {"kind": "does not know this kind", "words": "tokenizer.json", "name": "not whole"}.items():
        folder = tmp_path / fault
        shutil.copytree(tiny_llama, folder)
        if fault == "kind":
            config = json.loads((folder / "config.json").read_text())
            (folder / "config.json").write_text(json.dumps({**config, "model_type": "no-such-thing"}))
        elif fault == "words":
            for file in folder.glob("*token*"):
                file.unlink()
        else:
            (folder / "model.safetensors").rename(folder / "other.safetensors")
        with pytest.raises(CannotRun, match="transformers cannot load") as caught:
            open_backend("transformers", str(folder), {"device": "cpu"})
        assert hint in caught.value.hint, caught.value
