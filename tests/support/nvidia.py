"""A stand-in for nvidia-smi: this machine then has the GPUs that it lists."""

from __future__ import annotations

from pathlib import Path


def nvidia_smi(folder: Path, *rows: str, knows_capability: bool = True) -> Path:
    """A folder for PATH whose nvidia-smi answers `rows`; one with no row fails as without a GPU."""
    folder.mkdir(parents=True, exist_ok=True)
    refuses = "" if knows_capability else 'case "$*" in *compute_cap*) echo "not a valid field" >&2; exit 2;; esac\n'
    listed = "".join(f"echo '{row}'\n" for row in rows) or "echo 'No devices were found' >&2\nexit 6\n"
    program = folder / "nvidia-smi"
    program.write_text(f"#!/bin/sh\n{refuses}{listed}")
    program.chmod(0o755)
    return folder
