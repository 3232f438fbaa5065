"""`hybrid ollama up`: a real server that stops with it, hostile archives, and stores that are not on the own disk."""

from __future__ import annotations

import gzip
import http.server
import io
import os
import pty
import re
import shutil
import signal
import subprocess
import sys
import tarfile
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import pytest
import zstandard

from hybrid.errors import BadData, CannotRun, UsageError
from hybrid.machine import guard, home
from hybrid.machine.mounts import carrier_of, mount_of, remote_mount
from hybrid.ollama import archive as archives
from hybrid.ollama.address import models, parse, version
from hybrid.ollama.archive import installed, unpack
from hybrid.ollama.binary import find
from hybrid.ollama.server import Settings
from hybrid.ollama.storage import default_store, own_disk
from tests.support.in_process import Hybrid
from tests.support.ollama_server import ONE_THREAD, PATIENCE, OllamaServer, holds, soon
from tests.support.ports import free_port
from tests.support.real_machines import heed_signals

pytestmark = pytest.mark.skipif(sys.platform == "win32", reason="needs the right to signals and process groups")

MOUNTINFO = """\
22 1 8:1 / / rw,relatime - ext4 /dev/root rw
30 22 0:40 / /mnt/my\\040nas rw shared:1 - nfs4 nas:/home rw
31 22 0:41 / /content/drive rw - fuse.drive drive rw
32 22 0:42 / /data rw - fuseblk /dev/sdb1 rw
33 31 8:2 / /content/drive/disk rw - ext4 /dev/sdc1 rw
34 22 0:43 / /win rw - 9p C: rw
35 22 0:44 / /over rw - ext4 /dev/sdd1 rw
36 22 0:45 / /over rw - cifs //nas/home rw
broken line
"""


# --- where a store may be


@pytest.mark.parametrize(
    ("path", "carrier"),
    [
        ("/home/me/.ollama", ""),
        ("/mnt/my nas/models", "nfs4 at /mnt/my nas"),
        ("/mnt/my nasty/models", ""),
        ("/content/drive", "fuse.drive at /content/drive"),
        ("/content/drive/MyDrive/models", "fuse.drive at /content/drive"),
        ("/content/drive/disk/models", ""),
        ("/data/models", ""),
        ("/win/models", "9p at /win"),
        ("/over/models", "cifs at /over"),
    ],
)
def test_a_mount_is_known_by_what_linux_tells(path: str, carrier: str) -> None:
    assert remote_mount(path, MOUNTINFO) == carrier


def test_a_container_whose_root_comes_from_a_program_has_a_disk() -> None:
    text = "22 1 0:1 / / rw - fuse.gvisor none rw\n"
    found = mount_of("/root", text)
    assert found is not None
    assert found.type == "fuse.gvisor"
    assert remote_mount("/root", text) == ""


def test_this_disk_is_a_disk(tmp_path: Path) -> None:
    assert carrier_of(tmp_path / "not" / "there") == ""
    assert own_disk(tmp_path / "models", what="models", option="--models") == tmp_path / "models"


@pytest.mark.parametrize("inside", ["models", "a/b/models", "."])
def test_no_store_in_a_shared_folder(tmp_path: Path, inside: str) -> None:
    (tmp_path / "folder").mkdir()
    (tmp_path / "folder" / "hybrid.json").write_text("{}")
    (tmp_path / "link").symlink_to(tmp_path / "folder")
    for way in ("folder", "link"):
        with pytest.raises(CannotRun, match="in the shared folder") as refused:
            own_disk(tmp_path / way / inside, what="Ollama's models", option="--models")
        assert refused.value.hint.startswith("--models: ")


