"""Cause one fault at one file during one command, for every combination, and check that the next command recovers.

A program, so that the library of failing calls can be loaded into it: `python -m tests.support.fault_matrix ROOT` under
LD_PRELOAD writes ROOT/cells.json. It makes one run that is half done, which each cell copies: a first machine did all
of it and is lost, with what had not arrived; one of its shards was received, another one was not yet; the run was
cancelled and resumed. Then one command meets one fault, and the same command meets none.
"""

from __future__ import annotations

import fnmatch
import json
import os
import shutil
import sys
import traceback
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import asdict, dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

from hybrid.errors import HybridError
from hybrid.folder.medium import Disk
from hybrid.folder.notes import read_notes
from hybrid.folder.orders import Orders
from hybrid.folder.shards import verify_shard
from hybrid.machine.home import index_of, received_of, set_joined_folder
from hybrid.plugins.installed import load
from hybrid.settings import build
from tests.support import forked_commands
from tests.support.failing_calls import FailingCalls
from tests.support.packed_models import noise, tensors
from tests.support.real_machines import SCRIPT, task

PIPELINE = "seal-eval"
FILES = {
    "hybrid.json": "folder/hybrid.json",
    "run.json": "folder/runs/*/run.json",
    "inputs": "folder/runs/*/inputs-*",
    "references": "folder/runs/*/references-*",
    "shard": "folder/runs/*/answer/*/shard-*",
    "beat": "folder/runs/*/beats/*/beat-*",
    "log": "folder/runs/*/logs/*/log-*",
    "ack": "folder/runs/*/acks/*/ack-*",
    "order": "folder/runs/*/orders/*/order-*",
    "outputs.json": "folder/results/*outputs.json*",
    "model's manifest": "folder/models/manifests/model-*",
    "model's part": "folder/models/layers/*/part-*",
    "a listing": "folder/runs*",
    "received shard": "*/received/*/shard-*",
    "kept ack": "*/received/*/ack-*",
    "kept order": "*/received/*/order-*",
    "spooled shard": "*/spool/*/shard-*",
}
"""File -> pattern of its path in a cell; those behind the listing are on the machine's own disk."""
OWN = {"received shard", "kept ack", "kept order", "spooled shard"}
REWRITTEN = {"ack", "order", "outputs.json", *OWN}
"""Files of the laptop itself: it has what belongs there, and nobody else brings it again."""
ORDERS = {"cancel", "retry", "run remote"}
LAPTOP = {"fetch", *ORDERS}
CALLS = {
    **dict.fromkeys(("ENOENT", "EINVAL", "EIO", "ESTALE"), "open,list"),
    "ENOSPC": "create,write,mkdir",
    "EIO at stat": "stat",
    "EIO at read": "read",
    "EIO at fsync": "fsync",
}
LATER = {"stat", "read"}
"""Calls beside the open: whoever reads makes them in the same place, at every command."""
LOOKING = {"worker", "fetch", "status"}
DAMAGES = ("torn", "empty", "older")
COMMANDS = ("worker", "fetch", "status", "cancel", "retry", "run remote", "models restore")
ITEMS = 8
AT_ONCE = 4


@dataclass
class Cell:
    """What came of one fault: exit codes of the command that met it and of the next one, and what is wrong with it."""

    file: str
    command: str
    fault: str
    code: int = -1
    after: int = -1
    said: str = ""
    struck: str = ""
    wrong: list[str] = field(default_factory=list)


