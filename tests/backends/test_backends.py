"""Every backend passes the protocol's checks, with a real model."""

from __future__ import annotations

import json
import os
import shutil
import warnings
from collections.abc import Callable, Iterator
from dataclasses import replace
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import pytest

from hybrid import testing
from hybrid.backends.registry import open_backend
from hybrid.errors import CannotRun, Temporary, UsageError
from hybrid.protocols import Backend
from hybrid.records import Adapter, Request, Sampling

ROOT = Path(__file__).parents[2]

pytestmark = pytest.mark.slow
each_check = pytest.mark.parametrize(
    "check", testing.BACKEND_CHECKS, ids=lambda check: check.__name__.removeprefix("check_")
)
quiet_torch = pytest.mark.filterwarnings("ignore")  # torch and transformers warn of themselves


def skip_without(*libraries: str) -> None:
    for library in libraries:
        if find_spec(library) is None:
            pytest.skip(f"needs {library}, which is not installed")


# --- llamacpp


@pytest.fixture(scope="module")
def llamacpp(smollm2_gguf: Path) -> Iterator[Backend]:
    skip_without("xllamacpp")
    backend = open_backend("llamacpp", str(smollm2_gguf), {"context": "2048"})
    yield backend
    backend.close()


@pytest.fixture(scope="module")
def llamacpp_same_bits(smollm2_gguf: Path) -> Iterator[Backend]:
    skip_without("xllamacpp")
    backend = open_backend("llamacpp", str(smollm2_gguf), {"context": "2048", "parallel": "1", "reuse": "false"})
    yield backend
    backend.close()


SAME_BITS = {"greedy_is_deterministic", "seeds_reproduce_and_differ", "a_draw_does_not_depend_on_its_neighbours"}


@each_check
def test_llamacpp_keeps_the_promise(
    check: Callable[[Backend], None], llamacpp: Backend, llamacpp_same_bits: Backend
) -> None:
    """The defaults prefer speed to the last bits of a logit (docs/backends.md); these checks use other options."""
    check(llamacpp_same_bits if check.__name__.removeprefix("check_") in SAME_BITS else llamacpp)


def test_llamacpp_repeats_itself_to_the_bit_when_asked_to(llamacpp_same_bits: Backend) -> None:
    requests = [
        replace(testing.ask(f"Tell me a story about {n}.", f"{n}", temperature=1.0, seed=n), logprobs=True)
        for n in range(4)
    ]
    once, again = (testing.answers(llamacpp_same_bits, *order) for order in (requests, requests[::-1]))
    assert {key: (one.text, one.logprob) for key, one in once.items()} == {
        key: (one.text, one.logprob) for key, one in again.items()
    }


# --- transformers


@pytest.fixture(scope="module")
def smollm2(smollm2_folder: Path) -> Iterator[Backend]:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        backend = open_backend("transformers", "smollm2", {"context": "2048", "device": "cpu"})
    yield backend
    backend.close()


@quiet_torch
@each_check
def test_transformers_keeps_the_promise(check: Callable[[Backend], None], smollm2: Backend) -> None:
    check(smollm2)


def tiny(folder: Path, **options: str) -> Any:
    return open_backend("transformers", str(folder), {"device": "cpu", **options})


def raw(prompt: str, **sampling: Any) -> Request:
    return Request(Sampling(**{"max_tokens": 12, **sampling}), prompt=prompt, key=prompt, logprobs=True)


PROMPTS = ("a", "To be or not", "One, two, three, four, five, six, seven", "x" * 90, "Brief", "y" * 40)


@quiet_torch
def test_a_batch_writes_what_the_library_writes_for_each_prompt_alone(tiny_llama: Path) -> None:
    import torch

    backend = tiny(tiny_llama, rows="4")
    found = testing.answers(backend, *map(raw, PROMPTS))
    for prompt in PROMPTS:
        ids = backend._tokenizer(prompt, return_tensors="pt").input_ids
        with torch.inference_mode():
            whole = backend.engine.generate(
                ids, attention_mask=torch.ones_like(ids), max_new_tokens=12, do_sample=False
            )
        expected = backend._tokenizer.decode(whole[0, ids.shape[1] :], skip_special_tokens=True)
        assert found[prompt].text == expected


