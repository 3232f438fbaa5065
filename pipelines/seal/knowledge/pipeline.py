"""Knowledge incorporation (SEAL): texts about passages are written, learned, and rewarded by the answers that follow.

Zweiger et al., Self-Adapting Language Models, arXiv 2506.10943, section 3.2; docs/seal-knowledge.md.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import Any, ClassVar

from hybrid.canonical import Json, digest
from hybrid.errors import BadData
from hybrid.loads import Foreseen
from hybrid.protocols import Inputs, Role, Stage
from hybrid.records import Example, Item, Message, Output, Request, Sampling
from hybrid.sampling import item_seed
from hybrid.work import Ask, Derive, Derived, FineTuning, Tune, adapter_in, item_of
from pipelines.seal.knowledge import arms, verdicts
from pipelines.seal.knowledge.arms import Arms
from pipelines.seal.knowledge.documents import training_examples
from pipelines.seal.knowledge.foreseen import imagined_items, imagined_text
from pipelines.seal.knowledge.passages import EVAL, TRAIN, of_evaluation, of_group, passages_of
from pipelines.seal.knowledge.results import results
from pipelines.seal.knowledge.rewards import best, rewards
from pipelines.seal.knowledge.settings import KnowledgeSettings

JUDGE = "judge"
FIRST = Role("", backend="transformers", model="smollm2")
Earlier = Mapping[str, Iterable[Output]]
NOTHING: Earlier = {}
MakeArms = Callable[[Mapping[str, Any], Earlier], Arms]

PAPER = {"format": "plain", "write_tokens": 8192, "most_documents": 0, "select": "published", "trainings": 3}
SMALL = {"passages": 4, "eval_passages": 8, "rounds": 1, "completions": 3, "write_tokens": 256, "most_documents": 12}
DEMO = {
    "passages": 2,
    "eval_passages": 2,
    "rounds": 1,
    "groups": 2,
    "questions": 2,
    "completions": 2,
    "write_tokens": 64,
    "most_documents": 4,
    "epochs": 4,
    "rank": 8,
    "alpha": 16.0,
    "max_tokens": 12,
    "policy_rank": 8,
    "policy_alpha": 16.0,
    "judged_by": "rules",
    "rules": ["words"],
}


@dataclass(frozen=True)
class SealKnowledge(KnowledgeSettings):
    """Write texts about passages, train an adapter on each, ask about the passage from memory, let a judge read the
    answers, and fine-tune the writer on what helped; `--grader knowledge` holds controls beside.

    The preset `paper` trains with SEAL's numbers but without a loss on padding; `padding=seal` is as published. The
    preset `demo` takes minutes on a CPU and asks no judge: it shows the way, not a result.
    """

    presets: ClassVar[Mapping[str, Mapping[str, object]]] = {"demo": DEMO, "small": SMALL, "paper": PAPER}
    roles: ClassVar[Mapping[str, Role]] = {
        "": FIRST,
        JUDGE: Role(
            "judges each answer, on the laptop side; with judged_by=rules there is none",
            backend="ollama",
            model="llama3.2",
            grader="knowledge",
        ),
    }

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.judged_by == "rules":
            object.__setattr__(self, "roles", {"": FIRST})  # else a run would name a judge that nobody asks

    def inputs(self) -> Inputs:
        """The passages of both splits. Raises HybridError when there are too few, or a file cannot be read."""
        return passages_of(self)

    def stages(self) -> tuple[Stage, ...]:
        """The rounds, then what no round waits for: controls and evaluation. A worker takes the first that is ready.

        So the GPU side trains and answers for the evaluation while the laptop side judges what the next round needs.
        """
        stages = [stage for n in range(self.rounds) for stage in self._round(n)]
        if self.eval_passages:
            stages += self._trial("controls", self._controls, (), ())
            for n in range(self.rounds + 1):
                written, policies = f"write-eval-{n}", _policies(n)
                stages.append(Stage(written, "gpu", 1, Ask(partial(self._texts, n, EVAL)), policies))
                known = ("controls", *(f"eval-{k}" for k in range(n)))
                stages += self._trial(f"eval-{n}", partial(self._evaluated, n), (written, *policies), known)
        marked = tuple(stage.name for stage in stages if stage.name.startswith("marked-"))
        return (*stages, Stage("results", "any", 1, Derive(_together), marked))

    def foresee(self, stage: str, tasks: Mapping[str, Any]) -> Iterable[Foreseen] | None:
        """The items that a stage may come to have: texts as long as they may be, all unlike, all learned and judged."""
        if stage.startswith("policy-"):
            chosen = of_group(tasks, int(stage.removeprefix("policy-")) - 1)
            kept = [[id, imagined_text(self.write_tokens, id)] for id in sorted(chosen)]
            about: dict[str, Json] = {"kept": kept, "prompts": self._prompts(tasks, kept)}
            return [Foreseen(item_of(FineTuning("policy", stage, self.fine_tuning(about))))]
        return map(Foreseen, imagined_items(self.stages(), stage, tasks))

    def _round(self, n: int) -> Iterator[Stage]:
        written, policies, groups = f"write-{n}", _policies(n), range(min(self.groups, self.passages))
        yield Stage(written, "gpu", 1, Ask(partial(self._texts, n, TRAIN)), policies)
        trials = []
        for group in groups:
            known = () if self.fresh else tuple(f"{k}-{group}" for k in range(n))
            trials.append(self._trial(f"{n}-{group}", partial(self._candidates, n, group), (written, *policies), known))
        for stages in zip(*trials, strict=True):  # all that is answered, then all that is judged
            yield from stages
        work = Tune(partial(self._policy, n), self._rewarded)
        after = (*(f"marked-{n}-{group}" for group in groups), *policies)
        yield Stage(f"policy-{n + 1}", "gpu", 1, work, after, reads_references=True)

    def _trial(self, label: str, make: MakeArms, after: tuple[str, ...], known: tuple[str, ...]) -> list[Stage]:
        """The stages that answer with some arms, judge, and put both together. Rows of the `known` trials were judged
        before.
        """
        answered, judged = f"answer-{label}", (f"judged-{label}", f"judged-again-{label}")
        stages = [Stage(answered, "gpu", 1, Tune(partial(self._answers, make), training_examples), after)]
        replies: tuple[str, ...] = ()
        if self.judged_by == "model":
            how: dict[str, Any] = {"role": JUDGE, "reads_references": True}
            before = tuple(f"{kind}-{one}" for one in known for kind in ("judged", "judged-again"))
            asks = Ask(partial(self._verdicts, answered)), Ask(partial(self._further_verdicts, answered, judged[0]))
            stages += [
                Stage(judged[0], "laptop", 1, asks[0], (answered, *before), **how),
                Stage(judged[1], "laptop", 1, asks[1], (answered, judged[0]), **how),
            ]
            replies = (*before, *judged)
        joined = Derive(partial(self._marked, make, answered, replies))
        stages.append(Stage(f"marked-{label}", "any", 1, joined, (answered, *replies, *after), reads_references=True))
        return stages

    def _texts(self, n: int, split: str, tasks: Mapping[str, Any], earlier: Earlier = NOTHING) -> Iterator[Item]:
        """The requests for texts about the passages of a split."""
        chosen = of_group(tasks, n) if split == TRAIN else of_evaluation(tasks)
        adapter = arms.adapter_of(_policy_of(n, earlier))
        for id in sorted(chosen):
            for number in range(self.completions if split == TRAIN else self.eval_completions):
                seed = item_seed(self.seed, split, n, id, number)
                request = self._written(chosen[id], seed)
                request.adapter = adapter
                yield Item(id, f"{id}@round-{n}-{number:02d}", request, {}, number)

    def _written(self, task: Mapping[str, Any], seed: int) -> Request:
        sampling = Sampling(self.write_tokens, self.temperature, self.top_p, seed)
        return self.writing.request(task["title"], task["context"], sampling)

    def _candidates(self, n: int, group: int, tasks: Mapping[str, Any], earlier: Earlier) -> Arms:
        chosen = of_group(tasks, n, group)
        return arms.candidates(self, chosen, earlier[f"write-{n}"], n, self._learner(n, earlier))

    def _controls(self, tasks: Mapping[str, Any], earlier: Earlier) -> Arms:
        return arms.controls(self, of_evaluation(tasks))

    def _evaluated(self, n: int, tasks: Mapping[str, Any], earlier: Earlier) -> Arms:
        written = earlier[f"write-eval-{n}"]
        return arms.evaluated(self, of_evaluation(tasks), written, n, self._learner(n, earlier))

    def _learner(self, n: int, earlier: Earlier) -> str:
        """The adapter of the model that learns in round n."""
        return _policy_of(n, earlier) if self.learner == "policy" else ""

    def _answers(self, make: MakeArms, tasks: Mapping[str, Any], earlier: Earlier = NOTHING) -> Iterator[Item]:
        return arms.asked(self, tasks, make(tasks, earlier))

    def _verdicts(self, answered: str, _: Mapping[str, Any], earlier: Earlier) -> Iterator[Item]:
        judged = [reply for name, replies in earlier.items() if name != answered for reply in replies]
        return verdicts.asked(verdicts.rows(earlier[answered], self.rules), judged)

    def _further_verdicts(self, answered: str, first: str, _: Mapping[str, Any], earlier: Earlier) -> Iterator[Item]:
        return verdicts.asked_again(verdicts.rows(earlier[answered], self.rules), earlier[first])

    def _marked(
        self, make: MakeArms, answered: str, judged: Sequence[str], tasks: Mapping[str, Any], earlier: Earlier
    ) -> Iterator[Derived]:
        replies = None
        if self.judged_by == "model":
            replies = verdicts.replies_by_row(reply for name in judged for reply in earlier[name])
        return results(make(tasks, earlier), tasks, earlier[answered], self.rules, replies)

    def _policy(self, n: int, tasks: Mapping[str, Any], earlier: Earlier) -> Iterator[FineTuning]:
        """One training on what round n rewarded; no item when nothing was: the writer then stays the same."""
        marked = [name for name in earlier if name.startswith(f"marked-{n}-")]
        found = [reward for name in marked for reward in rewards(earlier[name])]
        winners = best(sorted(found, key=lambda one: (one.task, one.completion)), always=self.select == "published")
        if kept := [[one.task, one.text] for one in winners]:
            about: dict[str, Json] = {"kept": kept, "prompts": self._prompts(tasks, kept)}
            base = arms.adapter_of(_policy_of(n, earlier))
            yield FineTuning("policy", f"policy-{n + 1}", self.fine_tuning(about), base)

    def _prompts(self, tasks: Mapping[str, Any], kept: Sequence[Sequence[str]]) -> str:
        """A digest of the requests of the kept texts; together they identify all texts that are trained on."""
        asked = {id: replace(self._written(tasks[id], 0), sampling=Sampling(1)).encoded() for id, _ in kept}
        return digest(sorted(asked.items()))

    def _rewarded(self, tasks: Mapping[str, Any], about: Mapping[str, Json]) -> tuple[Example, ...]:
        """What was rewarded as training examples: the request and the text. Raises BadData."""
        try:
            kept: Any = about["kept"]
            if self._prompts(tasks, kept) != about["prompts"]:
                raise ValueError("other passages or prompts")
            return tuple([_example(self._written(tasks[id], 0), text) for id, text in kept])
        except (KeyError, TypeError, ValueError) as error:
            raise BadData(
                f"the rewarded texts cannot be made into training examples: {type(error).__name__}: {error}",
                hint="the run was changed by hand, or written by another version of hybrid",
            ) from error


def _example(request: Request, text: str) -> Example:
    """A request and its answer, in a chat or as one text."""
    if request.messages:
        return Example((*request.messages, Message("assistant", text)), template=request.template)
    return Example(text=text, prompt=request.prompt)


def _policies(n: int) -> tuple[str, ...]:
    return tuple(f"policy-{k}" for k in range(1, n + 1))


def _policy_of(n: int, earlier: Earlier) -> str:
    """The adapter of the writer of round n: the newest that was trained before it; "" is the first model."""
    for k in range(n, 0, -1):
        for output in earlier[f"policy-{k}"]:
            return adapter_in(output)
    return ""


def _together(_: Mapping[str, Any], earlier: Earlier) -> Iterator[Derived]:
    """The results of all trials, in one stage."""
    for name in sorted(earlier):
        for one in earlier[name]:
            yield Derived(one.task, one.question, one.text or "", one.view, one.sample, one.error)
