"""The command `hybrid models`: its output, its exit codes, and what prune does not remove."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner

from hybrid.commands.models import models
from hybrid.errors import HybridError
from hybrid.folder.medium import Disk
from hybrid.folder.runs import join_folder
from hybrid.models import catalog, pruning
from hybrid.models.manifest import Model, read_models
from hybrid.models.ollama_store import OllamaStore
from tests.support.packed_models import add_model, files_of, ignore_progress, large_parts, noise, packed, repack
from tests.support.small_gguf import EMPTY

DAY = 86400.0


def typed(*arguments: str | Path) -> tuple[int, str]:
    """Exit code and stdout; for an error, its message in place of stdout."""
    done = CliRunner().invoke(models, [str(one) for one in arguments], standalone_mode=False)
    if isinstance(done.exception, HybridError):
        return done.exception.exit_code, f"{done.stdout}{done.exception.message}\n{done.exception.hint}"
    if done.exception:
        raise done.exception
    return 0, done.stdout


def test_pack_list_verify_restore_of_a_store(tmp_path: Path) -> None:
    store, root = OllamaStore(tmp_path / "store"), tmp_path / "folder"
    add_model(store, "me/tiny:1b", noise(5000))
    join_folder(root, make=True)
    here: tuple[str | Path, ...] = ("--folder", root)
    code, said = typed("pack", "me/tiny:1b", "--store", store.root, *here)
    assert (code, said.partition("@")[0]) == (0, "me/tiny:1b")
    listed = json.loads(typed("list", "--json", *here)[1])
    assert [(one["name"], one["kind"], one["complete"], one["parts"]) for one in listed["models"]] == [
        ("me/tiny:1b", "ollama", True, 3)
    ]
    assert "me/tiny:1b" in typed("list", *here)[1]
    assert typed("verify", *here) == (0, "")
    assert typed("restore", "me/tiny:1b", "--store", tmp_path / "b", *here) == (0, "me/tiny:1b\n")
    assert typed("restore", "me/tiny:1b", "--store", tmp_path / "b", "--as", "own", *here) == (0, "own:latest\n")
    assert OllamaStore(tmp_path / "b").names() == ["me/tiny:1b", "own:latest"]


def test_the_store_of_the_environment_is_used(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder, _, _ = packed(tmp_path)
    monkeypatch.setenv("OLLAMA_MODELS", str(tmp_path / "env"))
    assert typed("restore", "tiny", "--folder", folder.root)[0] == 0
    monkeypatch.delenv("OLLAMA_MODELS")
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    assert typed("restore", "tiny", "--folder", folder.root)[0] == 0
    for place in (tmp_path / "env", tmp_path / "home" / ".ollama" / "models"):
        assert OllamaStore(place).names() == ["tiny:latest"]


def test_a_packed_file_is_restored_below_the_own_place_of_this_machine(tmp_path: Path) -> None:
    (tmp_path / "small.gguf").write_bytes(EMPTY + noise(100))
    join_folder(tmp_path / "folder", make=True)
    here = ("--folder", tmp_path / "folder")
    assert typed("pack", tmp_path / "small.gguf", *here)[0] == 0
    code, said = typed("restore", "small", *here)
    assert code == 0
    assert Path(said.strip()).read_bytes() == (tmp_path / "small.gguf").read_bytes()
    assert Path(said.strip()).is_relative_to(os.environ["HYBRID_HOME"])
    assert typed("restore", "small", "--to", tmp_path / "folder" / "x", *here)[0] == 2
    assert typed("restore", "small", "--store", tmp_path / "x", *here)[0] == 2


@pytest.mark.parametrize(
    ("arguments", "code", "words"),
    [
        (["pack", "nothing"], 2, "no model 'nothing:latest'"),
        (["pack", "no name"], 2, "no name of a model"),
        (["pack", "tiny", "--as", "x"], 2, "--as is for files"),
        (["restore", "tinny"], 5, "did you mean 'tiny:latest'"),
        (["restore", "tinny"], 5, "has not arrived"),
        (["restore", "tiny@0000"], 5, "wait for the sync"),
        (["restore", "no name"], 2, "cannot be the name of a model"),
        (["restore", "tiny@00"], 2, "at least 4 digits"),
        (["restore", "tiny", "--to", "x"], 2, "--store instead of --to"),
        (["restore", "tiny", "--as", "../x"], 2, "no name of a model"),
        (["verify", "nothing"], 5, "no model 'nothing'"),
        (["prune"], 2, "name the models"),
        (["prune", "nothing"], 2, "no model 'nothing'"),
        (["prune", "tiny"], 0, "models/manifests/"),
    ],
)
def test_what_is_typed_wrong_is_told(tmp_path: Path, arguments: list[str], code: int, words: str) -> None:
    folder, store, _ = packed(tmp_path)
    if arguments[0] in ("pack", "restore") and "--to" not in arguments:
        arguments = [*arguments, "--store", str(store.root)]
    got, said = typed(*arguments, "--folder", folder.root)
    assert (got, words in said) == (code, True), said


def test_without_the_mark_nothing_is_done(tmp_path: Path) -> None:
    folder, store, _ = packed(tmp_path)
    (folder.root / "hybrid.json").unlink()
    before = files_of(tmp_path)
    for arguments in (["pack", "tiny"], ["restore", "tiny"], ["list"], ["verify"], ["prune", "--unused", "--yes"]):
        more = ["--store", str(store.root)] if arguments[0] in ("pack", "restore") else []
        assert typed(*arguments, *more, "--folder", folder.root)[0] == 5
    assert files_of(tmp_path) == before


def test_verify_names_what_is_damaged_and_what_is_missing(tmp_path: Path) -> None:
    folder, _, model = packed(tmp_path)
    missing, damaged = large_parts(model)[1:3]
    (folder.root / missing).unlink()
    code, said = typed("verify", "tiny", "--folder", folder.root)
    assert (code, missing in said) == (5, True)
    assert "6 of 7 parts" in typed("list", "--folder", folder.root)[1]
    (folder.root / damaged).write_bytes(b"")
    code, said = typed("verify", "--json", "--folder", folder.root)
    assert (code, missing in said, damaged in said) == (6, True, True)


def test_a_manifest_that_cannot_be_read_does_not_hide_the_others(tmp_path: Path) -> None:
    folder, store, _ = packed(tmp_path)
    add_model(store, "more", noise(100, seed=5))
    torn = folder.root / repack(folder, store, "more").path
    torn.write_bytes(torn.read_bytes()[:-9])
    listed = json.loads(typed("list", "--json", "--folder", folder.root)[1])
    assert [one["name"] for one in listed["models"]] == ["tiny:latest"]
    assert torn.name in listed["refused"][0]
    assert typed("restore", "tiny", "--store", tmp_path / "b", "--folder", folder.root)[0] == 0
    code, said = typed("restore", "more", "--store", tmp_path / "b", "--folder", folder.root)
    assert (code, torn.name in said) == (6, True)
    code, said = typed("prune", "tiny", "--yes", "--folder", folder.root)
    assert (code, "nothing is pruned" in said) == (6, True)


def two_models(root: Path) -> tuple[Disk, OllamaStore, Model, Model]:
    folder, store, first = packed(root)
    add_model(store, "second", noise(4500), template=b"of its own")
    return folder, store, first, repack(folder, store, "second")


def steps(folder: Disk, *names: str, now: float, unused: bool = False) -> pruning.PruneResult:
    return pruning.step(folder, pruning.plan(folder, names, unused=unused), grace=DAY, now=now)


def test_prune_removes_in_two_steps_and_never_what_another_model_needs(tmp_path: Path) -> None:
    folder, _, first, second = two_models(tmp_path)
    before = files_of(folder.root)
    marked = steps(folder, "tiny", now=1000.0)
    assert (marked.removed, marked.seconds) == ((), DAY)
    assert set(marked.waiting) == {first.path, *(first.parts.keys() - second.parts.keys())}
    assert steps(folder, "tiny", now=1000.0 + DAY - 1).removed == ()
    assert files_of(folder.root) == before
    done = steps(folder, "tiny", now=1000.0 + DAY)
    assert set(done.removed) == set(marked.waiting)
    assert done.waiting == ()
    assert read_models(folder) == ([second], [])
    assert catalog.check(folder, [second], ignore_progress) == []
    assert set(before) - set(files_of(folder.root)) == set(done.removed)
    assert all(any(place.iterdir()) for place in (folder.root / "models" / "layers").rglob("*") if place.is_dir())


def test_prune_as_it_is_typed_ends_with_4_and_then_with_0(tmp_path: Path) -> None:
    folder, _, _, _ = two_models(tmp_path)
    command = ("prune", "tiny", "second", "--yes", "--grace", "1s", "--folder", folder.root)
    code, said = typed(*command)
    assert (code, "marked" in said) == (4, True)
    marks = pruning._file(folder.root)
    value = json.loads(marks.read_bytes())
    value["times"] = {path: at - 10 for path, at in value["times"].items()}
    marks.write_bytes(json.dumps(value, separators=(",", ":"), sort_keys=True).encode())
    assert typed(*command)[0] == 0
    assert list(files_of(folder.root)) == ["hybrid.json"]


def test_parts_of_a_pack_that_was_given_up_are_found_as_unused(tmp_path: Path) -> None:
    folder, _, first, _ = two_models(tmp_path)
    (folder.root / first.path).unlink()
    assert steps(folder, unused=True, now=0.0).removed == ()
    done = steps(folder, unused=True, now=DAY)
    (kept,), _ = read_models(folder)
    assert {path for path in files_of(folder.root) if "/layers/" in path} == set(kept.parts)
    assert done.removed


def test_a_manifest_that_arrives_in_between_saves_its_layers(tmp_path: Path) -> None:
    folder, _, first, _ = two_models(tmp_path)
    hidden = (folder.root / first.path).read_bytes()
    (folder.root / first.path).unlink()
    steps(folder, unused=True, now=0.0)
    (folder.root / first.path).write_bytes(hidden)
    assert steps(folder, unused=True, now=2 * DAY).removed == ()
    assert catalog.check(folder, read_models(folder)[0], ignore_progress) == []


def test_a_listing_that_has_lost_a_manifest_is_not_taken_for_a_deletion(tmp_path: Path) -> None:
    folder, store, first, second = two_models(tmp_path)
    add_model(store, "third", noise(50, seed=8))
    third = repack(folder, store, "third")
    steps(folder, "third", now=0.0)
    hidden = (folder.root / second.path).read_bytes()
    (folder.root / second.path).unlink()
    done = steps(folder, "third", unused=True, now=2 * DAY)
    assert (done.removed, done.anew, done.seconds) == ((), True, DAY)
    (folder.root / second.path).write_bytes(hidden)
    assert third.path in steps(folder, "third", now=3 * DAY).removed
    assert catalog.check(folder, [first, second], ignore_progress) == []


def test_packing_a_model_again_takes_its_marks_back(tmp_path: Path) -> None:
    folder, store, _, _ = two_models(tmp_path)
    steps(folder, "tiny", now=0.0)
    assert pruning.read_marks(folder.root).times
    model = repack(folder, store, "tiny")
    pruning.forget(folder.root, model)
    assert pruning.read_marks(folder.root).times == {}
    assert steps(folder, "tiny", now=2 * DAY).removed == ()


@pytest.mark.parametrize("value", [b"", b"x", b"[]", b'{"known":1}', b'{"known":[],"times":[]}'])
def test_marks_that_cannot_be_read_are_made_anew(tmp_path: Path, value: bytes) -> None:
    folder, _, _, _ = two_models(tmp_path)
    marks = pruning._file(folder.root)
    marks.parent.mkdir(parents=True)
    marks.write_bytes(value)
    assert steps(folder, "tiny", now=0.0).removed == ()
    assert pruning.read_marks(folder.root).times


def test_a_mark_of_long_ago_or_of_the_future_counts_for_nothing(tmp_path: Path) -> None:
    folder, _, _, _ = two_models(tmp_path)
    steps(folder, "tiny", now=0.0)
    assert steps(folder, "tiny", now=100 * DAY).removed == ()
    assert steps(folder, "tiny", now=50 * DAY).removed == ()


def test_what_a_person_left_there_is_not_pruned(tmp_path: Path) -> None:
    folder, _, first, _ = two_models(tmp_path)
    mine = folder.root / Path(large_parts(first)[0]).with_name("notes (1).bin")
    mine.write_bytes(b"mine")
    steps(folder, "tiny", "second", unused=True, now=0.0)
    steps(folder, "tiny", "second", unused=True, now=DAY)
    assert [path for path in files_of(folder.root) if path != "hybrid.json"] == [
        mine.relative_to(folder.root).as_posix()
    ]


def test_hostile_names_are_shown_as_escapes(tmp_path: Path) -> None:
    folder, _, _ = packed(tmp_path)
    place: Any = folder.root / "models" / "manifests"
    (place / f"model-{'0' * 64}.json").write_bytes(b'"\x1b[31m"')
    said = CliRunner().invoke(models, ["list", "--folder", str(folder.root)], standalone_mode=False)
    assert "\x1b" not in said.stdout + said.stderr
