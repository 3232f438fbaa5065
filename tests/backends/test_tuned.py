"""Requests with a training: trained in groups, answered with the trained adapters, checkpoints kept in the run."""

from __future__ import annotations

import gc
import json
import os
import shutil
import tempfile
import weakref
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from typing import Any, ClassVar

import pytest
import torch

from hybrid import testing
from hybrid.backends import adapter_files, registry, transformers
from hybrid.backends.registry import open_backend, open_tuned
from hybrid.backends.transformers import TransformersBackend
from hybrid.backends.tuned import answering
from hybrid.backends.tuned.group import LOSS_POINTS, TrainingRequest, loss_curve
from hybrid.errors import CannotRun, Temporary, UsageError
from hybrid.folder.medium import Disk
from hybrid.folder.tensors import RunTensors
from hybrid.protocols import Backend, Tensors, Training, TrainingBackend
from hybrid.records import Adapter, Completion, Request
from hybrid.training.optimizer import SlotAdamW
from hybrid.training.session import TrainingSession
from hybrid.training.slots import AdapterBank
from hybrid.tuning import Tuning
from tests.support.small_hf_model import ask, chatml, of_words, tuning, write_model

pytestmark = pytest.mark.filterwarnings("ignore")  # torch and transformers warn of themselves
RED, BLUE, GREEN = (tuning({"words": [word, f"{word}ish", word * 2]}) for word in ("red", "blue", "green"))
THREE = (RED, BLUE, GREEN)
REFUSED, EMPTY = tuning({"refused": 1}), tuning({"words": []})


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    torch.set_num_threads(1)
    return write_model(tmp_path_factory.mktemp("model"), chatml())


def kept_in(place: Path, attempt: str = "one") -> RunTensors:
    return RunTensors("run", attempt, Disk(place))


Opener = Callable[..., Backend]


def prepared(engine: Backend, tensors: Tensors, pairs: Sequence[tuple[Tuning, str]]) -> Backend:
    """The engine, prepared for the trainings of a stage."""
    assert isinstance(engine, TrainingBackend)
    engine.prepare(Training(tensors, of_words if pairs else None, tuple(pairs)))
    return engine


@pytest.fixture
def opened(folder: Path, tmp_path: Path) -> Iterator[Opener]:
    """Opens engines, and closes them."""
    engines: list[Backend] = []

    def opener(
        trainings: Sequence[Tuning | tuple[Tuning, str]] = (), tensors: Tensors | None = None, **options: Any
    ) -> Backend:
        pairs = [one if isinstance(one, tuple) else (one, "") for one in trainings]
        said = {"device": "cpu", **{name: str(value) for name, value in options.items()}}
        kept = tensors or kept_in(tmp_path)
        engines.append(open_tuned("transformers", str(folder), said))
        return prepared(engines[-1], kept, pairs)

    yield opener
    for engine in engines:
        engine.close()


def completions(backend: Backend, *requests: Request) -> dict[str, Completion]:
    """Completions without their times."""
    return {key: replace(done, seconds=0.0) for key, done in testing.answers(backend, *requests).items()}


def each(*tunings: Tuning, question: str = "Say it.") -> list[Request]:
    return [ask(question, f"{n} {question}", tuning=one) for n, one in enumerate(tunings)]


def trained(found: Mapping[str, Completion]) -> list[Any]:
    return [done.trained.get("adapter") for _, done in sorted(found.items())]


