"""The weights of a training set are GRPO: loss and gradient as the papers write them, by automatic differentiation."""

from __future__ import annotations

import random

import pytest

from pipelines.sapo.advantages import advantages
from pipelines.sapo.ledger import Group
from pipelines.sapo.rollouts import Answer, Rollout
from pipelines.sapo.training_set import Normalise, Reader, TrainingSet, training_set

torch = pytest.importorskip("torch")

VOCABULARY, POSITIONS, END, LONGEST = 12, 9, 0, 8
PROMPT = (3, 4)


def groups(seed: int) -> list[Group]:
    """Groups of four answers; one of them is dead."""
    chance, found = random.Random(seed), []
    for slot, dead in enumerate((False, True, False)):
        answers = []
        for _ in range(4):
            ids = tuple(chance.randrange(1, VOCABULARY) for _ in range(chance.randrange(1, LONGEST)))
            ended = chance.random() < 0.5
            answers.append(Answer("", ended, (*ids, END) if ended else ids))
        rewards = (500,) * 4 if dead else (0, 10_000, chance.choice((0, 500)), 10_000)
        rollout = Rollout("c" * 64, 0, 0, slot, "bf", slot, tuple(answers), "t")
        found.append(Group(rollout, rewards, advantages(rewards), own=True))
    return found


def as_published(table: torch.Tensor, of: list[Group], normalise: Normalise, clip: tuple[float, float]) -> torch.Tensor:
    """GRPO's loss with one update: padded completions, advantages in floating point, the ratio and its clip.

    `table` [position, token] stands for a model: the logits of each position, whatever came before.
    """
    answers = [answer.ids for group in of for answer in group.rollout.answers]
    ids = torch.tensor([[*one, *[END] * (LONGEST - len(one))] for one in answers])  # [answers, LONGEST]
    mask = torch.tensor([[float(place < len(one)) for place in range(LONGEST)] for one in answers])
    rewards = torch.tensor([[one / 10_000 for one in group.rewards] for group in of], dtype=torch.float64)
    scaled = (rewards - rewards.mean(1, keepdim=True)) / (rewards.std(1, keepdim=True) + 1e-4)
    scaled[1] = 0.0  # the dead group: in floating point it need not be
    logs = torch.log_softmax(table[:LONGEST], -1)[torch.arange(LONGEST), ids]
    ratio = torch.exp(logs - logs.detach())
    by = scaled.reshape(-1, 1)
    losses = -torch.minimum(ratio * by, ratio.clamp(1 - clip[0], 1 + clip[1]) * by) * mask
    if normalise == "tokens":
        return losses.sum() / mask.sum()
    if normalise == "sequences":
        return (losses.sum(1) / mask.sum(1)).mean()
    return losses.sum() / (len(answers) * LONGEST)


def gradient_of(made: TrainingSet, table: torch.Tensor) -> torch.Tensor:
    """The gradient of the weighted cross-entropy that a policy is trained with."""
    loss = torch.zeros((), dtype=torch.float64)
    for text in made.texts:
        for place, (token, weight) in enumerate(zip(text.ids[text.start :], text.weights, strict=True)):
            loss = loss - weight * torch.log_softmax(table[place], -1)[token]
    (found,) = torch.autograd.grad(loss, table)
    return found


@pytest.mark.parametrize("normalise", ["tokens", "sequences", "constant"])
@pytest.mark.parametrize("seed", range(5))
def test_without_foreign_rollouts_it_is_plain_grpo(normalise: Normalise, seed: int) -> None:
    torch.manual_seed(seed)
    table = torch.randn(POSITIONS, VOCABULARY, dtype=torch.float64, requires_grad=True)
    of = groups(seed)
    reader = Reader(lambda text: (), END, "t")
    made = training_set(0, of, reader, lambda one: PROMPT, context=50, normalise=normalise, longest=LONGEST)
    assert made.dead == 1
    (wanted,) = torch.autograd.grad(as_published(table, of, normalise, (0.2, 0.28)), table)
    assert torch.allclose(gradient_of(made, table), wanted, rtol=0, atol=1e-15)
    assert wanted.abs().max() > 1e-3


def test_the_clip_changes_nothing_while_a_round_has_one_update() -> None:
    """The ratio is 1: so settings refuse other clips then, and the paper's are without effect."""
    table = torch.randn(POSITIONS, VOCABULARY, dtype=torch.float64, requires_grad=True)
    found = [
        torch.autograd.grad(as_published(table, groups(0), "tokens", clip), table)[0]
        for clip in ((0.2, 0.28), (1e-9, 1e-9), (1.0, 100.0))
    ]
    assert torch.equal(found[0], found[1])
    assert torch.equal(found[0], found[2])
