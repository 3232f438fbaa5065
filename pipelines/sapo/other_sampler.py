"""How far the log-probabilities of another sampler, such as vLLM, are from those of the model that is trained."""

from __future__ import annotations

from collections.abc import Sequence
from statistics import fmean

from hybrid.canonical import Json
from hybrid.loops import Policies, PolicyText, Prompt, Sampled

MOST = 8
"""Completions of a node in a round that are compared: all of them would cost a third of training."""


def compared(
    policies: Policies, prompts: Sequence[Sequence[Prompt]], sampled: Sequence[Sequence[Sampled]]
) -> dict[int, Json]:
    """Slot -> the sampler, and the mean and the largest difference of a token's log-probability over some completions.

    `prompts` and `sampled` are those of each node. They have one temperature, and no nucleus: within one the sampler's
    probabilities are not those of training.
    """
    some = [
        pair
        for asked, wrote in zip(prompts, sampled, strict=True)
        for pair in list(zip(asked, wrote, strict=True))[:: -(-len(asked) // MOST) or 1]
    ]
    apart: dict[int, list[float]] = {}
    for (one, _), each in zip(some, differences(policies, some), strict=True):
        apart.setdefault(one.slot, []).extend(each)
    return {
        slot: {
            "name": policies.sampler,
            "tokens": len(each),
            "mean": round(fmean(each), 9),
            "most": round(max(each), 9),
        }
        for slot, each in apart.items()
    }


def differences(policies: Policies, completions: Sequence[tuple[Prompt, Sampled]]) -> list[list[float]]:
    """For each completion, how far the log-probability of each token is from that of its prompt's slot at present.

    That is computed at the temperature of the first prompt that is not greedy; else at 1.
    """
    temperature = next((one.sampling.temperature for one, _ in completions if one.sampling.temperature), 1.0)
    texts = [PolicyText(one.slot, (*one.ids, *of.ids), len(one.ids), (1.0,) * len(of.ids)) for one, of in completions]
    pairs = zip(policies.logprobs(texts, temperature), completions, strict=True)
    return [[abs(a - b) for a, b in zip(here, of.logprobs, strict=True)] for here, (_, of) in pairs]
