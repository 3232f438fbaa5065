"""The setting of torch's allocator of GPU memory is there before torch is, unless the user has one."""

from __future__ import annotations

import os
import sys

import pytest

from hybrid.machine import gpu_memory
from hybrid.machine.gpu_memory import NAMES, SEGMENTS, let_segments_grow
from hybrid.machine.late_imports import import_object

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="only Linux has such segments")


@pytest.fixture(autouse=True)
def _nothing_is_set(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in NAMES:
        monkeypatch.setenv(name, "")  # so that what is set here is gone afterwards
        monkeypatch.delenv(name)


def settings() -> dict[str, str]:
    return {name: os.environ[name] for name in NAMES if name in os.environ}


@pytest.mark.parametrize(
    ("torch", "name"), [("2.6.0", NAMES[1]), ("2.8.0+cu128", NAMES[1]), ("2.9.1", NAMES[0]), ("2.13.0+cu130", NAMES[0])]
)
def test_each_torch_gets_the_name_that_it_knows(torch: str, name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(gpu_memory, "version", lambda _: torch)
    let_segments_grow()
    let_segments_grow()
    assert settings() == {name: SEGMENTS}


@pytest.mark.parametrize("name", NAMES)
def test_the_users_own_setting_stays(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(name, "max_split_size_mb:64")
    let_segments_grow()
    assert settings() == {name: "max_split_size_mb:64"}


def test_what_may_import_torch_is_imported_after_the_setting() -> None:
    pytest.importorskip("torch")
    import_object("json:loads", needed_for="this test")
    assert list(settings().values()) == [SEGMENTS]
