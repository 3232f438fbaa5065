"""Which adapters are plain LoRA, W x + alpha / r * B A x, by their `adapter_config.json`: no other is answered with.

PEFT's settings are known here one by one. One that is not known, and is set, may change what the same matrices mean.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from hybrid.canonical import decode
from hybrid.errors import BadData

CONFIG = "adapter_config.json"
MOST_CONFIG = 1024**2

HARMLESS = frozenset(
    {
        "peft_type",
        "task_type",
        "r",
        "lora_alpha",
        "target_modules",  # the file names the layers itself
        "exclude_modules",
        "layers_to_transform",
        "layers_pattern",
        "lora_dropout",  # of training alone
        "inference_mode",
        "base_model_name_or_path",
        "revision",
        "auto_mapping",
        "peft_version",
        "runtime_config",
        "megatron_core",  # the name of a module, unless megatron_config is there
        "loftq_config",  # of beginnings, which init_lora_weights names
        "eva_config",
        "corda_config",
        "qalora_group_size",  # of use_qalora
    }
)
"""Settings that say nothing of how an adapter is computed."""

BEGINNINGS = (True, False, None, "gaussian", "orthogonal", "eva")
"""Values of `init_lora_weights` that leave the model's own weights alone. Others (PiSSA, OLoRA, CorDA, LoftQ, LoRA-GA)
take something away from them, or may: the adapter was trained beside another model than the one that is here."""

NOTHING: tuple[Any, ...] = (None, False, "none", [], {})


def check_adapter(folder: Path) -> None:
    """Raise BadData when the adapter in a folder of PEFT's layout is not plain LoRA, OSError when it is not there."""
    with (folder / CONFIG).open("rb") as file:
        refuse_other_kinds(file.read(MOST_CONFIG + 1), str(folder / CONFIG))


def settings_in(data: bytes) -> bytes:
    """The settings in the metadata of an adapter's safetensors file, as this project writes them; empty without any."""
    metadata = json.loads(data[8 : 8 + int.from_bytes(data[:8], "little")]).get("__metadata__", {})
    return str(metadata.get("adapter_config", "")).encode()


def refuse_other_kinds(config: bytes, what: str) -> None:
    """Raise BadData for an adapter that PEFT would compute in another way. `config` may be empty."""
    about = decode(config, what=what, limit=MOST_CONFIG) if config else {}
    if not isinstance(about, dict) or about.get("peft_type", "LORA") != "LORA":
        raise BadData(f"{what}: not the settings of a LoRA adapter")
    begun = about.get("init_lora_weights", True)
    if (begun.lower() if isinstance(begun, str) else begun) not in BEGINNINGS:
        raise BadData(
            f"{what}: an adapter that began as {begun!r:.40} is not one of the model as it is",
            hint="PEFT makes a plain LoRA of it: save_pretrained(..., path_initial_model_for_weight_conversion=...)",
        )
    others = [name for name, value in about.items() if not _says_nothing(name, value)]
    if others:
        shown = ", ".join(f"{name:.40}" for name in sorted(others)[:5])
        raise BadData(
            f"{what}: {shown}: not known here, an adapter must be plain LoRA",
            hint="merge it into its model with PEFT (merge_and_unload) and give the merged folder as the model",
        )


def _says_nothing(name: str, value: Any) -> bool:
    return name in HARMLESS or name == "init_lora_weights" or value in NOTHING
