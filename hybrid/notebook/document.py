"""The notebook as a file: plain JSON of nbformat 4, no outputs, no data, no secrets."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from hybrid.backends.registry import SERVED
from hybrid.canonical import encode
from hybrid.errors import UsageError
from hybrid.folder.runs import MARK, Run
from hybrid.folder.spec import ModelSpec
from hybrid.machine import home, nvidia
from hybrid.machine.redaction import redacted
from hybrid.machine.replacing import replacing
from hybrid.machine.store_urls import checked_url, is_url
from hybrid.machine.terminal import clean_line
from hybrid.model_files.location import HUB_NAME, PACKAGED
from hybrid.notebook import cells, store_cell, words
from hybrid.notebook.packed import PackedModel
from hybrid.plugins.wheel import Wheel

NotebookKind = Literal["colab", "kaggle", "plain"]

BEGINS = b'{\n "cells": [\n  {\n   "cell_type": "markdown",\n   "id": "hybrid-about",'
"""How every notebook of hybrid begins, also after Jupyter has saved it."""

DRIVE_IN_COLAB = "/content/drive/MyDrive"
SHARED_IN_COLAB = "/content/drive/Shareddrives"
MY_DRIVE = {"My Drive", "MyDrive", "Meine Ablage", "Mon Drive", "Mon disque", "Mi unidad", "Il mio Drive", "Meu Drive"}
MY_DRIVE |= {"O meu disco", "Mijn Drive", "Mój dysk", "Min enhet", "Mit drev", "Drive'ım", "Мой диск", "マイドライブ"}
MY_DRIVE |= {"내 드라이브", "我的云端硬盘", "我的雲端硬碟"}
"""What Drive for desktop calls the user's own Drive, by the language of the account."""
SHARED_DRIVES = {"Shared drives", "Shareddrives", "Geteilte Ablagen", "Drive partagés", "Unidades compartidas"}
SHARED_DRIVES |= {"Drive condivisi", "Drives compartilhados", "Gedeelde Drives", "Dyski współdzielone", "Общие диски"}
SHARED_DRIVES |= {"共有ドライブ", "공유 드라이브", "共享云端硬盘"}
KAGGLE_HOURS = 12
"""How long Kaggle lets a session with a CPU or GPU live; 9 hours with a TPU."""
COPY_IN_KAGGLE = "/kaggle/working/shared"
LOCAL = {"colab": "/content/hybrid-local", "kaggle": "/kaggle/temp/hybrid", "plain": "~/.cache/hybrid-notebook"}
ON_A_GPU = {"transformers", "vllm", "ollama"}
EXTRAS = {"vllm": "vllm", "transformers": "torch", "llamacpp": "llamacpp", "ollama": "ollama", "openai": "ollama"}


@dataclass(frozen=True, slots=True)
class NotebookPlan:
    """What a notebook is made for. `wheels` is hybrid, then what the run's pipeline needs beside it; `place` the shared
    folder for that machine: a path, or (Kaggle) for rclone; `roles` those of the models that this machine asks;
    `packed` those of them that are packed in the folder; `packages` what the pipeline needs and no extra has.
    """

    kind: NotebookKind
    run: Run
    wheels: tuple[Wheel, ...]
    place: str
    roles: tuple[str, ...] = ("",)
    packed: tuple[PackedModel, ...] = ()
    packages: tuple[str, ...] = ()

    @property
    def models(self) -> list[ModelSpec]:
        """The models that this machine asks."""
        return [self.run.models[role] for role in self.roles]

    @property
    def restored(self) -> list[PackedModel]:
        """The models that are restored as files; those of Ollama go into its store."""
        return [one for one in self.packed if not one.served]

    @property
    def in_store(self) -> bool:
        """Whether the machine reads the folder in an object store."""
        return self.kind == "plain" and is_url(self.place)


def place_there(kind: NotebookKind, folder: Path) -> str:
    """The likely path of the shared folder on the other machine: in the Drive, by its path below "My Drive" here.

    Raises UsageError for Colab and a folder in an object store.
    """
    if kind == "plain":
        return home.shown(folder)
    if url := home.store_url(folder):
        if kind == "colab":
            raise UsageError(
                f"a notebook for Colab finds the folder in Google Drive, and {url} is a bucket",
                hint="hybrid notebook plain RUN, opened in Colab, with the bucket's keys in the kernel's environment",
            )
        return url.replace("://", ":")  # a remote called as the scheme
    shared, inside = _in_drive(folder) or (False, folder.name)
    if kind == "kaggle":
        return f"drive:{inside}"  # of a shared drive, rclone's remote names the drive
    return f"{SHARED_IN_COLAB if shared else DRIVE_IN_COLAB}/{inside}"