def test_no_store_in_the_joined_folder_or_the_one_of_the_environment(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    home.set_joined_folder(tmp_path / "joined")
    monkeypatch.setenv("HYBRID_FOLDER", str(tmp_path / "named"))
    for folder in ("joined", "named"):
        with pytest.raises(CannotRun, match="in the shared folder"):
            own_disk(tmp_path / folder / "models", what="models", option="--models")
    own_disk(tmp_path / "joined-not" / "models", what="models", option="--models")


def test_no_store_on_google_drive_even_when_the_mount_is_dead() -> None:
    with pytest.raises(CannotRun, match="Google Drive"):
        own_disk(Path("/content/drive/MyDrive/models"), what="models", option="--models")


def test_the_store_is_where_ollama_looks_unless_the_environment_names_another(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("OLLAMA_MODELS", raising=False)
    assert default_store() == Path.home() / ".ollama" / "models"
    monkeypatch.setenv("OLLAMA_MODELS", "/elsewhere")
    assert default_store() == Path("/elsewhere")


# --- where it listens, and what the server is given


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("127.0.0.1:8080", "127.0.0.1:8080"),
        ("localhost", "127.0.0.1:11434"),
        (":8080", "127.0.0.1:8080"),
        ("http://127.0.0.2:99/", "127.0.0.2:99"),
        ("[::1]:8080", "[::1]:8080"),
        ("::1", "[::1]:11434"),
    ],
)
def test_an_address_is_read_as_ollama_reads_it(text: str, shown: str) -> None:
    assert str(parse(text)) == shown


@pytest.mark.parametrize(
    "text",
    [
        "0.0.0.0",  # noqa: S104
        "10.0.0.7:11434",
        "[::]:1",
        "example.org",
        "127.0.0.1:x",
        "127.0.0.1:70000",
        "127.0.0.1:0",
        "https://127.0.0.1",
    ],
)
def test_an_address_that_others_can_reach_or_that_is_none_is_refused(text: str) -> None:
    with pytest.raises(UsageError):
        parse(text)


