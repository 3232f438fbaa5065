#!/bin/bash
# vendi-score 0.0.3: the order q of the Vendi score, which weighs rare against frequent kinds of items.
# Expected: `score_X(X, q=...)` gives what `score_K(X @ X.T, q=...)` gives; equal items have the score 1 in every order,
# also q=0, which counts kinds; q=inf is the order infinity.
# Seen: `score_X` takes q and does not use it: every order gives the score of order 1. With q=0 eigenvalues that are zero but for
# rounding count as kinds, so twenty equal items can have a score above 1, as rounding falls (it is printed and decides nothing).
# q=math.inf gives nan; only the text "inf" is known.
# Exits 0 while it behaves so, 1 when it does not any more. Installs about 250 MB, takes seconds.
set -euo pipefail
work="$(mktemp -d)"
trap 'rm -rf "$work"' EXIT
cd "$work"
python3 -m venv env
env/bin/pip install --quiet --disable-pip-version-check vendi-score==0.0.3 numpy==2.3.5 scipy==1.17.0 scikit-learn==1.8.0
cat > try.py <<'P'
import math
import sys
import warnings
from importlib.metadata import version

import numpy as np
from vendi_score import vendi

warnings.simplefilter("ignore")
items = np.array([[1.0, 0.0]] * 9 + [[0.0, 1.0]])  # nine of one kind, one of another
orders = (0.5, 1, 2)
by_matrix = [float(vendi.score_K(items @ items.T, q=order)) for order in orders]
by_rows = [float(vendi.score_X(items, q=order)) for order in orders]
equal = float(vendi.score_K(np.ones((20, 20)), q=0))
infinite, named = (float(vendi.score_K(items @ items.T, q=order)) for order in (math.inf, "inf"))
print(f"vendi-score {version('vendi-score')}: orders {orders}: score_K {np.round(by_matrix, 3)}, score_X {np.round(by_rows, 3)};")
print(f"twenty equal items, q=0: {equal:.3f}; q=math.inf: {infinite}, q='inf': {named:.3f}")
ignored = len({round(one, 6) for one in by_rows}) == 1 and abs(by_rows[0] - by_matrix[1]) < 1e-6
sys.exit(0 if ignored and by_matrix[0] - by_matrix[2] > 0.3 and math.isnan(infinite) else 1)
P
env/bin/python try.py
