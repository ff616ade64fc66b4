"""LoRA adapters in PEFT's format: checked key by key against the encoder they are put on, and merged into its weights."""

from __future__ import annotations

import hashlib
import re
import warnings
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

from torch import Tensor, nn

from dnafeat.encoder.models import adaptersettings
from dnafeat.encoder.models.checkpoint import BUNDLED, WEIGHTS, Checkpoint, find, key_faults
from dnafeat.encoder.models.fetch import fetch, is_hub_name
from dnafeat.encoder.models.weights import read_tensors
from dnafeat.errors import CheckpointError, UsageError, one_line
from dnafeat.untrusted import read_object

_CONFIG = "adapter_config.json"
_WEIGHTS = ("adapter_model.safetensors", "adapter_model.bin")
# Saved beside the adapter by classification tasks; they sit on top of the encoder and are no part of it.
_HEADS = ("classifier.", "score.", "pooler.", "bert.pooler.", "cls.", "weighting_layer.")


@dataclass(frozen=True)
class Adapter:
    """A folder on this machine with an adapter, under the name it was asked by; `revision` as of a `Checkpoint`."""

    name: str
    folder: Path
    revision: str | None = None

    @cached_property
    def weights(self) -> Path:
        return next(self.folder / file for file in _WEIGHTS if (self.folder / file).is_file())

    @cached_property
    def values(self) -> dict[str, Any]:
        """The content of `adapter_config.json`."""
        try:
            values = read_object(self.folder / _CONFIG)
            adaptersettings.check(values)
            return values
        except (OSError, ValueError) as error:
            raise CheckpointError(f"adapter {self.name}: {_CONFIG} is not valid: {one_line(error)}") from error

    @property
    def base(self) -> str | None:
        """Name of the model it was made for, with the revision where it says one."""
        name, revision = self.values.get("base_model_name_or_path"), self.values.get("revision")
        return (f"{name}@{revision}" if revision and is_hub_name(str(name)) and "@" not in name else str(name)) if name else None

    def fingerprint(self) -> str:
        """SHA-256 over the adapter's config and weights."""
        digest = hashlib.sha256()
        for file in (self.folder / _CONFIG, self.weights):
            digest.update(file.read_bytes())
        return digest.hexdigest()


def find_adapter(name: str, revision: str | None = None) -> Adapter:
    """The adapter in a folder, an `s3://` prefix or a hub repository. Raises UsageError where there is none."""
    found = Adapter(name, *fetch(name, "adapter", revision))
    missing = [file for file in (_CONFIG, _WEIGHTS[0]) if not (found.folder / file).is_file()]
    if _WEIGHTS[0] in missing and (found.folder / _WEIGHTS[1]).is_file():
        missing.remove(_WEIGHTS[0])
    if missing:
        raise UsageError(f"adapter {name} has no {' and no '.join(missing)}: give the folder that PEFT's save_pretrained wrote")
    return found


def resolve(
    model: str | None, adapter: str | None, revision: str | None = None, adapter_revision: str | None = None
) -> tuple[Checkpoint, Adapter | None]:
    """The base model and the adapter on it that two names mean.

    `model` may itself be the folder of an adapter; without a model it is the adapter's base, and without either the bundled encoder.

    Raises
    ------
    UsageError
        Something is not there, or the adapter was made for another model than the one named.
    """
    if adapter is None and model is not None and model not in BUNDLED:
        # Only an adapter has a revision of its own; `revision` is then its base's.
        found = find(model, adapter_revision or revision)
        if (found.folder / _CONFIG).is_file() and not any((found.folder / file).is_file() for file in WEIGHTS):
            model, adapter, adapter_revision = None, model, found.revision
        else:
            return found, None
    if adapter is None:
        return find(model or "dnafeat-mini"), None
    put_on = find_adapter(adapter, adapter_revision)
    if model is None:
        if put_on.base is None:
            raise UsageError(f"adapter {adapter} does not say which model it was made for: name it with --model")
        try:
            return find(put_on.base, revision), put_on
        except UsageError as error:
            raise UsageError(f"the base of adapter {adapter} is not found, name it with --model: {error}") from error
    base = (put_on.base or "").partition("@")[0]
    asked = model.partition("@")[0]
    # Two published names can be compared; a folder may hold a copy of anything, and is judged by its keys and shapes.
    if base != asked and all(name in BUNDLED or is_hub_name(name) for name in (base, asked)):
        raise UsageError(
            f"adapter {adapter} was made for {put_on.base} and not for {model}: leave --model out to use its own base"
        )
    return find(model, revision), put_on


