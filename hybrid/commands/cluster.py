"""`hybrid worker --ray`: the same command, without that option, on every GPU of a Ray cluster."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Iterator
from contextlib import closing
from pathlib import Path

import click
from click.core import ParameterSource

from hybrid.errors import UsageError
from hybrid.folder.child import IsolatedFolder
from hybrid.worker.ray_actor import seen
from hybrid.worker.ray_cluster import Cluster, work_on_cluster

NOT_PASSED_ON = ("ray", "workers", "until")
"""`--until` becomes a time that is the same for a worker that starts later."""


def start_on_cluster(context: click.Context, folder: Path, say: Callable[[str], None]) -> None:
    """Run the command of `context` on the cluster that its option `--ray` names. Raises HybridError."""
    given = context.params
    if not given["ray"]:
        raise UsageError("--workers is for a Ray cluster", hint="hybrid worker --ray auto --workers N")
    until = given["until"]
    deadline = None if until is None else time.time() + until
    cluster = Cluster(given["ray"], given["workers"], folder, list(arguments_again(context, NOT_PASSED_ON)), deadline)
    with closing(IsolatedFolder(folder, seconds=given["mount_limit"])) as medium:
        runs = seen(medium)
    work_on_cluster(cluster, {run: sha256 for run, sha256 in runs.items() if run.startswith(given["run"])}, say)


def arguments_again(context: click.Context, without: tuple[str, ...]) -> Iterator[str]:
    """The options that the command was given, as they would be typed again, but those named in `without`."""
    for option in context.command.params:
        name = option.name or ""
        given = context.get_parameter_source(name) is ParameterSource.COMMANDLINE
        if not given or name in without or name not in context.params or not isinstance(option, click.Option):
            continue
        value = context.params[name]
        if option.is_flag:
            yield from [option.opts[-1]] if value else []
        else:
            yield from (f"{option.opts[-1]}={one}" for one in (value if option.multiple else [value]))
    level = logging.getLogger().level
    yield from {logging.ERROR: ["-q"], logging.INFO: ["-v"], logging.DEBUG: ["-vv"]}.get(level, [])