class Scene:
    """A folder and two machines below `root`, and the commands on them."""

    def __init__(self, root: Path, own: Path) -> None:
        self.root, self.own, self.folder = root, own, root / "folder"
        self.gpu, self.laptop = root / "home-gpu", root / "home-laptop"

    def run(self, *arguments: str, home: Path | None = None, rules: Path | None = None) -> int:
        environment = {"HYBRID_HOME": str(home or self.laptop), "HYBRID_FOLDER": str(self.folder)}
        return forked_commands.command(list(arguments), environment, self.root / "said", rules)

    def do(self, command: str, rules: Path | None = None) -> int:
        """One of COMMANDS."""
        if command == "worker":
            return self.run(*self.worker(), home=self.gpu, rules=rules)
        if command == "run remote":
            return self.run(*self.submit(), rules=rules)
        if command == "models restore":
            return self.run("models", "restore", "tiny", f"--to={self.root / 'restored'}", home=self.gpu, rules=rules)
        if command == "status":
            return self.run("status", PIPELINE, "--json", rules=rules)
        return self.run(command, PIPELINE, rules=rules)

    def submit(self) -> list[str]:
        return ["run", "remote", PIPELINE, "--backend=scripted", f"--model={SCRIPT}", *self.settings()]

    def worker(self, *more: str) -> list[str]:
        leave = ["--side=gpu", "--linger=0s", "--max-idle=60s", "--shard-seconds=0.1", f"--run={PIPELINE}"]
        return ["worker", f"--model={SCRIPT}={self.own / 'script.json'}", *leave, *more]

    def settings(self) -> list[str]:
        data = [f"{kind}={self.own / kind}.json" for kind in ("challenges", "solutions")]
        return [f"--set={one}" for one in (*data, "permute_n=0", "views=transpose")]

    @property
    def said(self) -> str:
        return (self.root / "said").read_text(errors="replace")

    def paths(self, file: str) -> list[Path]:
        """The files of a kind that are there, sorted."""
        here = [path for path in self.root.rglob("*") if path.is_file()]
        return sorted(path for path in here if fnmatch.fnmatch(str(path), f"{self.root}/{FILES[file]}"))

    @cached_property
    def run_id(self) -> str:
        (place,) = (self.folder / "runs").iterdir()
        return place.name

    def kept(self) -> tuple[Path, Path]:
        """Where the laptop keeps what it received, and its index."""
        os.environ["HYBRID_HOME"] = str(self.laptop)
        return received_of(self.folder), index_of(self.folder)

    def orders(self) -> Orders:
        """Those in the folder."""
        orders = Orders()
        for path, note in read_notes(Disk(self.folder), self.run_id, "order", refused=[]):
            orders.add(path, note)
        return orders

    def keys(self, root: Path) -> set[str]:
        """The items in shards that verify."""
        keys: set[str] = set()
        for path in root.glob("runs/*/answer/*/*/shard-*"):
            with suppress(HybridError):
                name = path.relative_to(root).as_posix()
                keys |= {str(record["key"]) for record in verify_shard(name, path.read_bytes()).records}
        return keys

    def acknowledged(self, root: Path) -> set[str]:
        return {path for _, note in read_notes(Disk(root), self.run_id, "ack", refused=[]) for path in note["received"]}

    def outputs(self) -> dict[str, Any]:
        """The outputs.json: its digest and how many answers; nothing when there is none that is whole."""
        for path in self.folder.glob("results/*/outputs.json"):
            with suppress(ValueError):
                found = json.loads(path.read_text())
                missing = sum((record["error"] or {}).get("kind") == "missing" for record in found["records"])
                return {"sha256": found["sha256"], "here": found["count"] - missing}
        return {}


