"""The pipeline: its series, its presets, and a whole run with a small real model."""

from __future__ import annotations

import pytest

from pipelines.sapo.pipeline import Sapo


@pytest.mark.parametrize("preset", sorted(Sapo.presets))
def test_every_preset_is_accepted_and_names_its_series(preset: str) -> None:
    settings = Sapo(
        **{name: tuple(value) if isinstance(value, list) else value for name, value in Sapo.presets[preset].items()}
    )  # type: ignore[arg-type]
    names = [name for name, _ in settings._named()]
    assert (
        len(set(names))
        == len(names)
        == len(settings.arms) * len(settings.seeds) * (settings.nodes if settings.exchange == "folder" else 1)
    )


def test_a_run_says_which_library_made_its_tasks_and_what_silence_earns() -> None:
    inputs = Sapo(arms=("4-4",), tasks=("fraction_simplification", "basic_arithmetic")).inputs()
    assert inputs.about["grader"] == "sapo"
    assert inputs.about["silent"] == {
        "basic_arithmetic": {"paper": 0.0, "strict": 0.0},
        "fraction_simplification": {"paper": 0.01, "strict": 0.0},
    }
    assert inputs.tasks == {"4-4/seed-0": {"arm": "4-4", "seed": 0}}
