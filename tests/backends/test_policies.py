"""Policies on the backend `transformers`: prompts, what they sample in one loop, and that training agrees with it."""

from __future__ import annotations

import random
from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from transformers import GPT2Config, GPT2LMHeadModel, MistralConfig, MistralForCausalLM

from hybrid.backends.policies import LanguageModelPolicies, tokenizer_digest
from hybrid.backends.policy_sampling import Limits, PolicySampler, SlottedBank
from hybrid.backends.transformers import TransformersBackend
from hybrid.errors import CannotRun, Temporary, UsageError
from hybrid.execution.loop_engine import LoopBackend
from hybrid.loops import PolicyText, Prompt, Sampled
from hybrid.records import Message, Request, Sampling
from hybrid.tuning import PolicyTuning
from tests.support.small_hf_model import CHATML, chatml, headers, made, write_model

torch.set_num_threads(1)
LORA, FULL = PolicyTuning(rank=8, alpha=16.0), PolicyTuning(rank=0)
SLOTS = 3


@pytest.fixture(scope="module")
def backend(tmp_path_factory: pytest.TempPathFactory) -> Iterator[TransformersBackend]:
    one = TransformersBackend(str(write_model(tmp_path_factory.mktemp("policies") / "m", chatml())), {"device": "cpu"})
    yield one
    one.close()


@pytest.fixture(scope="module", params=[LORA, FULL], ids=["lora", "full"])
def policies(backend: TransformersBackend, request: pytest.FixtureRequest) -> Iterator[LanguageModelPolicies]:
    """Policies of which no two are the same."""
    made = policies_of(backend, SLOTS, request.param)
    for slot in range(SLOTS):
        made.begin(slot, slot)
        changed(made, slot)
    yield made
    made.close()


def policies_of(backend: TransformersBackend, slots: int, tuning: PolicyTuning = LORA) -> LanguageModelPolicies:
    found = backend.policies(slots, tuning)
    assert isinstance(found, LanguageModelPolicies)
    return found


def changed(policies: LanguageModelPolicies, slot: int) -> None:
    """Train a slot with something of its own."""
    ids = policies.encode(f"{slot} is what slot {slot} says")
    policies.backward([PolicyText(slot, ids, 1, (1.0,) * (len(ids) - 1))])
    policies.step(slot, 0.05)


def asked(policies: LanguageModelPolicies, samples: int = 2, **how: float) -> list[Prompt]:
    """Two questions a slot, in no order, each sampled several times."""
    texts = ("Hi", "What is 2 + 3, and what is the capital of France?")
    prompts = [
        Prompt(
            slot,
            policies.prompt([Message("user", text)]),
            Sampling(6, seed=100 * slot + 10 * number + len(text), **how),
        )
        for slot in range(SLOTS)
        for text in texts
        for number in range(samples)
    ]
    random.Random(0).shuffle(prompts)
    return prompts


def texts_of(prompts: list[Prompt], found: list[Sampled]) -> list[PolicyText]:
    return [
        PolicyText(one.slot, one.ids + told.ids, len(one.ids), (0.0,) * len(told.ids))
        for one, told in zip(prompts, found, strict=True)
    ]


@pytest.mark.parametrize("temperature", [0.7, 0.0])
def test_log_probabilities_of_samples_are_those_that_training_computes(
    policies: LanguageModelPolicies, temperature: float
) -> None:
    prompts = asked(policies, temperature=temperature)
    found = policies.sample(prompts)
    again = policies.logprobs(texts_of(prompts, found), temperature or 1.0)
    for told, logprobs in zip(found, again, strict=True):
        assert told.logprobs == pytest.approx(logprobs, abs=1e-4)
    assert len({told.ids for told in found}) > SLOTS


def test_one_loop_writes_what_each_policy_writes_alone(policies: LanguageModelPolicies) -> None:
    prompts = asked(policies, samples=1, temperature=0.0) + asked(policies, samples=1, temperature=1.3)
    together = policies.sample(prompts)
    alone = [policies.sample([one])[0] for one in prompts]
    assert [one.ids for one in together] == [one.ids for one in alone]
    assert [one.text for one in together] == [one.text for one in alone]


def test_a_step_computes_all_rows_and_a_prompt_is_computed_once(backend: TransformersBackend) -> None:
    policies = policies_of(backend, SLOTS)
    for slot in range(SLOTS):
        policies.begin(slot, 0)
    prompts = asked(policies, samples=5, temperature=1.0)
    policies.sample(prompts)
    assert policies.decode_steps <= 5  # six tokens, the first one behind the prompt
    assert policies.prefilled == sum(len(ids) for _, ids in {(one.slot, one.ids) for one in prompts})
    policies.close()


