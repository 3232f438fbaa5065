"""Refuse adapters that are not plain LoRA, W x + scale * B A x, by their `adapter_config.json`.

Every PEFT setting that does not change the computation is listed here. A setting that is not listed, and is set, may
change what the same matrices mean, so the adapter is refused.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from hybrid.canonical import decode
from hybrid.errors import BadData

CONFIG = "adapter_config.json"
MAX_CONFIG = 1024**2

NEUTRAL_SETTINGS = frozenset(
    {
        "peft_type",
        "task_type",
        "r",
        "lora_alpha",
        "target_modules",  # the file names the layers itself
        "exclude_modules",
        "layers_to_transform",
        "layers_pattern",
        "lora_dropout",  # used in training alone
        "inference_mode",
        "base_model_name_or_path",
        "revision",
        "auto_mapping",
        "peft_version",
        "runtime_config",
        "megatron_core",  # the name of a module, unless megatron_config is there
        "loftq_config",  # used by initialisations that init_lora_weights names
        "eva_config",
        "corda_config",
        "qalora_group_size",  # used with use_qalora
    }
)
"""Settings that do not change how an adapter is computed."""

SCALE_SETTINGS = frozenset({"rank_pattern", "alpha_pattern", "use_rslora"})
"""Settings of ranks and scales that differ from r and alpha / r: `training.adapters` reads them, vLLM not always."""

PLAIN_INITS = (True, False, None, "gaussian", "orthogonal", "eva")
"""Values of `init_lora_weights` that leave the base weights unchanged. Other initialisations (PiSSA, OLoRA, CorDA,
LoftQ, LoRA-GA) may change the base weights, so the adapter fits another base model than the one that is loaded."""

UNSET: tuple[Any, ...] = (None, False, "none", [], {})


def check_adapter(folder: Path) -> None:
    """Raise BadData when the adapter in a folder of PEFT's layout is not plain LoRA, OSError when it is missing."""
    with (folder / CONFIG).open("rb") as file:
        refuse_other_kinds(file.read(MAX_CONFIG + 1), str(folder / CONFIG))


def settings_in(data: bytes) -> bytes:
    """The settings in the metadata of an adapter's safetensors file; b"" without any."""
    metadata = json.loads(data[8 : 8 + int.from_bytes(data[:8], "little")]).get("__metadata__", {})
    return str(metadata.get("adapter_config", "")).encode()


def refuse_other_kinds(config: bytes, what: str, *, scales: bool = False) -> None:
    """Raise BadData when `config`, which may be empty, makes PEFT compute the adapter in another way than plain
    LoRA. `scales`: the reader knows the scales of single layers.
    """
    settings = decode(config, what=what, limit=MAX_CONFIG) if config else {}
    if not isinstance(settings, dict) or settings.get("peft_type", "LORA") != "LORA":
        raise BadData(f"{what}: not the settings of a LoRA adapter")
    init = settings.get("init_lora_weights", True)
    if (init.lower() if isinstance(init, str) else init) not in PLAIN_INITS:
        raise BadData(
            f"{what}: an adapter that began as {init!r:.40} is not one of the model as it is",
            hint="PEFT makes a plain LoRA of it: save_pretrained(..., path_initial_model_for_weight_conversion=...)",
        )
    known = NEUTRAL_SETTINGS | SCALE_SETTINGS if scales else NEUTRAL_SETTINGS
    others = [name for name, value in settings.items() if name not in known and not _is_neutral(name, value)]
    if others:
        shown = ", ".join(f"{name:.40}" for name in sorted(others)[:5])
        raise BadData(
            f"{what}: {shown}: not known here, an adapter must be plain LoRA",
            hint="merge it into its model with PEFT (merge_and_unload) and give the merged folder as the model",
        )


def _is_neutral(name: str, value: Any) -> bool:
    return name == "init_lora_weights" or value in UNSET
