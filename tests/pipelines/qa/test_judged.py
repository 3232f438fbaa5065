"""A judge of the run's own: on one machine, on two, with rules, failures and verdicts that cannot be read."""

from __future__ import annotations

import csv
import io
import json
import shutil
from pathlib import Path
from typing import Any

import pytest
import zstandard

from graders.judge import Judge
from graders.judged import Judged
from hybrid.backends.scripted import ScriptedBackend
from hybrid.errors import CannotRun
from hybrid.execution.roles import stages_with, with_grader
from hybrid.folder.shards import pack
from hybrid.grading.judging.asking import Asking
from hybrid.grading.judging.recorded import NO_VERDICTS, NOT_YET
from hybrid.grading.judging.replies import CONTRADICTORY, CUT, UNREADABLE
from hybrid.protocols import Inputs
from hybrid.records import Failure, Item, Output
from hybrid.testing import check_grader
from pipelines.qa.eval import QaEval
from tests.support.in_process import Hybrid
from tests.support.ollama_server import OllamaServer
from tests.support.stages_in_memory import items_of, run_stages

RIGHT, WRONG = '{"reason": "the same", "correct": true}', 'Well: {"correct": false}'
VERDICTS = {
    "the North Sea, I think": RIGHT,
    "a lake": WRONG,
    "unclear": "I cannot say",
    "twice unclear": "Hm",
    "cut": '{"reason": "it is corr',
    "both": '{"correct": true} {"correct": false}',
}
"""Answer -> what the judge says of it at first."""
SECOND = {"unclear": RIGHT}
ANSWERS = [*VERDICTS, "the North Sea.", "", None]
"""Of which a rule calls one right, one is empty and one failed."""


def data(place: Path, answers: list[str | None]) -> Path:
    asked = [{"question": f"Where to, {n}?", "answer": "The North Sea"} for n in range(len(answers))]
    file = place / "data.json"
    file.write_text(json.dumps([{"title": "Rhine", "context": "It flows.", "questions": asked}]))
    return file


def scripts(place: Path, answers: list[str | None]) -> tuple[Path, Path]:
    """The script of the model, which fails where the answer is None, and the script of its judge."""
    said = {f"Topic: Rhine\nPassage: It flows.\nQuestion: Where to, {n}?": one for n, one in enumerate(answers)}
    model, judge = place / "model.json", place / "judge.json"
    model.write_text(json.dumps({"answers": {ask: one for ask, one in said.items() if one is not None}}))
    verdicts = {}
    for number, answer in enumerate(answers):
        request = Asking().request(f"Where to, {number}?", ["The North Sea"], answer or "")
        verdicts[request.messages[-1].content] = VERDICTS.get(answer or "", RIGHT)
    judge.write_text(json.dumps({"answers": verdicts}))
    return model, judge


def arguments(place: Path) -> list[str]:
    model, judge = scripts(place, ANSWERS)
    return [
        "qa-eval", "--set", f"data={data(place, ANSWERS)}", "--backend", "scripted", "--model", str(model),
        "--model", f"judge={judge}", "--backend", "judge=scripted",
    ]  # fmt: skip


def graded(hybrid: Hybrid, outputs: object, *more: object) -> tuple[dict[str, Any], dict[str, Any]]:
    """The summary, and score or reason by question."""
    done = hybrid("grade", outputs, "--json", *more)
    found = json.loads(done.stdout)
    grades = json.loads(Path(found["grades"]).read_text())["grades"]
    if judge := found["summary"].get("judge"):
        judge["models"] = [one["digest"] for one in judge["models"]]
    return found["summary"], {one["question"]: (one["score"], one["reason"], one["detail"]) for one in grades}


