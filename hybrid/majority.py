"""The control of text graders: how often the best constant answer is right, in bounded memory.

One pass keeps candidates (Misra and Gries 1982): an answer that is given more often than once in `CANDIDATES` questions
is among them. The answers themselves go as digests to a temporary file, so a second look counts the candidates exactly.
When no answer is that frequent the result may be too low, by less than 1 / CANDIDATES.
"""

from __future__ import annotations

import hashlib
import tempfile
from collections import Counter
from collections.abc import Iterator
from types import TracebackType
from typing import Self

from hybrid.intervals import Clustered

CANDIDATES = 4096
SIZE = 8  # bytes of an answer's digest
NEW_TASK, SAME_TASK = b"\1", b"\0"


class Majority:
    """Takes the constant answer that each question would need, in order of task; tells the best one's accuracy."""

    def __init__(self, candidates: int = CANDIDATES) -> None:
        self._limit = candidates
        self._counters: dict[bytes, int] = {}
        self._file = tempfile.SpooledTemporaryFile(max_size=1024 * 1024)  # noqa: SIM115 - closed by __exit__
        self._task: str | None = None

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._file.close()

    def add(self, task: str, answer: str) -> None:
        """Count one question whose right constant answer is `answer`, in normal form."""
        digest = hashlib.blake2b(answer.encode("utf-8", "surrogatepass"), digest_size=SIZE).digest()
        self._file.write((SAME_TASK if task == self._task else NEW_TASK) + digest)
        self._task = task
        if digest in self._counters or len(self._counters) < self._limit:
            self._counters[digest] = self._counters.get(digest, 0) + 1
            return
        self._counters = {answer: count - 1 for answer, count in self._counters.items() if count > 1}

    def result(self) -> Clustered:
        """The accuracy of the best constant answer, with what its interval needs; empty without questions."""
        counts = Counter(digest for _, digest in self._rows() if digest in self._counters)
        best = min(counts, key=lambda digest: (-counts[digest], digest), default=b"")
        share = Clustered()
        for number, (task, digest) in enumerate(self._rows()):
            share.add(task, float(digest == best or (not best and number == 0)))
        return share

    def _rows(self) -> Iterator[tuple[str, bytes]]:
        self._file.seek(0)
        task = 0
        while block := self._file.read(4096 * (SIZE + 1)):
            for start in range(0, len(block), SIZE + 1):
                task += block[start : start + 1] == NEW_TASK
                yield str(task), block[start + 1 : start + 1 + SIZE]
