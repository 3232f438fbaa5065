"""The batched trainer makes the same updates as separate runs, and slots are independent."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import pytest
import torch

from hybrid.training.adapters import PREFIX, LoraWeights, from_bytes, initial_weights, load, write_folder
from hybrid.training.jobs import Job, Tokens, Trained
from hybrid.training.packing import PackedText
from hybrid.training.session import TrainingSession
from hybrid.training.slots import AdapterBank, Route
from hybrid.training.trainer import Trainer
from tests.support.peft_reference import TARGETS, VOCABULARY, by_peft, job, rectangle, texts, tiny_model, trainer

torch.set_num_threads(1)


def trained(model: Any, jobs: Sequence[Job], **how: Any) -> dict[str, Trained]:
    ours = trainer(model, **how)
    try:
        return {one.job.name: one for one in ours.train(jobs)}
    finally:
        ours.close()


def update_error(ours: LoraWeights, theirs: dict[str, torch.Tensor], one: Job, model: Any) -> float:
    """The relative error of the update w - w0 over all matrices: |ours - theirs| / |theirs|."""
    start = initial_weights(layers_of(model), one.tuning.targets, one.tuning.rank, one.tuning.alpha, one.tuning.seed)
    difference = size = 0.0
    for name, pair in ours.layers.items():
        for part, value, first in zip("AB", pair, start.layers[name], strict=True):
            other = theirs[f"{PREFIX}{name}.lora_{part}.weight"].double()
            difference += float(((value - other) ** 2).sum())
            size += float(((other - first) ** 2).sum())
    return (difference / size) ** 0.5


def layers_of(model: Any) -> dict[str, tuple[int, int]]:
    ours = trainer(model)
    layers = ours.slotted.layers
    ours.close()
    return layers


def equal(one: LoraWeights, other: LoraWeights) -> bool:
    pairs = ((a, b) for name in one.layers for a, b in zip(one.layers[name], other.layers[name], strict=True))
    return one.layers.keys() == other.layers.keys() and all(torch.equal(a, b) for a, b in pairs)


FOUR = [
    job("a", 1),
    job("b", 2, count=5, learning_rate=1e-3, weight_decay=0.01, schedule="linear"),
    job("c", 3, count=9, rank=2, alpha=4.0, clip=0.1),
    job("d", 4, count=3, epochs=4, batch=1, clip=0.0, schedule="constant", seed=7),
]


@pytest.mark.parametrize("slots", [1, 3, 8])
@pytest.mark.parametrize(("dtype", "error"), [(torch.float32, 1e-4), (torch.float64, 2e-6)])
def test_the_updates_are_those_of_separate_peft_runs(slots: int, dtype: torch.dtype, error: float) -> None:
    model = tiny_model(dtype)
    found = trained(model, FOUR, slots=slots)
    for one in FOUR:
        weights, losses = by_peft(model, one)
        done = found[one.name]
        assert done.adapter is not None
        assert update_error(done.adapter, weights, one, model) < error
        assert done.losses == pytest.approx(losses, abs=1e-4)
        assert len(losses) == one.steps


def test_a_step_that_is_gathered_over_several_passes_is_the_same_step() -> None:
    model, one = tiny_model(), job("a", 1, count=8, batch=8)
    whole, parts = trained(model, [one])["a"], _in_small_passes(model, one)
    assert whole.adapter is not None
    assert parts.adapter is not None
    assert whole.losses == pytest.approx(parts.losses, abs=1e-5)
    for name, (a, b) in whole.adapter.layers.items():
        assert torch.allclose(a, parts.adapter.layers[name][0], atol=1e-5)
        assert torch.allclose(b, parts.adapter.layers[name][1], atol=1e-5)


def _in_small_passes(model: Any, one: Job) -> Trained:
    ours = trainer(model)
    plan = ours.planned([one])
    with ours.packed():
        session = TrainingSession(ours, [one], replace(plan, tokens=40))
        (done,) = session.run(lambda state: None)
    assert ours.passes > 2 * one.steps
    ours.close()
    return done


def gradients(model: Any, jobs: Sequence[Job]) -> list[torch.Tensor]:
    """The gradients of every slot after one pass over the jobs' first step, in the order of `jobs`."""
    ours = trainer(model)
    with ours.packed():
        session = TrainingSession(ours, jobs, ours.planned(jobs))
        session._fill()
        one = ours.pack(session._chosen(), session.plan.slots)
        session.bank.backward(one)
        place = {progress.job.name: slot for slot, progress in enumerate(session.slots) if progress}
    ours.close()
    assert session.bank.grads is not None
    return [session.bank.grads[place[one.name]].clone() for one in jobs]


