"""The work of each stage that a worker has looked at, made again when what it is made of has changed."""

from __future__ import annotations

import zlib
from collections.abc import Collection, Mapping

from hybrid.execution.chain import Bound, all_before
from hybrid.execution.search_records import digests_of
from hybrid.execution.search_work import SearchWork
from hybrid.execution.sides import roles_here
from hybrid.execution.stage_session import AnyWork, place_of, work_on
from hybrid.folder.orders import Orders
from hybrid.protocols import Stage
from hybrid.worker.capability import Capabilities
from hybrid.worker.siblings import Siblings


class Works:
    """The works of an attempt, for a worker of these `sides`, which shares its claims with its `siblings`."""

    def __init__(
        self, capabilities: Capabilities, sides: Collection[str], attempt: str, siblings: Siblings | None
    ) -> None:
        self._capabilities, self._sides = capabilities, sides
        self._attempt, self._siblings = attempt, siblings
        self._works: dict[tuple[str, str], tuple[AnyWork, object]] = {}

    def bound(self, chain: Bound, stage: Stage, orders: Orders) -> AnyWork | None:
        """The work of a stage with the model that its records are bound to; None when no model is bound yet.

        A stage that gets no items from earlier ones is done with any model.
        """
        digests = digests_of(chain.run, stage)
        if not (all(digests.values()) or stage.after):
            return None
        work = self._opened(chain, stage, digests, orders)
        return work if all(digests.values()) or not work.total else None

    def begun(self, chain: Bound, stage: Stage, orders: Orders) -> AnyWork:
        """The work of a stage with the models that it is bound to, else with those of this machine."""
        digests, here = digests_of(chain.run, stage), self._capabilities.digest
        roles = {"": stage.role, **{role: role for role in stage.roles}}
        own = {name: digests[name] or here(chain.run, role) for name, role in roles.items()}
        return self._opened(chain, stage, own, orders)

    def _opened(self, chain: Bound, stage: Stage, digests: Mapping[str, str], orders: Orders) -> AnyWork:
        """The work of a stage; its items are made again when there are new records of earlier stages."""
        run, place = chain.run, (chain.run.id, stage.name)
        here = roles_here(stage, chain.sides, self._sides)
        before = [self._works[run.id, one.name][0].completed.known for one in all_before(chain.stages, stage)]
        made_of = digests, here, [len(known) for known in before]
        if place not in self._works or self._works[place][1] != made_of:
            start = zlib.crc32(self._attempt.encode())  # workers that start together begin with different blocks
            if place in self._works:
                self._works[place][0].claims.release()
            made = work_on(run, stage, run.tasks(), digests, self._attempt, start)
            if isinstance(made, SearchWork) and len(here) < len(stage.roles):
                made.roles = here
            self._works[place] = self._shared(made), made_of
        work = self._works[place][0]
        work.look(orders.set_aside)
        return work

    def _shared(self, work: AnyWork) -> AnyWork:
        """The work with the claims that the workers of this machine share."""
        if self._siblings:
            work.claims = self._siblings.of(place_of(work))
        return work
