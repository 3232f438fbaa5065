"""How much of this machine's memory programs may take."""

from __future__ import annotations

import re
from pathlib import Path

MEMINFO = Path("/proc/meminfo")


def available(meminfo: Path = MEMINFO) -> int | None:
    """Bytes that Linux could give without swapping: files that it keeps in memory count as free. None where nobody
    tells.
    """
    try:
        found = re.search(r"^MemAvailable:\s+(\d+) kB$", meminfo.read_text(encoding="ascii"), re.MULTILINE)
    except (OSError, UnicodeDecodeError):
        return None
    return int(found[1]) * 1024 if found else None
