"""The built-in model `tiny` for classification: a random BERT encoder of two layers and its tokenizer, made in place.

Nothing is downloaded. Its weights come from a hash function, so that they are the same on every machine and with every
version of torch. They are random, but on scales on which a LoRA adapter of rank 4 and a head learn the generated tasks
of `pipelines/atlas/generated.py` in a few hundred steps: in the first layer queries and keys are the same projection,
so that a token attends to equal tokens; in the second layer attention is nearly uniform.
"""

from __future__ import annotations

import hashlib
import math
import re

import torch
from transformers import BertConfig, BertModel

from hybrid.loops import EncodedText

DIGEST = "99df011fa0e8b17437a411a70f6e1f552adb8091c8be9796acf7096010fc12ab"
"""SHA-256 of the names and fp32 values of the weights, sorted by name."""

VOCABULARY = 4096
PAD, UNKNOWN, CLASS, SEPARATOR = range(4)
"""Ids of the special tokens. UNKNOWN is not used: every word has an id."""

POSITIONS = 512

WORD = re.compile(r"\w+|[^\w\s]")
PLURAL = re.compile(r"(\w{2,}[^\Ws])s")

SCALES = (
    ("word_embeddings", 1.0),
    ("position_embeddings", 0.5),
    ("token_type_embeddings", 0.5),
    ("layer.0.attention.self.query", 0.14),
    ("layer.0.attention.self.key", 0.14),
    ("layer.1.attention.self.query", 0.05),
    ("layer.1.attention.self.key", 0.05),
)
"""Part of a parameter's name -> standard deviation of its values. That of any other matrix is 1 / sqrt(inputs)."""


class TinyTokenizer:
    """Lower-cased words and punctuation, each hashed to one of 4,092 ids; an -s at the end is a token of its own."""

    pad_token_id = PAD

    def __init__(self) -> None:
        self._ids: dict[str, int] = {}

    def encode(self, text: str | tuple[str, str], longest: int) -> EncodedText:
        """A text, or a pair of texts, with [CLS] and [SEP], cut to `longest` tokens: the longer of a pair first.

        Raises ValueError for a `longest` without room for the special tokens, or beyond what the model takes.
        """
        if not 3 <= longest <= POSITIONS:
            raise ValueError(f"{longest} tokens: not from 3 to {POSITIONS}")
        parts = [[self.id(word) for word in words(one)] for one in ((text,) if isinstance(text, str) else text)]
        room, whole = longest - 1 - len(parts), sum(map(len, parts))
        while sum(map(len, parts)) > room:
            longer = max(parts, key=len)
            longer.pop()
        ids, types = [CLASS], [0]
        for type_, part in enumerate(parts):
            ids += [*part, SEPARATOR]
            types += [type_] * (len(part) + 1)
        return EncodedText(tuple(ids), tuple(types), truncated=whole > room)

    def id(self, word: str) -> int:
        """The id of a token."""
        if word not in self._ids:
            number = int.from_bytes(hashlib.sha256(word.encode()).digest()[:8], "big")
            self._ids[word] = SEPARATOR + 1 + number % (VOCABULARY - SEPARATOR - 1)
        return self._ids[word]


def words(text: str) -> list[str]:
    """The tokens of a text, as text."""
    found: list[str] = []
    for word in WORD.findall(text.lower()):
        plural = PLURAL.fullmatch(word)
        found += [plural[1], "##s"] if plural else [word]
    return found


def tiny_model() -> BertModel:
    """The frozen encoder with its pooler, in fp32 on the CPU, without dropout. torch's generator stays as it was."""
    config = BertConfig(
        vocab_size=VOCABULARY, hidden_size=64, num_hidden_layers=2, num_attention_heads=4, intermediate_size=128,
        max_position_embeddings=POSITIONS, hidden_dropout_prob=0.0, attention_probs_dropout_prob=0.0, pad_token_id=PAD,
    )  # fmt: skip
    with torch.random.fork_rng(devices=[]):
        model = BertModel(config)
    with torch.no_grad():
        for name, values in model.named_parameters():
            if values.dim() == 2:
                values.copy_(
                    _uniform(name.replace("layer.0.attention.self.key", "layer.0.attention.self.query"), values)
                )
            else:
                values.fill_(1.0 if name.endswith("LayerNorm.weight") else 0.0)
    return model.eval().requires_grad_(False)


def _uniform(name: str, like: torch.Tensor) -> torch.Tensor:
    """Values of the shape of `like` [outputs, inputs], uniform around 0, that depend on `name` alone."""
    deviation = next((scale for part, scale in SCALES if part in name), 1 / math.sqrt(like.shape[1]))
    drawn = hashlib.shake_256(f"tiny classifier 1: {name}".encode()).digest(4 * like.numel())
    whole = torch.frombuffer(bytearray(drawn), dtype=torch.int32).double() / 2**31  # in [-1, 1)
    return (whole * (math.sqrt(3) * deviation)).float().view(like.shape)