def is_guess(kind: NotebookKind, folder: Path) -> bool:
    """Whether nothing in the path of the folder here says where in a Drive it is."""
    return kind != "plain" and (bool(home.store_url(folder)) or _in_drive(folder) is None)


def _in_drive(folder: Path) -> tuple[bool, str] | None:
    """Whether a folder is in a shared drive, and its path below that or below "My Drive". None: in neither."""
    parts = folder.absolute().parts
    for number, part in enumerate(parts[:-1]):
        if part in MY_DRIVE:
            return False, "/".join(parts[number + 1 :])
        if part in SHARED_DRIVES:
            return True, "/".join(parts[number + 1 :])
    return None


def write_notebook(plan: NotebookPlan, path: Path) -> None:
    """Write the notebook. Raises UsageError when `path` is another file, and what `refuse_unsupported` raises."""
    refuse_unsupported(plan)
    with replacing(path, BEGINS) as stream:
        stream.write(as_json(plan))


def refuse_unsupported(plan: NotebookPlan) -> None:
    """Raise UsageError for several models of Ollama, on Kaggle for one that is not packed in the folder, and for the
    URL of a store that hybrid does not know.
    """
    if plan.in_store:
        checked_url(plan.place)
    elif is_url(plan.place):
        wanted = {"colab": "a path in Google Drive", "kaggle": "REMOTE:BUCKET/PREFIX, the folder as rclone names it"}
        raise UsageError(
            f"a notebook for {words.SITES[plan.kind]} cannot read the folder at {redacted(plan.place)[:200]}",
            hint=f"--at takes {wanted[plan.kind]}",
        )
    served = _served(plan)
    if len(served) > 1:
        raise UsageError(
            f"a notebook brings one model of Ollama to the machine, not {' and '.join(served)}",
            hint="start `hybrid worker` there by hand",
        )
    if plan.kind == "kaggle" and served and not any(one.served for one in plan.packed):
        raise UsageError(
            f"Ollama's model {clean_line(served[0], 200)} is not packed in the folder, where Kaggle's machine gets it",
            hint="pack it, then run the command again: hybrid models pack NAME",
        )


def as_json(plan: NotebookPlan) -> bytes:
    """The notebook's bytes in Jupyter's layout. The same run, wheels and place give the same bytes."""
    text = json.dumps(document(plan), indent=1, sort_keys=True, ensure_ascii=False)
    return text.encode(errors="backslashreplace") + b"\n"


def document(plan: NotebookPlan) -> dict[str, Any]:
    """The notebook as a JSON value: nbformat 4.5."""
    found = [
        _cell("about", _about(plan), kind="markdown"),
        _cell("parameters", assigned(parameters(plan)), tags=("parameters",)),
        _cell("ground", assigned(fixed(plan)) + cells.GROUND),
        _cell("folder", folder_cell(plan)),
        _cell("install", cells.INSTALL),
        *([_cell("ollama", _ollama_cell(plan.kind))] if by_ollama(plan) else []),
        *([_cell("models", cells.MODELS)] if plan.restored else []),
        _cell("worker", cells.WORKER[plan.kind]),
        _cell("end", cells.END[plan.kind]),
    ]
    return {"cells": found, "metadata": _metadata(plan), "nbformat": 4, "nbformat_minor": 5}


def folder_cell(plan: NotebookPlan) -> str:
    """The code that finds the folder."""
    return cells.FOLDER["store" if plan.in_store else plan.kind]


def _ollama_cell(kind: NotebookKind) -> str:
    return cells.OLLAMA_OF_REMOTE + cells.OLLAMA if kind == "kaggle" else cells.OLLAMA


def _cell(name: str, text: str, *, kind: str = "code", tags: tuple[str, ...] = ()) -> dict[str, Any]:
    cell = {
        "cell_type": kind,
        "id": f"hybrid-{name}",
        "metadata": {"tags": list(tags)} if tags else {},
        "source": text.strip("\n").splitlines(keepends=True),
    }
    return cell | ({"execution_count": None, "outputs": []} if kind == "code" else {})


