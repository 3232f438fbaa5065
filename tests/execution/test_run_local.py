"""`hybrid run local` as a real process: killed, stopped, run twice, out of room. Model calls are counted by item."""

from __future__ import annotations

import json
import os
import random
import signal
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Iterator, Mapping
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from hybrid.errors import BadData
from hybrid.execution.local import Engine, run_here
from hybrid.folder.medium import Disk
from hybrid.folder.shards import MAX_FILE, Shard, shard_paths, verify_shard
from hybrid.progress import SilentProgress
from hybrid.protocols import Inputs, Stage
from hybrid.records import Item, Request, Sampling
from hybrid.work import Ask
from tests.support.fleet import until
from tests.support.small_disks import mounted

TASKS = 6
ITEMS = 6 * TASKS


def heed_ctrl_c() -> None:
    """A shell that starts the tests in the background makes its children deaf to Ctrl-C."""
    signal.signal(signal.SIGINT, signal.SIG_DFL)


class Place:
    """A folder, a script of answers, and the `hybrid` command on them."""

    def __init__(self, root: Path, folder: Path | None = None) -> None:
        self.root, self.folder = root, folder or root / "folder"
        self.calls_file, self.gate = root / f"calls-{self.folder.name}", root / f"gate-{self.folder.name}"
        challenges = {f"{n:08x}": task(n) for n in range(TASKS)}
        (root / "challenges.json").write_text(json.dumps(challenges))
        (root / "solutions.json").write_text(json.dumps({name: [[[1]]] for name in challenges}))
        (root / "script.json").write_text(json.dumps({"answers": {}, "default": "1"}))

    def command(self, *more: str, delay_ms: int = 0, shard_seconds: float = 60) -> list[str]:
        data = [f"--set={kind}={self.root / kind}.json" for kind in ("challenges", "solutions")]
        backend = ["--backend=scripted", f"--model={self.root / 'script.json'}", f"--folder={self.folder}"]
        named = {"calls": self.calls_file, "gate": self.gate, "delay_ms": delay_ms}
        options = [f"--backend-option={name}={value}" for name, value in named.items()]
        python = [sys.executable, "-m", "hybrid", "run", "local", "seal-eval"]
        return [*python, *data, *backend, *options, f"--shard-seconds={shard_seconds}", *more]

    def run(self, *more: str, **how: float) -> subprocess.CompletedProcess[str]:
        return subprocess.run(self.command(*more, **how), capture_output=True, text=True, check=False, timeout=240)  # type: ignore[arg-type]

    def start(self, *more: str, **how: float) -> subprocess.Popen[str]:
        command: Any = self.command(*more, **how)  # type: ignore[arg-type]
        return subprocess.Popen(
            command,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            preexec_fn=heed_ctrl_c,  # noqa: PLW1509
        )

    def calls(self) -> list[str]:
        return self.calls_file.read_text().split() if self.calls_file.exists() else []

    def kept(self) -> set[str]:
        """The keys in every shard that verifies, in all runs of the folder."""
        disk = Disk(self.folder)
        stages = [f"runs/{run.parent.name}/answer" for run in self.folder.glob("runs/*/answer")]
        paths = [self.folder / path for stage in stages for path in shard_paths(disk, stage)]
        return {record["key"] for path in paths if verifies(path) for record in read_shard(path).records}

    def outputs(self) -> Path:
        (path,) = self.folder.glob("results/*/outputs.json")
        return path


def read_shard(path: Path) -> Shard:
    return verify_shard(path.name, Disk(path.parent).read(path.name, MAX_FILE))


def verifies(path: Path) -> bool:
    try:
        return bool(read_shard(path))
    except Exception:  # noqa: BLE001 - a torn shard may fail in any documented way; here it only does not count
        return False


def task(number: int) -> dict[str, object]:
    """A task of two demonstrations, unlike every other."""
    pairs = [{"input": [[number, k], [k, 2]], "output": [[k]]} for k in (3, 4)]
    return {"train": pairs, "test": [{"input": [[number, 5], [6, 7]]}]}


@pytest.fixture
def place(tmp_path: Path) -> Place:
    return Place(tmp_path)


