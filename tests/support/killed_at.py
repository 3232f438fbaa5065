"""Run a command of `hybrid` that is killed at a chosen call of one of its functions, however slow the machine is.

Or that gets another signal then, or sends one: to the server that it asks, which is gone before the next answer.
"""

from __future__ import annotations

import signal
import sys

DEADLY = """
import importlib, os, sys
module, name, when = sys.argv[1:4]
at, number, to = map(int, sys.argv[4:7])
owner = importlib.import_module(module)
*above, name = name.split(".")
for one in above:
    owner = getattr(owner, one)
real, count = getattr(owner, name), 0

def deadly(*args):
    global count
    count += 1
    if when == "half" and count == at:
        os.write(args[0], bytes(args[2])[: len(args[2]) // 2])
    elif when == "after":
        result = real(*args)
    if count == at:
        os.kill(to or os.getpid(), number)
    return result if when == "after" else real(*args)

setattr(owner, name, deadly)
from hybrid.cli import main
main(sys.argv[7:])
"""


def killed_at(
    module: str, function: str, when: str, at: int, *, number: int = signal.SIGKILL, to: int = 0
) -> list[str]:
    """The beginning of a command that dies at the call number `at` of a function: `before` it, `after` it, or when
    `half` of what it is to write is written.

    With `to` the signal `number` is sent there, to a process or, negative, a group, and the command goes on.
    """
    return [sys.executable, "-c", DEADLY, module, function, when, str(at), str(int(number)), str(to)]