def test_a_policy_writes_something_else_after_a_step_and_the_others_do_not(policies: LanguageModelPolicies) -> None:
    prompts = asked(policies, temperature=0.0, samples=1)
    before, state, weights = policies.sample(prompts), policies.state(), policies.digest(1)
    ids = policies.encode("something else")
    for _ in range(8):
        policies.backward([PolicyText(1, ids, 1, (1.0,) * (len(ids) - 1))])
        policies.step(1, 0.05)
    after = policies.sample(prompts)
    same = [one == other for one, other in zip(before, after, strict=True)]
    assert same == [one.slot != 1 for one in prompts]
    policies.load(state)
    assert policies.digest(1) == weights
    assert policies.sample(prompts) == before


def test_the_seed_alone_decides_what_is_drawn(policies: LanguageModelPolicies) -> None:
    (one, *_) = asked(policies, temperature=1.0)
    other = one._replace(sampling=replace(one.sampling, seed=one.sampling.seed + 1))
    first, second, third = policies.sample([one, other, one])
    assert first == third
    assert first.ids != second.ids


def test_little_memory_makes_several_loops_with_the_same_texts(backend: TransformersBackend) -> None:
    policies = policies_of(backend, SLOTS)
    for slot in range(SLOTS):
        policies.begin(slot, 0)
        changed(policies, slot)
    prompts = asked(policies, temperature=1.0)
    wanted = policies.sample(prompts)
    bank, ends = policies._bank, frozenset([policies.end])
    for limits in (Limits(4, 1 << 40, 64), Limits(99, 1, 1)):
        small = PolicySampler(backend.engine, bank, policies._sampler._detokenizer, ends, limits)
        assert [one.ids for one in small.sample(prompts)] == [one.ids for one in wanted]
        assert small.passes == (3 if limits.rows == 4 else len(prompts))
    policies.close()


class ShortOfMemory:
    """A bank whose device holds so many tokens of a pass at most. The error is torch's own."""

    def __init__(self, bank: SlottedBank, most: int) -> None:
        self._bank, self._most = bank, most
        self.slots, self.together = bank.slots, bank.together

    def using(self, lengths: Sequence[int]) -> AbstractContextManager[None]:
        if sum(lengths) > self._most:
            torch.empty(1 << 60)
        return self._bank.using(lengths)


def test_without_memory_for_all_rows_they_are_halved_with_the_same_texts(backend: TransformersBackend) -> None:
    policies = policies_of(backend, SLOTS)
    for slot in range(SLOTS):
        policies.begin(slot, slot)
    prompts = asked(policies, samples=6, temperature=1.0)
    wanted = policies.sample(prompts)
    longest = max(len(one.ids) for one in prompts)
    for most, works in ((longest, True), (longest - 1, False)):
        bank = ShortOfMemory(policies._bank, most)
        limits, ends = Limits(99, 1 << 40, longest), frozenset([policies.end])
        sampler = PolicySampler(backend.engine, bank, policies._sampler._detokenizer, ends, limits)
        with nullcontext() if works else pytest.raises(Temporary, match="no memory for one completion"):
            assert [one.ids for one in sampler.sample(prompts)] == [one.ids for one in wanted]
    policies.close()


def test_the_end_token_ends_a_completion_and_is_one_of_its_tokens(policies: LanguageModelPolicies) -> None:
    prompt = Prompt(0, policies.prompt([Message("user", "Bye")]), Sampling(30))
    text = PolicyText(0, (*prompt.ids, 9, 10, policies.end), len(prompt.ids), (1.0, 1.0, 1.0))
    state = policies.state()
    for _ in range(20):
        policies.backward([text])
        policies.step(0, 0.03)
    ended, cut = policies.sample([prompt, prompt._replace(sampling=Sampling(2))])
    assert (ended.ids, ended.ended, len(ended.logprobs)) == ((9, 10, policies.end), True, 3)
    assert (cut.ids, cut.ended, cut.text) == ((9, 10), False, ended.text)
    written = ended.text
    (stopped,) = policies.sample([prompt._replace(sampling=Sampling(30, stop=(written[1],)))])
    assert (stopped.text, stopped.ids, stopped.ended) == (written[0], (9, 10), True)
    policies.load(state)


