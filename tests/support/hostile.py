"""A valid shared folder and mutations of it: one at a time, chosen by a seed."""

from __future__ import annotations

import functools
import hashlib
import json
import os
import random
import shutil
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import zstandard

from hybrid.canonical import encode
from hybrid.folder.medium import Disk
from hybrid.folder.names import NoteName, ShardName
from hybrid.folder.notes import pack_note
from hybrid.folder.runs import Run, join_folder, submit
from hybrid.folder.segments import pack_segment, stage_place
from hybrid.folder.shards import FORMAT, MAX_FILE, ShardWriter
from hybrid.folder.spec import ModelSpec
from hybrid.protocols import Inputs, Stage
from hybrid.records import Completion, Failure, Item, Record, Request, Sampling
from hybrid.work import Ask

MODEL = {"name": "m", "digest": "0" * 64, "about": {"engine": "scripted"}}
TASKS = ("a", "b")
HOLE = "<deep>"
DEEP = 1000  # deeper than Python's own JSON encoder can bear, and not too deep for the decoder


def items(tasks: Mapping[str, Any]) -> Iterator[Item]:
    for task in tasks:
        for number in range(4):
            yield Item(task, f"{task}/0", Request(Sampling(max_tokens=1), prompt=f"{task} {number}"), {"n": number})


STAGE = Stage("answer", "any", 1, Ask(items))
ITEMS = list(items({task: {} for task in TASKS}))


def record(number: int, text: str | None = None) -> Record:
    item = ITEMS[number % len(ITEMS)]
    key = item.key(STAGE.identity, MODEL["digest"])  # type: ignore[arg-type]
    done = Completion(key, text=text) if text is not None else Completion(key, error=Failure("engine", "broken"))
    return Record(key, item.task, item.question, item.view, 0, done)


def header(run: str, attempt: str, **other: object) -> dict[str, Any]:
    whole = {"format": FORMAT, "version": 1, "run": run, "stage": "answer", "attempt": attempt, "model": MODEL}
    return {**whole, **other}


def submitted(folder: Disk, seed: int, model_digest: str) -> Run:
    inputs = Inputs(tasks={task: {"q": "1+1"} for task in TASKS}, references={"a/0": "right", "b/0": [[1]]}, about={})
    how: Any = {"models": {"": ModelSpec("scripted", "m", model_digest)}}
    return submit(folder, "sums", {"seed": seed}, inputs, **how)


def good_folder(root: Path) -> dict[str, bytes]:
    """Make a folder with two runs, all that the two sides write for them, and results. Returns its files."""
    folder = join_folder(root, make=True)
    first, second = submitted(folder, 1, str(MODEL["digest"])), submitted(folder, 2, "")
    for run, attempt, start in ((first, "one", 0), (first, "two", 249), (second, "one", 0)):
        place = f"{run.place}/answer/{attempt}"
        writer = ShardWriter(folder, place, header(run.id, attempt), seconds=60, size=1200, first_seq=start)
        for number in range(len(ITEMS)):
            writer.add(record(number, f"text {number}" if number else None))
        writer.close()
    shards = [path for path in files_of(root) if "shard-" in path]
    for number in range(2):
        beat = {"state": "working", "claim": {"stage": "answer", "size": 1, "blocks": [number]}}
        folder.write(*pack_note(first.id, "beat", "one", number, beat))
    folder.write(*pack_note(first.id, "log", "one", 0, {"lines": ["info: hello"]}))
    received = {path: hashlib.sha256((root / path).read_bytes()).hexdigest() for path in shards}
    folder.write(*pack_note(first.id, "ack", "reader-0a1b2c3d", 0, {"received": received}))
    folder.write(*pack_note(first.id, "order", "reader-0a1b2c3d", 0, {"order": "retry", "shards": shards[:1]}))
    folder.write(*pack_segment(stage_place(first.id, "answer/1", str(MODEL["digest"])), 25, "node-3", 61, b"published"))
    probe = {"format": "hybrid/probe", "version": 1, "machine": "reader-0a1b2c3d", "number": 7}
    folder.write("probes/reader-0a1b2c3d.json", encode(probe) + b"\n")
    folder.write(f"results/{first.id}/outputs.json", b"{}\n")
    return files_of(root)


