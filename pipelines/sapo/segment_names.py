"""Under which names and numbers a swarm publishes its rollouts."""

from __future__ import annotations

from pipelines.sapo.settings import SapoSettings

MORE = "-more"
"""Ends the name of a segment that a node published after it had found too few rollouts of others."""


def segment_name(series: str) -> str:
    """The name of the segments of a series."""
    return series.replace("/", "-")


def segments_of(settings: SapoSettings, series: str, round: int) -> list[tuple[str, int]]:
    """Names and numbers of the segments in which the rollouts of a series and a round may be."""
    name = segment_name(series)
    if settings.exchange == "memory":
        return [(name, round // settings.publish_every)]
    return [(name, round), (name + MORE, round)]
