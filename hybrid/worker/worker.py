"""A worker: executes the stages of the folder's runs that this machine can, and ends when none is left.

`work` is a generator that yields seconds to wait, so that a process with a courier thread and the test simulator run
the same code. It never waits for the folder while the model computes.
"""

from __future__ import annotations

import logging
import math
from collections.abc import Callable, Collection, Generator, Iterator
from contextlib import closing
from dataclasses import dataclass, field
from functools import partial
from typing import Any

from hybrid.errors import BadData, CannotRun, PluginFault, Temporary, UsageError, Waits
from hybrid.execution.chain import Bound, bound
from hybrid.execution.rounds_work import TICK, RoundsWork
from hybrid.execution.sides import roles_here
from hybrid.execution.stage_session import AnyWork, StageSession, beginning, bind, kept_at_once, place_of, shard_writer
from hybrid.execution.stage_view import StageView, counted_once
from hybrid.folder.leases import LeaseTimeouts
from hybrid.folder.medium import Medium, Store
from hybrid.folder.orders import Orders
from hybrid.folder.recovery import Journals
from hybrid.folder.runs import Run, open_run, run_ids
from hybrid.folder.spool import Spool
from hybrid.machine.clock import Clock
from hybrid.machine.terminal import count_of
from hybrid.protocols import Backend, Stage
from hybrid.records import Completion
from hybrid.work import Ask
from hybrid.worker.capability import Capabilities, RunState, device_of, elsewhere, refuse_other_models
from hybrid.worker.courier import Courier
from hybrid.worker.divided import unbound, waits_for_others
from hybrid.worker.loader import Loader
from hybrid.worker.siblings import Siblings
from hybrid.worker.works import Works

LOG = logging.getLogger("hybrid")
TIME_IS_UP = "the time is up"
POLL = 15.0
"""Seconds between two searches for work."""
SIBLINGS_POLL = 0.25
"""Seconds between two looks at what the other workers of this machine do, while there is nothing to do."""
TURN = 60.0
"""Seconds after which a worker that asks questions looks whether an earlier stage, which waited, can be done now."""
CARRY_LIMIT = 120.0
"""Most seconds that a worker stays at the end to upload the files of its spool."""


@dataclass(frozen=True, slots=True)
class WorkerOptions:
    """Which runs and sides a worker executes, and when it stops. Times in seconds; `until` by the worker's clock."""

    sides: Collection[str] = ("gpu", "laptop", "any")
    run: str = ""
    once: bool = False
    max_idle: float = 600.0
    max_wait: float = 0.0  # the same while a run waits for the other side or a server, if that is longer
    until: float = math.inf
    linger: float = 60.0
    shard_seconds: float = 60.0
    idle_alarm: float = 600.0
    timeouts: LeaseTimeouts = field(default_factory=LeaseTimeouts)


