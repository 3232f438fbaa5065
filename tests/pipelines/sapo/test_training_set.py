"""Which tokens of a training set are labels, and with which weight."""

from __future__ import annotations

import math
import re
from collections.abc import Sequence

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipelines.sapo.advantages import advantages
from pipelines.sapo.ledger import Group
from pipelines.sapo.rollouts import Answer, Rollout
from pipelines.sapo.training_set import Reader, TrainingSet, importance, training_set, truncated

END, TOKENIZER = 0, "t" * 64
PROMPT = (7, 8, 9)


def encode(text: str) -> tuple[int, ...]:
    """The tokens of a tokenizer with one token for `ab`, which a policy may write as two."""
    return tuple(200 if part == "ab" else ord(part) for part in re.findall("ab|.", text, re.DOTALL))


def decode(ids: Sequence[int]) -> str:
    return "".join("ab" if one == 200 else chr(one) for one in ids)


def group(texts: Sequence[Answer], rewards: tuple[int, ...], *, own: bool = True, node: int = 0) -> Group:
    made = Rollout("c" * 64, node, 0, 0, "bf", 1, tuple(texts), TOKENIZER)
    return Group(made, rewards, advantages(rewards), own)


def built(groups: Sequence[Group], context: int = 100, **other: object) -> TrainingSet:
    reader = Reader(encode, END, TOKENIZER, decode)
    return training_set(2, groups, reader, lambda one: PROMPT, context=context, **other)  # type: ignore[arg-type]


LONG, SHORT = Answer("cde", True), Answer("f", True)


def test_the_labels_are_the_answer_and_its_end_where_it_ended() -> None:
    made = built([group([Answer("cd", True), Answer("cd", False)], (0, 1))])
    assert [one.ids for one in made.texts] == [(*PROMPT, 99, 100, END), (*PROMPT, 99, 100)]
    assert [(one.slot, one.start, len(one.weights)) for one in made.texts] == [(2, 3, 3), (2, 3, 2)]


@given(
    lengths=st.lists(st.integers(1, 9), min_size=4, max_size=4),
    rewards=st.tuples(st.integers(0, 3), st.integers(0, 3), st.integers(0, 3), st.integers(0, 3)),
)
def test_the_weights_are_the_advantages_over_all_completion_tokens(
    lengths: list[int], rewards: tuple[int, ...]
) -> None:
    answers = [Answer("c" * length, True) for length in lengths]
    groups = [group(answers, rewards), group([LONG, SHORT, SHORT, SHORT], (5, 5, 5, 5), own=False, node=1)]
    made = built(groups)
    tokens = sum(lengths) + 4 + 4 + 3 * 2
    assert made.tokens == tokens
    assert made.dead == 1 + (len(set(rewards)) == 1)
    expected = [one for one in advantages(rewards) or () if one]
    assert [one.weights[0] for one in made.texts] == [one / tokens for one in expected]
    assert all(set(one.weights) == {one.weights[0]} for one in made.texts)


def loss(made: TrainingSet) -> float:
    """The set's loss where a label's cross-entropy is its token / 100, which stands for any model's."""
    return math.fsum(
        weight * token / 100
        for text in made.texts
        for weight, token in zip(text.weights, text.ids[text.start :], strict=True)
    )


def test_each_way_to_normalise_is_the_mean_that_it_names() -> None:
    groups = [group([LONG, SHORT], (0, 10_000)), group([SHORT, LONG], (3, 3), own=False, node=1)]
    low, high = advantages((0, 10_000)) or ()
    long, short = (0.99 + 1.00 + 1.01 + 0), (1.02 + 0)
    assert loss(built(groups)) == pytest.approx((low * long + high * short) / 12)
    by_sequence = (low * long / 4 + high * short / 2) / 4
    assert loss(built(groups, normalise="sequences")) == pytest.approx(by_sequence)
    assert loss(built(groups, normalise="constant", longest=50)) == pytest.approx((low * long + high * short) / 200)
    with pytest.raises(ValueError, match="most tokens"):
        built(groups, normalise="constant")


def test_a_text_that_its_writer_drew_in_other_tokens_is_trained_as_it_was_drawn() -> None:
    drawn = Answer("ab", True, (97, 98, END), (-1.0, -2.0, -3.0))
    for own, behaviour in ((True, ()), (False, (-1.0, -2.0, -3.0))):
        made = built([group([drawn, SHORT], (0, 1), own=own, node=1)])
        assert made.texts[0].ids == (*PROMPT, 97, 98, END)
        assert made.behaviours == [behaviour, ()]
        assert made.own == [own, own]


FALSE = {
    "other text": Answer("ab", True, (99, END), (-1.0, -2.0)),
    "no end": Answer("ab", True, (97, 98), (-1.0, -2.0)),
    "an end that is none": Answer("ab", False, (97, 98, END), (-1.0, -2.0, -3.0)),
    "an end within": Answer("ab\0", True, (97, 98, END, END), (-1.0,) * 4),
    "no token": Answer("ab", True, (97, 2**23, END), (-1.0,) * 3),
}


