"""The simulation finds bugs: plausible bugs are inserted into the protocol, and a scenario must catch each one."""

from __future__ import annotations

import hashlib
import logging
import math
from collections.abc import Callable, Iterator
from typing import Any

import pytest

from hybrid.errors import HybridError
from hybrid.execution.completed import CompletedItems
from hybrid.folder import leases, orders, shards, spool
from hybrid.laptop import receiver
from hybrid.worker import courier, worker
from tests.simulator import scenarios, simulation

Patch = pytest.MonkeyPatch
TRIES = 300
"""Seeds within which a bug has to be caught."""


@pytest.fixture(autouse=True)
def _quiet() -> Iterator[None]:
    logging.disable(logging.CRITICAL)
    yield
    simulation.verified.cache_clear()
    logging.disable(logging.NOTSET)


def ack_before_verify(patch: Patch) -> None:
    """Whatever has the name of a shard is taken over and acknowledged."""

    def fresh(self: Any, stages: list[str], acked: set[str], result: Any) -> Iterator[tuple[str, str, int]]:
        for stage in stages:
            for path in shards.shard_paths(self.run.folder, f"{self.run.place}/{stage}", []):
                if path not in acked:
                    data = self.run.folder.read(path, shards.MAX_FILE)
                    self._store.write(path, data)
                    try:
                        sha256 = shards.verify_shard(path, data).sha256
                    except HybridError:
                        sha256 = hashlib.sha256(data).hexdigest()
                    yield path, sha256, 1

    patch.setattr(receiver.Receiver, "_fresh", fresh)


def ack_before_the_own_copy(patch: Patch) -> None:
    """The ack goes out although the copy on this disk was not written."""
    keep = receiver.Receiver._keep

    def kept(self: Any, kind: str, body: Any) -> str:
        for path in body.get("received", ()):
            self._store.remove(path)
        return keep(self, kind, body)

    patch.setattr(receiver.Receiver, "_keep", kept)


def a_write_is_a_receipt(patch: Patch) -> None:
    """The spool is freed as soon as the mount has taken the file."""
    carry = spool.Spool._carry

    def carried(self: Any, folder: Any, path: str) -> None:
        carry(self, folder, path)
        self._free(path)

    patch.setattr(spool.Spool, "_carry", carried)


def trust_the_listing(patch: Patch) -> None:
    """What a listing does not show was deleted, so the copy here goes, too."""
    receive = receiver.Receiver.receive

    def received(self: Any, stages: list[str]) -> Any:
        result = receive(self, stages)
        there = {path for stage in stages for path in shards.shard_paths(self.run.folder, f"{self.run.place}/{stage}")}
        for path in receiver.acknowledged(self._store, self.run.id, self._name) - there:
            self._store.remove(path)
        return result

    patch.setattr(receiver.Receiver, "receive", received)


def believe_a_done_flag(patch: Patch) -> None:
    """A worker that ended has done its part: its blocks are done."""
    do = worker.Worker._do

    def done(self: Any, name: str) -> Any:
        self.courier.read_orders(name)
        heard = self.courier.monitor(name).latest.values()
        progress = [one.beat.get("progress", {}) for one in heard]
        if any(one.get("done") == one.get("total", -1) for one in progress):
            return worker.RunState("done", "done")
        return (yield from do(self, name))

    patch.setattr(worker.Worker, "_do", done)


def never_look_at_a_file_twice(patch: Patch) -> None:
    """A file that did not verify once is known to be bad."""
    fresh = receiver.Receiver._fresh
    bad: dict[str, set[str]] = {}

    def looked(self: Any, stages: list[str], acked: set[str], result: Any) -> Iterator[tuple[str, str, int]]:
        known = bad.setdefault(self.run.id, set())
        for path, sha256, count in fresh(self, stages, acked, result):
            if path not in known:
                yield path, sha256, count
        known.update(reason.partition(":")[0] for reason in result.refused)

    patch.setattr(receiver.Receiver, "_fresh", looked)


