"""Searches: what depends on answers is asked, killed and resumed without asking again, shared, and told "so far"."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from itertools import count
from pathlib import Path
from typing import Any, ClassVar

import pytest

from hybrid import testing
from hybrid.errors import PluginFault, UsageError
from hybrid.execution.chain import bound
from hybrid.execution.index import Index
from hybrid.execution.local import Effort, Engine, LocalResult, run_here
from hybrid.execution.stage_view import stage_views
from hybrid.folder.medium import Disk
from hybrid.folder.runs import open_run
from hybrid.progress import SilentProgress
from hybrid.protocols import Inputs, Role, Stage
from hybrid.records import Adapter, Completion, Item, Output, Request, Sampling
from hybrid.tuning import Tuning
from hybrid.work import Derive, Derived, Finished, Search, Together, Walk, found_in, replayed

Tasks = Mapping[str, Any]
NODES = 7
ITEMS = 2 * NODES * 2 + 2 * NODES * 2
"""Two tasks of seven nodes: two texts a node, and their embeddings."""


@dataclass(frozen=True)
class Trees:
    """A tree a task: two texts a node, and below it two nodes for the one that comes first by its vector."""

    roles: ClassVar[Mapping[str, Role]] = {"embed": Role("of texts", backend="hashed", model="ngrams", embeds=True)}

    def inputs(self) -> Inputs:
        return Inputs({"a": {}, "b": {}}, {"a/tree": "", "b/tree": ""}, {})

    def stages(self) -> tuple[Stage, ...]:
        return (
            Stage("search", "any", 1, Search(self.walk, ("embed",))),
            Stage("tree", "any", 1, Derive(self.trees), after=("search",)),
        )

    def walk(self, task: str, tasks: Tasks) -> Walk:
        def node(name: str, above: str) -> Walk:
            texts = yield [asked(task, f"{name}.{n}", f"{task} {name}.{n} after {above}") for n in range(2)]
            vectors = yield [embedded(task, one) for one in texts]
            found = [
                (vector.vector, text.question) for text, vector in zip(texts, vectors, strict=True) if vector.vector
            ]
            best = max(found)[1] if found else "nothing"
            if len(name) > 4:
                return [best]
            below = yield Together([node(f"{name}.{n}", best) for n in range(2)])
            return [best, *(one for part in below for one in part)]

        nodes = yield from node("n", "nothing")
        return nodes

    def trees(self, tasks: Tasks, earlier: Mapping[str, Iterable[Output]]) -> Iterator[Derived]:
        known = found_in(earlier["search"])
        for task in tasks:
            end = replayed(self.walk(task, tasks), known)
            assert isinstance(end, Finished)
            yield Derived(task, f"{task}/tree", json.dumps(end.value))


def asked(task: str, question: str, prompt: str) -> Item:
    return Item(task, question, Request(Sampling(100), prompt=prompt))


def embedded(task: str, text: Output) -> Item:
    said = text.text if text.text is not None else "failed"
    return Item(task, f"embed/{text.question}", Request(Sampling(1), prompt=said, embed=True), role="embed")


class Killed(Exception):
    """The process ends here."""


class Dies(SilentProgress):
    """Kills the process when an answer came, after so many of them."""

    def __init__(self, after: int) -> None:
        super().__init__()
        self.left = after

    def finished_item(self, completion: Completion) -> None:
        super().finished_item(completion)
        self.left -= 1
        if not self.left:
            raise Killed


@dataclass
class Place:
    """A folder with a script, and runs in it."""

    root: Path
    pipeline: Any = Trees()

    def script(self, default: str | None = "an answer", **answers: str) -> None:
        script = {"answers": answers, **({"default": default} if default else {})}
        (self.root / "script.json").write_text(json.dumps(script))

    def run(self, observer: SilentProgress | None = None, *, retry: bool = False) -> LocalResult:
        options = {"calls": str(self.root / "calls")}
        models = {"": Engine("scripted", str(self.root / "script.json"), options)}
        if hasattr(self.pipeline, "roles"):
            models["embed"] = Engine("hashed", "ngrams", embeds=True)
        effort = Effort(retry_failed=retry)
        return run_here(
            self.root / "folder", "trees", self.pipeline, models, observer or SilentProgress(), effort=effort
        )

    def calls(self) -> list[str]:
        path = self.root / "calls"
        return path.read_text().split() if path.exists() else []

    def recorded(self) -> set[str]:
        """The keys of all records of the search."""
        if not (self.root / "folder").exists():
            return set()
        run = open_run(Disk(self.root / "folder"), "trees")
        return {record["key"] for _, shard in run.shards("search", []) for record in shard.records}

    def records(self) -> list[dict[str, Any]]:
        (path,) = self.root.glob("folder/results/*/outputs.json")
        found: list[dict[str, Any]] = json.loads(path.read_text())["records"]
        return found


def one_search(walk: Callable[[str, Tasks], Walk]) -> Any:
    """A pipeline of one search of one task."""

    @dataclass(frozen=True)
    class OneSearch:
        def inputs(self) -> Inputs:
            return Inputs({"a": {}}, {}, {})

        def stages(self) -> tuple[Stage, ...]:
            return (Stage("search", "any", 1, Search(walk)),)

    return OneSearch()


@pytest.fixture
def place(tmp_path: Path) -> Place:
    made = Place(tmp_path)
    made.script()
    return made


def test_a_search_is_done_and_nothing_is_asked_twice(place: Place) -> None:
    testing.check_pipeline(place.pipeline)
    done = place.run()
    assert [(one.name, one.total, one.left, one.failed) for one in done.stages] == [
        ("search", ITEMS, 0, 0),
        ("tree", 2, 0, 0),
    ]
    assert len(place.calls()) == len(set(place.calls())) == ITEMS // 2
    again = place.run()
    assert (again.fresh, again.sha256) == (0, done.sha256)
    assert len(place.calls()) == ITEMS // 2
    assert len(json.loads(place.records()[0]["text"])) == NODES


def test_killed_at_any_answer_it_goes_on_to_the_same_tree(
    place: Place, tmp_path_factory: pytest.TempPathFactory
) -> None:
    whole = Place(tmp_path_factory.mktemp("whole"))
    whole.script()
    whole.run()
    sizes = set()
    for number in count(1):
        recorded, calls = place.recorded(), len(place.calls())
        try:
            done = place.run(Dies(after=1 + number % 5))
        except Killed:
            (view, waits) = views(place)
            assert view.so_far == (waits.waits == "search")
            sizes.add((view.done, view.total))
        else:
            break
        finally:
            assert recorded.isdisjoint(place.calls()[calls:]), "what was recorded is not asked again"
    assert len(sizes) > 2, "it was killed in several places"
    assert place.records() == whole.records()
    assert done.stages[0].total == ITEMS


def views(place: Place) -> list[Any]:
    folder = Disk(place.root / "folder")
    run = open_run(folder, "trees")
    chain = bound(run, place.pipeline)
    index = Index(None)
    try:
        return stage_views(chain.run, [(one.name, one) for one in chain.stages], Disk(place.root / "store"), index, ())
    finally:
        index.close()


def test_a_failure_is_sent_to_the_walk_and_done_again_when_asked(place: Place) -> None:
    place.script(None, **{f"a n.{n} after nothing": f"first {n}" for n in range(2)})
    done = place.run()
    assert done.stages[0].failed > 0
    assert done.stages[0].left == 0, "the walk decided what comes of failures"
    calls = len(place.calls())
    assert place.run().fresh == 0
    again = place.run(retry=True)
    assert (again.stages[0].failed, again.stages[0].left) == (done.stages[0].failed, 0)
    assert len(place.calls()) > calls


def test_a_search_may_be_the_last_stage_and_its_vectors_are_in_the_outputs(place: Place) -> None:
    @dataclass(frozen=True)
    class Alone(Trees):
        def stages(self) -> tuple[Stage, ...]:
            return super().stages()[:1]

    place.pipeline = Alone()
    place.run()
    assert len(place.records()) == ITEMS
    assert sum("vector" in one for one in place.records()) == ITEMS // 2
    assert all(one["text"] == "" for one in place.records() if "vector" in one)


@pytest.mark.parametrize("how", [{"tuning": Tuning({"of": "a"}, 0.01, 1)}, {"adapter": Adapter("0" * 64, "")}])
def test_a_search_that_asks_a_model_trained_in_its_run_is_refused(place: Place, how: dict[str, Any]) -> None:
    def walk(task: str, tasks: Tasks) -> Walk:
        yield [Item(task, "q", Request(Sampling(8), prompt="hello", **how))]

    place.pipeline = one_search(walk)
    with pytest.raises(PluginFault, match="is a search, and its item 'q' asks a model that is trained in this run"):
        place.run()
    assert not place.calls()


NUMBERS = count()


def unsteady(task: str, tasks: Tasks) -> Walk:
    yield [asked(task, f"q{next(NUMBERS)}", "hello")]


def raising(task: str, tasks: Tasks) -> Walk:
    (one,) = yield [asked(task, "q", "hello")]
    raise KeyError(one.text)


@pytest.mark.parametrize(
    ("walk", "why"),
    [
        (unsteady, "ChangedWalk: sent the same outputs, it asks for other items than before"),
        (raising, "KeyError: 'an answer'"),
    ],
)
def test_a_walk_that_is_not_deterministic_or_fails_is_told_and_what_was_answered_is_kept(
    place: Place, walk: Callable[[str, Tasks], Walk], why: str
) -> None:
    place.pipeline = one_search(walk)
    with pytest.raises(PluginFault, match=why) as caught:
        place.run()
    assert caught.value.exit_code == 7
    assert "walking the task 'a' in the stage 'search'" in caught.value.message
    assert list(place.root.glob("folder/runs/*/search/*/*/shard-*"))


def test_what_the_first_walks_of_a_together_wait_for_is_asked_first(place: Place) -> None:
    def chain(task: str) -> Walk:
        for number in range(3):
            yield [asked(task, f"chain/{number}", f"chain {number}")]

    def crowd(task: str) -> Walk:
        yield [asked(task, f"crowd/{number}", f"crowd {number}") for number in range(60)]

    def walk(task: str, tasks: Tasks) -> Walk:
        yield Together([chain(task), crowd(task)])

    place.pipeline = one_search(walk)
    place.run()
    chained = {one["key"] for one in place.records() if one["question"].startswith("chain")}
    assert [number for number, key in enumerate(place.calls()) if key in chained][-1] < 30


def test_a_role_that_a_search_asks_needs_its_model(place: Place) -> None:
    engine = Engine("scripted", str(place.root / "script.json"))
    with pytest.raises(UsageError, match="needs a model for 'embed'") as caught:
        run_here(place.root / "folder", "trees", Trees(), {"": engine}, SilentProgress())
    assert "--model embed=NAME" in caught.value.hint
    models = {"": engine, "embed": Engine("scripted", str(place.root / "script.json"), embeds=True)}
    with pytest.raises(UsageError, match="'scripted' embeds no texts"):
        run_here(place.root / "folder", "trees", Trees(), models, SilentProgress())


def test_a_shard_that_is_damaged_is_passed_over_and_asked_again(place: Place) -> None:
    with pytest.raises(Killed):
        place.run(Dies(after=8))
    paths = sorted(place.root.glob("folder/runs/*/search/*/*/shard-*"))
    paths[0].write_bytes(b"no shard")
    done = place.run()
    assert (done.stages[0].left, done.stages[0].total) == (0, ITEMS)