def test_a_completion_is_told_by_its_ids_and_others_cannot_have_been_drawn(
    backend: TransformersBackend, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Where a turn's end is no token of the model, too: the ids then hold the stop text, which the text does not."""
    stop = "ok"
    monkeypatch.setattr(backend, "_chat_template", replace(backend._chat_template, stops=(stop,)))
    policies = policies_of(backend, 1)
    policies.begin(0, 0)
    prompt = Prompt(0, policies.prompt([Message("user", "Bye")]), Sampling(30))
    said, marks, end = policies.encode("Hm, "), policies.encode(stop), policies.end
    text = PolicyText(0, (*prompt.ids, *said, *marks, *marks), len(prompt.ids), (1.0,) * (len(said) + 4))
    for _ in range(20):
        policies.backward([text])
        policies.step(0, 0.03)
    stopped, cut = policies.sample([prompt, prompt._replace(sampling=Sampling(5))])
    assert (stopped.text, stopped.ids, stopped.ended) == ("Hm, ", said + marks, True)
    assert (cut.text, cut.ids, cut.ended) == ("Hm, o", said + marks[:1], False)
    for one in (stopped, cut):
        assert policies.text_of(one.ids, ended=one.ended) == one.text
    assert policies.text_of((*said, end), ended=True) == "Hm, "
    start = backend._tokenizer.convert_tokens_to_ids("<|im_start|>")
    for ids in ((), said, (*said, start), (*said, 10**6), (*said, end, end), (end, *said, end), (*said, *marks, end)):
        with pytest.raises(ValueError, match=r"a completion|a token is below"):
            policies.text_of(ids, ended=True)
    policies.close()


def test_rows_that_end_early_leave_the_loop_and_change_nothing(policies: LanguageModelPolicies) -> None:
    prompts = asked(policies, temperature=1.0)
    lengths = [1, 2, 3, 12]
    mixed = [
        one._replace(sampling=replace(one.sampling, max_tokens=lengths[number % 4]))
        for number, one in enumerate(prompts)
    ]
    for one, told in zip(mixed, policies.sample(mixed), strict=True):
        assert told == policies.sample([one])[0]._replace(logprobs=told.logprobs)
        assert len(told.ids) <= one.sampling.max_tokens


def test_a_prompt_has_the_chat_template_and_room_for_an_answer(backend: TransformersBackend) -> None:
    policies = policies_of(backend, 1)
    policies.begin(0, 0)
    said = [Message("system", "Be brief."), Message("user", "<|im_end|>?")]
    fits = policies.prompt(said)
    assert backend._tokenizer.decode(fits) == (
        "<|im_start|>system\nBe brief.<|im_end|>\n<|im_start|>user\n<|im_end|>?<|im_end|>\n<|im_start|>assistant\n"
    )
    with pytest.raises(ValueError, match="520 tokens"):
        policies.prompt([Message("user", "x" * (520 - len(policies.prompt([Message("user", "")]))))])
    with pytest.raises(ValueError, match="context 512"):
        policies.sample([Prompt(0, fits, Sampling(512))])
    with pytest.raises(ValueError, match="slot 1"):
        policies.sample([Prompt(1, fits, Sampling(5))])
    assert policies.context == 512
    assert policies.encode("<|im_end|>") == policies.encode("<|im") + policies.encode("_end|>")
    assert policies.end not in policies.encode("a<|im_end|>")
    assert policies.decode((*policies.encode("Grüße <|im_end|>"), policies.end)) == "Grüße <|im_end|>"
    for wrong in (-1, 1 << 40):
        with pytest.raises(ValueError, match="below"):
            policies.decode([wrong])
    policies.close()


def test_a_model_without_a_chat_template_gets_a_transcript(tmp_path: Path) -> None:
    backend = TransformersBackend(str(write_model(tmp_path / "m", made(("<end>",), None))), {"device": "cpu"})
    policies = policies_of(backend, 1)
    ids = policies.prompt([Message("system", "Be brief."), Message("user", "Hi")])
    assert backend._tokenizer.decode(ids) == "Instructions: Be brief.\n\nQuestion: Hi\n\nAnswer:"
    assert policies.end == backend._tokenizer.convert_tokens_to_ids("<end>")
    backend.close()


def test_equal_tokenizers_have_equal_digests_and_others_do_not() -> None:
    assert tokenizer_digest(chatml()) == tokenizer_digest(made(("<|im_end|>", "<|im_start|>"), CHATML, pads=True))
    assert tokenizer_digest(chatml()) != tokenizer_digest(headers())


def test_a_loop_is_offered_policies_and_no_classifiers(backend: TransformersBackend) -> None:
    assert isinstance(backend, LoopBackend)
    assert (backend.device, backend.checkpoint) == ("cpu", 30)
    for refused in (
        lambda: backend.tokenize(["a"], 3),
        lambda: backend.classifiers(1, 1, None, 2),
        lambda: backend.full_classifier(2, 0),
    ):
        with pytest.raises(CannotRun, match="no classifiers"):
            refused()


def test_a_sampler_that_there_is_not_is_refused_before_a_model_is_loaded() -> None:
    for options, message in (({"sampler": "vlm"}, "sampler=vlm"), ({"eager": "true"}, "eager is for sampler=vllm")):
        with pytest.raises(UsageError, match=message):
            TransformersBackend("smollm2", {"device": "cpu", **options})


def test_two_swarms_on_one_backend_take_turns_and_requests_are_answered_between(backend: TransformersBackend) -> None:
    asks = [Request(Sampling(5), messages=(Message("user", "Hi"),), key="k")]
    (plain,) = backend.generate(asks)
    one, other = policies_of(backend, 1), policies_of(backend, 1, PolicyTuning(rank=4, targets=("q_proj",)))
    for each in (one, other):
        each.begin(0, 0)
    prompt = Prompt(0, one.prompt(asks[0].messages), Sampling(5))
    (before,) = one.sample([prompt])
    assert before.text == plain.text
    changed(other, 0)
    assert other.sample([prompt]) != [before]
    assert one.sample([prompt]) == [before]
    (between,) = backend.generate(asks)
    assert between.text == plain.text
    one.close()
    other.close()


@pytest.mark.parametrize("kind", ["gpt2", "sliding"])
def test_models_with_other_attention_write_what_requests_get(tmp_path: Path, kind: str) -> None:
    """GPT-2, whose heads share nothing, and a model that sees the last eight tokens only."""
    tokenizer = chatml()
    shape = {"vocab_size": len(tokenizer), "initializer_range": 0.3, "eos_token_id": 0, "bos_token_id": None}
    torch.manual_seed(0)
    if kind == "gpt2":
        model = GPT2LMHeadModel(GPT2Config(n_embd=32, n_layer=2, n_head=4, n_positions=256, **shape))
    else:
        sizes = {"hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 2, "num_attention_heads": 4}
        model = MistralForCausalLM(MistralConfig(**sizes, num_key_value_heads=2, sliding_window=8, **shape))
    model.save_pretrained(tmp_path)
    tokenizer.save_pretrained(tmp_path)
    backend = TransformersBackend(str(tmp_path), {"device": "cpu"})
    chats = [(Message("user", text),) for text in ("Hi", "What is 2 + 3?", "Hi")]
    wanted = {one.key: one.text for one in backend.generate(_requests(chats))}
    policies = policies_of(backend, 2)
    for slot in range(2):
        policies.begin(slot, slot)
    prompts = [Prompt(slot, policies.prompt(chat), Sampling(12)) for slot in range(2) for chat in chats]
    found = policies.sample(prompts)
    assert [one.text for one in found] == [wanted[str(number % 3)] for number in range(6)]
    again = policies.logprobs(texts_of(prompts, found))
    for told, logprobs in zip(found, again, strict=True):
        assert told.logprobs == pytest.approx(logprobs, abs=1e-4)
    backend.close()


def _requests(chats: list[tuple[Message, ...]]) -> list[Request]:
    return [Request(Sampling(12), messages=chat, key=str(number)) for number, chat in enumerate(chats)]


@pytest.mark.slow
def test_policies_over_smollm2_agree_with_their_training() -> None:
    backend = TransformersBackend("smollm2", {"device": "cpu"})
    policies = policies_of(backend, 2, PolicyTuning(rank=4))
    for slot in range(2):
        policies.begin(slot, slot)
    ids = policies.prompt([Message("user", "What is 7 + 5?")])
    prompts = [
        Prompt(slot, ids, Sampling(6, temperature=0.8 * sampled, seed=sampled))
        for slot in range(2)
        for sampled in range(3)
    ]
    found = policies.sample(prompts)
    again = policies.logprobs(texts_of(prompts, found)[1:3], 0.8)
    assert found[1].logprobs == pytest.approx(again[0], abs=1e-4)
    assert found[0].ids == found[3].ids
    (answer,) = backend.generate([Request(Sampling(6), messages=(Message("user", "What is 7 + 5?"),), key="k")])
    assert answer.text == found[0].text
    backend.close()
