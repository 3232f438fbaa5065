"""What a pass of policies takes of memory, measured on short packs of a bank's own model."""

from __future__ import annotations

import weakref
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from typing import Any

import torch

from hybrid.loops import PolicyText
from hybrid.training.label_loss import chunk_rows, weighted_loss
from hybrid.training.measure import Storages
from hybrid.training.policy_memory import PassBytes, PassCosts
from hybrid.training.policy_pack import size_of
from hybrid.training.policy_passes import PolicyPasses

PROBES = ((8, 1, 8), (8, 1, 24), (24, 4, 2))
"""Tokens of the prompt, completions, and tokens of each, of short packs that tell tokens from keys."""


def pass_costs(bank: PolicyPasses) -> PassCosts:
    """The costs of a pass of a bank, measured once for a model and a kind of bank."""
    model = bank.policy_model
    known = _measured.setdefault(model.model, {})
    about = type(bank), bank.values.shape[1], bank.checkpointed
    if about not in known:
        features, kept, peak = [], [], []
        with bank.training(), _frozen_embedding(bank) as embedding:
            for probe in PROBES:
                texts = _texts(*probe)
                size = size_of(texts)
                features.append([1.0, *size[:2]])
                between, most = _pass(bank, texts)
                kept.append(between)
                peak.append(most)
        bank.optimizer.forget_gradients(0)
        half = 0 if model.dtype.itemsize >= 4 else model.dtype.itemsize
        wide = max(4, model.dtype.itemsize)
        known[about] = PassCosts(
            _fitted(features, kept),
            _fitted(features, peak),
            embedding,
            per_label=4 * model.width * model.dtype.itemsize,
            per_logits=model.vocabulary * (wide + half),
            chunk=chunk_rows(model.vocabulary, model.device),
            checkpointed=bank.checkpointed,
        )
    return known[about]


_measured: weakref.WeakKeyDictionary[Any, dict[tuple[Any, ...], PassCosts]] = weakref.WeakKeyDictionary()


@contextmanager
def _frozen_embedding(bank: PolicyPasses) -> Iterator[int]:
    """Within it, the word embedding has no gradient. Gives the bytes of that gradient, which end a backward pass: in a
    short pack they would hide the peak of the layers.
    """
    bank.computing([1, *[0] * (len(bank.values) - 1)], gradients=True)
    weight = bank.policy_model.model.get_input_embeddings().weight
    trained = weight.requires_grad
    weight.requires_grad_(requires_grad=False)
    try:
        yield weight.numel() * bank.values.element_size() if trained else 0
    finally:
        weight.requires_grad_(trained)


def _texts(prompt: int, completions: int, own: int) -> list[PolicyText]:
    """Texts that share a prompt; each is another one."""
    ids = [(0,) * prompt + (number + 1,) + (0,) * own for number in range(completions)]
    return [PolicyText(0, one, prompt, (1.0,) * (own + 1)) for one in ids]


def _pass(bank: PolicyPasses, texts: Sequence[PolicyText]) -> tuple[int, int]:
    """The bytes between the halves of a pass with one label, and their peak."""
    one = bank.pack(texts)
    first = slice(0, 1)
    one = replace(one, rows=one.rows[first], targets=one.targets[first], weight=one.weight[first], slot=one.slot[first])
    with Storages() as storages:
        rows = bank.rows(one, gradients=True)
        between = storages.bytes
        loss, _ = weighted_loss(rows, bank.head(0), one.targets, one.weight)
        loss.backward()
    return between, storages.peak


def _fitted(features: Sequence[Sequence[float]], found: Sequence[int]) -> PassBytes:
    wanted = torch.tensor(found, dtype=torch.float64)[:, None]
    solution = torch.linalg.lstsq(torch.tensor(features, dtype=torch.float64), wanted).solution[:, 0]
    fixed, per_token, per_key = (max(0.0, one) for one in solution.tolist())
    return PassBytes(fixed, per_token, per_key)
