"""Run a command that searches, and kill it at each of its completions in turn: the first, then the next, to the end.

Started as a program with the folder, the machine's home, the file of its calls, the pipeline, the stage that searches,
and the command's arguments as JSON. It imports everything once, so that a life of the command costs a fork. A life ends
by SIGKILL as soon as one more record is in a journal, while a model may be answering. It prints, for each life, the
calls that the model got, and the keys that are recorded afterwards.
"""

from __future__ import annotations

import json
import os
import signal
import sys
from pathlib import Path
from typing import Any

from hybrid.folder.journal import Journal, read_journal
from hybrid.folder.medium import Disk
from hybrid.folder.runs import open_run
from tests.support import forked_commands


def die_at_the_next() -> None:
    """Kill this process when it has written a record into a journal."""
    add = Journal.add

    def added(journal: Journal, header: dict[str, Any], line: bytes) -> None:
        add(journal, header, line)
        os.kill(os.getpid(), signal.SIGKILL)

    Journal.add = added  # type: ignore[method-assign]


def recorded(home: Path, folder: Path, stage: str) -> list[str]:
    """The keys in shards and journals."""
    journals = [read_journal(path)[1] for path in home.glob(f"journals/*/*/{stage}/*.journal")]
    keys = [str(json.loads(line)["key"]) for lines in journals for line in lines]
    for spool in (folder, *home.glob("spool/*")):
        if (folder / "hybrid.json").exists():
            run = open_run(Disk(folder), "", (Disk(spool),))
            keys += [str(record["key"]) for _, shard in run.shards(stage, []) for record in shard.records]
    return keys


def main(folder: Path, home: Path, calls: Path, pipeline: str, stage: str, command: list[str]) -> None:
    forked_commands.prepare((pipeline,), (command[0],))
    lives = list[dict[str, object]]()
    said, before = folder.parent / "said", 0
    while not lives or lives[-1]["code"] == -signal.SIGKILL:
        code = os.waitstatus_to_exitcode(os.waitpid(forked_commands.started(lambda: _life(command, said)), 0)[1])
        made = calls.read_text().split() if calls.exists() else []
        lives.append({"code": code, "calls": made[before:], "recorded": sorted(set(recorded(home, folder, stage)))})
        before = len(made)
    print(json.dumps({"lives": lives, "said": said.read_text()}))


def _life(command: list[str], said: Path) -> None:
    die_at_the_next()
    file = os.open(said, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600)
    os.dup2(file, 1)
    os.dup2(file, 2)
    forked_commands.cli.main(command)


if __name__ == "__main__":
    main(*map(Path, sys.argv[1:4]), sys.argv[4], sys.argv[5], json.loads(sys.argv[6]))
