"""A model that is cut in two computes the same as in one place, and what crosses the cut is counted."""

from __future__ import annotations

from typing import Any

import pytest
import torch
import transformers

from hybrid.errors import CannotRun
from hybrid.training.crossing import blocks_of, cut, decoded, encoded

pytestmark = pytest.mark.slow

KINDS = ("bert", "distilbert", "gpt2", "llama")
TEXTS, LENGTH, WIDTH, BLOCKS = 3, 7, 16, 3


def model_of(kind: str) -> Any:
    """A random base model of a family, of three blocks."""
    torch.manual_seed(0)
    sizes = {
        "vocab_size": 50, "hidden_size": WIDTH, "num_hidden_layers": BLOCKS, "num_attention_heads": 2,
        "intermediate_size": 32, "max_position_embeddings": 32, "pad_token_id": 1,
        "dim": WIDTH, "n_layers": BLOCKS, "n_heads": 2, "hidden_dim": 32,
        "n_embd": WIDTH, "n_layer": BLOCKS, "n_head": 2,
    }  # fmt: skip
    return transformers.AutoModel.from_config(transformers.AutoConfig.for_model(kind, **sizes)).eval()


def trained(model: Any, after: int, form: str = "fp32") -> tuple[Any, dict[str, Any], Any]:
    """The loss of a batch and the gradients of all parameters, and what crossed a cut."""
    model.zero_grad()
    ids = torch.arange(TEXTS * LENGTH).view(TEXTS, LENGTH) + 2
    with cut(model, after, form) as crossing:
        rows = model(input_ids=ids).last_hidden_state
        loss = (rows * torch.linspace(-1, 1, rows.numel()).view_as(rows)).mean()
        loss.backward()
    gradients = {name: one.grad.clone() for name, one in model.named_parameters() if one.grad is not None}
    return loss.detach(), gradients, crossing


@pytest.mark.parametrize("kind", KINDS)
def test_a_cut_changes_no_gradient_and_its_bytes_are_those_of_the_tokens(kind: str) -> None:
    model = model_of(kind)
    expected_loss, expected, _ = trained(model, 0)
    assert len(blocks_of(model)) == BLOCKS
    for after in range(BLOCKS + 1):
        loss, gradients, crossing = trained(model, after)
        assert torch.equal(loss, expected_loss)
        assert gradients.keys() == expected.keys()
        assert all(torch.equal(gradients[name], expected[name]) for name in expected)
        size = 0 if after in (0, BLOCKS) else TEXTS * LENGTH * WIDTH * 4
        assert (crossing.up, crossing.down, crossing.error) == (size, size, 0.0)
    assert not any(block._forward_hooks for block in blocks_of(model))


@pytest.mark.parametrize(("form", "size", "error"), [("fp16", 2 * WIDTH, 1e-3), ("int8", WIDTH + 4, 1e-2)])
def test_smaller_formats_send_less_and_say_what_they_lose(form: str, size: int, error: float) -> None:
    model = model_of("bert")
    _, expected, _ = trained(model, 1)
    _, gradients, crossing = trained(model, 1, form)
    assert crossing.up == crossing.down == TEXTS * LENGTH * size + (4 if form == "fp16" else 0)
    assert error / 100 < crossing.error < error
    name = "encoder.layer.0.attention.self.value.weight"
    assert 0 < (gradients[name] - expected[name]).norm() / expected[name].norm() < 0.1


def test_without_anything_to_train_before_the_cut_no_gradient_comes_back() -> None:
    model = model_of("distilbert")
    for part in (model.embeddings, model.transformer.layer[0]):
        part.requires_grad_(requires_grad=False)
    _, _, crossing = trained(model, 1)
    assert (crossing.up, crossing.down) == (TEXTS * LENGTH * WIDTH * 4, 0)


@pytest.mark.parametrize("form", ["fp16", "int8"])
def test_zeros_and_tiny_gradients_survive(form: str) -> None:
    rows = torch.tensor([[0.0, 0.0], [1e-12, -3e-12], [2e-12, 0.0]])
    assert torch.allclose(decoded(encoded(rows, form)), rows, rtol=0.01, atol=0)
    assert not decoded(encoded(torch.zeros(2, 3), form)).any()


def test_a_cut_that_there_is_none_of_is_refused() -> None:
    for after, form in ((-1, "fp32"), (BLOCKS + 1, "fp32"), (1, "fp8")):
        with pytest.raises(CannotRun, match="a cut after block"), cut(model_of("bert"), after, form):
            pass
    with pytest.raises(CannotRun, match="its blocks are not known"):
        blocks_of(torch.nn.Linear(2, 2))
