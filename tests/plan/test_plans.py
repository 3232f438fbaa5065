"""Plans of whole runs, by the command."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from pathlib import Path

import pytest

from hybrid.plan.gpus import every, named_by
from hybrid.plan.money import price_table
from tests.conftest import Hybrid

TRAINS = ("--backend", "transformers")
SMALL = ("--limit", "2", "--set", "questions=1")


def test_a_plan_says_line_by_line_what_takes_memory(hybrid: Hybrid) -> None:
    done = hybrid("plan", "qa-eval", *SMALL, "--gpu", "t4,h100", "--backend", "vllm", "--model", "llama3.1:8b")
    assert done.code == 0
    t4, h100 = done.stdout.split("\n\n")[1:3]
    assert "does NOT fit" in t4
    assert "change: --backend-option gpus=2" in t4
    assert "fits: " in h100
    assert "14.96 GiB  8,030,261,248 parameters x 2 bytes" in h100


@pytest.mark.parametrize(
    ("gpu", "backend", "advice"),
    [
        ("h100", "vllm", "gpus=2"),
        ("a100-40", "vllm", "gpus=4"),
        ("t4", "vllm", "no eight of these hold it"),
        ("h100", "transformers", "its weights alone do not fit"),
        ("t4", "llamacpp", "its weights alone do not fit"),
    ],
)
def test_the_advice_where_it_does_not_fit_is_one_that_helps(
    hybrid: Hybrid, gpu: str, backend: str, advice: str
) -> None:
    asked = ("plan", "qa-eval", *SMALL, "--gpu", gpu, "--model", "llama3.1:70b", "--backend", backend)
    assert f"{advice}" in hybrid(*asked).stdout
    if advice.startswith("gpus="):
        assert "does NOT fit" not in hybrid(*asked, "--backend-option", advice).stdout


@pytest.mark.parametrize(
    ("model", "backend", "advice"),
    [
        ("llama3.2:3b", "transformers", "dtype=bfloat16"),
        ("llama3.1:70b", "transformers", "a machine with more memory: its weights alone do not fit"),
        ("llama3.1:70b", "llamacpp", "a machine with more memory: its weights alone do not fit"),
        ("llama3.1:70b", "vllm", "a machine with more memory: its weights alone do not fit"),
    ],
)
def test_the_advice_for_a_processor_names_no_gpu(
    hybrid: Hybrid, monkeypatch: pytest.MonkeyPatch, model: str, backend: str, advice: str
) -> None:
    monkeypatch.setattr("hybrid.plan.gpus.available", lambda: 8 << 30)
    asked = ("plan", "qa-eval", *SMALL, "--gpu", "cpu", "--model", model, "--backend", backend)
    change = next(line for line in hybrid(*asked).stdout.splitlines() if line.startswith("  change: "))
    assert advice in change
    assert "GPU" not in change
    if advice.startswith("dtype="):
        assert "does NOT fit" not in hybrid(*asked, "--backend-option", advice).stdout


def test_workers_share_the_items_and_each_starts_its_engine(hybrid: Hybrid) -> None:
    asked = ("plan", "qa-eval", "--limit", "500", "--gpu", "l4", "--model", "llama3.1:8b", "--backend", "vllm")
    (one,) = json.loads(hybrid(*asked, "--json").stdout)["gpus"]
    (four,) = json.loads(hybrid(*asked, "--workers", "4", "--json").stdout)["gpus"]
    assert one["shared"] == {"workers": 1, "seconds": one["seconds"], "usd": one["usd"]}
    assert four["seconds"] == one["seconds"]
    for alone, together, cost, of_one in zip(
        one["seconds"], four["shared"]["seconds"], four["shared"]["usd"], one["usd"], strict=True
    ):
        assert alone / 4 < together < alone  # the starts are not shared
        assert cost == pytest.approx(of_one * 4 * together / alone)
    said = hybrid(*asked, "--workers", "4").stdout
    assert "4 workers" in said
    assert "workers" not in hybrid(*asked).stdout


def test_rounds_of_a_loop_and_fewer_items_than_workers_are_not_divided_further(hybrid: Hybrid) -> None:
    loop = ("plan", "sapo", "--gpu", "l4", "--backend", "transformers", "--model", "gpt2", "--workers", "8", "--json")
    (gpu,) = json.loads(hybrid(*loop).stdout)["gpus"]
    assert gpu["shared"]["seconds"] == gpu["seconds"]
    few = ("plan", "qa-eval", *SMALL, "--gpu", "l4", "--model", "llama3.1:8b", "--backend", "vllm", "--json")
    items = json.loads(hybrid(*few).stdout)["items"]
    found = [json.loads(hybrid(*few, "--workers", str(n)).stdout)["gpus"][0]["shared"]["seconds"] for n in (items, 999)]
    assert found[0] == found[1]


def test_training_that_asks_no_model_is_planned_in_rounds(hybrid: Hybrid) -> None:
    done = hybrid("plan", "cvfp", "--preset", "demo", "--gpu", "t4")
    assert done.code == 0
    assert re.match(r"cvfp: \d+ tasks; \d+ rounds of training\n", done.stdout)
    assert "tokens in" not in done.stdout
    assert "model none" not in done.stdout


def test_nothing_is_loaded_and_nothing_is_written(tmp_path: Path) -> None:
    """In a process of its own: neither torch nor a library on top of it is imported."""
    code = (
        "import sys\nfrom hybrid.cli import hybrid\n"
        "hybrid.main(['plan', 'qa-eval', '--backend', 'transformers', '--gpu', 't4'], standalone_mode=False)\n"
        "heavy = {'torch', 'transformers', 'vllm', 'xllamacpp', 'numpy'} & set(sys.modules)\n"
        "assert not heavy, heavy\n"
    )
    subprocess.run([sys.executable, "-c", code], check=True, cwd=tmp_path, capture_output=True)
    assert list(tmp_path.iterdir()) == []


def test_wrong_names_are_told_with_the_nearest_one(hybrid: Hybrid) -> None:
    done = hybrid("plan", "qa-eval", "--gpu", "a100")
    assert done.code == 2
    assert "hint: one of a100-40, a100-80" in done.stderr
    assert hybrid("plan", "qa-evil").code == 2
    assert hybrid("plan", "qa-eval", "--set", "limt=3").code == 2
    assert hybrid("plan", "qa-eval", "--backend-option", "context=many", "--gpu", "t4").code == 2


def test_a_model_of_unknown_shape_still_has_its_items_counted(hybrid: Hybrid) -> None:
    done = hybrid("plan", "qa-eval", *SMALL, "--model", "nobody/nothing-1b", "--gpu", "t4", "--json")
    plan = json.loads(done.stdout)
    assert plan["items"] == 2
    assert "neither here nor in the table" in plan["models"][""]["unknown"]
    assert plan["gpus"][0]["memory"] == []


def test_ones_own_prices_win_and_a_damaged_table_names_its_row(hybrid: Hybrid, monkeypatch: pytest.MonkeyPatch) -> None:
    from hybrid.machine.home import home

    rows = 'where = "here"\nsource = "a bill"\nread_on = 2026-11-29\n'
    home().mkdir(parents=True, exist_ok=True)
    (home() / "prices.toml").write_text(f'[[price]]\ngpu = "t4"\nusd_per_hour = 100\n{rows}')
    done = hybrid("plan", "qa-eval", *SMALL, "--gpu", "t4")
    assert "here, $100.00 an hour on 2026-11-29" in done.stdout
    (home() / "prices.toml").write_text(f'[[price]]\ngpu = "t4"\nusd_per_hour = "much"\n{rows}')
    done = hybrid("plan", "qa-eval", *SMALL, "--gpu", "t4")
    assert done.code == 6
    assert "price 1: 'usd_per_hour' is not a number" in done.stderr


def test_every_price_and_session_is_of_a_gpu_that_is_known_and_names_its_source() -> None:
    known, table = {gpu.name for gpu in every()}, price_table()
    assert {one.gpu for one in table.prices} <= known
    assert {gpu for site in table.sites for gpu in site.gpus} <= known
    assert all(one.source.startswith("https://") for one in (*table.prices, *table.sites))


def test_devices_are_known_by_the_names_that_drivers_give_them() -> None:
    given = {
        "Tesla T4": "t4",
        "NVIDIA A100-SXM4-40GB": "a100-40",
        "NVIDIA A100-SXM4-80GB": "a100-80",
        "NVIDIA A100 80GB PCIe": "a100-80",
        "NVIDIA H100 80GB HBM3": "h100",
        "NVIDIA GeForce RTX 4090": "4090",
        "NVIDIA L40S": "l40s",
        "NVIDIA L4": "l4",
        "cpu": "cpu",
    }
    assert {name: found.name for name in given if (found := named_by(name))} == given
    assert named_by("Matrox G200") is None


def test_test_time_training_is_planned_by_the_texts_that_it_trains_on(hybrid: Hybrid) -> None:
    plan = json.loads(
        hybrid("plan", "seal-ttt", "--preset", "demo", "--limit", "2", *TRAINS, "--gpu", "t4", "--json").stdout
    )
    (stage,) = plan["stages"]
    assert stage["trainings"] == 2
    assert stage["exact"] is True
    assert stage["trained_tokens"] > 100
    (t4,) = plan["gpus"]
    assert [line["name"] for line in t4["memory"]] == ["weights", "adapters in training", "activations"]
    assert t4["fits"] is True


FORESEEN = {
    "seal-self-edit": ("--preset", "demo", *TRAINS),
    "seal-restem": ("--preset", "demo", *TRAINS),
    "branch": (),
    "sapo": ("--preset", "demo"),
    "cvfp": ("--preset", "demo"),
    "atlas": ("--preset", "demo"),
}


@pytest.mark.parametrize("name", FORESEEN)
def test_every_pipeline_tells_what_its_later_stages_may_come_to(hybrid: Hybrid, name: str) -> None:
    done = hybrid("plan", name, *FORESEEN[name], "--gpu", "a100-80", "--json")
    assert done.code == 0
    plan = json.loads(done.stdout)
    assert [stage["stage"] for stage in plan["stages"] if stage["unknown"]] == []
    (gpu,) = plan["gpus"]
    assert gpu["fits"]
    assert 0 < gpu["seconds"][0] < gpu["seconds"][1]
    assert sum(line["bytes"] for line in gpu["memory"]) == gpu["bytes"] > 0


def test_a_pipeline_that_fails_to_foresee_is_named_and_its_run_is_submitted_all_the_same(
    hybrid: Hybrid, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def broken(*_: object) -> None:
        raise ZeroDivisionError("no candidates")

    monkeypatch.setattr("pipelines.branch.pipeline.Branch.foresee", broken)
    done = hybrid("plan", "branch", "--gpu", "t4")
    assert done.code == 1
    assert "foreseeing the stage 'search'" in done.stderr
    assert hybrid("init", str(tmp_path / "folder")).code == 0
    sent = hybrid("run", "remote", "branch", "--folder", str(tmp_path / "folder"))
    assert sent.code == 0
    assert sent.stdout.startswith("branch-")
    assert "plan: none, " in sent.stderr


def test_the_bound_of_a_search_holds_for_one_that_was_done(hybrid: Hybrid, tmp_path: Path) -> None:
    settings = ("--set", "candidates=3", "--set", "keep=2", "--set", "levels=1", "--set", "control=false")
    answers = tmp_path / "answers.json"
    answers.write_text(
        json.dumps({"answers": {}, "default": "The fog came in over the harbour and nobody saw it leave again."})
    )
    plan = json.loads(hybrid("plan", "branch", *settings, "--gpu", "t4", "--json").stdout)
    out = tmp_path / "outputs.json"
    model = ("--backend", "scripted", "--model", str(answers))
    done = hybrid("run", "local", "branch", *settings, *model, "--folder", str(tmp_path / "f"), "-o", str(out))
    assert done.code in (0, 3)
    nodes = json.loads(out.read_text())["records"]
    assert 0 < len(nodes) <= plan["items"]
