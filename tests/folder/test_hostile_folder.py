"""A folder that somebody prepared: nothing crashes, nothing outside is touched, nothing runs, and doctor explains it.

HYBRID_TEST_MUTATIONS sets how many mutations are tried (1,000); a failing one is shown with its number, and
HYBRID_TEST_MUTATION=NUMBER tries that one alone.
"""

from __future__ import annotations

import hashlib
import json
import logging
import os
import random
import shutil
import subprocess
import sys
import threading
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from contextlib import closing, contextmanager, suppress
from pathlib import Path
from typing import Any

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from hybrid.canonical import decode, encode
from hybrid.doctor import content, names
from hybrid.doctor.findings import KINDS, Finding
from hybrid.doctor.walk import FolderWalk
from hybrid.errors import BadData, HybridError
from hybrid.execution.assembly import assembled
from hybrid.execution.index import Index
from hybrid.folder.leases import BeatMonitor, claims_of
from hybrid.folder.medium import Disk
from hybrid.folder.notes import read_notes
from hybrid.folder.orders import Orders
from hybrid.folder.runs import Run, join_folder, open_run, run_ids
from hybrid.folder.shards import verify_shard
from hybrid.folder.spec import SPEC_KEYS, check_spec
from hybrid.laptop.receiver import Receiver
from hybrid.machine.clock import SystemClock
from hybrid.machine.terminal import clean
from hybrid.status.run_status import read_statuses
from hybrid.status.text import detail_lines, summary_line
from tests.support.hostile import (
    CANARY,
    CANARY_TEXT,
    DEEP,
    HOLE,
    MUTATIONS,
    STAGE,
    Case,
    deep,
    dug,
    every_forgery,
    file_for_folder,
    files_of,
    good_folder,
    header,
    lay_out,
    linked,
    mutated,
    outside_of,
    packed,
    record,
    sealed,
)

COUNT = int(os.environ.get("HYBRID_TEST_MUTATIONS") or 1000)
PARTS = 4
ONLY = os.environ.get("HYBRID_TEST_MUTATION")
PROBLEMS = {kind for kind, one in KINDS.items() if one.level == "problem"}
WRITES = os.O_WRONLY | os.O_RDWR | os.O_CREAT | os.O_TRUNC | os.O_APPEND
FORBIDDEN = (
    "subprocess.Popen",
    "os.system",
    "os.exec",
    "os.posix_spawn",
    "os.fork",
    "socket.connect",
    "pickle.find_class",
)
CHANGES = ("os.remove", "os.rename", "os.rmdir", "os.mkdir", "os.link", "os.symlink", "os.chmod", "os.truncate")


class AccessAudit:
    """Audits the files that this process opens and the programs it starts, while it is on duty."""

    def __init__(self) -> None:
        self.folder = self.outside = Path("/nowhere")
        self.on_duty = self.writing = False
        self.seen: list[str] = []
        sys.addaudithook(self._audit)

    @contextmanager
    def watching(self, case: Case, *, writing: bool) -> Iterator[None]:
        """Collect in `seen` the forbidden accesses of the block; `writing`: it may write into the folder."""
        self.folder, self.outside, self.seen = case.root.resolve(), case.outside.resolve(), []
        self.on_duty, self.writing = True, writing
        try:
            yield
        finally:
            self.on_duty = False

    def _audit(self, event: str, details: tuple[Any, ...]) -> None:
        if not self.on_duty or threading.current_thread() is not threading.main_thread():
            return
        self.on_duty = False  # what follows opens nothing, and would be audited, too
        try:
            self._check(event, details)
        finally:
            self.on_duty = True

    def _check(self, event: str, details: tuple[Any, ...]) -> None:
        if event in FORBIDDEN:
            self.seen.append(f"{event} {details[0]!r:.200}")
        elif event in ("exec", "compile", "import"):
            told = " ".join(str(getattr(one, "co_filename", one)) for one in details if not isinstance(one, list))
            if str(self.folder) in told:
                self.seen.append(f"{event} {told:.300}")
        elif event in ("open", "os.listdir", "os.scandir", *CHANGES) and isinstance(details[0], str | bytes | Path):
            self._file(event, os.fsdecode(details[0]), details)

    def _file(self, event: str, path: str, details: tuple[Any, ...]) -> None:
        real = Path(os.path.realpath(path))
        inside = real.is_relative_to(self.folder)
        writes = event in CHANGES or (event == "open" and len(details) > 2 and bool((details[2] or 0) & WRITES))
        if (
            real.is_relative_to(self.outside)
            or str(real).startswith("/dev/zero")
            or (inside and writes and not self.writing)
        ):
            self.seen.append(f"{event} {path!r:.300}")


