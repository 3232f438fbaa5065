"""Whole runs of cvfp: what each variant computes, that a resumed one is the same to the bit, and what is refused."""

from __future__ import annotations

import json
import re
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

from hybrid.errors import BadData, CannotRun, UsageError
from hybrid.loops import Loop, RoundFailed, Series
from hybrid.records import Output
from pipelines.cvfp.corpus import MOST_COUNTED
from pipelines.cvfp.documents import BUILT_IN, pieces, read_documents
from pipelines.cvfp.exports import pages
from pipelines.cvfp.grader import CvfpMeasures
from pipelines.cvfp.loop import embedding_of, loop
from pipelines.cvfp.ngrams import Bigram, Unigram, score
from pipelines.cvfp.pipeline import DATA, Cvfp
from pipelines.cvfp.report import unconverged
from pipelines.cvfp.results import criteria, fixed_point, read
from pipelines.cvfp.settings import GUIDED
from pipelines.cvfp.state import pack, unpack
from pipelines.cvfp.tokens import tokenizer_for

SMALL: dict[str, Any] = {
    "documents": 3, "pieces": (24,), "length": 12, "vocabulary": 400, "width": 16, "layers": 2, "sweeps": 4,
    "epochs": 3, "every": 2, "batch": 8, "window": 6, "part": 144,
}  # fmt: skip


class Lab:
    """A `hybrid.loops.Lab` of this CPU."""

    device = "cpu"


def loops(**more: Any) -> list[tuple[Series, Loop]]:
    settings = Cvfp(**(SMALL | more))
    tasks = settings.inputs().tasks
    return [(one, loop(settings, one, Lab(), tasks[DATA])) for one in settings._series(tasks)]  # type: ignore[arg-type]


def pairs_of(vocabulary: int) -> str:
    """A tokenizer's file with so many tokens."""
    made = tokenizer_for("trained", [BUILT_IN.read_text()[:50_000]], vocabulary)
    assert made.vocabulary == vocabulary
    return str(made._made.to_str())  # type: ignore[attr-defined]


def outputs_of(**more: Any) -> list[Output]:
    return [
        Output("", series.name, f"{series.name}/{number:05d}", {}, 0, made.round(number).to_text(), None, None)
        for series, made in loops(**more)
        for number in range(series.rounds)
    ]


