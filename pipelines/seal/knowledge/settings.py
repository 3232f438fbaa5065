"""The settings of knowledge incorporation."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Literal

from hybrid.bounds import NOT_NEGATIVE, SEED, SHARE, Bounds, help_of, refuse_outside
from hybrid.canonical import Json
from hybrid.errors import UsageError, nearest
from hybrid.grading.answers import RULES
from hybrid.sampling import item_seed
from hybrid.tasks.squad.prompts import Format, QuestionPrompt
from hybrid.tuning import Tuning, refuse_untrainable
from pipelines.seal.fine_tuning import POLICY_SETTINGS, policy_tuning
from pipelines.seal.knowledge.documents import Division, Documents
from pipelines.seal.knowledge.writing import PASSAGE, Kind, Writing

CONTROLS = ("base", "context", "passage")
ALL_LINEAR = ("q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj")


@dataclass(frozen=True)
class KnowledgeSettings:
    """Which passages, what is written about them, how it is learned, how answers are judged and rewarded."""

    data: str = field(default="", metadata=help_of("a JSON file in SQuAD's or SEAL's layout; empty: a small sample"))
    eval_data: str = field(default="", metadata=help_of("that of the evaluation passages; empty: other ones of data"))
    given: str = field(default="", metadata=help_of("a JSON file of passages with completions of another writer"))
    rounds: int = field(default=2, metadata=help_of("how often the writer is fine-tuned on what was rewarded"))
    passages: int = field(default=50, metadata=help_of("training passages of a round"))
    fresh: bool = field(default=True, metadata=help_of("every round has training passages of its own"))
    eval_passages: int = field(default=200, metadata=help_of("evaluation passages, of which nothing is rewarded"))
    shuffle: int | None = field(default=42, metadata=help_of("draw the passages in the order of this seed"))
    questions: int = field(default=0, metadata=help_of("at most so many questions about a passage; 0: all"))
    groups: int = field(
        default=4, metadata=help_of("parts of a round: while the answers of one are judged, the next is trained")
    )

    kind: Kind = field(default="implications", metadata=help_of("what is written about a passage"))
    prompt: str = field(default="", metadata=help_of("your own prompt, with {passage} and perhaps {title} in it"))
    format: Format = field(
        default="chat", metadata=help_of("chats, or texts to be continued by a model that was never taught to chat")
    )
    completions: int = field(default=5, metadata=help_of("texts that are written about a training passage"))
    eval_completions: int = field(default=1, metadata=help_of("... about an evaluation passage, with each writer"))
    trainings: int = field(
        default=1,
        metadata=help_of("trainings of a training passage's text, with other seeds; its reward is their mean"),
    )
    temperature: float = field(default=1.0, metadata=help_of("of the writer"))
    top_p: float = field(default=0.95, metadata=help_of("nucleus of its sampling, over 0 to 1"))
    write_tokens: int = field(default=1024, metadata=help_of("bound of a text about a passage"))
    documents: Division = field(
        default="auto", metadata=help_of("what of a text is one training text; auto: a line, of self-qa a question")
    )
    most_documents: int = field(default=30, metadata=help_of("most training texts of one completion; 0: all"))

    together: int = field(
        default=1, metadata=help_of("evaluation passages that one adapter learns; 0: all, as continued pretraining")
    )
    learner: Literal["policy", "base"] = field(
        default="policy", metadata=help_of("which model learns the texts: the round's writer, or the first model")
    )
    learning_rate: float = field(default=1e-3, metadata=help_of("of AdamW"))
    epochs: int = field(default=10, metadata=help_of("how often all texts about a passage are gone through"))
    batch: int = field(default=1, metadata=help_of("texts in an optimizer step"))
    rank: int = field(default=32, metadata=help_of("of the adapter"))
    alpha: float = field(default=64.0, metadata=help_of("the adapter's part is multiplied by alpha / rank"))
    targets: tuple[str, ...] = field(default=("q_proj", "v_proj"), metadata=help_of("the layers that are adapted"))
    warmup: int = field(default=0, metadata=help_of("optimizer steps in which the learning rate rises"))
    schedule: Literal["cosine", "linear", "constant"] = field(
        default="linear", metadata=help_of("how the learning rate goes on")
    )
    clip: float = field(default=1.0, metadata=help_of("norm at which a gradient is cut; 0: never"))
    padding: Literal["masked", "seal"] = field(
        default="masked", metadata=help_of("seal: texts are padded to the longest, and the padding is learned")
    )

    topic: bool = field(default=True, metadata=help_of("the passage's title stands before a question"))
    instruction: str = field(default="", metadata=help_of("how to answer; empty: the format's own"))
    max_tokens: int = field(default=64, metadata=help_of("bound of an answer"))
    date: str = field(default="26 Jul 2024", metadata=help_of("what the chat template says today is"))

    judged_by: Literal["model", "rules"] = field(
        default="model",
        metadata=help_of("who says no: the model of the role 'judge', or the rules, which are wrong more often"),
    )
    rules: tuple[str, ...] = field(
        default=("exact",), metadata=help_of(f"what is right without a model: {', '.join(RULES)}")
    )
    select: Literal["beats-base", "published"] = field(
        default="beats-base",
        metadata=help_of("learn a passage's best text if it beats no training; published: always, as in SEAL"),
    )
    controls: tuple[str, ...] = field(
        default=CONTROLS, metadata=help_of(f"further arms of the evaluation: {', '.join(CONTROLS)}")
    )
    policy_learning_rate: float = field(default=3e-4, metadata=help_of("of the writer's fine-tuning"))
    policy_epochs: int = field(default=2, metadata=help_of("of that fine-tuning"))
    policy_batch: int = field(default=10, metadata=help_of("of that fine-tuning"))
    policy_rank: int = field(default=64, metadata=help_of("of that fine-tuning"))
    policy_alpha: float = field(default=128.0, metadata=help_of("of that fine-tuning"))
    policy_targets: tuple[str, ...] = field(default=ALL_LINEAR, metadata=help_of("of that fine-tuning"))
    seed: int = field(default=0, metadata=help_of("draws texts, the order of training and the adapters' start"))

    def __post_init__(self) -> None:
        refuse_outside(self, rounds=Bounds(0, 20), passages=Bounds(1, 10_000), eval_passages=Bounds(0, 100_000))
        refuse_outside(self, groups=Bounds(1, 100), questions=NOT_NEGATIVE, shuffle=SEED, seed=SEED)
        refuse_outside(self, completions=Bounds(1, 1000), eval_completions=Bounds(1, 1000), together=NOT_NEGATIVE)
        refuse_outside(self, trainings=Bounds(1, 100))
        refuse_outside(self, temperature=Bounds(0, 100), top_p=SHARE, write_tokens=Bounds(1), max_tokens=Bounds(1))
        refuse_outside(self, most_documents=NOT_NEGATIVE)
        refuse_untrainable(self, "learning_rate", "epochs", "rank", "alpha", "batch", "warmup", "clip")
        refuse_untrainable(self, *POLICY_SETTINGS, prefix="policy_")
        if max(self.completions, self.eval_completions) > 1 and self.temperature == 0:
            raise ValueError("texts about a passage are all the same at temperature 0; set a temperature")
        if self.prompt and PASSAGE not in self.prompt:
            raise ValueError(f"your own prompt needs {PASSAGE} where the passage is to stand")
        if not self.date:
            raise ValueError("the date cannot be empty (prompts would change every day)")
        for name, given, known in (("rules", self.rules, tuple(RULES)), ("controls", self.controls, CONTROLS)):
            if unknown := [one for one in given if one not in known]:
                raise UsageError(f"{name}: there is no '{unknown[0]:.80}'", hint=nearest(unknown[0][:80], known))
            if len(set(given)) < len(given):
                raise ValueError(f"{name} names one twice")
        if self.judged_by == "rules" and not self.rules:
            raise ValueError("judged_by=rules needs a rule")
        if self.rounds == 0 == self.eval_passages:
            raise ValueError("rounds=0 without evaluation passages leaves nothing to do")
        self.tuning({})
        self.fine_tuning({})

    @property
    def writing(self) -> Writing:
        """How texts about passages are asked for."""
        return Writing(self.kind, self.format, self.prompt, self.date)

    @property
    def division(self) -> Documents:
        """How such a text is divided."""
        return Documents(self.kind, self.documents, self.most_documents)

    @property
    def asking(self) -> QuestionPrompt:
        """How questions are asked."""
        return QuestionPrompt(self.format, self.topic, self.instruction, self.date)

    def tuning(self, examples: Mapping[str, Json], training: int = 0) -> Tuning:
        """The tuning of an adapter on texts about passages, of a text's first training or a further one."""
        return Tuning(
            examples,
            learning_rate=self.learning_rate,
            epochs=self.epochs,
            rank=self.rank,
            alpha=self.alpha,
            targets=self.targets,
            batch=self.batch,
            warmup=self.warmup,
            schedule=self.schedule,
            clip=self.clip,
            learned="all",
            padding=self.padding,
            seed=item_seed(self.seed, "training", training) if training else self.seed,
        )

    def fine_tuning(self, examples: Mapping[str, Json]) -> Tuning:
        """The tuning of the writer."""
        return policy_tuning(self, self.policy_targets, examples)