@pytest.fixture(autouse=True)
def _quiet(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.CRITICAL, "hybrid")  # that files were passed over is no news here


@pytest.fixture(scope="module")
def audit() -> AccessAudit:
    return AccessAudit()


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("hostile")


@pytest.fixture(scope="module")
def good(place: Path) -> dict[str, bytes]:
    return good_folder(place / "good")


@pytest.fixture(scope="module")
def outside(place: Path) -> Iterator[Path]:
    """What nobody may touch: its pipe would let a writer through as soon as somebody opens it."""
    beside, touched = outside_of(place), []
    before = files_of(beside)
    threading.Thread(target=lambda: touched.append((beside / "pipe").open("wb").close()), daemon=True).start()
    yield beside
    assert touched == [], "somebody opened the pipe outside"
    (beside / "pipe").open("rb").close()
    assert files_of(beside) == before


def doctor(folder: Path) -> list[Finding]:
    return list(FolderWalk(Disk(folder), SystemClock()).findings())


def result_of(say: Callable[[], object], messages: list[str]) -> Any:
    """What a call returns; None for a HybridError, whose texts are added to `messages`."""
    try:
        return say()
    except HybridError as error:
        messages += [error.message, error.hint]
        return None


def read_all(case: Case, messages: list[str]) -> dict[str, set[str] | None]:
    """Use the folder as every command does. Returns, for each run that opens, the files of it that count.

    None stands for a run to which nothing happened: it is opened and not read.
    """
    medium = Disk(case.root)
    result_of(lambda: join_folder(case.root, make=False), messages)
    changed = {path.split("/")[1] if path.startswith("runs/") else "" for path in case.odd} or {""}
    found: dict[str, set[str] | None] = {}
    for name in result_of(lambda: run_ids(medium), messages) or []:
        run = result_of(lambda name=name: open_run(medium, name), messages)  # type: ignore[misc]
        if run:
            found[name] = read_run(run, messages) if changed & {name, ""} else None
    return found


def read_status(folder: Path, messages: list[str]) -> None:
    with closing(Index(None)) as index:
        for one in read_statuses(Disk(folder), Disk(folder.with_name("received")), index, None):
            messages += [encode(one.to_json()).decode(), summary_line(one), *detail_lines(one)]


def receive_all(folder: Path, runs: Iterable[str], messages: list[str]) -> None:
    """What `hybrid fetch` does before it assembles outputs: it writes into a folder of untrusted content."""
    store = folder.with_name("received")
    shutil.rmtree(store, ignore_errors=True)
    for name in runs:
        run = open_run(Disk(folder), name, (Disk(store),))
        result_of(lambda run=run: Receiver(run, Disk(store), "reader-ffffffff").receive(["answer"]), messages)  # type: ignore[misc]


def read_run(run: Run, messages: list[str]) -> set[str]:
    refused: list[str] = []
    counted = {f"{run.place}/run.json"}
    whole = None not in (result_of(run.tasks, messages), result_of(run.references, messages))
    counted |= result_of(lambda: {path for path, _ in run.shards("answer", refused)}, messages) or set()
    if whole:
        assemble(run, messages)  # whatever the shards hold
    orders, monitor = Orders(), BeatMonitor(SystemClock())
    for kind in ("beat", "log", "ack", "order"):
        notes = result_of(lambda kind=kind: list(read_notes(run.folder, run.id, kind, refused=messages)), messages)  # type: ignore[misc]
        for path, note in notes or []:
            counted.add(path)
            orders.add(path, note)
            claims_of(note, "answer", 1)
    result_of(lambda: monitor.look(run.folder, run.id), messages)
    monitor.claimed("answer", 1, 60)
    messages += refused
    return counted


