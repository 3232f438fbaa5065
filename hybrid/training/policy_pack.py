"""Packs of policy texts: one row without padding, in which the completions of a prompt share its computation.

The last token of a text is no input: nothing follows it. The first label of a completion is predicted by the prompt's
last row.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from itertools import groupby

import torch

from hybrid.loops import PolicyText
from hybrid.training.prefix_attention import PrefixLayout, Segment, layout_of


@dataclass(frozen=True, slots=True)
class PolicyPack:
    """One pass: ids and positions [1, T], sorted by slot, and the labels in the order of the texts.

    Label i: row `rows[i]` predicts `targets[i]`; `slot[i]` and `weight[i]` are the slot and the weight of its loss.
    `lengths[k]` consecutive tokens belong to slot k.
    """

    ids: torch.Tensor
    positions: torch.Tensor
    rows: torch.Tensor
    targets: torch.Tensor
    slot: torch.Tensor
    weight: torch.Tensor
    lengths: tuple[int, ...]
    layout: PrefixLayout


def group_of(text: PolicyText) -> tuple[int, tuple[int, ...]]:
    """What texts have in common that share the computation of their prompt."""
    return text.slot, text.ids[: text.start]


def pack(texts: Sequence[PolicyText], slots: int, device: torch.device, dtype: torch.dtype) -> PolicyPack:
    """The pack of texts that are sorted by slot, those of a prompt adjacent. `dtype`: of the weights."""
    ids: list[int] = []
    positions: list[int] = []
    rows: list[int] = []
    segments: list[Segment] = []
    lengths = [0] * slots
    for (slot, prompt), group in groupby(texts, key=group_of):
        first, before = len(ids), len(prompt)
        segments.append(Segment(first, before))
        ids += prompt
        positions += range(before)
        for text in group:
            more = text.ids[text.start : -1]
            rows += (first + before - 1, *range(len(ids), len(ids) + len(more)))
            segments.append(Segment(len(ids), len(more), first, before))
            ids += more
            positions += range(before, before + len(more))
        lengths[slot] += len(ids) - first
    return PolicyPack(
        ids=torch.tensor(ids)[None].to(device),
        positions=torch.tensor(positions)[None].to(device),
        rows=torch.tensor(rows).to(device),
        targets=torch.tensor([id for text in texts for id in text.ids[text.start :]]).to(device),
        slot=torch.tensor([text.slot for text in texts for _ in text.weights]).to(device),
        weight=torch.tensor([weight for text in texts for weight in text.weights], dtype=dtype).to(device),
        lengths=tuple(lengths),
        layout=layout_of(segments, device),
    )


def passes(texts: Sequence[PolicyText], fits: Callable[[int, int, int], bool]) -> Iterator[list[PolicyText]]:
    """The texts, sorted by slot and prompt, in parts that fit, or of one text.

    `fits` is asked about tokens, keys and labels. The texts of a prompt are divided only where they are more than a
    part.
    """
    part: list[PolicyText] = []
    size = (0, 0, 0)
    for group in _groups(texts):
        whole = _sum(size, size_of(group))
        if part and not fits(*whole):
            yield part
            part, size, whole = [], (0, 0, 0), size_of(group)
        if fits(*whole):
            part, size = [*part, *group], whole
            continue
        for text in group:  # part is empty, or of this group's texts
            if part and not fits(*size_of([*part, text])):
                yield part
                part = []
            part.append(text)
        size = size_of(part)
    if part:
        yield part


def size_of(group: Sequence[PolicyText]) -> tuple[int, int, int]:
    """The tokens, the keys of attention, and the labels of texts of one prompt in a pass."""
    prompt, own = group[0].start, [len(text.ids) - text.start - 1 for text in group]
    continued = sum(one > 0 for one in own)
    return prompt + sum(own), prompt + continued * (prompt + max(own)), sum(own) + len(own)


def _sum(one: tuple[int, int, int], other: tuple[int, int, int]) -> tuple[int, int, int]:
    return one[0] + other[0], one[1] + other[1], one[2] + other[2]


def _groups(texts: Sequence[PolicyText]) -> list[list[PolicyText]]:
    groups: dict[tuple[int, tuple[int, ...]], list[PolicyText]] = {}
    for text in texts:
        groups.setdefault(group_of(text), []).append(text)
    return sorted(groups.values(), key=lambda group: group[0].slot)


def merged(texts: Sequence[PolicyText]) -> list[PolicyText]:
    """Each text once, with the sum of its weights, without those whose weights are all zero: they have no gradient."""
    found: dict[tuple[int, tuple[int, ...], int], tuple[float, ...]] = {}
    for slot, ids, start, weights in texts:
        about = slot, ids, start
        found[about] = tuple(map(sum, zip(found[about], weights, strict=True))) if about in found else weights
    return [PolicyText(*about, weights) for about, weights in found.items() if any(weights)]
