"""The backend `classifier`: models that it loads, texts as ids, and what loops get of it."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from tokenizers import Tokenizer, models, pre_tokenizers, processors
from transformers import DistilBertModel, PreTrainedTokenizerFast

from hybrid.backends.classifier import ClassifierBackend
from hybrid.backends.registry import digest_before_loading, open_backend
from hybrid.errors import CannotRun
from hybrid.execution.loop_engine import LoopBackend
from hybrid.loops import EncodedText, LabelledText
from hybrid.records import Request, Sampling
from tests.support.small_classifiers import POSITIONS, stock, tuning

torch.set_num_threads(1)


def write_classifier(folder: Path, family: str = "DistilBert", *, typed: bool = False, whole: bool = True) -> Path:
    """A folder with a word tokenizer; of the `whole` model with its head, or of its base."""
    model = stock(family)
    (model if whole else model.base_model).save_pretrained(folder)
    words = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", *(f"w{number}" for number in range(40))]
    tokenizer = Tokenizer(models.WordLevel({word: number for number, word in enumerate(words)}, "[UNK]"))
    tokenizer.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    tokenizer.post_processor = processors.BertProcessing(("[SEP]", 3), ("[CLS]", 2))
    inputs = ["input_ids", *(["token_type_ids"] if typed else []), "attention_mask"]
    PreTrainedTokenizerFast(tokenizer_object=tokenizer, model_input_names=inputs).save_pretrained(folder)
    return folder


@pytest.fixture(scope="module")
def distilbert(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_classifier(tmp_path_factory.mktemp("distilbert"))


def test_a_folder_is_loaded_without_the_head_that_it_has(distilbert: Path) -> None:
    backend = ClassifierBackend(str(distilbert), {"device": "cpu"})
    assert isinstance(backend, LoopBackend)
    assert backend.model.digest == digest_before_loading("classifier", str(distilbert))
    assert (backend.device, backend.model.context) == ("cpu", POSITIONS)
    bank = backend.classifiers(2, 4, None, 2)
    for slot in range(2):
        bank.put(slot, bank.new_adapter(4, 8.0, slot), bank.new_head(2, slot), tuning())
    texts = backend.tokenize(["w1 w2", ("w3", "w4 w5")], 16)
    losses = bank.backward([LabelledText(slot, text, slot, 1.0) for slot, text in enumerate(texts)])
    assert losses.min() > 0
    assert not bank.step([0, 1], 1e-3).any()
    full = backend.full_classifier(2, 0)
    assert full.logits(texts).shape == bank.logits(list(enumerate(texts))).shape == (2, 2)
    (answer,) = backend.generate([Request(Sampling(1), prompt="?", key="k")])
    assert answer.error is not None
    backend.close()


def test_texts_and_pairs_are_cut_and_say_so(tmp_path: Path) -> None:
    backend = ClassifierBackend(str(write_classifier(tmp_path, "Bert", typed=True)), {"device": "cpu"})
    short, pair, cut = backend.tokenize(["w1 w2", ("w1", "w2 w3"), " ".join(["w7"] * 99)], 1000)
    assert short == EncodedText((2, 5, 6, 3), (0, 0, 0, 0))
    assert pair == EncodedText((2, 5, 3, 6, 7, 3), (0, 0, 0, 1, 1, 1))
    assert (len(cut.ids), cut.truncated) == (POSITIONS, True)
    assert [len(one.ids) for one in backend.tokenize(["w1 w2 w3", ("w1", "w2 w3 w4")], 5)] == [5, 5]


def test_the_built_in_model_needs_no_file() -> None:
    backend = open_backend("classifier", "tiny", {"device": "cpu"})
    assert backend.model.digest == digest_before_loading("classifier", "tiny")
    assert isinstance(backend, ClassifierBackend)
    assert backend.classifiers(1, 4, None, 2).layers
    backend.close()


def test_a_model_that_lacks_weights_is_refused(tmp_path: Path) -> None:
    """A BERT without a pooler, which a checkpoint of a masked language model is; DistilBERT has none to lack."""
    folder = write_classifier(tmp_path / "bert", "Bert")
    model = stock("Bert").base_model
    model.pooler = None
    model.save_pretrained(folder)
    with pytest.raises(CannotRun, match=r"lacks pooler\.dense"):
        ClassifierBackend(str(folder), {"device": "cpu"})
    folder = write_classifier(tmp_path / "base", whole=False)
    assert isinstance(ClassifierBackend(str(folder), {"device": "cpu"})._base.base, DistilBertModel)


def test_the_backend_without_a_model_says_which_has_one() -> None:
    lab = open_backend("none", "none", {})
    assert isinstance(lab, LoopBackend)
    with pytest.raises(CannotRun, match="no model to train") as refused:
        lab.classifiers(1, 4, None, 2)
    assert "--backend classifier" in str(refused.value.hint)
    with pytest.raises(CannotRun):
        lab.tokenize(["a"], 8)
    with pytest.raises(CannotRun):
        lab.full_classifier(2, 0)
