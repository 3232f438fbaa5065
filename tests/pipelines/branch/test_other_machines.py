"""The same selection with the arithmetic of other processors, as OpenBLAS and numpy have it for them."""

from __future__ import annotations

import os
import subprocess
import sys

import pytest

pytest.importorskip("numpy", reason="needs numpy, which is not installed")

CODE = """
import hashlib
import numpy as np
from hybrid.statistics.diversity import vendi
from hybrid.statistics.bradley_terry import Verdict, next_pairs, strengths
from pipelines.branch.calibration import calibrated
from pipelines.branch.clusters import clustered
from pipelines.branch.features import mixed
from pipelines.branch.rows import cosines, unit_rows
from pipelines.branch.selection import METHODS, Candidates, select

draws = np.random.Generator(np.random.PCG64(7))
vectors = (draws.integers(-99, 100, (60, 384)) + draws.integers(-99, 100, 384)).astype(np.float32)
rows = unit_rows(vectors)
ids = [f"id{place}" for place in range(60)]
near = cosines(rows, rows)
scores = mixed({"relevance": near[0].tolist()}, {"relevance": 1.0})
told = [[select(method, Candidates(rows, scores, ids), 25, limit=0.6) for method in sorted(METHODS)]]
told += [clustered(rows, ids, 0.5), calibrated(rows, [str(place % 4) for place in range(60)]), vendi(rows)]
said = [Verdict(ids[i], ids[i * i % 59], (i % 3) / 2) for i in range(2, 40) if i != i * i % 59]
told += [strengths(ids, said), next_pairs(ids, said, 20)]
plain = (vectors @ vectors.T / 3e5).tobytes()
print(hashlib.sha256(repr(told).encode() + near.tobytes()).hexdigest(), hashlib.sha256(plain).hexdigest())
"""
PLAIN = {"OPENBLAS_CORETYPE": "Prescott", "NPY_DISABLE_CPU_FEATURES": "AVX2 FMA3 AVX512F AVX512CD AVX512_SKX"}


def told(**settings: str) -> list[str]:
    """Digests of all that is selected and measured, and of plain products, which differ on most machines."""
    command = [sys.executable, "-W", "ignore", "-c", CODE]
    done = subprocess.run(command, env={**os.environ, **settings}, stdout=subprocess.PIPE, text=True, check=True)
    return done.stdout.split()


def test_an_old_processor_selects_what_a_new_one_does() -> None:
    assert told()[0] == told(**PLAIN)[0]
