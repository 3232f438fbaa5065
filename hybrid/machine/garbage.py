"""No search for garbage while much is made that stays."""

from __future__ import annotations

import gc
from collections.abc import Iterator
from contextlib import contextmanager


@contextmanager
def uncollected() -> Iterator[None]:
    """Do not look for garbage meanwhile: Python looks at everything again each time that its objects grow by a quarter.

    For imports and tables, which leave hardly any: it is a seventh of the time of a short command. Not for a run, whose
    garbage may hold a model.
    """
    was_enabled = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if was_enabled:
            gc.enable()