def files_of(root: Path) -> dict[str, bytes]:
    found = sorted(path for path in root.rglob("*") if path.is_file())
    return {path.relative_to(root).as_posix(): path.read_bytes() for path in found}


def lay_out(root: Path, files: Mapping[str, bytes]) -> None:
    """Make `root` hold exactly these files, by as few changes as it takes: removing folders is slow."""
    places = {"/".join(path.split("/")[:level]) for path in files for level in range(1, path.count("/") + 1)}
    for top, folders, names in os.walk(root):
        for name in [*folders, *names]:
            found = Path(top, name)
            path, real = found.relative_to(root).as_posix(), not found.is_symlink()
            if found.is_dir() and real and path not in places:
                folders.remove(name)
                shutil.rmtree(found)
            elif (not found.is_dir() and not (real and found.is_file() and path in files)) or not real:
                found.unlink()
    for path, data in files.items():
        place = root / path
        place.parent.mkdir(parents=True, exist_ok=True)
        if not place.exists() or place.read_bytes() != data:
            place.write_bytes(data)


@dataclass
class Case:
    """A folder to which something happens. `odd` are the paths that then have to be explained.

    One that ends in a slash is a place in which something has to be.
    """

    root: Path
    files: Mapping[str, bytes]
    outside: Path
    rng: random.Random
    odd: list[str] = field(default_factory=list)

    def pick(self, *kinds: str) -> str:
        """A file of the protocol, of one of those kinds (parts of its path)."""
        paths = [path for path in self.files if not path.startswith("results/")]
        return self.rng.choice([path for path in paths if not kinds or any(kind in path for kind in kinds)])

    def at(self, path: str) -> Path:
        """Where a path is. Raises OSError when an earlier mutation put a link or a pipe there."""
        place = self.root
        for part in path.split("/"):
            place = place / part
            if place.is_symlink() or place.is_fifo():
                raise FileExistsError(place)
        return place

    def put(self, path: str, data: bytes, *, explain: bool = True) -> None:
        place = self.at(path)
        place.parent.mkdir(parents=True, exist_ok=True)
        place.write_bytes(data)
        if explain and data != self.files.get(path):
            self.odd.append(path)

    def remove(self, path: str) -> None:
        self.at(path).unlink()

    def run(self) -> str:
        return self.rng.choice(sorted({path.split("/")[1] for path in self.files if path.startswith("runs/")}))


Mutation = Callable[[Case], None]


# What may happen to the bytes of any file.


def _truncated(case: Case, data: bytes) -> bytes:
    return data[: case.rng.randrange(len(data))]


def _flipped(case: Case, data: bytes) -> bytes:
    changed = bytearray(data)
    for _ in range(case.rng.choice((1, 1, 1, 2, 8))):
        changed[case.rng.randrange(len(data))] ^= 1 << case.rng.randrange(8)
    return bytes(changed)


def _overwritten(case: Case, data: bytes) -> bytes:
    start = case.rng.randrange(len(data))
    some = case.rng.randbytes(case.rng.randrange(1, 40))
    return data[:start] + some + data[start + len(some) :]


def _holes(case: Case, data: bytes) -> bytes:
    start = case.rng.randrange(len(data))
    return data[:start] + b"\0" * (len(data) - start)


def _longer(case: Case, data: bytes) -> bytes:
    return data + case.rng.choice((b"\0", b"\n\n", b"more", data, zstandard.compress(b"more"), skippable(b"more")))


