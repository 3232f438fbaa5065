"""Adapters trained on the texts about passages, short and long ones together, are those of stock PEFT."""

from __future__ import annotations

import pytest
import torch

from hybrid.training.jobs import Job, Tokens
from pipelines.seal.knowledge.documents import training_examples
from pipelines.seal.knowledge.pipeline import SealKnowledge
from tests.support.peft_reference import VOCABULARY, by_peft, tiny_model, trainer
from tests.training.test_exact import update_error

torch.set_num_threads(1)
LONGEST = 500
"""Characters, which are tokens here, of the longest text that the model of the tests reads."""


def jobs(count: int) -> list[Job]:
    """What the pipeline trains on passages of the sample, with the sentences of each as what was written about it."""
    pipeline = SealKnowledge(rounds=1, passages=count, eval_passages=0, epochs=2)
    tasks = pipeline.inputs().tasks
    made = []
    for id, task in sorted(tasks.items()):
        written = task["context"].replace(". ", ".\n")
        tuning = pipeline.tuning(pipeline.division.examples(tasks, [(id, [written])]))
        texts = [one.text[:LONGEST] for one in training_examples(tasks, tuning.examples)]
        made.append(Job(id, tuning, tuple([tokens(text) for text in texts])))
    return made


def tokens(text: str) -> Tokens:
    return Tokens(tuple([ord(letter) % VOCABULARY for letter in text]), (True,) * len(text))


@pytest.mark.slow
def test_the_adapters_of_short_and_long_texts_are_those_of_separate_peft_runs() -> None:
    model, wanted = tiny_model(), jobs(3)
    lengths = [len(text.ids) for job in wanted for text in job.texts]
    assert min(lengths) < 70
    assert max(lengths) > 300
    ours = trainer(model)
    found = {done.job.name: done for done in ours.train(wanted)}
    ours.close()
    for job in wanted:
        weights, losses = by_peft(model, job)
        done = found[job.name]
        assert done.adapter is not None
        error = update_error(done.adapter, weights, job, model)
        print(f"{job.name}: update error {error:.2e} over {job.steps} steps")
        assert error < 1e-4
        assert done.losses == pytest.approx(losses, abs=1e-4)
