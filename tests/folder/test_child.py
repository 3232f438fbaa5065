"""A folder behind a process gives many files in one call, and each error with its file."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import pytest

from hybrid.errors import BadData, HybridError, Temporary
from hybrid.folder import child, medium
from hybrid.folder.child import IsolatedFolder
from hybrid.folder.medium import Disk, Medium, NotThere, read_each
from hybrid.status.circuit_breaker import CircuitBreaker, FolderUnavailable

LIMIT = 1000
NAMES = [f"{number:03d}" for number in range(150)]


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    for name in NAMES:
        (tmp_path / name).write_bytes(name.encode() * int(name))
    (tmp_path / "010").unlink()
    (tmp_path / "020").write_bytes(b"x" * (LIMIT + 1))
    return tmp_path


@pytest.fixture
def isolated(folder: Path) -> Iterator[IsolatedFolder]:
    with closing(IsolatedFolder(folder, seconds=60)) as opened:
        yield opened


def read_all(of: Medium) -> list[tuple[str, object]]:
    found = list(read_each(of, NAMES, LIMIT))
    return [(path, (type(one), one.message, one.hint) if isinstance(one, HybridError) else one) for path, one in found]


def test_many_files_are_what_each_of_them_is(
    folder: Path, isolated: IsolatedFolder, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole = read_all(Disk(folder))
    assert [path for path, _ in whole] == NAMES
    kinds = {path: one[0] for path, one in whole if isinstance(one, tuple)}
    assert kinds == {"010": NotThere, "020": BadData}
    asked: list[str] = []
    real = IsolatedFolder._ask
    monkeypatch.setattr(IsolatedFolder, "_ask", lambda self, do, *rest: asked.append(do) or real(self, do, *rest))  # type: ignore[func-returns-value]
    assert read_all(isolated) == whole
    assert len(asked) == 3
    assert read_all(CircuitBreaker(isolated)) == whole
    monkeypatch.setattr(child, "ENOUGH", 1000)
    files = child._unpacked(child._several(Disk(folder), NAMES, LIMIT))
    assert 1 < len(files) < 50


def test_after_a_call_that_failed_each_file_is_asked_for_alone(
    isolated: IsolatedFolder, monkeypatch: pytest.MonkeyPatch
) -> None:
    real = IsolatedFolder._ask

    def ask(self: IsolatedFolder, do: str, path: str, body: bytes = b"", limit: int = 0) -> bytes:
        if do == "several" or path == "003":
            raise Temporary("did not answer")
        return real(self, do, path, body, limit)

    whole = dict(read_all(isolated))
    monkeypatch.setattr(IsolatedFolder, "_ask", ask)
    found = dict(read_all(isolated))
    assert isinstance(found.pop("003"), tuple)
    assert found == {path: one for path, one in whole.items() if path != "003"}


def test_a_folder_that_keeps_failing_is_given_up(isolated: IsolatedFolder, monkeypatch: pytest.MonkeyPatch) -> None:
    def ask(self: IsolatedFolder, do: str, path: str, body: bytes = b"", limit: int = 0) -> bytes:
        raise Temporary(f"{path}: did not answer")

    monkeypatch.setattr(IsolatedFolder, "_ask", ask)
    with pytest.raises(FolderUnavailable, match="keeps failing: 002: did not answer"):
        read_all(CircuitBreaker(isolated))
    assert medium.AT_ONCE > 3