def test_the_server_gets_what_it_needs_and_no_secret(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    secrets = {
        "HF_TOKEN": "x",
        "AWS_ACCESS_KEY_ID": "x",
        "OLLAMA_API_KEY": "x",
        "NVIDIA_API_KEY": "x",
        "PYTHONPATH": "/x",
    }
    tuned = {
        "CUDA_VISIBLE_DEVICES": "1",
        "LD_LIBRARY_PATH": "/cuda",
        "OLLAMA_FLASH_ATTENTION": "1",
        "GOMP_SPINCOUNT": "1000",
        "https_proxy": "p:1",
    }
    for name, value in {**secrets, **tuned, "OLLAMA_MODELS": "/drive", "OLLAMA_HOST": "10.0.0.7"}.items():
        monkeypatch.setenv(name, value)
    given = Settings(parse("127.0.0.1:99"), tmp_path, tmp_path / "log", 2, 4096).environment()
    assert not secrets.keys() & given.keys()
    assert tuned.items() <= given.items()
    assert given["OLLAMA_MODELS"] == str(tmp_path)
    assert given["OLLAMA_HOST"] == "127.0.0.1:99"
    assert (given["OLLAMA_NUM_PARALLEL"], given["OLLAMA_CONTEXT_LENGTH"]) == ("2", "4096")
    assert given["OLLAMA_NOPRUNE"] == "1"


# --- the program


def member(name: str, type_: bytes = tarfile.REGTYPE, **fields: object) -> tarfile.TarInfo:
    info = tarfile.TarInfo(name)
    info.type = type_
    for field, value in fields.items():
        setattr(info, field, value)
    return info


def tar_of(*members: tuple[tarfile.TarInfo, bytes]) -> bytes:
    stream = io.BytesIO()
    with tarfile.open(fileobj=stream, mode="w") as tar:
        for info, data in members:
            if info.isreg():
                info.size = len(data)
            tar.addfile(info, io.BytesIO(data))
    return stream.getvalue()


def gz(data: bytes) -> bytes:
    return gzip.compress(data, 1)


def zst(data: bytes) -> bytes:
    return zstandard.ZstdCompressor().compress(data)


def release(program: bytes = b"#!/bin/sh\n") -> bytes:
    """A tar like a release: the program, a library, and links to it."""
    return tar_of(
        (member("bin", tarfile.DIRTYPE), b""),
        (member("bin/ollama", mode=0o755), program),
        (member("./lib/ollama/libx.so.1.2"), b"library" * 10_000),
        (member("lib/ollama/libx.so.1", tarfile.SYMTYPE, linkname="libx.so.1.2"), b""),
        (member("lib/ollama/libx.so", tarfile.SYMTYPE, linkname="libx.so.1"), b""),
        (member("lib/ollama/up", tarfile.SYMTYPE, linkname="../../bin/ollama"), b""),
        (member("lib/ollama/same.so", tarfile.LNKTYPE, linkname="lib/ollama/libx.so.1.2"), b""),
    )


def test_nothing_on_path_says_what_to_name(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(CannotRun, match="no `ollama`") as refused:
        find(None)
    assert "--from" in refused.value.hint
    for wrong in (tmp_path, tmp_path / "none", Path("~nosuchuser/ollama")):
        with pytest.raises(UsageError):
            find(wrong)
    (tmp_path / "ollama").write_text("no program")
    with pytest.raises(CannotRun, match="cannot be executed"):
        find(tmp_path)
    (tmp_path / "ollama").chmod(0o755)
    assert find(tmp_path) == find(tmp_path / "ollama") == find(None) == tmp_path / "ollama"


def test_a_store_of_a_user_who_is_not_there_is_told_before_there_is_a_server(hybrid: Hybrid) -> None:
    done = hybrid("ollama", "up", "--models", "~nosuchuser/models", "--host", f"127.0.0.1:{free_port()}")
    assert (done.code, "--models ~nosuchuser/models: there is no folder" in done.stderr) == (2, True), done.stderr


@pytest.mark.parametrize("pack", [gz, zst])
def test_a_release_archive_is_unpacked_once(tmp_path: Path, pack: Callable[[bytes], bytes]) -> None:
    archive = tmp_path / "ollama-linux-amd64.archive"
    archive.write_bytes(pack(release()))
    program = find(archive)
    assert os.access(program, os.X_OK)
    library = program.parent.parent / "lib" / "ollama"
    assert {(library / name).read_bytes() for name in ("libx.so", "libx.so.1", "same.so")} == {b"library" * 10_000}
    assert (library / "up").resolve() == program
    (library / "libx.so").unlink()
    assert find(archive) == program
    assert not (library / "libx.so").exists(), "it is not unpacked again"
    assert sorted(path.suffix for path in (home.home() / "ollama").iterdir()) == ["", ".lock"]


HOSTILE: dict[str, tuple[tuple[tarfile.TarInfo, bytes], ...]] = {
    "absolute": ((member("/hybrid-evil"), b"x"),),
    "parent": ((member("../evil"), b"x"),),
    "hidden parent": ((member("a/../../evil"), b"x"),),
    "backslash": ((member("..\\evil"), b"x"),),
    "endless name": ((member("a/" * 400 + "b"), b"x"),),
    "device": ((member("null", tarfile.CHRTYPE, devmajor=1, devminor=3), b""),),
    "block device": ((member("sda", tarfile.BLKTYPE, devmajor=8), b""),),
    "pipe": ((member("pipe", tarfile.FIFOTYPE), b""),),
    "link out": ((member("link", tarfile.SYMTYPE, linkname="../outside"), b""),),
    "link out, deeper": ((member("a/b/link", tarfile.SYMTYPE, linkname="../../../outside"), b""),),
    "absolute link": ((member("link", tarfile.SYMTYPE, linkname="/etc/passwd"), b""),),
    "link to all": ((member("link", tarfile.SYMTYPE, linkname="."), b""),),
    "hard link out": ((member("link", tarfile.LNKTYPE, linkname="../outside"), b""),),
    "absolute hard link": ((member("link", tarfile.LNKTYPE, linkname="/etc/passwd"), b""),),
    "file through a link": (
        (member("d", tarfile.SYMTYPE, linkname="e"), b""),
        (member("d/evil"), b"x"),
    ),
    "link through a link": (
        (member("s", tarfile.DIRTYPE), b""),
        (member("d1/d2", tarfile.DIRTYPE), b""),
        (member("d1/d2/d3", tarfile.SYMTYPE, linkname="../../s"), b""),
        (member("d1/d2/d3/x", tarfile.SYMTYPE, linkname="../../../t"), b""),
    ),
    "twice": ((member("a"), b"x"), (member("a"), b"y")),
    "file over folder": ((member("a", tarfile.DIRTYPE), b""), (member("a"), b"y")),
    "link over file": ((member("a"), b"x"), (member("a", tarfile.SYMTYPE, linkname="b"), b"")),
    "file as folder": ((member("a"), b"x"), (member("a/b"), b"y")),
}


@pytest.mark.parametrize("pack", [gz, zst])
@pytest.mark.parametrize("name", HOSTILE)
def test_a_hostile_archive_is_refused_and_leaves_nothing(
    tmp_path: Path, name: str, pack: Callable[[bytes], bytes]
) -> None:
    archive = tmp_path / "archive"
    archive.write_bytes(pack(tar_of((member("bin/ollama", mode=0o755), b"x"), *HOSTILE[name])))
    with pytest.raises(BadData, match="archive: "):
        find(archive)
    assert_nothing_left(tmp_path, archive)


def assert_nothing_left(tmp_path: Path, archive: Path) -> None:
    assert [path.suffix for path in (home.home() / "ollama").iterdir()] == [".lock"]
    assert list(tmp_path.iterdir()) == [archive]
    assert not Path("/hybrid-evil").exists()


@pytest.mark.parametrize("pack", [gz, zst])
@pytest.mark.parametrize("tail", ["none", "half", "last", "flipped", "garbage"])
def test_a_damaged_archive_is_refused_and_leaves_nothing(
    tmp_path: Path, pack: Callable[[bytes], bytes], tail: str
) -> None:
    archive, whole = tmp_path / "archive", pack(release(os.urandom(300_000)))
    middle = len(whole) // 2
    damaged = {
        "none": pack(b""),
        "half": whole[:middle],
        "last": whole[:-20],
        "flipped": whole[:50] + bytes([whole[50] ^ 255]) + whole[51:],
        "garbage": whole[:4] + os.urandom(2000),
    }
    archive.write_bytes(damaged[tail])
    with pytest.raises(BadData):
        find(archive)
    assert_nothing_left(tmp_path, archive)


@pytest.mark.parametrize("pack", [gz, zst])
def test_every_cut_of_an_archive_is_seen(tmp_path: Path, pack: Callable[[bytes], bytes]) -> None:
    whole = tar_of((member("bin/ollama"), bytes(2000)), (member("b"), bytes(100)))
    for cut in range(0, len(whole) - 20 * 512, 512):
        (tmp_path / "archive").write_bytes(pack(whole[:cut]))
        (tmp_path / "into").mkdir()
        if whole[cut - 1024 : cut] != bytes(1024) or cut < 1024:
            with pytest.raises(BadData):
                unpack(tmp_path / "archive", tmp_path / "into")
        shutil.rmtree(tmp_path / "into")


def test_bombs_are_bounded(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    archive, into = tmp_path / "archive", tmp_path / "into"
    into.mkdir()

    def refused(tar: bytes, why: str) -> None:
        archive.write_bytes(zst(tar))
        with pytest.raises(BadData, match=why):
            unpack(archive, into)

    monkeypatch.setattr(archives, "MAX_UNPACKED", 10_000_000)
    refused(tar_of((member("big"), bytes(11_000_000))), "unpacks to more")
    refused(tar_of((member("x" * 90_000), b""), (member("y" * 2_000_000), b"")), "endless header|name")
    refused(tar_of((member("a", pax_headers={f"k{n}": "v" * 1000 for n in range(2000)}), b"")), "endless header")
    monkeypatch.setattr(archives, "MAX_MEMBERS", 50)
    refused(tar_of(*[(member(f"f{n}"), b"") for n in range(51)]), "more than 50")


def test_an_archive_that_changes_while_it_is_read_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    archive = tmp_path / "archive"
    archive.write_bytes(gz(release()))

    def other(file: Path, into: Path) -> str:
        file.write_bytes(gz(release(b"other")))
        return unpack(file, into)

    monkeypatch.setattr(archives, "unpack", other)
    with pytest.raises(BadData, match="changed"):
        installed(archive)


def test_what_a_kill_left_is_no_hindrance(tmp_path: Path) -> None:
    archive = tmp_path / "archive"
    archive.write_bytes(gz(release(os.urandom(3_000_000))))
    code = f"from pathlib import Path; from hybrid.ollama.archive import installed; installed(Path({str(archive)!r}))"
    for delay in (0.1, 0.2, 0.3):
        child = subprocess.Popen([sys.executable, "-c", code])
        time.sleep(delay)
        child.kill()
        child.wait()
    assert os.access(find(archive), os.X_OK)
    assert not list((home.home() / "ollama").glob(".*.part"))


# --- a server that ends with us


def hybrid(*arguments: str) -> list[str]:
    return [sys.executable, "-m", "hybrid", "ollama", "up", *arguments]


def run(*arguments: str, seconds: float = PATIENCE, **environment: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        hybrid(*arguments),
        env={**os.environ, **environment},
        capture_output=True,
        text=True,
        check=False,
        timeout=seconds,
    )


def gone(port: int, seconds: float = PATIENCE) -> bool:
    """Whether nothing listens there, now or soon. A server that is ending may close a connection without a reply."""

    def is_gone() -> bool:
        with suppress(CannotRun):
            return version(parse(f"127.0.0.1:{port}")) is None
        return False

    return soon(is_gone, seconds)


def processes(port: int) -> list[int]:
    """The processes with this port in their environment: server, runners, and our guard."""
    found = []
    for entry in Path("/proc").glob("[0-9]*"):
        with suppress(OSError):
            if f"OLLAMA_HOST=127.0.0.1:{port}\0".encode() in (entry / "environ").read_bytes():
                found.append(int(entry.name))
    return found


class Up:
    """`hybrid ollama up` as a process, with its own port and store."""

    def __init__(self, binary: Path, root: Path, *more: str) -> None:
        self.port, self.root = free_port(), root
        where = [f"--from={binary}", f"--models={root / 'models'}", f"--host=127.0.0.1:{self.port}"]
        self.arguments = [*where, f"--log={root / 'up.log'}", *more]

    @contextmanager
    def running(self, *command: str) -> Iterator[subprocess.Popen[str]]:
        process = subprocess.Popen(
            hybrid(*self.arguments, *command),
            stderr=subprocess.PIPE,
            text=True,
            preexec_fn=heed_signals,  # noqa: PLW1509
        )
        try:
            yield process
        finally:
            process.kill()
            process.communicate()
            assert gone(self.port)

    def answers(self) -> bool:
        def answered() -> bool:
            with suppress(CannotRun):
                return bool(version(parse(f"127.0.0.1:{self.port}")))
            return False

        return soon(answered)


@pytest.mark.slow
def test_a_command_finds_the_server_and_its_exit_code_is_ours(ollama_binary: Path, tmp_path: Path) -> None:
    up = Up(ollama_binary, tmp_path, "--parallel=3", "--context=2048")
    shown = tmp_path / "shown"
    script = f'echo "$OLLAMA_HOST $OLLAMA_MODELS" > {shown}; {ollama_binary} list; exit 42'
    done = run(*up.arguments, "--", "sh", "-c", script)
    assert done.returncode == 42, done.stderr
    assert shown.read_text() == f"http://127.0.0.1:{up.port} {tmp_path / 'models'}\n"
    assert done.stdout.startswith("NAME")
    assert f"at http://127.0.0.1:{up.port}, models: none yet" in done.stderr
    assert gone(up.port, 0.5)
    log = (tmp_path / "up.log").read_text()
    assert "OLLAMA_NUM_PARALLEL:3" in log
    assert "OLLAMA_CONTEXT_LENGTH:2048" in log
    assert "OLLAMA_NOPRUNE:true" in log


@pytest.mark.slow
def test_an_archive_of_the_real_program_serves(ollama_binary: Path, tmp_path: Path) -> None:
    archive = tmp_path / "ollama.tar.zst"
    with zstandard.open(archive, "wb") as stream, tarfile.open(fileobj=stream, mode="w|") as tar:
        tar.add(ollama_binary, "bin/ollama")
    up = Up(archive, tmp_path)
    done = run(*up.arguments, "--", "true")
    assert (done.returncode, done.stderr.count("\n")) == (0, 1), done.stderr


@pytest.mark.slow
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP])
def test_without_a_command_it_stays_until_it_is_asked_to_end(
    ollama_binary: Path, tmp_path: Path, number: signal.Signals
) -> None:
    up = Up(ollama_binary, tmp_path)
    with up.running() as process:
        assert process.stderr
        line = process.stderr.readline()
        assert line.startswith("Ollama 0."), line
        assert up.answers()
        process.send_signal(number)
        assert process.wait(PATIENCE) == 0
        assert gone(up.port, 0.5)


@pytest.mark.slow
@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="needs the right to see processes in /proc")
def test_a_server_with_a_loaded_model_ends_when_hybrid_is_killed(
    ollama_binary: Path, smollm2_gguf: Path, tmp_path: Path
) -> None:
    up = Up(ollama_binary, tmp_path)
    modelfile = tmp_path / "Modelfile"
    modelfile.write_text("\n".join([f"FROM {smollm2_gguf}", *ONE_THREAD, "PARAMETER num_predict 4"]) + "\n")
    work = (
        f"{ollama_binary} create tiny -f {modelfile} && {ollama_binary} run tiny hello > {tmp_path / 'said'};"
        " while kill -0 $PPID; do sleep 0.1; done"
    )
    with up.running("--", "sh", "-c", work) as process:
        assert up.answers()
        assert soon(lambda: (tmp_path / "said").exists() and (tmp_path / "said").read_text())
        assert models(parse(f"127.0.0.1:{up.port}")) == ["tiny:latest"]
        assert len(processes(up.port)) >= 3, "guard, server, runner"
        process.kill()
        process.wait()
        assert gone(up.port)
        assert soon(lambda: not processes(up.port)), processes(up.port)


