"""How much memory this machine has available."""

from __future__ import annotations

import re
from pathlib import Path

MEMINFO = Path("/proc/meminfo")


def available(meminfo: Path = MEMINFO) -> int | None:
    """Bytes that are available without swapping (Linux's MemAvailable: the page cache counts as free). None where the
    system does not say.
    """
    try:
        found = re.search(r"^MemAvailable:\s+(\d+) kB$", meminfo.read_text(encoding="ascii"), re.MULTILINE)
    except (OSError, UnicodeDecodeError):
        return None
    return int(found[1]) * 1024 if found else None
