"""A run as an .eval log of inspect_ai: a zip with a JSON file for each sample, a header and summaries.

Written by hand and not by inspect's recorder: that one holds a log in memory, draws random ids, stamps the time of
writing, and takes seconds to import. Deflate, not zstd, is what every version of inspect reads.
"""

from __future__ import annotations

import hashlib
import re
import shutil
import tempfile
import zipfile
from collections import Counter
from collections.abc import Mapping
from contextlib import closing
from typing import Any, BinaryIO

from hybrid.canonical import Json, encode
from hybrid.errors import BadData
from hybrid.export.asked import Asked, asked_by, made_at, model_name, provenance, shown_prompt, task_name
from hybrid.export.graded_run import GradedRun
from hybrid.export.running_mean import RunningMean
from hybrid.export.table import text_of
from hybrid.records import Output, Question
from hybrid.report.grades_file import GradeRow

VERSION = 2
"""Of the log format."""
EPOCH = (1980, 1, 1, 0, 0, 0)
"""The time of every member: the same run gives the same bytes."""
SAFE = re.compile(r"[^\x00-\x1f\x7f\\:*?\"<>|]{1,150}")
LONGEST = 1000
"""Characters of a text in a summary; inspect cuts it there, too."""
STOPS = {"stop": "stop", "length": "max_tokens"}
COMPLETE = "{:,} of {:,} outputs have no record yet"


def write_inspect(run: GradedRun, stream: BinaryIO) -> list[str]:
    """A sample for each output, its id being the question and its epoch the place among the outputs of that.

    A sample has the score of its question; none where the question is ungraded, and an error instead where it failed.
    """
    with asked_by(run) as asked, zipfile.ZipFile(stream, "w", zipfile.ZIP_DEFLATED) as archive:
        log = _Log(run, asked, archive)
        log.write()
        return asked.notes


class _Log:
    def __init__(self, run: GradedRun, asked: Asked, archive: zipfile.ZipFile) -> None:
        self._run, self._asked, self._archive = run, asked, archive
        self._model = model_name(run)
        self._epochs = 0
        self._means: dict[str, RunningMean] = {run.grader: RunningMean()} if run.grader else {}  # by scorer
        self._unscored: Counter[str] = Counter()

    def write(self) -> None:
        """Write all members, the header last."""
        _ = self._run.sums  # verified before anything is written
        self._put("_journal/start.json", {"version": VERSION, "eval": self._spec(), "plan": self._plan()})
        with closing(tempfile.TemporaryFile()) as summaries:
            summaries.write(b"[")
            for grade, question in self._run.questions():
                self._question(grade, question, summaries)
            summaries.write(b"]")
            summaries.seek(0)
            with self._archive.open(member_of("summaries.json"), "w", force_zip64=True) as member:
                shutil.copyfileobj(summaries, member)
        self._put("header.json", self._header())

    def _question(self, grade: GradeRow | None, question: Question, summaries: BinaryIO) -> None:
        self._epochs = max(self._epochs, len(question.outputs))
        of: dict[str, tuple[str, GradeRow] | None] = {}
        for arm, outputs, own in self._run.arms(grade, question):
            of |= dict.fromkeys((one.key for one in outputs), self._scored(arm, own))
        for epoch, output in enumerate(question.outputs, start=1):
            sample = self._sample(of[output.key], output, epoch)
            name = f"samples/{sample['id']}_epoch_{epoch}.json"
            if name in self._archive.NameToInfo:
                raise BadData(f"{self._run.outputs.path}: two questions would both be the sample {sample['id']!r:.200}")
            self._put(name, sample)
            summaries.write(b"," * (summaries.tell() > 1) + encode(_summary(sample)))

    def _scored(self, arm: str, grade: GradeRow | None) -> tuple[str, GradeRow] | None:
        """The scorer of an arm, which is named after it, and its grade; None where there is no score. Counts both."""
        if grade is None:
            return None
        name = f"{self._run.grader}@{arm}" if arm else self._run.grader
        mean = self._means.setdefault(name, RunningMean())
        if grade.score is None:
            self._unscored[name] += 1
            return None
        mean.add(grade.score)
        return name, grade

    def _put(self, name: str, value: Json) -> None:
        self._archive.writestr(member_of(name), encode(value))

    def _sample(self, scored: tuple[str, GradeRow] | None, output: Output, epoch: int) -> dict[str, Any]:
        prompt = shown_prompt(self._asked.of(output.key), output)
        asked = [{"role": "user", "content": prompt}] if isinstance(prompt, str) else prompt
        said = {"role": "assistant", "content": _content(output), "model": self._model, "source": "generate"}
        sample: dict[str, Any] = {
            "id": sample_id(output),
            "epoch": epoch,
            "input": prompt,
            "target": _target(output.reference),
            "messages": [{**one, "source": "input"} for one in asked if prompt] + [said] * (output.text is not None),
            "output": {"model": self._model, "choices": [], "completion": output.text or ""},
            "metadata": {"task": output.task, "question": output.question, "key": output.key, "view": output.view},
            "uuid": output.key[:32],
        }
        if output.error is not None:
            why = f"{output.error.kind}: {output.error.message}"
            sample["error"] = {"message": why, "traceback": why, "traceback_ansi": why}
            return sample
        sample["output"]["choices"] = [{"message": said, "stop_reason": STOPS.get(output.finish, "unknown")}]
        prompt_tokens, completion_tokens = output.tokens
        usage = {"input_tokens": prompt_tokens, "output_tokens": completion_tokens, "total_tokens": sum(output.tokens)}
        sample["output"]["usage"] = usage
        sample["model_usage"] = {self._model: usage}
        if scored:
            sample["scores"] = {scored[0]: _score(output, scored[1])}
        return sample

    def _spec(self) -> dict[str, Any]:
        run, sha256 = self._run, str(self._run.outputs.sha256)
        name = task_name(run)
        how = {"options": dict(run.settings), "metrics": [{"name": "mean", "options": {}}]}
        return {
            "eval_id": sha256[:22],
            "run_id": sha256[22:44],
            "task_id": hashlib.sha256(name.encode()).hexdigest()[:22],
            "created": made_at(run).isoformat(),
            "task": name,
            "task_args": dict(run.outputs.run.get("settings") or {}),
            "dataset": {"name": name},
            "model": self._model,
            "config": {"epochs": self._epochs} if self._epochs else {},
            "metadata": {"hybrid": provenance(run)},
            "scorers": [{"name": name, **how} for name in self._means],
        }

    def _plan(self) -> dict[str, Any]:
        return {"name": "plan", "steps": [{"solver": task_name(self._run), "params": {}}], "config": {}}

    def _header(self) -> dict[str, Any]:
        sums = self._run.sums
        failed, missing = sums.failed.total(), sums.failed["missing"]
        used = {"input_tokens": sums.prompt_tokens, "output_tokens": sums.completion_tokens}
        usage = {**used, "total_tokens": sums.prompt_tokens + sums.completion_tokens}
        head: dict[str, Any] = {
            "version": VERSION,
            "status": "error" if missing else "success",
            "eval": self._spec(),
            "plan": self._plan(),
            "results": {
                "total_samples": sums.outputs,
                "completed_samples": sums.outputs - failed,
                "scores": [self._results(name, mean) for name, mean in self._means.items()],
            },
            "stats": {"model_usage": {self._model: usage}},
        }
        if missing:
            why = COMPLETE.format(missing, sums.outputs)
            head["error"] = {"message": why, "traceback": why, "traceback_ansi": why}
        return head

    def _results(self, name: str, mean: RunningMean) -> dict[str, Any]:
        """The mean over questions as inspect computes it; of the first arm also our score with its interval."""
        summary = self._run.summary
        low, high = summary["interval"] or (None, None)
        figures = {"mean": mean.mean, "stderr": mean.stderr}
        if name == self._run.grader:
            figures |= {"hybrid_score": summary["score"], "hybrid_low": low, "hybrid_high": high}
        return {
            "name": name,
            "scorer": name,
            "reducer": "mean",
            "scored_samples": mean.n,
            "unscored_samples": self._unscored[name],
            "params": dict(self._run.settings),
            "metrics": {
                name: {"name": name, "value": value, "params": {}}
                for name, value in figures.items()
                if value is not None
            },
            "metadata": {"unit": summary["unit"], "figures": summary["figures"], "controls": summary["controls"]},
        }