@pytest.mark.slow
def test_signals_go_on_to_the_command_once_and_the_server_outlives_it(ollama_binary: Path, tmp_path: Path) -> None:
    up = Up(ollama_binary, tmp_path)
    seen = tmp_path / "seen"
    script = (
        f"trap 'echo TERM >> {seen}; {ollama_binary} list >> {seen} && exit 7' TERM; trap 'echo INT >> {seen}' INT;"
        f" echo ready > {seen}; while :; do sleep 0.1; done"
    )
    with up.running("--", "sh", "-c", script) as process:
        assert soon(lambda: holds(seen, "ready"))
        process.send_signal(signal.SIGINT)
        assert soon(lambda: holds(seen, "INT"))
        time.sleep(0.3)  # a second one would come now
        process.send_signal(signal.SIGTERM)
        assert process.wait(PATIENCE) == 7
    assert seen.read_text().split()[:4] == ["ready", "INT", "TERM", "NAME"]


@pytest.mark.slow
def test_ctrl_c_at_a_terminal_reaches_the_command_once(ollama_binary: Path, tmp_path: Path) -> None:
    up, seen = Up(ollama_binary, tmp_path), tmp_path / "seen"
    script = f"trap 'echo INT >> {seen}' INT; echo ready > {seen}; while [ ! -e {tmp_path}/end ]; do sleep 0.1; done"
    child, terminal = pty.fork()
    if child == 0:
        os.execv(sys.executable, hybrid(*up.arguments, "--", "sh", "-c", script))  # noqa: S606
    assert soon(lambda: holds(seen, "ready"))
    os.write(terminal, b"\x03")
    assert soon(lambda: holds(seen, "INT"))
    time.sleep(0.3)  # a second one would come now
    (tmp_path / "end").touch()
    _, status = os.waitpid(child, 0)
    os.close(terminal)
    assert os.waitstatus_to_exitcode(status) == 0
    assert seen.read_text().split() == ["ready", "INT"]
    assert gone(up.port, 0.5)


