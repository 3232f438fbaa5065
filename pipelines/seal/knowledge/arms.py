"""Arms: the ways in which the questions about a passage are answered, each with what was trained before."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from hybrid.records import Adapter, Failure, Item, Output, Sampling
from hybrid.tasks.squad.prompts import asked_passage
from hybrid.tuning import Tuning
from pipelines.seal.knowledge.settings import KnowledgeSettings

BASE, CONTEXT, PASSAGE, GIVEN = "base", "context", "passage", "given"
NO_TEXT = Failure("no-text", "what was written holds nothing to train on")
NOT_WRITTEN = "not-written"


@dataclass(frozen=True, slots=True)
class Arm:
    """A way of answering: after a training on `texts` and the passage, with the passage shown, or neither.

    `completion` is the number of the text where each is learned alone, `training` that of several with other seeds,
    `round` that of its writer, or of the learner; `failed` says why nothing can be asked.
    """

    name: str
    tuning: Tuning | None = None
    texts: tuple[str, ...] = ()
    completion: int | None = None
    training: int = 0
    round: int | None = None
    shown: bool = False
    adapter: str = ""
    failed: Failure | None = None

    @property
    def asked_as(self) -> str:
        """The end of its questions' names in the stage that answers: equal trainings are done and asked once."""
        return self.tuning.digest[:16] if self.tuning else self.name

    @property
    def title(self) -> str:
        """The end of its questions' names in the results."""
        if self.round is not None and self.name == BASE:
            return f"round-{self.round}-{BASE}"
        again = f".{self.training + 1}" if self.training else ""
        return self.name if self.completion is None else f"{self.name}-{self.completion:02d}{again}"


Arms = Mapping[str, Sequence[Arm]]
"""The arms of each passage, by its id."""


def candidates(
    settings: KnowledgeSettings, tasks: Mapping[str, Any], written: Iterable[Output], round: int, adapter: str
) -> dict[str, list[Arm]]:
    """For each training passage the model without training, then an arm for each training on a text about it."""
    arms = {id: [Arm(BASE, round=round, adapter=adapter)] for id in tasks}
    for id, outputs in by_task(written, tasks).items():
        for output in outputs:
            text, failed = _text_of(settings, output)
            arm = Arm(f"round-{round}", None, (text,), output.sample, round=round, adapter=adapter, failed=failed)
            if failed:
                arms[id].append(arm)
                continue
            for training in range(settings.trainings):
                tuning = _tuning(settings, tasks, [(id, [text])], training)
                arms[id].append(replace(arm, tuning=tuning, training=training))
    return arms


def controls(settings: KnowledgeSettings, tasks: Mapping[str, Any]) -> dict[str, list[Arm]]:
    """For each evaluation passage the arms without a writer of the run: `controls`, and the texts of a file."""
    arms: dict[str, list[Arm]] = {id: [] for id in tasks}
    for id in tasks:
        arms[id] += [Arm(BASE)] if BASE in settings.controls else []
        arms[id] += [Arm(CONTEXT, shown=True)] if CONTEXT in settings.controls else []
    if PASSAGE in settings.controls:
        _add(arms, _learned(settings, tasks, Arm(PASSAGE), {id: [] for id in tasks}))
    given = {id: list(enumerate(task["given"])) for id, task in tasks.items() if "given" in task}
    _add(arms, _learned(settings, tasks, Arm(GIVEN), given))
    return arms


def evaluated(
    settings: KnowledgeSettings, tasks: Mapping[str, Any], written: Iterable[Output], round: int, adapter: str
) -> dict[str, list[Arm]]:
    """For each evaluation passage the arms that learn what the writer of a round wrote."""
    arms: dict[str, list[Arm]] = {id: [] for id in tasks}
    texts: dict[str, list[tuple[int, str]]] = {}
    for id, outputs in by_task(written, tasks).items():
        for output in outputs:
            text, failed = _text_of(settings, output)
            if failed:
                arms[id].append(Arm(f"round-{round}", None, (text,), output.sample, round=round, failed=failed))
            else:
                texts.setdefault(id, []).append((output.sample, text))
    _add(arms, _learned(settings, tasks, Arm(f"round-{round}", round=round, adapter=adapter), texts))
    return arms


def asked(settings: KnowledgeSettings, tasks: Mapping[str, Any], arms: Arms) -> Iterator[Item]:
    """Every question about every passage, once for each different arm; without the passage, unless it is shown."""
    for id in sorted(arms):
        different = {arm.asked_as: arm for arm in arms[id] if not arm.failed}
        for name, arm in different.items():
            passage = asked_passage(tasks[id], id, context=True)
            for question, text in passage.questions:
                shown = passage.context if arm.shown else None
                request = settings.asking.request(passage.title, text, Sampling(settings.max_tokens), shown)
                request.adapter, request.tuning = adapter_of(arm.adapter), arm.tuning
                yield Item(id, f"{id}/{question}@{name}", request, {"question": text})


def by_task(outputs: Iterable[Output], tasks: Mapping[str, Any]) -> dict[str, list[Output]]:
    """The outputs of these passages in the order of their samples, by passage."""
    found: dict[str, list[Output]] = {}
    for output in outputs:
        if output.task in tasks:
            found.setdefault(output.task, []).append(output)
    return {id: sorted(found[id], key=lambda one: one.sample) for id in sorted(found)}


def adapter_of(digest: str) -> Adapter | None:
    """The adapter with that SHA-256; none for ""."""
    return Adapter(digest, "") if digest else None


def _text_of(settings: KnowledgeSettings, output: Output) -> tuple[str, Failure | None]:
    """What was written; or why there is nothing to train on."""
    if output.text is None:
        why = output.error.message if output.error else "no text"
        return "", Failure(NOT_WRITTEN, f"nothing was written: {why}")
    return (output.text, None) if settings.division.of(output.text) else (output.text, NO_TEXT)


def _learned(
    settings: KnowledgeSettings, tasks: Mapping[str, Any], arm: Arm, texts: Mapping[str, Sequence[tuple[int, str]]]
) -> dict[str, list[Arm]]:
    """`arm` with the training on `texts`, numbered: once for each text, or for several passages with all of theirs."""
    found: dict[str, list[Arm]] = {}
    if settings.together == 1:
        for id in sorted(texts):
            each: list[tuple[int | None, list[str]]] = [(number, [text]) for number, text in texts[id]]
            for number, own in each or [(None, [])]:
                tuning = _tuning(settings, tasks, [(id, own)])
                found.setdefault(id, []).append(replace(arm, tuning=tuning, texts=tuple(own), completion=number))
        return found
    ids, size = sorted(texts), settings.together or len(texts)
    for start in range(0, len(ids), size or 1):
        several = [(id, [text for _, text in texts[id]]) for id in ids[start : start + size]]
        tuning = _tuning(settings, tasks, several)
        found |= {id: [replace(arm, tuning=tuning, texts=tuple(own))] for id, own in several}
    return found


def _tuning(
    settings: KnowledgeSettings, tasks: Mapping[str, Any], about: list[tuple[str, list[str]]], training: int = 0
) -> Tuning:
    return settings.tuning(settings.division.examples(tasks, about), training)


def _add(arms: dict[str, list[Arm]], more: Mapping[str, list[Arm]]) -> None:
    for id, own in more.items():
        arms[id] += own
