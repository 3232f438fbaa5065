"""The bank of policies that a tuning asks for."""

from __future__ import annotations

from typing import Any

from hybrid.training.full_policies import FullBank
from hybrid.training.policy_bank import PolicyBank
from hybrid.tuning import PolicyTuning


def policy_bank(model: Any, slots: int, tuning: PolicyTuning, tokens: int = 0) -> PolicyBank | FullBank:
    """Policies over a causal model of Hugging Face: adapters, or with rank 0 copies of all parameters.

    `tokens`: of a pass. Raises CannotRun.
    """
    return (PolicyBank if tuning.rank else FullBank)(model, slots, tuning, tokens=tokens)