@pytest.mark.slow
def test_a_server_that_is_there_already_is_used_and_stays(ollama_server: OllamaServer, tmp_path: Path) -> None:
    done = run(
        f"--host={ollama_server.host}", "--", "sh", "-c", "echo $OLLAMA_HOST; kill -9 $$", PATH=os.environ["PATH"]
    )
    assert done.returncode == 128 + 9
    assert done.stdout == f"{ollama_server.url}\n"
    assert re.search(r"models: \S+:latest.*: it was there before and stays", done.stderr)
    assert run(f"--host={ollama_server.host}").returncode == 0
    assert ollama_server.models()


class Foreign(http.server.BaseHTTPRequestHandler):
    """Another program that listens."""

    def do_GET(self) -> None:
        body = {"/html": b"<html>"}.get(self.path, b'{"version": 3}')
        self.send_response(200)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *_: object) -> None:
        pass


def test_a_port_of_something_else_is_told(tmp_path: Path) -> None:
    with http.server.HTTPServer(("127.0.0.1", 0), Foreign) as other:
        thread = threading.Thread(target=other.serve_forever)
        thread.start()
        try:
            done = run(f"--host=127.0.0.1:{other.server_port}", f"--from={sys.executable}", "--", "true")
        finally:
            other.shutdown()
            thread.join()
    assert done.returncode == 7
    assert "does not answer as Ollama does" in done.stderr
    assert f"--host 127.0.0.1:{other.server_port + 1}" in done.stderr


