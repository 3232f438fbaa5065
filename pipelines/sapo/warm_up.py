"""Supervised steps before the first round, for a model that does not know how answers are written.

They teach the format with right answers to questions that are neither trained on later nor tested on. So they teach
some of the tasks, too: results of a run with them are compared with runs that had the same.
"""

from __future__ import annotations

from hybrid.loops import Policies, PolicyText
from pipelines.sapo import streams
from pipelines.sapo.node import Node, the_question
from pipelines.sapo.settings import SapoSettings

BATCH = 8
"""Examples of a step."""
LEARNING_RATE = 1e-4


def warm_up(policies: Policies, node: Node, settings: SapoSettings) -> None:
    """Train the node's policy on `settings.warm_up` batches, the same for all nodes of a seed."""
    for step in range(settings.warm_up):
        texts = [_example(policies, node, settings, step * BATCH + number) for number in range(BATCH)]
        kept = [one for one in texts if one is not None]
        labels = sum(len(one.weights) for one in kept)
        if labels:
            policies.backward([one._replace(weights=(1 / labels,) * len(one.weights)) for one in kept])
            policies.step(node.place, LEARNING_RATE)


def _example(policies: Policies, node: Node, settings: SapoSettings, number: int) -> PolicyText | None:
    """The right answer to a question in the format that is scored; None when it does not fit."""
    task = settings.tasks[number % len(settings.tasks)]
    index = streams.warm_up(task, node.seed, number)
    prompt = node.prompt(policies, task, index)
    if prompt is None:
        return None
    text = f"<answer>{the_question(task, index, settings.level).answer}</answer>"
    ids = (*policies.encode(text.removeprefix(settings.prefix)), policies.end)
    whole = (*prompt, *ids)[: policies.context]
    return PolicyText(node.place, whole, len(prompt), (1.0,) * (len(whole) - len(prompt)))