def wait_for_calls(process: subprocess.Popen[str], place: Place, count: int) -> None:
    deadline = time.monotonic() + 240
    while process.poll() is None and len(place.calls()) < count:
        assert time.monotonic() < deadline
        time.sleep(0.01)


def test_the_same_command_again_reuses_everything_and_says_so(place: Place) -> None:
    first = place.run()
    assert first.returncode == 0, first.stderr
    before = place.outputs().read_bytes()
    count = len(place.calls())
    again = place.run()
    assert again.returncode == 0, again.stderr
    assert "nothing was run" in again.stderr
    assert len(place.calls()) == count == len(set(place.calls()))
    assert place.outputs().read_bytes() == before
    assert again.stdout.strip() == str(place.outputs())


@pytest.mark.slow
def test_kill_9_at_any_moment_redoes_no_finished_shard_and_ends_in_the_same_file(tmp_path: Path) -> None:
    whole, place = Place(tmp_path, tmp_path / "whole"), Place(tmp_path, tmp_path / "killed")
    assert whole.run().returncode == 0
    chance = random.Random(20261121)
    kills = 0
    while True:
        safe = place.kept()
        seen = len(place.calls())
        goal = chance.randrange(1, 6)
        place.gate.write_text(str(goal + 2))  # however late the kill comes: five lives are too few for all
        process = place.start(delay_ms=15, shard_seconds=0.1)
        wait_for_calls(process, place, seen + goal)
        time.sleep(chance.random() * 0.03)
        process.kill()
        _, stderr = process.communicate()
        fresh = place.calls()[seen:]
        assert not safe & set(fresh), "an item of a finished shard was asked again"
        if process.returncode == 0:
            break
        assert process.returncode == -signal.SIGKILL, stderr
        kills += 1
        assert kills < 60
    assert kills >= 5
    redone = len(place.calls()) - len(set(place.calls()))
    print(f"{kills} kills, {redone} extra calls on {len(set(place.calls()))} items")
    assert place.outputs().read_bytes() == whole.outputs().read_bytes()
    keys = [record["key"] for record in json.loads(place.outputs().read_text())["records"]]
    assert len(keys) == len(set(keys)) == len(set(place.calls()))


DRIVER = """
import os, signal, sys
from pathlib import Path
from typing import Any
from hybrid import progress
point, at = sys.argv[1], int(sys.argv[2])
count = 0

def arrived():
    global count
    count += 1
    if count == at:
        os.kill(os.getpid(), signal.SIGKILL)

class KillsItself(progress.SilentProgress):
    def finished_item(self, completion):
        super().finished_item(completion)
        point == "item" and arrived()
    def closed_shard(self, path, records):
        point == "shard closed" and arrived()
    def ended(self):
        point == "stage ended" and arrived()

from hybrid.folder import medium
write = medium.write_once
def torn(path, data, **how):
    if not path.name.startswith("shard-"):
        return write(path, data, **how)
    if point == "half a shard":
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(data[: len(data) // 2])
        arrived()
    if point == "before a shard":
        arrived()
    write(path, data, **how)
medium.write_once = torn
from hybrid.commands import run
run._progress = lambda as_json: KillsItself()
from hybrid.cli import main
main(sys.argv[3:])
"""


@pytest.mark.slow
@pytest.mark.parametrize("point", ["item", "shard closed", "half a shard", "before a shard", "stage ended"])
def test_a_kill_at_a_named_point_costs_at_most_the_call_that_the_model_was_at(place: Place, point: str) -> None:
    driver = place.root / "driver.py"
    driver.write_text(DRIVER)
    at = {"item": 7, "stage ended": 1}.get(point, 2)
    arguments = place.command(delay_ms=5, shard_seconds=0.1)[3:]
    killed = subprocess.run([sys.executable, str(driver), point, str(at), *arguments], capture_output=True, check=False)
    assert killed.returncode == -signal.SIGKILL, killed.stderr
    safe, before = place.kept(), place.calls()
    done = place.run()
    assert done.returncode == 0, done.stderr
    after = place.calls()[len(before) :]
    assert not safe & set(after)
    assert set(before) | set(after) == set(place.kept())
    assert len(set(before) & set(after)) <= 1, "an answer that had come was lost"


