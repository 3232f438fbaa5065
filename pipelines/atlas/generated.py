"""Small tasks of text classification with a known structure, generated: no download, and a known right answer.

- polarity: whether a review praises or blames, by the majority of its adjectives
- subject: whether a review is of films or of food; its texts are like those of polarity, only the labels differ
- paraphrase: whether two lists are of the same things in another order
- agreement: whether subject and verb agree in number, where another noun may stand between them
- random-labels: the texts of polarity with labels drawn at random, of which nothing can be learned

A client with a hundred rows has not seen all words, so that it gains from the updates of others with the same task. The
`tiny` model learns each with a LoRA adapter of rank 4 in a few hundred steps.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from random import Random

from hybrid.errors import UsageError, nearest
from pipelines.atlas.task_data import Metric, Row, TaskData

MOST_ROWS = 200_000
"""Rows of a generated task: the texts would repeat themselves."""


def _words(text: str) -> list[str]:
    return text.split()


GOOD = _words("""
admirable amazing beautiful brilliant captivating charming clever compelling convincing delightful elegant enchanting
excellent exquisite fantastic fine flawless fresh fun graceful good great honest inspired lovely magnificent memorable
moving original perfect pleasant polished rewarding rich satisfying splendid touching superb warm witty
""")
BAD = _words("""
annoying appalling awful bad bland boring careless cheap clumsy cold confusing contrived cruel depressing dire
disappointing dismal dreadful dull empty forgettable horrible incoherent irritating lame lazy mediocre nasty painful
pathetic poor repetitive rude sloppy stale stupid tacky terrible ugly unbearable
""")
FILM = _words("""
actor camera cinema costume dialogue director drama ending film hero movie music picture plot scene screenplay script
soundtrack thriller villain
""")
FOOD = _words("""
bread breakfast cake cheese coffee cook dessert dinner flavour kitchen lunch meal menu noodle pizza restaurant salad
sauce soup waiter
""")
OTHER = _words("""
afternoon beginning crowd event experience friend hour idea manner moment mood noise outing place price season
surprise view visit week
""")
DEGREE = _words("quite rather really simply truly very almost nearly mostly clearly")
THING = _words("""
anchor apple basket belt blanket book bottle bowl brush bucket button crayon carpet chair clock coat compass comb
curtain door drum envelope feather flute fork guitar hammer hat helmet kite key knife ladder lamp lantern letter
mirror needle notebook paddle pencil pillow plate radio ribbon ring rope rug scarf shovel spoon stamp stone table tent
trunk towel umbrella wallet whistle
""")
OPENING = _words("bought carried found holds lost packed sold stole")
NOUN = _words("""
author baker boy brother captain cat cleaner clerk cousin dancer dentist doctor dog driver engineer farmer gardener
girl guard horse judge king lawyer miner nurse painter pilot pirate player poet rabbit sailor singer sister soldier
student tailor teacher uncle writer
""")
VERB = _words("""
arrive bark call climb complain dance eat fall growl hide jump laugh listen march nap read shout sleep smile whisper
""")
PLACED = _words("near behind beside above with")
WHEN = _words("again alone daily early gladly inside late lately now often outside quickly tonight slowly soon today")


def polarity(random: Random) -> Row:
    """A review and whether it praises."""
    text, good, _ = _review(random)
    return Row(text, None, int(good))


def subject(random: Random) -> Row:
    """A review and whether it is of food."""
    text, _, food = _review(random)
    return Row(text, None, int(food))


def paraphrase(random: Random) -> Row:
    """Two lists and whether they are of the same things."""
    same = random.random() < 0.5
    size = random.randint(3, 5)
    things = random.sample(THING, 2 * size)
    first, second = things[:size], things[:size] if same else things[size:]
    return Row(_listed(random, first), _listed(random, second), int(same))


def agreement(random: Random) -> Row:
    """A sentence and whether its verb agrees with its subject."""
    agrees, several = random.random() < 0.5, random.random() < 0.5
    words = ["the", random.choice(NOUN) + "s" * several]
    if random.random() < 0.5:
        words += [random.choice(PLACED), "the", random.choice(NOUN) + "s" * (random.random() < 0.5)]
    words.append(random.choice(VERB) + "s" * (several != agrees))
    return Row(" ".join([*words, *random.sample(WHEN, random.randint(1, 3))]), None, int(agrees))


def random_labels(random: Random) -> Row:
    """A review with a label that has nothing to do with it."""
    return Row(_review(random)[0], None, random.randrange(2))


def _review(random: Random) -> tuple[str, bool, bool]:
    """A review; whether it praises; whether it is of food."""
    good, food = random.random() < 0.5, random.random() < 0.5
    verdicts = [good] * random.choice((1, 1, 2, 3))
    if len(verdicts) == 3 and random.random() < 0.5:
        verdicts[random.randrange(3)] = not good
    own = random.randrange(len(verdicts))  # this clause is about the subject, others perhaps
    clauses = []
    for place, verdict in enumerate(verdicts):
        nouns = (FOOD if food else FILM) if place == own or random.random() < 0.5 else OTHER
        degree = [random.choice(DEGREE)] if random.random() < 0.5 else []
        clauses.append(" ".join(["the", random.choice(nouns), "was", *degree, random.choice(GOOD if verdict else BAD)]))
    return " and ".join(clauses), good, food


def _listed(random: Random, things: list[str]) -> str:
    return " ".join([random.choice(OPENING), *random.sample(things, len(things))])


@dataclass(frozen=True, slots=True)
class GeneratedTask:
    """How the rows of a task are drawn, the names of its labels, and how it is judged."""

    row: Callable[[Random], Row]
    labels: tuple[str, str]
    metric: Metric = "accuracy"


TASKS: Mapping[str, GeneratedTask] = {
    "polarity": GeneratedTask(polarity, ("negative", "positive")),
    "subject": GeneratedTask(subject, ("film", "food")),
    "paraphrase": GeneratedTask(paraphrase, ("different", "same"), "f1"),
    "agreement": GeneratedTask(agreement, ("wrong", "right"), "mcc"),
    "random-labels": GeneratedTask(random_labels, ("zero", "one")),
}


def read(name: str, train: int, dev: int, seed: int) -> TaskData:
    """`train` and `dev` different rows of a generated task. Raises UsageError for an unknown name or too many rows."""
    if name not in TASKS:
        raise UsageError(f"no generated task {name!r}", hint=nearest(name, TASKS))
    if not (train > 0 <= dev and train + dev <= MOST_ROWS):
        raise UsageError(
            f"{name}: {train:,} rows to train on and {dev:,} to test on: at most {MOST_ROWS:,} are generated"
        )
    task = TASKS[name]
    random = Random(f"{name} {seed}")
    rows: dict[tuple[str, str | None], Row] = {}
    while len(rows) < train + dev:
        row = task.row(random)
        rows.setdefault((row.text, row.pair), row)
    made = list(rows.values())
    return TaskData(name, made[dev:], made[:dev], task.labels, task.metric, f"generated, seed {seed}")
