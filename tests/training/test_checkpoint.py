"""Training that resumes from the checkpoint after any pass gives bit-identical adapters."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import safetensors.torch
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from hybrid.errors import BadData, CannotRun
from hybrid.training import checkpoint
from hybrid.training.jobs import Job, Trained
from hybrid.training.session import TrainingSession
from hybrid.training.trainer import Trainer
from hybrid.tuning import Tuning
from tests.support.peft_reference import job, texts, tiny_model, trainer

torch.set_num_threads(1)
OLD = Path(__file__).parents[1] / "data" / "training-checkpoint.safetensors"
JOBS = [
    job("a", 1, count=3),
    job("b", 2, rank=2, weight_decay=0.1),
    job("c", 3, count=5, batch=3),
    job("d", 4, count=2),
]


def all_states(tokens: int = 4096) -> tuple[list[Trained], list[tuple[bytes, int]]]:
    """The results of a whole training, and after each pass the checkpoint and the number of jobs done by then."""
    ours = trainer(tiny_model(), slots=2, tokens=tokens)
    done: list[Trained] = []
    states: list[tuple[bytes, int]] = []
    for one in ours.train(JOBS, after_pass=lambda state: states.append((state(), len(done)))):
        done.append(one)  # noqa: PERF402  (states count what is done meanwhile)
    ours.close()
    return done, states


def same(one: Trained, other: Trained) -> bool:
    assert one.adapter is not None
    assert other.adapter is not None
    return (
        one.job.name == other.job.name
        and one.losses == other.losses
        and one.adapter.to_bytes(torch.float32) == other.adapter.to_bytes(torch.float32)
    )


@pytest.mark.parametrize("tokens", [4096, 60])
def test_going_on_after_any_pass_gives_the_same_adapters_to_the_bit(tokens: int) -> None:
    whole, states = all_states(tokens)
    assert len(states) > 6
    for data, before in states[:-1]:
        names = checkpoint.read(data).done([one.name for one in JOBS])
        assert len(names) == before
        ours = trainer(tiny_model(), slots=2, tokens=tokens)
        rest = list(ours.train(JOBS, resume=data))
        ours.close()
        expected = [one for one in whole if one.job.name not in names]
        assert len(rest) == len(expected)
        assert all(same(a, b) for a, b in zip(rest, expected, strict=True))


def test_a_state_is_used_on_a_machine_that_would_have_planned_otherwise() -> None:
    whole, states = all_states(60)
    ours = trainer(tiny_model(), slots=4, tokens=4096)
    rest = list(ours.train(JOBS, resume=states[0][0]))
    ours.close()
    assert all(same(a, b) for a, b in zip(rest, whole, strict=True))


def test_a_state_that_does_not_fit_or_is_of_other_jobs_is_refused() -> None:
    _, states = all_states()
    ours = trainer(tiny_model(), slots=2)
    with pytest.raises(BadData, match="other trainings"):
        list(ours.train(JOBS[:3], resume=states[0][0]))
    ours.close()
    small = trainer(tiny_model(), slots=1, free=0)
    small._free = lambda: 3_000_000
    with pytest.raises(BadData, match="more free memory"):
        list(small.train(JOBS, resume=states[0][0]))
    small.close()


def test_a_checkpoint_of_an_earlier_version_goes_on() -> None:
    """The file was written after the second of four passes, before plans had more than five figures."""
    how = {"targets": ("v_proj",), "learning_rate": 3e-3, "epochs": 2, "rank": 4, "alpha": 8.0, "warmup": 1}
    jobs = [Job("one", Tuning({"texts": 1}, **how), texts(1, 3))]
    found = []
    for resume in (OLD.read_bytes(), None):
        ours = Trainer(tiny_model(layers=1), ("v_proj",), slots=1, tokens=4096, free=lambda: 1 << 30)
        found += ours.train(jobs, resume=resume)
        ours.close()
        assert ours.steps == (2 if resume else 4)
    resumed, whole = found
    assert resumed.losses == pytest.approx(whole.losses, abs=1e-5)
    for name, pair in whole.adapter.layers.items():
        for part, other in zip(pair, resumed.adapter.layers[name], strict=True):
            assert torch.allclose(part, other, atol=1e-5)


DAMAGE: list[Any] = [
    lambda about: about.update(version=99),
    lambda about: about.update(next=99),
    lambda about: about.update(turn=-1),
    lambda about: about.update(turn=True),
    lambda about: about["plan"].update(slots=3),
    lambda about: about["plan"].update(tokens="many"),
    lambda about: about["plan"].pop("per_label"),
    lambda about: about["plan"].update(per_square=float("nan")),
    lambda about: about["plan"].update(checkpointed="no"),
    lambda about: about["slots"][0].update(step=10_000),
    lambda about: about["slots"][0].update(left=[17]),
    lambda about: about["slots"][0].update(losses=["nan", {}]),
    lambda about: about["slots"][0].update(losses=[10**400] * len(about["slots"][0]["losses"])),
    lambda about: about["slots"][0].update(job="e"),
    lambda about: about["slots"][0].update(job=3),
    lambda about: about.update(slots=[1, 2]),
    lambda about: about.pop("jobs"),
    lambda about: about.pop("shape"),
]


@pytest.mark.parametrize("number", range(len(DAMAGE)))
def test_a_state_that_anybody_may_have_written_is_checked(number: int) -> None:
    _, states = all_states()
    data = states[1][0]
    header = json.loads(data[8 : 8 + int.from_bytes(data[:8], "little")])
    about = json.loads(header["__metadata__"]["session"])
    DAMAGE[number](about)
    ours = trainer(tiny_model(), slots=2)
    with pytest.raises(BadData):
        list(
            ours.train(
                JOBS, resume=safetensors.torch.save(safetensors.torch.load(data), {"session": json.dumps(about)})
            )
        )
    ours.close()


@settings(deadline=None, max_examples=30)
@given(st.data())
def test_a_torn_or_changed_state_is_refused_or_trains_on(data: st.DataObject) -> None:
    whole = _STATE or _STATE.append(all_states()[1][1][0]) or _STATE
    torn = bytearray(whole[0])
    if data.draw(st.booleans()):
        torn = torn[: data.draw(st.integers(0, len(torn) - 1))]
    else:
        place = data.draw(st.integers(0, 2000))
        torn[place] ^= data.draw(st.integers(1, 255))
    try:
        saved = checkpoint.read(bytes(torn))
        ours = trainer(tiny_model(), slots=2)
        with ours.packed():
            saved.restore(TrainingSession(ours, JOBS, saved.plan(ours.planned(JOBS))))
    except BadData:
        pass


_STATE: list[bytes] = []


def test_what_does_not_fit_is_refused_with_the_arithmetic() -> None:
    ours = trainer(tiny_model(), free=20_000)
    with pytest.raises(CannotRun, match=r"one adapter takes .* a text .* may be used"):
        list(ours.train(JOBS))
    ours.close()


def test_a_job_whose_text_does_not_fit_is_an_error_and_the_others_train() -> None:
    ours = trainer(tiny_model(), slots=2)
    large = job("large", 9, count=2, batch=2)
    plan = ours.planned(JOBS)
    ours._free = lambda: int((plan.per_slot + plan.cost(40, 40)) / 0.9)
    from dataclasses import replace

    from hybrid.training.jobs import Tokens

    long = replace(large, texts=(Tokens((1,) * 400, (True,) * 400),))
    found = {one.job.name: one for one in ours.train([JOBS[3], long])}
    ours.close()
    assert "does not fit" in found["large"].error
    assert found["d"].adapter is not None


def test_jobs_without_anything_to_learn_are_errors() -> None:
    from dataclasses import replace

    from hybrid.training.jobs import Tokens

    ours = trainer(tiny_model())
    empty, blank = replace(JOBS[0], texts=()), replace(JOBS[1], texts=(Tokens((1, 2), (True, False)),))
    refused = replace(JOBS[2], texts=(), error="the template refuses it")
    found = {one.job.name: one.error for one in ours.train([empty, blank, refused])}
    ours.close()
    assert found == {
        "a": "there is no text to train on",
        "b": "no token of its texts has a label",
        "c": "the template refuses it",
    }


def test_files_that_the_system_keeps_in_memory_count_as_free(tmp_path: Any) -> None:
    from hybrid.backends.devices import CPU_CACHE, free_memory
    from hybrid.backends.memory import available

    told = tmp_path / "meminfo"
    told.write_text("MemTotal:       24000000 kB\nMemFree:  500000 kB\nMemAvailable:   20000000 kB\n")
    assert available(told) == 20_000_000 * 1024
    assert available(tmp_path / "nothing") is None
    assert free_memory("cpu") >= CPU_CACHE