@pytest.mark.slow
@pytest.mark.parametrize("polite", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP])
def test_a_polite_stop_keeps_the_open_shard_and_says_how_to_go_on(place: Place, polite: signal.Signals) -> None:
    place.gate.write_text("5")
    process = place.start()
    wait_for_calls(process, place, 6)
    process.send_signal(polite)
    _, stderr = process.communicate(timeout=240)
    assert process.returncode == 4, stderr
    assert "run the same command again to go on" in stderr
    assert "Traceback" not in stderr
    calls = place.calls()
    assert len(set(calls) - place.kept()) <= 1, "only the item in flight may be lost"
    place.gate.unlink()
    assert place.run().returncode == 0
    assert len(place.calls()) - len(calls) <= len(place.kept()) - len(calls) + 1


@pytest.mark.slow
def test_two_processes_on_one_run_are_told_apart(place: Place) -> None:
    place.gate.write_text("1")
    first = place.start()
    wait_for_calls(first, place, 2)
    second = place.run()
    first.send_signal(signal.SIGINT)
    first.communicate(timeout=240)
    assert (second.returncode, first.returncode) == (5, 4)
    assert "another process on this machine is at work" in second.stderr
    place.gate.unlink()
    assert place.run().returncode == 0
    assert len(place.calls()) - len(set(place.calls())) <= 1, "only the item in flight is asked again"


@pytest.mark.slow
def test_two_writers_that_do_not_know_each_other_still_make_one_result(place: Place, tmp_path: Path) -> None:
    """The lock is a courtesy; two machines on one folder have none. Every item still counts once."""
    environments = [{**os.environ, "XDG_CACHE_HOME": str(tmp_path / name)} for name in ("one", "two")]
    place.gate.write_text("1")
    pair = [subprocess.Popen(place.command(), env=env, stderr=subprocess.PIPE) for env in environments]
    until(lambda: len(place.calls()) == 4, "both are at work")
    place.gate.unlink()
    for process in pair:
        _, stderr = process.communicate(timeout=240)
        assert process.returncode == 0, stderr
    assert len(place.calls()) > len(set(place.calls())), "the two did not overlap, so the test shows nothing"
    assert place.run().returncode == 0
    keys = [record["key"] for record in json.loads(place.outputs().read_text())["records"]]
    assert sorted(keys) == sorted(set(place.calls()))


def test_a_prompt_that_does_not_fit_is_a_failed_item_not_a_cut_one(place: Place) -> None:
    (place.root / "script.json").write_text(json.dumps({"answers": {}, "default": "1", "context": 40}))
    done = place.run()
    assert done.returncode == 3
    records = json.loads(place.outputs().read_text())["records"]
    assert {record["error"]["kind"] for record in records} == {"too-long"}
    assert {record["text"] for record in records} == {None}


@pytest.mark.slow
def test_failed_items_are_kept_until_they_are_asked_for_again(place: Place) -> None:
    (place.root / "script.json").write_text(json.dumps({"answers": {}}))
    assert place.run().returncode == 3
    calls = Counter(place.calls())
    assert place.run().returncode == 3
    assert Counter(place.calls()) == calls
    assert place.run("--retry-failed").returncode == 3
    assert Counter(place.calls()) == calls + calls


def test_events_are_one_json_object_a_line_and_name_every_item_once(place: Place) -> None:
    done = place.run("--json")
    events = [json.loads(line) for line in done.stdout.splitlines()]
    assert [event["event"] for event in events if event["event"] != "item"] == [
        "started",
        "working",
        "shard",
        "ended",
        "done",
    ]
    assert sorted(event["key"] for event in events if event["event"] == "item") == sorted(place.calls())
    assert events[-1]["outputs"] == str(place.outputs())


