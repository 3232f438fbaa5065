"""Copy a folder to a remote of rclone and back: every path goes one way, from the side that writes it.

Only `rclone copy` is used, so nothing is ever deleted. Sizes and times prove nothing, hence `--checksum`: a copy that
was cut short is healed by the next round. Were everything copied both ways, a torn copy would go back over the whole
file.
"""

from __future__ import annotations

import json
import re
import shutil
import subprocess
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO, Any, Literal

from hybrid.canonical import encode
from hybrid.errors import BadData, CannotRun, HybridError, Temporary
from hybrid.folder.names import ON_LAPTOP, SEGMENTS, SHARD, TENSORS
from hybrid.folder.notes import verify_note
from hybrid.folder.runs import MARK
from hybrid.folder.shards import MAX_FILE, verify_payload
from hybrid.machine.files import NotThere, read_bounded
from hybrid.machine.redaction import redacted

OLDEST = (1, 55)
"""The first version whose `cat`, `copy` and JSON log are used here as they are now."""
VERSION = re.compile(r"^rclone v(\d{1,4})\.(\d{1,4})", re.MULTILINE)

OF_LAPTOP = (
    *("run.json", "inputs-*", "references-*", "acks/**", "orders/**"),
    *(f"*/*{ON_LAPTOP}/**", f"{TENSORS}/*/*{ON_LAPTOP}/**"),
)
"""What the laptop writes below the place of a run, its own workers included; other workers write the rest."""
PACKED = ("/models/**", "/wheels/**", "/notebooks/**")
"""Written by either side, under names that are made of the content: never copied over another."""

VERIFIED: Mapping[re.Pattern[str], Callable[[str, bytes], object]] = {
    re.compile(r"/beat-\d{6}-[0-9a-f]{16}\.json\.zst$"): verify_note,
    re.compile(rf"/{SHARD.pattern}$"): verify_payload,
}
"""What workers may send back that have it of others, and what raises BadData for one that is cut short."""

COPY = ("copy", "--checksum", "--retries=1", "--contimeout=30s", "--timeout=2m", "--ask-password=false")
LOGGED = ("--use-json-log", "--log-level=INFO", "--stats=0")
CHECK_SECONDS = 120.0
"""Seconds in which rclone has to tell its version, or the folder's mark."""
LONGEST_LINE = 65_536
LONGEST = 300
"""Most characters that are shown of an error of rclone."""
MOST_NAMED = 10_000
"""Most files of one copy that are remembered by name."""
NO_REMOTE = ("didn't find section in config file", "didn't find backend called", "couldn't decrypt configuration")
FULL = ("no space left", "quota", "storage limit", "disk space", "insufficient storage")


@dataclass(slots=True)
class Moved:
    """The files that one copy moved, by path in the folder, and the bytes of those that are on this disk."""

    paths: list[str] = field(default_factory=list)
    count: int = 0
    bytes: int = 0

    def add(self, path: str, size: int) -> None:
        self.count, self.bytes = self.count + 1, self.bytes + size
        if len(self.paths) < MOST_NAMED:
            self.paths.append(path)


@dataclass(slots=True)
class Round:
    """One round both ways: what was sent and received, and the first error."""

    sent: Moved = field(default_factory=Moved)
    received: Moved = field(default_factory=Moved)
    error: HybridError | None = None


