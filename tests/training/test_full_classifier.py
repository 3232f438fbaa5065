"""Full fine-tuning is that of transformers' own model."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch.nn.functional import cross_entropy

from hybrid.loops import EncodedText
from hybrid.training.classifier_model import ClassifierModel
from hybrid.training.full_classifier import FullClassifier
from tests.support.small_classifiers import LABELS, base, batch, rectangle, stock, tuning

torch.set_num_threads(1)


def of_transformers(model: Any, head: dict[str, torch.Tensor], batches: list[Any]) -> tuple[list[float], torch.Tensor]:
    model.load_state_dict(head, strict=False)
    optimizer = torch.optim.AdamW(model.parameters(), 1e-3, weight_decay=0.01)
    losses = []
    for texts in batches:
        logits = model(**rectangle([text.text for text in texts], typed=False)).logits
        loss = cross_entropy(logits, torch.tensor([text.label for text in texts]))
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 0.5)
        optimizer.step()
        optimizer.zero_grad()
        losses.append(float(loss.detach()))
    with torch.no_grad():
        return losses, model(**rectangle([text.text for text in batches[0]], typed=False)).logits


@pytest.mark.parametrize("family", ["DistilBert", "GPT2"])
def test_all_parameters_are_trained_as_by_transformers(family: str) -> None:
    ours, batches = FullClassifier(base(family), LABELS, 0, tokens=40), [batch(seed) for seed in range(3)]
    head = {
        name: value for name, value in ours.weights().items() if name.startswith(("pre_classifier", "class", "score"))
    }
    losses, logits = of_transformers(stock(family), head, batches)
    assert ours.train(batches, 1e-3, tuning()) == pytest.approx(losses, abs=1e-5)
    assert torch.allclose(ours.logits([text.text for text in batches[0]]), logits, atol=1e-4)


def test_weights_go_in_and_out_and_the_base_is_not_changed() -> None:
    model = base("DistilBert")
    before = {name: value.clone() for name, value in model.base.state_dict().items()}
    one, other = FullClassifier(model, LABELS, 0), FullClassifier(model, LABELS, 1)
    one.train([batch(0)], 1e-3, tuning())
    assert all(torch.equal(value, before[name]) for name, value in model.base.state_dict().items())
    other.load({name: value.numpy() for name, value in one.weights().items()})
    texts = [text.text for text in batch(5)]
    assert torch.equal(one.logits(texts), other.logits(texts))
    weights = one.weights()
    with pytest.raises(ValueError, match="other parameters than the model's"):
        other.load({name: value for name, value in weights.items() if "bias" not in name})
    with pytest.raises(ValueError, match=r"classifier\.bias is \(4,\)"):
        other.load({**weights, "classifier.bias": torch.zeros(4)})


def test_a_gradient_that_is_not_finite_skips_the_step() -> None:
    ours = FullClassifier(base("DistilBert"), LABELS, 0)
    before = ours.weights()
    ours.train([[text._replace(weight=float("inf")) for text in batch(0)]], 1e-3, tuning())
    assert all(torch.equal(value, before[name]) for name, value in ours.weights().items())


def test_a_pass_that_runs_out_of_memory_is_redone_in_parts(monkeypatch: pytest.MonkeyPatch) -> None:
    whole, parts = (FullClassifier(base("DistilBert"), LABELS, 0, tokens=128) for _ in range(2))
    features = ClassifierModel.features

    def lacking(self: ClassifierModel, pack: Any, **more: Any) -> torch.Tensor:
        if pack.ids.shape[1] > 40:
            raise torch.OutOfMemoryError("too large")
        return features(self, pack, **more)

    losses = whole.train([batch(0)], 1e-3, tuning())
    monkeypatch.setattr(ClassifierModel, "features", lacking)
    assert parts.train([batch(0)], 1e-3, tuning()) == pytest.approx(losses, abs=1e-6)
    assert parts.tokens < 128
    assert parts.logits([EncodedText((5,) * 20)] * 3).shape == (3, LABELS)
