"""A model's tokenizer and chat template from its files alone, without torch, transformers or llama.cpp.

It has as much of a Hugging Face tokenizer as `hybrid.backends.prompts` needs, so prompts are made by the same code that
engines use. It is made for counting: what it cannot read exactly it refuses, and the plan estimates.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any, NamedTuple, NoReturn

from hybrid.errors import CannotRun
from hybrid.machine.files import read_bounded
from hybrid.machine.late_imports import import_object
from hybrid.model_files.gguf_values import Metadata, metadata_of
from hybrid.model_files.location import config_of

NEEDED_FOR = "counting tokens"
MOST_BYTES = 64 * 1024**2
"""Of a tokenizer.json."""
CONTROL, USER_DEFINED = 3, 4
"""Types of tokens in a GGUF that stand for themselves in a text."""

CONTRACTIONS = "'s|'t|'re|'ve|'m|'ll|'d"
GPT2 = rf"{CONTRACTIONS}| ?\p{{L}}+| ?\p{{N}}+| ?[^\s\p{{L}}\p{{N}}]+|\s+(?!\S)|\s+"
LLAMA3 = (
    rf"(?i:{CONTRACTIONS})|[^\r\n\p{{L}}\p{{N}}]?\p{{L}}+|\p{{N}}{{1,3}}| ?[^\s\p{{L}}\p{{N}}]+[\r\n]*"
    r"|\s*[\r\n]+|\s+(?!\S)|\s+"
)
SPLITS: Mapping[str, tuple[str, ...]] = {
    "gpt-2": (GPT2,),
    "smollm": (r"\p{N}", GPT2),
    "llama-bpe": (LLAMA3,),
    "qwen2": (LLAMA3.replace("{1,3}", ""),),
}
"""Name of a GGUF's way to cut a text before its byte pairs are merged -> its expressions, one after another."""


class AddedToken(NamedTuple):
    """As Hugging Face's: `special` ones are not part of a text."""

    content: str
    special: bool


class Encoded(NamedTuple):
    """As Hugging Face's."""

    input_ids: list[int]


@dataclass(frozen=True)
class LightTokenizer:
    """`encoder` is one of the library `tokenizers`; `bos_token_id` begins every text where `adds_bos`."""

    encoder: Any
    chat_template: str
    bos_token_id: int | None
    adds_bos: bool
    added_tokens_decoder: Mapping[int, AddedToken]
    names: Mapping[str, str] = field(default_factory=dict)  # bos_token, eos_token: what templates write

    @property
    def eos_token_id(self) -> int | None:
        """The token that ends a text."""
        return self.encoder.token_to_id(self.names["eos_token"]) if "eos_token" in self.names else None

    def __call__(self, text: str, *, add_special_tokens: bool = True) -> Encoded:
        ids = list(self.encoder.encode(text, add_special_tokens=add_special_tokens).ids)
        if add_special_tokens and self.adds_bos and ids[:1] != [self.bos_token_id]:
            ids = [int(self.bos_token_id or 0), *ids]
        return Encoded(ids)

    def apply_chat_template(
        self, chat: Iterable[Mapping[str, str]], *, tokenize: bool, add_generation_prompt: bool, **settings: Any
    ) -> str:
        """The chat as the model's template writes it. May raise anything."""
        if tokenize:
            raise ValueError("this tokenizer renders chats; it tokenizes texts")
        given = {**self.names, **settings}
        return str(self._template.render(messages=list(chat), add_generation_prompt=add_generation_prompt, **given))

    @cached_property
    def _template(self) -> Any:
        """The compiled template, in a sandbox: it is a program of the model's author."""
        sandbox = import_object("jinja2.sandbox:ImmutableSandboxedEnvironment", needed_for=NEEDED_FOR)
        made = sandbox(trim_blocks=True, lstrip_blocks=True, extensions=["jinja2.ext.loopcontrols"])
        made.filters["tojson"] = _to_json
        made.globals["raise_exception"] = _refuse
        return made.from_string(self.chat_template)


def light_tokenizer(path: Path) -> LightTokenizer:
    """The tokenizer of a GGUF or of a model folder. Raises CannotRun where it cannot be read exactly."""
    try:
        return _of_gguf(path) if path.is_file() else _of_folder(path)
    except (OSError, ValueError, KeyError, TypeError, IndexError) as error:
        raise CannotRun(f"{path}: its tokenizer cannot be read: {error!s:.200}") from error
    except Exception as error:
        if isinstance(error, CannotRun):
            raise
        raise CannotRun(f"{path}: its tokenizer cannot be read: {error!s:.200}") from error  # the library raises it