class Carrier:
    """The user's own rclone between `folder` and `remote`, for the side `side` of the folder; of one `run` alone if it
    is named. Raises CannotRun when rclone is missing or too old.
    """

    def __init__(self, folder: Path, remote: str, side: Literal["laptop", "gpu"], run: str = "") -> None:
        self.folder, self.remote, self.side, self._run = folder, remote.rstrip("/"), side, run
        self._program = rclone()

    @property
    def name(self) -> str:
        """The remote as it may be shown: one that is written out as a connection may hold keys."""
        return re.sub(r"^(:?[\w -]+),[^:]*", r"\1,...", redacted(self.remote)) if "," in self.remote else self.remote

    def check_remote(self) -> bool:
        """Whether the remote holds a folder of hybrid. Raises BadData when something else is there, Temporary."""
        plain = ("--count=1000", "--retries=1", "--contimeout=30s", "--ask-password=false")
        asked = [self._program, "cat", *plain, "--", self._at("hybrid.json")]
        try:
            done = subprocess.run(  # noqa: S603 - without a shell, the user's words behind `--`
                asked, capture_output=True, stdin=subprocess.DEVNULL, check=False, timeout=CHECK_SECONDS
            )
        except subprocess.TimeoutExpired:
            raise Temporary(f"{self.name}: no answer for {CHECK_SECONDS:.0f} s", hint="is the network there?") from None
        if done.returncode in (3, 4) or (not done.returncode and not done.stdout):
            return False
        if done.returncode:
            raise self._explained(done.stderr.decode(errors="replace").strip().rpartition("\n")[2], done.returncode)
        if done.stdout.strip() != encode(MARK):
            raise BadData(
                f"{self.name}: carries another mark than a folder that this hybrid reads", hint="choose another place"
            )
        return True

    def round(self) -> Round:
        """Copy both ways what is new. An error of one way does not keep the other from going on."""
        result = Round()
        ways: list[tuple[Moved, bool, Sequence[str]]] = [
            (result.received, False, self._filters(sending=False)),
            (result.sent, True, self._filters(sending=True)),
        ]
        if self.side == "gpu" and (sharing := self._sharing()):
            segments = "--ignore-existing", f"--filter=+ {self._segments}"
            ways += [(result.sent, True, segments), (result.received, False, segments)]
            others = f"--max-size={MAX_FILE}b", "--ignore-existing", *self._of_other_workers(sharing)
            ways.append((result.received, False, others))
        if not self._run:
            packed = tuple(f"--filter=+ {one}" for one in PACKED)
            ways.append((result.sent, True, ("--ignore-existing", *packed)))
            ways.append((result.received, False, packed))
        for moved, sending, flags in ways:
            try:
                self._copy(moved, sending, flags)
            except HybridError as error:
                result.error = result.error or error
        return result

    def restore(self) -> Moved:
        """Bring the files of this machine's own side that it lacks: it may be new."""
        moved = Moved()
        self._copy(moved, False, ("--ignore-existing", *self._filters(sending=True)))
        return moved

    def _filters(self, *, sending: bool) -> list[str]:
        place = f"/runs/{self._run or '*'}"
        laptop = ["/hybrid.json", *(f"{place}/{one}" for one in OF_LAPTOP)]
        if sending == (self.side == "laptop"):
            return [f"--filter=+ {one}" for one in laptop]
        others = [self._segments] if self.side == "gpu" else []
        return [*(f"--filter=- {one}" for one in (*laptop, *others)), f"--filter=+ {place}/**"]

    def _sharing(self) -> list[str]:
        """The runs whose workers publish for each other."""
        return sorted(path.parent.name for path in self.folder.glob(f"runs/{self._run or '*'}/{SEGMENTS}"))

    def _of_other_workers(self, runs: Sequence[str]) -> list[str]:
        """What workers that share a run have to know of each other: heartbeats, by which they divide its series, and
        what is done. Not their tensors: states are large, and whoever comes later gets those of before when it begins.
        """
        kept = [f"/runs/*/{one}" for one in (*OF_LAPTOP, f"{SEGMENTS}/**", f"{TENSORS}/**", "logs/**")]
        return [*(f"--filter=- {one}" for one in kept), *(f"--filter=+ /runs/{one}/**" for one in runs)]

    def _drop_torn(self, path: str) -> None:
        """Remove what has come and is cut short, before it is sent back. It comes again when it is whole."""
        verify = next((check for name, check in VERIFIED.items() if name.search(path)), None)
        with suppress(OSError, HybridError):
            try:
                _ = verify and verify(path, read_bounded(self.folder / path, MAX_FILE))
            except BadData:
                (self.folder / path).unlink()

    @property
    def _segments(self) -> str:
        """What workers publish for each other: between them it goes both ways, and never over another file."""
        return f"/runs/{self._run or '*'}/{SEGMENTS}/**"

    def _at(self, path: str) -> str:
        return f"{self.remote}{path}" if self.remote.endswith(":") else f"{self.remote}/{path}"

    def _copy(self, moved: Moved, sending: bool, flags: Sequence[str]) -> None:
        """One `rclone copy`. Raises CannotRun, Temporary."""
        if sending and not self.folder.is_dir():
            return
        ends = [str(self.folder), self.remote]
        command = [self._program, *COPY, *LOGGED, "--filter=- *.partial", *flags, "--filter=- *", "--"]
        last = ""
        with _running([*command, *(ends if sending else reversed(ends))]) as process:
            for entry in _entries(process.stdout):
                if str(entry.get("msg", "")).startswith("Copied ("):
                    path = str(entry.get("object", ""))
                    moved.add(path, self._size(path))
                    if not sending and self.side == "gpu":  # the laptop sends nothing back, and tells what is damaged
                        self._drop_torn(path)
                elif entry.get("level") in ("error", "critical", "fatal"):
                    last = last or f"{entry.get('object', '')}: {entry.get('msg', '')}".removeprefix(": ")
        code = process.returncode
        if code and not (code == 3 and not sending):  # 3: nothing is at the remote yet
            raise self._explained(last, code)

    def _size(self, path: str) -> int:
        with suppress(OSError, ValueError):
            return (self.folder / path).lstat().st_size
        return 0

    def _explained(self, said: str, code: int) -> HybridError:
        said = redacted(said)[:LONGEST]
        if code < 0:
            return _killed(-code)
        if any(one in said for one in NO_REMOTE):
            return CannotRun(f"rclone does not know {self.name}: {said}", hint="`rclone config` makes a remote")
        if any(one in said.lower() for one in FULL):
            hint = "free some space; the next round copies what is missing"
            return Temporary(f"no room left on one side of {self.name}: {said}", hint=hint)
        hint = "the next round copies what is missing; `rclone lsd REMOTE:` shows whether rclone gets there"
        return Temporary(f"rclone ended with {code} at {self.name}: {said}", hint=hint)