def assemble(run: Run, messages: list[str]) -> None:
    with assembled(run, STAGE) as assembly:
        messages += [str(output.text) for output in assembly.outputs()]
        messages += [str(assembly.models), *assembly.refused]


def check(case: Case, audit: AccessAudit, *, thorough: bool) -> Counter[str]:
    """Check all that must hold for a changed folder. Returns the kinds of the findings of doctor.

    `thorough`: `hybrid status` and the writing part of `hybrid fetch`, too.
    """
    messages: list[str] = []
    with audit.watching(case, writing=False):
        counted = read_all(case, messages)
        if thorough:
            result_of(lambda: read_status(case.root, messages), messages)
        findings = doctor(case.root)
    said = "\n".join([*messages, *(f"{one.path} {one.what} {one.do}" for one in findings)])
    assert audit.seen == []
    assert CANARY not in said
    assert CANARY_TEXT not in said or of_the_folder(case.root, CANARY_TEXT)
    assert [one for one in findings if one.kind == "fault"] == []
    explained = "\0".join(f"\0{one.path}" for one in findings) + "\0"
    wanted = [f"\0{path}" if path.endswith("/") else f"\0{path}\0" for path in case.odd]
    assert [path for path in wanted if path not in explained] == []
    agree(case.root, counted, findings)
    if thorough:
        with audit.watching(case, writing=True):
            receive_all(case.root, counted, messages)
        assert audit.seen == []
    return Counter(one.kind for one in findings)


def of_the_folder(root: Path, text: str) -> bool:
    """Whether a file of the folder itself holds the text: it was put there, nobody fetched it."""
    held = [
        content.unpacked(path.read_bytes())[1]
        for path in root.rglob("*.zst")
        if path.is_file() and not path.is_symlink()
    ]
    return any(text.encode() in one for one in held)


def agree(root: Path, counted: dict[str, set[str] | None], findings: list[Finding]) -> None:
    """What readers count, doctor does not complain about; what they pass over, it explains. No file hides another."""
    troubled = {one.path for one in findings if one.kind in PROBLEMS or one.kind == "conflict-copy"}
    everything = {path for found in counted.values() for path in found or ()}
    assert everything & troubled == set()
    for path in files_without_links(root):
        file_type, run = names.file_type_of(tuple(path.split("/"))), path.split("/")[1:2]
        if file_type == "spec":
            assert run[0] in counted or path in troubled, path
        if file_type in ("shard", "note") and counted.get(run[0]) and "/other/" not in path:
            assert path in everything | troubled, path


def files_without_links(root: Path) -> Iterator[str]:
    for top, _, found in os.walk(root):
        for name in found:
            path = Path(top, name)
            if path.is_file() and not path.is_symlink():
                yield path.relative_to(root).as_posix()


def test_a_good_folder_has_nothing_odd(place: Path, good: dict[str, bytes], outside: Path, audit: AccessAudit) -> None:
    lay_out(place / "folder", good)
    walk = FolderWalk(Disk(place / "folder"), SystemClock())
    assert list(walk.findings())
    assert walk.good == walk.files == len(good)
    found = check(Case(place / "folder", good, outside, random.Random(0)), audit, thorough=True)
    assert set(found) == {"gap"}, "the attempt that begins at 249"


@pytest.mark.slow
@pytest.mark.parametrize("part", range(PARTS))
def test_nothing_that_happens_to_a_folder_breaks_hybrid_and_doctor_explains_it(
    part: int,
    place: Path,
    good: dict[str, bytes],
    outside: Path,
    audit: AccessAudit,
    capsys: pytest.CaptureFixture[str],
) -> None:
    happened, found, files = Counter[str](), Counter[str](), 0
    for seed in [int(ONLY)] if ONLY else range(part, COUNT, PARTS):
        name, case = mutated(place / "folder", good, outside, seed)
        happened[name] += 1
        files += len(case.odd)
        try:
            found += check(case, audit, thorough=bool(ONLY) or seed % 25 == 0)
        except BaseException as error:
            error.add_note(f"mutation {seed} ({name}) of {case.odd}: HYBRID_TEST_MUTATION={seed} tries it alone")
            raise
    with capsys.disabled():
        print(
            f"\n{happened.total()} mutations, {files} files mutated, each explained; found: {dict(found.most_common())}"
        )
    assert ONLY or len(happened) > len(MUTATIONS) / 2 or COUNT < 1000


