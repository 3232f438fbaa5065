"""The majority control of text graders: the accuracy of the best constant answer, in bounded memory.

The first pass finds candidates (Misra and Gries 1982): every answer of more than one in `CANDIDATES` questions is among
them. The digests of all answers go to a temporary file, and a second pass counts the candidates exactly. When no answer
is that frequent, the result may be too low by less than 1 / CANDIDATES.
"""

from __future__ import annotations

import hashlib
import tempfile
from collections import Counter
from collections.abc import Iterator
from io import SEEK_END
from struct import iter_unpack
from types import TracebackType
from typing import Self

from hybrid.statistics.intervals import ClusteredMean

CANDIDATES = 4096
SIZE = 8  # bytes of an answer's digest
NEW_TASK, SAME_TASK = b"\1", b"\0"

BLOCK = 8192 * (1 + SIZE)
"""Bytes that are written and read at once: a whole number of questions."""


class MajorityControl:
    """Collects the right constant answer of each question, sorted by task, and computes the best one's accuracy."""

    def __init__(self, candidates: int = CANDIDATES) -> None:
        self._limit = candidates
        self._counters: dict[bytes, int] = {}
        self._file = tempfile.SpooledTemporaryFile(max_size=1024 * 1024)  # noqa: SIM115 - closed by __exit__
        self._rows = bytearray()  # not written to the file yet
        self._task: str | None = None
        self._exact = True  # no candidate was dropped yet: the counters are exact

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._file.close()

    def add(self, task: str, answer: str) -> None:
        """Add one question whose right constant answer is `answer`, in normal form."""
        digest = hashlib.blake2b(answer.encode("utf-8", "surrogatepass"), digest_size=SIZE).digest()
        self._rows += (SAME_TASK if task == self._task else NEW_TASK) + digest
        if len(self._rows) > BLOCK:
            self._write()
        self._task = task
        if digest in self._counters or len(self._counters) < self._limit:
            self._counters[digest] = self._counters.get(digest, 0) + 1
            return
        self._exact = False
        self._counters = {answer: count - 1 for answer, count in self._counters.items() if count > 1}

    def result(self) -> ClusteredMean:
        """The accuracy of the best constant answer as a clustered mean; empty without questions."""
        self._write()
        counts = Counter(self._counters)
        if not self._exact:
            counts = Counter(digest for _, digest in self._read() if digest in self._counters)
        best = min(counts, key=lambda digest: (-counts[digest], digest), default=b"")
        share = ClusteredMean()
        size, right = 0, int(not best)  # without a candidate: the first answer, which is right once
        for start, digest in self._read():
            if start == NEW_TASK and size:
                share.add_cluster(size, float(right))
                size = right = 0
            size += 1
            right += digest == best
        if size:
            share.add_cluster(size, float(right))
        return share

    def _write(self) -> None:
        self._file.seek(0, SEEK_END)
        self._file.write(self._rows)
        self._rows.clear()

    def _read(self) -> Iterator[tuple[bytes, bytes]]:
        """Whether a task starts, and the digest, of each question."""
        self._file.seek(0)
        while block := self._file.read(BLOCK):
            yield from iter_unpack(f"=c{SIZE}s", block)
