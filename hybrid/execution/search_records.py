"""The records of a search, decoded: a walk goes on with what they say, so keys are not enough."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Collection, Iterable, Mapping
from typing import Any

from hybrid.canonical import decode, digest, encode
from hybrid.errors import CannotRun
from hybrid.folder.runs import Run
from hybrid.folder.shards import Shard
from hybrid.protocols import Stage
from hybrid.records import Item, Output, Record
from hybrid.walks import HISTORY, Replay
from hybrid.work import Search

LAST = "99999"
"""Where the number of a shard stands for a record that is in no file yet."""


class SearchRecords:
    """What is recorded of a search: by key the output that outputs.json would have, and how it is found.

    Of several records of one item a text wins over a failure, then the earlier attempt, then the earlier shard, as in
    `Assembly`: so all machines that see the same records walk on with the same outputs. `own` is this attempt.
    """

    def __init__(self, run: Run, stage: str, model: str, own: str = "") -> None:
        self._run, self._stage, self._model, self._own = run, stage, model, own
        self.known: set[str] = set()  # paths of the shards that were read
        self.refused: list[str] = []
        self.histories: dict[bytes, str] = {}
        """By key: what the walk had been sent that asked for the item, as its record says."""
        self._arrived: deque[tuple[str, Shard]] = deque()
        self._found: dict[bytes, dict[str, tuple[str, Output]]] = {}  # key -> path -> rank and output
        self._aside: frozenset[str] = frozenset()

    def look(self) -> None:
        """Read the shards that have arrived. Called from any thread; `take_in` takes them in."""
        refused: list[str] = []
        for path, shard in self._run.shards(self._stage, refused, model=self._model, known=self.known):
            self._arrived.append((path, shard))
            self.known.add(path)
        self.refused = refused

    def take_in(self, aside: Collection[str]) -> set[bytes]:
        """Take in what has arrived; the keys whose output may be another one now. Failures in `aside` count no more."""
        changed: set[bytes] = set()
        while self._arrived:
            path, shard = self._arrived.popleft()
            place, own = f"{shard.header['attempt']} {shard.name.seq:05d}", shard.header["attempt"] == self._own
            for record in shard.records:
                key = bytes.fromhex(record["key"])
                if own:  # it was kept when it was answered
                    self._found.get(key, {}).pop("", None)
                self._put(key, path, place, record)
                changed.add(key)
        if self._aside != (new := frozenset(aside)):
            moved, self._aside = self._aside ^ new, new
            changed.update(key for key, found in self._found.items() if not moved.isdisjoint(found))
        return changed

    def add(self, record: Record) -> bytes:
        """Take in a record of this attempt that is in no shard yet; its key."""
        key = bytes.fromhex(record.key)
        self._put(key, "", f"{self._own} {LAST}", decode(encode(record.to_json()), what="a record"))
        return key

    def best(self, key: bytes) -> Output | None:
        """The output of an item that counts."""
        found = [one for path, one in self._found.get(key, {}).items() if not (one[1].error and path in self._aside)]
        return min(found, key=lambda one: one[0])[1] if found else None

    def set_aside(self, key: bytes) -> bool:
        """Whether an item has failures only that are to be done again."""
        return key in self._found and self.best(key) is None

    def failed_shards(self) -> set[str]:
        """The shards with failures of items without an answer."""
        alone = (found for key, found in self._found.items() if (best := self.best(key)) and best.error)
        return {path for found in alone for path in found}

    def __len__(self) -> int:
        return len(self._found)

    def _put(self, key: bytes, path: str, place: str, record: Mapping[str, Any]) -> None:
        output = Output.from_json({**record, "reference": None}, what=path or "a record")
        rank = f"{int(output.error is not None)} {place} {path.rpartition('/')[2]}"
        self._found.setdefault(key, {})[path] = rank, output
        self.histories[key] = str(record.get("history", ""))


class Searching:
    """The walks of a search over its records: what was asked, what is answered, and what they wait for.

    `digests` are those of the models that answer, by role, "" being that of the stage.
    """

    def __init__(
        self, stage: Stage, tasks: Mapping[str, Any], digests: Mapping[str, str], records: SearchRecords
    ) -> None:
        self._stage, self._tasks, self._digests, self.records = stage, tasks, digests, records
        self.steps = 0
        """Grows whenever the walks have gone on."""
        self._sent: dict[bytes, Output] = {}
        self.replay = self._begun()

    def look(self, aside: Collection[str] = ()) -> None:
        """Go on with what has arrived. Raises HybridError, such as the fault of a plugin whose walk fails."""
        self.go_on(self.records.take_in(aside))

    def go_on(self, changed: Iterable[bytes]) -> None:
        """Go on with the outputs of these items. When one is another than the walks were sent, begin anew."""
        news = [(key, self.records.best(key)) for key in changed]
        if any(key in self._sent and self._sent[key] != best for key, best in news):
            self.replay = self._begun()
            return
        for key, best in news:
            if best and key in self.replay.frontier:
                self.steps += 1
                self.replay.tell(key)

    def _begun(self) -> Replay:
        self._sent = {}
        self.steps += 1
        return begun(self._stage, self._tasks, self._digests, self._known)

    def _known(self, key: bytes) -> Output | None:
        found = self.records.best(key)
        if found is not None:
            self._sent[key] = found
        return found

    def refuse_changed(self) -> None:
        """Raise PluginFault when a walk has asked for something else than it did, or would, after the same outputs."""
        replay, histories = self.replay, self.records.histories
        for key, history in histories.items():
            if key not in replay.asked_at.get(history, (key,)):
                self._refuse(history)
        again = begun(self._stage, self._tasks, self._digests, self.records.best)
        for history, keys in replay.asked_at.items():
            if again.asked_at.get(history) != keys:
                self._refuse(history)

    def _refuse(self, history: str) -> None:
        """Raise the error where the walk begins, so that it is told as a fault of its plugin."""
        path = next((path for path, at, _ in self.replay.asked_by.values() if at == history), "")
        task = next((one for one in self._tasks if path == one or path.startswith(f"{one}.")), next(iter(self._tasks)))
        walk = work_of(self._stage).walk(task, self._tasks)
        next(walk, None)
        error = ChangedWalk("sent the same outputs, it asks for other items than before")
        walk.throw(error)
        raise error


class ChangedWalk(RuntimeError):
    """A walk is not deterministic, or its code was changed and its stage kept the version."""


def digests_of(run: Run, stage: Stage) -> dict[str, str]:
    """The digests of the models that a stage is bound to, by role: its own is there as "", too. One is "" while it is
    open.
    """
    own = run.model_digest(stage.name)
    further = {role: run.role_digest(stage.name, role) for role in stage.roles if role != stage.role}
    return {"": own, stage.role: own, **further}


def reached(run: Run, stage: Stage, tasks: Mapping[str, Any]) -> Iterable[Item]:
    """The items that the records of a search lead to: those that were answered, and those that the walks wait for."""
    digests = digests_of(run, stage)
    records = SearchRecords(run, stage.name, digests[""])
    records.look()
    records.take_in(())
    return begun(stage, tasks, digests, records.best).items.values()


def keys_of(run: Run, stage: Stage, model: str) -> Callable[[Item], bytes]:
    """The key of an item of any stage, whose own model has the digest `model`."""
    if isinstance(stage.work, Search):
        return keys_by(stage, digests_of(run, stage))
    identity = stage.identity
    return lambda item: item.digest(identity, model)


def begun(
    stage: Stage, tasks: Mapping[str, Any], digests: Mapping[str, str], known: Callable[[bytes], Output | None]
) -> Replay:
    """The walks of a search, as far as the known outputs carry them."""
    replay, walk = Replay(keys_by(stage, digests), known, seed(stage, digests)), work_of(stage).walk
    for task in tasks:
        replay.start(task, walk(task, tasks))
    return replay


def seed(stage: Stage, digests: Mapping[str, str]) -> str:
    """What the histories of a search begin with: those of another version, or of other models, are others."""
    return digest([stage.identity, dict(digests)])[:HISTORY]


def keys_by(stage: Stage, digests: Mapping[str, str]) -> Callable[[Item], bytes]:
    """The key of an item, with the digest of the model that it asks."""
    identity = stage.identity
    return lambda item: item.digest(identity, digests[item.role])


def work_of(stage: Stage) -> Search:
    if not isinstance(stage.work, Search):
        raise CannotRun(f"the stage '{stage.name}' is no search", hint="report it, with this message")
    return stage.work