def template_alone(path: Path) -> LightTokenizer:
    """The chat template of a GGUF or of a model folder, without what tokenizes. Raises CannotRun without one."""
    try:
        if path.is_file():
            words = ("tokenizer.ggml.tokens",)
            metadata = metadata_of(path, words)
            names = _names(metadata, [str(one) for one in metadata.lists.get(words[0], [])])
            template = str(metadata.values.get("tokenizer.chat_template", ""))
        else:
            config = config_of(path, "tokenizer_config.json")
            names, template = _named(config), _template_of(path, config)
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise CannotRun(f"{path}: its chat template cannot be read: {error!s:.200}") from error
    if not template:
        raise CannotRun(f"{path} has no chat template")
    return LightTokenizer(None, template, None, False, {}, names)


def _named(config: Mapping[str, Any]) -> dict[str, str]:
    return {name: text for name in ("bos_token", "eos_token") if (text := _content(config.get(name)))}


def _template_of(folder: Path, config: Mapping[str, Any]) -> str:
    beside = folder / "chat_template.jinja"
    template = beside.read_text(encoding="utf-8") if beside.is_file() else config.get("chat_template")
    if isinstance(template, list):  # several by name
        template = next((one.get("template") for one in template if one.get("name") == "default"), "")
    return str(template or "")


def _of_folder(folder: Path) -> LightTokenizer:
    path, config = folder / "tokenizer.json", config_of(folder, "tokenizer_config.json")
    if not path.is_file():
        raise CannotRun(f"{folder} has no tokenizer.json")
    data = read_bounded(path, MOST_BYTES)
    encoder = import_object("tokenizers:Tokenizer", needed_for=NEEDED_FOR).from_str(data.decode())
    added = {int(one["id"]): AddedToken(str(one["content"]), bool(one.get("special"))) for one in _added(data)}
    ids = {one.content: number for number, one in added.items()}
    names = _named(config)
    bos = ids.get(names.get("bos_token", ""))
    return LightTokenizer(encoder, _template_of(folder, config), bos, False, added, names)


def _added(data: bytes) -> list[Mapping[str, Any]]:
    value = json.loads(data)
    return list(value.get("added_tokens") or ())


def _content(value: Any) -> str:
    """The text of a token that a configuration names as a text or as an object."""
    return str(value.get("content") or "") if isinstance(value, Mapping) else str(value or "")


def _of_gguf(path: Path) -> LightTokenizer:
    keys = ("tokenizer.ggml.tokens", "tokenizer.ggml.merges", "tokenizer.ggml.token_type")
    metadata = metadata_of(path, keys)
    kind, pre = (str(metadata.values.get(f"tokenizer.ggml.{name}", "")) for name in ("model", "pre"))
    if kind != "gpt2" or pre not in SPLITS:
        raise CannotRun(f"{path}: its tokenizer is of a kind that is not known here: {kind[:20]} {pre[:40]}")
    words, merges, types = (metadata.lists.get(key, []) for key in keys)
    special = {n for n, one in enumerate(types) if one == CONTROL}
    added = {
        n: AddedToken(str(words[n]), n in special) for n, one in enumerate(types) if one in (CONTROL, USER_DEFINED)
    }
    encoder = _byte_pairs([str(one) for one in words], [str(one) for one in merges], SPLITS[pre])
    token = import_object("tokenizers:AddedToken", needed_for=NEEDED_FOR)
    encoder.add_special_tokens([token(one.content, special=True, normalized=False) for one in added.values()])
    bos = metadata.values.get("tokenizer.ggml.bos_token_id")
    names = _names(metadata, [str(one) for one in words])
    template = str(metadata.values.get("tokenizer.chat_template", ""))
    adds = metadata.values.get("tokenizer.ggml.add_bos_token") is True or pre == "llama-bpe"
    return LightTokenizer(encoder, template, bos if isinstance(bos, int) else None, adds, added, names)


def _names(metadata: Metadata, words: list[str]) -> dict[str, str]:
    found = {}
    for name in ("bos", "eos"):
        number = metadata.values.get(f"tokenizer.ggml.{name}_token_id")
        if isinstance(number, int) and 0 <= number < len(words):
            found[f"{name}_token"] = words[number]
    return found


def _byte_pairs(words: list[str], merges: list[str], splits: tuple[str, ...]) -> Any:
    """Byte pairs as GPT-2 and its followers have them."""
    library = import_object("tokenizers", needed_for=NEEDED_FOR)
    pairs = [tuple(one.split(" ", 1)) for one in merges]
    model = library.models.BPE(
        vocab=dict(zip(words, range(len(words)), strict=True)),
        merges=pairs,
        ignore_merges=splits == SPLITS["llama-bpe"],
    )
    encoder = library.Tokenizer(model)
    cuts = [library.pre_tokenizers.Split(library.Regex(one), "isolated") for one in splits]
    bytes_ = library.pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
    encoder.pre_tokenizer = library.pre_tokenizers.Sequence([*cuts, bytes_])
    return encoder


def _to_json(value: Any, indent: int | None = None) -> str:
    return json.dumps(value, ensure_ascii=False, indent=indent)


def _refuse(message: str) -> NoReturn:
    raise ValueError(message)