@quiet_torch
def test_neither_padding_nor_neighbours_change_a_log_probability(tiny_llama: Path) -> None:
    requests = [raw(prompt) for prompt in PROMPTS]
    together = testing.answers(tiny(tiny_llama), *requests)
    alone = testing.answers(tiny(tiny_llama, rows="1"), *requests)
    for key, done in together.items():
        assert done.text == alone[key].text
        assert done.logprob == pytest.approx(alone[key].logprob, abs=1e-4)


@quiet_torch
def test_a_sampled_text_is_the_same_in_any_company(tiny_llama: Path) -> None:
    requests = [replace(raw("Once", temperature=1.0, top_p=0.9, seed=n), key=str(n)) for n in range(8)]
    together = testing.answers(tiny(tiny_llama), *requests)
    backwards = testing.answers(tiny(tiny_llama, rows="3"), *reversed(requests))
    assert {key: done.text for key, done in together.items()} == {key: done.text for key, done in backwards.items()}
    assert len({done.text for done in together.values()}) == 8


@quiet_torch
def test_draws_follow_the_nucleus_of_the_distribution() -> None:
    import torch

    from hybrid.backends.decoding import Sequence, sample_tokens

    logits = torch.log(torch.tensor([0.5, 0.3, 0.15, 0.05]))
    rows = [Sequence(raw("p", temperature=1.0, top_p=0.75, seed=seed), [0]) for seed in range(4000)]
    tokens, logprobs = sample_tokens(logits.repeat(4000, 1), rows)
    shares = [tokens.count(token) / 4000 for token in range(4)]
    assert shares[0] == pytest.approx(0.625, abs=0.03), "0.5 of the 0.8 that is kept"
    assert shares[1] == pytest.approx(0.375, abs=0.03)
    assert shares[2:] == [0.0, 0.0]
    assert logprobs[tokens.index(1)] == pytest.approx(-1.204, abs=1e-3), "before cutting: log 0.3"


@quiet_torch
def test_a_finished_row_is_replaced_while_the_slowest_goes_on(tiny_llama: Path) -> None:
    slow = replace(raw("slow", max_tokens=100), key="slow")
    quick = [replace(raw("quick", max_tokens=3), key=f"quick {n}") for n in range(12)]
    order = [done.key for done in tiny(tiny_llama, rows="2").generate([slow, *quick])]
    assert order[-1] == "slow"
    assert sorted(order) == sorted(["slow", *(one.key for one in quick)])


