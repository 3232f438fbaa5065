"""`hybrid replay`: real runs of a swarm of small policies, made again from what they published."""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import pytest

from hybrid.cli import main
from hybrid.metrics import RoundMetrics
from hybrid.report.rounds_again import rounds_of
from hybrid.report.sources import find_source, with_folder
from tests.support.in_process import Hybrid
from tests.support.plugin_run import install

MODULE = '''
"""The pipeline sapo with policies that are tables."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar

from hybrid import Role
from pipelines.sapo.loop import loop
from pipelines.sapo.pipeline import Sapo
from tests.support.table_policies import TableLab


@dataclass(frozen=True)
class Tables(Sapo):
    """A swarm of tables."""

    roles: ClassVar[Mapping[str, Role]] = {"": Role("", backend="none", model="none")}

    def _loop(self, series: Any, lab: Any, tasks: Mapping[str, Any]) -> Any:
        return loop(self, series, TableLab())
'''
SMALL = [
    f"--set={one}"
    for one in (
        "nodes=3", "rounds=4", "group=4", "max_tokens=6", "tasks=basic_arithmetic", "level=easy", "arms=2-2",
        "publish_every=2", "eval_every=0", "max_age=1", "shortfall=own",
    )
]  # fmt: skip


@dataclass(frozen=True)
class Ran:
    """A folder with a run that is done."""

    folder: Path
    run: str

    @property
    def segments(self) -> list[Path]:
        return sorted((self.folder / "runs" / self.run / "segments").rglob("*.zst"))


@pytest.fixture(scope="module")
def done_once(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """A folder with the run."""
    root = tmp_path_factory.mktemp("swarm")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("HYBRID_HOME", str(root / "home"))
        patch.syspath_prepend(install(root / "packages", "tables", "swarm_tables:Tables", MODULE))
        with pytest.raises(SystemExit) as left:
            main(["run", "local", "tables", *SMALL, "--folder", str(root / "folder")])
        assert not left.value.code
        yield root / "folder"


@pytest.fixture
def swarm(done_once: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Ran:
    folder = tmp_path / "folder"
    shutil.copytree(done_once, folder)
    monkeypatch.setenv("HYBRID_FOLDER", str(folder))
    (run,) = (one.name for one in (folder / "runs").iterdir())
    return Ran(folder, run)


def test_a_training_set_is_printed_for_people_and_as_json(swarm: Ran, hybrid: Hybrid, tmp_path: Path) -> None:
    done = hybrid("replay", swarm.run, "--round", 3, "--node", 1)
    assert done.code == 0, done.stderr
    assert "round 3 of node-1: " in done.stdout
    assert "question:" in done.stdout
    whole: Any = json.loads(hybrid("replay", swarm.run, "--round", 3, "--node", "node-1", "--json").stdout)
    assert whole["replay"]["matches"]
    assert len(whole["replay"]["groups"]) == 4
    path = tmp_path / "set.json"
    assert hybrid("replay", swarm.run, "--round", 3, "--node", 1, "-o", path).stdout == f"{path}\n"
    assert json.loads(path.read_text()) == whole
    assert hybrid("replay", swarm.run, "--round", 3, "--node", 1, "-o", swarm.folder / "hybrid.json").code == 2


def test_every_round_is_compared(swarm: Ran, hybrid: Hybrid) -> None:
    done = hybrid("replay", swarm.run, "--verify")
    assert (done.code, done.stdout) == (0, "12 of 12 training sets are as the records say\n")
    assert hybrid("replay", swarm.run, "--verify", "--node", 2).stdout.startswith("4 of 4 ")


def test_a_report_of_the_run_makes_them_again_too(swarm: Ran) -> None:
    source = with_folder(find_source(swarm.folder / "results" / swarm.run / "outputs.json"), None)
    again = rounds_of(source)
    assert again
    (record,) = (one for one in source.first_outputs() if one.question.endswith("/00003"))
    made: Any = again(record.task, RoundMetrics.from_text(record.text or ""), "node-1")
    assert (made.missing, made.wrong) == ([], [])
    assert [len(one["answers"]) for one in made.value["groups"]] == [4] * 4
    assert rounds_of(replace(source, folder=swarm.folder / "elsewhere")) is None


def test_what_is_missing_is_named(swarm: Ran, hybrid: Hybrid) -> None:
    swarm.segments[0].unlink()
    done = hybrid("replay", swarm.run, "--round", 0, "--node", 0)
    assert done.code == 4
    assert "the rollout of node-0, round 0, slot 0" in done.stderr
    assert "of the segment 2-2-seed-0 0" in done.stderr
    assert hybrid("replay", swarm.run, "--verify").code == 4
    assert hybrid("replay", swarm.run, "--round", 3, "--node", 0).code == 0


def test_a_segment_that_was_changed_is_as_good_as_missing(swarm: Ran, hybrid: Hybrid) -> None:
    path = swarm.segments[0]
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 1
    path.chmod(0o600)
    path.write_bytes(data)
    assert hybrid("replay", swarm.run, "--round", 0, "--node", 0).code == 4


@pytest.mark.parametrize(
    ("options", "words"),
    [
        (["--node", 1], "which round?"),
        (["--round", 0], "name one with --node"),
        (["--round", 9, "--node", 1], "no such round"),
        (["--round", 1, "--node", 7], "no such"),
        (["--round", 1, "--series", "8-0/seed-0"], "no series '8-0/seed-0'"),
    ],
)
def test_what_there_is_not_is_refused(swarm: Ran, hybrid: Hybrid, options: list[Any], words: str) -> None:
    done = hybrid("replay", swarm.run, *options)
    assert done.code == 2
    assert words in done.stderr
