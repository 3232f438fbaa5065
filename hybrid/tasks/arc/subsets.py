"""Named subsets of ARC, by task id: never "the first n", which counts test inputs and cuts tasks in half.

The SEAL lists are the tasks of its filtered files (few-shot/data/*_filtered_1B_*). `seal-eval-8` is what its README's
evaluation commands grade of the 10, and what its stored result file lists.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence

from hybrid.errors import UsageError, nearest
from hybrid.machine.terminal import count_of

SEAL_TRAIN = (
    "44f52bb0", "4be741c5", "5582e5ca", "5614dbcf", "5bd6f4ac", "6150a2bd",
    "67e8384a", "6d0aefbc", "6e02f1e3", "8be77c9e", "8d5021e8", "8e1813be",
)  # fmt: skip

SEAL_EVAL = (
    "358ba94e", "59341089", "66e6c45b", "68b67ca3", "903d1b4a",
    "af24b4cc", "b1fc8b8e", "bc4146bd", "c7d4e6ad", "ce8d95cc",
)  # fmt: skip

SEAL_EVAL_8 = (
    "59341089", "66e6c45b", "68b67ca3", "903d1b4a", "b1fc8b8e", "bc4146bd", "c7d4e6ad", "ce8d95cc",
)  # fmt: skip

SMALL = (
    "0d3d703e", "25d8a9c8", "25ff71a9", "27a28665", "3c9b0459", "44f52bb0", "49d1d64f",
    "5582e5ca", "6150a2bd", "6e02f1e3", "74dd1130", "8be77c9e", "9565186b", "a85d4709",
    "c9e6f938", "d037b0a7", "d511f180", "d631b094", "e9afcf9a", "ed36ccf7",
)  # fmt: skip
"""The 20 tasks of ARC-AGI 1 training with the fewest cells to read: quick ones, chosen without a look at any answer."""

SUBSETS: Mapping[str, tuple[str, ...]] = {
    "seal-train": SEAL_TRAIN,
    "seal-eval": SEAL_EVAL,
    "seal-eval-8": SEAL_EVAL_8,
    "small": SMALL,
}
"""Name -> task ids, sorted. The `seal-eval` ones are of ARC-AGI 1 evaluation, the others of its training set."""


def choose(known: Iterable[str], *, subset: str, tasks: Sequence[str], limit: int) -> list[str]:
    """The ids of `known` in `subset` ("" = all) and in `tasks` (none = all), sorted, at most `limit` of them (0 = all).

    Raises UsageError for an unknown subset, for an id that `known` lacks, and when nothing is left.
    """
    if subset and subset not in SUBSETS:
        raise UsageError(f"no subset '{subset}'", hint=nearest(subset, SUBSETS))
    available = set(known)
    wanted = set(SUBSETS[subset]) if subset else available
    if tasks:
        wanted = {id for id in tasks if not subset or id in wanted}
    if missing := sorted(wanted - available):
        hint = "choose the data set that has it: --set dataset=..."
        raise UsageError(
            f"task '{missing[0]}' is not among the {count_of(len(available), 'task')} of the data", hint=hint
        )
    if not wanted:
        raise UsageError("no task is left to answer", hint=f"none of the given tasks is in the subset '{subset}'")
    return sorted(wanted)[: limit or None]
