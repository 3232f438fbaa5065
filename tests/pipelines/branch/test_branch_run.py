"""Whole runs of `branch`: with a script, with the embedded model, and with a real Ollama server and embedding model."""

from __future__ import annotations

import json
from collections import Counter
from pathlib import Path
from typing import Any

import pytest

from hybrid.testing import check_pipeline
from pipelines.branch.pipeline import Branch
from tests.support.chromium import Tab
from tests.support.in_process import Hybrid
from tests.support.ollama_server import OllamaServer

SMALL = ("--set", "levels=2", "--set", "candidates=2", "--set", "keep=1", "--set", "strategy=facets")
SAME = "The lighthouse works all night and nobody is there."


def scripted(place: Path, text: str) -> list[str]:
    script = place / "script.json"
    script.write_text(json.dumps({"answers": {}, "default": text}))
    return ["--backend", "scripted", "--model", str(script), "--backend-option", f"calls={place / 'calls'}"]


def document(folder: Path) -> dict[str, Any]:
    (path,) = folder.glob("results/*/outputs.json")
    found: dict[str, Any] = json.loads(path.read_text())
    return found


@pytest.mark.parametrize("preset", ["demo", "all"])
def test_the_presets_are_pipelines(preset: str) -> None:
    check_pipeline(Branch(**Branch.presets[preset]))  # type: ignore[arg-type]


def test_a_model_that_always_says_the_same_ends_with_exit_code_3_and_what_was_kept(
    tmp_path: Path, hybrid: Hybrid
) -> None:
    run = ("run", "local", "branch", *scripted(tmp_path, SAME), *SMALL, "--set", "keep=2", "--folder", tmp_path / "f")
    done = hybrid(*run)
    assert done.code == 3, done.stderr
    assert "1 failed" in done.stderr
    assert "demo/short: short: 1 of 2 texts kept at the level" in done.stderr
    assert "retry" not in done.stderr, "it would be the same again"
    records = document(tmp_path / "f")["records"]
    (short,) = [one for one in records if one["error"]]
    assert short["error"]["kind"] == "short"
    assert "1 of 2 texts kept" in short["error"]["message"]
    assert Counter(one["view"]["verdict"] for one in records if not one["view"]["control"])["kept"] == 1
    (page,) = (tmp_path / "f").glob("results/*/kept.md")
    assert SAME in page.read_text()
    calls = (tmp_path / "calls").read_text()
    assert hybrid(*run).code == 3
    assert (tmp_path / "calls").read_text() == calls, "nothing is asked again"


def test_a_misspelt_key_ends_the_command_with_exit_code_2_and_nothing_is_run(tmp_path: Path, hybrid: Hybrid) -> None:
    file = tmp_path / "mine.toml"
    file.write_text('titel = "x"\nbrief = "y"\n[[level]]\nname = "a"\nask = "b"\n')
    done = hybrid("run", "local", "branch", "--set", f"scenario={file}", "--folder", tmp_path / "folder")
    assert done.code == 2
    assert "no key is called 'titel'" in done.stderr
    assert "did you mean 'title'?" in done.stderr


def test_a_judge_that_the_settings_ask_for_but_nobody_names_is_exit_code_2(tmp_path: Path, hybrid: Hybrid) -> None:
    run = ("run", "local", "branch", *scripted(tmp_path, SAME), *SMALL, "--set", "judge=2", "--folder", tmp_path / "f")
    done = hybrid(*run)
    assert done.code == 2
    assert "--model judge=NAME" in done.stderr


@pytest.mark.parametrize("given", [("--model", "judge=smollm2"), ("--backend-option", "judge=parallel=2")])
def test_a_judge_that_no_setting_asks_for_is_refused_before_anything_is_made(
    tmp_path: Path, hybrid: Hybrid, given: tuple[str, str]
) -> None:
    done = hybrid("run", "local", "branch", *scripted(tmp_path, SAME), *given, "--folder", tmp_path / "f")
    assert done.code == 2
    assert "with these settings no stage asks the model 'judge'" in done.stderr
    assert "--set judge=N" in done.stderr
    assert not (tmp_path / "f").exists()


def test_what_a_search_waits_for_is_not_drawn_as_failed_and_its_stages_fit_a_phone(
    tmp_path: Path, hybrid: Hybrid, monkeypatch: pytest.MonkeyPatch, tab: Tab
) -> None:
    monkeypatch.setenv("HYBRID_HOME", str(tmp_path / "home"))
    hybrid("init", tmp_path / "f")
    scripted(tmp_path, SAME)
    submitted = ("run", "remote", "branch", "--backend", "scripted", "--model", "script", *SMALL)
    assert hybrid(*submitted, "--folder", tmp_path / "f").code == 0
    done = hybrid("report", "branch", "--folder", tmp_path / "f")
    assert done.code == 0, done.stderr
    path = Path(done.stdout.strip())
    page = path.read_text()
    assert '<td class="n">13 so far</td>' in page
    assert "failed: missing" not in page
    tab.call("Emulation.setDeviceMetricsOverride", width=400, height=800, deviceScaleFactor=1, mobile=True)
    try:
        tab.open(path)
        assert tab.eval("document.documentElement.scrollWidth") <= 400
    finally:
        tab.call("Emulation.clearDeviceMetricsOverride")


@pytest.mark.slow
def test_the_embedded_model_writes_a_tree_without_any_server(
    tmp_path: Path, hybrid: Hybrid, smollm2_gguf: Path
) -> None:
    done = hybrid(
        "run", "local", "branch", *SMALL, "--set", "levels=1", "--set", "control=false", "--folder", tmp_path / "folder"
    )
    assert done.code in (0, 3), done.stderr
    found = document(tmp_path / "folder")
    nodes = [one for one in found["records"] if one["view"]["depth"]]
    assert nodes
    assert [one.get("role", "") for one in found["models"]] == ["", "embed"]
    assert all(one["view"]["tokens"] > 0 for one in nodes)
    assert any("logprob" in one["view"]["features"] for one in nodes)


@pytest.mark.slow
def test_an_ollama_server_writes_and_embeds_and_each_distinct_text_is_embedded_once(
    tmp_path: Path, hybrid: Hybrid, ollama_server: OllamaServer, ollama_embedder: str
) -> None:
    models = ("--backend", "ollama", "--model", ollama_server.model)
    embedder = ("--backend", "embed=ollama", "--model", f"embed={ollama_embedder}")
    hosts = [f"--backend-option={role}host={ollama_server.url}" for role in ("", "embed=")]
    done = hybrid("run", "local", "branch", *models, *embedder, *hosts, *SMALL, "--folder", tmp_path / "folder")
    assert done.code in (0, 3), done.stderr
    found = document(tmp_path / "folder")
    nodes = [one for one in found["records"] if one["view"]["depth"]]
    vectors = [one["view"]["vector"] for one in nodes if one["view"]["vector"]]
    assert vectors
    assert {len(vector) for vector in vectors} == {4 * 384 * 4 // 3}
    assert {one["view"]["control"] for one in nodes} == {True, False}
    assert any("logprob" in one["view"]["features"] for one in nodes)
    graded = hybrid("grade", next((tmp_path / "folder").glob("results/*/outputs.json")))
    assert "Vendi" in graded.stdout + graded.stderr
