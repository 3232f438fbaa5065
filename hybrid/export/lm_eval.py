"""A run in the layout of lm-eval's `--log_samples`: `results_DATE.json` and `samples_TASK_DATE.jsonl` in a folder."""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any, BinaryIO

from hybrid.canonical import Json, encode
from hybrid.errors import UsageError
from hybrid.export.asked import Asked, asked_by, made_at, model_name, provenance, shown_prompt, task_name
from hybrid.export.graded_run import GradedRun
from hybrid.export.running_mean import RunningMean
from hybrid.export.table import text_of
from hybrid.machine import home
from hybrid.machine.replacing import replacing
from hybrid.records import Output, Question
from hybrid.report.grades_file import GradeRow

FILTER = "none"
UNSAFE = re.compile(r"[^A-Za-z0-9.-]+")


def write_lm_eval(run: GradedRun, folder: Path, *, replace: bool) -> list[str]:
    """The two files. A row is a question with all its answers; one without a score has no metric and is in no mean.

    Failed outputs are in `errors` of their row, which lm-eval does not know. Raises as `formats.export`.
    """
    if folder.exists() and not folder.is_dir():
        raise UsageError(f"{folder} is a file", hint="name a folder: -o FOLDER")
    task = UNSAFE.sub("-", task_name(run)).strip("-") or "task"
    date = f"{made_at(run):%Y-%m-%dT%H-%M-%S.%f}"
    rows = _Rows(run, task)
    with asked_by(run) as asked:
        with _new(folder / f"samples_{task}_{date}.jsonl", replace=replace) as stream:
            rows.write(asked, stream)
        with _new(folder / f"results_{date}.json", replace=replace) as stream:
            stream.write(json.dumps(rows.results(), indent=2, ensure_ascii=False).encode() + b"\n")
        return asked.notes


def _new(path: Path, *, replace: bool) -> Any:
    return replacing(path, b"", home.parts_folder(), only_new=not replace)


class _Rows:
    """The rows of the samples file, and the sums that the results file has of them."""

    def __init__(self, run: GradedRun, task: str) -> None:
        self._run, self._task = run, task
        self._metric = run.grader
        self._means: dict[tuple[str, str], RunningMean] = {}  # by metric and filter
        self._graded = 0
        self._count = 0
        self._repeats = 0

    def write(self, asked: Asked, stream: BinaryIO) -> None:
        """Write a line for each question, and in a run with arms for each arm, whose name is the filter's."""
        for grade, question in self._run.questions():
            for arm, outputs, own in self._run.arms(grade, question):
                filter_name, metrics = arm or FILTER, _metrics(self._metric, own)
                for name, value in metrics.items():
                    self._means.setdefault((name, filter_name), RunningMean()).add(value)
                row = _row(self._count, question, outputs, asked)
                stream.write(encode({**row, "filter": filter_name, "metrics": list(metrics), **metrics}) + b"\n")
                self._repeats = max(self._repeats, len(outputs))
            self._count += 1
            self._graded += grade is not None and grade.score is not None

    def results(self) -> dict[str, Json]:
        """The content of the results file. What lm-eval would know and hybrid does not is left out."""
        run, task = self._run, self._task
        name = model_name(run)
        config: dict[str, Json] = {"task": task, "output_type": "generate_until", "repeats": self._repeats}
        return {
            "results": {task: {"alias": task, "sample_len": self._count, **self._aggregates()}},
            "group_subtasks": {},
            "configs": {task: {**config, "metadata": dict(run.outputs.run.get("settings") or {})}},
            "higher_is_better": {task: dict.fromkeys((name for name, _ in self._means), True)},
            "n-samples": {task: {"original": self._count, "effective": self._graded}},
            "config": {"model": name.split("/")[0], "model_args": {"pretrained": name.partition("/")[2] or name}},
            "git_hash": None,
            "date": made_at(run).timestamp(),
            "model_name": name,
            "model_name_sanitized": UNSAFE.sub("__", name),
            "hybrid": provenance(run),
        }

    def _aggregates(self) -> dict[str, Json]:
        found: dict[str, Json] = {}
        for (name, filter_name), sums in self._means.items():
            if sums.mean is not None:
                found[f"{name},{filter_name}"] = sums.mean
                found[f"{name}_stderr,{filter_name}"] = "N/A" if sums.stderr is None else sums.stderr
        return found


def _metrics(metric: str, grade: GradeRow | None) -> dict[str, float]:
    if grade is None or grade.score is None:
        return {}
    return {metric: grade.score, **{f"figure.{name}": value for name, value in grade.figures.items()}}


def _row(number: int, question: Question, outputs: Sequence[Output], asked: Asked) -> dict[str, Json]:
    every = [_arguments(asked.of(one.key), one) for one in outputs]
    distinct = {encode(one): one for one in every if one["arg_0"]}
    arguments: dict[str, Json] = {f"gen_args_{n}": one for n, one in enumerate(distinct.values())}
    texts: list[Json] = [one.text for one in outputs if one.text is not None]
    failed: list[Json] = [one.error.to_json() for one in outputs if one.error]
    doc: dict[str, Json] = {"task": question.task, "question": question.id, "reference": question.reference}
    target = "" if question.reference is None else text_of(question.reference)
    prompts = [str(one["arg_0"]) for one in arguments.values() if isinstance(one, dict)]
    return {
        "doc_id": number,
        "doc": doc,
        "target": target,
        "arguments": arguments,
        "resps": [texts],
        "filtered_resps": texts,
        "doc_hash": _hash(json.dumps(doc, indent=2, ensure_ascii=False)),
        "prompt_hash": _hash(prompts[0] if prompts else ""),
        "target_hash": _hash(target),
        **({"errors": failed} if failed else {}),
    }


def _arguments(request: dict[str, Any] | None, output: Output) -> dict[str, Json]:
    """A request as lm-eval writes it: the prompt, a chat as the JSON of its messages; and how it was sampled."""
    prompt = shown_prompt(request, output)
    text = prompt if isinstance(prompt, str) else json.dumps(prompt, ensure_ascii=False)
    return {"arg_0": text, "arg_1": _sampling(request["sampling"]) if request else {}}


def _sampling(sampling: dict[str, Any]) -> dict[str, Json]:
    return {
        "until": sampling["stop"],
        "max_gen_toks": sampling["max_tokens"],
        "do_sample": sampling["temperature"] > 0,
        "temperature": sampling["temperature"],
        "top_p": sampling["top_p"],
    }


def _hash(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()