@pytest.mark.parametrize("answer", FALSE.values(), ids=FALSE)
def test_foreign_ids_that_are_not_the_text_are_not_trained(answer: Answer) -> None:
    """The text is what was rewarded: with other ids a sender could teach whatever it likes."""
    made = built([group([answer, SHORT], (0, 1), own=False, node=1)])
    assert made.texts[0].ids[3:] == (*encode(answer.text), *((END,) if answer.ended else ()))
    assert made.behaviours[0] == ()


def test_ids_of_another_tokenizer_are_not_used() -> None:
    drawn = Answer("ab", True, (97, 98, END))
    for reader in (Reader(encode, END, "u" * 64, decode), Reader(encode, END, TOKENIZER)):
        found = reader.labels(group([drawn, drawn], (0, 1)).rollout, own=False)
        assert [one.ids for one in found] == [(200, END)] * 2


def test_a_text_is_encoded_once_for_all_nodes_and_the_oldest_is_forgotten() -> None:
    encoded = []

    def counting(text: str) -> tuple[int, ...]:
        encoded.append(text)
        return encode(text)

    reader = Reader(counting, END, most=2)
    rollouts = [group([Answer(text, True)] * 2, (0, 1)).rollout for text in "cde"]
    for one in (*rollouts[:2], *rollouts[:2], rollouts[2], rollouts[1], rollouts[0]):
        reader.labels(one, own=False)
    assert encoded == [*"ccddeecc"]


def test_what_is_beyond_the_context_is_cut_with_its_end() -> None:
    made = built([group([LONG, SHORT], (0, 1))], context=6)
    assert [one.ids for one in made.texts] == [(*PROMPT, 99, 100, 101), (*PROMPT, 102, END)]
    assert (made.cut, made.tokens) == (1, 5)


def test_a_foreign_text_takes_no_more_room_than_one_that_a_node_could_have_written() -> None:
    """Else one answer of 60,000 tokens takes the memory, and makes the divisor so large that nothing else is learnt."""
    made = built([group([Answer("c" * 60_000, True), SHORT], (0, 1), own=False, node=1)], context=32_768, longest=4)
    assert [len(one.weights) for one in made.texts] == [4, 2]
    assert (made.cut, made.tokens) == (1, 6)


@pytest.mark.parametrize("context", [2, 3])
def test_a_prompt_that_leaves_no_room_is_left_out_and_counted(context: int) -> None:
    made = built([group([LONG, SHORT], (0, 1))], context=context)
    assert (made.texts, made.left_out, made.tokens) == ([], 1, 0)


def test_a_prompt_that_the_policy_refuses_is_left_out_and_counted() -> None:
    def refused(one: Rollout) -> tuple[int, ...]:
        raise ValueError("too long")

    reader = Reader(encode, END)
    assert training_set(0, [group([LONG, SHORT], (0, 1))], reader, refused, context=50).left_out == 1


def test_an_answer_of_nothing_has_no_labels() -> None:
    made = built([group([Answer("", False), Answer("", True)], (0, 1))])
    assert [one.ids for one in made.texts] == [(*PROMPT, END)]
    assert made.tokens == 1


def test_a_set_of_nothing_has_no_texts() -> None:
    assert built([]) == TrainingSet()


def test_importance_is_the_ratio_by_token_up_to_a_cap() -> None:
    assert importance((-1.0, -2.0, -0.5), (-1.0, -1.0, -9.0), 2.0) == (1.0, math.exp(-1), 2.0)
    assert importance((-1.0, -2.0), (), 2.0) == (1.0, 1.0)


def test_the_weights_of_importance_multiply_those_of_known_tokens_alone() -> None:
    drawn = Answer("ab", True, (97, 98, END), (-1.0, -2.0, -3.0))
    made = built([group([drawn, SHORT], (0, 1), own=False, node=1)])
    now = [(-1.0, -1.0, -9.0), (-1.0, -1.0)]
    texts, mean, cut = truncated(made.texts, made.behaviours, now, 2.0)
    (weight, *_), ratios = made.texts[0].weights, (1.0, 2.0, math.exp(-6))
    assert texts[0].weights == tuple(weight * one for one in ratios)
    assert texts[1] == made.texts[1]
    assert (mean, cut) == (math.fsum(ratios) / 3, 1 / 3)
    assert truncated([], [], [], 2.0) == ([], 1.0, 0.0)


@given(pairs=st.lists(st.tuples(st.floats(-1e4, 0), st.floats(-1e4, 0)), max_size=9), cap=st.floats(1e-3, 1e3))
def test_importance_is_finite_whatever_a_sender_says(pairs: list[tuple[float, float]], cap: float) -> None:
    found = importance([one for one, _ in pairs], [one for _, one in pairs], cap)
    assert all(0 <= one <= cap for one in found)
