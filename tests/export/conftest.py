"""Runs to export, for all tests here."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

from tests.support.graded_runs import graded_run

DATA = Path(__file__).parents[1] / "data"


@pytest.fixture
def outputs(tmp_path: Path) -> Path:
    return graded_run(tmp_path)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A shared folder with a run of two test inputs in three views, its outputs, and their grades."""
    place = tmp_path / "folder"
    shutil.copytree(DATA / "v1", place)
    return place
