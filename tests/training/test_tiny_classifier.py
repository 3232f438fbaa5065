"""The built-in model `tiny`: the same weights everywhere, and a tokenizer for texts and pairs."""

from __future__ import annotations

import hashlib

import pytest
import torch

from hybrid.training.tiny_classifier import CLASS, DIGEST, SEPARATOR, VOCABULARY, TinyTokenizer, tiny_model, words


def test_its_weights_are_the_same_on_every_machine_and_torch_draws_on_as_before() -> None:
    torch.manual_seed(1)
    expected = torch.rand(3)
    torch.manual_seed(1)
    model, digest = tiny_model(), hashlib.sha256()
    assert torch.equal(torch.rand(3), expected)
    for name, values in sorted(model.named_parameters()):
        digest.update(name.encode() + values.numpy().tobytes())
        assert not values.requires_grad
    assert digest.hexdigest() == DIGEST
    assert not model.training


def test_a_pair_has_types_and_equal_words_have_equal_ids() -> None:
    tokenizer = TinyTokenizer()
    one = tokenizer.encode("Dogs bark!", 128)
    assert words("Dogs bark!") == ["dog", "##s", "bark", "!"]
    assert words("glass is as _s") == ["glass", "is", "as", "_s"]
    assert (one.ids[0], one.ids[-1]) == (CLASS, SEPARATOR)
    assert one.types == (0,) * 6
    assert not one.truncated
    pair = tokenizer.encode(("dogs bark!", "the DOG"), 128)
    assert pair.ids[:6] == one.ids
    assert pair.ids[7] == one.ids[1]
    assert pair.types == (0,) * 6 + (1,) * 3
    assert all(SEPARATOR < token < VOCABULARY for token in one.ids[1:-1])
    assert tokenizer.encode("", 128).ids == (CLASS, SEPARATOR)
    assert SEPARATOR not in tokenizer.encode("[SEP]", 128).ids[1:-1]


@pytest.mark.parametrize("longest", [4, 5, 6, 9, 11])
def test_a_long_pair_is_cut_at_its_longer_text(longest: int) -> None:
    tokenizer = TinyTokenizer()
    whole = tokenizer.encode(("a b c d e f", "g h"), 128)
    cut = tokenizer.encode(("a b c d e f", "g h"), longest)
    assert len(cut.ids) == len(cut.types) == longest
    assert cut.truncated == (longest < len(whole.ids))
    lengths = [cut.types.count(0) - 2, cut.types.count(1) - 1]
    assert sum(lengths) == longest - 3
    assert lengths[0] >= lengths[1] or lengths[1] <= 2
    assert cut.ids[1 : 1 + lengths[0]] == whole.ids[1 : 1 + lengths[0]]


def test_a_very_long_text_is_cut_at_once() -> None:
    cut = TinyTokenizer().encode("word " * 200_000, 16)
    assert len(cut.ids) == 16
    assert cut.truncated
    with pytest.raises(ValueError, match="not from 3 to 512"):
        TinyTokenizer().encode("word", 513)
