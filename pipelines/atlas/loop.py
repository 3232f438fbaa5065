"""The loop of a series: its rows, tokenized and divided, and the federation of its method."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from hybrid.loops import Lab, Loop, Series
from pipelines.atlas.federation import Federation
from pipelines.atlas.folder_federation import FolderClient, FolderServer
from pipelines.atlas.full_federation import FullFederation
from pipelines.atlas.methods import METHODS
from pipelines.atlas.model_check import check_model
from pipelines.atlas.rows import federated_rows
from pipelines.atlas.settings import AtlasSettings
from pipelines.atlas.timed_federation import TimedFederation, TimedPools


def loop(settings: AtlasSettings, series: Series, lab: Lab, data: Mapping[str, Any]) -> Loop:
    """The federation of a series, on the rows that the run froze."""
    rows = federated_rows(settings, int(str(series.settings["seed"])), lab, data)
    check_model(settings, lab, [rows.task_labels[one.task] for one in rows.clients])
    if "client" in series.settings:
        return FolderClient(settings, series, lab, rows)
    if settings.exchange == "folder":
        return FolderServer(settings, series, lab, rows)
    method = METHODS[series.settings["method"]]  # type: ignore[index]
    if method.combine == "full":
        return FullFederation(settings, series, lab, rows)
    timed = TimedPools if method.groups == "pooled" else TimedFederation
    return (timed if settings.devices else Federation)(settings, series, lab, rows)
