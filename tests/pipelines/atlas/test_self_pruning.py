"""HetLoRA's self-pruning: the penalty in the gradients, whose ranks fall, and that a killed federation goes on."""

from __future__ import annotations

import numpy as np
import pytest

from hybrid.errors import UsageError
from hybrid.loops import Lab
from hybrid.settings import build
from hybrid.tuning import Tuning
from pipelines.atlas.aggregation import Factors
from pipelines.atlas.client_models import ClientModel
from pipelines.atlas.methods import METHODS
from pipelines.atlas.pipeline import Atlas
from pipelines.atlas.self_pruning import kept_rank, last_ranks, pruned
from tests.support.small_federation import SMALL, made, results

PRUNES = "rank=2,4", "hetlora_decay=0.75", "hetlora_penalty=100", "rounds=4"


def test_the_share_of_a_rank_that_is_kept_is_rounded_down_and_never_nothing() -> None:
    assert [kept_rank(rank, 0.99) for rank in (1, 2, 8, 64)] == [1, 1, 7, 63]
    assert [kept_rank(8, decay) for decay in (1.0, 0.5, 0.01)] == [8, 4, 1]
    assert kept_rank(10, 0.7) == 7, "0.7 * 10 is 7, not 6.999"


def test_a_rank_falls_where_its_last_part_became_smaller() -> None:
    draw = np.random.default_rng(0)
    part = Factors(draw.standard_normal((4, 6)), draw.standard_normal((5, 4)))
    before = ClientModel({"q": part, "k": part}, {})
    one = np.linalg.norm(part.a[3:]) * np.linalg.norm(part.b[:, 3:])
    assert last_ranks(before.update, 3) == pytest.approx(2 * one)
    smaller = Factors(part.a, part.b * [9, 9, 9, 0.5])
    larger = Factors(part.a, part.b * [0.1, 0.1, 0.1, 1.5])
    ranks = {"q": 4, "k": 4}
    assert pruned(before, ClientModel({"q": smaller, "k": part}, {}), ranks, 0.75) == {"q": 3, "k": 3}
    assert pruned(before, ClientModel({"q": larger, "k": part}, {}), ranks, 0.75) == ranks
    assert pruned(before, before, ranks, 0.75) == ranks, "as large as before"
    assert pruned(before, ClientModel({"q": smaller, "k": smaller}, {}), ranks, 1.0) == ranks


def test_the_penalty_adds_the_gradient_of_the_last_ranks_norms(lab: Lab) -> None:
    """Beside autograd on the same adapter, layer by layer."""
    torch = pytest.importorskip("torch")
    bank = lab.classifiers(2, 4, ["query", "value"], 2)
    adapter, draw = bank.new_adapter(4, 8.0, 0), torch.Generator().manual_seed(0)
    layers = {name: (a, torch.randn(b.shape, generator=draw)) for name, (a, b) in adapter.layers.items()}
    for slot in range(2):
        bank.put(slot, bank.adapter(layers, 4, 8.0), bank.new_head(2, 0), Tuning({}, 1e-3, 1))
    bank.penalise_ranks(1, 3, 0.5)
    for name, (a, b) in layers.items():
        own_a, own_b = a.clone().requires_grad_(), b.clone().requires_grad_()
        (0.5 * own_a[3:].norm() * own_b[:, 3:].norm()).backward()
        of_a, of_b = bank.pair(bank.grads, name)
        assert torch.allclose(of_a[1].t()[:4], own_a.grad, atol=1e-6)  # banks may have more ranks than were asked for
        assert torch.allclose(of_b[1].t()[:, :4], own_b.grad, atol=1e-6)
        assert not of_a[0].any(), "the other slot"
    assert not bank.gradients_of_b(0)[name].any()
    bank.close()


def test_with_a_penalty_ranks_fall_and_a_killed_federation_goes_on_to_the_bit(lab: Lab) -> None:
    whole = results(lab, "hetlora", *PRUNES)
    ranks = [[one["rank"] for name, one in record.groups.items() if name.startswith("client-")] for record in whole]
    assert ranks[0] == [2, 4, 2, 4, 2], "at the start B is zero, and nothing can become smaller"
    assert ranks[1] != ranks[0]
    assert all(later <= earlier for earlier, later in zip(ranks[0], ranks[3], strict=True))
    assert whole[3].metrics["upload_bytes"] < whole[0].metrics["upload_bytes"]
    state = b""
    for number, expected in enumerate(whole):
        federation = made(lab, "hetlora", *PRUNES)
        if state:
            federation.load(state)
        assert federation.round(number).to_text() == expected.to_text()
        state = federation.state()
        federation.close()


def test_without_a_decay_nothing_is_penalised(lab: Lab) -> None:
    plain, penalty = results(lab, "hetlora", "rank=2,4"), results(lab, "hetlora", "rank=2,4", "hetlora_penalty=100")
    assert [one.to_text() for one in plain] == [one.to_text() for one in penalty]
    assert METHODS["hetlora"].combine == "padded"


@pytest.mark.parametrize(
    "settings", [("methods=flexlora",), ("methods=hetlora", "devices=cpu-2gb", "arrivals=buffered")]
)
def test_a_decay_without_the_method_or_with_stale_ranks_is_refused(settings: tuple[str, ...]) -> None:
    with pytest.raises(UsageError, match="hetlora_decay"):
        build(Atlas, [*SMALL, *settings, "hetlora_decay=0.9"])