def claims_for_ever(patch: Patch) -> None:
    """A lease is a lock: nobody takes what a dead worker holds."""
    patch.setattr(leases.BeatMonitor, "silent", lambda self, attempt: -math.inf)


def no_fence(patch: Patch) -> None:
    """A worker that nobody hears goes on."""
    patch.setattr(courier.Courier, "fenced", property(lambda self: False))


def orders_are_not_read(patch: Patch) -> None:
    """Cancel is not obeyed."""
    patch.setattr(orders.Orders, "cancelled", property(lambda self: False))


def a_failure_is_for_ever(patch: Patch) -> None:
    """What failed counts as done, whoever asks."""
    failed = CompletedItems.failed
    patch.setattr(CompletedItems, "failed", lambda self, set_aside=(): failed(self))


def failures_are_never_done(patch: Patch) -> None:
    """What failed is done again at once, and again."""
    patch.setattr(CompletedItems, "failed", lambda self, set_aside=(): {})


def records_dropped_when_the_disk_is_full(patch: Patch) -> None:
    """The open shard is emptied before it is written."""

    def close(self: Any) -> None:
        if not self._lines:
            return
        name, data = shards.pack({**self._header, "seq": self.seq}, self._lines, self.seq)
        count = len(self._lines)
        self._lines, self._bytes = [], 0
        path = f"{self._place}/{name.batch}/{name}"
        self._medium.write(path, data)
        self.seq += 1
        self._on_close(path, count)

    patch.setattr(shards.ShardWriter, "_close_shard", close)


def the_spool_is_forgotten_at_a_restart(patch: Patch) -> None:
    """Only what this process made is carried and counted."""
    patch.setattr(spool, "walk", lambda medium, place: iter(()))


def staleness_by_time_stamp(patch: Patch) -> None:
    """A beat is as old as the time in it says, by the time of day here."""

    def silent(self: Any, attempt: str) -> float:
        stamp, now = self.latest[attempt].beat["time"], self._clock.stamp()
        return math.inf if stamp < now[:-1] else 0.0

    patch.setattr(leases.BeatMonitor, "silent", silent)


def receipts_are_sent_once(patch: Patch) -> None:
    """An ack that was lost on its way is lost."""
    patch.setattr(receiver.Receiver, "write_again", lambda self: None)


MUTANTS: list[tuple[Callable[[Patch], None], Callable[[int], object]]] = [
    (ack_before_verify, scenarios.random_history),
    (ack_before_the_own_copy, scenarios.random_history),
    (a_write_is_a_receipt, scenarios.random_history),
    (trust_the_listing, scenarios.random_history),
    (believe_a_done_flag, scenarios.random_history),
    (never_look_at_a_file_twice, scenarios.random_history),
    (claims_for_ever, scenarios.random_history),
    (receipts_are_sent_once, scenarios.random_history),
    (records_dropped_when_the_disk_is_full, scenarios.crashes),
    (the_spool_is_forgotten_at_a_restart, scenarios.crashes),
    (failures_are_never_done, scenarios.retried_failures),
    (a_failure_is_for_ever, scenarios.retried_failures),
    (no_fence, scenarios.worker_without_heartbeat),
    (orders_are_not_read, scenarios.cancelled_run),
    (staleness_by_time_stamp, scenarios.wrong_wall_clocks),
]


@pytest.mark.slow
@pytest.mark.parametrize(("mutant", "scenario"), MUTANTS, ids=lambda one: one.__name__)
def test_a_bug_is_caught(
    mutant: Callable[[Patch], None], scenario: Callable[[int], object], monkeypatch: Patch
) -> None:
    mutant(monkeypatch)
    for seed in range(TRIES):
        try:
            scenario(seed)
        except (AssertionError, HybridError, KeyError) as error:
            print(f"{mutant.__name__}: caught with seed {seed}: {str(error)[:200]}")
            return
    pytest.fail(f"{mutant.__name__} was not caught by {TRIES} seeds of {scenario.__name__}")
