"""What a grader and the page say of the variants of cvfp, and what they must not claim."""

from __future__ import annotations

import re
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from hybrid.metrics import LARGEST, RoundMetrics
from hybrid.outputs import write_outputs
from hybrid.records import Output
from hybrid.report.page import write_report
from hybrid.report.sources import find_source
from pipelines.cvfp.grader import CvfpMeasures
from pipelines.cvfp.pipeline import Cvfp
from pipelines.cvfp.report import cautions, criteria_table
from pipelines.cvfp.results import Trained, difference, read, summary
from tests.support.in_process import Hybrid


def trained(variant: str, seed: int, *losses: float, **contexts: float) -> Trained:
    """A series with these held-out losses, an epoch each, after a sweep with these figures of contexts, if any."""
    sweeps: list[dict[str, float]] = [{"phase": 1.0, **contexts}] if contexts else []
    epochs = [{"phase": 2.0, "loss": one, "perplexity": 2.0 + one, "top1": one / 100} for one in losses]
    return Trained(variant, 0, seed, dict(enumerate([*sweeps, *epochs])), text="It was | written.")


def measures(series: list[Trained]) -> dict[tuple[str, str], Any]:
    return {(one.group, one.name): one for one in CvfpMeasures(series).measures()}


def test_a_counted_variant_stands_beside_every_seed_in_both_directions() -> None:
    series = [trained("token-only", 0, 5.5), trained("token-only", 1, 5.7), trained("bigram", 0, 2.9)]
    there, back = difference(series, "token-only", "bigram"), difference(series, "bigram", "token-only")
    assert there is not None
    assert back is not None
    assert (there.n, back.n) == (2, 2)
    assert (there.mean, back.mean) == pytest.approx((2.7, -2.7))
    assert back.interval == pytest.approx(tuple(-one for one in reversed(there.interval or ())))
    both = difference([*series, trained("unigram", 0, 4.0)], "unigram", "bigram")
    assert both is not None
    assert both.n == 1


def test_a_counted_variant_stands_beside_seeds_that_are_not_its_own() -> None:
    found = difference([trained("token-only", 7, 5.5), trained("bigram", 0, 2.5)], "bigram", "token-only")
    assert found is not None
    assert (found.n, found.mean) == (1, -3.0)


def test_an_interval_holds_only_what_the_figure_can_be() -> None:
    share, perplexity, loss = (summary([0.012, 0.026], one) for one in ("top1", "perplexity", "loss"))
    assert share is not None
    assert share.interval is not None
    assert share.interval[0] == 0.0
    assert 0.026 < share.interval[1] < 1.0
    assert perplexity is not None
    assert loss is not None
    assert loss.interval is not None
    assert loss.interval[0] < 0.0
    found = measures([trained("token-only", 0, 1.2), trained("token-only", 1, 2.6)])
    assert found["token-only", "top1 of held-out documents"].interval[0] == 0.0
    assert found["token-only", "perplexity of held-out documents"].interval[0] == 1.0


def test_sweeps_that_did_not_come_close_are_not_called_enough() -> None:
    reached = {"sweeps_needed": 12.0, "sweep_rate": 0.5, "sweep_bound": 9e-7, "growth": 0.9, "final_difference": 1e-6}
    cut = reached | {"sweeps_needed": 64.0, "sweep_bound": 0.048}
    one, other = trained("cvfp", 0, 2.0, **reached), trained("cvfp", 1, 2.0, **cut)
    assert (one.sweeps_needed, other.sweeps_needed) == (12.0, None)
    assert re.search(r"sweeps until .*<td[^>]*>–</td><td[^>]*>12</td>", criteria_table([one]))
    assert re.search(r"<td[^>]*>not within 64</td>", criteria_table([other]))
    assert re.search(r"<td[^>]*>12; not within 64: 1 of 2 seeds</td>", criteria_table([one, other]))
    name = "contexts: seeds within 1e-06 of the exact contexts after 64 sweeps"
    assert (measures([one, other])["cvfp", name].value, measures([one, other])["cvfp", name].n) == (1, 2)
    assert ("cvfp", "contexts: sweeps_needed") not in measures([one, other])
    assert measures([one])["cvfp", "contexts: sweeps_needed"].value == 12