def test_a_run_here_ends_judged_as_the_grader_judges_the_same_answers(
    tmp_path: Path, hybrid: Hybrid, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HYBRID_HOME", str(tmp_path / "home"))
    done = hybrid("run", "local", *arguments(tmp_path), "--folder", tmp_path / "folder")
    assert (done.code, "1 item of " in done.stderr, "failed (1 of 9 in 'answer');" in done.stderr) == (3, True, True)
    (outputs,) = (tmp_path / "folder").glob("results/*/outputs.json")
    fetched = hybrid("fetch", outputs.parent.name, "--folder", tmp_path / "folder", "-o", tmp_path / "fetched.json")
    assert (fetched.code, "failed (1 of 9 in 'answer');" in fetched.stderr) == (3, True)
    summary, by_question = graded(hybrid, outputs)
    again, by_judge = graded(
        hybrid, outputs, "--grader", "judge", "--backend", "scripted", "--model", tmp_path / "judge.json"
    )
    assert summary == again
    assert len(summary["judge"]["prompt"]) == 64
    assert by_question == by_judge
    assert (summary["judge"]["check"], summary["judge"]["counts"]["unreadable"]) == (None, 4)
    told = hybrid("grade", outputs).stdout
    assert f"not known: hybrid judge check --model {tmp_path}/judge.json --backend scripted tells" in told
    assert (summary["n"], summary["ungraded"]["count"]) == (4, 5)
    assert summary["ungraded"]["reasons"] == {UNREADABLE: 3, CONTRADICTORY: 1, "no output to grade": 1}
    assert sum(summary["failed_outputs"].values()) == 1
    document = json.loads(outputs.read_text())
    assert sorted(one["text"] for one in document["records"] if one["error"] is None) == sorted(filter(
        lambda one: one is not None, ANSWERS))  # fmt: skip
    assert all(set(one["view"]["answer"]) == {"key", "finish", "tokens"} for one in document["records"])
    assert [one.get("role", "") for one in document["models"]] == ["", "judge"]
    assert document["run"]["about"]["grader"] == "judged"
    assert graded(hybrid, outputs, "--grader", "squad")[0]["n"] == len(ANSWERS) - 1, "they are answers as ever"


def test_the_errors_of_a_run_s_judge_are_shown_once_they_are_measured(two: Two) -> None:
    two.at("laptop", "run", "local", *arguments(two.root), "--folder", two.folder)
    (outputs,) = two.folder.glob("results/*/outputs.json")
    rows = [
        {"question": f"Where to, {n}?", "gold": "The North Sea", "answer": one, "correct": VERDICTS[one] == RIGHT}
        for n, one in enumerate(ANSWERS)
        if one in VERDICTS
    ]
    (two.root / "rows.jsonl").write_text("\n".join(json.dumps(one) for one in rows))
    own = ["--backend", "scripted", "--model", two.root / "judge.json"]
    checked = two.at("laptop", "judge", "check", "--data", two.root / "rows.jsonl", *own)
    assert checked.code == 0, checked.stderr
    summary, _ = graded(two.hybrid, outputs)
    assert summary["judge"]["check"]["rows"] == len(rows)
    assert summary == graded(two.hybrid, outputs, "--grader", "judge", *own)[0]
    shown = two.hybrid("grade", outputs).stdout
    assert "checked on 6 rows of rows.jsonl: accuracy 1.000" in shown
    assert two.hybrid("report", outputs, "-o", two.root / "report.html").code == 0
    assert "checked on 6 rows of rows.jsonl" in (two.root / "report.html").read_text()
    other = ["--set", "retries=3"]
    assert two.at("laptop", "judge", "check", "--data", two.root / "rows.jsonl", *own, *other).code == 0
    assert graded(two.hybrid, outputs)[0] == summary, "a judge that is asked in another way is another one"


def test_two_roles_of_one_model_keep_their_own_options(two: Two) -> None:
    """Here and on a worker: the calls of each role go where its own option says."""
    _, judge = scripts(two.root, ANSWERS)
    judge.write_text(json.dumps({"answers": {}, "default": "a lake"}))
    named = ["--backend", "scripted", "--model", str(judge), "--model", f"judge={judge}", "--backend", "judge=scripted"]
    asked = ["qa-eval", "--set", f"data={data(two.root, ANSWERS)}", *named]

    def options(machine: str) -> list[str]:
        places = [f"{role}calls={two.root / machine}-{role or 'first='}calls" for role in ("", "judge=")]
        return [word for place in places for word in ("--backend-option", place)]

    def calls(machine: str) -> list[int]:
        places = [two.root / f"{machine}-{role}=calls" for role in ("first", "judge")]
        return [len(place.read_text().split()) if place.exists() else 0 for place in places]

    two.at("laptop", "run", "local", *asked, "--folder", two.root / "here", *options("laptop"))
    assert calls("laptop") == [len(ANSWERS), 2 * len(ANSWERS)]
    two.at("laptop", "init", two.folder)
    assert two.at("laptop", "run", "remote", *asked).code == 0
    here = ["--model", f"{judge}={judge}"]
    misspelt = two.worker("gpu", "any", "--backend-option", "juge=delay_ms=2", *here)
    assert (misspelt.code, "there is no role 'juge'" in misspelt.stderr) == (2, True), misspelt.stderr
    two.worker("gpu", "any", *options("gpu"), *here)
    assert calls("gpu") == calls("laptop")


def test_a_run_without_a_judge_stays_what_it_was(
    tmp_path: Path, hybrid: Hybrid, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HYBRID_HOME", str(tmp_path / "home"))
    hybrid("run", "local", *arguments(tmp_path)[:-4], "--folder", tmp_path / "folder")
    (outputs,) = (tmp_path / "folder").glob("results/*/outputs.json")
    document = json.loads(outputs.read_text())
    assert (document["run"]["version"], document["run"]["about"]["grader"]) == (1, "squad")
    assert "judge" not in document["records"][0]["view"]
    assert [one.name for one in stages_with(QaEval(), [""])] == ["answer"]
    inputs = Inputs({}, {}, {"grader": "squad"})
    assert with_grader(inputs, QaEval(), [""]) == inputs


def test_the_judge_is_asked_what_the_grader_asks_and_only_where_no_rule_decides(tmp_path: Path) -> None:
    pipeline = QaEval(data=str(data(tmp_path, ANSWERS)))
    inputs = pipeline.inputs()

    def answer(item: Item) -> str | Failure:
        number = int(item.view["question"].removeprefix("Where to, ").removesuffix("?"))
        if item.request.schema is None:
            return said if (said := ANSWERS[number]) is not None else Failure("engine", "it stopped")
        first = item.request.sampling.temperature == 0
        return VERDICTS[ANSWERS[number] or ""] if first else SECOND.get(ANSWERS[number] or "", "Hm")

    done = run_stages(pipeline, inputs, answer)
    by_stage = {stage.name: items_of(stage, inputs, done) for stage in pipeline.stages()}
    grader, outputs = Judge(models=("m",)), {(one.question): one for one in done["answer-judged"]}
    for attempt, stage in enumerate(("judged", "judged-again")):
        for item in by_stage[stage]:
            assert item.request == grader.request(outputs[item.question], (False, 0), attempt)
    assert (len(by_stage["judged"]), len(by_stage["judged-again"])) == (len(VERDICTS), 4)
    scores = {one.text: Judged().grade(one).score for one in done["answer-judged"] if one.text is not None}
    assert scores == {
        "the North Sea, I think": 1.0, "a lake": 0.0, "unclear": 1.0, "twice unclear": None, "cut": None, "both": None,
        "the North Sea.": 1.0, "": 0.0,
    }  # fmt: skip
    (failed,) = [one for one in by_stage["answer-judged"] if one.request.template]
    assert failed.request.template == {"failure": {"kind": "engine", "message": "it stopped"}}


@pytest.mark.parametrize(
    ("replies", "why"),
    [
        (None, NO_VERDICTS), ("x", NO_VERDICTS), ([], "not judged"), ([7], UNREADABLE), ([{"text": 1}], UNREADABLE),
        ([{"error": "too-long"}], "the judge failed: too-long"), ([{"error": {}}], UNREADABLE),
        ([{"text": '{"reason": "it', "finish": "length"}], CUT),
        ([{"text": "x", "finish": "stop"}, {"error": "engine"}], "the judge failed: engine"),
    ],
)  # fmt: skip
def test_a_verdict_that_is_not_there_is_no_score(replies: Any, why: str) -> None:
    view = {"question": "Q?", "judge": replies}
    grade = Judged().grade(Output("0" * 64, "t", "t/0", view, 0, "said", None, "gold"))
    assert (grade.score, grade.reason) == (None, why)


def test_no_text_breaks_the_grader() -> None:
    check_grader(Judged(), "gold", right="gold")


class Two:
    """A laptop and a GPU machine that share a folder; commands are run in this process."""

    def __init__(self, root: Path, hybrid: Hybrid, monkeypatch: pytest.MonkeyPatch) -> None:
        self.root, self.folder, self.hybrid, self._patch = root, root / "folder", hybrid, monkeypatch

    def use(self, host: str) -> None:
        """Ask the Ollama server at `host`."""
        self._patch.setenv("OLLAMA_HOST", host)

    def at(self, machine: str, *command: object) -> Any:
        self._patch.setenv("HYBRID_HOME", str(self.root / f"home-{machine}"))
        self._patch.setenv("HYBRID_FOLDER", str(self.folder))
        return self.hybrid(*command)

    def worker(self, machine: str, side: str, *more: object) -> Any:
        leave = ["--once", "--linger", "0", "--max-idle", "0s"]
        return self.at(machine, "worker", self.folder, "--side", side, *leave, *more)

    def submit(self) -> str:
        assert self.at("laptop", "init", self.folder).code == 0
        named = ["--backend", "scripted", "--model", "answers", "--model", "judge=judge", "--backend", "judge=scripted"]
        done = self.at("laptop", "run", "remote", *arguments(self.root)[:3], *named)
        assert done.code == 0, done.stderr
        assert "hybrid worker --side laptop" in done.stderr
        return str(done.stdout.strip())

    def first(self, script: str = "model.json") -> list[str]:
        """The option that says where the first model is on a machine."""
        return ["--model", f"answers={self.root / script}"]

    def judge(self, script: str = "judge.json") -> list[str]:
        return ["--model", f"judge={self.root / script}"]


@pytest.fixture
def two(tmp_path: Path, hybrid: Hybrid, monkeypatch: pytest.MonkeyPatch) -> Two:
    return Two(tmp_path, hybrid, monkeypatch)


def test_two_machines_each_with_its_own_model_end_judged(two: Two) -> None:
    run = two.submit()
    gpu = two.worker("gpu", "gpu", *two.first())
    assert (gpu.code, "waits for the laptop side to do the stage 'judged'" in gpu.stderr) == (4, True), gpu.stderr
    laptop = two.worker("laptop", "laptop", *two.judge())
    assert (laptop.code, "1 item failed" in laptop.stderr) == (3, True), laptop.stderr
    fetched = two.at("laptop", "fetch", run)
    assert (fetched.code, "failed (1 of 9 in 'answer');" in fetched.stderr) == (3, True), fetched.stderr
    graded = two.at("laptop", "grade", run, "--json")
    found = json.loads(graded.stdout)
    assert (found["grader"], found["summary"]["n"]) == ("judged", 4)
    status = json.loads(two.at("laptop", "status", run, "--json").stdout)
    assert status["models"] == {
        "": {"backend": "scripted", "model": "answers"}, "judge": {"backend": "scripted", "model": "judge"},
    }  # fmt: skip
    assert [stage["total"] for stage in status["stages"]] == [9, 6, 4, 9]
    assert "answers on scripted, judge judge on scripted" in two.at("laptop", "status", run).stdout
    assert (status["failed"], status["exit_code"]) == (1, 3), "the answer that failed; its verdict is no second failure"
    assert [(stage["failed"], stage["handed_on"]) for stage in status["stages"]] == [(1, 0), (0, 0), (0, 0), (1, 1)]
    told = two.at("laptop", "status", run).stdout
    assert "answer-judged: 1 of these failed: no-answer 1; 1 of them in an earlier stage" in told
    assert "28 of 28 items done, 1 of them failed" in two.at("laptop", "status").stdout
    assert "1 failed item is to be done again" in two.at("laptop", "retry", run).stderr
    again = json.loads(two.at("laptop", "status", run, "--json").stdout)
    assert (again["failed"], again["again"], again["exit_code"]) == (0, 1, 4)
    assert json.loads(two.at("laptop", "fetch", run, "--json").stdout)["failed"] == 1
    assert "0 problems, 0 harmless oddities" in two.at("laptop", "doctor", two.folder).stdout


def keep_verdicts(folder: Path, run: str) -> None:
    """Leave the two readable verdicts alone of what the laptop side did, as if it were still at work."""
    place = folder / "runs" / run
    for stage in ("judged-again", "answer-judged"):
        shutil.rmtree(place / stage)
    (whole,) = (place / "judged").glob("*/*/shard-*")
    header, *records = zstandard.ZstdDecompressor().decompressobj().decompress(whole.read_bytes()).splitlines()[:-1]
    whole.unlink()
    name, data = pack(json.loads(header), [one for one in records if json.loads(one)["text"] in (RIGHT, WRONG)], 0)
    assert name.count == 2
    whole.with_name(str(name)).write_bytes(data)


def test_a_run_is_graded_while_its_judge_is_at_work_by_the_verdicts_that_are_there(two: Two) -> None:
    run = two.submit()
    two.worker("gpu", "gpu", *two.first())
    none = two.at("laptop", "grade", run, "--json")
    assert (none.code, "6 of 9 outputs not judged yet" in none.stderr) == (4, True), none.stderr
    assert json.loads(none.stdout)["summary"]["n"] == 2, "two answers need no judge"
    assert not (two.folder / "results" / run / "outputs.json").exists(), "what is not whole does not look so"
    assert two.worker("laptop", "laptop", *two.judge()).code == 3
    whole = json.loads(two.at("laptop", "grade", run, "--json", "-o", two.root / "whole.json").stdout)
    keep_verdicts(two.folder, run)
    done = two.at("laptop", "grade", run)
    assert (done.code, "is not finished: 4 of 9 outputs not judged yet" in done.stderr) == (4, True), done.stderr
    assert "not judged yet: 4" in done.stdout
    graded = two.folder / "results" / run / "so-far" / "grades.judged.json"
    now, then = ({one["question"]: one for one in json.loads(path.read_text())["grades"]}
                 for path in (graded, two.root / "whole.json"))  # fmt: skip
    judged = [one for one in now.values() if one["reason"] != NOT_YET]
    assert judged == [then[one["question"]] for one in judged]
    assert len(judged) == 5, "two by a rule, two by a verdict, and the answer that failed"
    drawn = two.at("laptop", "report", run, "-o", two.root / "now.html")
    page = (two.root / "now.html").read_text()
    assert (drawn.code, "<b>not finished</b>: " in page, "shown is &#x27;answer-judged&#x27;" in page) == (
        0,
        True,
        True,
    )
    assert "not judged yet" in page
    check_exported(two, run, {one["question"]: one["score"] for one in now.values() if one["score"] is not None})
    texts = two.at("laptop", "grade", run, "--grader", "contains")
    assert (texts.code, "all answers are graded" in texts.stderr) == (4, True), texts.stderr
    assert two.worker("laptop", "laptop", *two.judge()).code == 3
    again = json.loads(two.at("laptop", "grade", run, "--json").stdout)
    assert (again["summary"], again["outputs_sha256"]) == (whole["summary"], whole["outputs_sha256"])


def check_exported(two: Two, run: str, scores: dict[str, float]) -> None:
    """What is there is exported with the grades of this state, and the command tells what is missing."""
    table = two.at("laptop", "export", run, "--to", "csv")
    assert (table.code, "'judged-again' waits for the stage 'judged': 4 of its" in table.stderr) == (4, True)
    rows = csv.DictReader(io.StringIO(Path(table.stdout.strip()).read_text()))
    assert {one["question"]: float(one["score"]) for one in rows if one["score"]} == scores
    batch = two.at("laptop", "export", run, "--to", "openai-batch-input", "-o", two.root / "batch.jsonl")
    assert (batch.code, "waits for the stage 'judged'" in batch.stderr) == (4, True), "what is asked next is not known"


def test_a_run_whose_judge_is_at_work_is_graded_where_its_results_cannot_be_written(two: Two) -> None:
    run = two.submit()
    two.worker("gpu", "gpu", *two.first())
    (two.folder / "results" / run).mkdir(parents=True)
    (two.folder / "results" / run / "so-far").write_text("no folder")  # root may write into any folder
    done = two.at("laptop", "grade", run, "-o", two.root / "grades.json")
    assert (done.code, "6 of 9 outputs not judged yet" in done.stderr) == (4, True), done.stderr
    assert (two.root / "grades.json").is_file()
    assert two.at("laptop", "grade", run).code == 2, "nowhere to put the grades"


def test_the_first_verified_shard_binds_each_role_and_others_are_passed_over(two: Two) -> None:
    run = two.submit()
    two.worker("gpu", "gpu", *two.first())
    (two.root / "other.json").write_text(json.dumps({"answers": {}, "default": WRONG}))
    (two.root / "late.json").write_text(json.dumps({"answers": {}, "default": RIGHT}))
    assert two.worker("laptop", "laptop", *two.judge("other.json")).code == 3
    two.at("laptop", "fetch", run)
    status = json.loads(two.at("laptop", "status", run, "--json").stdout)
    models = {stage["name"]: stage["model"] for stage in status["stages"]}
    assert models["judged"] == ScriptedBackend(str(two.root / "other.json"), {}).model.digest
    assert models["answer-judged"] == models["answer"] != models["judged"], "each role has its own"
    again = json.loads(two.at("laptop", "run", "remote", *arguments(two.root)[:3], "--backend", "scripted", "--model",
        "answers", "--model", "judge=judge", "--backend", "judge=scripted", "--json").stdout)  # fmt: skip
    assert again["run"] == run
    late = two.worker("another", "laptop", *two.judge("late.json"))
    assert late.code == 3, late.stderr
    assert json.loads(two.at("laptop", "grade", run, "--json").stdout)["summary"]["score"] < 0.5


def test_a_judge_that_has_nothing_to_judge_is_not_needed(two: Two) -> None:
    run = two.submit()
    (two.root / "right.json").write_text(json.dumps({"answers": {}, "default": "The North Sea"}))
    assert two.worker("gpu", "gpu", *two.first("right.json")).code == 4
    laptop = two.worker("laptop", "laptop")
    assert laptop.code == 0, laptop.stderr
    assert two.worker("gpu", "gpu", *two.first("right.json")).code == 0, "nothing is left for it to wait for"
    assert two.at("laptop", "fetch", run).code == 0
    assert json.loads(two.at("laptop", "grade", run, "--json").stdout)["summary"]["score"] == 1.0


def test_a_judge_that_is_not_the_bound_one_does_not_begin(two: Two) -> None:
    two.submit()
    two.worker("gpu", "gpu", *two.first())
    pinned = ["--model-digest", f"judge={'0' * 64}"]
    named = ["--backend", "scripted", "--model", "answers", "--model", "judge=judge", "--backend", "judge=scripted"]
    run = two.at("laptop", "run", "remote", *arguments(two.root)[:3], *named, *pinned).stdout.strip()
    two.worker("gpu", "gpu", "--run", run, *two.first())
    laptop = two.worker("laptop", "laptop", "--run", run, *two.judge())
    assert (laptop.code, "was begun with the model 000000000000; judge on this machine is" in laptop.stderr) == (
        7,
        True,
    )


def test_a_machine_that_lacks_a_model_does_its_stages_and_says_what_waits(two: Two) -> None:
    run = two.submit()
    done = two.worker("gpu", "any", *two.first())
    assert done.code == 4, done.stderr
    assert "waits for a machine with the model 'judge' (judge) to do the stage 'judged'" in done.stderr
    assert "--model NAME=PATH" in done.stderr
    assert json.loads(two.at("laptop", "status", run, "--json").stdout)["stages"][0]["done"] == len(ANSWERS)
    neither = two.worker("third", "any")
    assert neither.code == 7, neither.stderr
    assert two.worker("laptop", "any", *two.judge()).code == 3


def test_a_model_of_a_role_is_named_on_the_command_line(two: Two) -> None:
    arguments(two.root)
    (two.root / "folder").mkdir()
    two.at("laptop", "init", two.folder)
    begin = ["run", "remote", *arguments(two.root)[:3], "--backend", "scripted"]
    for more, words in (
        (["--model", "juge=x"], "the pipeline has no role 'juge'"),
        (
            ["--model", "juge=x"],
            "did you mean 'judge'? known: judge; a name with a '=' in it is written --model =juge=x",
        ),
        (["--backend", "juge=x"], "the pipeline has no role 'juge'"),
        (["--backend", "judge=scripted"], "no model is named for 'judge'"),
        (["--model", "x", "--model", "y"], "--model is given 2 times: 'x' and 'y'"),
        (["--model", "judge=x", "--model", "judge=y"], "--model of 'judge' is given 2 times: 'x' and 'y'"),
        (["--backend", "ollama"], "--backend is given 2 times: 'scripted' and 'ollama'"),
        (["--model", "judge="], "--model of 'judge' is empty"),
        (["--model", "judge=x", "--backend", "judge=olama"], "did you mean 'ollama'?"),
        (["--model", "judge=x", "--model-digest", "judge=12"], "is not a sha256 of 64 hex digits"),
    ):
        done = two.at("laptop", *begin, *more)
        assert (done.code, words in done.stderr) == (2, True), done.stderr
    local = ["run", "local", *arguments(two.root), "--folder", two.root / "here"]
    misspelt = ["--backend-option", "juge=delay_ms=2"]
    done = two.at("laptop", *local, *misspelt)
    words = "there is no role 'juge', and no option of the backend 'scripted'"
    assert (done.code, words in done.stderr, "did you mean 'judge'?" in done.stderr) == (2, True, True), done.stderr
    assert not (two.root / "here").exists()
    run = two.at("laptop", *begin, "--model", "=a=b", "--model", "judge=c=d").stdout.strip()
    spec = json.loads((two.folder / "runs" / run / "run.json").read_text())
    assert spec["models"][""] == {"backend": "scripted", "name": "a=b", "digest": ""}
    assert spec["models"]["judge"] == {"backend": "ollama", "name": "c=d", "digest": ""}, "as the pipeline declares"
    notebook = json.loads(two.at("laptop", "notebook", "colab", run, "-o", "-").stdout)
    text = "".join("".join(cell["source"]) for cell in notebook["cells"])
    assert "backend `scripted`, model `a=b`." in text
    assert "ollama up" not in text, "the judge is the laptop's"


def test_a_grader_that_is_not_there_is_told_before_anything_is_asked() -> None:
    inputs = Inputs({}, {}, {"grader": "squat"})
    with pytest.raises(CannotRun, match="the pipeline 'qa-eval' names the grader 'squat', which is not") as error:
        with_grader(inputs, QaEval(), [""])
    assert "did you mean 'squad'?" in error.value.hint


@pytest.mark.slow
def test_two_machines_and_an_ollama_server_end_judged(ollama_server: OllamaServer, two: Two) -> None:
    """One command submits it, a worker a side does it, and the scores are those of the grader `judge`."""
    two.use(ollama_server.host)
    judge = ollama_server.create("a-judge", Path("smollm2"), "PARAMETER top_k 7")  # the same weights, another digest
    assert two.at("laptop", "init", two.folder).code == 0
    asked = ["qa-eval", "--limit", "1", "--set", "questions=1", "--set", "max_tokens=12"]
    run = two.at(
        "laptop", "run", "remote", *asked, "--backend", "ollama", "--model", "smollm2", "--model", f"judge={judge}"
    ).stdout.strip()
    gpu = two.worker("gpu", "gpu")
    assert (gpu.code, "waits for the laptop side" in gpu.stderr) == (4, True), gpu.stderr
    laptop = two.worker("laptop", "laptop")
    assert laptop.code == 0, laptop.stderr
    fetched = two.at("laptop", "fetch", run)
    assert fetched.code == 0, fetched.stderr
    document = json.loads(Path(fetched.stdout.strip()).read_text())
    digests = ollama_server.models()
    assert [(one.get("role", ""), one["digest"]) for one in document["models"]] == [
        ("", digests["smollm2:latest"]), ("judge", digests["a-judge:latest"]),
    ]  # fmt: skip
    assert [len(one["view"]["judge"]) in (0, 1, 2) for one in document["records"]] == [True]
    summary, by_question = graded(two.hybrid, fetched.stdout.strip())
    again, by_judge = graded(two.hybrid, fetched.stdout.strip(), "--grader", "judge", "--model", judge)
    assert (summary, by_question) == (again, by_judge)
