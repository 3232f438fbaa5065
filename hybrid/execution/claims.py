"""The claims that workers of one machine share on a stage. They only save work: correctness does not need them."""

from __future__ import annotations

from collections.abc import Collection, Iterator
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass
from typing import Protocol


@dataclass(frozen=True, slots=True)
class SiblingClaims:
    """What the other workers of this machine hold of a stage; `attempts` are those that work on it."""

    attempts: frozenset[str] = frozenset()
    blocks: frozenset[int] = frozenset()


class Claims(Protocol):
    """The claims on one stage, seen by one attempt. Called from several threads."""

    def others(self, within: float) -> SiblingClaims:
        """What other attempts hold that were at work within so many seconds."""
        ...

    def take(self, block: int) -> bool:
        """Claim a block. False when another attempt has claimed it meanwhile."""
        ...

    def release(self, blocks: Collection[int] | None = None) -> None:
        """Give blocks back, all when None is given."""
        ...

    def looking(self) -> AbstractContextManager[None]:
        """The records are read in the block: what others gave back before it is free after it."""
        ...


class NoClaims:
    """There is no other worker on this machine."""

    def others(self, within: float) -> SiblingClaims:
        return SiblingClaims()

    def take(self, block: int) -> bool:
        return True

    def release(self, blocks: Collection[int] | None = None) -> None:
        """Nobody else wants them."""

    @contextmanager
    def looking(self) -> Iterator[None]:
        yield
