"""Guards over finished rounds: methods that do nothing, clients that do not train, series that are not whole."""

from __future__ import annotations

from collections.abc import Sequence

import pytest

from hybrid.records import Failure, Output
from pipelines.atlas.guards import Finding, findings, void
from pipelines.atlas.results import read_series
from tests.support.atlas_runs import Groups, atlas_outputs, federation, output


def found(outputs: Sequence[Output], **same_as: str) -> list[Finding]:
    return findings(read_series(outputs), {name.replace("_", "-"): of for name, of in same_as.items()})


def renamed(outputs: Sequence[Output], method: str, seed: int = 0) -> list[Output]:
    """The same rounds as those of another method."""
    name = f"{method}/seed-{seed}"
    return [
        Output(f"{name} {place}", name, f"{name}/{place:05}", {}, 0, one.text, None, None)
        for place, one in enumerate(outputs)
    ]


def test_sound_methods_trip_no_guard() -> None:
    assert found(atlas_outputs()) == []


def test_two_methods_that_are_equal_to_the_bit_are_a_fault_and_lose_their_scores() -> None:
    """ATLAS with and without its Laplacian had the same losses in ten rounds, since nothing was ever installed."""
    own = federation("atlas", 0)
    (fault,) = found([*own, *renamed(own, "mira")])
    assert (fault.weight, fault.series) == ("fault", ("mira/seed-0", "atlas/seed-0"))
    assert "mira and atlas (seed 0) are equal to the bit in every loss and accuracy" in fault.text
    assert void([fault]).keys() == {"mira/seed-0", "atlas/seed-0"}


def test_other_bytes_do_not_hide_that_two_methods_learned_the_same() -> None:
    def cheaper(number: int, metrics: dict[str, float], groups: Groups) -> None:
        metrics["upload_bytes"] = 1

    rounds = renamed(federation("atlas", 0, change=cheaper), "mira")
    assert [one.weight for one in found([*federation("atlas", 0), *rounds])] == ["fault"]


def test_methods_that_are_the_same_by_construction_or_found_the_same_clusters_are_told_as_a_note() -> None:
    plain = federation("fedavg-lora", 0)
    equal = [*plain, *renamed(plain, "hetlora"), *renamed(plain, "ffa")]
    assert {one.weight for one in found(equal)} == {"fault"}
    notes = found(equal, hetlora="fedavg-lora", ffa="hetlora")
    assert {one.weight for one in notes} == {"note"}
    assert void(notes) == {}
    clusters = federation("cluster", 0)
    (note,) = found([*clusters, *renamed(clusters, "oracle-clusters")])
    assert (note.weight, note.text.split(": ")[1]) == ("note", "they found the same clusters")
    (fault,) = found([*clusters, *renamed(clusters, "mira")])  # the same groups, but another way to combine
    assert fault.weight == "fault"


def test_a_seed_that_changes_nothing_is_a_fault() -> None:
    own = federation("local", 0)
    (fault,) = found([*own, *renamed(own, "local", 1)])
    assert fault.text == "local/seed-0, local/seed-1 are equal to the bit: the seed changes nothing"


@pytest.mark.parametrize("moved", [0.0, None])
def test_a_client_whose_weights_did_not_change_or_are_not_numbers_is_a_fault(moved: float | None) -> None:
    def still(number: int, metrics: dict[str, float], groups: Groups) -> None:
        if number == 1:
            del groups["client-02"]["moved"]
            groups["client-02"] |= {} if moved is None else {"moved": moved}

    (fault,) = found(federation("local", 0, change=still))
    assert fault.text == "local/seed-0: training did not change the weights of client-02 in round 1"
    assert fault.weight == "fault"


def test_an_update_that_the_server_refused_is_a_warning_and_a_client_that_sat_out_is_nothing() -> None:
    def refused(number: int, metrics: dict[str, float], groups: Groups) -> None:
        if number == 1:
            del groups["client-02"]["moved"], groups["client-02"]["train_loss"]
            metrics["left_out"] = 1
        for name in ("steps", "moved"):
            del groups["client-05"][name]

    (warning,) = found(federation("local", 0, change=refused))
    assert (warning.weight, void([warning])) == ("warning", {})
    assert "1 updates were left out" in warning.text


def test_an_update_that_was_left_out_does_not_hide_a_client_that_did_not_change() -> None:
    def frozen(number: int, metrics: dict[str, float], groups: Groups) -> None:
        if number == 1:
            groups["client-01"]["moved"] = 0.0
        metrics["left_out"] = int(number == 2)

    assert [one.weight for one in found(federation("local", 0, change=frozen))] == ["fault", "warning"]


def test_a_series_that_does_not_say_what_training_changed_is_a_warning() -> None:
    def silent(number: int, metrics: dict[str, float], groups: Groups) -> None:
        for one in groups.values():
            one.pop("moved", None)
            one.pop("steps", None)

    (warning,) = found(federation("local", 0, change=silent))
    assert (warning.weight, warning.text) == ("warning", "local/seed-0: no client says what training changed")


def test_a_series_with_missing_rounds_is_not_compared() -> None:
    rounds = federation("local", 0)
    rounds[2] = output("local/seed-0", 2, Failure("diverged", "the loss is nan"))
    (missing,) = found(rounds)
    assert missing.text.startswith("local/seed-0 has 3 of 4 rounds: the loss is nan")
    assert void([missing]).keys() == {"local/seed-0"}
    (first,) = found([output("local/seed-0", 0, Failure("diverged", "at once"))])
    assert "0 of 1 rounds" in first.text
    gap = [one for one in federation("local", 0) if not one.question.endswith("00001")]
    assert [one.weight for one in found(gap)] == ["missing"]


def test_what_was_not_installed_and_equal_fingerprints_are_faults() -> None:
    def lost(number: int, metrics: dict[str, float], groups: Groups) -> None:
        groups["client-01"]["installed"] = 0.0
        groups["client-03"]["nearest"] = 1.0

    texts = [one.text for one in found(federation("atlas", 0, change=lost))]
    assert texts[0] == "atlas/seed-0: client-01 did not hold what the server had sent"
    assert texts[1].startswith("atlas/seed-0: client-03 have the fingerprint of another client")


def test_an_f1_below_that_of_the_most_frequent_label_is_flagged_and_keeps_its_score() -> None:
    def bad(number: int, metrics: dict[str, float], groups: Groups) -> None:
        for name, group in groups.items():
            group["dev_f1" if name.startswith("client-") else "f1"] = 0.312

    (warning,) = found(federation("local", 0, change=bad))
    assert warning.text == "local: F1 is below that of the most frequent label: 0.312 against 0.500 (seed 0)"
    assert (warning.weight, warning.series, void([warning])) == ("warning", ("local/seed-0",), {})


def test_an_accuracy_at_the_majority_is_flagged_with_its_task_and_keeps_its_score() -> None:
    def bad(number: int, metrics: dict[str, float], groups: Groups) -> None:
        groups["task-polarity"]["dev_accuracy"] = groups["task-polarity"]["dev_majority"] = 0.684

    (warning,) = found(federation("local", 0, change=bad))
    assert warning.weight == "warning"
    assert warning.text == (
        "local: accuracy is not above that of the most frequent label: 0.684 against 0.684 (polarity, seed 0)"
    )
    assert void([warning]) == {}
