"""Hints for a model that an engine does not load, chosen by the text of the engine's error."""

from __future__ import annotations

import re
from collections.abc import Sequence

from hybrid.errors import CannotRun, Temporary

Hints = Sequence[tuple[str, str]]
"""Pairs of a pattern, searched in the error without regard to case, and a hint. The first match counts."""

FILES = "a file of the model is damaged or not whole: fetch it again"
OUT_OF_MEMORY = r"out of ?memory|bad_alloc|not enough memory|(can't|cannot|failed to|unable to) allocate"
TOO_WIDE = r"out of ?resources?: shared memory"
"""Triton's words for a kernel that wants more of the memory that a GPU's cores share than there is: heads of 256 and
more on a T4, whose limit is 64 KiB."""

TOKENIZER = r"tokenizer|sentencepiece|tiktoken", "the folder needs the tokenizer's files, tokenizer.json and so on"
OWN_CODE = r"trust_remote_code|custom code", "it comes with code of its own, which is never run: take another model"

TRANSFORMERS: Hints = (
    (OUT_OF_MEMORY, "it does not fit the memory: take a smaller model, or --backend-option dtype=bfloat16"),
    OWN_CODE,
    (
        r"does not recognize this architecture|unrecognized (model|configuration)|model type",
        "transformers does not know this kind of model: a newer one may; --backend vllm, or llamacpp with a GGUF",
    ),
    TOKENIZER,
    (r"requires|pip install|no module named|not installed", "install what the message names"),
    (r"quantiz", "its numbers are packed in a way that wants a library of its own: --backend vllm, or a plain model"),
    (r"no file named|safetensors|header|expecting value|json", FILES),
    (r"cuda|driver|device", "the device does not work: --backend-option device=cpu, or look at nvidia-smi"),
)
TRANSFORMERS_ELSE = "it needs config.json, a tokenizer and *.safetensors of a model that the library itself knows"

VLLM: Hints = (
    (TOO_WIDE, "this model's heads are too wide for this GPU: --backend transformers"),
    (
        r"greater than the derived max_model_len",
        "--backend-option context=N of at most what the model was made for; without it, that is taken",
    ),
    (
        rf"{OUT_OF_MEMORY}|kv cache|cache blocks|less than desired|gpu_memory_utilization",
        "it does not fit the memory: --backend-option context=4096, rows=64, memory=0.95, or a smaller model",
    ),
    (r"sleep mode|cumem", "the allocator that lets vLLM sleep does not work here: --backend-option sleep=false"),
    OWN_CODE,
    (
        r"does not recognize this|architectures? .*not supported|no vllm implementation|unrecognized model",
        "vLLM does not know this kind of model: a newer one may; --backend transformers",
    ),
    (r"infer device type|no cuda|nvidia driver|no gpu", "vLLM sees no GPU: --backend transformers works without one"),
    (r"compute capability|bfloat16 is only", "this GPU has no such numbers: --backend-option dtype=float16"),
    (r"lora", "this model takes no adapters, or not so many: --backend-option loras=N, lora_rank=N"),
    (
        r"tensor parallel|world size|divisible",
        "--backend-option gpus=N: as many as there are, a divisor of the heads",
    ),
    (
        r"cpu attention configuration|head_dim|head size",
        "vLLM has no code for heads of this size: --backend transformers",
    ),
    (
        r"not initialized from|no module or parameter|dimension size|model weights|safetensors|has no attribute 'data'",
        "the weights are not those of its config.json: fetch the model again",
    ),
    TOKENIZER,
    (r"engine core|see root cause", "the cause stands above: VLLM_LOGGING_LEVEL=INFO shows more"),
)
VLLM_ELSE = "VLLM_LOGGING_LEVEL=INFO shows more; --backend transformers loads models that vLLM does not"

NO_ROOM_BESIDE = (
    "vLLM and the trainer do not both fit: --backend-option rows=64 or a smaller memory=N, model or rank, on a CPU a "
    "smaller VLLM_CPU_KVCACHE_SPACE=N in the environment (GiB)"
)
VLLM_SAMPLER: Hints = (
    VLLM[0],
    (rf"{OUT_OF_MEMORY}|less than requested", NO_ROOM_BESIDE),  # before the next: also said of the KV cache
    (
        r"kv cache|cache blocks",
        (
            "too little of its memory is left for keys and values: --backend-option context=4096 or a larger memory=N, "
            "on a CPU a larger VLLM_CPU_KVCACHE_SPACE=N in the environment (GiB)"
        ),
    ),
    (r"less than desired|gpu_memory_utilization", NO_ROOM_BESIDE),
    (r"lora", "vLLM takes no adapters for this model, or not so many, or not of this rank"),
    *VLLM[1:],
)
"""Hints for vLLM as the sampler of policies, beside the trainer: its adapters are those of the loop's policies."""
VLLM_SAMPLER_ELSE = "VLLM_LOGGING_LEVEL=INFO shows more"