def _killed(number: int) -> Temporary:
    return Temporary(f"rclone was ended by signal {number}", hint="the next round copies what is missing")


def rclone() -> str:
    """Where rclone is. Raises CannotRun when there is none, or one that is too old, Temporary when it was killed."""
    found = shutil.which("rclone")
    if found is None:
        raise CannotRun("rclone is not installed here, or not on PATH", hint="on Debian and Ubuntu: apt install rclone")
    try:
        done = subprocess.run(  # noqa: S603 - found on PATH
            [found, "version"], capture_output=True, stdin=subprocess.DEVNULL, check=False, timeout=CHECK_SECONDS
        )
        version = VERSION.search(done.stdout.decode(errors="replace"))
        if not version and done.returncode < 0:
            raise _killed(-done.returncode)
    except subprocess.TimeoutExpired:
        raise Temporary(f"{found} did not answer for {CHECK_SECONDS:.0f} s", hint="is this machine busy?") from None
    except OSError:
        version = None
    if version is None:
        raise CannotRun(f"{found} does not tell its version", hint="is it rclone? install it again")
    if (int(version[1]), int(version[2])) < OLDEST:
        oldest = ".".join(map(str, OLDEST))
        raise CannotRun(f"{found} is rclone {version[1]}.{version[2]}", hint=f"install {oldest} or newer")
    return found


@contextmanager
def _running(command: list[str]) -> Iterator[subprocess.Popen[bytes]]:
    """A process whose log is read inside the block; it has ended after it, whatever happened."""
    process = subprocess.Popen(  # noqa: S603 - without a shell, the user's words behind `--`
        command, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.STDOUT
    )
    try:
        yield process
        process.wait()
    finally:
        if process.poll() is None:
            process.terminate()  # rclone removes unfinished files
            try:
                process.wait(10)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()
        if process.stdout:
            process.stdout.close()


def _entries(log: IO[bytes] | None) -> Iterator[dict[str, Any]]:
    """The lines of rclone's log; one that is no JSON is an error in words."""
    while log and (line := log.readline(LONGEST_LINE)):
        text = line.decode(errors="replace").strip()
        try:
            entry = json.loads(text)
        except ValueError:
            entry = {"level": "error", "msg": re.sub(r"^[0-9/: ]+", "", text)}
        if isinstance(entry, dict):
            yield entry


def refuse_absent(remote: str) -> NotThere:
    """The error for a remote without a folder, which only the laptop makes."""
    return NotThere(
        f"{remote} is not a folder of hybrid, or not yet: it has no hybrid.json",
        hint="is the path right? on the laptop, `hybrid init FOLDER` and then `hybrid sync` make it",
    )