@pytest.mark.parametrize("variant", ["cvfp", "guide", "guide-unguarded", "mean-deviation", "end-to-end", "token-only"])
def test_a_resumed_run_goes_on_to_the_bit(variant: str) -> None:
    ((series, made),) = loops(variants=(variant,), noise1=0.1)
    states, texts = [], []
    for number in range(series.rounds):
        states.append(made.state())
        texts.append(made.round(number).to_text())
    for start in (1, series.rounds // 2, series.rounds - 1):
        ((_, resumed),) = loops(variants=(variant,), noise1=0.1)
        resumed.load(states[start])
        assert [resumed.round(number).to_text() for number in range(start, series.rounds)] == texts[start:]


def test_the_records_say_what_the_model_is_and_what_it_writes() -> None:
    one, other = read(outputs_of(variants=("cvfp", "token-only"), tied=True))
    assert one.shape["parameters"] == 400 * 16 + 2 * 16 + 2 * (32 * 32 + 32 + 64)
    assert 2 * one.shape["phase1_mib"]["total"] == pytest.approx(sum(one.shape["phase1_mib"].values()))
    assert " | " in one.text
    assert one.text != other.text


def test_a_head_that_reads_contexts_too_is_trained_and_resumed_with_them() -> None:
    how: dict[str, Any] = {"variants": ("untrained", "token-only"), "head": "context-and-token"}
    one, alone = read(outputs_of(**how))
    assert one.shape["parameters"] - alone.shape["parameters"] == 400 * 16
    ((_, made), _), ((_, resumed), _) = loops(**how), loops(**how)
    made.round(0)
    resumed.load(made.state())
    assert resumed.round(1).to_text() == made.round(1).to_text()
    assert " | " in one.text
    with pytest.raises(ValueError, match=r"head=context-and-token needs a matrix of its own"):
        Cvfp(tied=True, head="context-and-token")


def test_the_guide_takes_no_step_and_the_others_do() -> None:
    series = {one.variant: one for one in read(outputs_of(variants=("guide", "guide-unguarded", "cvfp")))}
    assert {one for _, one in series["guide"].curve("stepped", 1)} == {0.0}
    for other in ("guide-unguarded", "cvfp"):
        assert {one for _, one in series[other].curve("stepped", 1)} == {1.0}


def test_variants_without_a_phase_have_none() -> None:
    series = {one.variant: one for one in read(outputs_of(variants=("untrained", "token-only", "unigram", "bigram")))}
    assert not any(one.curve("phase", 1) for one in series.values())
    assert len(series["untrained"].curve("loss", 2)) == 3
    assert len(series["bigram"].curve("loss", 2)) == 1
    assert series["bigram"].best()["loss"] < series["unigram"].best()["loss"]  # type: ignore[index]


def test_phase_two_learns_and_keeps_its_best() -> None:
    (one,) = read(outputs_of(variants=("end-to-end",), epochs=8, patience=8))
    losses_ = [value for _, value in one.curve("loss", 2)]
    assert losses_[-1] < losses_[0]
    assert one.last("best", 2) == min(losses_)


def test_phase_two_stops_without_progress() -> None:
    (one,) = read(outputs_of(variants=("end-to-end",), epochs=12, patience=1, rate2=0.5, warm_up=0.0))
    assert any(of.get("stopped") for of in one.rounds.values())
    assert len(one.curve("loss", 2)) < 12


def test_frozen_contexts_train_the_head_alone() -> None:
    ((_, made),) = loops(variants=("untrained",))
    before = {name: value.clone() for name, value in made.model.named_parameters()}  # type: ignore[attr-defined]
    made.round(0)
    changed = {name for name, value in made.model.named_parameters() if not torch.equal(before[name], value)}  # type: ignore[attr-defined]
    assert changed == {"head.weight", "head.bias"}


def test_every_document_is_on_one_side_and_twins_are_left_out(tmp_path: Path) -> None:
    texts = [f"document {number} " + "word " * 40 for number in range(30)]
    path = tmp_path / "texts.txt"
    path.write_text("\n\n\n".join([*texts, texts[3]]) + "\n")
    found = read_documents(str(path), 0.2)
    assert not set(found.train) & set(found.held_out)
    assert len(found.train) + len(found.held_out) == 30
    assert found.duplicates == 1
    more = read_documents(str(path), 0.2, most=20)
    assert set(more.held_out) <= set(found.held_out)


def test_chats_are_joined_as_the_guide_does(tmp_path: Path) -> None:
    path = tmp_path / "chats.jsonl"
    chats = [
        {"messages": [{"role": "user", "content": f"q{n}"}, {"role": "assistant", "content": "a"}]} for n in range(9)
    ]
    path.write_text("".join(json.dumps(one) + "\n" for one in chats))
    found = read_documents(str(path), 0.3)
    assert {*found.train, *found.held_out} == {f"q{n}\na" for n in range(9)}


@pytest.mark.parametrize(
    ("name", "content", "named"),
    [
        ("one.txt", "alone", "two are the least"),
        ("empty.txt", "", "two are the least"),
        ("bad.jsonl", '{"text": 3}\n', "no text and no messages"),
        ("cut.jsonl", '{"text": "a"}\n{"text": ', "cut.jsonl: line 2"),
    ],
)
def test_files_without_documents_are_refused(tmp_path: Path, name: str, content: str, named: str) -> None:
    (tmp_path / name).write_text(content)
    with pytest.raises(BadData, match=named):
        read_documents(str(tmp_path / name), 0.2)


def test_only_a_line_feed_ends_a_line_of_json(tmp_path: Path) -> None:
    (path := tmp_path / "a.jsonl").write_text('{"text": "one\u2028two"}\r\n\n{"text": "three\x85"}\n', newline="")
    found = read_documents(str(path), 0.2)
    assert {*found.train, *found.held_out} == {"one\u2028two", "three\x85"}


def test_a_file_that_is_not_there_is_refused(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="no such file"):
        read_documents(str(tmp_path / "none.txt"), 0.2)


@pytest.mark.parametrize("tokenizer", ["trained", "bytes"])
def test_documents_shorter_than_a_piece_are_refused_before_there_is_a_run(tmp_path: Path, tokenizer: str) -> None:
    (path := tmp_path / "short.txt").write_text("one two\n\n\nthree four\n\n\nfive")
    with pytest.raises(UsageError, match=r"short\.txt: the longest document .* bytes, and length=12 tokens"):
        loops(data=str(path), tokenizer=tokenizer, documents=0)


@pytest.mark.parametrize(
    ("more", "named"),
    [
        ({"length": 1500, "vocabulary": 4000}, r"the built-in text: no document .* length=1,500 tokens, the longest"),
        ({"pieces": (24, 900)}, "pieces=900: there are"),
        ({"tokenizer": "nothing"}, "tokenizer=nothing: no such folder"),
        ({"tokenizer": "~nosuchuser/gpt"}, "tokenizer=~nosuchuser/gpt: no such folder"),
        ({"tokenizer": "x" * 300}, "tokenizer=x{200}: no such folder"),
        ({"data": "~nosuchuser/texts.txt"}, "~nosuchuser/texts.txt: no such file"),
        ({"tokenizer": "nothing/at/all", "embedding": "nothing/at/all"}, "tokenizer=nothing/at/all: no such folder"),
    ],
)
def test_what_the_documents_or_this_machine_cannot_give_is_refused_before_there_is_a_run(
    more: dict[str, Any], named: str
) -> None:
    with pytest.raises(UsageError, match=named):
        Cvfp(**(SMALL | more)).inputs()


@pytest.mark.parametrize(("size", "refused"), [(MOST_COUNTED, True), (MOST_COUNTED + 1, False)])
def test_tokens_of_much_text_are_counted_by_the_machine_that_trains_alone(
    tmp_path: Path, size: int, refused: bool
) -> None:
    beside = "another document"
    (path := tmp_path / "texts.txt").write_text("x" * (size - len(beside)) + "\n\n\n" + beside)
    how = SMALL | {"data": str(path), "documents": 0, "tokenizer": "bytes", "pieces": (10**6,)}
    with pytest.raises(UsageError, match="pieces=1000000: there are") if refused else nullcontext():
        assert DATA in Cvfp(**how).inputs().tasks


@pytest.mark.parametrize("tokenizer", ["openai-community/gpt2", "/only/on/another/machine", "smollm2"])
def test_a_model_that_another_machine_may_have_is_refused_by_that_alone(tokenizer: str) -> None:
    assert DATA in Cvfp(**(SMALL | {"tokenizer": tokenizer})).inputs().tasks


def test_what_is_left_out_is_counted(tmp_path: Path) -> None:
    path = tmp_path / "texts.txt"
    texts = [f"document {number} " + "word " * 40 for number in range(12)]
    path.write_text("\n\n\n".join([*texts, "  ", texts[1], "short", "  \n"]))
    found = read_documents(str(path), 0.2)
    assert (len(found.train) + len(found.held_out), found.duplicates, found.empty) == (13, 1, 2)
    ((_, made),) = loops(variants=("cvfp",), data=str(path), documents=0, pieces=(0,), tokenizer="bytes")
    assert made.round(0).notes["shape"]["short"] == 1  # type: ignore[call-overload,index]


def test_token_vectors_are_those_of_the_model_whose_tokenizer_it_is(tiny_llama: Path, tmp_path: Path) -> None:
    how: dict[str, Any] = {"variants": ("token-only",), "embedding": str(tiny_llama), "tokenizer": str(tiny_llama)}
    ((_, made),) = loops(**how, width=32)
    right = load_file(tiny_llama / "model.safetensors")["model.embed_tokens.weight"]
    assert torch.equal(made.model.embedding, right.float())  # type: ignore[attr-defined]
    with pytest.raises(CannotRun, match="have 32 numbers, and width=16"):
        loops(**how)
    with pytest.raises(ValueError, match="name the same model for both"):
        Cvfp(embedding=str(tiny_llama))
    (tmp_path / "tokenizer.json").write_text(pairs_of(600))
    with pytest.raises(CannotRun, match="has vectors of 258 tokens, and the tokenizer has 600 tokens"):
        loops(**(how | {"tokenizer": str(tmp_path)}), width=32)


@pytest.mark.parametrize(("content", "named"), [("{", "is no tokenizer"), (None, "is not a model")])
def test_a_folder_without_a_tokenizer_is_refused(tmp_path: Path, content: str | None, named: str) -> None:
    if content:
        (tmp_path / "tokenizer.json").write_text(content)
    with pytest.raises(CannotRun, match=named):
        loops(tokenizer=str(tmp_path))


def test_the_state_of_other_texts_is_refused() -> None:
    ((_, one),) = loops(variants=("cvfp",))
    ((_, other),) = loops(variants=("cvfp",), documents=6)
    with pytest.raises(BadData, match="on other texts"):
        other.load(one.state())


def test_a_state_of_random_vectors_that_another_processor_drew_is_taken(monkeypatch: pytest.MonkeyPatch) -> None:
    ((_, one),) = loops(variants=("cvfp",))
    monkeypatch.setattr(
        "pipelines.cvfp.loop.embedding_of", lambda folder, shape: embedding_of(folder, shape) * (1 + 1e-6)
    )
    ((_, other),) = loops(variants=("cvfp",))
    other.load(one.state())


def test_pieces_cut_no_document_in_two_of_another() -> None:
    assert pieces([[1, 2, 3, 4, 5], [6, 7], [8]], 2) == [[1, 2], [3, 4], [6, 7]]


def test_the_state_of_another_shape_is_refused() -> None:
    ((_, wide),) = loops(variants=("cvfp",), width=24)
    ((_, narrow),) = loops(variants=("cvfp",))
    with pytest.raises(BadData):
        narrow.load(wide.state())
    with pytest.raises(BadData):
        narrow.load(b"garbage")


@pytest.mark.parametrize("change", [{"lowest": "low"}, {"lowest": 10**400}, {"lowest": 1.0, "waited": None}])
def test_a_state_whose_numbers_are_none_is_refused(change: dict[str, Any]) -> None:
    ((_, one),) = loops(variants=("untrained",))
    one.round(0)
    tensors, about = unpack(one.state())
    with pytest.raises(BadData, match="waited"):
        one.load(pack(tensors, about | change))


def test_witten_and_bell_give_shares_that_sum_to_one() -> None:
    bigram = Bigram([[0, 1, 2, 1, 0], [2, 2, 1]], 4)
    for before in range(4):
        assert sum(bigram.probability(token, before) for token in range(4)) == pytest.approx(1)
    alone, after = (score(make([[0, 1] * 20], 4), [[0, 1] * 5]) for make in (Unigram, Bigram))
    assert after.loss < alone.loss
    assert (alone.tokens, alone.top5, after.top1) == (9, 1.0, 1.0)
    assert alone.top1 == pytest.approx(4 / 9)  # both are as frequent: the first one is guessed


def test_counted_variants_guess_what_was_seen_most_often_before_what_is_frequent() -> None:
    bigram = Bigram([[0, 1, 0, 2, 0, 1], [3, 3, 3, 3, 3], [4, 4, 4], [5]], 9)
    assert bigram.unigram.likeliest() == [3, 0, 4, 1, 2]
    assert bigram.likeliest(0) == [1, 2, 3, 0, 4]
    assert bigram.likeliest(8) == [3, 0, 4, 1, 2]
    ((_, made),) = loops(variants=("bigram",))
    found = made.round(0).metrics
    assert 0.0 < found["top1"] < found["top5"] < 1.0


def test_what_is_measured_compares_with_every_control() -> None:
    found = list(CvfpMeasures(read(outputs_of(variants=("cvfp", "token-only", "bigram"), seeds=(0, 1)))).measures())
    named = {(one.group, one.name) for one in found}
    assert {("cvfp", "loss minus that of token-only"), ("cvfp", "loss minus that of bigram")} <= named
    by_name = {(one.group, one.name): one for one in found}
    assert by_name["cvfp", "loss minus that of bigram"].n == 2
    assert by_name["cvfp", "contexts: growth"].n == 2


def test_an_untrained_network_is_held_against_the_same_criteria() -> None:
    of: dict[str, Any] = {"width": 64, "layers": 6, "length": 40, "pieces": (6,), "epochs": 1}
    series = read(outputs_of(variants=("untrained", "untrained-chaotic"), **of))
    found = {one.variant: one for one in series}
    assert found["untrained-chaotic"].converged is False
    assert criteria(found["untrained-chaotic"])["95 % of tokens converged"] is False
    assert None not in criteria(found["untrained"]).values()
    assert fixed_point([found["untrained-chaotic"]]).startswith("0 of 1: growth 1.")
    told = unconverged(series)
    assert re.search(r"<b>untrained-chaotic</b> did not converge \(1 seed\): a small change grows 1\.\d+ times", told)
    assert "<b>untrained</b>" not in told


def test_contexts_that_are_not_finite_end_the_series() -> None:
    ((_, made),) = loops(variants=("cvfp",))
    with torch.no_grad():
        made.model.blocks[0].weight.fill_(float("nan"))  # type: ignore[attr-defined]
    with pytest.raises(RoundFailed, match=r"the losses of sweep 0 are 0\.0 and nan"):
        made.round(0)
    with pytest.raises(RoundFailed, match="after sweep 3: contexts are not finite"):
        made._measured("after sweep 3")  # type: ignore[attr-defined]


def test_the_published_order_of_the_guide_takes_no_step_and_logs_it() -> None:
    found = {one.variant: one for one in read(outputs_of(variants=GUIDED, execution="token-by-token"))}
    assert {one for _, one in found["guide"].curve("stepped", 1)} == {0.0}
    assert {one for _, one in found["guide-unguarded"].curve("stepped", 1)} == {1.0}
    assert [line.partition(":")[0] for line in found["guide"].log] == [f"Iteration {n}" for n in range(1, 5)]
    assert max(loss for _, loss in found["guide"].curve("change_loss", 1)) <= 4 / 16


def test_the_published_order_resumes_to_the_bit_and_is_for_few_tokens() -> None:
    how: dict[str, Any] = {"variants": ("guide-unguarded",), "execution": "token-by-token", "noise1": 0.1}
    ((series, made),) = loops(**how)
    states, texts = [], []
    for number in range(series.rounds):
        states.append(made.state())
        texts.append(made.round(number).to_text())
    ((_, resumed),) = loops(**how)
    resumed.load(states[2])
    assert [resumed.round(number).to_text() for number in range(2, series.rounds)] == texts[2:]
    with pytest.raises(CannotRun, match="one by one; 10,000 are the most"):
        loops(variants=("guide",), execution="token-by-token", pieces=(0,), documents=60)
    with pytest.raises(ValueError, match="of the guide's variants alone, not of cvfp"):
        Cvfp(variants=("cvfp",), execution="token-by-token")


def test_pieces_of_a_stream_begin_with_what_came_before_and_chaos_is_refused() -> None:
    alone, stream = (read(outputs_of(variants=("cvfp",), carry=carry))[0] for carry in ("document", "stream"))
    assert alone.last("loss", 2) != stream.last("loss", 2)
    ((_, made),) = loops(variants=("cvfp",), carry="stream")
    ((_, other),) = loops(variants=("untrained-chaotic",), carry="stream", width=64, layers=6)
    made.round(0)
    with pytest.raises(RoundFailed, match=r"carry=stream is refused: a change of the context grows 1\.\d+ times"):
        other.round(0)


def test_the_table_of_rounds_has_one_head_whatever_was_measured() -> None:
    first = [pages(outputs_of(variants=(one,)))["rounds.csv"].splitlines() for one in ("cvfp", "unigram")]
    assert first[0][0] == first[1][0]
    assert sum(",growth," in line for line in first[0]) == 3  # sweeps 0, 2 and 3


def test_the_last_sweep_says_how_close_sweeps_come_without_training() -> None:
    (found,) = read(outputs_of(variants=("cvfp",)))
    assert found.last("sweep_error", 1) <= max(found.last("sweep_bound", 1), 1e-9)  # type: ignore[operator,type-var]
    assert 2 < found.last("sweeps_needed", 1) <= 64  # type: ignore[operator]