LLAMACPP: Hints = (
    (OUT_OF_MEMORY, "it does not fit the memory: --backend-option context=2048, parallel=1, or a smaller quantisation"),
    (
        r"unknown model architecture|unknown pre-tokenizer|unknown tokenizer|unsupported",
        "this llama.cpp does not know such a model: a newer xllamacpp may; is it a GGUF for text?",
    ),
    (
        r"file bounds|incomplete|corrupt|not found|wrong shape|wrong number|duplicate|missing|failed to read|magic",
        FILES,
    ),
)
LLAMACPP_ELSE = "is it a GGUF for text? is there memory? --backend-option context=2048 needs less"

EMBEDDER: Hints = (
    (OUT_OF_MEMORY, "it does not fit the memory: --backend-option device=cpu, or a smaller model"),
    OWN_CODE,
    (r"does not recognize|unrecognized", "the library does not know this kind of model: a newer one may"),
    (r"requires|pip install|no module named", "install what the message names"),
    (r"cuda|driver|device", "the device does not work: --backend-option device=cpu"),
)
EMBEDDER_ELSE = "is the folder whole? it needs modules.json, each module's files and *.safetensors"


def cannot_load(engine: str, what: object, reason: str, hints: Hints, otherwise: str) -> CannotRun:
    """The error of an engine that does not load `what`, with the first hint that matches `reason`, else `otherwise`."""
    words = reason.replace(str(what), "")  # a path may hold any of the words
    return CannotRun(f"{engine} cannot load {what}: {reason:.500}", hint=_matching_hint(words, hints, otherwise))


def _matching_hint(words: str, hints: Hints, otherwise: str) -> str:
    return next((hint for pattern, hint in hints if re.search(pattern, words, re.IGNORECASE)), otherwise)


UNSUPPORTED = (
    rf"head.?(size|dim)|cpu attention configuration|not (supported|implemented)|unsupported|no kernel image|{TOO_WIDE}"
)
MAY_PASS = (
    rf"{OUT_OF_MEMORY}|(cuda|hip|xpu|driver) error|cublas|cudnn|nccl|enginecore|timed? ?out|connection|broken pipe"
)
"""Patterns of errors during generation: the engine will never do it; memory, a device or a process may be back."""


def stopped(engine: str, error: Exception, hints: Hints, otherwise: str, *, again: str) -> CannotRun | Temporary:
    """The error of an engine that failed while it generated: Temporary, with the hint `again`, only where the same
    command may succeed, since a worker repeats it. Everything else would recur: a model that the engine does not
    support here, a library whose functions have changed.
    """
    said = f"{type(error).__name__}: {reason_of(error)}"
    shown = f"{type(error).__name__}: {first_line(error):.500}"
    for_ever = isinstance(error, NotImplementedError) or re.search(UNSUPPORTED, said, re.IGNORECASE)
    passes = isinstance(error, OSError | MemoryError) or re.search(MAY_PASS, said, re.IGNORECASE)
    if passes and not for_ever:
        return Temporary(f"{engine} stopped: {shown}", hint=f"run the same command again; {again}")
    if isinstance(error, AttributeError | ImportError | TypeError):
        return CannotRun(
            f"{engine} is not the version that hybrid knows: {shown}",
            hint="install the one that hybrid is tested with, from requirements/ of the checkout",
        )
    hint = _matching_hint(said, hints, otherwise)
    return CannotRun(f"{engine} cannot compute with this model here: {shown}", hint=hint)


def first_line(error: BaseException) -> str:
    """The first line of an error's message: torch's go on with advice for programmers."""
    return next(iter(str(error).strip().splitlines()), "without a message")


def reason_of(error: BaseException) -> str:
    """The message of an error, on one line and without pydantic's wrapping."""
    text = " ".join(str(error).split()) or type(error).__name__
    framed = re.search(r"\d+ validation errors? for \w+ (.*?) \[type=", text)
    return framed[1].removeprefix("Value error, ") if framed else text