@pytest.mark.parametrize(
    ("arguments", "code", "words"),
    [
        (["seal-evil"], 2, "did you mean 'seal-eval'?"),
        (["seal-eval", "--set", "formt=seal"], 2, "did you mean 'format'?"),
        (["seal-eval", "--set", "format=sela"], 2, "did you mean 'seal'?"),
        (["seal-eval", "--backend", "lamacpp"], 2, "did you mean 'llamacpp'?"),
        (["seal-eval", "--backend", "scripted", "--model", "nowhere.json"], 7, "nowhere.json"),
        (["seal-eval", "--model", "nowhere.gguf"], 7, "nowhere.gguf"),
        (["seal-eval", "--limit", "-1"], 2, "limit"),
        (["seal-eval", "--set", "temperature=nan"], 2, "temperature"),
        (["seal-eval", "--backend-option", "parallel"], 2, "name=value"),
        (["seal-eval", "--backend-option", "paralel=2", "--model", "nowhere.gguf"], 2, "did you mean 'parallel'?"),
    ],
)
def test_a_wrong_word_gets_one_clear_line_and_writes_nothing(
    tmp_path: Path, arguments: list[str], code: int, words: str
) -> None:
    command = [sys.executable, "-m", "hybrid", "run", "local", *arguments]
    done = subprocess.run(command, capture_output=True, text=True, cwd=tmp_path, check=False, timeout=240)
    assert done.returncode == code, done.stderr
    assert words in done.stderr
    assert "Traceback" not in done.stderr
    assert list(tmp_path.iterdir()) == []


WRONG = {
    "an option": (["--backend-option=dellay_ms=1"], 2, "did you mean 'delay_ms'?"),
    "an option's value": (["--backend-option=delay_ms=soon"], 2, "delay_ms=soon"),
    "a model's content": ([], 6, "not a script"),
    "the place of the outputs": (["--output=script.json"], 2, "holds something else"),
    "a task": (["--set=challenges=odd.json"], 6, "odd.json"),
}


@pytest.mark.parametrize("what", WRONG)
def test_nothing_is_frozen_before_all_is_known_to_be_right(
    place: Place, monkeypatch: pytest.MonkeyPatch, what: str
) -> None:
    more, code, words = WRONG[what]
    monkeypatch.chdir(place.root)
    Path("odd.json").write_text('{"x": {"train": 3, "test": []}}')
    if what == "a model's content":
        (place.root / "script.json").write_text("[]")
    done = place.run(*more)
    assert (done.returncode, "Traceback" in done.stderr) == (code, False), done.stderr
    assert words in done.stderr
    assert not place.folder.exists()


class WithoutItems:
    """A pipeline whose data is read and whose second item cannot be made."""

    def inputs(self) -> Inputs:
        return Inputs({"a": 1, "b": 0}, {}, {})

    def stages(self) -> tuple[Stage, ...]:
        return (Stage("answer", "any", 1, Ask(self.items)),)

    def items(self, tasks: Mapping[str, int]) -> Iterator[Item]:
        for name, number in tasks.items():
            if not number:
                raise BadData(f"the task {name} has no items")
            yield Item(name, name, Request(Sampling(1), prompt="x"))


def test_a_run_whose_items_cannot_be_made_is_not_frozen(place: Place) -> None:
    engine = Engine("scripted", str(place.root / "script.json"))
    with pytest.raises(BadData, match="the task b has no items"):
        run_here(place.folder, "odd", dataclass(frozen=True)(WithoutItems)(), {"": engine}, SilentProgress())
    assert not place.folder.exists()


def test_a_run_that_is_done_needs_no_model_and_heeds_its_options(place: Place) -> None:
    assert place.run().returncode == 0
    command = place.command("--backend-option=delay_ms=soon")  # what only a loaded model could refuse
    done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=240)
    assert done.returncode == 0, done.stderr
    assert "nothing was run" in done.stderr
    assert "loading" not in done.stderr
    assert place.run("--backend-option=dellay_ms=1").returncode == 2


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    with mounted(tmp_path / "disk", "24k") as place:
        yield place


@pytest.mark.slow
def test_a_full_disk_stops_the_run_and_more_room_lets_it_go_on(tmp_path: Path, small_disk: Path) -> None:
    place = Place(tmp_path, small_disk / "folder")
    stopped = place.run(delay_ms=5, shard_seconds=0.1)
    assert stopped.returncode == 5, stopped.stderr
    assert "no room left" in stopped.stderr
    assert "Traceback" not in stopped.stderr
    safe, before = place.kept(), len(place.calls())
    subprocess.run(["mount", "-o", "remount,size=10m", str(small_disk)], check=True)
    assert place.run().returncode == 0
    assert not safe & set(place.calls()[before:])


