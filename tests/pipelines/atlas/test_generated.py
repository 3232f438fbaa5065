"""Generated tasks: rows whose labels are known to be right, and that the tiny model can learn."""

from __future__ import annotations

import random
from collections.abc import Callable, Sequence

import pytest
import torch

from hybrid.errors import UsageError
from hybrid.training.tiny_classifier import TinyTokenizer, tiny_model, words
from pipelines.atlas import generated
from pipelines.atlas.task_data import Row, TaskData


def praises(row: Row) -> bool:
    found = [word in generated.GOOD for word in row.text.split() if word in generated.GOOD + generated.BAD]
    return sum(found) * 2 > len(found)


def is_of_food(row: Row) -> bool:
    nouns = {word in generated.FOOD for word in row.text.split() if word in generated.FOOD + generated.FILM}
    assert len(nouns) == 1
    return nouns.pop()


def has_equal_things(row: Row) -> bool:
    assert row.pair is not None
    one, other = (sorted(text.split()[1:]) for text in (row.text, row.pair))
    assert one == other or not set(one) & set(other)
    return one == other


def agrees(row: Row) -> bool:
    text = row.text.split()
    verb = text[5] if text[2] in generated.PLACED else text[2]
    return text[1].endswith("s") != verb.endswith("s")


RIGHT: dict[str, Callable[[Row], bool]] = {
    "polarity": praises,
    "subject": is_of_food,
    "paraphrase": has_equal_things,
    "agreement": agrees,
}


@pytest.mark.parametrize("name", RIGHT)
def test_every_label_is_right_and_no_row_stands_twice(name: str) -> None:
    data = generated.read(name, 400, 100, seed=3)
    rows = [*data.train, *data.dev]
    assert (len(data.train), len(data.dev), len(set(rows))) == (400, 100, 500)
    assert [row.label for row in rows] == [int(RIGHT[name](row)) for row in rows]
    assert 0.4 < sum(row.label for row in rows) / 500 < 0.6
    assert data == generated.read(name, 400, 100, seed=3)
    assert data.train != generated.read(name, 400, 100, seed=4).train
    assert TaskData.from_json(name, data.to_json()).to_json() == data.to_json()


def test_random_labels_have_nothing_to_do_with_the_texts() -> None:
    rows = generated.read("random-labels", 2000, 0, seed=0).train
    assert abs(sum(row.label == praises(row) for row in rows) / 2000 - 0.5) < 0.04


def test_the_tiny_model_tells_all_words_apart() -> None:
    lists = [value for name, value in vars(generated).items() if name.isupper() and isinstance(value, list)]
    every = {token for entries in lists for word in entries for token in words(word)}
    tokenizer = TinyTokenizer()
    assert len(lists) == 12
    assert len({tokenizer.id(token) for token in every}) == len(every) > 290


def test_an_unknown_task_or_too_many_rows_are_refused() -> None:
    with pytest.raises(UsageError, match="no generated task 'polarty'") as caught:
        generated.read("polarty", 10, 10, 0)
    assert caught.value.hint.startswith("did you mean 'polarity'?")
    for train, dev in ((0, 1), (1, -1), (200_000, 1)):
        with pytest.raises(UsageError, match="at most 200,000"):
            generated.read("polarity", train, dev, 0)


class Learner:
    """The tiny model with an adapter of rank 4 and a head, as PEFT makes them."""

    def __init__(self) -> None:
        from peft import LoraConfig, get_peft_model
        from transformers import BertForSequenceClassification

        torch.manual_seed(0)
        base = tiny_model()
        whole = BertForSequenceClassification(base.config)
        whole.bert.load_state_dict(base.state_dict())
        layers = [name for name, layer in whole.bert.encoder.named_modules() if isinstance(layer, torch.nn.Linear)]
        config = LoraConfig(task_type="SEQ_CLS", r=4, lora_alpha=8, target_modules=[f"encoder.{one}" for one in layers])
        self.model, self.tokenizer = get_peft_model(whole, config), TinyTokenizer()
        self.trained = [one for one in self.model.parameters() if one.requires_grad]

    def logits(self, rows: Sequence[Row]) -> torch.Tensor:
        encoded = [self.tokenizer.encode(row.text if row.pair is None else (row.text, row.pair), 64) for row in rows]
        width = max(len(one.ids) for one in encoded)
        ids, types = (
            torch.tensor([[*part, *[0] * (width - len(part))] for part in parts])
            for parts in ([one.ids for one in encoded], [one.types for one in encoded])
        )
        return self.model(input_ids=ids, token_type_ids=types, attention_mask=(ids > 0).long()).logits

    def learn(self, rows: Sequence[Row], steps: int) -> None:
        optimizer, drawn = torch.optim.AdamW(self.trained, lr=5e-3), random.Random(0)
        for _ in range(steps):
            batch = drawn.sample(rows, 16)
            loss = torch.nn.functional.cross_entropy(self.logits(batch), torch.tensor([row.label for row in batch]))
            loss.backward()
            torch.nn.utils.clip_grad_norm_(self.trained, 1.0)
            optimizer.step()
            optimizer.zero_grad()

    @torch.no_grad()
    def accuracy(self, rows: Sequence[Row]) -> float:
        right = self.logits(rows).argmax(-1) == torch.tensor([row.label for row in rows])
        return right.double().mean().item()


@pytest.mark.slow
@pytest.mark.parametrize(("name", "least", "most"), [("polarity", 0.7, 1), ("random-labels", 0, 0.6)])
def test_an_adapter_of_rank_4_learns_what_can_be_learned(name: str, least: float, most: float) -> None:
    data, learner = generated.read(name, 400, 300, seed=0), Learner()
    learner.learn(data.train, 80)
    assert least <= learner.accuracy(data.dev) <= most
