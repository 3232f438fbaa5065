"""The search of one scenario, as a walk: it asks, embeds, refuses, selects and goes on, level by level.

It is a function of the scenario, the settings and the outputs. Whatever runs at the same time sees only what was there
before, so the tree does not depend on the order in which answers come.
"""

from __future__ import annotations

import hashlib
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from hybrid.records import Failure, Item, Output, Request, Sampling
from hybrid.work import Together, Walk
from pipelines.branch.acceptance import refused
from pipelines.branch.budget import Allowance
from pipelines.branch.control import Control
from pipelines.branch.judging import Judging
from pipelines.branch.nodes import Node, Tree
from pipelines.branch.policies import Beam, BestFirst, Expansion, MapElites, Policy, Ucb
from pipelines.branch.scenario import Level, Scenario, from_task
from pipelines.branch.selecting import Selecting
from pipelines.branch.settings import BranchSettings
from pipelines.branch.strategies import STRATEGIES, Place, question, tokens_a_call
from pipelines.branch.unrelated import UNRELATED

EMBED = "embed"
PROMPT = 240
"""Characters of a node's `prompt`."""


@dataclass(slots=True)
class Found:
    """What a search ends with: its tree, that of the control, and what both were measured by."""

    scenario: Scenario
    tree: Tree
    control: Tree | None = None
    selecting: Selecting | None = None
    failure: Failure | None = None  # why nothing could be searched


@dataclass(slots=True)
class Grown:
    """What came of one expansion with one strategy: nodes without ids, and which of them repeats which."""

    nodes: list[Node] = field(default_factory=list)
    repeats: list[tuple[Node, Node]] = field(default_factory=list)
    calls: int = 0


@dataclass(frozen=True)
class Job:
    """One expansion with one of the strategies."""

    place: Place
    strategy: str
    wanted: int
    attempt: int  # the number of its first call
    others: tuple[Node, ...]  # accepted on the same level before

    @property
    def depth(self) -> int:
        """The level of its candidates."""
        return len(self.place.story) + 1


def searched(settings: BranchSettings, task: str, tasks: Mapping[str, Any]) -> Walk:
    """The walk of one scenario, which returns `Found`."""
    return Searching(settings, from_task(tasks[task], task), min(tasks)).walk()


