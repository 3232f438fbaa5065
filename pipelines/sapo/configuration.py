"""What the nodes of a swarm have in common, by which they know each other's rollouts."""

from __future__ import annotations

from dataclasses import asdict

from hybrid.canonical import Json, digest
from pipelines.sapo.arms import Arm
from pipelines.sapo.arrivals import Expected
from pipelines.sapo.node import asked_in
from pipelines.sapo.settings import SapoSettings

MEETING = {"arms", "seeds", "exchange", "barrier", "quorum", "deadline", "publish_every"}
"""Settings of how nodes meet, and those that a swarm has one value of."""
OWN_AFFAIR = {"most_of_one"}
"""Settings of what a node takes: others need not have the same."""
LONGEST_TOKEN = 256
"""Characters of a token, at most."""


def configuration_of(settings: SapoSettings, arm: str, seed: int) -> str:
    """The digest of all that the nodes of a swarm have in common, however they meet."""
    others = MEETING | OWN_AFFAIR
    made_of: dict[str, Json] = {name: value for name, value in asdict(settings).items() if name not in others}
    return digest({"settings": made_of, "arm": arm, "seed": seed})


def expected_of(settings: SapoSettings, arm: Arm, seed: int) -> Expected:
    """What rollouts of a swarm look like, whoever wrote them.

    A node writes more than its own only for a shortfall, and then FOREIGN more at most. One of a control, too, since it
    asks anew for questions without room as the arm beside it does.
    """
    return Expected(
        configuration_of(settings, arm.name, seed),
        settings.group,
        settings.nodes,
        arm.own + (arm.foreign if settings.shortfall == "own" else 0),
        settings.rounds,
        settings.tasks,
        lambda node, round, slot: asked_in(settings, seed, node, round, slot),
        longest=LONGEST_TOKEN * max(LONGEST_TOKEN, settings.max_tokens),
        most_tokens=settings.max_tokens,
    )
