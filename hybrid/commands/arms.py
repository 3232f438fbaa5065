"""`--arm` of a run: arms that a pipeline compares, some with models of their own.

`--model ARM=NAME` gives an arm its own model: the arm's name is then a role. The first arm asks the first model, so
what names that arm's model names the first one.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from hybrid.canonical import Json

BY_ROLE = ("models", "backends", "options", "digests")
"""Options whose texts may begin with the name of a role."""


def with_arms(how: Mapping[str, Any]) -> dict[str, Any]:
    """The options, with those that name the first arm's model as those of the first model."""
    first = f"{_names(how)[0]}=" if how["arms"] else ""
    if not first:
        return dict(how)
    return {
        **how,
        **{name: tuple(_of_first(how[name], first)) for name in BY_ROLE if name in how},
    }


def _of_first(texts: tuple[str, ...], first: str) -> Iterator[str]:
    for text in texts:
        yield text.removeprefix(first.removesuffix("=")) if text.startswith(first) else text


def arms_given(how: Mapping[str, Any]) -> dict[str, Json]:
    """The settings of a pipeline that the arms are; none without arms."""
    if not how["arms"]:
        return {}
    named = {text.partition("=")[0] for text in (*how["models"], *how["backends"]) if "=" in text}
    own = [name for name in _names(how)[1:] if name in named]
    return {"arms": list(how["arms"]), **({"own_models": own} if own else {})}


def _names(how: Mapping[str, Any]) -> list[str]:
    return [text.partition(":")[0] for text in how["arms"]]
