"""The arms of a question: the same prompt, answered by another model or asked in another way (`view.arm`)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from hybrid.records import Output

MOST = 100
"""Arms of a run whose names are read."""
LONGEST_NAME = 200


def arms_named(run: Mapping[str, Any]) -> list[str]:
    """The names of a run's arms in their order, as `run.about.arms` has them; none when it names none."""
    about = run.get("about")
    named = about.get("arms") if isinstance(about, Mapping) else None
    return [one[:LONGEST_NAME] for one in named[:MOST] if isinstance(one, str)] if isinstance(named, list) else []


def arm_of(output: Output) -> str:
    """The arm that an output belongs to; "" for none."""
    name = output.view.get("arm")
    return name[:LONGEST_NAME] if isinstance(name, str) else ""


def by_arm(outputs: Sequence[Output], names: Sequence[str]) -> dict[str, Sequence[Output]]:
    """The outputs of each arm. The first arm, with which the others are compared, stands first even without outputs.

    Where the run names none, it is the arm of the outputs that name none, else the first by name.
    """
    if not any("arm" in one.view for one in outputs):
        return {"": outputs}
    found: dict[str, list[Output]] = {name: [] for name in names}
    for one in outputs:
        found.setdefault(arm_of(one), []).append(one)
    return dict(found) if names else {name: found[name] for name in sorted(found)}