def template(root: Path) -> Scene:
    """The run that is half done. Every other prompt fails, so that there is something to ask for again."""
    scene = Scene(root / "template", root)
    scene.root.mkdir()
    challenges = {f"{n:08x}": task(n) for n in range(ITEMS // 2)}
    (root / "challenges.json").write_text(json.dumps(challenges))
    (root / "solutions.json").write_text(json.dumps({name: [[[1]]] for name in challenges}))
    made = build(load("pipelines", PIPELINE), [one.removeprefix("--set=") for one in scene.settings()])
    (stage,) = made.stages()
    asked = [item.request.messages[-1].content for item in stage.items(made.inputs().tasks)]
    assert len(set(asked)) == ITEMS
    (root / "script.json").write_text(json.dumps({"answers": dict.fromkeys(asked[::2], "1")}))
    happened = [
        scene.run("init", str(scene.folder)),
        scene.run(*scene.submit()),
        scene.do("fetch"),
        scene.run(*scene.worker("--backend-option=delay_ms=80"), home=scene.gpu),
    ]
    assert happened == [0, 0, 4, 3], (happened, scene.said)
    shutil.copy(*scene.paths("outputs.json"), root / "older.json")
    first, late, *lost = sorted(scene.paths("shard"), key=lambda path: not failed_in(scene, path))
    assert failed_in(scene, first)
    assert lost, "the first machine made too few shards"
    for path in (late, *lost):
        path.rename(root / path.name)
    assert (scene.do("fetch"), scene.do("status")) == (4, 4), scene.said
    (root / late.name).rename(late)
    shutil.rmtree(scene.gpu)
    assert (scene.do("cancel"), scene.run(*scene.submit())) == (0, 0), scene.said
    packed(scene)
    return scene


def failed_in(scene: Scene, shard: Path) -> bool:
    """Whether a shard has an item that failed."""
    records = verify_shard(shard.relative_to(scene.folder).as_posix(), shard.read_bytes()).records
    return any(record["error"] for record in records)


def packed(scene: Scene) -> None:
    model = scene.own / "tiny"
    model.mkdir()
    (model / "config.json").write_text('{"model_type": "llama"}')
    (model / "model.safetensors").write_bytes(tensors(noise(5000)))
    assert scene.run("models", "pack", str(model)) == 0, scene.said


def copied(source: Scene, root: Path) -> Scene:
    """The same in another place; what machines keep of a folder is named by that place."""
    shutil.copytree(source.root, root, copy_function=shutil.copyfile)
    scene = Scene(root, source.own)
    for there, here in zip(source.kept(), scene.kept(), strict=True):
        (root / there.relative_to(source.root)).rename(here)
    set_joined_folder(scene.folder)
    return scene


def facts(scene: Scene, command: str) -> dict[str, Any]:
    """What a command that met no fault leaves behind or tells."""
    if command == "worker":
        scene.do("fetch")
        return {"keys": len(scene.keys(scene.folder)), **scene.outputs()}
    if command == "fetch":
        return {"acks": sorted(scene.acknowledged(scene.folder)), **scene.outputs()}
    if command == "status":
        told = json.loads(next(line for line in scene.said.splitlines() if line.startswith("{")))
        return {name: told[name] for name in ("total", "done", "received", "failed", "cancelled") if name in told}
    if command == "models restore":
        return {path.name: path.read_bytes().hex() for path in (scene.root / "restored").iterdir()}
    return asked(scene)


def asked(scene: Scene) -> dict[str, Any]:
    """What the orders in the folder ask for."""
    orders = scene.orders()
    return {"cancelled": orders.cancelled, "set aside": len(orders.set_aside)}


class Matrix:
    """All cells of a template."""

    def __init__(self, root: Path) -> None:
        self.root, self.source = root, template(root)
        self.cancelled = copied(self.source, root / "cancelled")
        assert self.cancelled.do("cancel") == 0, self.cancelled.said
        self.clean: dict[str, tuple[int, dict[str, Any]]] = {}
        self.touched: set[tuple[str, str, str]] = set()
        for command in COMMANDS:
            self._probe(command)

    def scene(self, command: str, name: str) -> Scene:
        return copied(self.cancelled if command == "run remote" else self.source, self.root / name)

    def _probe(self, command: str) -> None:
        """Do a command without faults, and count which calls it makes on which files."""
        scene = self.scene(command, f"clean-{command.replace(' ', '-')}")
        failing = FailingCalls(Path(), scene.root / "rules")
        places = [(file, calls) for file in FILES for calls in dict.fromkeys(CALLS.values())]
        rules = {place: failing.fail(place[1], f"{scene.root}/{FILES[place[0]]}", "EIO", times=0) for place in places}
        code = scene.do(command, scene.root / "rules")
        self.touched |= {(command, *place) for place, rule in rules.items() if failing.seen(rule)}
        self.clean[command] = code, facts(scene, command)

    def cells(self) -> Iterator[Cell]:
        """Those that something can happen in."""
        for file in FILES:
            for command in COMMANDS:
                for fault, calls in CALLS.items():
                    if (command, file, calls) in self.touched and not (command not in LOOKING and calls in LATER):
                        yield Cell(file, command, fault)
                there = (self.cancelled if command == "run remote" else self.source).paths(file)
                if there and (command, file, "open,list") in self.touched and file != "a listing":
                    yield from (Cell(file, command, fault) for fault in DAMAGES)

    def done(self, cell: Cell) -> Cell:
        """Let it happen. What is left of a cell in which something is wrong stays there."""
        scene = self.scene(cell.command, f"{cell.file}-{cell.command}-{cell.fault}".replace(" ", "-").replace("'", ""))
        try:
            self._happen(cell, scene)
        except Exception:  # noqa: BLE001 - the other cells go on
            cell.wrong.append(traceback.format_exc())
        if not cell.wrong:
            shutil.rmtree(scene.root)
        return cell

    def _happen(self, cell: Cell, scene: Scene) -> None:
        failing = FailingCalls(Path(), scene.root / "rules")
        before = {path: path.read_bytes() for path in scene.paths(cell.file)}
        here = scene.outputs().get("here", 0)
        if cell.fault in DAMAGES:
            path = max(before)
            damage(path, cell.fault, scene.own / "older.json")
            cell.struck = path.name
        else:
            failing.fail(CALLS[cell.fault], f"{scene.root}/{FILES[cell.file]}", cell.fault.split()[0])
        cell.code = scene.do(cell.command, scene.root / "rules")
        cell.said = next((line for line in scene.said.splitlines() if line.startswith("error:")), "")
        cell.struck = cell.struck or next(failing.told, "")
        self._judge(cell, scene, here)
        if cell.fault in DAMAGES and not (cell.file in REWRITTEN and cell.command in LAPTOP):
            for path, data in before.items():  # the carrier brings it again
                path.parent.mkdir(parents=True, exist_ok=True)
                path.write_bytes(data)
        cell.after = scene.do(cell.command)
        self._judge_next(cell, scene)

    def _judge(self, cell: Cell, scene: Scene, here: int) -> None:
        """The command that met the fault: it may ask to be repeated, and does not say what is not so."""
        code, told = self.clean[cell.command]
        may = {code, 4, 5} | ({6} if cell.fault in DAMAGES else set())
        if cell.code not in may and not (cell.code == 0 and "cancelled" in scene.said and cell.file == "order"):
            cell.wrong.append(f"exit code {cell.code}: {scene.said[-600:]}")
        if not cell.struck and cell.command != "worker":  # whether that makes a call depends on the moment
            cell.wrong.append("the fault did not strike")
        if cell.code == 0 and cell.command in ORDERS and (found := asked(scene)) != told and cell.file != "shard":
            cell.wrong.append(f"it says that it is done, and the folder has {found}, not {told}")
        if cell.file != "outputs.json" and scene.outputs().get("here", 0) < here:
            cell.wrong.append(f"a fuller outputs.json was replaced by a poorer one: {here} to {scene.outputs()}")

    def _judge_next(self, cell: Cell, scene: Scene) -> None:
        code, told = self.clean[cell.command]
        if cell.after != code:
            cell.wrong.append(f"the next one: exit code {cell.after} instead of {code}: {scene.said[-600:]}")
            return
        found = facts(scene, cell.command)
        if found != told:
            cell.wrong.append(f"the next one left {found}, not {told}")
        if cell.command == "fetch":
            named = scene.acknowledged(scene.folder) | scene.acknowledged(scene.kept()[0])
            torn = [path for path in sorted(named) if not whole(scene.kept()[0] / path, path)]
            if torn:
                cell.wrong.append(f"acknowledged, and not whole on the laptop's disk: {torn}")


def whole(place: Path, path: str) -> bool:
    try:
        verify_shard(path, place.read_bytes())
    except (OSError, HybridError):
        return False
    return True


def damage(path: Path, how: str, outputs: Path) -> None:
    """`older`: as before the file was made; outputs.json, which is replaced again and again, as it once was."""
    data = path.read_bytes()
    if how != "older":
        path.write_bytes(data[: len(data) // 2] if how == "torn" else b"")
    elif path.name == "outputs.json":
        shutil.copy(outputs, path)
    else:
        path.unlink()


def main(root: Path) -> None:
    """All cells, four at once, each in a process of its own."""
    forked_commands.prepare((PIPELINE,), ("worker", "fetch", "status", "run", "models"))
    matrix, running, done = Matrix(root), dict[int, Path](), list[dict[str, Any]]()

    def finish() -> None:
        pid, status = os.waitpid(-1, 0)
        answer = running.pop(pid)
        assert not status, answer
        done.append(json.loads(answer.read_text()))

    for number, cell in enumerate(matrix.cells()):
        if len(running) == AT_ONCE:
            finish()
        answer = root / f"cell-{number}.json"
        pid = forked_commands.started(
            lambda cell=cell, answer=answer: answer.write_text(json.dumps(asdict(matrix.done(cell))))
        )  # type: ignore[misc]
        running[pid] = answer
    while running:
        finish()
    clean = {command: code for command, (code, _) in matrix.clean.items()}
    (root / "cells.json").write_text(json.dumps({"clean": clean, "cells": done}))


if __name__ == "__main__":
    main(Path(sys.argv[1]))
