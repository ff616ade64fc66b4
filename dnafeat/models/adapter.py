"""LoRA adapters in PEFT's format: checked key by key against the encoder they are put on, and merged into its weights."""

from __future__ import annotations

import hashlib
from pathlib import Path
from typing import cast

from torch import Tensor

from dnafeat.errors import CheckpointError, UsageError, one_line
from dnafeat.models.checkpoint import key_faults, read_tensors
from dnafeat.models.dnabert2 import DNABERT2

_FILES = ("adapter_config.json", "adapter_model.safetensors")
# Saved beside the adapter by classification tasks; they sit on top of the encoder and are no part of it.
_HEADS = ("classifier.", "score.", "pooler.", "bert.pooler.", "cls.")


def _folder(adapter: str) -> Path:
    folder = Path(adapter).expanduser()
    missing = [name for name in _FILES if not (folder / name).is_file()]
    if missing:
        raise UsageError(
            f"adapter {adapter} has no {' and no '.join(missing)}: give the folder that PEFT's save_pretrained wrote"
        )
    return folder


def fingerprint(adapter: str) -> str:
    """SHA-256 over the adapter's config and weights."""
    digest = hashlib.sha256()
    for name in _FILES:
        digest.update((_folder(adapter) / name).read_bytes())
    return digest.hexdigest()


def merge(model: DNABERT2, adapter: str) -> DNABERT2:
    """The model with the adapter merged into its weights, in eval mode.

    Raises
    ------
    CheckpointError
        A key of the adapter has no place in the model or a place got none, or a shape differs: it was made for another base.
    UsageError
        The folder is no adapter.
    """
    import peft

    folder = _folder(adapter)
    try:
        config = peft.PeftConfig.from_pretrained(str(folder))
        if not isinstance(config, peft.LoraConfig):
            raise CheckpointError(f"adapter {adapter} is of type {config.peft_type}, not LoRA, and cannot be merged")
        # The task type asks peft for a classification model around the encoder; here the encoder stands alone.
        config.task_type, config.modules_to_save, config.inference_mode = None, None, True
        config.base_model_name_or_path = None  # lineage, which peft would warn of
        wrapped = peft.get_peft_model(model, config)
    except (KeyError, ValueError, TypeError, OSError) as error:
        raise CheckpointError(f"adapter {adapter} does not fit this encoder: {one_line(error)}") from error
    own: dict[str, Tensor] = {}
    for key, value in read_tensors(folder / _FILES[1]).items():
        bare = key.removeprefix("base_model.model.")
        if bare.startswith(_HEADS):
            continue
        name = "base_model.model." + bare.removeprefix("bert.")
        if name in own:
            raise CheckpointError(
                f"adapter {adapter} has {bare.removeprefix('bert.')} twice, with the prefix 'bert.' and without it"
            )
        own[name] = value
    faults = key_faults(peft.get_peft_model_state_dict(wrapped), own)
    if faults:
        raise CheckpointError(f"adapter {adapter} was not made for this encoder: {'; '.join(faults[:3])} ({len(faults)} in all)")
    peft.set_peft_model_state_dict(wrapped, own)
    return cast(DNABERT2, wrapped.merge_and_unload().eval())
