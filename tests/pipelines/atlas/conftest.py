"""What tests of federations share: the built-in model, opened once, and federations on few rows."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from hybrid.loops import Lab


@pytest.fixture(scope="session")
def lab() -> Iterator[Lab]:
    """The backend of the model `tiny` on the CPU."""
    pytest.importorskip("torch")
    from hybrid.backends.classifier import ClassifierBackend

    backend = ClassifierBackend("tiny", {"device": "cpu"})
    yield backend
    backend.close()
