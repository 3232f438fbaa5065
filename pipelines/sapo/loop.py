"""The loop of a series: a swarm, or one of its nodes."""

from __future__ import annotations

from hybrid.loops import Lab, Loop, Series
from pipelines.sapo.folder_node import FolderNode
from pipelines.sapo.settings import SapoSettings
from pipelines.sapo.swarm import Swarm


def loop(settings: SapoSettings, series: Series, lab: Lab) -> Loop:
    """The nodes of a series."""
    if "node" in series.settings:
        return FolderNode(settings, series, lab, int(str(series.settings["node"])))
    return Swarm(settings, series, lab, range(settings.nodes))
