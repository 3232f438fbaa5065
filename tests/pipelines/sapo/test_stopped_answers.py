"""A node on a model whose turns end with a text that is no token of it: what it published it knows again."""

from __future__ import annotations

from dataclasses import replace
from itertools import pairwise
from pathlib import Path

import pytest
import torch

from hybrid.backends.transformers import TransformersBackend
from pipelines.sapo.folder_node import FolderNode
from pipelines.sapo.loop import loop
from pipelines.sapo.pipeline import Sapo
from pipelines.sapo.rollouts import Answer
from tests.support.published import Folder
from tests.support.small_hf_model import chatml, write_model

torch.set_num_threads(1)


def node(backend: TransformersBackend, folder: Folder) -> FolderNode:
    settings = Sapo(
        arms=("2-2",), tasks=("basic_arithmetic",), level="easy", nodes=3, rounds=2, group=4, max_tokens=12,
        eval_every=0, exchange="folder", barrier="async", foreign="uniform",
    )  # fmt: skip
    made = loop(settings, next(iter(settings._series(dict(settings._named())))), backend)
    assert isinstance(made, FolderNode)
    made.publish_to(folder.reader())
    return made


def written(backend: TransformersBackend, folder: Folder) -> list[Answer]:
    """What the node writes in its first round, and publishes."""
    one = node(backend, folder)
    (wrote,) = one._own(0)
    one.close()
    return [answer for own in wrote.own for answer in own.rollout.answers]


def test_answers_that_a_stop_text_ended_are_not_asked_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    model = write_model(tmp_path / "m", chatml(), context=4000)
    backend = TransformersBackend(str(model), {"device": "cpu"})
    texts = [one.text for one in written(backend, Folder())]
    stop = next(a + b for text in texts for a, b in pairwise(text) if (a + b).isascii())  # two tokens: they are bytes
    monkeypatch.setattr(backend, "_chat_template", replace(backend._chat_template, stops=(stop,)))
    wrote = written(backend, folder := Folder())
    assert any(one.ended for one in wrote)
    again = node(backend, folder)
    monkeypatch.setattr(again, "share", None)  # nothing is published a second time
    (found,) = again._own(0)
    assert [answer for own in found.own for answer in own.rollout.answers] == wrote
    backend.close()
