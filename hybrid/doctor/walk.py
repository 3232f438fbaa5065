"""Walk through the whole folder without following links: each file is good or gets a finding."""

from __future__ import annotations

import hashlib
import logging
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass

from hybrid.doctor import content, names
from hybrid.doctor.file_check import FileChecker
from hybrid.doctor.findings import LONGEST, Finding
from hybrid.errors import HybridError, Temporary
from hybrid.folder.medium import Entry, Medium, NotThere
from hybrid.folder.names import TENSORS, ShardName, TensorName
from hybrid.folder.runs import blob_name
from hybrid.folder.shards import MAX_FILE
from hybrid.machine.clock import Clock
from hybrid.machine.terminal import clean_line, count_of, is_or_are
from hybrid.models.catalog import model_statuses

LOG = logging.getLogger("hybrid")
MOST_ENTRIES = 500
MAX_DEPTH = 12
MOST_FAILURES = 3
"""Consecutive failed calls after which the walk stops: each of them may have taken a minute."""

MAYBE_COPY = "delete it when nothing else needs it"

Parts = tuple[str, ...]


@dataclass(frozen=True, slots=True)
class ListingTime:
    """How many entries a place has, and how many seconds it took to list them."""

    place: str
    entries: int
    seconds: float


class FolderUnavailable(Exception):
    """The folder does not answer any more."""


class FolderWalk:
    """One walk. `files` and `good` count the files seen so far; `largest` and `slowest` are the extreme listings."""

    def __init__(self, folder: Medium, clock: Clock) -> None:
        self._folder, self._clock, self._checker = folder, clock, FileChecker(folder)
        self._failures = 0
        self._seqs: Counter[int] = Counter()  # of the attempt that is being walked
        self.files, self.good = 0, 0
        self.largest = self.slowest = ListingTime("", 0, 0.0)

    def findings(self) -> Iterator[Finding]:
        """The findings about all files, as they are found."""
        try:
            yield from self._place(())
        except FolderUnavailable:
            yield Finding("away", "", "does not answer any more; the rest was not looked at", "run it again later")

    def _place(self, parts: Parts) -> Iterator[Finding]:
        place = "/".join(parts)
        if len(parts) == 4:
            LOG.info("%d files looked at; now %s", self.files, clean_line(place, LONGEST))
        try:
            entries = self._list(place)
        except HybridError as error:
            yield self._failed(place, error)
            return
        if len(entries) > MOST_ENTRIES:
            yield Finding("crowded", place, f"has {len(entries):,} entries; above {MOST_ENTRIES} a mount gets slow")
        yield from _odd_names(parts, [entry.name for entry in entries])
        self._seqs = Counter() if len(parts) == 4 else self._seqs
        for entry in sorted(entries, key=lambda one: one.name):
            yield from self._entry((*parts, entry.name), entry)
        yield from self._missing(parts, {entry.name for entry in entries})

    def _list(self, place: str) -> list[Entry]:
        start = self._clock.now()
        entries = self._folder.entries(place)
        listing = ListingTime(place, len(entries), self._clock.now() - start)
        self.largest = max(self.largest, listing, key=lambda one: one.entries)
        self.slowest = max(self.slowest, listing, key=lambda one: one.seconds)
        self._failures = 0
        return entries

    def _failed(self, path: str, error: HybridError) -> Finding:
        """The finding for a call that failed. Raises FolderUnavailable after MOST_FAILURES in a row."""
        if isinstance(error, Temporary) and not isinstance(error, NotThere):
            self._failures += 1
            if self._failures >= MOST_FAILURES:
                raise FolderUnavailable from error
            return Finding("away", path, error.message, error.hint or "run it again later")
        return Finding("denied" if error.exit_code == 7 else "damaged", path, error.message, error.hint)

    def _entry(self, parts: Parts, entry: Entry) -> Iterator[Finding]:
        if entry.kind == "folder":
            yield from self._subfolder(parts)
            return
        self.files += 1
        file_type = names.file_type_of(parts)
        path = "/".join(parts)
        if entry.kind == "other":
            yield _other(parts)
        elif file_type == "part":
            self.good += 1  # not read: models are large, and `hybrid models verify` does it
        elif file_type in (None, "beside"):
            found = list(self._outside(parts, path))
            self.good += file_type == "beside" and not found
            yield from found
        else:
            yield from self._file(parts, path, file_type)

    def _subfolder(self, parts: Parts) -> Iterator[Finding]:
        path, why = "/".join(parts), names.left_over(parts[-1])
        if names.file_type_of(parts) not in (None, "beside"):
            yield Finding("blocked", path, "is a folder where a file belongs", "move it away")
        elif why and (parts[0] != "runs" or not names.is_place(parts)):
            yield Finding("left-over", path, f"is not looked into: {why}")
            return
        elif not names.is_place(parts) and names.is_place(parts[:-1]):
            yield Finding("unknown", path, f"is no folder of the protocol: {names.why_unknown(parts[-1])}")
        if len(parts) >= MAX_DEPTH:
            yield Finding("too-deep", path, f"is {len(parts)} folders deep, nothing of hybrid's is")
            return
        yield from self._place(parts)

    def _file(self, parts: Parts, path: str, file_type: names.FileType) -> Iterator[Finding]:
        try:
            found = self._checker.findings(path, file_type)
            self._failures = 0
        except Temporary as error:
            yield self._failed(path, error)
            return
        self.good += all(finding.kind == "strange" for finding in found)
        yield from found
        if file_type == "shard" and (name := ShardName.parse(parts[-1])):
            self._seqs[name.seq] += 1

    def _outside(self, parts: Parts, path: str) -> Iterator[Finding]:
        """The findings about a file that no reader of the protocol reads."""
        name, why = parts[-1], names.left_over(parts[-1])
        if why:
            yield Finding("left-over", path, f"is not read: {why}")
        elif names.must_be_folder(parts):
            yield Finding("blocked", path, "is a file where a folder belongs", "move it away")
        elif parts[0] in names.BESIDE:
            original = names.original_of(name)
            if original:
                yield Finding("conflict-copy", path, f"looks like a copy of {original}", MAYBE_COPY)
        else:
            yield self._unknown(parts, path)

    def _unknown(self, parts: Parts, path: str) -> Finding:
        try:
            data = self._folder.read(path, MAX_FILE)
            self._failures = 0
        except HybridError as error:
            if error.exit_code in (5, 7):
                return self._failed(path, error)
            return Finding("unknown", path, f"is not read: {names.why_unknown(parts[-1])}; {error.message}")
        home = content.belongs(data)
        if home:
            return self._checker.elsewhere(path, home)
        original = "/".join(names.original_of(part) or part for part in parts)
        if original != path:
            return self._copy(path, original, data)
        return Finding("unknown", path, f"is not read: {names.why_unknown(parts[-1])}; {content.looks(data)}")

    def _copy(self, path: str, original: str, data: bytes) -> Finding:
        """The finding for a file that has the name of a copy and is itself no shard, note or spec."""
        if self._checker.would_count(original, data):
            return self._checker.elsewhere(path, original)
        what = f"has the name of a copy of {original} and is not counted"
        try:
            same = hashlib.sha256(self._folder.read(original, MAX_FILE)).digest() == hashlib.sha256(data).digest()
        except HybridError:
            return Finding(
                "conflict-copy", path, f"{what}; that one is not readable here; {content.looks(data)}", MAYBE_COPY
            )
        return Finding("conflict-copy", path, f"{what}; its content is {'the same' if same else 'another'}", MAYBE_COPY)

    def _missing(self, parts: Parts, present: set[str]) -> Iterator[Finding]:
        """The findings about files that should be in a place and are not."""
        if len(parts) == 2 and parts[0] == "runs" and names.is_place(parts):
            yield from self._missing_of_run(parts, present)
        if parts == ("models", "manifests"):
            yield from self._missing_of_models()
        if len(parts) == 6 and parts[2] == TENSORS and names.is_place(parts):
            yield from _missing_parts("/".join(parts), present)
        if len(parts) == 4 and parts[0] == "runs" and self._seqs:
            yield from _numbers("/".join(parts), self._seqs)

    def _missing_of_models(self) -> Iterator[Finding]:
        """Missing parts of packed models. Bad manifests were reported when they were checked."""
        try:
            found, _ = model_statuses(self._folder)
        except HybridError as error:
            yield self._failed("models", error)
            return
        for one in found:
            if not one.complete:
                absent = one.parts - one.here
                what = f"{absent:,} of the {count_of(one.parts, 'part')} of {one.model} {is_or_are(absent)} not here"
                yield Finding("not-here-yet", one.model.path, what, "wait for the sync, or pack the model again")

    def _missing_of_run(self, parts: Parts, present: set[str]) -> Iterator[Finding]:
        place = "/".join(parts)
        if "run.json" not in present:
            if present:
                yield Finding("not-here-yet", f"{place}/run.json", "without it this is no run", "wait for the sync")
            return
        spec = self._checker.spec(parts[1])
        for kind in ("inputs", "references") if spec else ():
            name = blob_name(kind, str(spec[kind])) if spec else ""
            if name not in present:
                do = "wait for the sync, or submit the run again"
                yield Finding("not-here-yet", f"{place}/{name}", f"the {kind} of the run are missing", do)


