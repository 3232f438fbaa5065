"""Real sync programs between a laptop's folder and a worker's: rclone, and two Syncthing daemons on loopback."""

from __future__ import annotations

import json
import os
import random
import shutil
import signal
import subprocess
import threading
import time
import urllib.error
import urllib.request
import xml.etree.ElementTree as ET
from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager, ExitStack, contextmanager, nullcontext, suppress
from copy import deepcopy
from pathlib import Path
from typing import Any, Protocol, Self

import pytest

from tests.support.ports import free_port

LAPTOP_WRITES = [
    "/hybrid.json",
    "/runs/*/run.json",
    "/runs/*/inputs-*",
    "/runs/*/references-*",
    "/runs/*/acks/**",
    "/runs/*/orders/**",
]
FOLDER_ID = "hybrid"


def program(name: str) -> str:
    """Where a program is; the test is skipped when it is not installed."""
    found = shutil.which(name)
    if found is None:
        pytest.skip(f"needs {name}: apt-get install {name}")
    return found


def wait_until(true: Callable[[], bool], timeout: float, what: str, pause: float = 0.05) -> None:
    """Look again and again until `true()`. Fails the test after `timeout` seconds, saying what did not happen."""
    deadline = time.monotonic() + timeout
    while not true():
        if time.monotonic() > deadline:
            pytest.fail(f"not within {timeout:g} s: {what}")
        time.sleep(pause)


class SyncProgram(Protocol):
    """Syncs the laptop's folder and the worker's in both directions."""

    laptop: Path
    worker: Path

    def carry(self) -> None:
        """Bring both ways what is there now."""
        ...

    def restore(self) -> None:
        """Bring everything to a new machine, before any worker starts there."""
        ...

    def running(self) -> AbstractContextManager[None]:
        """Carry again and again inside the block, whatever comes."""
        ...

    def part(self) -> None:
        """The two sides do not reach each other from now on."""
        ...

    def meet(self) -> None:
        """They do again."""
        ...


@contextmanager
def syncing(kind: str, laptop: Path, worker: Path, own: Path) -> Iterator[SyncProgram]:
    """A sync program, `rclone` or `syncthing`; its processes end with the block."""
    if kind == "rclone":
        yield Rclone(laptop, worker, own)
        return
    with SyncthingPair(laptop, worker, own) as pair:
        yield pair


class Rclone:
    """`rclone copy --checksum` between the laptop's folder and the worker's: every path goes one way, from its writer.

    A copy that was cut short, or made while the file was being written, is then healed by the next round. Everything
    both ways would carry a torn copy back over the whole file, and an older outputs.json over a newer one;
    `--ignore-existing` and `--immutable` would leave a torn copy for ever. Sizes and times prove nothing, hence
    `--checksum`. `results/` is not carried. A new machine first gets everything back with `restore`.
    """

    def __init__(self, laptop: Path, worker: Path, own: Path) -> None:
        self._program = program("rclone")
        self.laptop, self.worker = laptop, worker
        self.copies, self.troubles = 0, list[str]()
        own.mkdir(parents=True)
        self._config = own / "rclone.conf"
        self._config.touch()

    def to_worker(self) -> int:
        """Carry what the laptop writes. Returns rclone's exit status."""
        return self.copy(self.laptop, self.worker, *(f"--filter=+ {path}" for path in LAPTOP_WRITES), "--filter=- *")

    def to_laptop(self) -> int:
        """Carry what workers write."""
        others = [f"--filter=- {path}" for path in LAPTOP_WRITES]
        return self.copy(self.worker, self.laptop, *others, "--filter=+ /runs/**", "--filter=- *")

    def restore(self) -> None:
        """Bring everything to a new machine, before any worker starts there."""
        assert self.copy(self.laptop, self.worker, "--filter=- /results/**") == 0, self.troubles

    def carry(self) -> None:
        """One round. Raises AssertionError with rclone's words when it failed."""
        assert (self.to_worker(), self.to_laptop()) == (0, 0), self.troubles

    def everything_both_ways(self) -> None:
        """The careless round: whichever side is copied first is taken for right."""
        assert (self.copy(self.laptop, self.worker), self.copy(self.worker, self.laptop)) == (0, 0), self.troubles

    def copy(self, source: Path, target: Path, *flags: str) -> int:
        """One `rclone copy`; what it complained of, such as a file that grew meanwhile, is in `troubles`."""
        done = subprocess.run(
            self.command(source, target, *flags),
            capture_output=True,
            text=True,
            check=False,
            timeout=240,
            env=_bare_environment("RCLONE_"),
        )
        self.copies += 1
        if done.returncode:
            self.troubles.append(done.stderr.strip()[-2000:])
        return done.returncode

    def command(self, source: Path, target: Path, *flags: str) -> list[str]:
        source.mkdir(parents=True, exist_ok=True)
        plain = ["--checksum", "--retries=1", "--transfers=8", f"--config={self._config}"]
        return [self._program, "copy", *plain, *flags, str(source), str(target)]

    @contextmanager
    def running(self, pause: float = 0.3) -> Iterator[None]:
        """Rounds in the background; one that fails is followed by the next, as with a timer of the system."""
        stop = threading.Event()

        def rounds() -> None:
            while not stop.wait(pause):
                self.to_worker()
                self.to_laptop()

        thread = threading.Thread(target=rounds, name="rclone", daemon=True)
        thread.start()
        try:
            yield
        finally:
            stop.set()
            thread.join(timeout=500)

    def part(self) -> None:
        """Nothing is carried between rounds anyway."""

    def meet(self) -> None:
        """The next round carries."""


