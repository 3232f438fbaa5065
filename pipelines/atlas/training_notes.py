"""What a client says of its training beside what it learned: steps, loss, and how far its weights moved."""

from __future__ import annotations

from collections.abc import Sequence
from statistics import fmean

from hybrid.bounds import Bounds
from hybrid.canonical import Json
from hybrid.errors import BadData
from pipelines.atlas import aggregation
from pipelines.atlas.client_models import ClientModel
from pipelines.atlas.methods import Method
from pipelines.atlas.server import size_of

NOTES = "steps", "train_loss", "moved", "installed"
LARGEST = Bounds(-1e12, 1e12)


def gained(method: Method, before: ClientModel, trained: ClientModel, losses: Sequence[float]) -> dict[str, float]:
    """The mean loss of the steps and the norm of what training changed, each where it is a number: from a model that
    another's update spoiled, the loss need not be one, though the weights are.
    """
    found = {"train_loss": fmean(losses), "moved": _moved(method, before, trained)}
    return {name: value for name, value in found.items() if LARGEST.hold(value)}


def said(note: Json) -> dict[str, float]:
    """What the note of a client's message says, untrusted: finite numbers only. Raises BadData."""
    if not isinstance(note, dict):
        raise BadData("it says nothing of its training")
    known = {name: note[name] for name in NOTES if name in note}
    found = {name: float(value) for name, value in known.items() if type(value) in (int, float)}
    if len(found) < len(known) or not all(LARGEST.hold(value) for value in found.values()):
        raise BadData("what it says of its training are no numbers")
    return found


def _moved(method: Method, before: ClientModel, trained: ClientModel) -> float:
    """The Frobenius norm of what training changed in the product, or with `stack` added to it."""
    if method.combine == "stack":
        return size_of(trained.update)
    return size_of(aggregation.stacked([trained.update, before.update], [1.0, -1.0]))
