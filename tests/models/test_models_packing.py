"""A model is packed and restored unchanged, despite kills, truncated and missing parts, and full disks."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from hybrid.errors import BadData, CannotRun, HybridError, Temporary, UsageError
from hybrid.folder.medium import Disk, NotThere
from hybrid.folder.runs import join_folder
from hybrid.machine.mounts import remote_mount
from hybrid.models import catalog, restoring
from hybrid.models.manifest import Model, read_models
from hybrid.models.names import OllamaName
from hybrid.models.ollama_store import STAGING, OllamaStore
from hybrid.models.packing import ollama_source, pack, plain_source
from hybrid.models.restoring import restore_ollama, restore_plain
from tests.support.packed_models import (
    PART,
    FailingFolder,
    ProcessKilled,
    add_model,
    files_of,
    ignore_progress,
    large_parts,
    noise,
    packed,
    repack,
)
from tests.support.small_disks import mounted
from tests.support.small_gguf import EMPTY

TINY = OllamaName.parse("tiny")


def restored(
    folder: Disk | FailingFolder, model: Model, root: Path, name: str = "tiny", *, replace: bool = False
) -> bool:
    """Restore into a store at `root`. Returns whether it holds exactly the model."""
    store = OllamaStore(root)
    path = restore_ollama(folder, model, store, OllamaName.parse(name), ignore_progress, replace=replace)
    return path.read_bytes() == model.source.encode() and not (root / STAGING).exists()


def test_what_is_packed_is_restored_byte_for_byte(tmp_path: Path) -> None:
    folder, store, model = packed(tmp_path)
    assert restored(folder, model, tmp_path / "other")
    assert files_of(tmp_path / "other") == files_of(store.root)
    assert [len(layer.parts) for layer in model.layers] == [1, 5, 1]


@pytest.mark.parametrize("size", [0, 1, PART - 1, PART, PART + 1, 3 * PART])
def test_every_size_of_a_layer_is_cut_and_joined_rightly(tmp_path: Path, size: int) -> None:
    folder, store, model = packed(tmp_path, size=size)
    assert restored(folder, model, tmp_path / "other")
    assert files_of(tmp_path / "other") == files_of(store.root)


def test_layers_that_two_models_share_are_in_the_folder_once(tmp_path: Path) -> None:
    folder, store, _ = packed(tmp_path)
    before = len(files_of(tmp_path / "folder" / "models" / "layers"))
    add_model(store, "user/variant:v2", noise(4500), template=b"other")
    model = repack(folder, store, "user/variant:v2")
    assert len(files_of(tmp_path / "folder" / "models" / "layers")) == before + 1
    assert restored(folder, model, tmp_path / "other", "user/variant:v2")
    found, _ = catalog.model_statuses(folder)
    assert [one.shared for one in found] == [4523, 4523]


def test_packing_twice_changes_nothing(tmp_path: Path) -> None:
    folder, store, _ = packed(tmp_path)
    before = {path: path.stat().st_mtime_ns for path in (tmp_path / "folder").rglob("*")}
    repack(folder, store, "tiny")
    assert {path: path.stat().st_mtime_ns for path in (tmp_path / "folder").rglob("*")} == before


def test_no_name_in_the_folder_breaks_its_rules_and_no_place_is_crowded(tmp_path: Path) -> None:
    folder, _, _ = packed(tmp_path, size=600 * PART)
    from hybrid.folder.names import allowed

    for path in (tmp_path / "folder").rglob("*"):
        assert allowed(path.name)
        assert path.is_file() or len(list(path.iterdir())) <= 250


@pytest.mark.parametrize("torn", [0, 17])
def test_a_pack_that_dies_at_any_write_publishes_nothing_and_goes_on(tmp_path: Path, torn: int) -> None:
    _, store, whole = packed(tmp_path / "good")
    for at in range(1, 9):
        folder = join_folder(tmp_path / f"f{at}", make=True)
        with pytest.raises(ProcessKilled):
            repack(FailingFolder(folder, at, ProcessKilled(), torn), store, "tiny")
        assert read_models(folder)[0] == []
        counting = FailingFolder(folder, 0, ProcessKilled())
        assert repack(counting, store, "tiny") == whole
        assert files_of(folder.root / "models") == files_of(tmp_path / "good" / "folder" / "models")
    assert counting.calls == 8, "so many writes there are: each was died at"


def test_a_restore_that_dies_at_any_read_goes_on_at_that_part(tmp_path: Path) -> None:
    folder, _, model = packed(tmp_path)
    for at in range(1, 8):
        place = tmp_path / f"s{at}"
        with pytest.raises(ProcessKilled):
            restored(FailingFolder(folder, at, ProcessKilled()), model, place)
        assert not (place / "manifests").exists(), "no model before all is whole"
        assert not (place / "blobs").exists()
        rest = FailingFolder(folder, 0, ProcessKilled())
        assert restored(rest, model, place)
        assert rest.calls == 8 - at, "a part that was here already was read again"


def test_a_part_that_is_staged_and_damaged_is_fetched_again(tmp_path: Path) -> None:
    folder, _, model = packed(tmp_path)
    store = tmp_path / "other"
    with pytest.raises(ProcessKilled):
        restored(FailingFolder(folder, 5, ProcessKilled()), model, store)
    (staged,) = [path for path in (store / STAGING).iterdir() if path.stat().st_size > PART]
    data = bytearray(staged.read_bytes())
    data[PART + 5] ^= 1
    staged.write_bytes(bytes(data))
    assert restored(folder, model, store)


def test_a_staged_file_that_is_longer_than_its_layer_is_cut(tmp_path: Path) -> None:
    folder, source, model = packed(tmp_path)
    staging = tmp_path / "other" / STAGING
    staging.mkdir(parents=True)
    layer = max(model.layers, key=lambda one: one.size)
    (staging / f"{layer.sha256}-0").write_bytes(noise(4500) + b"more")
    assert restored(folder, model, tmp_path / "other")
    assert files_of(tmp_path / "other") == files_of(source.root)


def damage(folder: Disk, path: str, how: str) -> None:
    place = folder.root / path
    data = place.read_bytes()
    if how == "missing":
        place.unlink()
    elif how == "flipped":
        place.write_bytes(bytes([data[0] ^ 1]) + data[1:])
    elif how == "longer":
        place.write_bytes(data + b"x")
    elif how == "link":
        place.rename(place.with_name("elsewhere"))
        place.symlink_to(place.with_name("elsewhere"))
    else:
        place.write_bytes({"empty": b"", "cut": data[:-1], "page": b"<html>quota</html>"}[how])


@pytest.mark.parametrize("how", ["missing", "flipped", "longer", "empty", "cut", "page", "link"])
def test_a_part_that_is_not_whole_is_named_and_nothing_is_installed(tmp_path: Path, how: str) -> None:
    folder, source, model = packed(tmp_path)
    path = large_parts(model)[2]
    damage(folder, path, how)
    with pytest.raises(NotThere if how == "missing" else BadData, match=path) as told:
        restored(folder, model, tmp_path / "other")
    assert not (tmp_path / "other" / "manifests").exists()
    assert not (tmp_path / "other" / "blobs").exists()
    if how == "missing":
        assert "6 of 7 parts" in told.value.message
    wrong = catalog.check(folder, [model], ignore_progress)
    assert [path in error.message for error in wrong] == [True]
    if how == "link":
        (folder.root / path).unlink()
    repack(folder, source, "tiny")
    assert catalog.check(folder, [model], ignore_progress) == []
    assert restored(folder, model, tmp_path / "other")


def test_what_is_here_of_a_half_synced_model_is_kept(tmp_path: Path) -> None:
    folder, _, model = packed(tmp_path)
    last = large_parts(model)[-1]
    data = (folder.root / last).read_bytes()
    (folder.root / last).unlink()
    with pytest.raises(NotThere):
        restored(folder, model, tmp_path / "other")
    (folder.root / last).write_bytes(data)
    rest = FailingFolder(folder, 0, ProcessKilled())
    assert restored(rest, model, tmp_path / "other")
    assert rest.calls == 1


def test_a_conflict_copy_is_no_part_and_no_model(tmp_path: Path) -> None:
    folder, _, model = packed(tmp_path)
    for path in (model.path, large_parts(model)[0]):
        place = folder.root / path
        place.with_name(f"{place.stem} (1){place.suffix}").write_bytes(place.read_bytes())
    assert read_models(folder) == ([model], [])
    (folder.root / large_parts(model)[0]).unlink()
    with pytest.raises(NotThere):
        restored(folder, model, tmp_path / "other")


@pytest.mark.parametrize("change", [b"", b"x", None])
def test_a_damaged_store_is_told_and_nothing_is_published(tmp_path: Path, change: bytes | None) -> None:
    store = OllamaStore(tmp_path / "store")
    add_model(store, "tiny", noise(4500))
    folder = join_folder(tmp_path / "folder", make=True)
    blob = max((store.root / "blobs").iterdir(), key=lambda path: path.stat().st_size)
    blob.write_bytes(noise(4500, seed=1) if change is None else blob.read_bytes()[: -1 if change else 0])
    with pytest.raises(BadData, match=str(blob)):
        repack(folder, store, "tiny")
    assert read_models(folder) == ([], [])


def test_a_mount_that_goes_away_does_not_become_a_plain_folder(tmp_path: Path) -> None:
    folder, store, _ = packed(tmp_path)

    class Vanishing(FailingFolder):
        def write(self, path: str, data: bytes, *, heal: bool = False) -> None:
            super().write(path, data, heal=heal)
            if self.calls == 3:
                self.folder.root.rename(tmp_path / "away")

    add_model(store, "more", noise(9000, seed=2))
    with pytest.raises(NotThere):
        repack(Vanishing(folder, 0, ProcessKilled()), store, "more")
    assert not folder.root.exists()


def test_another_model_of_that_name_is_not_written_over(tmp_path: Path) -> None:
    folder, _, model = packed(tmp_path)
    other = OllamaStore(tmp_path / "other")
    theirs = add_model(other, "Tiny", noise(100, seed=3))
    with pytest.raises(UsageError, match="another model 'tiny:latest'"):
        restored(folder, model, other.root)
    assert other.manifest_path(TINY).read_bytes() == theirs
    assert restored(folder, model, other.root, "mine")
    assert restored(folder, model, other.root, replace=True)
    assert other.names() == ["Tiny:latest", "mine:latest"], "a name in another case is the same name"


def test_a_layer_that_is_there_is_not_written_again_and_a_damaged_one_is(tmp_path: Path) -> None:
    folder, source, model = packed(tmp_path)
    assert restored(folder, model, tmp_path / "other")
    counting = FailingFolder(folder, 0, ProcessKilled())
    assert restored(counting, model, tmp_path / "other")
    assert counting.calls == 0
    blob = max((tmp_path / "other" / "blobs").iterdir(), key=lambda path: path.stat().st_size)
    blob.write_bytes(noise(4500, seed=4))
    assert restored(folder, model, tmp_path / "other")
    assert files_of(tmp_path / "other") == files_of(source.root)


def test_layers_look_new_so_that_a_starting_server_keeps_them(tmp_path: Path) -> None:
    import os
    import time

    folder, _, model = packed(tmp_path)
    assert restored(folder, model, tmp_path / "other")
    for blob in (tmp_path / "other" / "blobs").iterdir():
        os.utime(blob, (0, 0))
    assert restored(folder, model, tmp_path / "other")
    assert all(time.time() - blob.stat().st_mtime < 600 for blob in (tmp_path / "other" / "blobs").iterdir())


def test_a_store_in_the_shared_folder_or_around_it_is_refused(tmp_path: Path) -> None:
    folder, _, _ = packed(tmp_path)
    for place in (folder.root, folder.root / "a" / "b", tmp_path):
        with pytest.raises(UsageError, match="shared folder"):
            OllamaStore(place).refuse_bad_place(folder.root)
    (tmp_path / "link").symlink_to(folder.root)
    with pytest.raises(UsageError, match="shared folder"):
        OllamaStore(tmp_path / "link" / "x").refuse_bad_place(folder.root)
    join_folder(tmp_path / "second", make=True)
    with pytest.raises(UsageError, match="shared folder"):
        OllamaStore(tmp_path / "second" / "x").refuse_bad_place(folder.root)
    OllamaStore(tmp_path / "store").refuse_bad_place(folder.root)


MOUNTS = """\
22 1 254:0 / / rw,relatime - ext4 /dev/vda rw
30 22 0:40 / /content/drive rw - fuse.drive drive rw
31 22 0:41 / /mnt/with\\040space rw - nfs4 server:/x rw
32 22 0:42 / /mnt/disk rw - fuseblk /dev/sdb1 rw
33 30 0:43 / /content/drive/local rw - ext4 /dev/vdb rw
"""


@pytest.mark.parametrize(
    ("path", "found"),
    [
        ("/home/me/.ollama/models", ""),
        ("/content/drive/MyDrive/x", "fuse.drive at /content/drive"),
        ("/content/drivel", ""),
        ("/mnt/with space/x", "nfs4 at /mnt/with space"),
        ("/mnt/disk/x", ""),
        ("/content/drive/local/x", ""),
    ],
)
def test_a_store_on_a_mount_is_recognised(path: str, found: str) -> None:
    assert remote_mount(path, MOUNTS) == found


def test_a_store_on_a_mount_is_refused_with_the_reason(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    listed = tmp_path / "mountinfo"
    listed.write_text(f"30 22 0:40 / {tmp_path}/drive rw - fuse.drive drive rw\n")
    monkeypatch.setattr("hybrid.machine.mounts.MOUNTINFO", listed)
    with pytest.raises(CannotRun, match=r"deletes layers .* on a mount \(fuse.drive"):
        OllamaStore(tmp_path / "drive" / "store").refuse_bad_place(tmp_path / "folder")


@pytest.mark.parametrize("what", ["blobs", "manifests", STAGING, "manifests/registry.ollama.ai/library"])
def test_a_link_in_the_store_is_not_followed(tmp_path: Path, what: str) -> None:
    folder, _, model = packed(tmp_path)
    outside = tmp_path / "outside"
    outside.mkdir()
    link = tmp_path / "other" / what
    link.parent.mkdir(parents=True)
    link.symlink_to(outside)
    with pytest.raises(BadData, match="a link"):
        restored(folder, model, tmp_path / "other")
    assert list(outside.iterdir()) == []


def test_two_restores_at_once_end_in_one_whole_model(tmp_path: Path) -> None:
    folder, source, model = packed(tmp_path, size=200 * PART)
    ended: list[HybridError | None] = []

    def work() -> None:
        try:
            restored(folder, model, tmp_path / "other")
            ended.append(None)
        except HybridError as error:
            ended.append(error)

    threads = [threading.Thread(target=work) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert None in ended
    assert all(error is None or (error.exit_code == 5 and "another process" in error.message) for error in ended)
    assert files_of(tmp_path / "other") == files_of(source.root)


def test_room_is_looked_for_before_anything_is_written(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from collections import namedtuple

    folder, _, model = packed(tmp_path)
    usage = namedtuple("usage", ["total", "used", "free"])  # noqa: PYI024
    monkeypatch.setattr(restoring.shutil, "disk_usage", lambda _: usage(10**6, 10**6, 4500))
    with pytest.raises(Temporary, match=r"no room .* 4,5\d\d bytes are needed, 4,500 are free"):
        restored(folder, model, tmp_path / "other")
    assert not (tmp_path / "other").exists()


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    with mounted(tmp_path / "small", "128k") as place:
        yield place


def test_a_folder_that_fills_up_is_told_and_the_same_pack_goes_on(tmp_path: Path, small_disk: Path) -> None:
    store = OllamaStore(tmp_path / "store")
    add_model(store, "tiny", noise(60_000))
    folder = join_folder(small_disk / "folder", make=True)
    (small_disk / "ballast").write_bytes(bytes(60_000))
    with pytest.raises(Temporary, match="no room left"):
        pack(folder, ollama_source(store, TINY), ignore_progress, part_size=8192)
    assert read_models(folder) == ([], [])
    (small_disk / "ballast").unlink()
    model = pack(folder, ollama_source(store, TINY), ignore_progress, part_size=8192)
    assert catalog.check(folder, [model], ignore_progress) == []


def test_a_disk_that_fills_up_during_a_restore_is_told_and_the_same_restore_goes_on(
    tmp_path: Path, small_disk: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder, source, model = packed(tmp_path, size=60_000)
    (small_disk / "ballast").write_bytes(bytes(80_000))
    with pytest.raises(Temporary, match="no room for the model"):
        restored(folder, model, small_disk / "store")
    with monkeypatch.context() as patched:
        patched.setattr(restoring, "_check_room", lambda *_: None)
        with pytest.raises(Temporary, match="no room left"):
            restored(folder, model, small_disk / "store")
    assert not (small_disk / "store" / "manifests").exists()
    (small_disk / "ballast").unlink()
    assert restored(folder, model, small_disk / "store")
    assert files_of(small_disk / "store") == files_of(source.root)


def model_folder(root: Path) -> Path:
    """A model folder, with files that must not be packed."""
    root.mkdir()
    for name, data in {
        "config.json": b"{}",
        "model-00001-of-00002.safetensors": noise(2500),
        "model-00002-of-00002.safetensors": noise(2500),  # the same bytes twice
        "merges.txt": b"",
        "pytorch_model.bin": b"pickled",
    }.items():
        (root / name).write_bytes(data)
    (root / ".git").mkdir()
    (root / ".git" / "more.json").write_bytes(b"{}")
    (root / "1_Pooling").mkdir()
    (root / "1_Pooling" / "config.json").write_bytes(b'{"pooling_mode_mean_tokens":true}')
    return root


def test_a_folder_is_restored_with_the_digest_that_a_backend_gives_it(tmp_path: Path) -> None:
    from hybrid.model_files.location import digest_of

    source = model_folder(tmp_path / "My_Model")
    folder = join_folder(tmp_path / "folder", make=True)
    model = pack(folder, plain_source(source, ""), ignore_progress, part_size=PART)
    assert (model.kind, model.name, model.digest) == ("folder", "My_Model", digest_of(source))
    there = restore_plain(folder, model, tmp_path / "to", ignore_progress)
    assert digest_of(there) == model.digest
    kept = {path for path in files_of(source) if not path.endswith((".bin", "more.json"))}
    assert files_of(there) == {path: data for path, data in files_of(source).items() if path in kept}
    counting = FailingFolder(folder, 0, ProcessKilled())
    assert restore_plain(counting, model, tmp_path / "to", ignore_progress) == there
    assert counting.calls == 0


@pytest.mark.parametrize("name", [".hidden.json", "a b.json", "Config.json", "con.json"])
def test_a_file_whose_name_is_not_legal_everywhere_is_told_before_anything_is_packed(tmp_path: Path, name: str) -> None:
    source = model_folder(tmp_path / "source")
    (source / name).write_bytes(b"{}")
    with pytest.raises(UsageError, match="on every system"):
        plain_source(source, "")


def test_a_folder_that_is_killed_while_it_is_restored_is_no_model_until_it_is_whole(tmp_path: Path) -> None:
    source = model_folder(tmp_path / "source")
    folder = join_folder(tmp_path / "folder", make=True)
    model = pack(folder, plain_source(source, "org/name"), ignore_progress, part_size=PART)
    for at in range(1, 9):
        to = tmp_path / f"to{at}"
        with pytest.raises(ProcessKilled):
            restore_plain(FailingFolder(folder, at, ProcessKilled()), model, to, ignore_progress)
        assert not (to / "config.json").exists()
        assert restore_plain(folder, model, to, ignore_progress) == to
        assert (to / "merges.txt").read_bytes() == b""


@pytest.mark.parametrize("kind", ["folder", "ollama"])
def test_a_kill_while_the_files_are_moved_leaves_no_model_and_the_next_restore_ends_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, kind: str
) -> None:
    folder, _, model = packed(tmp_path)
    if kind == "folder":
        model = pack(folder, plain_source(model_folder(tmp_path / "source"), "x"), ignore_progress, part_size=PART)
    moves, replace = 0, Path.replace
    for at in range(1, len(model.layers) + (kind == "ollama") + 1):

        def die_at(self: Path, target: Path, at: int = at) -> Path:
            nonlocal moves
            moves += 1
            if moves == at:
                raise ProcessKilled
            return replace(self, target)

        to, moves = tmp_path / f"to{at}", 0
        with monkeypatch.context() as patched:
            patched.setattr(Path, "replace", die_at)
            with pytest.raises(ProcessKilled):
                restored(folder, model, to) if kind == "ollama" else restore_plain(folder, model, to, ignore_progress)
        assert not (to / "config.json").exists()
        assert OllamaStore(to).names() == []
        rest = FailingFolder(folder, 0, ProcessKilled())
        assert restored(rest, model, to) if kind == "ollama" else restore_plain(rest, model, to, ignore_progress)
        assert rest.calls == 0, "what was whole was read again"


@pytest.mark.parametrize("foreign", ["extra.safetensors", "1_Pooling/more.json", "config.json/x"])
def test_a_place_that_holds_something_else_is_refused(tmp_path: Path, foreign: str) -> None:
    folder = join_folder(tmp_path / "folder", make=True)
    model = pack(folder, plain_source(model_folder(tmp_path / "source"), ""), ignore_progress, part_size=PART)
    (tmp_path / "to" / foreign).parent.mkdir(parents=True)
    (tmp_path / "to" / foreign).write_bytes(b"mine")
    with pytest.raises(UsageError, match="not of this model"):
        restore_plain(folder, model, tmp_path / "to", ignore_progress, replace=True)
    assert files_of(tmp_path / "to") == {foreign: b"mine"}


def test_a_file_of_another_content_is_replaced_only_when_asked(tmp_path: Path) -> None:
    folder = join_folder(tmp_path / "folder", make=True)
    model = pack(folder, plain_source(model_folder(tmp_path / "source"), ""), ignore_progress, part_size=PART)
    (tmp_path / "to").mkdir()
    (tmp_path / "to" / "config.json").write_bytes(b"[]")
    with pytest.raises(UsageError, match="another content"):
        restore_plain(folder, model, tmp_path / "to", ignore_progress)
    restore_plain(folder, model, tmp_path / "to", ignore_progress, replace=True)
    assert (tmp_path / "to" / "config.json").read_bytes() == b"{}"


def test_a_gguf_and_the_same_layer_of_ollama_are_kept_once(tmp_path: Path) -> None:
    data = EMPTY + noise(3000)
    folder, store = join_folder(tmp_path / "folder", make=True), OllamaStore(tmp_path / "store")
    add_model(store, "tiny", data)
    repack(folder, store, "tiny")
    before = set(files_of(tmp_path / "folder" / "models" / "layers"))
    (tmp_path / "A (1).gguf").write_bytes(data)
    model = pack(folder, plain_source(tmp_path / "A (1).gguf", "a"), ignore_progress, part_size=PART)
    assert set(files_of(tmp_path / "folder" / "models" / "layers")) == before
    there = restore_plain(folder, model, tmp_path / "to", ignore_progress)
    assert (there.name, there.read_bytes()) == ("A-1.gguf", data)


def test_two_packs_at_once_make_one_good_model(tmp_path: Path) -> None:
    store = OllamaStore(tmp_path / "store")
    add_model(store, "tiny", noise(100 * PART))
    folder = join_folder(tmp_path / "folder", make=True)
    ended: list[int] = []

    def work() -> None:
        try:
            repack(folder, store, "tiny")
            ended.append(0)
        except HybridError as error:
            ended.append(error.exit_code)

    threads = [threading.Thread(target=work) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert 0 in ended
    assert set(ended) <= {0, 5}
    (model,), refused = read_models(folder)
    assert (refused, catalog.check(folder, [model], ignore_progress)) == ([], [])


def test_a_name_must_mean_one_digest(tmp_path: Path) -> None:
    folder, store, first = packed(tmp_path)
    add_model(store, "tiny", noise(4500, seed=9))
    second = repack(folder, store, "tiny")
    with pytest.raises(UsageError, match="more than one model") as told:
        catalog.chosen(folder, "tiny")
    assert f"tiny:latest@{first.digest[:12]}" in told.value.hint
    assert catalog.chosen(folder, f"TINY:latest@sha256:{second.digest[:8]}") == second
    assert catalog.chosen(folder, f"library/tiny@{first.digest}") == first
    for wrong in ("tiny@12", "@", "a b"):
        with pytest.raises(UsageError):
            catalog.chosen(folder, wrong)
    for late in ("tin", "tiny@0000"):
        with pytest.raises(NotThere):
            catalog.chosen(folder, late)


def test_memory_is_that_of_two_parts(tmp_path: Path) -> None:
    import tracemalloc

    size, part = 64 * 1024 * 1024, 1024 * 1024
    store = OllamaStore(tmp_path / "store")
    add_model(store, "tiny", noise(size))
    folder = join_folder(tmp_path / "folder", make=True)
    source = ollama_source(store, TINY)
    tracemalloc.start()
    model = pack(folder, source, ignore_progress, part_size=part)
    restore_ollama(folder, model, OllamaStore(tmp_path / "other"), TINY, ignore_progress)
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert peak < 5 * part, "a model is never held whole"
