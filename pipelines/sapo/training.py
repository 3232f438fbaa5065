"""Optimizer steps on the training sets of a round."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from hybrid.loops import Policies, PolicyText
from pipelines.sapo.settings import SapoSettings
from pipelines.sapo.training_set import TrainingSet, truncated


@dataclass(slots=True)
class Trained:
    """What the steps of a slot's round came to: the loss and the gradient's norm of the first, and skipped steps."""

    loss: float = 0.0
    norm: float = 0.0
    skipped: int = 0


def train(policies: Policies, sets: Mapping[int, TrainingSet], settings: SapoSettings) -> dict[int, Trained]:
    """Train each slot on its set, `settings.updates` times.

    With one update the ratio of new to old probabilities is 1 (GRPO with one iteration, arXiv 2402.03300), so the loss
    is the weighted cross-entropy alone. Further updates multiply each weight with its ratio, and leave out those that
    the clip cuts. A set whose groups are all dead has the gradient 0, which is a step, too: moments decay. A slot
    without groups is not changed.
    """
    some = {slot: one for slot, one in sets.items() if one.tokens}
    done = {slot: Trained() for slot in sets}
    for part in [some] if policies.together else [{slot: one} for slot, one in some.items()]:
        done |= _train(policies, part, settings)
    return done


def _train(policies: Policies, sets: Mapping[int, TrainingSet], settings: SapoSettings) -> dict[int, Trained]:
    done = {slot: Trained() for slot in sets}
    texts = [text for one in sets.values() for text in one.texts]
    if settings.importance_cap and texts:
        texts = _important(policies, texts, [then for one in sets.values() for then in one.behaviours], settings)
    before = policies.logprobs(texts, settings.temperature) if settings.updates > 1 and texts else []
    for update in range(settings.updates):
        now = _clipped(policies, texts, before, settings) if update and texts else texts
        losses = policies.backward(now, settings.temperature) if now else (0.0,) * policies.slots
        for slot, one in done.items():
            step = policies.step(slot, settings.learning_rate)
            one.skipped += step.skipped
            if not update:
                one.loss, one.norm = losses[slot], step.norm
    return done


def _important(
    policies: Policies, texts: Sequence[PolicyText], behaviours: Sequence[Sequence[float]], settings: SapoSettings
) -> list[PolicyText]:
    """The texts with weights of importance; only those are computed whose old probabilities are known."""
    known = [place for place, then in enumerate(behaviours) if then]
    if not known:
        return list(texts)
    foreign, then = [texts[place] for place in known], [behaviours[place] for place in known]
    now = policies.logprobs(foreign, settings.temperature)
    weighted, _, _ = truncated(foreign, then, now, settings.importance_cap)
    found = dict(zip(known, weighted, strict=True))
    return [found.get(place, text) for place, text in enumerate(texts)]


def _clipped(
    policies: Policies, texts: Sequence[PolicyText], before: Sequence[Sequence[float]], settings: SapoSettings
) -> list[PolicyText]:
    """The texts with the weights of a later update: the gradient of min(ratio A, clip(ratio) A)."""
    found = []
    for text, new, old in zip(texts, policies.logprobs(texts, settings.temperature), before, strict=True):
        ratios = (math.exp(min(50.0, a - b)) for a, b in zip(new, old, strict=True))
        weights = tuple(_weight(w, r, settings) for w, r in zip(text.weights, ratios, strict=True))
        found.append(text._replace(weights=weights))
    return found


def _weight(weight: float, ratio: float, settings: SapoSettings) -> float:
    """The weight times the ratio; 0 where the clip cuts it. The sign of a weight is that of its advantage."""
    cut = ratio > 1 + settings.clip_high if weight > 0 else ratio < 1 - settings.clip_low
    return 0.0 if cut else weight * ratio