@quiet_torch
def test_no_more_tokens_are_in_flight_than_allowed(tiny_llama: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from hybrid.backends.batch import Batch

    sizes: list[tuple[int, int]] = []
    step = Batch.step

    def watched(batch: Batch) -> Any:
        sizes.append(tuple(batch.mask.shape))
        return step(batch)

    monkeypatch.setattr(Batch, "step", watched)
    requests = [replace(raw("z" * 20), key=str(n)) for n in range(20)]
    testing.answers(tiny(tiny_llama, tokens="150"), *requests)
    assert max(rows for rows, _ in sizes) == 150 // (21 + 12)
    assert max(rows * columns for rows, columns in sizes) <= 150


@quiet_torch
def test_equal_prompts_are_computed_once(tiny_llama: Path) -> None:
    requests = [replace(raw("the same", seed=n, temperature=1.0), key=str(n)) for n in range(4)]
    cached = sorted(done.cached_tokens for done in testing.answers(tiny(tiny_llama), *requests).values())
    assert cached == [0, 9, 9, 9]


@quiet_torch
def test_a_full_context_is_answered_to_the_last_token(tiny_llama: Path) -> None:
    fits = testing.answers(tiny(tiny_llama), raw("w" * 200, max_tokens=55))["w" * 200]
    assert (fits.prompt_tokens, fits.completion_tokens) == (201, 55)
    over = testing.answers(tiny(tiny_llama), raw("w" * 200, max_tokens=56))["w" * 200]
    assert over.error is not None
    assert over.error.kind == "too-long"


@quiet_torch
def test_an_adapter_that_is_not_there_is_said_and_not_ignored(tiny_llama: Path) -> None:
    (done,) = testing.answers(tiny(tiny_llama), replace(raw("a"), adapter=Adapter("0" * 64, str(tiny_llama)))).values()
    assert done.error is not None
    assert done.error.kind == "no-adapter"


@quiet_torch
def test_transformers_holds_an_answer_to_its_schema(tiny_llama: Path) -> None:
    shape = {
        "type": "object",
        "properties": {"on": {"type": "boolean"}, "name": {"type": "string", "enum": ["one", "two"]}},
        "required": ["on", "name"],
        "additionalProperties": False,
    }
    asked = [
        replace(raw(f"s{seed}", max_tokens=120), schema=shape, sampling=Sampling(120, temperature=1.0, seed=seed))
        for seed in range(4)
    ]
    free = raw("free", max_tokens=5)
    found = testing.answers(tiny(tiny_llama), *asked, free)
    for request in asked:
        text = found[request.key].text
        assert text is not None
        value = json.loads(text)
        assert set(value) == {"on", "name"}
        assert type(value["on"]) is bool
        assert value["name"] in ("one", "two")
    assert found["free"].text is not None
    bad = testing.answers(tiny(tiny_llama), replace(raw("bad"), schema={"type": "no such type"}))["bad"]
    assert bad.error is not None
    assert bad.error.kind == "bad-schema"


@quiet_torch
@pytest.mark.parametrize("kind", ["OutOfMemoryError", "RuntimeError"])
def test_no_memory_while_it_writes_is_temporary_and_says_what_to_set(tiny_llama: Path, kind: str) -> None:
    import torch

    backend = tiny(tiny_llama)
    error = torch.OutOfMemoryError if kind == "OutOfMemoryError" else RuntimeError
    steps = iter(range(3))

    def full(*_: Any) -> None:
        if next(steps, None) is None:
            raise error("out of memory\nand more")

    backend.engine.register_forward_pre_hook(full)
    with pytest.raises(Temporary, match=f"torch stopped: {kind}: out of memory$") as caught:
        list(backend.generate([raw("a b c", max_tokens=50)]))
    assert all(option in caught.value.hint for option in ("rows=", "tokens=", "context="))


@quiet_torch
def test_what_torch_cannot_compute_here_would_be_the_same_again(tiny_llama: Path) -> None:
    backend = tiny(tiny_llama)

    def lacking(*_: Any) -> None:
        raise NotImplementedError("this kernel")

    backend.engine.register_forward_pre_hook(lacking)
    with pytest.raises(CannotRun, match="torch cannot compute with this model here: NotImplementedError: this kernel"):
        list(backend.generate([raw("a b c")]))


@quiet_torch
def test_a_fault_of_whoever_asks_is_not_taken_for_one_of_torch(tiny_llama: Path) -> None:
    def broken() -> Iterator[Request]:
        yield raw("a")
        raise RuntimeError("the source broke")

    with pytest.raises(RuntimeError, match="the source broke"):
        list(tiny(tiny_llama, rows="2").generate(broken()))


@quiet_torch
def test_the_options_that_shape_a_result_are_told(tiny_llama: Path) -> None:
    assert tiny(tiny_llama, rows="3", context="64").model.about["options"] == {"context": 64, "rows": 3}


def test_a_draft_that_a_killed_process_left_is_removed_after_a_day(
    smollm2_gguf: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    skip_without("torch", "transformers")
    from hybrid.machine.home import cache_folder
    from hybrid.model_files.gguf import LAYOUT, as_folder
    from hybrid.model_files.location import digest_of

    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    models = cache_folder() / "models"
    assert models.is_relative_to(tmp_path)
    done = models / f"{digest_of(smollm2_gguf)[:32]}-{LAYOUT}"
    old, fresh, other = models / "ab-1.4711", models / "cd-1.4712", models / "notes.d"
    for folder in (done, old, fresh, other):
        folder.mkdir(parents=True)
        (folder / "weights").write_bytes(b"x")
    (fresh / "more").write_bytes(b"x")
    for path in (*models.iterdir(), *models.glob("*/weights")):
        os.utime(path, (0, 0))
    assert as_folder(smollm2_gguf) == done
    assert sorted(models.iterdir()) == sorted([done, fresh, other])


@quiet_torch
def test_a_folder_that_transformers_cannot_load_is_one_clear_error(tiny_llama: Path, tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text('{"model_type": "no-such-thing", "max_position_embeddings": 64}')
    (tmp_path / "model.safetensors").write_bytes((tiny_llama / "model.safetensors").read_bytes())
    with pytest.raises(CannotRun, match="cannot load") as caught:
        tiny(tmp_path)
    assert str(tmp_path) in caught.value.message


@quiet_torch
@pytest.mark.parametrize(
    ("name", "content"), [("tokenizer_config.json", "[]"), ("generation_config.json", "[]"), ("config.json", None)]
)
def test_an_odd_file_of_a_model_is_one_clear_error(
    tiny_llama: Path, tmp_path: Path, name: str, content: str | None
) -> None:
    folder = tmp_path / "odd"
    shutil.copytree(tiny_llama, folder)
    config = json.loads((folder / "config.json").read_text())
    (folder / name).write_text(content or json.dumps({**config, "num_attention_heads": 0}))
    with pytest.raises(CannotRun, match="cannot load") as caught:
        tiny(folder)
    assert str(folder) in caught.value.message


@quiet_torch
def test_a_sliding_window_sees_as_far_in_a_batch_as_alone(tiny_llama: Path, tmp_path: Path) -> None:
    import torch
    from transformers import MistralConfig, MistralForCausalLM

    folder = tmp_path / "sliding"
    shutil.copytree(tiny_llama, folder)
    shape = json.loads((tiny_llama / "config.json").read_text())
    kept = ("vocab_size", "hidden_size", "intermediate_size", "num_hidden_layers", "num_attention_heads")
    torch.manual_seed(1)
    model = MistralForCausalLM(
        MistralConfig(**{name: shape[name] for name in kept}, num_key_value_heads=2, sliding_window=16, eos_token_id=1)
    )
    model.save_pretrained(folder)
    found = testing.answers(tiny(folder), *map(raw, PROMPTS))
    backend = tiny(folder)
    for prompt in PROMPTS:
        ids = backend._tokenizer(prompt, return_tensors="pt").input_ids
        whole = model.eval().generate(ids, attention_mask=torch.ones_like(ids), max_new_tokens=12, do_sample=False)
        assert found[prompt].text == backend._tokenizer.decode(whole[0, ids.shape[1] :], skip_special_tokens=True)


@quiet_torch
def test_a_model_that_keeps_states_is_refused(tiny_llama: Path, tmp_path: Path) -> None:
    folder = tmp_path / "states"
    shutil.copytree(tiny_llama, folder)
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps({**config, "layer_types": ["linear_attention", "full_attention"]}))
    with pytest.raises(CannotRun, match="cannot batch: linear_attention"):
        tiny(folder)


@quiet_torch
def test_a_device_that_is_not_there_is_named(tiny_llama: Path) -> None:
    import torch

    missing = "mps" if torch.cuda.is_available() else "cuda"
    with pytest.raises(CannotRun, match=f"no '{missing}' device"):
        open_backend("transformers", str(tiny_llama), {"device": missing})


@pytest.mark.parametrize(
    ("name", "value", "message"),
    [
        ("rows", "none", "not a whole number"),
        ("rows", "0", "not a whole number"),
        ("dtype", "int4", "not known"),
        ("row", "4", "no option"),
    ],
)
@quiet_torch
def test_a_wrong_option_is_refused_before_anything_is_loaded(
    tiny_llama: Path, name: str, value: str, message: str
) -> None:
    with pytest.raises(UsageError, match=message):
        tiny(tiny_llama, **{name: value})


@pytest.mark.gpu
@quiet_torch
def test_a_gpu_writes_what_the_cpu_writes(tiny_llama: Path) -> None:
    import torch

    if not torch.cuda.is_available():
        pytest.skip("needs a GPU: torch sees none")
    there = testing.answers(open_backend("transformers", str(tiny_llama), {"dtype": "float32"}), *map(raw, PROMPTS))
    here = testing.answers(tiny(tiny_llama), *map(raw, PROMPTS))
    assert {key: done.text for key, done in there.items()} == {key: done.text for key, done in here.items()}


# --- vllm: what came of it in a process of its own (tests/support/vllm_checks.py)


@each_check
def test_vllm_keeps_the_promise(check: Callable[[Backend], None], vllm_says: dict[str, Any]) -> None:
    assert vllm_says[check.__name__]["broken"] is None


@quiet_torch
def test_vllm_and_transformers_say_the_same(vllm_says: dict[str, Any], smollm2: Backend) -> None:
    there = vllm_says["greedy"]["value"]
    here = testing.answers(smollm2, *(replace(testing.ask(question), logprobs=True) for question in there))
    for question, (text, logprob) in there.items():
        assert here[question].text == text
        assert here[question].logprob == pytest.approx(logprob, abs=0.01)


def test_vllm_keeps_adapters_apart_in_one_batch(vllm_says: dict[str, Any]) -> None:
    said = vllm_says["adapters"]["value"]
    logprobs = {name: said["together"][name][1] for name in ("base", "first", "second")}
    assert len(set(logprobs.values())) == 3
    for name, logprob in logprobs.items():
        assert said["alone"][name][0] == said["together"][name][0]
        assert said["alone"][name][1] == pytest.approx(logprob, abs=0.01)
    assert said["together"]["base"][0] == vllm_says["greedy"]["value"]["Count from one to ten."][0]


def test_vllm_names_an_adapter_that_is_not_there(vllm_says: dict[str, Any]) -> None:
    kind, message = vllm_says["adapters"]["value"]["refused"]["away"]
    assert kind == "no-adapter"
    assert "/nowhere" in message


def test_vllm_refuses_an_adapter_that_is_not_plain_lora(vllm_says: dict[str, Any]) -> None:
    kind, message = vllm_says["adapters"]["value"]["refused"]["other kind"]
    assert kind == "no-adapter"
    assert "began as 'pissa'" in message


def test_vllm_goes_on_beside_adapters_that_it_cannot_use(vllm_says: dict[str, Any]) -> None:
    said = vllm_says["bad_adapters"]["value"]
    assert said["first"] == vllm_says["adapters"]["value"]["together"]["first"][0]
    assert said["too large"][0] == said["cut short"][0] == "no-adapter"
    assert "rank 16 is greater than max_lora_rank 8" in said["too large"][1]


def test_a_vllm_that_has_changed_or_died_is_not_one_bad_request_an_item(vllm_says: dict[str, Any]) -> None:
    changed, dead = vllm_says["changed_functions"]["value"]
    assert changed[0] == 7
    assert "vLLM is not the version that hybrid knows: TypeError: no lora_request" in changed[1]
    assert dead[0] == 5
    assert "vLLM stopped: EngineDeadError" in dead[1]


def test_vllm_reserves_the_memory_for_adapters_that_is_planned(vllm_says: dict[str, Any]) -> None:
    reserved, planned, held = vllm_says["memory_of_adapters"]["value"]
    assert reserved == planned
    assert 1 <= held <= 32


def test_vllm_says_that_it_does_not_sleep_on_a_cpu_and_the_calls_for_a_gpu_exist(vllm_says: dict[str, Any]) -> None:
    before, after, still, flag, asleep, said, can_sleep = vllm_says["sleep"]["value"]
    assert before == after
    assert (still, flag, asleep, can_sleep) == (False, False, [True, True], False)
    assert said == "vLLM cannot sleep here: vLLM has no sleep on this device"


def test_vllm_does_not_start_for_a_model_that_lacks_weights(vllm_says: dict[str, Any]) -> None:
    assert "it lacks lm_head.weight, model.embed_tokens.weight" in vllm_says["incomplete"]["value"]
    assert "it holds model.odd" in vllm_says["incomplete"]["value"]


def test_vllm_tells_of_a_rank_that_is_too_large_also_where_no_adapters_are_asked_for(vllm_says: dict[str, Any]) -> None:
    assert "lora_rank=513" in vllm_says["unused_rank"]["value"]


def test_vllm_has_room_for_every_rank_that_it_is_started_with(vllm_says: dict[str, Any]) -> None:
    from hybrid.backends.ranks import RANKS, supported_rank

    assert set(RANKS) <= set(vllm_says["ranks"]["value"])
    assert [supported_rank(rank) for rank in (1, 8, 9, 12, 33, 300, 512)] == [8, 8, 16, 16, 64, 320, 512]
    with pytest.raises(CannotRun, match="rank 512 at most"):
        supported_rank(513)
    assert supported_rank(3, (1, 4, 8)) == 4
    with pytest.raises(CannotRun, match="rank 8 at most, not of rank 9"):
        supported_rank(9, (1, 4, 8))


def test_vllm_takes_a_repeated_prompt_from_its_cache(vllm_says: dict[str, Any]) -> None:
    cached, prompt = vllm_says["prefix"]["value"]
    assert 0 < prompt - cached <= 128
