"""What an engine of vLLM writes for policies that are trained beside it, for `tests.support.vllm_checks`."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from contextlib import suppress
from itertools import chain
from pathlib import Path
from typing import Any
from unittest.mock import patch

from hybrid.backends import vllm_sampling
from hybrid.backends.policies import LanguageModelPolicies
from hybrid.backends.transformers import TransformersBackend
from hybrid.backends.vllm_engine import Advice
from hybrid.backends.vllm_sampling import SamplerEngine, VllmSampler
from hybrid.errors import CannotRun, HybridError
from hybrid.loops import PolicyText, Prompt, Sampled
from hybrid.records import Message, Sampling
from hybrid.tuning import PolicyTuning
from pipelines.sapo.other_sampler import differences

TUNING = PolicyTuning(rank=8, alpha=16.0)
TOKENS = 8


def policies(engine: Any, model: str) -> dict[str, Any]:
    """What two policies write by `engine`, which takes two adapters of rank 8, and by the model that is trained."""
    backend = TransformersBackend(model, {"device": "cpu", "context": "512"})
    own: Any = backend.policies(2, TUNING)
    for slot in range(2):
        own.begin(slot, slot)
    holder = given(engine)
    sampler = holder.sampler(own._bank, TUNING.rank, own._detokenizer, backend._ends)
    found: dict[str, Any] = {"rounds": [], "name": sampler.name}
    for _ in range(2):
        found["rounds"].append(compared(own, sampler))
        taught(own)
    found["stopped"] = [one.sample([stopping(own)])[0][:3] for one in (sampler, own)]
    found["again"] = [one.ids for one in sampler.sample(asked(own))] == [one.ids for one in sampler.sample(asked(own))]
    found["dead"] = dead(engine, sampler, asked(own))
    found["long"] = too_long(sampler, asked(own)[0])
    found["held"] = [len(engine.list_loras() & numbers(sampler)), len(files(sampler))]
    kept, given_numbers = files(sampler), numbers(sampler)
    sampler.close()
    found["left"] = [len(engine.list_loras() & given_numbers), sum(one.exists() for one in kept)]
    found["starts"] = failed_start()
    found["refused"] = refused(holder, PolicyTuning(rank=0)), refused(holder, PolicyTuning(rank=513))
    own.close()
    backend.close()
    return found


def given(engine: Any) -> SamplerEngine:
    """A holder of an engine that runs already; its numbers begin where the engine's other adapters do not reach."""
    holder = SamplerEngine(Path(), {}, 0, "cpu")
    holder._engine, holder._slots, holder._rank, holder._numbers = engine, 2, TUNING.rank, 100_000
    holder.starts = 1
    return holder


def asked(own: LanguageModelPolicies) -> list[Prompt]:
    """A greedy completion and two that are drawn of each policy."""
    ids = own.prompt([Message("user", "Count from one to ten.")])
    return [
        Prompt(slot, ids, Sampling(TOKENS, temperature=float(sample > 0), seed=2**63 + sample))
        for slot in range(2)
        for sample in range(3)
    ]


def stopping(own: LanguageModelPolicies) -> Prompt:
    """A greedy completion that ends before the second letter of what the first policy writes."""
    (whole,) = own.sample(asked(own)[:1])
    ids, sampling = own.prompt([Message("user", "Count from one to ten.")]), Sampling(TOKENS, stop=(whole.text[1:3],))
    return Prompt(0, ids, sampling)


def compared(own: LanguageModelPolicies, sampler: VllmSampler) -> dict[str, Any]:
    """Tokens of both; the largest difference of vLLM's log-probabilities from the trained model's of the same tokens,
    by the policy that wrote them and by the other one.
    """
    prompts = asked(own)
    theirs, ours = sampler.sample(prompts), own.sample(prompts)
    return {
        "same": [one.ids == other.ids and one[1:3] == other[1:3] for one, other in zip(theirs, ours, strict=True)][::3],
        "distinct": len({one.ids for one in theirs}),
        "apart": most_apart(own, prompts, theirs),
        "apart_of_other": most_apart(own, [one._replace(slot=1 - one.slot) for one in prompts], theirs),
    }


def most_apart(own: LanguageModelPolicies, prompts: Sequence[Prompt], found: Sequence[Sampled]) -> float:
    """The largest difference of a log-probability."""
    return max(chain.from_iterable(differences(own, list(zip(prompts, found, strict=True)))))


def taught(own: LanguageModelPolicies) -> None:
    """Train each policy on a text of its own."""
    for slot, word in enumerate(("red", "blue")):
        ids = own.encode(f"It is {word}, as always.")
        own.backward([PolicyText(slot, ids, 1, (1.0,) * (len(ids) - 1))])
        own.step(slot, 0.003)


def dead(engine: Any, sampler: VllmSampler, prompts: Sequence[Prompt]) -> list[Any]:
    """Exit code and message of an engine that dies, and whether it still has the requests."""
    from vllm.v1.engine.exceptions import EngineDeadError

    with patch.object(engine, "step", side_effect=EngineDeadError()):
        try:
            sampler.sample(prompts)
        except HybridError as error:
            return [error.exit_code, error.message, engine.has_unfinished_requests()]
    return []


def too_long(sampler: VllmSampler, prompt: Prompt) -> str:
    """What is said of a completion that the engine, started for 2,048 tokens, has no room for."""
    try:
        sampler.sample([prompt._replace(sampling=Sampling(2048))])
    except HybridError as error:
        return error.message
    return ""


def refused(holder: SamplerEngine, tuning: PolicyTuning) -> list[Any]:
    """Exit code, message and hint."""
    try:
        holder.start(2, tuning)
    except HybridError as error:
        return [error.exit_code, error.message, error.hint]
    return []


def failed_start() -> list[tuple[int, int]]:
    """Adapters and rank of each start, where one for three slots fails between two for smaller loops. No start is real:
    what counts is what vLLM is asked for.
    """
    asked: list[tuple[int, int]] = []

    def start(folder: Path, arguments: Mapping[str, Any], advice: Advice) -> object:
        asked.append((arguments["max_loras"], arguments["max_lora_rank"]))
        if arguments["max_loras"] > 2:
            raise CannotRun("no room")
        return object()

    holder = SamplerEngine(Path(), {}, 0, "cpu")
    with patch.object(vllm_sampling, "start_engine", start), patch.object(vllm_sampling, "stop_engine"):
        for slots, rank in ((2, 8), (3, 16), (1, 8), (2, 8)):
            with suppress(CannotRun):
                holder.opened(slots, rank)
    return asked


def numbers(sampler: VllmSampler) -> set[int]:
    """Those under which the engine has the adapters."""
    return {one.lora.lora_int_id for one in sampler._held.values()}


def files(sampler: VllmSampler) -> list[Path]:
    """The folders of the adapters."""
    return list(sampler._files._folders.values())
