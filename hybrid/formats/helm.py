"""HELM: the requests and completions of a run (`scenario_state.json`), without its statistics."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from hybrid.canonical import Json
from hybrid.formats.json_stream import JsonStream
from hybrid.formats.reading import Answer, BadRow, Found, id_of, object_in, plain, record
from hybrid.outputs.source import OutputsSource

UNKNOWN = "model digest, seeds, HELM's own scores, which are in per_instance_stats.json"
FINISH = {"stop": "stop", "endoftext": "stop", "length": "length"}
STATES = "request_states"


class Helm:
    """The request states of a run."""

    def __init__(self, source: OutputsSource) -> None:
        self._source = source
        adapter = self._adapter()
        model = str(adapter.get("model", ""))
        about = {"format": "HELM scenario state", "adapter": plain(adapter), "unknown": UNKNOWN}
        self.run: Mapping[str, Json] = {"model": model, "about": about}
        self.models: list[Json] = [{"name": model, "digest": "", "about": {"named by": "HELM, which holds no digest"}}]

    def _adapter(self) -> dict[str, Any]:
        with self._source.open() as stream:
            document = JsonStream(stream, self._source.name)
            for name in document.members():
                if name == "adapter_spec":
                    found = document.value()
                    return found if isinstance(found, dict) else {}
        return {}

    def rows(self) -> Iterator[Found]:
        """The requests of all instances."""
        with self._source.open() as stream:
            document = JsonStream(stream, self._source.name)
            for name in document.members():
                if name == STATES:
                    for number, value in enumerate(document.elements(), start=1):
                        yield Found(f"request state {number:,}", value)
            document.end()

    def records(self, content: Any) -> list[dict[str, Json]]:
        """The record of a request. Raises BadRow."""
        state = object_in(content)
        instance, request = object_in(state.get("instance"), "its instance"), state.get("request")
        id, trial = id_of(instance.get("id"), "instance's id"), state.get("train_trial_index", 0)
        if type(trial) is not int or trial < 0:
            raise BadRow(f"its train_trial_index is {trial!r:.40}")
        changed = instance.get("perturbation")
        change = str(changed.get("name", "")) if isinstance(changed, dict) else ""
        reference, choices = _reference(instance, state.get("output_mapping"))
        answer = _answer(state.get("result"))
        view: dict[str, Json] = {"question": _text(instance.get("input"))}
        if isinstance(request, dict) and isinstance(request.get("prompt"), str):
            view["prompt"] = request["prompt"]
        view |= {"choices": choices} if choices else {}
        view |= {"perturbation": change} if change else {}
        view |= {"split": instance["split"]} if isinstance(instance.get("split"), str) else {}
        return [record(id, answer, key=f"{id}#{trial}#{change}", reference=reference, view=view, sample=trial)]

    def lacks(self, rows: int) -> str:
        """Nothing is known of what there should be."""
        return "" if rows else "it holds no request states"


def _text(value: Any) -> str:
    return str(value.get("text", "")) if isinstance(value, dict) else str(value or "")


def _reference(instance: Mapping[str, Any], mapping: Any) -> tuple[Json, Json]:
    """The correct references, and the choices; of a choice by letter the letters."""
    listed = instance.get("references")
    references = [one for one in listed if isinstance(one, dict)] if isinstance(listed, list) else []
    correct = [_text(one.get("output")) for one in references if "correct" in (one.get("tags") or [])]
    if isinstance(mapping, dict) and mapping:
        letters = [letter for letter, text in mapping.items() if text in correct]
        return letters or None, plain(mapping)
    return correct or None, None


def _answer(result: Any) -> Answer:
    """The first completion, or the failure without one."""
    result = result if isinstance(result, dict) else {}
    listed = result.get("completions")
    first = listed[0] if isinstance(listed, list) and listed and isinstance(listed[0], dict) else None
    if not result.get("success", True) or first is None or not isinstance(first.get("text"), str):
        return Answer(None, ("error", str(result.get("error") or "the request state holds no completion")))
    ended = first.get("finish_reason")
    reason = str(ended.get("reason", "")) if isinstance(ended, dict) else ""
    return Answer(first["text"], None, FINISH.get(reason, ""))
