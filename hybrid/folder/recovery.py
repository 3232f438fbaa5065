"""The records that a killed process of this machine had in an open shard: its journal becomes that shard."""

from __future__ import annotations

import logging
from pathlib import Path

import filelock

from hybrid.errors import BadData, HybridError
from hybrid.folder.journal import Journal, lock_of, read_journal, release
from hybrid.folder.medium import Medium, NotThere
from hybrid.folder.runs import Run
from hybrid.folder.shards import pack, verify_shard
from hybrid.machine.terminal import count_of

LOG = logging.getLogger("hybrid")
LAST_SEQ = 99_999


class Journals:
    """The journals of this machine's processes for one folder: `<root>/<run>/<stage>/<attempt>.journal`."""

    def __init__(self, root: Path) -> None:
        self._root = root

    def journal(self, run: str, stage: str, attempt: str) -> Journal:
        """The journal of the open shard of an attempt at a stage."""
        return Journal(self._root / run / stage / f"{attempt}.journal")

    def open_records(self, run: str) -> int:
        """How many records of a run are in journals of this machine, which are in no shard yet.

        Those of a process that is at work are among them. A journal that cannot be read counts as empty.
        """
        return sum(map(_records_in, (self._root / run).glob("*/*.journal")))

    def recover(self, run: Run, medium: Medium) -> int:
        """Write the shards that ended processes left open into `medium`; how many records those are.

        A journal that is damaged or foreign is left where it is, with a warning. Raises what writing a shard raises.
        """
        found = 0
        for path in sorted((self._root / run.id).glob("*/*.journal")):
            lock = lock_of(path)
            try:
                lock.acquire()
            except (filelock.Timeout, OSError, NotImplementedError):  # its process is at work
                continue
            try:
                found += _recovered(run, path, medium)
            except NotThere:  # another process took it
                continue
            except BadData as error:
                LOG.warning("%s; passed over", error.message)
                continue
            finally:
                release(lock)
        if found:
            LOG.info("%s: %s of a process that was killed", run.id, count_of(found, "record"))
        return found


def _records_in(journal: Path) -> int:
    try:
        return len(read_journal(journal)[1])
    except HybridError:
        return 0


def _recovered(run: Run, journal: Path, medium: Medium) -> int:
    header, lines = read_journal(journal)
    if lines:
        seq = header.get("seq")
        if not isinstance(seq, int) or not 0 <= seq <= LAST_SEQ:
            raise BadData(f"{journal}: numbers no shard")
        name, data = pack(header, lines, seq)
        path = f"{run.place}/{journal.parent.name}/{journal.stem}/{name.batch}/{name}"
        if not run.owns(path, verify_shard(f"{journal}/{name}", data)):
            raise BadData(f"{journal}: of another run, stage or attempt")
        medium.write(path, data, heal=True)  # the process may have been killed while it wrote it
    journal.unlink(missing_ok=True)
    return len(lines)
