"""The settings of the pipeline `atlas`."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Literal

from hybrid.bounds import (
    NOT_NEGATIVE,
    SEED,
    SHARE,
    Bounds,
    help_of,
    refuse_each_outside,
    refuse_outside,
    refuse_repeats,
)
from hybrid.tuning import MOST_RANK, Tuning
from pipelines.atlas.methods import METHODS, MethodName
from pipelines.atlas.virtual_clock import DEVICES, Mode

Split = Literal["iid", "dirichlet", "quantity"]
Wire = Literal["fp32", "fp16", "int8", "topk"]
MOST_CLIENTS = 500


@dataclass(frozen=True)
class AtlasSettings:
    """Which methods on which tasks, how the rows are divided, and how clients train."""

    methods: tuple[MethodName, ...] = field(
        default=("local", "fedavg-lora", "flexlora", "cluster", "atlas"),
        metadata=help_of("which are compared, each from the same start on the same rows"),
    )
    tasks: tuple[str, ...] = field(
        default=("polarity", "paraphrase", "agreement"),
        metadata=help_of(
            "generated ones, sst2, mrpc, cola, qnli, rte, or files of your own; several are one federation"
        ),
    )
    data: str = field(default="", metadata=help_of("the folder with the files of sst2, mrpc, cola, qnli, rte"))
    columns: tuple[str, ...] = field(
        default=(), metadata=help_of("of files of your own: the text, perhaps a second text, and the label")
    )
    seeds: tuple[int, ...] = field(default=(0,), metadata=help_of("each method is run once for each"))
    clients: int = field(
        default=6,
        metadata={
            **help_of("in all; the tasks have equally many, or one more"),
            "instead": {"folder": "exchange=folder"},
        },
    )
    rounds: int = field(default=5, metadata=help_of("how often the updates are combined"))
    samples: int = field(default=300, metadata=help_of("rows of a client, on average; a part of them is held out"))
    held_out: float = field(default=0.2, metadata=help_of("share of a client's rows that it is tested on every round"))
    dev: int = field(
        default=0, metadata=help_of("rows of a task's dev set that the final models are tested on; 0: all")
    )
    partition: Split = field(
        default="iid", metadata=help_of("how a task's rows are divided: alike, by label or by number (Dirichlet)")
    )
    concentration: float = field(
        default=0.5, metadata=help_of("of the Dirichlet distribution: the lower, the more the clients differ")
    )
    participants: int = field(default=0, metadata=help_of("clients that train in a round, drawn anew; 0: all"))
    epochs: int = field(default=1, metadata=help_of("how often a client goes through its rows in a round"))
    batch: int = field(default=16, metadata=help_of("rows of an optimizer step"))
    learning_rate: float = field(default=1e-3, metadata=help_of("of AdamW, constant"))
    full_learning_rate: float = field(default=2e-5, metadata=help_of("of the method fedavg, which trains all weights"))
    weight_decay: float = field(default=0.01, metadata=help_of("of AdamW"))
    clip: float = field(default=1.0, metadata=help_of("a client's gradient is cut to this norm; 0: never"))
    rank: tuple[int, ...] = field(default=(8,), metadata=help_of("of the clients' adapters; several take turns"))
    scale: float = field(default=2.0, metadata=help_of("alpha / rank of every adapter: its update is scale * B A"))
    targets: tuple[str, ...] = field(
        default=(), metadata=help_of("adapted layers; empty: all linear ones in the blocks")
    )
    longest: int = field(default=128, metadata=help_of("tokens of a row; what is longer is cut and counted"))
    smoothing: float = field(
        default=1.0,
        metadata=help_of("of mira and atlas, eta * lambda: 0 is local training, 1 goes to the neighbours' mean"),
    )
    sharpness: float = field(
        default=1.0,
        metadata=help_of("of mira and atlas: how much less a client with another fingerprint pulls; 0: all pull alike"),
    )
    most_clusters: int = field(default=5, metadata=help_of("clusters that fingerprints may show, at most"))
    fingerprint_rows: int = field(default=256, metadata=help_of("rows of a client whose gradient is its fingerprint"))
    budget_kb: tuple[int, ...] = field(
        default=(),
        metadata=help_of("memory of a client for its adapter, gradients and moments, for atlas; several take turns"),
    )
    hetlora_weights: Literal["rows", "norms"] = field(
        default="rows",
        metadata=help_of("what a client counts by with hetlora: its rows, or these times the norm of its update"),
    )
    hetlora_decay: float = field(
        default=1.0,
        metadata=help_of("with hetlora, the factor by which a rank falls when its last ones shrink (0.99); 1: never"),
    )
    hetlora_penalty: float = field(
        default=0.005, metadata=help_of("with hetlora_decay, the weight of the last ranks' norms in the loss")
    )
    server_rank: int = field(default=32, metadata=help_of("rank of flora's frozen adapter, to which it is compressed"))
    exchange: Literal["memory", "folder"] = field(
        default="memory",
        metadata=help_of(
            "memory: one worker trains all clients side by side; folder: every client is a series of its own"
        ),
    )
    quorum: float = field(
        default=1.0, metadata=help_of("with exchange=folder: share of the clients with which a round is closed late")
    )
    deadline: float = field(
        default=0.0, metadata=help_of("with exchange=folder: seconds after which the quorum is enough; 0: wait for all")
    )
    wire: Wire = field(
        default="fp32",
        metadata=help_of(
            "number format of what is sent; topk: of an update the entries that changed most, in fp32, the rest later"
        ),
    )
    top: float = field(default=0.1, metadata=help_of("with wire=topk: share of the entries of a tensor that is sent"))
    devices: tuple[str, ...] = field(
        default=(),
        metadata=help_of(f"of the clients, taking turns, for a virtual clock: {', '.join(DEVICES)}; empty: no clock"),
    )
    arrivals: Mode = field(
        default="sync",
        metadata=help_of(
            "with devices, whom a round waits for: sync: all; deadline: who arrives within round_seconds; buffered: the"
            " next `buffer` updates, whatever version they began with"
        ),
    )
    round_seconds: float = field(default=60.0, metadata=help_of("with arrivals=deadline: virtual seconds of a round"))
    buffer: int = field(default=2, metadata=help_of("with arrivals=buffered: updates that make a round"))
    most_stale: int = field(
        default=10, metadata=help_of("with arrivals=buffered: versions that an update may be old; older ones are lost")
    )
    split_after: int = field(
        default=0,
        metadata=help_of("blocks of the model on a client, the others on the server: split learning; 0: not split"),
    )

    def __post_init__(self) -> None:
        refuse_outside(
            self, clients=Bounds(1, MOST_CLIENTS), rounds=Bounds(1, 10_000), samples=Bounds(2, 1_000_000),
            held_out=Bounds(0, 1, over=True, under=True), dev=NOT_NEGATIVE, concentration=Bounds(0, 1e6, over=True),
            participants=NOT_NEGATIVE, epochs=Bounds(1, 1000), batch=Bounds(1, 4096), learning_rate=SHARE,
            full_learning_rate=SHARE, weight_decay=Bounds(0, 1, under=True), clip=NOT_NEGATIVE,
            scale=Bounds(0, 1000, over=True), longest=Bounds(4, 100_000), smoothing=Bounds(0, 1),
            sharpness=Bounds(0, 1000), most_clusters=Bounds(1, 100), fingerprint_rows=Bounds(1, 100_000),
            server_rank=Bounds(1, MOST_RANK), quorum=SHARE, deadline=NOT_NEGATIVE,
            round_seconds=Bounds(0, 1e9, over=True), buffer=Bounds(1, MOST_CLIENTS), most_stale=Bounds(0, 10_000),
            split_after=Bounds(0, 1000), top=Bounds(0, 1, over=True),
            hetlora_decay=Bounds(0, 1, over=True), hetlora_penalty=Bounds(0, 1000),
        )  # fmt: skip
        self._check_lists()
        if self.participants > self.clients:
            raise ValueError(f"participants={self.participants} of clients={self.clients}: more than there are")
        if len(self.tasks) > self.clients:
            raise ValueError(f"clients={self.clients}: fewer than the {len(self.tasks)} tasks")
        self._check_exchange()
        self._check_devices()
        if self.wire == "topk" and (self.exchange == "folder" or self.split_after):
            what = "exchange=folder: its clients have no memory of their own" if self.exchange == "folder" else "a cut"
            raise ValueError(f"wire=topk remembers what it does not send, and does not go with {what}")

    @property
    def down_wire(self) -> Wire:
        """The number format of what the server sends: top-k is for updates alone."""
        return "fp32" if self.wire == "topk" else self.wire

    def _check_lists(self) -> None:
        refuse_repeats(self, "methods", "tasks", "seeds")
        if not self.rank:
            raise ValueError("rank is empty: name one or more")
        refuse_each_outside(self, rank=Bounds(1, MOST_RANK), seeds=SEED, budget_kb=Bounds(1, 1e9))
        if self.budget_kb and not any(METHODS[name].budgeted for name in self.methods):
            raise ValueError("budget_kb is for the method atlas, which is not among the methods")
        if "hetlora" not in self.methods and (self.hetlora_weights != "rows" or self.hetlora_decay < 1):
            given = "hetlora_weights" if self.hetlora_weights != "rows" else "hetlora_decay"
            raise ValueError(f"{given} is for the method hetlora, which is not among the methods")
        if len(self.budget_kb) > self.clients:
            raise ValueError(f"budget_kb has more values than there are clients ({self.clients})")

    def _check_exchange(self) -> None:
        others = [name for name in self.methods if METHODS[name].groups == "pooled" or METHODS[name].combine == "full"]
        if self.exchange == "folder" and others:
            raise ValueError(f"exchange=folder is for methods with clients that send adapters, and {others[0]} is none")
        if self.exchange == "folder" and (self.devices or self.split_after):
            raise ValueError("devices and split_after are simulated, and exchange=folder is not")
        if self.exchange != "folder" and (self.deadline or self.quorum < 1):
            raise ValueError("quorum and deadline are for exchange=folder; devices have arrivals and round_seconds")

    def _check_devices(self) -> None:
        if unknown := [name for name in self.devices if name not in DEVICES]:
            raise ValueError(f"devices={unknown[0]!s:.50} is none of {', '.join(DEVICES)}")
        if self.arrivals != "sync" and not self.devices:
            raise ValueError(f"arrivals={self.arrivals} needs a virtual clock: name devices, too")
        if self.arrivals == "buffered" and self.participants:
            raise ValueError(f"participants={self.participants}: with arrivals=buffered all clients take part, 0")
        if self.arrivals == "buffered" and self.buffer > self.clients:
            raise ValueError(f"buffer={self.buffer} of clients={self.clients}: more than there are")
        full = [name for name in self.methods if METHODS[name].combine == "full"]
        if full and self.split_after:
            raise ValueError(f"split_after is for methods that train adapters, and {full[0]} does not")
        if self.hetlora_decay < 1 and self.arrivals == "buffered":
            raise ValueError("hetlora_decay: with arrivals=buffered a client may train ranks that are gone")
        if full and self.arrivals == "buffered":
            raise ValueError(f"arrivals=buffered: with {full[0]} it would take a whole model for each client")

    def tuning(self, seed: int, rank: int) -> Tuning:
        """How a client's optimizer is set."""
        return Tuning(
            {}, self.learning_rate, self.epochs, rank=rank, alpha=self.scale * rank, targets=self.targets or ("*",),
            batch=self.batch, warmup=0, schedule="constant", weight_decay=self.weight_decay, clip=self.clip, seed=seed,
        )  # fmt: skip

    def ranks(self) -> tuple[int, ...]:
        """The rank of each client's adapter, before budgets."""
        return tuple(self.rank[one % len(self.rank)] for one in range(self.clients))
