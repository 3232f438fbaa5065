"""LoRA training with stock PEFT, one adapter after another, for the same jobs as the batched trainer."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import peft
import safetensors.torch
import torch
from transformers import AutoModelForCausalLM, AutoTokenizer

from hybrid.backends.tuned.examples import texts_of
from hybrid.model_files.gguf import as_folder
from hybrid.model_files.location import locate
from hybrid.tasks.arc.data import bundled, demonstrations
from hybrid.tasks.arc.subsets import SUBSETS
from hybrid.tasks.arc.text import SEAL
from hybrid.training.adapters import initial_weights
from hybrid.training.jobs import Job, Tokens
from hybrid.training.slots import linear_layers
from hybrid.tuning import Tuning
from peers.random_models import RATE, SMOLLM2
from pipelines.seal.examples import AugmentationSettings, of_demonstrations


def smollm2() -> Any:
    """SmolLM2-135M, fp32."""
    return AutoModelForCausalLM.from_pretrained(as_folder(locate("smollm2")), dtype=torch.float32).eval()


def arc_texts(
    subset: str, most: int, augmentation: AugmentationSettings | None = None
) -> dict[str, tuple[Tokens, ...]]:
    """Task -> its training texts in `seal-ttt`, in SmolLM2's tokens, for `most` tasks spread over the subset.

    The tokenizer is read from the GGUF itself, so that its weights need not be converted.
    """
    gguf = locate("smollm2")
    tokenizer = AutoTokenizer.from_pretrained(gguf.parent, gguf_file=gguf.name)
    tasks, ids = bundled("arc1-training").tasks, sorted(SUBSETS[subset])
    found = {}
    for id in ids[:: max(1, len(ids) // most)][:most]:
        examples = of_demonstrations(
            demonstrations(tasks[id], id), augmentation or AugmentationSettings(instruction=SEAL.instruction)
        )
        tuning = Tuning({"task": id}, learning_rate=RATE, epochs=1)
        found[id], _ = texts_of(examples, tuning, tokenizer, SMOLLM2["max_position_embeddings"])
    return found


class Peft:
    """One adapter of stock PEFT in a model, reset for each job as in SEAL; torch's AdamW, clipping at the job's norm.

    `fused` is the argument of torch's AdamW: with None torch chooses, on a CPU a loop over tensors.
    """

    def __init__(self, model: Any, first: Job, *, fused: bool | None = None) -> None:
        how, self.fused = first.tuning, fused
        layers = linear_layers(model, how.targets)
        self._widths = {name: (layer.in_features, layer.out_features) for name, layer in layers.items()}
        config = peft.LoraConfig(r=how.rank, lora_alpha=how.alpha, target_modules=list(how.targets), lora_dropout=0.0)
        self.model = peft.get_peft_model(model, config)
        self.trained = [value for value in self.model.parameters() if value.requires_grad]
        self.device, self.dtype = model.device, model.dtype

    def begin(self, job: Job) -> None:
        """Set the initial values of our trainer, and create a new optimizer."""
        how = job.tuning
        first = initial_weights(self._widths, how.targets, how.rank, how.alpha, how.seed)
        peft.set_peft_model_state_dict(self.model, safetensors.torch.load(first.to_bytes(torch.float32)))
        self.optimizer = torch.optim.AdamW(
            self.trained, lr=how.learning_rate, weight_decay=how.weight_decay, fused=self.fused
        )

    def backward(self, job: Job, step: int, longest: int = 0) -> torch.Tensor:
        """The loss of a step, with logits of every token; computes its gradients, with autocast for a 16-bit model."""
        batch = rectangle([job.texts[index] for index in job.batch(step)], longest)
        there = {name: value.to(self.device) for name, value in batch.items()}
        with torch.autocast(self.device.type, self.dtype, enabled=self.dtype != torch.float32):
            loss: torch.Tensor = self.model(**there).loss
        loss.backward()
        return loss.detach()

    def update(self, job: Job, step: int) -> None:
        """Clip and step as Hugging Face's Trainer does."""
        torch.nn.utils.clip_grad_norm_(self.trained, job.tuning.clip)
        self.optimizer.param_groups[0]["lr"] = job.learning_rate(step)
        self.optimizer.step()
        self.optimizer.zero_grad()

    def train(self, job: Job, longest: int = 0, after_step: Callable[[], None] = lambda: None) -> list[float]:
        """Train a job. Returns its losses. Every text is padded to `longest`, or with 0 to the longest of its batch."""
        self.begin(job)
        losses = []
        for step in range(job.steps):
            losses.append(self.backward(job, step, longest))
            self.update(job, step)
            after_step()
        return [float(loss) for loss in losses]

    def close(self) -> None:
        """Remove the adapter from the model."""
        self.model.unload()


def rectangle(texts: Sequence[Tokens], longest: int = 0, pad: int = 0) -> dict[str, torch.Tensor]:
    """A batch [texts, longest] for Hugging Face's models, right-padded; padding is masked and has no labels."""
    longest = longest or max(len(text.ids) for text in texts)
    more = [longest - len(text.ids) for text in texts]
    labels = [[id if learned else -100 for id, learned in zip(one.ids, one.learned, strict=True)] for one in texts]
    return {
        "input_ids": torch.tensor([[*one.ids, *[pad] * n] for one, n in zip(texts, more, strict=True)]),
        "attention_mask": torch.tensor([[1] * len(one.ids) + [0] * n for one, n in zip(texts, more, strict=True)]),
        "labels": torch.tensor([[*one, *[-100] * n] for one, n in zip(labels, more, strict=True)]),
    }