def member_of(name: str) -> zipfile.ZipInfo:
    """A packed member of a zip with the same bytes at any time and on any system."""
    info = zipfile.ZipInfo(name, EPOCH)
    info.compress_type = zipfile.ZIP_DEFLATED
    info.create_system, info.external_attr = 3, 0o644 << 16
    return info


def sample_id(output: Output) -> str:
    """The id of a question's samples, which is a part of a member's path: the question, after its task where it does
    not begin with that; a digest instead of what could leave the folder that a zip is unpacked in.
    """
    whole = output.question if output.question.split("/")[0] == output.task else f"{output.task}/{output.question}"
    parts = whole.split("/")
    if SAFE.fullmatch(whole) and not {"", ".", ".."} & set(parts):
        return whole
    return hashlib.sha256(whole.encode()).hexdigest()[:32]


def _content(output: Output) -> str | list[dict[str, str]]:
    if not output.thought:
        return output.text or ""
    return [{"type": "reasoning", "reasoning": output.thought}, {"type": "text", "text": output.text or ""}]


def _target(reference: Json) -> str | list[str]:
    if isinstance(reference, list) and reference and all(isinstance(one, str) for one in reference):
        return [str(one) for one in reference]
    return "" if reference is None else text_of(reference)


def _score(output: Output, grade: GradeRow) -> dict[str, Json]:
    about: dict[str, Json] = {"question": grade.question, "outputs": grade.outputs, "figures": dict(grade.figures)}
    return {"value": grade.score, "answer": output.text, "metadata": about}


def _summary(sample: Mapping[str, Any]) -> dict[str, Json]:
    """The part of a sample that lists of samples show."""
    asked = sample["input"]
    shown = asked if isinstance(asked, str) else next((one["content"] for one in asked[::-1]), "")
    summary = {
        "id": sample["id"],
        "epoch": sample["epoch"],
        "input": shown[:LONGEST],
        "target": [one[:LONGEST] for one in sample["target"]]
        if isinstance(sample["target"], list)
        else sample["target"][:LONGEST],
        "uuid": sample["uuid"],
        "completed": "error" not in sample,
        "model_usage": sample.get("model_usage", {}),
    }
    if "error" in sample:
        summary["error"] = sample["error"]["message"][:LONGEST]
    if "scores" in sample:
        cut = {name: {**one, "answer": one["answer"][:LONGEST]} for name, one in sample["scores"].items()}
        summary["scores"] = cut
    return summary
