"""Texts that a model writes, a token after the other."""

from __future__ import annotations

import torch
import torch.nn.functional as F  # noqa: N812

from pipelines.cvfp.model import Model


@torch.no_grad()  # type: ignore[untyped-decorator]
def written_after(
    model: Model, beginning: list[int], count: int, *, contexts: bool, temperature: float, seed: int
) -> list[int]:
    """`count` tokens after `beginning`, drawn with `temperature`. Without `contexts` each depends on the last alone."""
    generator = torch.Generator().manual_seed(seed)
    weight, bias = model.head_weights()
    context = torch.zeros(1, model.shape.width, device=weight.device)
    found, asked = list[int](), list(beginning)
    for place in range(len(beginning) + count - 1):
        token = model.embedded(torch.tensor(asked[place : place + 1], device=weight.device))
        if contexts:
            context, token = model.step(context, token)
            token = model.rows(context, token)
        if place >= len(beginning) - 1:
            shares = torch.softmax(F.linear(token, weight, bias)[0].float().cpu() / temperature, -1)
            drawn = int(torch.multinomial(shares, 1, generator=generator))
            found.append(drawn)
            asked.append(drawn)
    return found
