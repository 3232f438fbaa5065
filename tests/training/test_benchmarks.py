"""Training benchmarks whose figures do not depend on the machine meet their goals; the GPU benchmark runs."""

from __future__ import annotations

import importlib
import json
from pathlib import Path
from typing import Any

import pytest
import torch

from hybrid.tasks.arc.text import SEAL
from pipelines.seal.examples import AugmentationSettings

BENCHMARKS = Path(__file__).parents[2] / "benchmarks"

pytest.importorskip("peft")


@pytest.fixture
def benchmark(monkeypatch: pytest.MonkeyPatch) -> Any:
    """Imports a benchmark by name."""
    monkeypatch.syspath_prepend(BENCHMARKS)
    threads = torch.get_num_threads()
    yield importlib.import_module
    torch.set_num_threads(threads)


def test_a_pass_of_eight_adapters_asks_torch_for_two_fifteenths_of_the_operations_of_peft(benchmark: Any) -> None:
    ops = benchmark("train_ops")
    found = ops.measured(ops.NARROW, adapters=[8])
    assert found["ratio"] >= 12
    assert found["fused_ratio"] >= 7.5
    assert found["met"]


def test_operations_are_counted_and_views_are_not(benchmark: Any) -> None:
    ops = benchmark("train_ops")
    rows = torch.ones(2, 3)
    with ops.Operations() as operations:
        (rows.t()[0:1].view(2) + 1).mul_(2)
        torch.nn.functional.linear(rows, torch.ones(4, 3))
    assert operations.counts == {"add": 1, "mul_": 1, "ones": 1, "mm": 1}


def test_examples_are_trained_without_padding_and_without_logits_that_have_no_label(benchmark: Any) -> None:
    tokens = benchmark("train_tokens")
    examples = importlib.import_module("peers.lora")
    texts = examples.arc_texts("small", 3, AugmentationSettings(most=6, instruction=SEAL.instruction))
    found = tokens.measured(texts)
    assert found["tokens_ratio"] <= 1.02
    assert found["logit_ratio"] == 1.0
    assert found["met"]
    assert found["texts"] == 18
    assert found["seal_tokens_ratio"] > 1.02
    assert found["tokens"] == sum(len(text.ids) for own in texts.values() for text in own)


def test_the_memory_of_a_swarm_is_not_set_against_that_of_a_part_of_it(benchmark: Any, tmp_path: Path) -> None:
    swarm = benchmark("peers.swarm")
    asked = [["x" * 10] * swarm.OWN for _ in range(swarm.NODES)]
    tmp_path.joinpath(swarm.QUESTIONS).write_text(json.dumps(asked))
    measured = swarm.Figures(1.0, 2.0, steps=3, tokens=4, mib=5.0, model_mib=1.0)._asdict()
    every, two = (swarm.of_all_nodes(measured, swarm.Plan(str(tmp_path), 6, 1, nodes=nodes)) for nodes in (8, 2))
    assert every == measured
    assert two == {"generating": 4.0, "training": 8.0, "steps": 12.0, "tokens": 16.0}


def test_rows_are_counted_where_the_model_computes_them(benchmark: Any) -> None:
    rows = benchmark("train_tokens").Rows
    layer = torch.nn.Linear(3, 2)
    counted = rows(layer)
    layer(torch.ones(2, 5, 3))
    layer(torch.ones(4, 3))
    counted.close()
    layer(torch.ones(4, 3))
    assert counted.count == 14


def test_both_ways_of_the_cpu_benchmark_train_the_same(benchmark: Any) -> None:
    cpu, models = benchmark("train_cpu"), importlib.import_module("peers.random_models")
    shape = {**models.SMOLLM2, "hidden_size": 72, "intermediate_size": 96, "num_hidden_layers": 2}
    texts = [[models.random_text(f"{slot} {n}", 9 + 7 * n, 4, 49152) for n in range(2)] for slot in range(2)]
    jobs = [models.job_of(f"job{slot}", own, batch=2, epochs=3, learning_rate=1e-2) for slot, own in enumerate(texts)]
    mix = cpu.Mix(jobs, {"job0": 20})
    found = {way: one.train(mix) for way, one in cpu.ways(lambda: models.random_llama(shape), jobs[0]).items()}
    for name, losses in found["peft"].items():
        assert found["ours"][name] == pytest.approx(losses, abs=cpu.TOLERANCE)
        assert losses[0] != pytest.approx(losses[-1], abs=cpu.TOLERANCE)


@pytest.mark.filterwarnings("default")  # of the peers' libraries
def test_the_benchmark_of_gpus_runs_from_end_to_end(
    benchmark: Any, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    gpu = benchmark("train_gpu")
    monkeypatch.setattr("sys.argv", ["train_gpu.py", "--tiny"])
    gpu.main()
    found = json.loads(capsys.readouterr().out.splitlines()[-1])
    assert found["ways"].keys() == {"K=1", "K=4", "peft", "seal"}
    assert all(way["tokens_s"] > 0 and way["adapters_hour"] > 0 for way in found["ways"].values())
    assert found["ratio"] > 0
    assert found["device"] == "cpu"
    assert found["met"] is None


def test_the_benchmark_of_gpus_measures_nothing_without_one(
    benchmark: Any, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    gpu = benchmark("train_gpu")
    monkeypatch.setattr("sys.argv", ["train_gpu.py"])
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    gpu.main()
    found = json.loads(capsys.readouterr().out.splitlines()[-1])
    assert (found["met"], found["ratio"], found["device"]) == (None, None, "none")


def test_flops_are_those_of_the_formula(benchmark: Any) -> None:
    gpu, models = benchmark("train_gpu"), importlib.import_module("peers.random_models")
    model = models.random_llama(gpu.TINY)
    frozen = 2 * (32 * 32 + 2 * 32 * 16 + 32 * 32 + 3 * 32 * 64)  # q, k and v, o, and the three of the MLP
    attention = 7 * 4 * 8 * 23 * 2
    assert gpu.flops(model, 1000, 23, 2) == 23 * (4 * frozen + 6 * 1000 + attention) + 4 * 301 * 32 * 2


def test_memory_is_planned_as_the_allocator_hands_it_out(benchmark: Any) -> None:
    memory = benchmark("train_memory")
    tiny = {**memory.SMOLLM2, "vocab_size": 301, "hidden_size": 72, "intermediate_size": 96, "num_hidden_layers": 4}
    for checkpointed, vocabulary in ((False, 301), (True, 301), (True, 9001)):
        shape = memory.Shape(
            "Llama", {**tiny, "vocab_size": vocabulary}, [[300, 40], [150]], rank=8, checkpointed=checkpointed
        )
        assert memory.of_shape(shape)["ratio"] == pytest.approx(1, abs=memory.TOLERANCE)


def test_gpus_are_planned_without_one(benchmark: Any) -> None:
    """The rows of `train_memory`, with two layers instead of sixteen."""
    memory = benchmark("train_memory")
    found = memory.measured({}, {"T4": memory.GPUS["T4"]}, {**memory.LLAMA_1B, "num_hidden_layers": 2})
    for row in found["t4_texts"].values():
        assert row["ratio"] == pytest.approx(1, abs=memory.TOLERANCE)
    assert found["t4_texts"]["4000"]["old_ratio"] < 0.4
    assert found["gpus"]["T4"]["adapters"] > 1
    assert not found["gpus"]["T4"]["checkpointed"]
    assert found["met"]
