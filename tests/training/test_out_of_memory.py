"""Training that runs out of memory goes on in smaller passes and makes the same adapters."""

from __future__ import annotations

import re
import sys
from collections.abc import Callable, Mapping
from dataclasses import replace
from functools import partial
from typing import Any

import pytest
import torch
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils._python_dispatch import TorchDispatchMode

from hybrid.errors import BadData, CannotRun
from hybrid.training import checkpoint
from hybrid.training.jobs import Trained
from hybrid.training.measure import pass_costs
from hybrid.training.out_of_memory import fits
from tests.support.peft_reference import VOCABULARY, job, tiny_model, trainer

torch.set_num_threads(1)
JOBS = [
    job("a", 1, count=3),
    job("b", 2, rank=2, weight_decay=0.1),
    job("c", 3, count=5, batch=3),
    job("d", 4, count=2),
]


ON_THE_HOST = {"initial_weights", "extract", "state", "load"}
"""Functions that copy to the host or compute there, which takes none of a GPU's memory."""


class Allocator(TorchDispatchMode):  # type: ignore[misc]
    """A device whose memory runs out when `refuses(the allocator)` says so; all operations are torch's own.

    A pass begins with the lookup of its tokens' embeddings; what comes before the first one is pass 0. `once`: memory
    is there again after the first failure.
    """

    def __init__(self, refuses: Callable[[Allocator], bool], *, once: bool = False) -> None:
        super().__init__()
        self.refuses, self.once = refuses, once
        self.operations = [0]
        """Operations of each pass so far."""
        self.refused = self.tokens = 0
        """Failures, and the tokens of this pass."""
        self.slots = 0
        """Slots of the newest bank."""

    @property
    def number(self) -> int:
        return len(self.operations) - 1

    def __torch_dispatch__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: Mapping[str, Any] | None = None
    ) -> Any:
        if func is torch.ops.aten.embedding.default:
            self.operations.append(0)
            self.tokens = args[1].numel()
        elif func is torch.ops.aten.zeros.default and len(args[0]) == 2 and args[0][1] > VOCABULARY:  # no matrix
            self.slots = args[0][0]
        self.operations[-1] += 1
        lacking = _allocates(func) and not (self.once and self.refused) and self.refuses(self)
        if lacking and not ON_THE_HOST & _callers():
            self.refused += 1
            self.tokens = 0
            raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB.")
        return func(*args, **kwargs or {})


def _callers() -> set[str]:
    frame, names = sys._getframe(), set()
    while frame:
        names.add(frame.f_code.co_name)
        frame = frame.f_back
    return names


def _allocates(func: Any) -> bool:
    """Views and operations in place take no memory."""
    returns = func._schema.returns
    return bool(returns) and all(one.alias_info is None for one in returns)


def _reached(number: int, operation: int, device: Allocator) -> bool:
    return device.number == number and device.operations[-1] >= operation


def trained(
    refuses: Callable[[Allocator], bool], *, once: bool = False, **how: Any
) -> tuple[dict[str, Trained], Allocator]:
    """The adapters of JOBS. Only the passes run on the allocator: the plan was made before."""
    ours = trainer(tiny_model(), **{"slots": 2, **how})
    ours.planned(JOBS)  # measured once
    allocator = Allocator(refuses, once=once)
    try:
        with allocator:
            return {one.job.name: one for one in ours.train(JOBS)}, allocator
    finally:
        ours.close()


def assert_same(found: Mapping[str, Trained], whole: Mapping[str, Trained]) -> None:
    """Within the tolerance of `test_a_step_that_is_gathered_over_several_passes_is_the_same_step`."""
    assert found.keys() == whole.keys()
    for name, one in whole.items():
        ours = found[name]
        assert ours.adapter is not None
        assert one.adapter is not None
        assert ours.losses == pytest.approx(one.losses, abs=1e-5)
        for layer, pair in one.adapter.layers.items():
            for part, other in zip(ours.adapter.layers[layer], pair, strict=True):
                assert torch.allclose(part, other, atol=1e-5)


@pytest.fixture(scope="module")
def whole() -> tuple[dict[str, Trained], list[int]]:
    """The adapters without a failure, and the operations of each pass."""
    found, allocator = trained(lambda _: False)
    return found, allocator.operations


@pytest.mark.slow
@pytest.mark.parametrize("part", [0.1, 0.5, 0.9])
def test_memory_that_runs_out_in_any_pass_changes_no_adapter(
    whole: tuple[dict[str, Trained], list[int]], part: float
) -> None:
    """Forward, backward, optimizer: at `part` of the operations of each pass in turn."""
    expected, operations = whole
    assert len(operations) > 8
    failures = 0
    for number in range(1, len(operations)):
        last = int(operations[number] * part)
        found, allocator = trained(partial(_reached, number, last), once=True)
        failures += allocator.refused
        assert_same(found, expected)
    assert failures >= len(operations) - 2  # the last operations of a pass may be on the host


