"""Garbage is not looked for while much is made that stays, and is again afterwards."""

from __future__ import annotations

import gc

import pytest

from hybrid.machine.garbage import uncollected


def test_garbage_is_looked_for_again_after_the_block_also_when_it_fails() -> None:
    assert gc.isenabled()
    with uncollected():
        assert not gc.isenabled()
    assert gc.isenabled()
    with pytest.raises(ZeroDivisionError), uncollected():
        _ = 1 / 0
    assert gc.isenabled()


def test_who_has_turned_it_off_keeps_it_so() -> None:
    gc.disable()
    try:
        with uncollected():
            pass
        assert not gc.isenabled()
    finally:
        gc.enable()