@functools.cache
def _bombs() -> tuple[bytes, ...]:
    """Frames of 80 MB that do not tell their size."""
    return tuple(_squeezed(some * (16_000_000 // len(some))) for some in (b"\0", b"[", b'{"a":', b"\n"))


def _squeezed(block: bytes) -> bytes:
    compressor = zstandard.ZstdCompressor(level=1).compressobj()
    return b"".join([*(compressor.compress(block) for _ in range(5)), compressor.flush()])


def _bomb(case: Case, data: bytes) -> bytes:
    return case.rng.choice(_bombs())


def _deep(case: Case, data: bytes) -> bytes:
    levels = case.rng.choice((DEEP, 100_000))
    return case.rng.choice((deep(levels), zstandard.compress(deep(levels)), b'{"a":' * levels + b"1" + b"}" * levels))


@functools.cache
def _texts() -> tuple[bytes, ...]:
    return (
        b"",
        b'{"error":{"code":403,"message":"userRateLimitExceeded"}}',
        b"<!DOCTYPE html>\n<html><title>Error 404 (Not Found)</title></html>",
        b"\xff\xfe\x00{",
        b'{"format":"hybrid/run","version":1,"a":"\\ud800"}',
        b'{"format":"hybrid/folder","version":1e999}',
        b'{"format":"hybrid/folder","version":' + b"9" * 5000 + b"}",
        b"NaN",
        b"null\n",
        b"[" * 10,
        b'"' + b"x" * 10_000_000 + b'"',
        zstandard.compress(b"x" * 10_000_000 + b"\n{}\n"),
        zstandard.compress(b'{"format":"hybrid/shard","seq":' + b"9" * 400 + b"}\n{}\n"),
        zstandard.compress(b"\xff\xfe" * 100),
        b"\x28\xb5\x2f\xfd",
        b"\x28\xb5\x2f\xfd\x00\xf8" + b"\xff" * 100,  # asks for a window of terabytes
        b"\x28\xb5\x2f\xfd\x24\x00" + b"\0\0\0" * 200_000,  # blocks of nothing, without an end
    )


def _text(case: Case, data: bytes) -> bytes:
    others = (b"\0" * len(data), skippable(data) + data, case.rng.randbytes(300))
    return case.rng.choice((*_texts(), *others))


def skippable(data: bytes) -> bytes:
    """A zstd frame that readers have to skip."""
    return b"\x50\x2a\x4d\x18" + len(data).to_bytes(4, "little") + data


def deep(levels: int) -> bytes:
    return b"[" * levels + b"]" * levels


def dug(text: bytes) -> bytes:
    """JSON in which each HOLE is a deep one."""
    return text.replace(encode(HOLE), deep(DEEP))


CONTENTS = (_truncated, _flipped, _flipped, _overwritten, _holes, _longer, _text, _text, _text, _deep, _bomb)


def other_content(case: Case) -> None:
    path = case.pick("runs/", "hybrid.json")
    data = case.files[path]
    change = case.rng.choice(CONTENTS[:-1] if case.rng.random() < 0.8 else CONTENTS)
    while (changed := change(case, data)) == data or same_content(changed, data):
        change = _truncated
    case.put(path, changed)


def same_content(one: bytes, other: bytes) -> bool:
    """Whether two zstd files hold the same, each in one whole frame with its size and checksum and nothing behind it.

    Such a file is as good as the other: another release of zstd may have written it.
    """
    try:
        first, second = (zstandard.get_frame_parameters(data) for data in (one, other))
        whole = first.has_checksum and first.content_size == second.content_size and not one[4] & 0x10
        same = zstandard.decompress(one) == zstandard.decompress(other)
        readers = zstandard.ZstdDecompressor().decompressobj()
        readers.decompress(one)
    except zstandard.ZstdError:
        return False
    return bool(whole and same and readers.eof and not readers.unused_data)


def oversized(case: Case) -> None:
    path = case.pick()
    with case.at(path).open("r+b") as file:
        file.truncate(case.rng.choice((1024 * 1024 + 1, 8 * 1024 * 1024, MAX_FILE + 1)))
    case.odd.append(path)


# What may happen to names and places.


def copied_by_somebody(case: Case) -> None:
    path = case.pick()
    parent, _, name = path.rpartition("/")
    stem, dot, ending = name.partition(".")
    other = case.rng.choice(
        (
            f"{name} (1)",
            f"{stem}{dot}{ending} (2)",
            f"{stem} (1){dot}{ending}",
            f"{name}.conflict1",
            f"{stem}.sync-conflict-20260801-101112-ABCDEFG{dot}{ending}",
            f"Copy of {name}",
            f"{stem} - Copy{dot}{ending}",
            f"{name}.bak",
            f"{name}~",
            f"{stem} (Ann's conflicted copy 2026-08-01){dot}{ending}",
            name.upper(),
            f".{name}.{'0a1b2c3d'}.part",
            f"{name}.partial",
        )
    )
    data = case.files[path]
    case.put(f"{parent}/{other}".lstrip("/"), data if case.rng.random() < 0.5 else _truncated(case, data))
    if case.rng.random() < 0.4:
        case.remove(path)


def odd_name(case: Case) -> None:
    names = [
        b"..\\..\\outside", b"a\nb", b"\x1b]0;x\x07\x1b[31m.zst", b"\xff\xfe.zst", "é".encode(), "e\u0301".encode(),
        b"con", b"nul.json.zst", b" x", b"x.", b"x" * 200, "\u202egpj.zst".encode(), b"a..b", b"%2e%2e", b"~", b"$HOME",
        b"`id`", b"--help", b"shard-00000-1-0123456789abcdef.jsonl.zst.exe", b".DS_Store", b"Icon\r", b"desktop.ini",
        b"x.gdoc", b"~syncthing~x.tmp", "shard-\u0660\u0660\u0660\u0660\u0660-1-0123456789abcdef.jsonl.zst".encode(),
        b"sitecustomize.py", b"hybrid.py", b"__init__.py", b"..", b"conftest.py",
    ]  # fmt: skip
    name = os.fsdecode(case.rng.choice([name for name in names if name != b".."]))
    parent = case.pick().rpartition("/")[0]
    data = case.rng.choice((b"import os; os._exit(99)", case.files[case.pick()], b"", case.rng.randbytes(50)))
    case.put(f"{parent}/{name}".lstrip("/"), data)


def odd_folder(case: Case) -> None:
    """A good file, and somewhere else the folder that it is in, under a name that is none."""
    path = case.pick("runs/")
    parts = path.split("/")
    level = case.rng.randrange(len(parts) - 1)
    parts[level] = os.fsdecode(case.rng.choice((f"{parts[level]} (1)", "con", "a..b", "X", "x" * 130, b"\xff", "..a")))
    case.put("/".join(parts), case.files[path])


def too_deep(case: Case) -> None:
    place = "/".join([*case.pick("shard-", "beat-").split("/")[: case.rng.randrange(1, 6)], *["deep"] * 60])
    case.at(place).mkdir(parents=True)
    case.put(f"{place}/x", b"x", explain=False)
    case.odd.append("/".join(place.split("/")[:12]))


def renamed(case: Case) -> None:
    path = case.pick(".zst")
    parent, _, name = path.rpartition("/")
    digits = [place for place, one in enumerate(name) if one in "0123456789abcdef" and place > name.index("-")]
    place = case.rng.choice(digits[: len(digits) - len(".json.zst") + 1])
    changed = name[:place] + ("1" if name[place] != "1" else "2") + name[place + 1 :]
    case.remove(path)
    case.put(f"{parent}/{changed}", case.files[path])


def moved(case: Case) -> None:
    """A file in another run, stage, attempt, batch or kind of note."""
    path = case.pick("shard-", "note", "beats/", "acks/", "orders/", "logs/")
    parts = path.split("/")
    level = case.rng.randrange(1, 5)
    others = {
        one.split("/")[level] for one in case.files if one.startswith("runs/") and len(one.split("/")) > level + 1
    }
    parts[level] = case.rng.choice([*sorted(others - {parts[level]}), "other"])
    if "/".join(parts) != path:
        case.put("/".join(parts), case.files[path])
    if case.rng.random() < 0.5:
        case.remove(path)


def swapped(case: Case) -> None:
    one, other = case.pick(), case.pick()
    for path, source in ((one, other), (other, one)):
        case.put(path, case.files[source])


def of_a_foreign_run(case: Case) -> None:
    kind = case.rng.choice(("shard-", "beats/", "acks/", "/run.json", "inputs-"))
    path = case.pick(kind)
    foreign = case.outside / "foreign"
    source = case.rng.choice([one for one in files_of(foreign) if kind in one])
    parent, _, name = path.rpartition("/")
    target = path if case.rng.random() < 0.5 else f"{parent}/{source.rpartition('/')[2]}"
    if (foreign / source).read_bytes() != case.files.get(target):
        case.put(target, (foreign / source).read_bytes())


# What is no file.


def linked(case: Case) -> None:
    """A link, to where nobody may look, in the place of a file or a folder."""
    parts = case.pick().split("/")
    path = "/".join(parts[: case.rng.randrange(1, len(parts) + 1)])
    place = case.at(path)
    target = case.rng.choice(
        ("canary.txt", "pipe", "foreign", "foreign/hybrid.json", "foreign/runs", "/dev/zero", "missing", ".", "")
    )
    if case.rng.random() < 0.7 or path in ("runs", "hybrid.json"):
        shutil.rmtree(place) if place.is_dir() else place.unlink()
    else:
        path = f"{path}-{case.rng.randrange(10)}"
        place = case.at(path)
    place.symlink_to(case.outside / target if target else place.name)
    case.odd.append(path)


def piped(case: Case) -> None:
    path = case.pick()
    case.remove(path)
    os.mkfifo(case.at(path))
    case.odd.append(path)


def folder_for_file(case: Case) -> None:
    path = case.pick()
    case.remove(path)
    case.at(path).mkdir()
    case.odd.append(path)


def file_for_folder(case: Case) -> None:
    parts = case.pick("runs/").split("/")
    path = "/".join(parts[: case.rng.randrange(1, len(parts))])
    shutil.rmtree(case.at(path))
    case.put(path, case.rng.choice((b"", b"x", b"{}")))


# What verifies, and was made by somebody with bad intentions.


@functools.cache
def _forgeries() -> tuple[tuple[dict[str, Any], bytes | None, bool], ...]:
    """What a forged shard says in its header, its only line, and whether no writer can have written that."""
    good = record(1, "x").to_json()
    key = str(good["key"])
    return (
        ({"run": "../../outside"}, None, True), ({"run": None}, None, True), ({"stage": "beats"}, None, True),
        ({"stage": ["x"]}, None, True), ({"attempt": ".."}, None, True), ({"attempt": "../two"}, None, True),
        ({"seq": -1}, None, True), ({"seq": 2**70}, None, True), ({"seq": "0"}, None, True),
        ({"version": 2}, None, True), ({"version": "1"}, None, True), ({"format": ["x"]}, None, True),
        ({"model": {"digest": "0" * 64}}, None, False), ({"model": []}, None, True), ({"model": None}, None, True),
        ({"model": {**MODEL, "digest": "1" * 64}}, None, False), ({"extra": 1}, None, True),
        ({"model": {**MODEL, "about": HOLE}}, None, True), ({"version": HOLE}, None, True), ({"run": HOLE}, None, True),
        ({"model": {**MODEL, "name": ["x"] * 3}}, None, False),
        ({}, encode({**good, "view": 1}), True), ({}, encode({**good, "sample": 2**70}), True),
        ({}, encode({**good, "tokens": ["x", None]}), True), ({}, encode({**good, "text": None}), True),
        ({}, encode({**good, "error": {"kind": 1}}), True), ({}, encode({**good, "key": key.upper()}), True),
        ({}, encode(good)[:-1] + b',"key":"' + b"0" * 64 + b'"}', True),
        ({}, encode(good).replace(b'"x"', b'"\\ud800"'), True), ({}, encode(good).replace(b'"x"', b'"\xff"'), True),
        ({}, encode(good).replace(b'"view":{"n":1}', b'"view":{"n":' + deep(DEEP) + b"}"), True),
        ({}, encode(good).replace(b'"seconds":0.0', b'"seconds":1e999'), True),
        ({}, encode(good).replace(b'"seconds":0.0', b'"seconds":' + b"9" * 4000), True),
        ({}, encode(good).replace(b'"x"', b'"' + b"x" * 10_000_000 + b'"'), False),
        ({}, encode(good).replace(b'"x"', b'"' + b"x" * 17_000_000 + b'"'), True),
        ({}, b" " + encode(good), True), ({}, b"", True), ({}, b"[]", True), ({}, b"{" * 3000, True),
        ({}, encode({**good, "text": "\x00\x1b[2J\u202e"}), False), ({}, encode({**good, "task": "x" * 100}), False),
        ({}, encode({**good, "logprob": "x", "cached": [], "seconds": {}}), False),
    )  # fmt: skip


def forged_shard(case: Case) -> None:
    """A shard whose name and sha256 fit. Explained when it does not hold what a writer can have written."""
    attempt = case.rng.choice(("one", "two", "three"))
    put_shard(case, case.run(), attempt, case.rng.randrange(3, 240), *case.rng.choice(_forgeries()))


def put_shard(
    case: Case, run: str, attempt: str, seq: int, other: dict[str, Any], line: bytes | None, explain: bool
) -> None:
    whole = header(run, attempt, seq=seq) | other
    name, data = sealed(dug(encode(whole)), [encode(record(1, "x").to_json()) if line is None else line], seq)
    case.put(f"runs/{run}/answer/{attempt}/{name.batch}/{name}", data, explain=explain)


def sealed(head: bytes, lines: list[bytes], seq: int) -> tuple[ShardName, bytes]:
    payload = b"\n".join([head, *lines, b""])
    sha256 = hashlib.sha256(payload).hexdigest()
    footer = encode({"count": len(lines), "sha256": sha256})
    return ShardName(seq, len(lines), sha256[:16]), packed(payload + footer + b"\n")


def packed(data: bytes) -> bytes:
    return zstandard.ZstdCompressor(level=3, write_checksum=True).compress(data)


def odd_footer(case: Case) -> None:
    """A shard whose payload verifies, and around it something that no writer writes."""
    path = case.pick("shard-")
    payload, _, footer = zstandard.decompress(case.files[path]).rstrip(b"\n").rpartition(b"\n")
    whole = payload + b"\n"
    changed = case.rng.choice(
        (
            whole + footer + b"\n\n\n",
            whole + footer,
            whole + footer[:-1] + b',"x":1}\n',
            whole + b'{"count":-1,' + footer[1:] + b"\n",
            whole + footer.replace(b":", b" : ") + b"\n",
            whole + footer.replace(b'"count":', b'"count":1') + b"\n",
            whole + b"[]\n",
        )
    )
    case.put(path, packed(changed))


def _notes(run: str, kind: str, by: str, number: int) -> list[tuple[bytes, bool]]:
    """What a forged note may hold, and whether no writer can have written that."""
    head = {"format": f"hybrid/{kind}", "version": 1, "run": run, "by": by, "number": number}
    huge, odd = {"fresh": 2**60, "seconds": 1e-300, "total": 1e308}, {"fresh": [], "seconds": {}, "stage": ["\x1b[2J"]}
    return [
        (encode({**head, "run": "../x"}), True), (encode({**head, "by": "other"}), True),
        (encode({**head, "number": number + 1}), True), (encode({**head, "version": 2}), True),
        (encode({**head, "format": "hybrid/ack" if kind != "ack" else "hybrid/log"}), True),
        (encode(head)[:-1] + b',"by":"' + by.encode() + b'"}', True), (b"[]", True), (b"null", True), (b"", True),
        (encode(head)[:-1] + b',"x":' + deep(DEEP) + b"}", True), (b" " + encode(head), True),
        (encode(head)[:-1] + b',"x":"\\ud800"}', True), (encode(head)[:-1] + b',"x":1e999}', True),
        (encode({**head, "lines": 1, "received": 1, "shards": 1, "order": "retry", "claim": []}), False),
        (encode({**head, "lines": [1, None], "received": {"../x": 1}, "shards": [[]], "order": ["x"]}), False),
        (encode({**head, "claim": {"stage": "answer", "size": 1, "blocks": [2**60, -1, "x"]}, "state": []}), False),
        (encode({**head, "of": {"x": 1}, "order": "resume", "lines": ["\x1b[2J" * 1000]}), False),
        (encode({**head, "progress": huge, "spool": {"waiting": -1}, "gpu": {"name": "\x1b[2J", "busy": "x"}}), False),
        (encode({**head, "progress": odd, "spool": [], "gpu": 1, "troubles": {"\u202e": 1}, "time": {}}), False),
        (encode({**head, "progress": 1, "troubles": dict.fromkeys(map(str, range(1000)), "x" * 999)}), False),
        (encode({**head, "x": "x" * 9_000_000}), True),
    ]  # fmt: skip


def forged_note(case: Case) -> None:
    run, kind = case.run(), case.rng.choice(("beat", "log", "ack", "order"))
    by, number = case.rng.choice(("one", "reader-0a1b2c3d")), case.rng.randrange(5, 240)
    put_note(case, run, kind, by, number, *case.rng.choice(_notes(run, kind, by, number)))


def put_note(case: Case, run: str, kind: str, by: str, number: int, content: bytes, explain: bool) -> None:
    name = NoteName(kind, number, hashlib.sha256(content).hexdigest()[:16])
    case.put(f"runs/{run}/{kind}s/{by}/{name.batch}/{name}", packed(content), explain=explain)


def every_forgery(case: Case) -> None:
    """All forged notes, each by a writer of its own, and all forged shards, in every run."""
    for run in sorted({path.split("/")[1] for path in case.files if path.startswith("runs/")}):
        for kind in ("beat", "log", "ack", "order"):
            for number in range(len(_notes(run, kind, "x", 0))):
                by = f"writer-{number}"
                put_note(case, run, kind, by, number, *_notes(run, kind, by, number)[number])
        for seq in range(len(_forgeries())):
            put_shard(case, run, "forger", seq, *_forgeries()[seq])


def forged_run(case: Case) -> None:
    """A run whose id is the hash of its spec, and a spec that nobody may trust."""
    source = case.run()
    spec = json.loads(case.files[f"runs/{source}/run.json"])
    changes: list[tuple[dict[str, Any], bool]] = [
        ({"settings": []}, False), ({"settings": {"x": HOLE}}, True), ({"about": 1}, False),
        ({"model": "/etc/passwd"}, False), ({"backend": "../../outside"}, False), ({"pipeline": "__import__"}, True),
        ({"pipeline": "../../outside"}, True), ({"inputs": "../../../outside"}, True), ({"inputs": "0" * 64}, True),
        ({"model_digest": "x"}, True), ({"model_digest": 1}, True), ({"references": "g" * 64}, True),
        ({"version": 2}, True), ({"version": True}, False), ({"extra": 1}, True), ({"pipeline": ["x"]}, True),
        ({"settings": {"x": 2**63}}, False), ({"settings": {"x": "\x1b[2J\u202e"}}, False), ({"model": ""}, False),
        ({"version": HOLE}, True),
    ]  # fmt: skip
    change, explain = case.rng.choice(changes)
    spec |= change
    text = dug(encode(spec))
    run = f"{spec['pipeline']}-{hashlib.sha256(text).hexdigest()[:12]}"
    run = run if isinstance(spec["pipeline"], str) and "/" not in run else "sums-0123456789ab"
    for path, data in case.files.items():
        if path.startswith(f"runs/{source}/") and path.count("/") == 2:
            case.put(path.replace(source, run), text + b"\n" if path.endswith("run.json") else data, explain=False)
    if explain:
        case.odd.append(f"runs/{run}/")


def odd_json(case: Case) -> None:
    """The same object in other bytes, or nearly."""
    path = case.pick("hybrid.json", "run.json", "probes/")
    data = case.files[path]
    changed = case.rng.choice(
        (
            data[:1] + b'"version":2,' + data[1:],
            data.rstrip()[:-1] + b',"version":1}\n',
            data.rstrip()[:-1] + b',"version":1.0}\n',
            data.rstrip()[:-1] + b',"x":"\\ud800"}\n',
            json.dumps(json.loads(data), indent=1).encode(),
            data.rstrip(),
            data + b"\n",
            b"\xef\xbb\xbf" + data,
            data.replace(b":1", b":1e999"),
            data.replace(b":1", b":" + deep(DEEP)),
            data.replace(b"version", b"v\\u0065rsion"),
            data[:1] + b'"x":' + deep(DEEP) + b"," + data[1:],
            data.replace(b'"format"', b'"format":"hybrid/other","format"'),
        )
    )
    case.put(path, changed)


MUTATIONS: tuple[tuple[Mutation, int], ...] = (
    (other_content, 40), (oversized, 2), (copied_by_somebody, 8), (odd_name, 6), (odd_folder, 5), (too_deep, 1),
    (renamed, 5), (moved, 5), (swapped, 4), (of_a_foreign_run, 5), (linked, 8), (piped, 2), (folder_for_file, 2),
    (file_for_folder, 2), (forged_shard, 10), (odd_footer, 3), (forged_note, 7), (forged_run, 4), (odd_json, 5),
)  # fmt: skip
"""What may happen, and how often."""


def mutated(root: Path, files: Mapping[str, bytes], outside: Path, seed: int) -> tuple[str, Case]:
    """Lay out the good folder, and let the thing happen that the seed draws. Returns its name and the case."""
    case = Case(root, files, outside, random.Random(seed))
    lay_out(root, files)
    (chosen,) = case.rng.choices([one for one, _ in MUTATIONS], [weight for _, weight in MUTATIONS])
    chosen(case)
    return chosen.__name__, case


def outside_of(root: Path) -> Path:
    """What lies beside a folder and is nobody's business: a secret, a pipe that waits, another folder of hybrid."""
    outside = root / "outside"
    outside.mkdir(parents=True)
    (outside / "canary.txt").write_text(CANARY)
    os.mkfifo(outside / "pipe")
    foreign = join_folder(outside / "foreign", make=True)
    run = submitted(foreign, 99, str(MODEL["digest"]))
    writer = ShardWriter(foreign, f"{run.place}/answer/one", header(run.id, "one"), seconds=60)
    writer.add(record(1, CANARY_TEXT))
    writer.close()
    for kind in ("beat", "ack"):
        foreign.write(*pack_note(run.id, kind, "one", 0, {"state": "working", "received": {}}))
    return outside


CANARY = "canary-5b1f-in-a-file-outside"
CANARY_TEXT = "foreign-text-in-a-shard-outside"
