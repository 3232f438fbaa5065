"""The bank of policies that a tuning asks for, with the memory planned before anything is made."""

from __future__ import annotations

import logging
from typing import Any

from hybrid.errors import CannotRun
from hybrid.training.full_policies import FullBank
from hybrid.training.policy_bank import PolicyBank
from hybrid.training.policy_measure import pass_costs
from hybrid.training.policy_memory import (
    PolicyPlan,
    adapter_bytes,
    describe_adapters,
    describe_full,
    full_bytes,
    plan_passes,
    refuse_held,
    refuse_state,
)
from hybrid.tuning import PolicyTuning

LOG = logging.getLogger("hybrid")
LEAST_TOKENS = 64
"""Tokens of a text that must fit, or nothing begins. Longer ones are refused when they come."""


def policy_bank(
    model: Any, slots: int, tuning: PolicyTuning, tokens: int = 0, free: int | None = None, most_state: int = 0
) -> PolicyBank | FullBank:
    """Policies over a causal model of Hugging Face: adapters, or with rank 0 copies of all parameters.

    `tokens`: of a pass. `free`: bytes of the device, for the plan of memory; without them nothing is planned. Where a
    full pass does not fit, layers are computed again in the backward pass. `most_state`: bytes of a state that can be
    kept, 0 for any. Raises CannotRun, with the arithmetic where the policies do not fit.
    """
    made = PolicyBank if tuning.rank else FullBank
    parameters = made.parameters_of(model, tuning)
    if most_state:
        refuse_state(parameters, slots, most_state)
    if free is None:
        return made(model, slots, tuning, tokens=tokens)
    held = (adapter_bytes if tuning.rank else full_bytes)(parameters, slots)
    arithmetic = (describe_adapters if tuning.rank else describe_full)(parameters, slots)
    refuse_held(held, free, arithmetic)
    bank = made(model, slots, tuning, tokens=tokens)
    try:
        bank.plan = _planned(bank, held, free, arithmetic)
    except BaseException:
        bank.close()
        raise
    LOG.info("plan of the policies: %s", bank.plan.explain())
    return bank


def _planned(bank: PolicyBank | FullBank, held: int, free: int, arithmetic: str) -> PolicyPlan:
    """The plan of a bank, which then computes layers again if only so a pass fits, or a full one."""
    plan: PolicyPlan | None = None
    refused: CannotRun | None = None
    for checkpointed in (False, True) if bank.policy_model.layers else (False,):
        bank.checkpointed = checkpointed
        costs = pass_costs(bank)
        try:
            plan = plan_passes(held, free, arithmetic, costs, tokens=bank.tokens, least=LEAST_TOKENS)
        except CannotRun as error:
            refused = error
            continue
        if plan.allows(bank.tokens, bank.tokens, bank.tokens):
            return plan
    if plan is None and refused:
        raise refused
    if plan is None:
        raise ValueError("there was nothing to plan")
    bank.checkpointed = plan.costs.checkpointed
    return plan