@pytest.fixture
def passes(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """A list that grows by one element with every training pass."""
    counted: list[int] = []
    one_pass = TrainingSession._pass

    def watched(session: TrainingSession) -> list[int]:
        counted.append(1)
        return one_pass(session)

    monkeypatch.setattr(TrainingSession, "_pass", watched)
    return counted


def test_requests_are_answered_with_the_model_that_each_asks_for(opened: Opener, folder: Path) -> None:
    questions = [request for text in ("Say it.", "And now?") for request in each(*THREE, question=text)]
    base = [ask(f"Say {n}.") for n in range(4)]
    mixed = [*questions[:2], base[0], *questions[2:5], *base[1:3], questions[5], base[3]]
    found = completions(opened(THREE), *mixed)
    plain = open_backend("transformers", str(folder), {"device": "cpu"})
    assert {one.key: found[one.key] for one in base} == completions(plain, *base)
    for request in questions:
        about = found[request.key].trained
        assert request.tuning
        assert about["tuning"] == request.tuning.digest
        assert (about["texts"], about["steps"], about["left_out"], about["skipped"]) == (3, 4, 0, 0)
        assert about["loss"][-1] < about["loss"][0]  # type: ignore[index]
    by_tuning = [found[f"{n} Say it."].trained["adapter"] for n in range(3)]
    assert by_tuning == [found[f"{n} And now?"].trained["adapter"] for n in range(3)]
    assert len(set(by_tuning)) == 3
    untrained = completions(plain, ask("Say it."))["Say it."].text
    assert len({found[f"{n} Say it."].text for n in range(3)} | {untrained}) == 4
    plain.close()


def test_groups_are_those_of_the_stage_whatever_is_asked(opened: Opener, tmp_path: Path, passes: list[int]) -> None:
    five = [tuning({"words": [f"word{n}", "x" * n]}) for n in range(5)]
    whole = completions(opened(five, group=2), *each(*five))
    once = len(passes)
    rest = [one for one in each(*five) if one.key[0] in "134"]
    found = completions(opened(five, kept_in(tmp_path / "elsewhere"), group=2), *rest)
    assert found == {one.key: whole[one.key] for one in rest}
    assert len(passes) == 2 * once  # the groups of 0 and 2 are trained whole, though one of each is asked


def test_a_stage_goes_on_in_another_process_with_the_same_adapters(
    opened: Opener, tmp_path: Path, passes: list[int]
) -> None:
    whole = completions(opened(THREE, kept_in(tmp_path / "undisturbed")), *each(*THREE))
    once = len(passes)
    with suppress(StopIteration):
        stream = opened(THREE, checkpoint=0).generate(each(*THREE))
        first = next(stream)
    assert len(passes) == 2 * once
    rest = [one for one in each(*THREE) if one.key != first.key]
    again = completions(opened(THREE, kept_in(tmp_path, "two"), checkpoint=0), *rest)
    assert len(passes) == 2 * once, "what is kept is not trained again"
    assert {**again, first.key: replace(first, seconds=0.0)} == whole


class FullDisk(RunTensors):
    """A disk that is full after some checkpoints."""

    room = 0

    def keep(self, name: str, number: int, data: bytes) -> None:
        if not self.room:
            raise Temporary("no space left")
        self.room -= 1
        super().keep(name, number, data)


@pytest.mark.parametrize("room", [1, 2, 3, 5])
@pytest.mark.parametrize("others", [(), (REFUSED, EMPTY)], ids=["all well", "some fail"])
def test_a_training_that_stops_goes_on_after_its_last_state(
    opened: Opener, tmp_path: Path, passes: list[int], room: int, others: tuple[Tuning, ...]
) -> None:
    all_of_them = (*THREE, *others)
    whole = completions(opened(all_of_them, kept_in(tmp_path / "undisturbed"), slots=2), *each(*all_of_them))
    once = len(passes)
    full = FullDisk("run", "one", Disk(tmp_path))
    full.room = room
    with pytest.raises(Temporary, match="no space left"):
        list(opened(all_of_them, full, checkpoint=0, slots=2).generate(each(*all_of_them)))
    found = completions(opened(all_of_them, kept_in(tmp_path, "two"), checkpoint=0, slots=2), *each(*all_of_them))
    assert found == whole
    assert len(passes) <= 2 * once + 1, "at most the pass whose state was not kept is done twice"


def test_a_group_with_a_failure_that_is_trained_is_not_trained_again(
    opened: Opener, tmp_path: Path, passes: list[int]
) -> None:
    requests = each(RED, REFUSED)
    whole = completions(opened((RED, REFUSED), checkpoint=0), *requests)
    once = len(passes)
    assert completions(opened((RED, REFUSED), kept_in(tmp_path, "two"), checkpoint=0), *requests) == whole
    assert len(passes) == once


def spoil(place: Path, change: Callable[[bytes], bytes]) -> int:
    """Change every part that is kept below `place`."""
    parts = sorted(place.glob("runs/run/tensors/*/*/*/part-*"))
    for part in parts:
        part.write_bytes(change(part.read_bytes()))
    return len(parts)


@pytest.mark.parametrize("change", [lambda data: data[: len(data) // 2], lambda data: b"", lambda data: data + b"x"])
def test_a_state_cut_short_is_told_and_trained_anew(
    opened: Opener,
    tmp_path: Path,
    caplog: pytest.LogCaptureFixture,
    passes: list[int],
    change: Callable[[bytes], bytes],
) -> None:
    whole = completions(opened(THREE, checkpoint=0), *each(*THREE))
    once = len(passes)
    assert spoil(tmp_path, change) == 4  # a state, three adapters
    assert completions(opened(THREE, kept_in(tmp_path, "two")), *each(*THREE)) == whole
    assert len(passes) == 2 * once
    assert "does not match the sha256" in caplog.text or "allowed" in caplog.text


def test_a_state_that_is_whole_and_makes_no_sense_is_told_and_trained_anew(
    opened: Opener, tmp_path: Path, caplog: pytest.LogCaptureFixture, passes: list[int]
) -> None:
    whole = completions(opened(THREE, checkpoint=0), *each(*THREE))
    once = len(passes)
    names = {path.name for path in tmp_path.glob("runs/run/tensors/*")}
    for name in names:
        kept_in(tmp_path, "zzz").keep(name, 1000, b"nonsense\nof many kinds")
    assert completions(opened(THREE, kept_in(tmp_path, "two")), *each(*THREE)) == whole
    assert len(passes) == 2 * once
    assert "trained a" in caplog.text


def test_a_training_alone_keeps_its_adapter_for_later_stages(opened: Opener, tmp_path: Path) -> None:
    policy = replace(RED, keep=True)
    alone = replace(ask("", "policy", tuning=policy), messages=())
    found = completions(opened([policy]), alone, *each(policy))
    done = found["policy"]
    assert done.text is not None
    assert json.loads(done.text) == done.trained
    assert done.finish == "stop"
    digest = str(done.trained["adapter"])
    later = opened(tensors=kept_in(tmp_path, "two"))
    named = ask("Say it.", "named", adapter=Adapter(digest, ""))
    answered = completions(later, named, ask("Say it."))
    assert answered["named"].text == found["0 Say it."].text
    assert answered["named"].trained == {}
    assert answered["Say it."].text != answered["named"].text


def chained(engines: Callable[[], Backend], tensors: Tensors) -> tuple[list[dict[str, Completion]], list[Backend]]:
    """A policy, what it says, trainings on top of it, and the base alone; each stage by what `engines` gives for it."""
    policy, found, used = replace(RED, keep=True, rank=2), list[dict[str, Completion]](), list[Backend]()

    def stage(trainings: Sequence[tuple[Tuning, str]], *requests: Request) -> dict[str, Completion]:
        used.append(prepared(engines(), tensors, trainings))
        found.append(completions(used[-1], *requests))
        return found[-1]

    made = stage([(policy, "")], replace(ask("", "policy", tuning=policy), messages=()))
    start = str(made["policy"].trained["adapter"])
    stage([], ask("Say it.", "named", adapter=Adapter(start, "")), ask("Base."))
    on_top = [ask("Say it.", how.digest, tuning=how, adapter=Adapter(start, "")) for how in (BLUE, GREEN)]
    stage([(BLUE, start), (GREEN, start)], *on_top)
    stage([], ask("Say it.", "named", adapter=Adapter(start, "")), ask("Base."))
    return found, used


def test_one_engine_serves_a_chain_of_stages_as_one_for_each_does(
    opened: Opener, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    loads: list[str] = []
    load = transformers.load
    monkeypatch.setattr(transformers, "load", lambda *given: (loads.append("model"), load(*given))[1])
    apart, _ = chained(opened, kept_in(tmp_path / "apart"))
    assert len(loads) == 4
    engine = opened()
    together, used = chained(lambda: engine, kept_in(tmp_path / "together"))
    assert set(map(id, used)) == {id(engine)}
    assert len(loads) == 5
    assert together == apart
    assert together[1] == together[3]


def held() -> set[int]:
    """The banks of adapters and the states of optimizers that are in memory."""
    return {id(one) for one in gc.get_objects() if isinstance(one, AdapterBank | SlotAdamW)}


def test_what_a_stage_needed_is_freed_when_the_next_is_prepared(opened: Opener, tmp_path: Path) -> None:
    gc.collect()
    before = held()
    engine: Any = opened(THREE, slots=2)
    completions(engine, *each(*THREE))
    stage = weakref.ref(engine._stage)
    tokenization, cache = engine._stage._tokenization, engine._answering._backend.adapter_cache
    assert held() - before == {id(cache._bank)}, "the bank that answers; those of training went with their trainer"
    assert tokenization._here is not None
    prepared(engine, kept_in(tmp_path), [])
    assert (stage(), tokenization._here, cache._bank, cache._registered) == (None, None, None, {})
    assert held() <= before
    assert completions(engine, ask("Base."))["Base."].text


def test_a_backend_that_was_told_no_stage_says_so(folder: Path) -> None:
    engine = open_tuned("transformers", str(folder), {"device": "cpu"})
    with pytest.raises(CannotRun, match="`prepare` was not called"):
        completions(engine, ask("Base."))
    engine.close()


def test_an_adapter_that_is_torn_or_not_here_yet_is_waited_for(opened: Opener, tmp_path: Path) -> None:
    """The record that named it may have come first: another time it is here, so nothing is written down as failed."""
    policy = replace(RED, keep=True)
    alone = replace(ask("", "policy", tuning=policy), messages=())
    digest = str(completions(opened([policy]), alone)["policy"].trained["adapter"])
    away = Adapter("f" * 64, "")
    with pytest.raises(Temporary, match=r"ffffffffffff .* is not here yet"):
        completions(opened(), ask("Say it.", adapter=away))
    with pytest.raises(Temporary, match=r"ffffffffffff .* is not here yet"):
        completions(opened([(BLUE, away.digest)]), ask("Say it.", tuning=BLUE, adapter=away))
    spoil(tmp_path, lambda data: data[:-1])
    with pytest.raises(Temporary, match=rf"{digest[:12]} .* is not here yet"):
        completions(opened(tensors=kept_in(tmp_path, "three")), ask("Say it.", adapter=Adapter(digest, "")))


def test_only_what_is_to_be_kept_is_kept(opened: Opener, tmp_path: Path) -> None:
    completions(opened(THREE), *each(*THREE))
    assert not list(tmp_path.glob("runs/**/part-*"))


def test_a_training_starts_on_top_of_an_adapter_of_the_run(opened: Opener, tmp_path: Path) -> None:
    policy = replace(RED, keep=True, rank=2)
    alone = replace(ask("", "policy", tuning=policy), messages=())
    digest = str(completions(opened([policy]), alone)["policy"].trained["adapter"])
    trainings = [(BLUE, digest), (BLUE, ""), (GREEN, digest)]
    requests = [
        ask("Say it.", f"{n}", tuning=how, adapter=Adapter(start, "") if start else None)
        for n, (how, start) in enumerate(trainings)
    ]
    found = completions(opened(trainings, kept_in(tmp_path, "two")), *requests)
    assert len({found[str(n)].trained["adapter"] for n in range(3)}) == 3
    assert found["0"].trained["tuning"] == found["1"].trained["tuning"]
    assert found["0"].text != found["1"].text


def test_a_training_on_top_of_an_adapter_may_adapt_fewer_layers(opened: Opener, tmp_path: Path) -> None:
    policy = replace(RED, keep=True, rank=2)
    alone = replace(ask("", "policy", tuning=policy), messages=())
    start = str(completions(opened([policy]), alone)["policy"].trained["adapter"])
    few = replace(BLUE, targets=("q_proj",))
    asked = ask("Say it.", "few", tuning=few, adapter=Adapter(start, ""))
    found = completions(opened([(few, start)], kept_in(tmp_path, "two")), asked)["few"]
    assert found.error is None, found.error
    assert found.trained["steps"]


def test_a_training_that_fails_is_an_error_of_its_requests_alone(opened: Opener) -> None:
    tunings = (RED, REFUSED, EMPTY, BLUE)
    unknown = ask("Say it.", "unknown", tuning=GREEN)
    found = completions(opened(tunings), *each(*tunings), unknown, ask("And you?"))
    assert {key: done.error.kind for key, done in found.items() if done.error} == {
        "1 Say it.": "training",
        "2 Say it.": "training",
        "unknown": "bad-request",
    }
    assert "the last message" in found["1 Say it."].error.message  # type: ignore[union-attr]
    assert "no text" in found["2 Say it."].error.message  # type: ignore[union-attr]
    alone = completions(opened(tunings[1:3]), *each(*tunings[1:3]), ask("And you?"))
    assert alone["And you?"].text == found["And you?"].text


def test_examples_longer_than_the_context_are_left_out_and_told(opened: Opener) -> None:
    long = tuning({"words": ["red", "x" * 600]})
    never = tuning({"words": ["x" * 600]})
    found = completions(opened([long, never]), *each(long, never))
    assert (found["0 Say it."].trained["texts"], found["0 Say it."].trained["left_out"]) == (1, 1)
    assert found["1 Say it."].error


def test_a_target_that_the_model_does_not_have_names_those_that_it_has(opened: Opener) -> None:
    wrong = replace(RED, targets=("q_proj", "qkv"))
    with pytest.raises(CannotRun, match="called qkv") as caught:
        list(opened([wrong]).generate(each(wrong)))
    assert "q_proj" in caught.value.hint


def test_a_reader_who_leaves_does_not_stop_the_next(opened: Opener) -> None:
    engine = opened(THREE, group=1)
    stream = engine.generate(each(*THREE))
    first = next(stream)
    stream.close()  # type: ignore[attr-defined]
    found = completions(engine, *each(*THREE))
    assert found[first.key] == replace(first, seconds=0.0)


OF_SPEECH = {testing.check_an_answer_ends_with_its_turn, testing.check_a_logprob_is_of_the_text_alone}
"""A random model's answers have no end."""


@pytest.mark.parametrize(
    "check",
    [check for check in testing.BACKEND_CHECKS if check not in OF_SPEECH],
    ids=lambda check: check.__name__.removeprefix("check_"),
)
def test_a_stage_without_trainings_is_a_backend_as_any_other(check: Callable[[Backend], None], opened: Opener) -> None:
    check(opened())


@pytest.mark.parametrize(
    ("options", "why"),
    [
        ({"slots": "0"}, "slots=0 is not a whole number"),
        ({"checkpoint": "soon"}, "checkpoint=soon"),
        ({"slot": "3"}, "no option 'slot'"),
        ({"lora_rank": "8"}, "no option 'lora_rank'"),  # vLLM's
    ],
)
def test_a_wrong_option_is_refused(opened: Opener, options: dict[str, str], why: str) -> None:
    with pytest.raises(UsageError, match=why):
        opened(THREE, **options)


@pytest.mark.parametrize("name", ["llamacpp", "ollama"])
def test_a_backend_that_does_not_train_says_which_do(name: str, folder: Path, tmp_path: Path) -> None:
    with pytest.raises(CannotRun, match="does not train") as caught:
        open_tuned(name, str(folder), {})
    assert all(one in caught.value.hint for one in registry.TRAINING)


def test_losses_are_shown_as_means_over_stretches() -> None:
    assert loss_curve([]) == []
    assert loss_curve([1.0, 2.0]) == [1.0, 2.0]
    assert loss_curve([float("nan"), 2.0]) == [None, 2.0]
    many = [float(n) for n in range(1000)]
    assert len(loss_curve(many)) == LOSS_POINTS
    assert sum(loss_curve(many)) / LOSS_POINTS == pytest.approx(499.5, abs=1)  # type: ignore[arg-type]


def test_a_name_says_the_training_and_what_is_below_it() -> None:
    assert TrainingRequest(RED).name == RED.digest
    assert (
        len(
            {
                TrainingRequest(RED).name,
                TrainingRequest(RED, "a" * 64).name,
                TrainingRequest(RED, "b" * 64).name,
                TrainingRequest(BLUE).name,
            }
        )
        == 4
    )


# --- in turns, as with vLLM: one of the two has the model, adapters go from one to the other as files


OF_VLLM = ("sleep", "eager", "eager_below")


class Server(TransformersBackend):
    """A stand-in for vLLM: it records its options, and refuses an adapter of a larger rank."""

    started: ClassVar[list[int]]
    options: ClassVar[Mapping[str, str]] = {**TransformersBackend.options, **dict.fromkeys(("lora_rank", *OF_VLLM), "")}
    eager: ClassVar[list[bool]]

    def __init__(self, model: str, options: Mapping[str, str]) -> None:
        self.most = int(options["lora_rank"])
        self.started.append(self.most)
        self.eager.append(options.get("eager") == "true")
        own = {name: value for name, value in options.items() if name not in ("lora_rank", "loras", *OF_VLLM)}
        super().__init__(model, {"device": "cpu", **own})

    def _adapter(self, adapter: Adapter | None) -> None:
        super()._adapter(adapter)
        if adapter:
            assert self.adapter_cache._registered[adapter.digest].rank <= self.most


class Sleeper(Server):
    """One that can sleep; with `tired`, it does not wake up."""

    can_sleep = True
    said: ClassVar[list[str]]
    tired = False

    def sleep(self) -> None:
        self.said.append("sleep")

    def wake(self) -> None:
        self.said.append("wake")
        if self.tired:
            raise Temporary("no memory")


@pytest.fixture
def served(folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Opener]:
    """Opens engines that train and answer in turns."""
    engines: list[Backend] = []
    memory = tmp_path / "memory"
    memory.mkdir()
    Server.started, Server.eager, Sleeper.said = [], [], []
    monkeypatch.setattr(adapter_files, "SHARED_MEMORY", memory)
    monkeypatch.setattr(answering, "_vllm_version", lambda: "0")
    monkeypatch.setattr(answering, "import_object", lambda name, needed_for: Server)
    monkeypatch.setattr(registry, "backend_class", lambda name: Server)

    def opener(trainings: Sequence[Tuning | tuple[Tuning, str]] = (), attempt: str = "one", **options: str) -> Backend:
        pairs = [one if isinstance(one, tuple) else (one, "") for one in trainings]
        tensors = kept_in(tmp_path / "kept", attempt)
        engines.append(open_tuned("vllm", str(folder), options))
        return prepared(engines[-1], tensors, pairs)

    yield opener
    for engine in engines:
        engine.close()
    assert not list(memory.iterdir()), "nothing stays in memory"


def test_in_turns_the_answers_are_those_of_one_model_for_both(served: Opener, opened: Opener) -> None:
    five = [tuning({"words": [f"word{n}"]}, rank=4 + n) for n in range(4)] + [REFUSED]
    requests = [*each(*five), ask("And you?")]
    expected = completions(opened(five, group=2), *requests)
    assert completions(served(five, group="2"), *requests) == expected
    assert Server.started == [8, 8, 8]  # once for each group


@pytest.mark.parametrize("tired", [False, True])
def test_in_turns_a_server_that_can_sleep_is_started_once(
    served: Opener, opened: Opener, monkeypatch: pytest.MonkeyPatch, tired: bool
) -> None:
    monkeypatch.setattr(answering, "import_object", lambda name, needed_for: Sleeper)
    monkeypatch.setattr(Sleeper, "tired", tired)
    four = [tuning({"words": [f"word{n}"]}, rank=4 + n) for n in range(4)]
    expected = completions(opened(four, group=2), *each(*four))
    assert completions(served(four, group="2"), *each(*four)) == expected
    assert Sleeper.said == ["sleep", "wake"]
    assert Server.started == ([8, 8] if tired else [8]), "where it does not wake up, it is started again"


def test_in_turns_a_server_compiles_only_for_many_tokens(served: Opener) -> None:
    two = [tuning({"words": [f"word{n}"]}) for n in range(2)]
    tokens = sum(request.sampling.max_tokens for request in each(*two))
    for options, eager in [
        ({}, True),
        ({"eager": "false"}, False),
        ({"rows": "2", "eager_below": str(tokens // 2)}, False),
        ({"rows": "2", "eager_below": str(tokens // 2 + 1)}, True),
    ]:
        Server.eager = []
        completions(served(two, **options), *each(*two))
        assert Server.eager == [eager], options


def test_in_turns_a_chain_starts_the_server_only_after_training(served: Opener, opened: Opener, tmp_path: Path) -> None:
    expected, _ = chained(opened, kept_in(tmp_path / "apart"))
    engine = served()
    found, _ = chained(lambda: engine, kept_in(tmp_path / "together"))
    assert found == expected
    assert Server.started == [8, 8], "for the policy's stage, and after the trainings on top; not for the last stage"


def test_in_turns_nothing_is_started_for_trainings_alone(served: Opener) -> None:
    policy = replace(RED, keep=True)
    (done,) = completions(served([policy]), replace(ask("", "policy", tuning=policy), messages=())).values()
    assert done.trained["adapter"]
    assert Server.started == []


def test_in_turns_a_server_has_room_for_the_adapters_that_are_asked_for(served: Opener) -> None:
    policies = [replace(RED, keep=True, rank=rank) for rank in (4, 20)]
    alone = [replace(ask("", f"{one.rank}", tuning=one), messages=()) for one in policies]
    made = completions(served(policies), *alone)
    named = [
        ask(text, f"{text} {rank}", adapter=Adapter(str(made[str(rank)].trained["adapter"]), ""))
        for rank in (4, 20)
        for text in ("Say it.", "And?")
    ]
    later = served(attempt="two")
    found = completions(later, ask("Base."), *named, ask("Say it."))
    assert Server.started == [8, 32], "started again when the first larger adapter comes, and no sooner"
    assert all(done.text is not None for done in found.values())
    assert len({done.text for key, done in found.items() if key.startswith("Say it.")}) == 3


def test_in_turns_a_server_has_room_for_the_groups_to_come_when_all_are_trained(served: Opener) -> None:
    grown = [replace(RED, rank=4), replace(RED, rank=20)]
    first = completions(served(grown, group="1", checkpoint="0"), *each(*grown))
    Server.started = []
    assert completions(served(grown, "two", group="1", checkpoint="0"), *each(*grown)) == first
    assert Server.started == [32]


def test_in_turns_a_rank_that_no_server_takes_is_refused_before_training(served: Opener) -> None:
    with pytest.raises(CannotRun, match="rank 600") as caught:
        served([replace(RED, rank=600)])
    assert "transformers" in caught.value.hint


def test_in_turns_a_wrong_type_is_refused(served: Opener) -> None:
    with pytest.raises(UsageError, match="dtype=int3"):
        served(THREE, dtype="int3")


def test_in_turns_what_a_killed_process_left_in_memory_is_removed(served: Opener, tmp_path: Path) -> None:
    memory = tmp_path / "memory"
    old, young = (memory / f"hybrid-adapters-{name}" for name in ("old", "young"))
    for place in (old, young):
        (place / "adapter").mkdir(parents=True)
    stream = served([RED]).generate(each(RED, RED))
    next(stream)
    (mine,) = (path for path in memory.iterdir() if path not in (old, young))
    for place in (old, mine):
        os.utime(place, (0, 0))
    served([RED], attempt="two")
    assert sorted(memory.iterdir()) == sorted([mine, young]), "that of a living process stays, and one just begun"
    shutil.rmtree(young)


def test_in_turns_adapters_go_to_the_disk_when_memory_has_no_room(
    served: Opener, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    disk = tmp_path / "disk"
    disk.mkdir()
    monkeypatch.setattr(tempfile, "tempdir", str(disk))
    monkeypatch.setattr(adapter_files, "RESERVED_BYTES", 0)
    usage = shutil.disk_usage
    monkeypatch.setattr(
        shutil, "disk_usage", lambda path: usage(path) if Path(path) == disk else usage(path)._replace(free=10)
    )
    engine = served([RED])
    stream = engine.generate(each(RED))
    first = next(stream)
    assert first.text is not None
    assert [path.name[:16] for path in disk.iterdir()] == ["hybrid-adapters-"]
    engine.close()
    assert not list(disk.iterdir())