class Searching:
    """The search of one scenario. Embeddings belong to the task `first` of the run, so that scenarios share them."""

    def __init__(self, settings: BranchSettings, scenario: Scenario, first: str) -> None:
        self._settings, self._scenario, self._first = settings, scenario, first
        self._judging = Judging(settings.judge, scenario)

    def walk(self) -> Walk:
        """Calibrate, grow the tree, then the control with as many samples."""
        *vectors, brief = yield from self._embedded([*UNRELATED, self._scenario.brief])
        known = [(text, one) for text, one in zip(UNRELATED, vectors, strict=True) if isinstance(one, tuple)]
        tree = Tree(self._scenario.name, len(self._scenario.levels))
        if not isinstance(brief, tuple) or len(known) < 2:
            why = next((one.message for one in (brief, *vectors) if isinstance(one, Failure)), "it gives no vector")
            told = f"the embedding model cannot be calibrated: {why}; take another: --model embed=NAME"
            return Found(self._scenario, tree, failure=Failure("embedding", told))
        self._selecting = Selecting(self._settings, self._scenario, known, brief)
        control = self._control(tree) if self._settings.control else None
        yield from self._grow(tree, control)
        if control:
            yield from control.sampled(_counts(tree), tree.levels)
            yield from self._judging.prefer(tree, control.tree)
        return Found(self._scenario, tree, control.tree if control else None, self._selecting)

    def _control(self, tree: Tree) -> Control:
        return Control(f"{tree.root}/control", tree.levels, self._scenario.keep, self._settings.seed, self._samples)

    def _grow(self, tree: Tree, control: Control | None) -> Walk:
        policy, left = self._policy(), self._settings.allowance()
        while expansions := policy.choose(tree):
            jobs = [job for expansion in expansions for job in self._jobs(tree, expansion)]
            cost = max(STRATEGIES[job.strategy].texts_a_call for job in jobs)
            tokens = max(tokens_a_call(STRATEGIES[job.strategy], job.place.level) for job in jobs)
            shares = left.shares(len(jobs), cost, tokens)
            parts = list(zip(jobs, shares, strict=True))
            counts = _counts(tree)
            ended = max(counts, default=0) if policy.by_level else 0
            for job, share in parts:
                counts[job.depth] += self._calls(job, share, 0, 0)
            beside = [control.sampled(counts, ended)] if control else []
            grown, *_ = yield Together([_all([self._expanded(*part) for part in parts]), *beside])
            fresh = [node for job, one in zip(jobs, grown, strict=True) for node in _added(tree, job, one)]
            if not fresh:
                break
            left = left.less(fresh)
            for depth in sorted({node.depth for node in fresh}):
                yield from self._scored(tree.accepted(depth))
        self._settle(tree)

    def _policy(self) -> Policy:
        n, k, levels = self._scenario.candidates, self._scenario.keep, len(self._scenario.levels)
        most = self._settings.nodes or n + (levels - 1) * k * n
        match self._settings.policy:
            case "best-first":
                return BestFirst(n, k, most)
            case "ucb":
                return Ucb(n, k, most)
            case "map-elites":
                return MapElites(n, k, most, self._selecting.clusters)
            case _:
                return Beam(n, k, self._selecting.select)

    def _jobs(self, tree: Tree, expansion: Expansion) -> list[Job]:
        """The expansion, shared out to the strategies, which take turns under each parent."""
        named, parent = self._settings.strategy, expansion.parent
        first = len(tree.children(parent))
        counts = Counter(named[(first + number) % len(named)] for number in range(expansion.count))
        depth = tree.depth_of(parent) + 1
        place = self._place(tree.root, parent, tree.story(parent), depth)
        others = tuple(tree.accepted(depth))
        return [
            Job(place, name, counts[name], tree.attempts.get((parent, name), 0), others)
            for name in named
            if counts[name]
        ]

    def _place(self, root: str, parent: str, story: Sequence[tuple[str, str]], depth: int) -> Place:
        how = self._settings
        logprobs = self._scenario.weights.get("logprob", 0) > 0
        level = self._scenario.levels[depth - 1]
        return Place(self._scenario, level, parent, story, how.seed, how.date, logprobs)

    def _expanded(self, job: Job, share: Allowance) -> Walk:
        """Ask until the wanted texts are accepted, the retries or the budget are used up, or nothing new comes."""
        strategy, done = STRATEGIES[job.strategy], Grown()
        accepted: list[Node] = []
        seen = Counter[int]()
        while len(accepted) < job.wanted:
            left = share.less(done.nodes)
            calls = self._calls(job, left, len(accepted), done.calls)
            if calls <= 0:
                break
            texts = [node.text or "" for node in (*job.others, *accepted)]
            requests = [
                strategy.request(job.place, job.attempt + done.calls + number, texts) for number in range(calls)
            ]
            walks = [
                self._candidates(job, request, job.attempt + done.calls + number)
                for number, request in enumerate(requests)
            ]
            fresh = [node for nodes in (yield Together(walks)) for node in nodes]
            left.refuse_late(fresh)
            for node in fresh:
                self._admit(node, job, accepted, done, seen)
            done.calls += calls
            done.nodes += fresh
            if self._selecting.exhausted(seen):
                break
        return done

    def _calls(self, job: Job, left: Allowance, accepted: int, made: int) -> int:
        """Calls of the next turn: what is wanted still, or a part of it for a strategy that looks at what is there; as
        many as the retries and the budget allow after those that were made.
        """
        strategy = STRATEGIES[job.strategy]
        most = -(-job.wanted // strategy.texts_a_call)
        most += int(most * self._settings.retries)
        part = -(-job.wanted // strategy.rounds)
        wanted = -(-min(job.wanted - accepted, part) // strategy.texts_a_call)
        affordable = left.calls(strategy.texts_a_call, tokens_a_call(strategy, job.place.level))
        return max(0, int(min(wanted, most - made, affordable)))

    def _admit(self, node: Node, job: Job, accepted: list[Node], done: Grown, seen: Counter[int]) -> None:
        """Let a node in, or refuse it. What is more than wanted is a candidate too: it is paid for."""
        if not node.accepted:
            return
        siblings = [*job.others, *accepted]
        near = self._selecting.check(node, siblings)
        if near is not None:
            done.repeats.append((node, near))
            seen[id(near)] = max(1, seen[id(near)]) + 1  # one of an earlier round has been seen, too
        elif node.accepted:
            accepted.append(node)
            seen[id(node)] += 1

    def _candidates(self, job: Job, request: Request, attempt: int, *, control: bool = False) -> Walk:
        """One call and the embeddings of its texts: as many nodes as texts, those that failed too."""
        place, strategy = job.place, STRATEGIES[job.strategy]
        item = Item(self._scenario.name, f"{place.parent}/{job.strategy}", request, {}, attempt)
        (output,) = yield [item]
        read = strategy.read(output)
        nodes = [self._node(job, output, request, text, len(read)) for text in read]
        for node in nodes:
            if node.text is not None and not control:
                refusal = refused(node.text, self._scenario, place.level, request.messages[-1].content)
                node.decide(*((refusal.verdict, refusal.reason) if refusal else ("",)))
        open_ones = [node for node in nodes if node.accepted]
        vectors = yield from self._embedded([node.text or "" for node in open_ones])
        for node, vector in zip(open_ones, vectors, strict=True):
            self._measured(node, vector, place.level)
        return nodes

    def _measured(self, node: Node, vector: tuple[float, ...] | Failure | None, level: Level) -> None:
        if not isinstance(vector, tuple):
            node.failure = vector or Failure("embedding", "the embedding model gives no vector for it")
            node.decide("failed", node.failure.message)
            return
        self._selecting.measure(node, vector, level)

    def _node(self, job: Job, output: Output, request: Request, text: str | Failure, texts: int) -> Node:
        """A node of one of the texts of an answer; what the call cost is shared out evenly."""
        place, generated = job.place, output.tokens[1]
        said = request.messages[-1].content[len(question(place)) :]
        prompt = " ".join(f"{place.level.ask} {said}".split())
        failed = isinstance(text, Failure)
        node = Node(
            id="", parent=place.parent, depth=job.depth, level=place.level.name, strategy=job.strategy,
            prompt=prompt if len(prompt) <= PROMPT else f"{prompt[: PROMPT - 3]}...",
            text=None if isinstance(text, Failure) else text, failure=text if isinstance(text, Failure) else None,
            tokens=generated // texts, seconds=output.seconds / texts, finish=output.finish,
        )  # fmt: skip
        if isinstance(text, Failure):
            node.decide("failed", text.message)
        if output.logprob is not None and generated > 0 and not failed:
            node.features["logprob"] = round(output.logprob / generated, 6)
        return node

    def _embedded(self, texts: Sequence[str]) -> Walk:
        """The vector of each text, or why there is none."""
        outputs = (yield [self._embedding(text) for text in texts]) if texts else []
        return [output.error if output.vector is None else output.vector for output in outputs]

    def _embedding(self, text: str) -> Item:
        """Named by the text, so that the same text is embedded once in the run."""
        name = hashlib.sha256(text.encode("utf-8", "surrogatepass")).hexdigest()[:32]
        request = Request(Sampling(max_tokens=1), prompt=text, embed=True)
        return Item(self._first, f"{EMBED}/{name}", request, role=EMBED)

    def _scored(self, nodes: Sequence[Node]) -> Walk:
        if nodes:
            strengths = yield from self._judging.strengths(nodes)
            self._selecting.score(nodes, strengths)

    def _settle(self, tree: Tree) -> None:
        """Keep the best and most different texts of the deepest level, and say of all others what became of them."""
        deepest = tree.deepest()
        pool = tree.accepted(deepest) if deepest else []
        for node in pool:
            node.decide("")
        for node in self._selecting.select(pool, self._scenario.keep):
            node.decide("kept")
        for node in tree:
            if node.verdict == "":
                grown = any(child.accepted for child in tree.children(node.id))
                node.decide(*(("expanded",) if grown else ("dropped-beam", "it was not chosen to go on")))

    def _samples(self, parent: str, story: Sequence[tuple[str, str]], depth: int, numbers: range) -> Walk:
        """Plain samples: nothing is refused, only what failed is no candidate."""
        job = Job(self._place(f"{self._scenario.name}/control", parent, story, depth), "iid", len(numbers), 0, ())
        requests = [STRATEGIES["iid"].request(job.place, number, ()) for number in numbers]
        walks = [
            self._candidates(job, request, number, control=True)
            for number, request in zip(numbers, requests, strict=True)
        ]
        return [node for nodes in (yield Together(walks)) for node in nodes]


def _all(walks: Sequence[Walk]) -> Walk:
    """What these return that advance at the same time."""
    return (yield Together(walks))


def _counts(tree: Tree) -> Counter[int]:
    """How many nodes a tree has on each level, refused ones too."""
    return Counter(node.depth for node in tree)


def _added(tree: Tree, job: Job, grown: Grown) -> list[Node]:
    """The nodes, added to the tree in their order, with ids, and with the ids of what they repeat."""
    for node in grown.nodes:
        node.id = tree.next_id(job.place.parent)
        tree.add(node)
    for node, sibling in grown.repeats:
        node.sibling = sibling.id
    key = (job.place.parent, job.strategy)
    tree.attempts[key] = tree.attempts.get(key, 0) + grown.calls
    return grown.nodes