class Worker:
    """One attempt. `work` executes stages; the courier thread calls `step` for each of its rounds."""

    def __init__(
        self,
        folder: Medium,
        store: Store,
        clock: Clock,
        capabilities: Capabilities,
        options: WorkerOptions,
        *,
        attempt: str,
        gone: Collection[str] = (),
        siblings: Siblings | None = None,
    ) -> None:
        self.folder, self.clock, self.capabilities = folder, clock, capabilities
        self.options, self.attempt, self.siblings = options, attempt, siblings
        self.journals: Journals | None = None  # of this machine's processes
        self.spool = Spool(store, clock)
        self.courier = Courier(folder, self.spool, clock, attempt, options.timeouts, gone)
        self.session: StageSession | None = None
        self.runs: list[str] = []  # all that are in the folder, as last seen
        self.run_states: dict[str, RunState] = {}
        self.stopping = ""  # why no more work is taken
        self.loader = Loader(capabilities, self.spool, folder, clock, attempt, options.sides)
        self._works = Works(capabilities, options.sides, attempt, siblings)
        self._seqs: dict[str, int] = {}
        self._orders_when_done: dict[str, int] = {}
        self._touched: set[str] = set()
        self._busy = clock.now()  # when there was last something to do
        self._kept = 0  # answers so far
        self._turn_ends = math.inf  # when an earlier stage is to be looked at

    def step(self) -> None:
        """One round of the courier."""
        if self.siblings:
            self.siblings.beat()
        self.courier.step(self.session)

    def work(self) -> Generator[float, None, None]:
        """Execute all available work; each yielded value is the seconds to wait before resuming. `leave` follows."""
        try:
            while not self._stopped():
                news = self._news()
                yield from self._round()
                if self._once_is_over() or self._nothing_more() or self._idle() or self._stopped():
                    break
                yield from self._pause(news)
        finally:
            self.close()

    def _news(self) -> object:
        """What changes when another worker of this machine may have left records or work; None without one."""
        return self.siblings.news() if self.siblings else None

    def _pause(self, news: object) -> Iterator[float]:
        """Wait until the folder is read again, or another worker of this machine has closed its shards."""
        until = self.clock.now() + min(POLL, self.options.timeouts.idle, self.options.until - self.clock.now())
        while True:
            wait = max(0.0, until - self.clock.now())
            yield wait if news is None else min(wait, SIBLINGS_POLL)
            if news is None or news != self._news() or self.clock.now() >= until or self._stopped():
                return

    def close(self) -> None:
        """Free the model."""
        self.loader.close()

    def _stopped(self) -> bool:
        if not self.stopping and self.clock.now() >= self.options.until:
            self.stopping = TIME_IS_UP
        return bool(self.stopping)

    def _once_is_over(self) -> bool:
        """Whether to end with `once`: the only wait is until it is known whether holders of the rest are alive."""
        held = any(run_state.state == "held" for run_state in self.run_states.values())
        known = self.clock.now() - self._busy > self.options.timeouts.idle + POLL
        return self.options.once and (known or not held)

    def _nothing_more(self) -> bool:
        """With the option `run`, whether its runs are all done, cancelled or refused."""
        states = {run_state.state for run_state in self.run_states.values()}
        return bool(self.options.run and states) and states <= {"done", "cancelled", "refused"}

    @property
    def leaves_in(self) -> float:
        """Seconds until it leaves unless there is work; by `max_wait`, while a run waits for what is away for now."""
        waits = any(run_state.waits for run_state in list(self.run_states.values()))
        return self._busy + max(self.options.max_idle, self.options.max_wait if waits else 0.0) - self.clock.now()

    def _idle(self) -> bool:
        """Whether there was no work for too long."""
        if self.leaves_in > 0:
            return False
        self.stopping = f"nothing to do for {self.clock.now() - self._busy:.0f} s"
        return True

    def _round(self) -> Iterator[float]:
        """Visit each run of the folder once."""
        try:
            self.runs = run_ids(self.folder)
        except (BadData, Temporary) as error:
            self.courier.troubles["the runs"] = error.message
            return
        self.courier.troubles.pop("the runs", None)
        for name in [one for one in self.runs if one.startswith(self.options.run)]:
            if self._stopped():
                return
            yield from self._visit(name)

    def _visit(self, name: str) -> Iterator[float]:
        """Execute what can be executed of a run now, and put its status into `run_states`."""
        before = self.run_states.get(name)
        if before and before.state == "refused":
            return
        try:
            now = None
            while now is None:
                now = yield from self._do(name)
        except (CannotRun, UsageError) as error:  # permanent: it needs another machine or command
            now = RunState("refused", error.message, error)
            self.courier.note_refusal(name, error.message)
        except (KeyboardInterrupt, GeneratorExit):
            self.run_states[name] = RunState("unfinished", self.stopping or "stopped")
            raise
        except (BadData, Temporary, Waits) as error:  # a truncated file may be complete later
            now = RunState("unfinished", error.message, error)
        self.run_states[name] = now
        if before is None or now.words != before.words:
            LOG.info("%s: %s", name, now.words)

    def _do(self, name: str) -> Generator[float, None, RunState | None]:
        """Execute the stages of a run in their order; those that wait for others are passed over.

        None when something was done after a stage that waits: that one may be ready now, and its order says that others
        need it first.
        """
        self.courier.read_orders(name)
        orders = self.courier.orders(name)
        if settled := self._settled(name, orders):
            return settled
        heard = len(orders.known)
        run = self._opened_run(name)
        chain = bound(run, self.capabilities.pipeline(run), orders.sides)
        views, waits = list[StageView](), dict[str, RunState]()
        for stage in chain.stages:
            if not waits.keys().isdisjoint(stage.after):
                waits[stage.name] = next(iter(waits.values()))
                continue
            kept, self._turn_ends = self._kept, self._turn(stage, waits)
            work = yield from self._advanced(chain, stage, orders)
            if waits and stage.asks_a_model and self._kept > kept and not self._stopped():
                return None
            if isinstance(work, RunState):
                waits[stage.name] = work
            elif work.left:
                return self._unfinished(work)
            else:
                views.append(work.view())
        if waits:
            return next(iter(waits.values()))
        if len(orders.known) > heard:  # perhaps of a stage that was looked at before
            return RunState("unfinished", "there is a new order")
        self._orders_when_done[name] = heard
        failed = sum(view.own_failures for view in counted_once(views, chain.stages))
        parts = [*(f"{view.name}: {view.done:,}/{view.total:,}" for view in views if view.total)]
        parts += [f"{count_of(failed, 'item')} failed"] if failed else []
        return RunState("done", ", ".join(["done", *parts]), failed=failed)

    def _settled(self, name: str, orders: Orders) -> RunState | None:
        """The state of a run of which nothing is to be done any more."""
        if orders.cancelled:
            return RunState("cancelled", orders.cancelled_by)
        return self.run_states[name] if self._orders_when_done.get(name) == len(orders.known) else None

    def _turn(self, stage: Stage, waits: Collection[str]) -> float:
        """When to leave a stage to look at an earlier one. What is trained is never left: it would be trained again."""
        return self.clock.now() + TURN if waits and isinstance(stage.work, Ask) else math.inf

    def _advanced(self, chain: Bound, stage: Stage, orders: Orders) -> Generator[float, None, AnyWork | RunState]:
        """Execute what can be executed of a stage now; its work, or the state that says why it waits for others."""
        work = self._works.bound(chain, stage, orders)
        if work is None or work.left:
            if there := self._elsewhere(chain, stage):
                return there
            work = work or self._works.begun(chain, stage, orders)
            known = -1
            while work.left and known < work.total and not self._stopped():  # what has arrived may lead a search on
                known = work.total
                yield from self._session(work, chain)
                work.look(orders.set_aside)
        return (waits_for_others(chain, work) if work.left else None) or work

    def _elsewhere(self, chain: Bound, stage: Stage) -> RunState | None:
        """The state that says why a stage, or this side's part of it, cannot be done here now; None when it can."""
        here = roles_here(stage, chain.sides, self.options.sides)
        there = elsewhere(self.capabilities, chain, stage, self.options.sides, here)
        return there or unbound(chain, stage, here, partial(self._bind, chain, stage, here))

    def _bind(self, chain: Bound, stage: Stage, here: Collection[str]) -> None:
        run, place = chain.run, f"{chain.run.id}/{stage.name}"
        self.courier.beat(run.id, {"state": "begins"})
        self._touched.add(run.id)
        engine = self.loader.ensemble(run, stage, here)
        bind(run, stage, engine, self.spool, self.attempt)
        self._seqs[place] = 1
        if self.siblings:
            self.siblings.closed_shards()

    def _opened_run(self, name: str) -> Run:
        """A run, with the records of processes that were killed on this machine."""
        run = open_run(self.folder, name, (self.spool,))
        if self.journals:
            self.journals.recover(run, self.spool)
        return run

    def _unfinished(self, work: AnyWork) -> RunState:
        if (orders := self.courier.orders(work.run.id)).cancelled:
            return RunState("cancelled", orders.cancelled_by)
        why = self.stopping or ("no heartbeat reaches the folder" if self.courier.fenced else "others hold the rest")
        state = "unfinished" if self.stopping or self.courier.fenced else "held"
        return RunState(state, f"{count_of(work.left, 'item')} left: {why}")

    def _session(self, work: AnyWork, chain: Bound) -> Iterator[float]:
        """Execute a stage until no item is left for this worker."""
        here = roles_here(work.stage, chain.sides, self.options.sides)
        if not work.may_begin(self._others(work)):
            self._ask_for_a_share(work)
            return
        if work.stage.asks_a_model:
            refuse_other_models(self.capabilities, work.run, work.stage, work.digests, here)
        if self.siblings:
            self.siblings.works_on(place_of(work))
        engine = self.loader.engine(work, chain, here)
        self.courier.beat(work.run.id, beginning(work))  # a worker that cannot write a heartbeat does not begin
        self._touched.add(work.run.id)
        place = f"{work.run.id}/{work.stage.name}"
        how = {"seconds": self.options.shard_seconds, "first_seq": self._seqs.get(place, 0), "clock": self.clock.now}
        writer = shard_writer(work, engine, self.spool, self.attempt, self.journals, **how)
        device = device_of(engine) if work.stage.role in here else ""
        self.session = session = StageSession(work, writer, self.capabilities.gauges, self.clock, device)
        try:
            with kept_at_once(work, engine, writer):
                yield from self._answers(session, engine)
            yield from self._written(session, writer.close)
        except (Temporary, PluginFault):  # the engine may be broken
            self.close()
            raise
        finally:
            self.session = None
            session.end()
            self._seqs[place] = writer.seq
            if self.siblings:
                self.siblings.closed_shards()

    def _ask_for_a_share(self, work: AnyWork) -> None:
        """Let the workers that hold all series of a stage know that this one has none: they give some of them back."""
        if not isinstance(work, RoundsWork):
            return
        if self.siblings:
            self.siblings.works_on(place_of(work))
        self._touched.add(work.run.id)
        self.courier.show(work.run.id, beginning(work))

    def _answers(self, session: StageSession, engine: Backend) -> Iterator[float]:
        work = session.work
        with closing(work.answers(engine, lambda: self._taken(work))) as answers:
            for completion in answers:
                if completion is None:
                    yield TICK
                    continue
                self._busy, self._kept = self.clock.now(), self._kept + 1
                yield from self._keep(session, completion)
                yield 0.0
        if work.unanswered:
            left = count_of(work.unanswered, "item")
            raise Temporary(f"the engine left {left} of {work.run.id} unanswered", hint="run it again")

    def _keep(self, session: StageSession, completion: Completion) -> Iterator[float]:
        """Write the record of an answer. While the disk is full, the model pauses and no record is lost."""
        record = session.answered(completion)
        yield from self._written(session, lambda: session.writer.add(record), session.writer.tick)

    def _written(
        self, session: StageSession, write: Callable[[], None], again: Callable[[], None] | None = None
    ) -> Iterator[float]:
        """Write; while the disk is full, wait and call `again`. Unwritten records stay in the open shard."""
        what = "the open shard"
        while True:
            try:
                write()
            except Temporary as error:
                self.courier.troubles[what] = error.message
                LOG.warning("%s; %s to be kept", error.message, count_of(session.writer.open_records, "record"))
                if self._stopped():
                    raise
                write = again or write
                yield POLL
            else:
                self.courier.troubles.pop(what, None)
                return

    def _taken(self, work: AnyWork) -> Any:
        """The work that others hold; None when nothing new may be begun."""
        if self._stopped() or self.courier.fenced or self.courier.orders(work.run.id).cancelled:
            return None
        return None if self.clock.now() >= self._turn_ends else self._others(work)

    def _others(self, work: AnyWork) -> Any:
        """The work that others hold by leases that are still valid."""
        return work.others(self.courier.monitor(work.run.id), self.options.timeouts)

    def leave(self, linger: float | None = None) -> Generator[float, None, None]:
        """Wait, within bounds, until all files are uploaded and receipts have arrived; then write the last heartbeat.

        `linger` is how many seconds to wait for receipts, by default those of the worker options.
        """
        linger = self.options.linger if linger is None else linger
        began = self.clock.now()
        self.courier.step(None, eager=True)
        while self.spool.carriable and self.clock.now() - began < CARRY_LIMIT:
            yield 5.0
            self.courier.step(None, eager=True)
        while self.spool.unreceipted and self.clock.now() - began < linger:
            yield 5.0
            self.courier.step(None, eager=True)
        self.finish()

    def finish(self) -> None:
        """Write the last log and the last heartbeat of each run that was worked on."""
        self.courier.finish(self._touched)