def same_lengths(one: Job, shift: int) -> Job:
    """The job with other tokens in texts of the same lengths and labels."""
    moved = tuple(
        Tokens(tuple((id + shift) % VOCABULARY for id in text.ids), text.learned, text.padding) for text in one.texts
    )
    return replace(one, texts=moved)


def test_another_text_in_a_slot_leaves_the_other_slots_gradients_as_they_are_to_the_bit() -> None:
    model = tiny_model()
    before = gradients(model, FOUR)
    after = gradients(model, [FOUR[0], same_lengths(FOUR[1], 5), *FOUR[2:]])
    assert [torch.equal(a, b) for a, b in zip(before, after, strict=True)] == [True, False, True, True]
    assert all(bool(one.abs().sum() > 0) for one in before)


def test_a_slot_that_is_not_in_a_pass_stays_as_it_is_to_the_bit() -> None:
    model, ours = tiny_model(), trainer(tiny_model())
    del model
    jobs = [job("a", 1), job("b", 2)]
    plan = ours.planned(jobs)
    with ours.packed():
        session = TrainingSession(ours, jobs, replace(plan, activations=1))  # one text a pass
        session._fill()
        before = session.bank.values.clone()
        texts_of_first = [session._pass() for _ in range(2)]
    assert texts_of_first[1] == [0]
    assert torch.equal(session.bank.values[1], before[1])
    session._pass()
    ours.close()


def test_a_slot_without_finite_numbers_is_skipped_alone() -> None:
    model = tiny_model()
    broken = LoraWeights(
        {
            name: (a + 1e30, b + 1e30)
            for name, (a, b) in initial_weights(layers_of(model), TARGETS, 2, 2.0, 0).layers.items()
        },
        2,
        2.0,
    )
    jobs = [job("a", 1), job("b", 2), job("c", 3)]
    bad = [jobs[0], replace(jobs[1], start=broken), jobs[2]]
    good = [jobs[0], replace(jobs[1], start=initial_weights(layers_of(model), TARGETS, 2, 2.0, 0)), jobs[2]]
    found, plain = trained(model, bad), trained(model, good)
    assert found["b"].skipped == jobs[1].steps
    assert [found[name].skipped for name in "ac"] == [0, 0]
    for name in "ac":
        assert equal(found[name].adapter, plain[name].adapter)  # type: ignore[arg-type]


def test_a_padded_rank_stays_zero_under_decay() -> None:
    model = tiny_model()
    ours = trainer(model)
    jobs = [job("small", 1, rank=2, weight_decay=0.1), job("large", 2, rank=6, weight_decay=0.1)]
    with ours.packed():
        session = TrainingSession(ours, jobs, ours.planned(jobs))
        session._fill()
        for _ in range(3):
            session._pass()
        slot = next(k for k, held in enumerate(session.slots) if held and held.job.name == "small")
        for name in session.bank.places:
            a, b = (each[slot] for each in session.bank.pair(session.bank.values, name))
            assert not a[:, 2:].any()
            assert not b[2:].any()
            assert a[:, :2].any()
    ours.close()