def _metadata(plan: NotebookPlan) -> dict[str, Any]:
    """The kernel, and for Colab and Kaggle whether a GPU is requested."""
    kernel = {"display_name": "Python 3", "language": "python", "name": "python3"}
    common = {"kernelspec": kernel, "language_info": {"name": "python"}}
    gpu = asks_for_a_gpu(plan)
    if plan.kind == "colab":
        return {**common, "colab": {"provenance": []}, **({"accelerator": "GPU"} if gpu else {})}
    if plan.kind == "kaggle":
        chosen = {"accelerator": "nvidiaTeslaT4"} if gpu else {}  # two of them; by default one GPU, formerly a P100
        return {**common, "kaggle": {"isGpuEnabled": gpu, **chosen, "isInternetEnabled": True, "language": "python"}}
    return common


def parameters(plan: NotebookPlan) -> dict[str, tuple[Any, str]]:
    """Name -> value and comment of the parameters, which a user may change or papermill may set."""
    extras, packages = needed(plan.models)
    if plan.in_store:
        extras = ",".join(filter(None, (extras, store_cell.EXTRA)))
    place = COPY_IN_KAGGLE if plan.kind == "kaggle" else plan.place
    found: dict[str, tuple[Any, str]] = {
        "FOLDER": (place, "the shared folder, as this machine sees it"),
        "RUN": (plan.run.id, "the run to work on"),
        "UNTIL": ("", "when this session ends: '17:30' by this machine's clock, or from now '11h30m'"),
        "MAX_IDLE": ("", "how long to wait for work, such as '10m'"),
        "EXTRAS": (extras, "extras of hybrid to install, with commas between them"),
        "PACKAGES": (
            ",".join(filter(None, (packages, *plan.packages))),
            "further packages to install, without what they depend on",
        ),
        "SITE_TORCH": (
            False,
            "use this machine's own torch and transformers if they do, and install only what is missing",
        ),
        "PINS": ("", "a file of your own with versions and hashes; 'newest': whatever fits; '': what was tested"),
        "PYTHON": ("", "a Python that has hybrid already: then nothing is installed"),
        "OPTIONS": ([], "further options of `hybrid worker`, such as ['--model', 'NAME=/where/it/is/here']"),
        "ASK_HF_TOKEN": (
            any(map(_on_the_hub, plan.models)),
            "hand the secret HF_TOKEN to the worker, and to nothing else",
        ),
        "LOCAL": (LOCAL[plan.kind], "a place on this machine's own disk, never in the shared folder"),
    }
    both = plan.kind == "kaggle" and _by_torch(plan)  # Kaggle gives two T4
    found["GPUS"] = ("all" if both else "", "'all': one worker for each GPU of this machine, if it has several")
    if by_ollama(plan):
        where = "a path or, as rclone names it, a file" if plan.kind == "kaggle" else "in Drive for example"
        found["OLLAMA"] = ("", f"Ollama's program, folder or release archive, {where}; '': it is installed")
        found["MODEL"] = (_served(plan)[0], "the model, packed in the shared folder by `hybrid models pack`")
    if plan.kind == "colab":
        found["FLUSH"] = (False, "at the end, wait until Drive has uploaded everything, then unmount it")
    if plan.kind == "kaggle":
        found["SESSION_HOURS"] = (KAGGLE_HOURS, "how long Kaggle lets a session live; without UNTIL, work ends before")
        found["REMOTE"] = (plan.place, "the shared folder as your rclone names it; FOLDER is a copy of a part of it")
    return found


def needed(models: Sequence[ModelSpec]) -> tuple[str, str]:
    """The extras of hybrid that the backends of these models need, and the packages that carry the models."""
    extras, packages = dict[str, None](), dict[str, None]()
    for model in models:
        extra = EXTRAS.get(model.backend, "")
        if extra == "vllm" and (model.name in PACKAGED or model.name.endswith(".gguf")):
            extra = "vllm,torch"  # a GGUF is read with the libraries of `transformers`
        extras |= dict.fromkeys(filter(None, extra.split(",")))
        if extra and model.name in PACKAGED:
            packages[PACKAGED[model.name].replace("_", "-")] = None
    return ",".join(extras), ",".join(packages)


