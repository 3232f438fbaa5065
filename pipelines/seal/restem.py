"""ReST-EM on rewarded self-edits (SEAL): the model learns to configure its own training; docs/seal-self-edit.md.

Singh et al., Beyond Human Data, arXiv 2312.06585; here as in SEAL, arXiv 2506.10943.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from itertools import chain
from typing import Any, ClassVar, Literal

from hybrid.bounds import NOT_NEGATIVE, Bounds, help_of, refuse_outside
from hybrid.canonical import Json, digest
from hybrid.errors import BadData, UsageError
from hybrid.loads import Foreseen
from hybrid.protocols import Inputs, Stage
from hybrid.records import Example, Item, Message, Output
from hybrid.tasks.arc.data import demonstrations
from hybrid.tasks.arc.questions import DatasetName
from hybrid.tuning import Tuning, refuse_untrainable
from hybrid.work import Ask, Derive, Derived, FineTuning, Tune, adapter_in, item_of
from pipelines.seal.configurations import prompt
from pipelines.seal.edit_results import EditResult, right, truths_of
from pipelines.seal.editing import Editing, Policy, adapter_of
from pipelines.seal.examples import training_examples
from pipelines.seal.fine_tuning import POLICY_SETTINGS, policy_tuning
from pipelines.seal.foreseen import foreseen_answers
from pipelines.seal.outcomes import outcomes
from pipelines.seal.training_settings import SMALL

TRAIN, EVAL = "train", "eval"
PAPER = {"format": "seal", "max_tokens": 2048, "rounds": 1, "balance": "published"}

FEW = {
    "tasks": ["stack-0", "top-0"],
    "most": 6,
    "edits": 3,
    "randoms": 1,
    "schema": True,
    "rounds": 1,
    "eval_dataset": "rules",
    "eval_subset": "",
    "eval_tasks": ["reflect-0"],
    "eval_edits": 2,
    "policy_learning_rate": 1e-3,
}
"""A preset that takes minutes on a CPU; it shows the procedure, not a result."""

Earlier = Mapping[str, Iterable[Output]]
NOTHING: Earlier = {}


@dataclass(frozen=True)
class SealRestem(Editing):
    """Sample self-edits, keep those whose training solved their task, fine-tune on these, and again with the new model.

    `--grader self-edit` gives the reward of every round on training and evaluation tasks; the model is never trained on
    the evaluation tasks.

    The preset `seal` trains as published, faults included, but reads answers strictly: SEAL's lax reader of grids, with
    which an empty or a reshaped grid votes, is not offered.
    """

    dataset: DatasetName = field(default="arc1-training", metadata=help_of("the public set of the training tasks"))
    subset: str = field(default="seal-train", metadata=help_of("only these training tasks; empty: all"))
    randoms: int = field(default=5, metadata=help_of("random configurations a task and round; -1: as many as edits"))
    rounds: int = field(default=2, metadata=help_of("how often the model is fine-tuned on what was rewarded"))
    eval_dataset: DatasetName = field(
        default="arc1-evaluation",
        metadata=help_of("the public set of the evaluation tasks, if no challenges are given"),
    )
    eval_subset: str = field(default="seal-eval-8", metadata=help_of("only these evaluation tasks; empty: all"))
    eval_tasks: tuple[str, ...] = field(default=(), metadata=help_of("only these evaluation tasks, by id"))
    eval_limit: int = field(default=0, metadata=help_of("only the first evaluation tasks by id; 0: all"))
    eval_edits: int = field(default=5, metadata=help_of("self-edits of each evaluation task with each model"))
    balance: Literal["balanced", "published"] = field(
        default="balanced",
        metadata=help_of("balanced: different self-edits, at most per_task of each task; published: all rewarded ones"),
    )
    per_task: int = field(
        default=3, metadata=help_of("most rewarded self-edits of a task that are learned, if balanced")
    )
    policy_rank: int = field(default=16, metadata=help_of("of the model's fine-tuning on rewarded self-edits"))
    policy_alpha: float = field(default=16.0, metadata=help_of("of that fine-tuning"))
    policy_epochs: int = field(default=8, metadata=help_of("of that fine-tuning"))
    policy_batch: int = field(default=5, metadata=help_of("of that fine-tuning"))
    policy_learning_rate: float = field(default=5e-5, metadata=help_of("of that fine-tuning"))

    presets: ClassVar[Mapping[str, Mapping[str, object]]] = {
        "demo": {**SMALL, **FEW},
        "paper": PAPER,
        "seal": {**PAPER, "voting": "seal", "translation": "seal", "padding": "seal", "texts": "seal"},
    }

    def __post_init__(self) -> None:
        super().__post_init__()
        refuse_outside(self, rounds=Bounds(1, 20), eval_edits=Bounds(1, 1000), per_task=Bounds(1, 1000))
        refuse_outside(self, eval_limit=NOT_NEGATIVE)
        refuse_untrainable(self, *POLICY_SETTINGS, prefix="policy_")
        self._fine_tuning({})

    def inputs(self) -> Inputs:
        """The tasks of both splits, each with the name of its split. Raises UsageError for a task that is in both."""
        train = super().inputs()
        of_eval = dataclasses.replace(
            self, dataset=self.eval_dataset, subset=self.eval_subset, tasks=self.eval_tasks, limit=self.eval_limit
        )
        held = Editing.inputs(of_eval)
        if both := sorted(train.tasks.keys() & held.tasks.keys()):
            raise UsageError(
                f"task '{both[0]}' is both a training task and an evaluation task",
                hint="choose with subset, tasks and limit, and with eval_subset, eval_tasks and eval_limit",
            )
        tasks = {
            id: {**task, "split": split}
            for split, given in ((TRAIN, train), (EVAL, held))
            for id, task in given.tasks.items()
        }
        about = {"train": train.about, "eval": held.about, "grader": "self-edit"}
        return Inputs(tasks, {**train.references, **held.references}, about)

    def stages(self) -> tuple[Stage, ...]:
        """For each round the stages for replies, answers, results and the next model; last, all results."""
        stages: list[Stage] = []
        for n in range(self.rounds + 1):
            policies = tuple(f"policy-{k}" for k in range(1, n + 1))
            sample, answer, edits = f"sample-{n}", f"answer-{n}", f"edits-{n}"
            stages += [
                Stage(sample, "gpu", 1, Ask(partial(self._samples, n)), after=policies),
                Stage(answer, "gpu", 1, Tune(partial(self._answers, n), training_examples), after=(sample, *policies)),
                Stage(edits, "any", 1, Derive(partial(self._edits, n)), after=(sample, answer, *policies)),
            ]
            if n < self.rounds:
                work, after = Tune(partial(self._policy, n), self._rewarded), (edits, *policies)
                stages.append(Stage(f"policy-{n + 1}", "gpu", 1, work, after, reads_references=True))
        last = tuple(f"edits-{n}" for n in range(self.rounds + 1))
        return (*stages, Stage("curve", "any", 1, Derive(_curve), after=last))

    def foresee(self, stage: str, tasks: Mapping[str, Any]) -> Iterable[Foreseen] | None:
        """`hybrid.protocols.Planned`."""
        kind, _, number = stage.partition("-")
        n = int(number or 0)
        train, held = (_split(tasks, TRAIN) if n < self.rounds else {}), _split(tasks, EVAL)
        if kind == "sample":
            return map(Foreseen, self._samples(n, tasks, {f"policy-{k}": () for k in range(1, n + 1)}))
        if kind == "answer":
            answers = foreseen_answers(self, train, self.edits), foreseen_answers(self, held, self.eval_edits)
            return chain.from_iterable(answers)
        return self._foreseen_policy(_split(tasks, TRAIN), n) if kind == "policy" else None

    def _foreseen_policy(self, tasks: Mapping[str, Any], n: int) -> Iterator[Foreseen]:
        """One training on as many replies of full length as may be rewarded."""
        count = self.per_task if self.balance == "balanced" else self.edits
        kept: list[list[str]] = [[id, "x " * self.edit_tokens] for id in sorted(tasks) for _ in range(count)]
        about = {"kept": kept, "date": self.date, "prompts": _prompts(tasks, kept)}
        yield Foreseen(item_of(FineTuning("policy", f"policy-{n}", self._fine_tuning(about))))

    def _samples(self, n: int, tasks: Mapping[str, Any], earlier: Earlier = NOTHING) -> Iterator[Item]:
        """The last round asks evaluation tasks alone: no training follows."""
        if n < self.rounds:
            yield from self.requested(_split(tasks, TRAIN), self.edits, self._of_round(n, earlier))
        yield from self.requested(_split(tasks, EVAL), self.eval_edits, self._of_round(n, earlier))

    def _answers(self, n: int, tasks: Mapping[str, Any], earlier: Earlier) -> Iterator[Item]:
        return self.answered(tasks, earlier[f"sample-{n}"], self._of_round(n, earlier))

    def _edits(self, n: int, tasks: Mapping[str, Any], earlier: Earlier) -> Iterator[Derived]:
        return outcomes(self, tasks, earlier[f"sample-{n}"], earlier[f"answer-{n}"], self._of_round(n, earlier))

    def _policy(self, n: int, tasks: Mapping[str, Any], earlier: Earlier) -> Iterator[FineTuning]:
        """One training on what round n rewarded; no item when nothing was rewarded: the model then stays the same."""
        kept = self._kept(tasks, earlier[f"edits-{n}"])
        if kept:
            about = {"kept": kept, "date": self.date, "prompts": _prompts(tasks, kept)}
            base = adapter_of(self._of_round(n, earlier))
            yield FineTuning("policy", f"policy-{n + 1}", self._fine_tuning(about), base)

    def _kept(self, tasks: Mapping[str, Any], results: Iterable[Output]) -> list[list[str]]:
        """[task, reply] of the rewarded self-edits of training tasks; `balanced` takes the first of equal ones."""
        kept: list[list[str]] = []
        taken: dict[str, list[Json]] = {}
        for output in results:
            result = EditResult.from_text(output.text or "")
            if tasks[output.task]["split"] != TRAIN or not _is_rewarded(result, output.reference):
                continue
            of_task = taken.setdefault(output.task, [])
            if self.balance == "balanced" and (result.edit in of_task or len(of_task) >= self.per_task):
                continue
            of_task.append(result.edit)
            kept.append([output.task, result.reply])
        return kept

    def _fine_tuning(self, about: Mapping[str, Json]) -> Tuning:
        """The tuning of the policy; the loss is on the reply."""
        return policy_tuning(self, self.targets, about)

    def _rewarded(self, tasks: Mapping[str, Any], about: Mapping[str, Json]) -> tuple[Example, ...]:
        """The rewarded self-edits as training examples: the prompt and the reply. Raises BadData."""
        try:
            kept: Any = about["kept"]
            if _prompts(tasks, kept) != about["prompts"]:
                raise ValueError("other demonstrations")
            template = {"date_string": str(about["date"])}
            return tuple(
                [Example((*_prompt(tasks, id), Message("assistant", reply)), template=template) for id, reply in kept]
            )
        except (KeyError, TypeError, ValueError) as error:
            raise BadData(
                f"the rewarded self-edits cannot be made into training examples: {type(error).__name__}: {error}",
                hint="the run was changed by hand, or written by another version of hybrid",
            ) from error

    def _of_round(self, n: int, earlier: Earlier) -> Policy:
        """The policy of round n: the newest that was trained before it, else the base model."""
        for k in range(n, 0, -1):
            for output in earlier[f"policy-{k}"]:
                return Policy(adapter_in(output), n)
        return Policy("", n)


def _curve(_: Mapping[str, Any], earlier: Earlier) -> Iterator[Derived]:
    """The results of all rounds, in one stage."""
    for name in sorted(earlier):
        for output in earlier[name]:
            yield Derived(output.task, output.question, output.text or "", output.view, output.sample)


def _split(tasks: Mapping[str, Any], split: str) -> dict[str, Any]:
    return {id: task for id, task in tasks.items() if task["split"] == split}


def _is_rewarded(result: EditResult, reference: Any) -> bool:
    """Whether the reply's training was done and solved the task. A reply without a configuration is never
    rewarded, even where the untrained model solves the task."""
    truths = truths_of(reference)
    return result.trained and result.attempts is not None and truths is not None and right(result.attempts, truths)


def _prompt(tasks: Mapping[str, Any], id: str) -> tuple[Message, ...]:
    return prompt(demonstrations(tasks[id], id))


def _prompts(tasks: Mapping[str, Any], kept: Sequence[Sequence[str]]) -> str:
    """A digest of the prompts of the kept replies; together they identify all training texts."""
    ids = sorted({id for id, _ in kept})
    return digest([[id, [message.content for message in _prompt(tasks, id)]] for id in ids])