def test_a_variant_whose_best_epoch_is_its_last_was_still_improving() -> None:
    still, done, counted = trained("cvfp", 0, 4.0, 3.0), trained("token-only", 0, 3.0, 4.0), trained("bigram", 0, 2.0)
    assert [one.still_improving for one in (still, done, counted)] == [True, False, False]
    done.rounds[2] = {"phase": 2.0, "stopped": 1.0}
    assert not done.still_improving
    found = measures([still, done, counted])
    name = "seeds that were still improving at their last epoch"
    assert [key for key in found if key[1] == name] == [("cvfp", name)]
    told = cautions([still, done, counted])
    assert re.search(r"<b>cvfp</b> was still improving at its last epoch \(1 of 1 seed\)", told)
    assert "<b>token-only</b>" not in told


@pytest.mark.parametrize("cut", [{"text": ""}, {"failure": "diverged"}, {"rounds": {1: {"phase": 2.0, "loss": 3.0}}}])
def test_a_series_that_has_not_ended_is_not_said_to_improve_at_its_last_epoch(cut: dict[str, Any]) -> None:
    whole, part = trained("cvfp", 0, 4.0, 3.0), replace(trained("cvfp", 1, 4.0, 3.0), **cut)
    assert (whole.still_improving, part.still_improving) == (True, False)
    assert "still improving" not in cautions([part])
    assert "(1 of 1 seed)" in cautions([whole, part])
    found = measures([whole, part])["cvfp", "seeds that were still improving at their last epoch"]
    assert (found.value, found.n) == (1, 1)


def test_a_phase_one_without_its_control_is_not_shown_to_help() -> None:
    alone = [trained("cvfp", 0, 3.0, 3.1, growth=0.9), trained("token-only", 0, 4.0, 4.1)]
    assert "without <b>end-to-end</b> nothing tells what phase 1 is worth" in cautions(alone)
    assert cautions([*alone, trained("end-to-end", 0, 2.9, 3.0)]) == ""
    assert cautions(alone[1:]) == ""


def test_the_demo_has_the_control_of_phase_one() -> None:
    assert {"cvfp", "end-to-end", "token-only"} <= set(Cvfp.presets["demo"]["variants"])  # type: ignore[call-overload]


def test_the_order_of_the_guide_is_refused_where_no_variant_has_it() -> None:
    with pytest.raises(ValueError, match="execution=token-by-token is of the guide's variants"):
        Cvfp(variants=("unigram", "token-only"), execution="token-by-token")
    Cvfp(variants=("guide", "unigram"), execution="token-by-token")


def records(series: list[Trained]) -> list[Output]:
    """The record of each round of these."""
    texts = [
        (f"{of.variant}/seed-{of.seed}", number, RoundMetrics(number, metrics).to_text())
        for of in series
        for number, metrics in of.rounds.items()
    ]
    return [
        Output(f"{at:064x}", task, f"{task}/{number:05d}", {}, 0, text, None, None)
        for at, (task, number, text) in enumerate(texts)
    ]


def test_figures_at_the_limit_of_what_a_number_can_be_do_not_end_a_grader() -> None:
    rank = {"effective_rank": 0.9, "effective_rank_of_noise": 1e-320}
    huge = [trained("cvfp", 0, LARGEST, **rank), trained("cvfp", 1, -LARGEST, growth=LARGEST, **rank)]
    found = measures(read(records([*huge, trained("bigram", 0, -LARGEST), trained("bigram", 1, LARGEST)])))
    assert found["cvfp", "contexts: effective_rank"].value == pytest.approx(0.9)
    assert ("cvfp", "contexts: effective_rank_over_noise") not in found
    assert found["cvfp", "perplexity of held-out documents"].interval == (1.0, LARGEST)
    assert ("cvfp", "loss minus that of bigram") not in found


def test_a_round_is_not_to_be_graded_and_is_not_counted_as_ungraded(tmp_path: Path, hybrid: Hybrid) -> None:
    run = {"id": "cvfp-0123456789ab", "pipeline": "cvfp", "settings": {}, "about": {"grader": "cvfp"}}
    write_outputs(path := tmp_path / "outputs.json", run, [], {}, records([trained("cvfp", 0, 3.0, 2.0)]))
    done = hybrid("grade", str(path), "--threshold", "0.5")
    lines = done.stdout.splitlines()
    assert "ungraded questions: none" in lines
    assert "not to be graded: 2 (a round has no score: 2)" in lines
    assert not any(line.startswith("cvfp (by question)") for line in lines)
    assert (done.code, "the score is none, since nothing here is to be graded" in done.stderr) == (3, True)
    page = write_report([find_source(path)], tmp_path / "r.html").read_text()
    assert 'data-status="unscored"' in page
    assert "<dt>Not to be graded</dt><dd>2 (a round has no score 2)</dd>" in page
    assert "<dt>Ungraded questions</dt><dd>0</dd>" in page
