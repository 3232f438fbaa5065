"""A training set as texts that a policy is trained on: which tokens are labels, and with which weight.

GRPO's loss with one step a round is a weighted cross-entropy: the ratio to the policy before the step is 1, so
clipping it changes nothing, and the loss of a token is -advantage * log p. Rollouts of others are trained as if they
were own ones, unless weights of importance are asked for.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Literal, NamedTuple

from hybrid.loops import PolicyText
from pipelines.sapo.ledger import Group
from pipelines.sapo.rollouts import Answer, Rollout

Normalise = Literal["tokens", "sequences", "constant"]
"""What the sum over the tokens' losses is divided by:

- `tokens`: all completion tokens of the training set (DAPO; what GenRL does);
- `sequences`: the mean over the answers of the mean over the tokens of each (GRPO as first published);
- `constant`: answers times the most tokens of an answer (Dr. GRPO).
"""


class Labels(NamedTuple):
    """The tokens of an answer. `exact`: those that its policy drew, so that their log-probabilities belong to them."""

    ids: tuple[int, ...]
    exact: bool


class Reader:
    """The tokens of answers, found once for each of the last `most` rollouts, since many nodes train the same.

    `tokenizer`: the digest of this node's; `end`: the token that ends an answer. Foreign ids are used when the digests
    agree and `decode` makes the published text of them; without `decode` never. Else the text is encoded anew, since
    the text is what was rewarded.
    """

    def __init__(
        self,
        encode: Callable[[str], Sequence[int]],
        end: int,
        tokenizer: str = "",
        decode: Callable[[Sequence[int]], str] | None = None,
        most: int = 1024,
    ) -> None:
        self._encode, self._end, self._tokenizer, self._decode, self._most = encode, end, tokenizer, decode, most
        self._known: dict[tuple[str, bool], tuple[Labels, ...]] = {}

    def labels(self, rollout: Rollout, *, own: bool) -> tuple[Labels, ...]:
        """The tokens of each answer."""
        at = rollout.id, own
        if at not in self._known:
            if len(self._known) >= self._most:
                del self._known[next(iter(self._known))]
            self._known[at] = tuple(self._answer(one, rollout.tokenizer, own=own) for one in rollout.answers)
        return self._known[at]

    def _answer(self, answer: Answer, tokenizer: str, *, own: bool) -> Labels:
        if answer.ids and (own or self._agrees(answer, tokenizer)):
            return Labels(answer.ids, exact=True)
        ended = (self._end,) if answer.ended else ()
        return Labels((*self._encode(answer.text), *ended), exact=False)

    def _agrees(self, answer: Answer, tokenizer: str) -> bool:
        """Whether foreign ids are what they say: the text, and the end token where it ended and nowhere else."""
        if self._decode is None or not tokenizer or tokenizer != self._tokenizer:
            return False
        body = answer.ids[:-1] if answer.ended else answer.ids
        if (answer.ended and answer.ids[-1] != self._end) or self._end in body:
            return False
        try:
            return self._decode(body) == answer.text
        except (ValueError, IndexError, OverflowError):
            return False


@dataclass(slots=True)
class TrainingSet:
    """What a slot is trained on in a round.

    `own`, `behaviours`: of each of `texts`, whether the node wrote it, and the log-probabilities that its labels were
    drawn with: () for own ones and where they are not known. `tokens`: completion tokens of all groups, dead ones too;
    `trained`: those of `texts`. `dead`: groups without an advantage; `cut`: answers that were cut; `left_out`: groups
    whose prompt leaves no room for an answer.
    """

    texts: list[PolicyText] = field(default_factory=list)
    own: list[bool] = field(default_factory=list)
    behaviours: list[tuple[float, ...]] = field(default_factory=list)
    tokens: int = 0
    trained: int = 0
    dead: int = 0
    cut: int = 0
    left_out: int = 0


class _Sequence(NamedTuple):
    """An answer of a group that is not dead."""

    prompt: tuple[int, ...]
    labels: tuple[int, ...]
    advantage: float
    own: bool
    behaviour: tuple[float, ...]


def training_set(
    slot: int,
    groups: Sequence[Group],
    reader: Reader,
    prompt_of: Callable[[Rollout], tuple[int, ...]],
    *,
    context: int,
    normalise: Normalise = "tokens",
    longest: int = 0,
) -> TrainingSet:
    """The texts that `slot` is trained on, their weights summing the groups' loss as `normalise` says.

    `prompt_of` raises ValueError for a prompt that is too long. `context`: tokens of prompt and answer together;
    `longest`: of an answer, 0 for no limit. What is beyond is cut, its end token too: so a foreign text of any length
    takes no more memory, and no more of the divisor, than one that a node could have written. Dead groups make no texts
    and count in the divisor: their gradient is zero, so it is the same as if they had been computed.
    """
    if normalise == "constant" and longest < 1:
        raise ValueError("normalise=constant needs the most tokens of an answer")
    made, sequences, answers = TrainingSet(), list[_Sequence](), 0
    for group in groups:
        prompt = _prompt(prompt_of, group.rollout, context)
        if prompt is None:
            made.left_out += 1
            continue
        found = reader.labels(group.rollout, own=group.own)
        room = min(context - len(prompt), longest or context)
        kept = [one.ids[:room] for one in found]
        made.cut += sum(len(ids) < len(one.ids) for ids, one in zip(kept, found, strict=True))
        made.tokens += sum(map(len, kept))
        made.dead += group.advantages is None
        answers += len(found)
        sequences += _sequences(group, prompt, found, kept)
    for one in sequences:
        if one.labels and one.advantage:
            divisor = _divisor(normalise, made.tokens, answers, len(one.labels), longest)
            weights = (one.advantage / divisor,) * len(one.labels)
            made.texts.append(PolicyText(slot, one.prompt + one.labels, len(one.prompt), weights))
            made.own.append(one.own)
            made.behaviours.append(one.behaviour)
            made.trained += len(one.labels)
    return made


def _sequences(
    group: Group, prompt: tuple[int, ...], found: Sequence[Labels], kept: Sequence[tuple[int, ...]]
) -> Iterator[_Sequence]:
    if group.advantages is None:
        return
    for labels, ids, answer, advantage in zip(found, kept, group.rollout.answers, group.advantages, strict=True):
        known = labels.exact and not group.own
        yield _Sequence(prompt, ids, advantage, group.own, answer.logprobs[: len(ids)] if known else ())


def _divisor(normalise: Normalise, tokens: int, answers: int, length: int, longest: int) -> int:
    """What the loss of a token is divided by; `length`: tokens of its answer."""
    if normalise == "tokens":
        return tokens
    return answers * (length if normalise == "sequences" else longest)


def _prompt(prompt_of: Callable[[Rollout], tuple[int, ...]], rollout: Rollout, context: int) -> tuple[int, ...] | None:
    """The prompt; None when it leaves no room for an answer."""
    try:
        prompt = prompt_of(rollout)
    except ValueError:
        return None
    return prompt if len(prompt) < context else None


def importance(now: Sequence[float], behaviour: Sequence[float], cap: float) -> tuple[float, ...]:
    """The weight of each token of a foreign answer: min(p_now / p_then, cap), 1 where p_then is not known.

    `now`: log-probabilities of the labels before the step, of the policy that is trained; `behaviour`: of the one that
    wrote the answer, when it drew them. This is truncated importance sampling (Ionides 2008) by token, as IMPALA's rho
    (Espeholt et al. 2018) and TRL's correction for another sampler have it: no gradient goes through the weight, and
    it multiplies the token's weight in the loss. Both are taken at the temperature of the sampling.
    """
    if not behaviour:
        return (1.0,) * len(now)
    largest = 700.0  # whose exponential is finite
    return tuple(min(math.exp(min(here - then, largest)), cap) for here, then in zip(now, behaviour, strict=True))


def truncated(
    texts: Sequence[PolicyText], behaviours: Sequence[Sequence[float]], now: Sequence[Sequence[float]], cap: float
) -> tuple[list[PolicyText], float, float]:
    """The texts with their weights times `importance`, the mean of that, and the share of it that is cut.

    Mean and share are over the tokens whose `behaviours` are known; 1 and 0 when there are none.
    """
    found = [importance(new, then, cap) for new, then in zip(now, behaviours, strict=True)]
    weighted = [
        text._replace(weights=tuple(weight * one for weight, one in zip(text.weights, ratios, strict=True)))
        for text, ratios in zip(texts, found, strict=True)
    ]
    known = [one for ratios, then in zip(found, behaviours, strict=True) if then for one in ratios]
    if not known:
        return weighted, 1.0, 0.0
    return weighted, math.fsum(known) / len(known), sum(one >= cap for one in known) / len(known)
