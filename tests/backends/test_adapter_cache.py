"""The transformers backend with one adapter per request: its answers are those of PEFT with each adapter alone."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import peft
import pytest
import safetensors.torch
import torch
from transformers import AutoModelForCausalLM, AutoTokenizer

from hybrid import testing
from hybrid.backends.registry import open_backend
from hybrid.protocols import Backend
from hybrid.records import Adapter, Request
from hybrid.training.adapters import adapter_digest
from tests.support.small_hf_model import ask, headers, write_model

pytestmark = pytest.mark.filterwarnings("ignore")  # torch and transformers warn of themselves
QUESTIONS = ("Say it.", "And what is [[1 2]\n [3 4]]?")
DATE = {"date_string": "26 Jul 2024"}
KINDS: tuple[dict[str, Any], ...] = (
    {"r": 4, "lora_alpha": 8, "target_modules": ["q_proj", "v_proj"]},
    {"r": 3, "lora_alpha": 16, "target_modules": ["q_proj", "v_proj"]},
    {"r": 8, "lora_alpha": 8, "target_modules": ["q_proj", "v_proj", "gate_proj", "up_proj", "down_proj"]},
    {"r": 20, "lora_alpha": 30, "target_modules": ["o_proj", "k_proj"]},
    {"r": 1, "lora_alpha": 4, "target_modules": ["v_proj"]},
)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    torch.set_num_threads(1)
    return write_model(tmp_path_factory.mktemp("model"), headers())


def write_adapter(model: Path, place: Path, seed: int, **kind: Any) -> Adapter:
    """An adapter folder saved by PEFT, with random weights large enough to change answers."""
    torch.manual_seed(seed)
    base = AutoModelForCausalLM.from_pretrained(model)
    wrapped = peft.get_peft_model(base, peft.LoraConfig(task_type="CAUSAL_LM", **kind))
    for name, value in wrapped.named_parameters():
        if "lora_" in name:
            torch.nn.init.normal_(value, std=0.3)
    wrapped.save_pretrained(str(place))
    return Adapter(adapter_digest((place / "adapter_model.safetensors").read_bytes()), str(place))


@pytest.fixture(scope="module")
def five(folder: Path, tmp_path_factory: pytest.TempPathFactory) -> list[Adapter]:
    """Adapters of different ranks, scales and layers."""
    return [write_adapter(folder, tmp_path_factory.mktemp(f"a{n}"), n, **kind) for n, kind in enumerate(KINDS)]


@pytest.fixture
def opened(folder: Path) -> Iterator[Callable[..., Backend]]:
    engines: list[Backend] = []

    def opener(**options: str) -> Backend:
        engines.append(open_backend("transformers", str(folder), {"device": "cpu", **options}))
        return engines[-1]

    yield opener
    for engine in engines:
        engine.close()


def asked(adapter: Adapter | None, question: str, name: str) -> Request:
    return replace(ask(question, name, adapter=adapter), template=DATE, logprobs=True)


def by_peft(folder: Path, adapter: Adapter | None, question: str) -> tuple[str, float]:
    """The greedy text of the stock libraries and its log-probability, without that of the end token."""
    tokenizer = AutoTokenizer.from_pretrained(folder)
    model = AutoModelForCausalLM.from_pretrained(folder)
    if adapter:
        model = peft.PeftModel.from_pretrained(model, adapter.path)
    chat = [{"role": "user", "content": question}]
    ids = tokenizer.apply_chat_template(chat, add_generation_prompt=True, return_tensors="pt", **DATE).input_ids
    whole = model.generate(
        input_ids=ids, attention_mask=torch.ones_like(ids), max_new_tokens=12, do_sample=False, pad_token_id=0
    )
    with torch.no_grad():
        logprobs = model(input_ids=whole).logits[0, ids.shape[1] - 1 : -1].log_softmax(-1)
    said = whole[0, ids.shape[1] :]
    of_text = logprobs.gather(-1, said[:, None])[said != tokenizer.eos_token_id]
    return tokenizer.decode(said, skip_special_tokens=True), float(of_text.sum())


@pytest.mark.parametrize("options", [{}, {"loras": "2"}, {"loras": "1", "rows": "3"}], ids=str)
def test_answers_are_those_of_peft_with_each_adapter_alone(
    opened: Callable[..., Backend], folder: Path, five: list[Adapter], options: dict[str, str]
) -> None:
    adapters = [None, *five]
    requests = [asked(one, text, f"{n} {text}") for text in QUESTIONS for n, one in enumerate(adapters)]
    found = testing.answers(opened(**options), *requests)
    expected = {request.key: by_peft(folder, request.adapter, request.messages[0].content) for request in requests}
    assert {key: done.text for key, done in found.items()} == {key: text for key, (text, _) in expected.items()}
    for key, done in found.items():
        assert done.logprob == pytest.approx(expected[key][1], abs=1e-3)
    assert len({text for text, _ in expected.values()}) == len(requests)


def test_a_prompt_is_computed_once_for_each_adapter(opened: Callable[..., Backend], five: list[Adapter]) -> None:
    requests = [asked(one, "Say it.", f"{n} {turn}") for turn in range(2) for n, one in enumerate([None, *five[:2]])]
    found = testing.answers(opened(), *requests)
    prompt = found["0 0"].prompt_tokens
    assert sorted(done.cached_tokens for done in found.values()) == [0, 0, 0, prompt, prompt, prompt]
    for n in range(3):
        assert found[f"{n} 0"].text == found[f"{n} 1"].text
    assert len({done.text for done in found.values()}) == 3


def test_no_more_adapters_are_in_flight_than_there_are_slots(
    opened: Callable[..., Backend], five: list[Adapter], monkeypatch: pytest.MonkeyPatch
) -> None:
    from hybrid.backends.batch import Batch

    together: list[int] = []
    step = Batch.step

    def watched(batch: Batch) -> Any:
        together.append(len({row.adapter for row in batch.rows} - {""}))
        return step(batch)

    monkeypatch.setattr(Batch, "step", watched)
    found = testing.answers(opened(loras="2"), *(asked(one, "Say it.", str(n)) for n, one in enumerate(five)))
    assert len(found) == 5
    assert max(together) == 2


def test_an_adapter_that_is_forgotten_is_read_again(opened: Callable[..., Backend], five: list[Adapter]) -> None:
    engine: Any = opened(loras="1")
    first = testing.answers(engine, asked(five[0], "Say it.", "k"))["k"].text
    other = testing.answers(engine, asked(five[1], "Say it.", "k"))["k"].text
    engine.adapter_cache.forget([one.digest for one in five])
    assert not engine.adapter_cache.knows(five[0].digest)
    assert testing.answers(engine, asked(five[0], "Say it.", "k"))["k"].text == first != other


# --- what anybody may have put there


def changed(adapter: Adapter, place: Path, change: Callable[[dict[str, torch.Tensor], dict[str, Any]], Any]) -> Adapter:
    """A copy of an adapter with other tensors or settings, named by its new digest."""
    tensors = safetensors.torch.load_file(f"{adapter.path}/adapter_model.safetensors")
    config = json.loads(Path(adapter.path, "adapter_config.json").read_text())
    change(tensors, config)
    place.mkdir()
    data = safetensors.torch.save(tensors)
    (place / "adapter_model.safetensors").write_bytes(data)
    (place / "adapter_config.json").write_text(json.dumps(config))
    return Adapter(adapter_digest(data), str(place))


def first(tensors: dict[str, torch.Tensor]) -> str:
    return min(tensors)


LAYER = "base_model.model.model.layers.0.self_attn."
HEAD = "base_model.model.lm_head."


def wider(tensors: dict[str, torch.Tensor], _: Any) -> None:
    tensors[first(tensors)] = torch.zeros(4, 64)


def not_a_number(tensors: dict[str, torch.Tensor], _: Any) -> None:
    tensors[first(tensors)][0, 0] = float("nan")


def of_the_head(tensors: dict[str, torch.Tensor], _: Any) -> None:
    tensors |= {f"{HEAD}lora_A.weight": torch.zeros(4, 32), f"{HEAD}lora_B.weight": torch.zeros(260, 4)}


def of_another_layer(tensors: dict[str, torch.Tensor], _: Any) -> None:
    for part in "AB":
        tensors[f"{LAYER}qkv_proj.lora_{part}.weight"] = tensors.pop(f"{LAYER}q_proj.lora_{part}.weight")


def deeper(tensors: dict[str, torch.Tensor], _: Any) -> None:
    for name in sorted(tensors):
        tensors[name.replace("layers.1", "layers.7")] = tensors.pop(name)


def one_half(tensors: dict[str, torch.Tensor], _: Any) -> None:
    del tensors[first(tensors)]


def whole_numbers(tensors: dict[str, torch.Tensor], _: Any) -> None:
    tensors[first(tensors)] = tensors[first(tensors)].to(torch.int32)


CHANGES: dict[str, Callable[[dict[str, torch.Tensor], dict[str, Any]], Any]] = {
    "wrong shapes": wider,
    "not a number": not_a_number,
    "the output head": of_the_head,
    "another layer": of_another_layer,
    "a deeper model": deeper,
    "half a pair": one_half,
    "whole numbers": whole_numbers,
    "nothing": lambda tensors, _: tensors.clear(),
    "another rank": lambda _, config: config.update(r=5),
    "no rank": lambda _, config: config.pop("r"),
    "a rank in words": lambda _, config: config.update(r="4"),
    "no alpha": lambda _, config: config.update(lora_alpha=0),
    "another kind": lambda _, config: config.update(peft_type="IA3"),
    "another method": lambda _, config: config.update(use_dora=True),
    "another beginning": lambda _, config: config.update(init_lora_weights="pissa_niter_4"),
    "for some tokens": lambda _, config: config.update(alora_invocation_tokens=[3]),
    "what nobody knows": lambda _, config: config.update(use_newlora={"alpha": 2}),
    "turned matrices": lambda _, config: config.update(fan_in_fan_out=True),
}


@pytest.fixture
def bad(five: list[Adapter], tmp_path: Path) -> dict[str, Adapter]:
    """Invalid adapters, by what is wrong with them."""
    made = {name: changed(five[0], tmp_path / name, change) for name, change in CHANGES.items()}
    whole = Path(five[0].path, "adapter_model.safetensors").read_bytes()
    made["another sha256"] = Adapter("0" * 64, five[0].path)
    made["no folder"] = Adapter("1" * 64, str(tmp_path / "away"))
    made["no place"] = Adapter("2" * 64, "")
    for name, data in {"torn": whole[: len(whole) // 2], "empty": b"", "no tensors": b"x" * 100}.items():
        (tmp_path / name).mkdir()
        (tmp_path / name / "adapter_model.safetensors").write_bytes(data)
        made[name] = Adapter(adapter_digest(data), str(tmp_path / name))
    (tmp_path / "settings that are none").mkdir()
    (tmp_path / "settings that are none" / "adapter_model.safetensors").write_bytes(whole)
    (tmp_path / "settings that are none" / "adapter_config.json").write_text("[" * 10_000)
    made["settings that are none"] = Adapter(five[0].digest, str(tmp_path / "settings that are none"))
    (tmp_path / "pickle").mkdir()
    torch.save({"a": torch.zeros(1)}, tmp_path / "pickle" / "adapter_model.bin")
    (tmp_path / "pickle" / "adapter_config.json").write_text(Path(five[0].path, "adapter_config.json").read_text())
    made["pickle"] = Adapter(
        adapter_digest((tmp_path / "pickle" / "adapter_model.bin").read_bytes()), str(tmp_path / "pickle")
    )
    return made


def test_what_is_no_adapter_of_this_model_fails_its_requests_alone(
    opened: Callable[..., Backend], five: list[Adapter], bad: dict[str, Adapter]
) -> None:
    good = [asked(one, "Say it.", f"good {n}") for n, one in enumerate([None, *five[1:]])]
    expected = {key: done.text for key, done in testing.answers(opened(), *good).items()}
    wrong = [asked(one, "Say it.", name) for name, one in bad.items()]
    mixed = [*wrong[:5], *good[:2], *wrong[5:], *good[2:]]
    found = testing.answers(opened(loras="2"), *mixed)
    assert {name: found[name].error.kind for name in bad if found[name].error} == dict.fromkeys(bad, "no-adapter")
    assert {key: found[key].text for key in expected} == expected


def test_a_file_that_is_too_large_is_not_read(
    opened: Callable[..., Backend], five: list[Adapter], monkeypatch: pytest.MonkeyPatch
) -> None:
    from hybrid.backends import adapter_cache

    monkeypatch.setattr(adapter_cache, "MAX_FILE", 100)
    done = testing.answers(opened(), asked(five[0], "Say it.", "k"))["k"]
    assert done.error
    assert "more than the 100 bytes" in done.error.message