def program(path: Path, text: str) -> Path:
    path.write_text(f"#!/bin/sh\n{text}\n")
    path.chmod(0o755)
    return path


def test_a_program_that_dies_at_once_is_told_with_its_last_words(tmp_path: Path) -> None:
    up = Up(program(tmp_path / "ollama", "echo no such GPU >&2; printf 'esc\\033[2J\\n'; exit 3"), tmp_path)
    (tmp_path / "up.log").write_text("words of another day\n")
    done = run(*up.arguments, "--", "touch", str(tmp_path / "ran"))
    assert done.returncode == 7
    assert "Ollama ended (exit code 3): no such GPU | esc\\x1b[2J" in done.stderr
    assert "another day" not in done.stderr
    assert (tmp_path / "up.log").read_text().startswith("words of another day\n"), "a log is never lost"
    assert not (tmp_path / "ran").exists()


@pytest.mark.slow
def test_a_server_that_dies_meanwhile_is_told(ollama_binary: Path, tmp_path: Path) -> None:
    up = Up(ollama_binary, tmp_path)
    with up.running() as process:
        assert process.stderr
        assert process.stderr.readline().startswith("Ollama 0.")
        for pid in processes(up.port):
            if b"guard.py" not in Path(f"/proc/{pid}/cmdline").read_bytes():
                os.kill(pid, signal.SIGKILL)
        _, said = process.communicate(timeout=PATIENCE)
        assert process.returncode == 5
        assert "Ollama ended (signal 9)" in said


