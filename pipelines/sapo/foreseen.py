"""What a swarm asks its policies and trains them on, at most, over all rounds."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from hybrid.loads import Foreseen, RoundsLoad
from hybrid.records import Item, Request, Sampling
from hybrid.tasks.reasoning.questions import messages
from pipelines.sapo import streams
from pipelines.sapo.arms import arm_of
from pipelines.sapo.node import the_question
from pipelines.sapo.settings import SapoSettings

LOOKED_AT = 8
"""Questions of a task whose prompts stand for all."""
CHARACTERS = 3
"""Of a token of a prompt, at least."""


def foreseen_rounds(settings: SapoSettings, tasks: Mapping[str, Any]) -> RoundsLoad:
    """The load of all series of a run. Raises what the tasks raise that cannot be made here."""
    how, apart = settings, settings.exchange == "folder"
    arms = [arm_of(str(of["arm"])) for of in tasks.values()]
    nodes = 1 if apart else how.nodes
    asked = sum(arm.own for arm in arms) * nodes * how.rounds * how.group
    trained = sum(arm.own + arm.shared + arm.repeated for arm in arms) * nodes * how.rounds * how.group * how.updates
    tested = len(arms) * nodes * (-(-how.rounds // how.eval_every) + 1) * how.eval_questions if how.eval_every else 0
    sampling, greedy = Sampling(how.max_tokens, how.temperature, how.top_p), Sampling(how.max_tokens)
    shown = [the_question(task, streams.held_out(task, n), how.level) for task in how.tasks for n in range(LOOKED_AT)]
    prompts = [messages(one) for one in shown]
    size = sum(len(one.content) for prompt in prompts for one in prompt) / len(prompts)
    longest = max(sum(len(one.content) for one in prompt) for prompt in prompts)
    return RoundsLoad(
        rounds=len(arms) * how.rounds,
        asked=tuple(
            Foreseen(Item("swarm", f"swarm/{number}", Request(how_sampled, prompt)), -(-count // len(prompts)))
            for how_sampled, count in ((sampling, asked), (greedy, tested))
            for number, prompt in enumerate(prompts)
            if count
        ),
        trained_tokens=round(trained * (size / CHARACTERS + how.max_tokens)),
        longest=longest // CHARACTERS + how.max_tokens,
        models=nodes,
        tuning=how.tuning(),
    )