def test_the_order_of_the_jobs_changes_nothing() -> None:
    model = tiny_model()
    found, turned = trained(model, FOUR), trained(model, FOUR[::-1])
    assert all(equal(found[name].adapter, turned[name].adapter) for name in found)  # type: ignore[arg-type]


def test_a_refilled_slot_is_as_a_fresh_one() -> None:
    model = tiny_model()
    queue = trained(model, FOUR, slots=1)
    for one in FOUR:
        alone = trained(model, [replace(one, tuning=replace(one.tuning))], slots=1)[one.name]
        if one.rank == max(each.rank for each in FOUR):
            assert equal(queue[one.name].adapter, alone.adapter)  # type: ignore[arg-type]
        assert queue[one.name].losses == pytest.approx(alone.losses, abs=1e-5)


def test_logits_in_a_pack_are_those_of_each_text_alone() -> None:
    model = tiny_model()
    plain = [model(input_ids=torch.tensor([text.ids])).logits[0] for text in texts(9, 5)]
    ours = trainer(model)
    bank = AdapterBank(ours.slotted.layers, 3, 4, model, training=False)
    everything = [replace(text, learned=(True,) * len(text.ids)) for text in texts(9, 5)]
    entries = [PackedText(slot, text, 1.0) for slot, text in zip((0, 0, 1, 2, 2), everything, strict=True)]
    one = ours.pack(entries, 3)
    with ours.packed(), torch.no_grad():
        packed = ours.logits_of(one, Route(bank, one.lengths, ours.dtype))
    assert torch.allclose(packed, torch.cat([each[:-1] for each in plain]), atol=1e-4)
    assert len(packed) == sum(len(text.ids) - 1 for text in everything)
    ours.close()
    assert torch.equal(model(input_ids=torch.tensor([everything[0].ids])).logits[0], plain[0])


def test_the_gradients_are_those_of_a_functional_oracle() -> None:
    from torch.func import functional_call, grad, vmap

    model = tiny_model(torch.float64)
    jobs = [
        replace(job(name, seed, count=1, batch=1, rank=3), texts=texts(seed, 1, 12, 12))
        for name, seed in (("a", 1), ("b", 2))
    ]
    labels = [text.learned for one in jobs for text in one.texts]
    found = gradients(model, jobs)
    layers = layers_of(model)
    start = initial_weights(layers, TARGETS, 3, 8.0, 0)
    deltas = {name: torch.zeros(2, b.shape[0], 3, dtype=torch.float64) for name, (_, b) in start.layers.items()}
    frozen = dict(model.named_parameters())

    def loss(b: dict[str, torch.Tensor], ids: torch.Tensor, weight: torch.Tensor) -> torch.Tensor:
        changed = {
            f"{name}.weight": frozen[f"{name}.weight"] + 8.0 / 3 * (b[name] @ start.layers[name][0].double())
            for name in b
        }
        logits = functional_call(model, {**frozen, **changed}, (ids[None],)).logits[0, :-1].double()
        each = torch.logsumexp(logits, -1) - logits.gather(-1, ids[1:, None])[:, 0]
        return (each * weight).sum() / weight.sum()

    ids = torch.tensor([one.texts[0].ids for one in jobs])
    weight = torch.tensor([[float(on) for on in each[1:]] for each in labels], dtype=torch.float64)
    model.set_attn_implementation("eager")
    oracle = vmap(grad(loss))(deltas, ids, weight)
    bank = AdapterBank(layers, 2, 3, model, training=True)
    for slot, mine in enumerate(found):
        for name, theirs in oracle.items():
            _, b = bank.pair(mine[None], name)
            assert torch.allclose(b[0, :3].t(), theirs[slot], atol=1e-5)


