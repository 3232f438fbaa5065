"""The choice of a cut: its bytes and seconds by hand, and the fastest that fits into the client's memory."""

from __future__ import annotations

from dataclasses import replace

import pytest

from pipelines.atlas.split import Batch, NoCutFits, Shape, best_cut, crossing_bytes, cut_after
from pipelines.atlas.virtual_clock import Device

DISTILBERT = Shape(
    embeddings=23_837_184, blocks=[7_087_872] * 6, width=768, adapters=[8 * 4 * 1536] * 6, token_bytes=60_000.0
)
BATCH = Batch(texts=16, tokens=16 * 128)
CLIENT = Device(memory=10**12, speed=1e11, up=1e7, down=1e7)
SERVER = Device(memory=10**12, speed=1e13, up=1e9, down=1e9)


def test_the_traffic_of_a_step_is_its_tokens_times_the_width() -> None:
    up, down = crossing_bytes(DISTILBERT, BATCH, 3)
    assert down == 16 * 128 * 768 * 4 == 6_291_456
    assert up == down + 16 * 8  # and the labels
    assert crossing_bytes(DISTILBERT, BATCH, 3, "fp16")[1] == down // 2 + 4
    assert crossing_bytes(DISTILBERT, BATCH, 3, "int8")[1] == down // 4 + 4 * BATCH.tokens
    assert {crossing_bytes(DISTILBERT, BATCH, after)[1] for after in range(1, 6)} == {down}
    assert crossing_bytes(DISTILBERT, BATCH, 0) == crossing_bytes(DISTILBERT, BATCH, 6) == (0, 0)
    frozen = replace(DISTILBERT, adapters=[0, 0, 0, 10, 10, 10])
    assert crossing_bytes(frozen, BATCH, 3) == (up, 0)  # nothing to train below the cut: no gradient is sent


def test_a_cut_saves_memory_and_costs_time_on_the_link() -> None:
    three, six = (cut_after(DISTILBERT, BATCH, after, CLIENT, SERVER) for after in (3, 6))
    operations = 4 * BATCH.tokens * 3 * 7_087_872
    assert three.seconds == pytest.approx(operations / 1e11 + operations / 1e13 + (three.up + three.down) / 1e7)
    assert six.seconds == pytest.approx(2 * operations / 1e11)
    assert three.memory == pytest.approx((23_837_184 + 3 * 7_087_872) * 4 + 3 * (60_000 * 2048 + 8 * 4 * 1536 * 16))
    assert three.memory < six.memory


def test_the_best_cut_is_the_fastest_that_fits() -> None:
    def best(**how: float) -> int:
        return best_cut(DISTILBERT, BATCH, replace(CLIENT, **how), SERVER).after  # type: ignore[arg-type]

    needed = [cut_after(DISTILBERT, BATCH, after, CLIENT, SERVER).memory for after in range(7)]
    assert best(speed=1e13) == 6  # as fast as the server: nothing is won by sending
    assert best(up=1e3, down=1e3) == 6
    assert best(up=1e12, down=1e12) == 1  # a slow client with a fast link gives all away that it can
    assert best(up=1e3, down=1e3, memory=needed[4]) == 1  # once it must be cut, traffic is the same everywhere
    assert best(up=1e3, down=1e3, memory=needed[4], speed=1e14) == 4
    with pytest.raises(NoCutFits, match="even one block on the client needs"):
        best(memory=needed[1] - 1)
    with pytest.raises(ValueError, match="a cut after block 7 of 6"):
        cut_after(DISTILBERT, BATCH, 7, CLIENT, SERVER)