@pytest.mark.slow
def test_everything_that_verifies_and_was_forged_is_borne_at_once(
    place: Path, good: dict[str, bytes], outside: Path, audit: AccessAudit
) -> None:
    case = Case(place / "folder", good, outside, random.Random(0))
    lay_out(case.root, good)
    every_forgery(case)
    check(case, audit, thorough=True)


def hybrid(*arguments: str, cwd: Path, limit: float = 60) -> subprocess.CompletedProcess[str]:
    """The command line as installed: nothing of the current folder is on Python's path."""
    command = [sys.executable, "-P", "-m", "hybrid", *arguments]
    return subprocess.run(command, cwd=cwd, capture_output=True, text=True, timeout=limit, check=False)


@pytest.mark.slow
@pytest.mark.parametrize("seed", range(3))
def test_doctor_gets_through_a_folder_in_which_everything_is_odd(
    seed: int, tmp_path: Path, good: dict[str, bytes], outside: Path
) -> None:
    case = Case(tmp_path / "folder", good, outside, random.Random(seed))
    lay_out(case.root, good)
    for happens in [one for one, _ in MUTATIONS if one not in (linked, file_for_folder)] * 5 + [linked] * 2:
        with suppress(OSError):  # what it would change is gone already
            happens(case)
    told = hybrid("doctor", str(case.root), "--json", cwd=tmp_path)
    lines = [json.loads(line) for line in told.stdout.splitlines()]
    assert told.returncode in (5, 6, 7), told.stderr
    assert told.stderr == ""
    assert lines[-1]["exit_code"] == told.returncode
    assert lines[-1]["kinds"] == Counter(line["kind"] for line in lines[:-1])
    assert "fault" not in lines[-1]["kinds"]
    shown = hybrid("doctor", str(case.root), cwd=tmp_path)
    assert shown.returncode == told.returncode
    assert len(shown.stdout.splitlines()) < len(KINDS) * 50
    for text in (told.stdout, shown.stdout):
        assert CANARY not in text
        assert clean(text) == text, "a terminal would obey something in it"


def test_no_code_that_lies_in_the_current_folder_is_run(tmp_path: Path, good: dict[str, bytes]) -> None:
    folder, ran = tmp_path / "folder", tmp_path / "ran"
    lay_out(folder, good)
    code = f"open({str(ran)!r}, 'a').write(__name__)\n"
    for name in ("hybrid/__init__.py", "json.py", "orjson.py", "zstandard.py", "sitecustomize.py", "platformdirs.py"):
        (folder / name).parent.mkdir(exist_ok=True)
        (folder / name).write_text(code)
    assert hybrid("doctor", ".", cwd=folder).returncode == 0
    assert not ran.exists(), ran.read_text()


# What the mutations have found, each as small as it gets.


def test_a_link_in_the_place_of_a_folder_is_not_listed(tmp_path: Path, outside: Path) -> None:
    (tmp_path / "runs").symlink_to(outside)
    with pytest.raises(BadData, match="not followed"):
        Disk(tmp_path).entries("runs")


@pytest.mark.parametrize("target", ["empty", "missing", "pipe", "/dev/zero"])
def test_nothing_is_written_or_read_through_a_link_in_the_place_of_a_new_file(tmp_path: Path, target: str) -> None:
    folder, beside = tmp_path / "folder", tmp_path / "outside"
    folder.mkdir(), beside.mkdir()
    (beside / "empty").touch()
    os.mkfifo(beside / "pipe")
    (folder / "hybrid.json").symlink_to(beside / target)
    told = limited(f"join_folder(Path({str(folder)!r}), make=True)")
    assert told.returncode == 0, told.stderr
    assert told.stdout == "HybridError"
    assert (beside / "empty").read_bytes() == b""
    assert not (beside / "missing").exists()