class Daemon:
    """One Syncthing: a home and a certificate of its own, both of its ports on loopback, nothing else spoken to."""

    def __init__(self, home: Path, folder: Path) -> None:
        self._program = program("syncthing")
        self.home, self.folder = home, folder
        self.port, self._api_port = free_port(), free_port()
        self._key = f"{random.getrandbits(128):032x}"
        self._process: subprocess.Popen[bytes] | None = None
        (folder / ".stfolder").mkdir(parents=True, exist_ok=True)  # Syncthing's proof that the disk is mounted
        self._environment = _bare_environment("ST") | {"HOME": str(home), "STNODEFAULTFOLDER": "1", "STNOUPGRADE": "1"}
        self._environment |= {"STMONITORED": "yes"}  # one process, no second one that starts it again
        generate = [self._program, "generate", f"--home={home}"]
        subprocess.run(generate, env=self._environment, check=True, capture_output=True, timeout=240)
        self.id = _at(_tree(home), "device").attrib["id"]

    def know(self, other: Daemon) -> None:
        """Write the configuration: this device, the other one, the folder that they share."""
        _configure(self, other, self._api_port, self._key)

    def start(self) -> None:
        """Start and wait until the daemon answers."""
        with (self.home / "log").open("ab") as log:
            serve = [*_dies_with_us(), self._program, "serve", f"--home={self.home}", "--no-browser", "--no-restart"]
            self._process = subprocess.Popen(serve, env=self._environment, stdout=log, stderr=log)
        wait_until(self._answers, 240, f"an answer of Syncthing, which says:\n{self.log()}")

    def kill(self) -> None:
        """SIGKILL, as when a laptop's battery is empty: whatever it was doing is cut off."""
        if self._process:
            self._process.send_signal(signal.SIGKILL)
            self._process.wait(timeout=240)
        self._process = None

    def get(self, path: str, **query: str) -> Any:
        return self._call("GET", path, query)

    def scan(self) -> None:
        """Look at every file now."""
        self._call("POST", "db/scan", {"folder": FOLDER_ID})

    def connected(self, other: Daemon) -> bool:
        return bool(self.get("system/connections")["connections"].get(other.id, {}).get("connected"))

    def settled(self, other: Daemon) -> bool:
        """Idle, with everything the other one told of, and the other one with everything told from here."""
        mine, theirs = (
            self.get("db/status", folder=FOLDER_ID),
            self.get("db/completion", folder=FOLDER_ID, device=other.id),
        )
        return mine["state"] == "idle" and not (mine["needTotalItems"] or theirs["needItems"] or theirs["needDeletes"])

    def log(self) -> str:
        return (self.home / "log").read_text(errors="replace")[-4000:]

    def _answers(self) -> bool:
        assert self._process is not None
        assert self._process.poll() is None, self.log()
        with suppress(OSError, urllib.error.URLError):
            return bool(self.get("system/ping")["ping"] == "pong")
        return False

    def _call(self, method: str, path: str, query: Mapping[str, str]) -> Any:
        values = "&".join(f"{name}={value}" for name, value in query.items())
        url = f"http://127.0.0.1:{self._api_port}/rest/{path}?{values}"
        request = urllib.request.Request(url, method=method, headers={"X-API-Key": self._key})
        with LOOPBACK.open(request, timeout=240) as answer:
            return json.loads(answer.read() or b"null")