def _served(plan: NotebookPlan) -> list[str]:
    """The models that the Ollama server on that machine runs."""
    return list(dict.fromkeys(model.name for model in plan.models if model.backend == "ollama"))


def asks_for_a_gpu(plan: NotebookPlan) -> bool:
    """Whether a backend of the run uses a GPU."""
    return any(model.backend in ON_A_GPU for model in plan.models)


def by_ollama(plan: NotebookPlan) -> bool:
    """Whether a server of Ollama runs beside the worker."""
    return bool(_served(plan))


def _by_torch(plan: NotebookPlan) -> bool:
    return any(model.backend in ("transformers", "vllm") for model in plan.models)


def _on_the_hub(model: ModelSpec) -> bool:
    name = model.name
    return model.backend not in SERVED and HUB_NAME.fullmatch(name) is not None and not Path(name).exists()


def fixed(plan: NotebookPlan) -> dict[str, tuple[Any, str]]:
    """Name -> value and comment of the constants of the cells."""
    return {
        "MARK": (encode(MARK) + b"\n", "what the shared folder is known by"),
        "WHEELS": (
            [(one.path, one.name, one.sha256, len(one.data)) for one in plan.wheels],
            "what is installed, in the shared folder: hybrid first. Each is checked: the folder is not trusted",
        ),
        "NEEDS_CUDA": (_by_torch(plan), "whether torch or vLLM is installed and wants an NVIDIA GPU"),
        "OLDEST_GPU": (float("{}.{}".format(*nvidia.MIN_CAPABILITY)), "the compute capability that they have code for"),
        "OLDEST_DRIVER": (nvidia.MIN_DRIVER[max(nvidia.MIN_DRIVER)], "the driver that they need"),
        "GPU_ADVICE": (words.GPU_ADVICE[plan.kind], ""),
        "PACKED": (
            [
                (one.name, one.packed, one.inner, list(one.files) if plan.kind == "kaggle" else [])
                for one in plan.restored
            ],
            "models that are packed in the folder and restored from there",
        ),
        "OLLAMA_FILES": (
            [path for one in plan.packed if one.served for path in one.files] if plan.kind == "kaggle" else [],
            "what is copied of the folder for the model of Ollama",
        ),
        **(_fixed_for_store(plan.place) if plan.in_store else {}),
        "RESTORED": ([], "where they are then, as options of the worker"),
        "WITHIN": ([], "what the worker is started by, when that is not Python itself"),
    }


def _fixed_for_store(url: str) -> dict[str, tuple[Any, str]]:
    return {
        "STORE_PINS": (store_cell.pins(), "what reads the store before hybrid is here"),
        "STORE_KEYS": (store_cell.keys(url), "the variables of which one has the key"),
    }


def assigned(values: Mapping[str, tuple[Any, str]]) -> str:
    """Assignments with comments, one a line."""
    return "".join(f"{name} = {value!r}  # {comment}\n" for name, (value, comment) in values.items())


def _about(plan: NotebookPlan) -> str:
    lines = [
        words.TITLE.format(run=plan.run.id, site=words.SITES[plan.kind]),
        words.STEPS["store" if plan.in_store else plan.kind],
    ]
    named = "".join(f", backend {_shown(one.backend)}, model {_shown(one.name)}" for one in plan.models)
    lines.append(f"Pipeline {_shown(str(plan.run.spec['pipeline']))}{named}.")
    for model in plan.models:
        if model.backend == "ollama":
            lines.append(words.OLLAMA.format(model=_shown(model.name)))
            lines.extend([words.OLLAMA_ON_KAGGLE] if plan.kind == "kaggle" else [])
        elif model.backend == "openai":
            lines.append(words.OPENAI.format(model=_shown(model.name)))
        elif model.name in {one.name for one in plan.restored}:
            lines.append(words.PACKED.format(model=_shown(model.name)))
        elif model.name not in PACKAGED and not _on_the_hub(model):
            lines.append(words.OWN_MODEL.format(model=_shown(model.name)))
    return "\n".join(lines)


def _shown(text: str) -> str:
    """Text of a spec as inline code of markdown; markup in it is removed."""
    return f"`{re.sub('[`<>&]', '', clean_line(text, 200)) or '?'}`"
