"""A pass copies one buffer to the device and waits for nothing."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch.utils._python_dispatch import TorchDispatchMode

from hybrid.training.adapters import initial_weights
from hybrid.training.packing import PackedText
from hybrid.training.session import TrainingSession
from hybrid.training.trainable import TrainableBank
from hybrid.training.transfer import to_device
from tests.support.peft_reference import TARGETS, job, tiny_model, trainer

torch.set_num_threads(1)
META = torch.device("meta")
WAITING = {"_local_scalar_dense", "nonzero", "equal", "is_nonzero", "masked_select", "_unique2"}
"""Operations that a GPU's program waits for, since their result is on the host or decides a size."""


class Watch(TorchDispatchMode):  # type: ignore[misc]
    """Counts the copies between devices, and notes operations that wait for a device."""

    def __init__(self) -> None:
        super().__init__()
        self.copies: list[str] = []
        self.waits: list[str] = []

    def __torch_dispatch__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: Mapping[str, Any] | None = None
    ) -> Any:
        found = func(*args, **kwargs or {})
        name, given = func.overloadpacket.__name__, [one for one in args if isinstance(one, torch.Tensor)]
        if name in WAITING:
            self.waits.append(name)
        tensors = [*given, found] if isinstance(found, torch.Tensor) else given
        if len({one.device for one in tensors if one.ndim}) > 1:
            self.copies.append(name)
        return found


def test_arrays_arrive_as_they_were() -> None:
    arrays = [torch.arange(7), torch.ones(3, 1, dtype=torch.bool), torch.zeros(0, dtype=torch.long), torch.ones(5)]
    for one, there in zip(arrays, to_device(arrays, META), strict=True):
        assert (one.shape, one.dtype, there.device) == (there.shape, there.dtype, META)
    with Watch() as watch:
        to_device(arrays, META)
    assert watch.copies == ["_to_copy"]


def test_a_pass_copies_one_buffer_to_the_device_and_an_adapter_one(monkeypatch: Any) -> None:
    """On a device without memory, where a program that waits for a value fails."""
    ours = trainer(tiny_model().to(META))
    for way in ("padded", "loop"):
        monkeypatch.setattr("hybrid.training.slots.best_method", lambda *_, way=way: way)
        with ours.packed():
            bank = TrainableBank(ours, 5, 4)
            jobs = [job(str(slot), slot, count=4, batch=4) for slot in range(5)]
            with Watch() as watch:
                for slot, one in enumerate(jobs):
                    bank.put(slot, initial_weights(ours.slotted.layers, TARGETS, 4, 8.0, slot), one.tuning)
            assert watch.copies == ["copy_"] * len(jobs)
            bank.scales_on_device()
            entries = [PackedText(slot, text, 1.0) for slot, one in enumerate(jobs) for text in one.texts]
            with Watch() as watch:
                bank.backward(ours.pack(entries, 5))
            assert watch.copies == ["_to_copy"]
    ours.close()


def test_a_pass_with_its_optimizer_steps_waits_for_nothing() -> None:
    ours = trainer(tiny_model())
    jobs = [job(str(slot), slot, count=4, batch=2) for slot in range(3)]
    with ours.packed():
        session = TrainingSession(ours, jobs, ours.planned(jobs))
        session._fill()
        for _ in range(3):
            with Watch() as watch:
                assert session._pass()
            assert not watch.waits
    ours.close()