@pytest.mark.slow
@pytest.mark.parametrize("slots", [2, 4])
def test_every_pass_that_is_too_large_is_divided_until_it_fits(
    whole: tuple[dict[str, Trained], list[int]], slots: int
) -> None:
    largest = max(len(text.ids) for one in JOBS for text in one.texts)
    found, allocator = trained(lambda device: device.tokens > largest, slots=slots)
    assert_same(found, whole[0])
    assert 1 <= allocator.refused <= 4  # the smaller plan is kept, not tried anew in every pass


@pytest.mark.slow
def test_fewer_adapters_are_trained_at_once_when_one_text_does_not_fit(
    whole: tuple[dict[str, Trained], list[int]], caplog: pytest.LogCaptureFixture
) -> None:
    """Only with one adapter there is room: its jobs that lose their slot start again later."""
    found, allocator = trained(lambda device: device.number > 3 and device.slots > 1, slots=4)
    assert allocator.slots == 1
    assert_same(found, whole[0])
    assert "from now on 1 adapters are trained at once" in caplog.text


def test_the_least_that_does_not_fit_is_refused_with_the_arithmetic() -> None:
    with pytest.raises(CannotRun, match=r"one text of \d+ tokens: 1 adapters x .* activations .* free"):
        trained(lambda device: device.number > 0)


def test_memory_that_is_lacking_before_the_first_pass_is_no_internal_error() -> None:
    with pytest.raises(CannotRun, match="an adapter: 1 adapters"):
        trained(lambda device: device.number == 0)
    model = tiny_model()
    with Allocator(lambda _: True), pytest.raises(CannotRun, match="does not suffice for training"):
        trainer(model)


def test_memory_that_is_lacking_while_the_plan_is_measured_is_refused_with_the_arithmetic() -> None:
    ours = trainer(tiny_model())
    with Allocator(lambda device: device.tokens > 30), pytest.raises(CannotRun) as caught:
        list(ours.train(JOBS))
    ours.close()
    assert "at most 48 tokens, with which the plan is measured" in caught.value.message
    assert re.search(r"takes \d+ MiB \(\d+,\d+ parameters x 16 bytes\), 1,024 MiB are free", caught.value.message)
    assert "nvidia-smi" in caught.value.hint


def test_without_memory_for_the_longer_packs_the_shorter_ones_are_the_measure() -> None:
    """Attention that keeps squares is measured at up to 768 tokens; texts may be shorter."""
    ours = trainer(tiny_model())
    with sdpa_kernel(SDPBackend.MATH), Allocator(lambda device: device.tokens > 200) as allocator:
        costs = pass_costs(ours, 4)
    ours.close()
    assert allocator.refused == 1
    assert costs.per_square >= 4 * 6 * 2  # a number of 4 bytes for each pair, head and layer


@pytest.mark.slow
@pytest.mark.parametrize(
    ("refuses", "once", "smaller"),
    [
        (lambda device: device.number == 2, True, "tokens"),
        (lambda device: device.number > 2 and device.slots > 2, False, "slots"),
    ],
)
def test_a_checkpoint_after_memory_ran_out_goes_on_with_the_smaller_plan_to_the_bit(
    refuses: Callable[[Allocator], bool], once: bool, smaller: str
) -> None:
    states: list[tuple[bytes, set[str]]] = []
    done: dict[str, Trained] = {}
    ours = trainer(tiny_model(), slots=4)
    ours.planned(JOBS)
    with Allocator(refuses, once=once):
        for one in ours.train(JOBS, after_pass=lambda state: states.append((state(), set(done)))):
            done[one.job.name] = one
    ours.close()
    plans = [checkpoint.read(data).metadata["plan"] for data, _ in states]
    assert plans[-1][smaller] < plans[0][smaller]
    after = [one for one, plan in zip(states, plans, strict=True) if plan == plans[-1]][:-1]
    assert len(after) > 4
    for data, before in after:
        assert checkpoint.read(data).done([one.name for one in JOBS]) == before
        ours = trainer(tiny_model(), slots=4)
        rest = {one.job.name: one for one in ours.train(JOBS, resume=data)}
        ours.close()
        assert rest.keys() == done.keys() - before
        for name, one in rest.items():
            adapter, expected = one.adapter, done[name].adapter
            assert adapter is not None
            assert expected is not None
            assert adapter.to_bytes(torch.float32) == expected.to_bytes(torch.float32)


def test_a_checkpoint_for_which_memory_is_lacking_is_not_resumed() -> None:
    states: list[bytes] = []
    ours = trainer(tiny_model(), slots=2)
    list(ours.train(JOBS, after_pass=lambda state: states.append(state())))
    full = Allocator(lambda device: device.number == 0)
    with full, pytest.raises((BadData, CannotRun)):
        list(ours.train(JOBS, resume=states[0]))
    ours.close()


def test_other_errors_are_not_taken_for_a_lack_of_memory() -> None:
    def wrong() -> None:
        raise RuntimeError("mat1 and mat2 shapes cannot be multiplied")

    def lacking() -> None:
        raise RuntimeError("[enforce fail] DefaultCPUAllocator: can't allocate memory: you tried to allocate 9 bytes")

    with pytest.raises(RuntimeError, match="mat1"):
        fits(wrong)
    assert not fits(lacking)
    assert fits(lambda: replace(JOBS[0], error=""))