LOOPBACK = urllib.request.build_opener(urllib.request.ProxyHandler({}))
"""A proxy of the user's environment has no part in this."""


class SyncthingPair:
    """Two Syncthing daemons that share one folder over loopback, side `laptop` and side `worker`.

    Use as a context manager: they are connected and idle inside, and killed at the end whatever happens.
    """

    def __init__(self, laptop: Path, worker: Path, own: Path) -> None:
        self.laptop, self.worker = laptop, worker
        self.sides = {"laptop": Daemon(own / "laptop", laptop), "worker": Daemon(own / "worker", worker)}

    def __enter__(self) -> Self:
        with ExitStack() as undo:
            undo.callback(self._kill_all)
            for side, daemon in self.sides.items():
                daemon.know(self._other(side))
                daemon.start()
            self.wait_in_sync()
            undo.pop_all()
        return self

    def __exit__(self, *exc: object) -> None:
        self._kill_all()

    def stop(self, side: str) -> None:
        """The side goes offline, its folder stays usable."""
        self.sides[side].kill()

    def start(self, side: str) -> None:
        self.sides[side].start()

    def wait_in_sync(self, timeout: float = 240) -> None:
        """Wait until both sides have what was there when this was called. Fails the test after `timeout` seconds."""
        first, second = self.sides.values()
        wait_until(lambda: first.connected(second) and second.connected(first), timeout, "a connection of both sides")
        for daemon in (first, second):
            daemon.scan()
        both = [(first, second), (second, first)]
        wait_until(lambda: all(one.settled(other) for one, other in both), timeout, "both sides in sync", pause=0.1)

    def carry(self) -> None:
        self.wait_in_sync()

    def restore(self) -> None:
        self.wait_in_sync()

    def running(self) -> AbstractContextManager[None]:
        """It always runs."""
        return nullcontext()

    def part(self) -> None:
        """The laptop goes offline."""
        self.stop("laptop")

    def meet(self) -> None:
        self.start("laptop")

    def _other(self, side: str) -> Daemon:
        (other,) = (daemon for name, daemon in self.sides.items() if name != side)
        return other

    def _kill_all(self) -> None:
        with ExitStack() as each:
            for daemon in self.sides.values():
                each.callback(daemon.kill)


def _bare_environment(prefix: str) -> dict[str, str]:
    """The environment without the user's settings of that program."""
    return {name: value for name, value in os.environ.items() if not name.startswith(prefix)}


def _dies_with_us() -> list[str]:
    """On Linux the daemon is killed even when the tests are."""
    return ["setpriv", "--pdeathsig", "KILL"] if shutil.which("setpriv") else []


OPTIONS = {
    "globalAnnounceEnabled": "false",
    "localAnnounceEnabled": "false",
    "relaysEnabled": "false",
    "natEnabled": "false",
    "stunKeepaliveStartS": "0",
    "crashReportingEnabled": "false",
    "urAccepted": "-1",
    "autoUpgradeIntervalH": "0",
    "startBrowser": "false",
    "reconnectionIntervalS": "1",
    "setLowPriority": "false",
}


def _configure(own: Daemon, other: Daemon, api_port: int, key: str) -> None:
    """Change what `syncthing generate` wrote: speak to nobody but the other daemon, and share one folder with it."""
    tree = _tree(own.home)
    options = OPTIONS | {"listenAddress": f"tcp://127.0.0.1:{own.port}"}
    settings = {f"options/{name}": value for name, value in options.items()}
    for path, value in (settings | {"gui/address": f"127.0.0.1:{api_port}", "gui/apikey": key}).items():
        _at(tree, path).text = value
    peer = ET.SubElement(tree.getroot(), "device", id=other.id, name="other")
    ET.SubElement(peer, "address").text = f"tcp://127.0.0.1:{other.port}"
    folder = deepcopy(
        _at(tree, "defaults/folder")
    )  # left out, its settings would be zero, such as how many conflicts are kept
    folder.attrib |= {"id": FOLDER_ID, "path": str(own.folder), "rescanIntervalS": "5", "fsWatcherDelayS": "1"}
    ET.SubElement(folder, "device", id=other.id)
    tree.getroot().append(folder)
    tree.write(own.home / "config.xml", encoding="unicode")


def _tree(home: Path) -> ET.ElementTree[ET.Element]:
    return ET.parse(home / "config.xml")  # noqa: S314 - our own child wrote it


def _at(tree: ET.ElementTree[ET.Element], path: str) -> ET.Element:
    found = tree.find(path)
    assert found is not None, f"no {path} in Syncthing's configuration"
    return found