@pytest.mark.slow
def test_wrong_commands_and_places_are_told_before_anything_is_started(tmp_path: Path) -> None:
    (tmp_path / "hybrid.json").write_text("{}")
    where = [f"--from={sys.executable}", f"--host=127.0.0.1:{free_port()}"]
    for arguments, code, words in (
        ([*where, f"--models={tmp_path / 'models'}"], 7, "in the shared folder"),
        ([*where, f"--log={tmp_path / 'log'}"], 7, "no place for a log"),
        ([*where, "--", "no-such-command"], 2, "there is no command 'no-such-command'"),
        (["--host=0.0.0.0"], 2, "has no authentication"),
        ([*where, "--parallel=0"], 2, "parallel"),
        ([*where, f"--models={tmp_path / 'mistyped' / 'models'}"], 2, "is it typed right?"),
    ):
        done = run(*arguments)
        assert (done.returncode, words in done.stderr) == (code, True), done.stderr
    assert [path.name for path in tmp_path.iterdir()] == ["hybrid.json"]


def test_the_guard_kills_what_does_not_heed_it(tmp_path: Path) -> None:
    ready = tmp_path / "ready"
    deaf = program(tmp_path / "deaf", f"trap '' TERM; sleep 60 & echo $! > {ready}; while :; do sleep 1; done")
    child = subprocess.Popen([sys.executable, "-I", guard.__file__, "0.5", str(deaf)], stdin=subprocess.PIPE)
    assert soon(lambda: holds(ready, "\n"))
    child.send_signal(signal.SIGTERM)  # only the end of its input counts
    time.sleep(0.3)
    assert child.poll() is None
    assert child.stdin
    child.stdin.close()
    assert child.wait(PATIENCE) == 256 - signal.SIGKILL
    assert soon(lambda: dead(int(ready.read_text()))), "its child lives"


def dead(pid: int) -> bool:
    """Whether a process has ended, or is a zombie."""
    try:
        os.kill(pid, 0)
        return "Z" in Path(f"/proc/{pid}/stat").read_text().split(")")[1]
    except (ProcessLookupError, FileNotFoundError):
        return True