def wrap(model: nn.Module, config: Any) -> Any:
    """`peft.get_peft_model`, without its warning that it asks transformers' models by an old name: that is nothing to the user."""
    import peft

    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "`is_gradient_checkpointing` is deprecated", FutureWarning)
        return peft.get_peft_model(model, config)


def attach(model: nn.Module, adapter: Adapter) -> nn.Module:
    """The encoder wrapped by peft with the adapter beside its weights, in eval mode.

    Raises
    ------
    CheckpointError
        A key of the adapter has no place in the model or a place got none, or a shape differs: it was made for another base.
    """
    import peft

    held = read_tensors(adapter.weights)
    if not isinstance(held, dict) or not all(isinstance(k, str) and isinstance(v, Tensor) for k, v in held.items()):
        raise CheckpointError(
            f"adapter {adapter.name}: {adapter.weights.name} holds no state dict: it should map names to tensors"
        )
    try:
        adaptersettings.check_ranks(adapter.values, max((min(v.shape, default=0) for v in held.values()), default=0))
        config = peft.PeftConfig.from_pretrained(str(adapter.folder))
        if not isinstance(config, peft.LoraConfig):
            raise CheckpointError(f"adapter {adapter.name} is of type {config.peft_type}, not LoRA, and cannot be merged")
        # The task type asks peft for a classification model around the encoder; here the encoder stands alone.
        config.task_type, config.modules_to_save, config.inference_mode = None, None, True
        config.base_model_name_or_path = None  # lineage, which peft would warn of
        # Patterns that do not match change the scale, and are no error.
        config.rank_pattern = {_bare(name): value for name, value in (config.rank_pattern or {}).items()}
        config.alpha_pattern = {_bare(name): value for name, value in (config.alpha_pattern or {}).items()}
        if isinstance(config.target_modules, str):
            config.target_modules = _bare(config.target_modules)
        elif config.target_modules is not None:
            config.target_modules = [_bare(name) for name in config.target_modules]
        wrapped = wrap(model, config)
    except CheckpointError:
        raise
    except Exception as error:  # whatever the library makes of settings that it did not write
        raise CheckpointError(f"adapter {adapter.name} does not fit this encoder: {one_line(error)}") from error
    own: dict[str, Tensor] = {}
    for key, value in held.items():
        bare = key.removeprefix("base_model.model.")
        if bare.startswith(_HEADS):
            continue
        name = "base_model.model." + bare.removeprefix("bert.")
        if name in own:
            raise CheckpointError(
                f"adapter {adapter.name} has {bare.removeprefix('bert.')} twice, with the prefix 'bert.' and without it"
            )
        own[name] = value
    faults = key_faults(peft.get_peft_model_state_dict(wrapped), own)
    if faults:
        raise CheckpointError(
            f"adapter {adapter.name} was not made for this encoder: {'; '.join(faults[:3])} ({len(faults)} in all)"
        )
    peft.set_peft_model_state_dict(wrapped, own)
    return wrapped.eval()


def _bare(pattern: str) -> str:
    """A module's name, or a pattern of names, without the `bert.` that stands before the encoder in a model with a head."""
    return re.sub(r"^(\^?)bert\\?\.", r"\1", pattern)


def merge(model: nn.Module, adapter: Adapter) -> nn.Module:
    """The encoder with the adapter merged into its weights, in eval mode. Raises as `attach` does."""
    merged: Any = attach(model, adapter)
    return merged.merge_and_unload().eval()