def test_a_pipe_in_the_place_of_a_new_file_is_not_waited_for(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "hybrid.json")
    assert limited(f"join_folder(Path({str(tmp_path)!r}), make=True)").stdout == "HybridError"


def limited(call: str) -> subprocess.CompletedProcess[str]:
    """Do `call` in a process that may take minutes and 2 GB; it prints HybridError when that was raised."""
    script = (
        "import resource; resource.setrlimit(resource.RLIMIT_AS, (2**31, 2**31))\n"
        "from pathlib import Path\nfrom hybrid.errors import HybridError\n"
        "from hybrid.folder.runs import join_folder\n"
        f"try:\n    {call}\nexcept HybridError:\n    print('HybridError', end='')\n"
    )
    command = [sys.executable, "-P", "-c", script]
    return subprocess.run(command, capture_output=True, text=True, timeout=240, check=False)


def test_json_that_is_too_deep_to_be_written_again_is_bad_data(tmp_path: Path, good: dict[str, bytes]) -> None:
    lay_out(tmp_path, good)
    run = min(path for path in good if path.endswith("run.json")).split("/")[1]
    spec = tmp_path / "runs" / run / "run.json"
    spec.write_bytes(spec.read_bytes().replace(b'"settings":{', b'"settings":{"x":' + deep(DEEP) + b","))
    with pytest.raises(BadData):
        open_run(Disk(tmp_path), run)


@pytest.mark.parametrize("path", ["hybrid.json", "run.json"])
def test_a_version_that_is_nested_deep_is_bad_data(tmp_path: Path, good: dict[str, bytes], path: str) -> None:
    lay_out(tmp_path, good)
    run = next(one for one in good if one.endswith("run.json")).split("/")[1]
    odd = tmp_path / (path if path == "hybrid.json" else f"runs/{run}/run.json")
    odd.write_bytes(odd.read_bytes().replace(b'"version":1', b'"version":' + deep(DEEP)))
    with pytest.raises(BadData):
        join_folder(tmp_path, make=False), open_run(Disk(tmp_path), run)
    assert "fault" not in {one.kind for one in doctor(tmp_path)}


@pytest.mark.parametrize("part", ["model", "view"])
def test_a_shard_that_is_nested_deep_does_not_hide_the_others(
    tmp_path: Path, good: dict[str, bytes], part: str
) -> None:
    lay_out(tmp_path, good)
    run = next(path for path in good if "/beats/" in path).split("/")[1]
    model = {**header(run, "a")["model"], "about": HOLE if part == "model" else {}}
    line = encode({**record(1, "x").to_json(), "view": {"n": HOLE if part == "view" else 1}})
    name, data = sealed(dug(encode(header(run, "a", seq=0, model=model))), [dug(line)], 0)
    Disk(tmp_path).write(f"runs/{run}/answer/a/000/{name}", data)
    with assembled(open_run(Disk(tmp_path), run), STAGE) as assembly:
        assert "text 1" in [output.text for output in assembly.outputs()]


@pytest.mark.parametrize("name", ["con", "a..b"])
def test_a_folder_with_a_name_that_no_writer_takes_hides_no_notes(
    tmp_path: Path, good: dict[str, bytes], name: str
) -> None:
    lay_out(tmp_path, good)
    run = next(path for path in good if "/beats/" in path).split("/")[1]
    before = list(read_notes(Disk(tmp_path), run, "beat", refused=[]))
    (tmp_path / "runs" / run / "beats" / name).mkdir()
    assert list(read_notes(Disk(tmp_path), run, "beat", refused=[])) == before != []
    assert [one.kind for one in doctor(tmp_path) if one.path.endswith(name)] == ["unknown"]