def _missing_parts(place: str, present: set[str]) -> Iterator[Finding]:
    """Tensors of which some parts are missing here; another attempt may have them."""
    known = [name for name in map(TensorName.parse, present) if name]
    for whole, of in sorted({(name.whole, name.of) for name in known}):
        here = {name.part for name in known if (name.whole, name.of) == (whole, of)}
        if len(here) < of:
            what = f"lacks {of - len(here):,} of the {count_of(of, 'part')} of {whole[:16]}"
            yield Finding("gap", place, what, "wait for the sync; training goes on from an older one, or is done again")


def _numbers(place: str, seqs: Counter[int]) -> Iterator[Finding]:
    missing = [str(number) for number in range(max(seqs)) if number not in seqs][:10]
    absent = max(seqs) + 1 - len(seqs)
    if absent:
        what = f"lacks {absent:,} of its shards: number {', '.join(missing)}{' ...' if absent > 10 else ''}"
        yield Finding("gap", place, what, "wait for the sync; what was lost or deleted is done again")
    twice = [str(number) for number, count in sorted(seqs.items()) if count > 1]
    if twice:
        yield Finding("twice", place, f"has two shards of number {', '.join(twice[:10])}: both count if both are good")


def _other(parts: Parts) -> Finding:
    path, what = "/".join(parts), "is a link, a device or a pipe: never opened"
    if parts[0] not in names.BESIDE and (names.file_type_of(parts) or names.is_place(parts)):
        return Finding("blocked", path, f"{what}; what belongs there is hidden", "put the file itself there")
    return Finding("special", path, what)


def _odd_names(parts: Parts, found: list[str]) -> Iterator[Finding]:
    for group in names.clashes(found):
        path = "/".join((*parts, group[0]))
        what = f"differs only in case or form from {', '.join(group[1:4])}: one file on Windows and macOS"
        yield Finding("case", path, what, "rename or delete what is not hybrid's")
    for name in found:
        if not names.is_nfc(name):
            yield Finding("not-nfc", "/".join((*parts, name)), "is written in another Unicode form (NFD)")
