"""`hybrid forget` hides a run, here or everywhere; `--note` says what it is. Nothing is deleted, all is taken back."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest

from hybrid.errors import UsageError
from hybrid.folder import orders
from hybrid.folder.notes import pack_note
from hybrid.folder.orders import Orders, known_orders
from hybrid.laptop.forgetting import MOST_NOTE, checked_note
from tests.support.in_process import Hybrid
from tests.support.run_folder import RunFolder


def remote(place: RunFolder) -> list[str]:
    """The command that submits the run of `place` again."""
    data = [f"--set=challenges={place.root / 'challenges.json'}", "--set=views=", "--set=permute_n=0"]
    return ["run", "remote", "seal-eval", *data, "--backend=scripted", "--model=made-up", "--model-digest", "a" * 64]


@pytest.fixture
def place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> RunFolder:
    monkeypatch.setenv("HYBRID_HOME", str(tmp_path / "home"))
    monkeypatch.setenv("HYBRID_FOLDER", str(tmp_path / "folder"))
    monkeypatch.chdir(tmp_path)
    return RunFolder(tmp_path)


def order(place: RunFolder, by: str, body: Mapping[str, Any]) -> None:
    place.disk.write(*pack_note(place.run.id, "order", by, 0, body))


def files(place: RunFolder) -> dict[str, bytes]:
    return {str(path): path.read_bytes() for path in place.folder.rglob("*") if path.is_file()}


def shown(hybrid: Hybrid, *more: str) -> list[str]:
    return [json.loads(line)["run"] for line in hybrid("status", "--json", *more).stdout.splitlines()]


def test_a_run_is_hidden_on_this_machine_and_shown_again(
    place: RunFolder, hybrid: Hybrid, monkeypatch: pytest.MonkeyPatch
) -> None:
    before = files(place)
    assert hybrid("status").code == 4
    assert hybrid("forget", place.run.id[:12]).code == 0
    told = hybrid("status")
    assert (told.code, place.run.id in told.stdout) == (0, False), "a run that nobody wants to see is not waited for"
    assert "--all" in told.stdout
    assert files(place) == before, "it is hidden here, and nothing is said to others"
    assert shown(hybrid, "--all") == shown(hybrid, place.run.id) == [place.run.id]
    monkeypatch.setenv("HYBRID_HOME", str(place.root / "another"))
    assert shown(hybrid) == [place.run.id]
    monkeypatch.setenv("HYBRID_HOME", str(place.root / "home"))
    assert shown(hybrid) == []
    assert hybrid("forget", place.run.id, "--undo").code == 0
    assert shown(hybrid) == [place.run.id]


def test_submitting_a_forgotten_run_again_shows_it(place: RunFolder, hybrid: Hybrid) -> None:
    for everywhere in ([], ["--everywhere"]):
        assert hybrid("forget", place.run.id, *everywhere).code == 0
        assert shown(hybrid) == []
        assert hybrid(*remote(place)).stdout.strip() == place.run.id
        assert shown(hybrid) == [place.run.id]
        assert not place.look().cancelled


def test_a_run_is_forgotten_everywhere_by_an_order_and_its_workers_stop(
    place: RunFolder, hybrid: Hybrid, monkeypatch: pytest.MonkeyPatch
) -> None:
    before = files(place)
    assert hybrid("forget", place.run.id, "--everywhere").code == 0
    assert files(place).items() > before.items(), "nothing is deleted or changed"
    monkeypatch.setenv("HYBRID_HOME", str(place.root / "another"))
    assert (hybrid("status").code, shown(hybrid)) == (0, [])
    found = place.look()
    assert (found.forgotten, found.cancelled) == (True, True)
    worker = hybrid("worker", place.folder, "--once", "--linger", "0", "--side", "gpu")
    assert worker.code in (0, 4), worker.stderr
    assert place.look().sum("done") == 0
    assert "forgotten by reader-" in hybrid("status", place.run.id).stdout
    assert hybrid("forget", place.run.id, "--undo", "--everywhere").code == 0
    assert shown(hybrid) == [place.run.id]
    assert not place.look().cancelled


def test_a_run_that_cannot_be_read_can_be_hidden(place: RunFolder, hybrid: Hybrid) -> None:
    (place.folder / place.run.place / "run.json").write_text("{}")
    assert hybrid("status").code == 6
    assert hybrid("forget", place.run.id, "--everywhere").code == 6
    assert hybrid("forget", place.run.id).code == 0
    assert hybrid("status").code == 0
    assert hybrid("forget", "nothing").code == 2


def test_a_note_is_shown_replaced_and_emptied_and_is_no_part_of_the_run(place: RunFolder, hybrid: Hybrid) -> None:
    assert hybrid(*remote(place), "--note", "the first try").stdout.strip() == place.run.id
    assert "; note: the first try" in hybrid("status").stdout
    assert "note        the first try" in hybrid("status", place.run.id).stdout
    count = len(files(place))
    assert hybrid(*remote(place), "--note", "the first try").code == hybrid(*remote(place)).code == 0
    assert len(files(place)) == count, "what is noted already is not written again"
    assert hybrid(*remote(place), "--note", "better").stdout.strip() == place.run.id
    assert place.look().notes == ("better",)
    assert hybrid(*remote(place), "--note", "").code == 0
    assert place.look().notes == ()


def test_a_run_of_this_machine_has_its_note_while_it_works(place: RunFolder, hybrid: Hybrid) -> None:
    Path("script.json").write_text(json.dumps({"answers": {}, "default": "1"}))
    local = ["run", "local", *remote(place)[2:6], "--backend=scripted", "--model=script.json"]
    done = hybrid(*local, "--note", "here")
    assert done.code == 0, done.stderr
    assert "; note: here" in hybrid("status").stdout
    name = Path(done.stdout.strip()).parent.name
    assert hybrid("forget", name).code == 0
    assert name not in shown(hybrid)
    assert hybrid(*local).code == 0
    assert name in shown(hybrid)


@pytest.mark.parametrize("text", ["x" * (MOST_NOTE + 1), "two\nlines", "\x1b[2J", "\u202etxt"])
def test_a_note_that_cannot_be_shown_on_a_line_is_refused(text: str) -> None:
    with pytest.raises(UsageError, match="--note"):
        checked_note(text)


@pytest.mark.parametrize("text", ["\x1b[2J" * 1000, None, 7, ["x"], {"a": {}}])
def test_a_note_that_anybody_wrote_is_bounded_and_obeyed_by_no_terminal(
    place: RunFolder, hybrid: Hybrid, text: object
) -> None:
    order(place, "reader-00000001", {"order": "note", "text": text, "of": 3})
    for told in (hybrid("status").stdout, hybrid("status", place.run.id).stdout):
        assert "\x1b" not in told
        assert max(map(len, told.splitlines())) <= 400


def test_two_machines_that_note_at_once_are_both_heard(place: RunFolder) -> None:
    for by, text in (("reader-00000001", "mine"), ("reader-00000002", "yours")):
        order(place, by, orders.note(text, Orders()))
    assert place.look().notes == ("mine", "yours")
    place.receiver().note("ours")
    assert place.look().notes == ("ours",)


def test_an_older_hybrid_reads_the_folder_as_before(place: RunFolder, hybrid: Hybrid) -> None:
    """It knows cancel, resume and retry; what else is ordered asks nothing of it."""
    assert hybrid(*remote(place), "--note", "x").code == 0
    assert hybrid("forget", place.run.id, "--everywhere").code == 0
    older = Orders()
    for path, note in orders.read_notes(place.disk, place.run.id, "order", refused=[]):
        if note["order"] in ("cancel", "resume", "retry"):
            older.add(path, note)
    assert older.cancelled, "it is to stop, too"
    known = known_orders((place.disk,), place.run.id, [])
    again = orders.resume(known)
    assert older.active_cancels <= set(again["of"])