def test_trained_padding_is_as_hugging_face_pads_and_labels_it() -> None:
    model = tiny_model()
    plain = texts(5, 2)
    longest = max(len(text.ids) for text in plain) + 3
    padded = [
        Tokens(
            (*text.ids, *[0] * (longest - len(text.ids))),
            (*text.learned, *[True] * (longest - len(text.ids))),
            longest - len(text.ids),
        )
        for text in plain
    ]
    ids, _, mask = rectangle([replace(text, padding=0) for text in padded])
    mask = torch.tensor([[1] * (longest - text.padding) + [0] * text.padding for text in padded])
    expected = model(input_ids=ids, attention_mask=mask).logits
    ours = trainer(model)
    one = ours.pack([PackedText(0, replace(text, learned=(True,) * longest), 1.0) for text in padded], 1)
    bank = AdapterBank(ours.slotted.layers, 1, 4, model, training=False)
    with ours.packed(), torch.no_grad():
        packed = ours.logits_of(one, Route(bank, one.lengths, ours.dtype))
    assert torch.allclose(packed.view(2, longest - 1, -1), expected[:, :-1], atol=1e-4)
    ours.close()


def test_an_exported_adapter_gives_stock_peft_the_same_logits(tmp_path: Any) -> None:
    from peft import PeftModel

    model, one = tiny_model(), job("a", 1, rank=4)
    start = trained(model, [job("policy", 8, rank=2, alpha=2.0, learning_rate=1e-2)])["policy"].adapter
    assert start is not None
    done = trained(model, [replace(one, start=start)])["a"].adapter
    assert done is not None
    assert done.rank == 6
    data = done.to_bytes(torch.float32)
    assert equal(from_bytes(data, "it"), done)
    write_folder(tmp_path, done, data)
    ids = texts(3, 1, 20, 20)[0]
    ours = trainer(model)
    bank = AdapterBank(ours.slotted.layers, 1, 8, model, training=False)
    load(bank, 0, done)
    row = ours.pack([PackedText(0, replace(ids, learned=(True,) * 20), 1.0)], 1)
    with ours.packed(), torch.no_grad():
        expected = ours.logits_of(row, Route(bank, row.lengths, ours.dtype))
    ours.close()
    theirs = PeftModel.from_pretrained(model, str(tmp_path))
    assert torch.allclose(theirs(input_ids=torch.tensor([ids.ids])).logits[0, :-1], expected, atol=1e-4)
    theirs.unload()
    for name, (a, _) in start.layers.items():  # what training started from is as it was
        assert torch.equal(done.layers[name][0][:2], a)


def test_a_start_is_frozen_and_only_the_new_ranks_learn() -> None:
    model = tiny_model()
    start = trained(model, [job("policy", 8, rank=2, alpha=2.0, learning_rate=1e-2)])["policy"].adapter
    assert start is not None
    done = trained(model, [replace(job("a", 1, weight_decay=0.1), start=start)])["a"].adapter
    assert done is not None
    for name, (a, b) in done.layers.items():
        first = start.layers[name]
        assert torch.equal(a[:2], first[0])
        assert torch.allclose(b[:, :2] * done.scale, first[1] * start.scale, atol=1e-7)
        assert b[:, 2:].any()


def test_nothing_is_padded_and_no_logit_is_computed_without_a_label() -> None:
    ours: Trainer = trainer(tiny_model())
    list(ours.train(FOUR))
    assert ours.computed == sum(one.tokens for one in FOUR)
    assert ours.logits == sum(text.labelled * one.tuning.epochs for one in FOUR for text in one.texts)
    ours.close()


def test_half_precision_is_scaled_and_learns_the_same() -> None:
    found = trained(tiny_model(torch.bfloat16), FOUR[:2])
    halves = trained(tiny_model(torch.float16), FOUR[:2])
    exact = trained(tiny_model(), FOUR[:2])
    for name in "ab":
        assert halves[name].skipped == 0
        assert halves[name].losses == pytest.approx(exact[name].losses, rel=0.02)
        assert found[name].losses == pytest.approx(exact[name].losses, rel=0.05)
