"""The rank and the scale of each layer of an adapter, from PEFT's configuration."""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from hybrid.tuning import MOST_RANK

PATTERN = re.compile(r"\^?(?:[A-Za-z0-9_.]|\\\.){1,200}")
"""The keys of patterns that are read: names of layers, or ends of names. Other regular expressions of a file may take
time without end.
"""
MOST_PATTERNS = 4096


@dataclass(frozen=True, slots=True)
class AdapterScales:
    """PEFT's settings of ranks and scales. `ranks` and `alphas` override them for the layers that a pattern matches."""

    rank: int
    alpha: float
    stabilized: bool
    ranks: Mapping[str, int]
    alphas: Mapping[str, float]

    @classmethod
    def of(cls, config: Mapping[str, Any]) -> AdapterScales:
        """From the content of an untrusted adapter_config.json. Raises KeyError, TypeError, ValueError."""
        ranks, alphas = (config.get(name) or {} for name in ("rank_pattern", "alpha_pattern"))
        for pattern in (*ranks, *alphas):
            if not PATTERN.fullmatch(pattern):
                raise ValueError(f"the pattern {pattern[:60]!r} is neither the name of a layer nor the end of one")
        if len(ranks) + len(alphas) > MOST_PATTERNS:
            raise ValueError(f"more than {MOST_PATTERNS:,} patterns of ranks and alphas")
        if type(stabilized := config.get("use_rslora") or False) is not bool:
            raise ValueError("use_rslora is neither true nor false")
        return cls(
            _rank(config["r"]),
            _alpha(config["lora_alpha"]),
            stabilized,
            {pattern: _rank(value) for pattern, value in ranks.items()},
            {pattern: _alpha(value) for pattern, value in alphas.items()},
        )

    @property
    def scale(self) -> float:
        """The factor of the update B A x of a layer that no pattern matches."""
        return self._scale(self.rank, self.alpha)

    def of_layer(self, name: str) -> tuple[int, float]:
        """The rank of a layer, and the factor of its update."""
        rank = self.ranks.get(_first(self.ranks, name), self.rank)
        return rank, self._scale(rank, self.alphas.get(_first(self.alphas, name), self.alpha))

    def _scale(self, rank: int, alpha: float) -> float:
        return alpha / math.sqrt(rank) if self.stabilized else alpha / rank


def _first(patterns: Mapping[str, Any], name: str) -> str:
    """The pattern that PEFT takes: the first one that is the name, or its end after a dot; "" for none."""
    return next((one for one in patterns if re.fullmatch(rf"(.*\.)?({one})", name)), "")


def _rank(value: Any) -> int:
    if type(value) is not int or not 1 <= value <= 2 * MOST_RANK:
        raise ValueError("a rank is out of range")
    return value


def _alpha(value: Any) -> float:
    if type(value) not in (int, float) or not (math.isfinite(value) and value > 0):
        raise ValueError("an alpha is out of range")
    return float(value)
