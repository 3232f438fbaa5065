"""`hybrid doctor`: check the folder and this machine, and explain every problem."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from contextlib import closing
from pathlib import Path

import click

from hybrid.canonical import encode
from hybrid.commands.options import FOLDER, FOLDER_HELP
from hybrid.doctor import environment
from hybrid.doctor.file_check import FileChecker
from hybrid.doctor.findings import KINDS, LONGEST, Finding, FindingCounts
from hybrid.doctor.folder_checks import check_present, folder_findings, listing_findings, store_findings
from hybrid.doctor.walk import FolderWalk
from hybrid.execution.local import DEFAULT_FOLDER, chosen_folder
from hybrid.folder.child import IsolatedFolder
from hybrid.machine import home
from hybrid.machine.clock import SystemClock
from hybrid.machine.terminal import clean_line, count_of

CALL_SECONDS = 60.0
"""Most seconds for one call to the folder."""

MOST_SHOWN = 20
NOT_NAMED = Finding("medium", "", "no folder is named yet", "`hybrid init FOLDER` makes one and remembers it")


@click.command()
@click.argument("place", metavar="[FOLDER]", required=False, type=FOLDER)
@click.option("--folder", type=FOLDER, help=FOLDER_HELP)
@click.option("--json", "as_json", is_flag=True, help="One JSON object per finding, and a summary as the last line.")
def doctor(place: Path | None, folder: Path | None, as_json: bool) -> int:
    """Check FOLDER and this machine, and explain every problem and what to do about it.

    Reads every file of the folder; writes only probes/MACHINE.json. Exit code 5: the folder is unavailable or slow, 6:
    something hides data, 7: no permission; harmless oddities are 0.
    """
    root = chosen_folder(place or folder)
    with closing(IsolatedFolder(root, seconds=CALL_SECONDS)) as isolated:
        walk = FolderWalk(isolated, SystemClock())
        findings = _findings(root, isolated, walk)
        counts = _as_json(findings) if as_json else _as_text(root, findings)
    _sum_up(root, walk, counts, as_json=as_json)
    return counts.exit_code


def _findings(root: Path, folder: IsolatedFolder, walk: FolderWalk) -> Iterator[Finding]:
    if root == Path(DEFAULT_FOLDER) and not root.exists():
        yield NOT_NAMED
    else:
        yield from _about_folder(root, folder, walk)
    yield from environment.backend_findings()


def _about_folder(root: Path, folder: IsolatedFolder, walk: FolderWalk) -> Iterator[Finding]:
    first = check_present(folder)
    yield from first
    if any(finding.kind in ("away", "denied") for finding in first):
        return
    ours = FileChecker(folder).good("hybrid.json")
    yield from (
        store_findings(folder, ours=ours) if home.store_url(root) else folder_findings(root, CALL_SECONDS, ours=ours)
    )
    yield from walk.findings()
    yield from listing_findings(walk.largest, walk.slowest)
    yield from environment.runs_impossible_here(folder)
    yield from environment.waiting_in_spool(root)
    yield from environment.damaged_copies(root)


def _as_json(findings: Iterable[Finding]) -> FindingCounts:
    counts = FindingCounts()
    for finding in findings:
        counts.add(finding)
        click.echo(encode(finding.to_json()))
    return counts


def _as_text(root: Path, findings: Iterable[Finding]) -> FindingCounts:
    """Print the findings by kind. Keeps only those that are shown in memory."""
    counts = FindingCounts()
    shown: dict[str, list[Finding]] = {kind: [] for kind in KINDS}
    for finding in findings:
        counts.add(finding)
        if len(shown[finding.kind]) < MOST_SHOWN:
            shown[finding.kind].append(finding)
    click.echo(clean_line(home.store_url(root) or str(root), LONGEST))
    for kind, examples in shown.items():
        if examples:
            _show(kind, examples, counts.by_kind[kind])
    return counts


def _show(kind: str, examples: list[Finding], count: int) -> None:
    counted = "" if KINDS[kind].level == "info" else f" ({count:,})"
    click.echo(f"\n{KINDS[kind].title}{counted}")
    last = ""
    for finding in examples:
        said = finding.to_json()
        click.echo(f"  {said['path']}{': ' if said['path'] else ''}{said['what']}")
        if said["do"] and said["do"] != last:
            click.echo(f"      -> {said['do']}")
        last = str(said["do"])
    if count > len(examples):
        click.echo(f"  ... and {count - len(examples):,} more (--json shows all)")


def _sum_up(root: Path, walk: FolderWalk, counts: FindingCounts, *, as_json: bool) -> None:
    levels = counts.levels()
    if as_json:
        totals = {"files": walk.files, "good": walk.good, "problems": levels["problem"], "notes": levels["note"]}
        head = {"level": "summary", "kind": "summary", "path": clean_line(home.shown(root), LONGEST)}
        click.echo(encode({**head, **totals, "kinds": dict(counts.by_kind), "exit_code": counts.exit_code}))
        return
    oddities = "oddity" if levels["note"] == 1 else "oddities"
    files = f"{count_of(walk.files, 'file')}, {walk.good:,} of them good"
    click.echo(f"\n{files}; {count_of(levels['problem'], 'problem')}, {levels['note']:,} harmless {oddities}")