def test_a_read_only_folder_is_told(tmp_path: Path, small_disk: Path) -> None:
    subprocess.run(["mount", "-o", "remount,ro", str(small_disk)], check=True)
    place = Place(tmp_path, small_disk / "folder")
    done = place.run()
    assert done.returncode == 7, done.stderr
    assert str(small_disk) in done.stderr


@pytest.mark.slow
def test_a_terminal_gets_a_live_bar_and_a_pipe_gets_plain_lines(place: Place) -> None:
    terminal, side = os.openpty()
    process = subprocess.Popen(place.command(delay_ms=20), stdout=subprocess.DEVNULL, stderr=side)
    os.close(side)
    shown = b""
    with suppress(OSError):  # Linux ends a terminal whose last writer has gone with an error
        while piece := os.read(terminal, 4096):
            shown += piece
    os.close(terminal)
    assert process.wait(timeout=240) == 0
    assert b"\x1b[" in shown
    assert f"{len(place.calls())}/{len(place.calls())}".encode() in shown
    plain = Place(place.root, place.root / "piped").run()
    assert "\x1b" not in plain.stderr
    assert f"answer: {len(place.calls())}/{len(place.calls())}" in plain.stderr


def test_quiet_says_nothing_but_the_place_of_the_outputs(place: Place) -> None:
    done = place.run("-q")
    assert done.returncode == 0
    assert done.stdout.strip() == str(place.outputs())
    assert done.stderr.count("\n") <= 1


@pytest.mark.slow
def test_other_weights_under_the_same_name_are_another_run(place: Place) -> None:
    assert place.run().returncode == 0
    first = place.outputs()
    before = first.read_bytes()
    (place.root / "script.json").write_text(json.dumps({"answers": {}, "default": "2"}))
    assert place.run().returncode == 0
    (second,) = set(place.folder.glob("results/*/outputs.json")) - {first}
    assert first.read_bytes() == before
    assert {record["text"] for record in json.loads(second.read_text())["records"]} == {"2"}


@pytest.mark.slow
def test_grading_an_unfinished_run_counts_what_is_missing(place: Place) -> None:
    place.gate.write_text("5")
    process = place.start()
    wait_for_calls(process, place, 6)
    process.send_signal(signal.SIGINT)
    process.communicate(timeout=240)
    (run,) = (place.folder / "runs").iterdir()
    grade = [sys.executable, "-m", "hybrid", "-q", "grade", run.name, f"--folder={place.folder}", "--json"]
    done = subprocess.run(grade, capture_output=True, text=True, check=False, timeout=240)
    assert done.returncode == 4, done.stderr
    summary = json.loads(done.stdout)["summary"]
    assert summary["outputs"] == 42
    assert summary["failed_outputs"]["missing"] == 42 - len(place.kept())
    assert summary["n"] + summary["ungraded"]["count"] == TASKS


def test_a_machine_without_a_place_for_locks_still_works(place: Place) -> None:
    (place.root / "cache").write_text("not a folder")
    environment = {**os.environ, "XDG_CACHE_HOME": str(place.root / "cache")}
    done = subprocess.run(place.command(), capture_output=True, text=True, check=False, timeout=240, env=environment)
    assert done.returncode == 0, done.stderr
    assert "working without a lock" in done.stderr


def hybrid(*arguments: str | Path) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "hybrid", *map(str, arguments)]
    return subprocess.run(command, capture_output=True, text=True, check=False, timeout=240)


@pytest.mark.slow
def test_no_command_writes_over_a_file_of_another_kind(place: Place) -> None:
    script = place.root / "script.json"
    before = script.read_bytes()
    assert place.run("-o", str(script)).returncode == 2
    assert place.calls() == [], "the model was asked before the place was looked at"
    assert place.run().returncode == 0
    outputs, mark = place.outputs(), place.folder / "hybrid.json"
    graded = hybrid("grade", outputs)
    assert graded.returncode == 0, graded.stderr
    for target in (outputs, script, mark, outputs.with_name("grades.arc.json")):
        kept = target.read_bytes()
        assert hybrid("report", outputs, "-o", target).returncode == 2
        assert target.read_bytes() == kept
    assert hybrid("grade", outputs, "-o", mark).returncode == 2
    assert script.read_bytes() == before
    assert hybrid("report", outputs).returncode == hybrid("report", outputs).returncode == 0
