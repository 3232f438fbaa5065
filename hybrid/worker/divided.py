"""A search that is divided between two sides, as a worker of one of them sees it."""

from __future__ import annotations

from collections.abc import Callable, Collection

from hybrid.execution.chain import Bound
from hybrid.execution.search_records import digests_of
from hybrid.execution.search_work import SearchWork
from hybrid.execution.sides import FIRST, parts
from hybrid.execution.stage_session import AnyWork
from hybrid.protocols import Stage
from hybrid.worker.capability import RunState


def unbound(chain: Bound, stage: Stage, here: Collection[str], bind: Callable[[], None]) -> RunState | None:
    """The state of a worker of the roles `here` while the other side's models are not known; None when they are.

    Keys name models, so each side makes its own known (`bind`) and waits for the other's. Every shard names the model
    of the stage, so that one is first.
    """
    away = [role for role in stage.roles if role not in here]
    if not away:
        return None
    known = digests_of(chain.run, stage) if chain.run.bound_model(stage.name) else {}
    if (known or stage.role in here) and not all(known.get(role) for role in here):
        bind()
        known = digests_of(chain.run, stage)
    return None if all(known.get(role) for role in away) else waits_there(chain, stage, here)


def waits_for_others(chain: Bound, work: AnyWork | None) -> RunState | None:
    """The state of a worker where all that a search waits for is asked on the other side; None where it is not."""
    if not isinstance(work, SearchWork) or not work.waits_for_others:
        return None
    return waits_there(chain, work.stage, work.roles or ())


def waits_there(chain: Bound, stage: Stage, here: Collection[str]) -> RunState:
    """The state of a worker that waits for the side that answers for the other roles."""
    away = {role: side for role, side in parts(stage, chain.sides).items() if role not in here}
    names = ", ".join(f"'{role or FIRST}'" for role in away)
    side = next(iter(away.values()))
    return RunState("other side", f"waits for the {side} side to answer for {names} in '{stage.name}'", side=side)