@pytest.mark.parametrize("name", ["con", "a..b"])
def test_a_folder_with_a_name_that_no_stage_has_does_not_hide_how_a_run_stands(
    tmp_path: Path, good: dict[str, bytes], name: str
) -> None:
    lay_out(tmp_path, good)
    run = next(path for path in good if "/beats/" in path).split("/")[1]
    (tmp_path / "runs" / run / name).mkdir()
    with closing(Index(None)) as index:
        (found,) = read_statuses(Disk(tmp_path), Disk(tmp_path / "received"), index, run)
    assert found.error is None


# Parsing, whatever it is given.

JSON = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(-(2**70), 2**70)
    | st.floats(allow_nan=False, allow_infinity=False)
    | st.text(),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=8), inner, max_size=4),
    max_leaves=12,
)
RUN = "sums-0123456789ab"
PATHS = (
    "hybrid.json",
    f"runs/{RUN}/run.json",
    f"runs/{RUN}/inputs-0123456789abcdef.json.zst",
    f"runs/{RUN}/answer/one/000/shard-00000-1-0123456789abcdef.jsonl.zst",
    f"runs/{RUN}/beats/one/000/beat-000000-0123456789abcdef.json.zst",
    "probes/reader-0a1b2c3d.json",
    "notes.txt",
)


@settings(max_examples=200, deadline=None)
@given(data=st.binary(max_size=300), pack=st.booleans(), path=st.sampled_from(PATHS))
def test_any_bytes_in_any_place_are_explained(
    tmp_path_factory: pytest.TempPathFactory, data: bytes, pack: bool, path: str
) -> None:
    root = tmp_path_factory.getbasetemp() / "any-bytes"
    lay_out(root, {path: packed(data) if pack else data})
    assert [one.kind for one in doctor(root) if one.path == path and one.kind != "fault"]


@settings(max_examples=200, deadline=None)
@given(value=JSON, changed=st.sampled_from(["key", "task", "view", "sample", "text", "tokens", "seconds", "whole"]))
@example(value=None, changed="tokens")
def test_any_json_in_a_sealed_shard_is_a_record_or_refused(value: Any, changed: str) -> None:
    good = record(1, "x").to_json()
    with suppress(UnicodeEncodeError):
        line = encode(value if changed == "whole" else {**good, changed: value})
        name, data = sealed(encode(header(RUN, "one", seq=0)), [line], 0)
        path = f"runs/{RUN}/answer/one/000/{name}"
        with suppress(BadData):
            assert verify_shard(path, data).records[0]["key"]
            assert content.belongs(data) == path


@settings(max_examples=200, deadline=None)
@given(value=JSON, changed=st.sampled_from([*sorted(SPEC_KEYS), "another", "whole"]))
def test_any_json_as_a_spec_is_a_run_or_refused(value: Any, changed: str) -> None:
    spec: Any = dict.fromkeys(SPEC_KEYS, "0" * 64) | {"format": "hybrid/run", "version": 1, "pipeline": "sums"}
    spec = value if changed == "whole" else {**spec, "settings": {}, "about": {}, changed: value}
    with suppress(UnicodeEncodeError):
        text = encode(spec)
        with suppress(BadData):
            check_spec(decode(text, what="spec"), f"sums-{hashlib.sha256(text).hexdigest()[:12]}")
            assert content.belongs(text).endswith("/run.json")


@settings(max_examples=300, deadline=None)
@given(parts=st.lists(st.text(min_size=1, max_size=30), min_size=1, max_size=8), body=JSON)
def test_any_name_has_a_role_or_a_reason_and_any_note_can_be_taken_in(parts: list[str], body: Any) -> None:
    for start in ([], ["runs"], ["runs", RUN, "answer"], ["runs", RUN, "beats", "one", "000"]):
        whole = (*start, *parts)
        assert names.file_type_of(whole) or names.why_unknown(whole[-1])
        assert isinstance(names.original_of(whole[-1]) + names.left_over(whole[-1]), str)
    orders = Orders()
    for note in ({"order": body}, {"order": "resume", "of": body}, {"order": "retry", "shards": body}):
        orders.add("path", note)
    claims_of({"claim": body}, "answer", 1)
    claims_of({"claim": {"stage": "answer", "size": 1, "blocks": body}}, "answer", 1)
