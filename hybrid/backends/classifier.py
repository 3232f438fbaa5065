"""The backend `classifier`: a frozen Hugging Face model whose adapters and heads are trained by loops."""

from __future__ import annotations

import gc
from collections.abc import Iterable, Iterator, Mapping, Sequence
from importlib.metadata import version
from pathlib import Path
from typing import Any, ClassVar

import torch
from transformers import AutoModel, AutoTokenizer

from hybrid.backends.devices import Device, find_device
from hybrid.backends.load_hints import TRANSFORMERS, TRANSFORMERS_ELSE, cannot_load, reason_of
from hybrid.backends.options import one_of, whole_number
from hybrid.errors import CannotRun, HybridError
from hybrid.loops import EncodedText, Policies
from hybrid.model_files.location import digest_of, locate
from hybrid.model_files.weight_files import check_files
from hybrid.model_files.weights import quiet_transformers, refuse_incomplete
from hybrid.protocols import Model
from hybrid.records import Completion, Failure, Request
from hybrid.training.classifier_bank import ClassifierBank
from hybrid.training.classifier_model import ClassifierModel
from hybrid.training.full_classifier import FullClassifier
from hybrid.training.tiny_classifier import DIGEST, TinyTokenizer, tiny_model
from hybrid.tuning import PolicyTuning

NAME, TINY = "classifier", "tiny"


class ClassifierBackend:
    """Offers loops a base model with adapters and heads; requests are failures."""

    options: ClassVar[Mapping[str, str]] = {
        "device": "auto, cpu, cuda (default auto: a GPU if there is one)",
        "dtype": "auto, float32, float16, bfloat16 (auto: bfloat16 from Ampere on, float16 before, float32 on a CPU)",
        "tokens": "tokens in one pass (default 16384 on a GPU, 512 to 4096 on a CPU)",
        "checkpoint": "least seconds between two states of a loop that are kept, 0 for one a round (default 30)",
    }

    def __init__(self, model: str, options: Mapping[str, str]) -> None:
        device = one_of(options, "device", ("auto", "cpu", "cuda"))
        dtype = one_of(options, "dtype", ("auto", "float32", "float16", "bfloat16"))
        self._tokens = whole_number(options, "tokens", 0, low=16, high=1 << 24)
        self.checkpoint = whole_number(options, "checkpoint", 30, low=0, high=1 << 24)
        folder = None if model == TINY else locate(model)
        self._device = find_device(device, dtype)
        self._tokenizer: Any
        self._tokenizer, base = (TinyTokenizer(), tiny_model()) if folder is None else load(folder, self._device)
        self._base = ClassifierModel(base.to(self._device.kind, self._device.dtype))
        self.model = Model(
            name=model,
            digest=self.digest_of(model),
            context=self._base.positions,
            about={
                "engine": NAME,
                "version": f"transformers {version('transformers')}, torch {version('torch')}",
                "device": self._device.name,
                "dtype": self._device.dtype_name,
            },
        )

    @staticmethod
    def digest_of(model: str) -> str:
        """The digest of a model, from its files alone. Raises CannotRun."""
        return DIGEST if model == TINY else digest_of(locate(model))

    @property
    def device(self) -> str:
        """`hybrid.loops.Lab`."""
        return self._device.kind

    def tokenize(self, texts: Sequence[str | tuple[str, str]], longest: int) -> list[EncodedText]:
        """`hybrid.loops.Lab`."""
        longest = min(longest, self._base.positions)
        return [self._tokenizer.encode(text, longest) for text in texts]

    def classifiers(self, slots: int, rank: int, targets: Sequence[str] | None, labels: int) -> ClassifierBank:
        """`hybrid.loops.Lab`."""
        return ClassifierBank(self._base, slots, rank, targets, labels, tokens=self._tokens)

    def full_classifier(self, labels: int, seed: int) -> FullClassifier:
        """`hybrid.loops.Lab`."""
        return FullClassifier(self._base, labels, seed, tokens=self._tokens)

    def policies(self, slots: int, tuning: PolicyTuning) -> Policies:
        """Raises CannotRun."""
        raise CannotRun("a classifier writes no texts", hint="--backend transformers --model MODEL")

    def generate(self, requests: Iterable[Request | None]) -> Iterator[Completion]:
        """A failure a request."""
        for request in filter(None, requests):
            yield Completion(request.key, error=Failure("bad-request", "a classifier answers no requests"))

    def close(self) -> None:
        """Free the memory of the weights."""
        del self._base
        gc.collect()
        if torch.cuda.is_available():
            torch.cuda.empty_cache()


def load(folder: Path, device: Device) -> tuple[_Tokenizer, Any]:
    """The tokenizer and the base model of a folder. Code that comes with a model is never run.

    Weights beside the base's, such as those of another head, are left out. Raises CannotRun, also when weights are
    missing or do not belong to the model.
    """
    if folder.is_file():
        raise CannotRun(f"{folder} is a GGUF: a classifier needs a folder", hint="give a folder with *.safetensors")
    check_files(folder)
    try:
        tokenizer = AutoTokenizer.from_pretrained(str(folder), trust_remote_code=False, use_fast=True)
        with quiet_transformers(bar=True):
            model, report = AutoModel.from_pretrained(
                str(folder),
                dtype=device.dtype,
                use_safetensors=True,
                trust_remote_code=False,
                attn_implementation="sdpa",
                ignore_mismatched_sizes=True,  # `refuse_incomplete` names them in its error
                output_loading_info=True,
            )
        missing = [name for name in report["missing_keys"] if model.config.model_type == "bert" or "pooler" not in name]
        refuse_incomplete({"missing_keys": missing, "mismatched_keys": report["mismatched_keys"]}, str(folder))
        return _Tokenizer(tokenizer), model
    except torch.OutOfMemoryError as error:
        raise CannotRun(f"{folder} does not fit {device.name}", hint="take a smaller model, or device=cpu") from error
    except HybridError:
        raise
    except Exception as error:  # for a damaged file the library may raise anything
        raise cannot_load("transformers", folder, reason_of(error), TRANSFORMERS, TRANSFORMERS_ELSE) from error


class _Tokenizer:
    """Hugging Face's tokenizer of a folder."""

    def __init__(self, tokenizer: Any) -> None:
        self._tokenizer = tokenizer
        self._typed = "token_type_ids" in tokenizer.model_input_names

    def encode(self, text: str | tuple[str, str], longest: int) -> EncodedText:
        """The ids of a text or a pair of at most `longest` tokens, with the model's special tokens."""
        pair = (text,) if isinstance(text, str) else text
        found = self._tokenizer([pair] if len(pair) > 1 else [pair[0]], truncation=True, max_length=longest)
        one = found.encodings[0]
        return EncodedText(tuple(one.ids), tuple(one.type_ids) if self._typed else (), bool(one.overflowing))
