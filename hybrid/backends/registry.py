"""The tables of backends and embedders, and the functions that open them."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from pathlib import Path
from types import SimpleNamespace
from typing import Any

from hybrid.backends.embedding import EmbeddingBackend
from hybrid.errors import CannotRun, UsageError, nearest
from hybrid.machine.late_imports import import_object
from hybrid.model_files.location import digest_of, embedder_folder, locate
from hybrid.protocols import Backend, Embedder

BACKENDS = {
    "llamacpp": "hybrid.backends.llamacpp:LlamaCppBackend",
    "transformers": "hybrid.backends.transformers:TransformersBackend",
    "vllm": "hybrid.backends.vllm:VllmBackend",
    "ollama": "hybrid.backends.ollama.chat:OllamaBackend",
    "openai": "hybrid.backends.openai.chat:OpenaiBackend",
    "scripted": "hybrid.backends.scripted:ScriptedBackend",
    "none": "hybrid.backends.no_model:NoModel",
    "classifier": "hybrid.backends.classifier:ClassifierBackend",
}
"""Name on the command line -> class. An instance is created from (model name, options) and has loaded its model."""

SUMMARIES = {
    "llamacpp": "embedded llama.cpp, no server: GGUF models on a laptop",
    "transformers": "Hugging Face transformers: any GPU or CPU",
    "vllm": "vLLM: a CUDA GPU",
    "ollama": "a local Ollama server",
    "openai": "any server with OpenAI's interface: llama-server, vLLM, LM Studio, hosted ones",
    "scripted": "answers read from a file: for tests and dry runs",
    "none": "no language model: for loops that bring models of their own",
    "classifier": "classifiers of texts that loops train: adapters and heads over one Hugging Face model",
}

EMBEDDERS = {
    "hashed": "hybrid.backends.hashed:HashedEmbedder",
    "ollama": "hybrid.backends.ollama.embedding:OllamaEmbedder",
    "openai": "hybrid.backends.openai.embedding:OpenaiEmbedder",
    "sentence-transformers": "hybrid.backends.sentence_transformers:SentenceTransformersEmbedder",
}
"""Name -> class of an embedder, which is created as a backend is."""

NAMED_MODELS = {
    "hashed": ("", "ngrams"),
    "sentence-transformers": ("minilm",),
    "none": ("none",),
    "classifier": ("tiny",),
}
"""Backend or embedder -> its models that go by the same name on every machine."""

SERVED = ("ollama", "openai")
"""The backends whose models a server has: their names are names there, never paths here."""

TRAINING = ("transformers", "vllm")
"""The backends that can train adapters and answer with them."""

NO_MODEL = "none"
"""The backend of runs without a language model."""

NOTHING_TO_LOAD = (NO_MODEL, "hashed")
"""Backends and embedders without a file or a server: nothing is said of loading one."""

DEFAULT_BACKEND = "llamacpp"
DEFAULT_MODEL = "smollm2"


def refuse_unknown_backend(name: str, *, embeds: bool = False) -> None:
    """Raise UsageError for a backend that does not exist, or does not embed texts. Nothing is imported."""
    if embeds and name not in EMBEDDERS:
        known = f"these do: {', '.join(sorted(EMBEDDERS))}" if name in BACKENDS else nearest(name, EMBEDDERS)
        what = f"the backend '{name}' embeds no texts" if name in BACKENDS else f"nothing called '{name}' embeds texts"
        raise UsageError(what, hint=known)
    if not embeds and name not in BACKENDS:
        raise UsageError(f"there is no backend '{name}'", hint=nearest(name, BACKENDS))


def backend_class(name: str) -> Any:
    """The class of a backend; this is where its library is imported. Raises UsageError, CannotRun."""
    refuse_unknown_backend(name)
    return import_object(BACKENDS[name], needed_for=f"the backend '{name}'")


def opened(backend: str, model: str, options: Mapping[str, str], *, trains: bool, embeds: bool = False) -> Backend:
    """A model loaded in a backend; with `trains`, one that can be trained, with `embeds`, one that embeds texts.

    Raises UsageError, CannotRun.
    """
    if embeds:
        return open_embedding_backend(backend, model, options)
    return (open_tuned if trains else open_backend)(backend, model, options)


def open_backend(name: str, model: str, options: Mapping[str, str]) -> Backend:
    """Load `model` in the backend `name`. Raises UsageError on unknown options, CannotRun when it cannot be loaded."""
    refuse_unknown(name, options)
    backend: Backend = backend_class(name)(model, options)
    return backend


def open_tuned(name: str, model: str, options: Mapping[str, str]) -> Backend:
    """Load `model` so that requests may ask for a training first; a `TrainingBackend` is told which before each stage.

    Raises as `open_backend` does, and CannotRun for a backend that cannot train.
    """
    refuse_untrainable(name)
    if name == "scripted":
        return open_backend(name, model, options)  # its answers come from a file, whatever was trained
    refuse_unknown(name, options, training=True)
    tuned = import_object("hybrid.backends.tuned.backend:TunedBackend", needed_for="training")
    backend: Backend = tuned(name, model, options)
    return backend


def refuse_untrainable(name: str) -> None:
    """Raise CannotRun for a backend that cannot train, UsageError for one that does not exist. Nothing is imported."""
    refuse_unknown_backend(name)
    if name not in (*TRAINING, "scripted"):
        raise CannotRun(
            f"the backend '{name}' does not train, as this pipeline asks",
            hint="--backend transformers (any GPU or CPU, answers in the same process) or vllm (a CUDA GPU)",
        )


def refuse_unknown(name: str, options: Mapping[str, str], *, training: bool = False) -> None:
    """Raise UsageError for an option that the backend `name` does not have. Imports the backend's library.

    With `training`, the options of training are known too, except for `scripted`.
    """
    cls, what = backend_class(name), f"backend '{name}'"
    if training and name != "scripted":
        more = import_object("hybrid.backends.tuned.backend:OPTIONS", needed_for="training")
        cls, what = SimpleNamespace(options={**cls.options, **more}), f"{what} with training"
    _check_options(cls, what, options)


def refuse_unknown_role(name: str, texts: Iterable[str], roles: Collection[str]) -> None:
    """Raise UsageError for an option `juge=parallel=2` of the first model's backend `name` where 'juge' is neither an
    option of it nor one of the `roles`. Its library is imported only for an option of that form.
    """
    for text in texts:
        role, _, value = text.partition("=")
        if role and "=" in value and role not in backend_class(name).options:
            raise UsageError(
                f"--backend-option {text:.200}: there is no role '{role:.100}', and no option of the backend '{name}'",
                hint=f"roles: {nearest(role[:100], roles)}" if roles else "there is one model only: NAME=VALUE",
            )


def open_embedder(name: str, model: str, options: Mapping[str, str]) -> Embedder:
    """Load `model` in the embedder `name`. Raises as `open_backend` does."""
    embedder: Embedder = _embedder_class(name, options, model)(model, options)
    return embedder


def open_embedding_backend(name: str, model: str, options: Mapping[str, str]) -> Backend:
    """Load `model` in the embedder `name`, to answer requests with `embed`. Raises as `open_backend` does."""
    return EmbeddingBackend(open_embedder(name, model, options))


def refuse_unknown_embedding(name: str, options: Mapping[str, str], model: str) -> None:
    """Raise UsageError for an option that the embedder `name` does not have. Imports its library."""
    _embedder_class(name, options, model)


def _embedder_class(name: str, options: Mapping[str, str], model: str) -> Any:
    """The class of an embedder. A folder that is not there is told before its library is imported: that takes long."""
    refuse_unknown_backend(name, embeds=True)
    if name == "sentence-transformers":
        embedder_folder(model)
    cls = import_object(EMBEDDERS[name], needed_for=f"embedding with '{name}'")
    _check_options(cls, f"embedder '{name}'", options)
    return cls


def _check_options(cls: Any, what: str, options: Mapping[str, str]) -> None:
    for option in options:
        if option not in cls.options:
            raise UsageError(f"the {what} has no option '{option}'", hint=nearest(option, cls.options))


@contextmanager
def lazy_backend(make: Callable[[], Backend]) -> Iterator[Callable[[], Backend]]:
    """A function that opens the backend when it is first called; the backend is closed at the end of the block."""
    with ExitStack() as stack:
        opened: list[Backend] = []

        def backend() -> Backend:
            if not opened:
                opened.append(make())
                stack.callback(opened[0].close)
            return opened[0]

        yield backend


def digest_before_loading(
    name: str, model: str, options: Mapping[str, str] | None = None, *, embeds: bool = False
) -> str:
    """The digest of `model` as the opened backend will report it, from the files alone or from its server.

    Raises CannotRun, and Temporary when the server does not answer.
    """
    refuse_unknown_backend(name, embeds=embeds)
    if embeds and name not in SERVED:
        return str(_embedder_class(name, {}, model).digest_of(model))
    if name == "ollama":
        of_tag = import_object("hybrid.backends.ollama.chat:digest_of_tag", needed_for="the backend 'ollama'")
        return str(of_tag(model, options or {}))
    if name == "openai":
        of_name = import_object("hybrid.backends.openai.chat:digest_of_name", needed_for="the backend 'openai'")
        return str(of_name(model, options or {}))
    if name in (NO_MODEL, "classifier"):
        return str(backend_class(name).digest_of(model))
    if name != "scripted":
        return digest_of(locate(model))
    if not Path(model).is_file():
        raise CannotRun(f"the backend 'scripted' needs a file of answers; '{model}' is not one")
    return digest_of(Path(model))
