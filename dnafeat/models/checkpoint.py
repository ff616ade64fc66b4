"""Finds a checkpoint (bundled name, local folder, hub name), reads it without running any code in it, and checks it key by key."""

from __future__ import annotations

import hashlib
import json
import os
import re
from collections.abc import Mapping
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

import safetensors.torch
import torch
from torch import Tensor

from dnafeat.errors import CheckpointError, UsageError, one_line
from dnafeat.models import dnabert2
from dnafeat.tokenizers import BPETokenizer

BUNDLED = {"dnafeat-mini": Path(__file__).parent.parent / "bundled" / "dnafeat-mini"}

_WEIGHTS = ("model.safetensors", "pytorch_model.bin")
_HUB_NAME = re.compile(r"[\w.-]+/[\w.-]+(@[\w.-]+)?")
_SIZES = ("vocab_size", "hidden_size", "num_hidden_layers", "num_attention_heads", "intermediate_size")
# Heads that stand beside the encoder in published files; the encoder neither needs them nor trusts them.
_HEADS = ("cls.", "classifier.", "pooler.", "bert.pooler.")


@dataclass(frozen=True)
class Checkpoint:
    """A folder on this machine with weights, config and tokenizer, and what names its numbers.

    Attributes
    ----------
    name : str
        As the user asked for it.
    revision : str | None
        The hub's commit, where it came from the hub.
    """

    name: str
    folder: Path
    revision: str | None = None

    @property
    def weights(self) -> Path:
        for file in _WEIGHTS:
            if (self.folder / file).is_file():
                return self.folder / file
        raise CheckpointError(f"{self.folder} has neither {' nor '.join(_WEIGHTS)}: is it the folder of a model?")

    def config(self) -> dnabert2.Config:
        """The architecture's own fields of `config.json`. Raises CheckpointError when the file is missing, broken or short of one."""
        file = self.folder / "config.json"
        try:
            values = json.loads(file.read_text())
        except FileNotFoundError:
            raise CheckpointError(f"{self.folder} has no config.json: is it the folder of a model?") from None
        except ValueError as error:
            raise CheckpointError(f"{file} is not valid JSON: {one_line(error)}") from error
        if not isinstance(values, dict):
            raise CheckpointError(f"{file} holds no settings: it should be one JSON object")
        known = {field.name for field in fields(dnabert2.Config)}
        for name in _SIZES:
            size = values.get(name)
            if type(size) is not int or size < 1:
                told = f"says {name} is {size!r}" if name in values else f"lacks {name}"
                raise CheckpointError(f"{file} {told}: DNABERT-2 needs a whole number above 0 there")
        config = dnabert2.Config(**{key: value for key, value in values.items() if key in known})
        if config.hidden_size % config.num_attention_heads:
            raise CheckpointError(
                f"{file}: hidden_size {config.hidden_size} does not divide into {config.num_attention_heads} attention heads"
            )
        return config

    def tokenizer(self) -> BPETokenizer:
        return BPETokenizer(self.folder / "tokenizer.json")

    def weights_sha256(self) -> str:
        """SHA-256 of the weight file, as `sha256sum` and the hub give it; no model is built for it."""
        with self.weights.open("rb") as file:
            return hashlib.file_digest(file, "sha256").hexdigest()

    def state_dict(self) -> dict[str, Tensor]:
        """The tensors of the weight file, in the precision they are stored in. Pickles are read with `weights_only=True`."""
        state = read_tensors(self.weights)
        if not isinstance(state, dict) or not all(isinstance(k, str) and isinstance(v, Tensor) for k, v in state.items()):
            raise CheckpointError(f"{self.weights} holds no state dict: it should map names to tensors")
        return state


def read_tensors(file: Path) -> Any:
    """What a `.safetensors` or a pickled weight file holds. No code in it is run. Raises CheckpointError when it cannot be read."""
    try:
        if file.suffix == ".safetensors":
            return safetensors.torch.load_file(file)
        return torch.load(file, map_location="cpu", weights_only=True)
    except Exception as error:  # a file made to break the unpickler can raise anything
        raise CheckpointError(f"{file} cannot be read as plain weights: {one_line(error)}") from error


def find(name_or_folder: str) -> Checkpoint:
    """The checkpoint behind a bundled name, a local folder, or a hub name `owner/model[@revision]` (fetched once, then cached).

    Raises
    ------
    UsageError
        There is no such model, or the hub cannot be reached.
    """
    if name_or_folder in BUNDLED:
        return Checkpoint(name_or_folder, BUNDLED[name_or_folder])
    # os.path and not Path: names of unknown users, empty and overlong ones are no folders here, where Path raises or says otherwise.
    folder = os.path.expanduser(name_or_folder)  # noqa: PTH111
    if os.path.isdir(folder):  # noqa: PTH112
        return Checkpoint(name_or_folder, Path(folder).resolve())
    if not _HUB_NAME.fullmatch(name_or_folder) or os.path.exists(folder):  # noqa: PTH110
        raise UsageError(
            f"model {name_or_folder!r} is neither a folder, nor a bundled encoder ({', '.join(BUNDLED)}), nor a hub name like owner/model"
        )
    return _from_hub(name_or_folder)


def _from_hub(name: str) -> Checkpoint:
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import LocalEntryNotFoundError

    repository, _, revision = name.partition("@")
    patterns = ["config.json", "tokenizer*.json", "vocab.txt"]
    try:
        folder = Path(snapshot_download(repository, revision=revision or None, allow_patterns=[*patterns, "model.safetensors"]))
        if not (folder / "model.safetensors").is_file():
            folder = Path(snapshot_download(repository, revision=folder.name, allow_patterns=[*patterns, "pytorch_model.bin"]))
    except LocalEntryNotFoundError as error:
        raise UsageError(
            f"model {name!r} is not a folder here, and the hub cannot be reached to fetch it: give a local folder with config.json, "
            f"tokenizer.json and the weights, or use dnafeat-mini"
        ) from error
    except Exception as error:  # the hub's client lets its transport's own errors through
        raise UsageError(f"model {name!r} is not a folder here, and the hub does not give it: {one_line(error)}") from error
    return Checkpoint(name, folder, revision=folder.name)


def encoder_weights(state: dict[str, Tensor], source: Path) -> dict[str, Tensor]:
    """The encoder's own entries of a published state dict: heads left out, the `bert.` prefix taken off where there is one."""
    own = {key: value for key, value in state.items() if not key.startswith(_HEADS)}
    prefixed = [key for key in own if key.startswith("bert.")]
    if prefixed and len(prefixed) != len(own):
        bare = sorted(set(own) - set(prefixed))
        raise CheckpointError(f"{source}: some encoder keys start with 'bert.' and some do not, for instance {bare[0]!r}")
    return {key.removeprefix("bert."): value for key, value in own.items()}


def key_faults(wanted: Mapping[str, Tensor], given: Mapping[str, Tensor]) -> list[str]:
    """What keeps `given` from filling `wanted`, key by key; empty when it fits."""
    missing = [f"missing {key}" for key in wanted if key not in given]
    unexpected = [f"unexpected {key}" for key in given if key not in wanted]
    reshaped = [
        f"{key} is {tuple(given[key].shape)} and should be {tuple(wanted[key].shape)}"
        for key in wanted
        if key in given and given[key].shape != wanted[key].shape
    ]
    return missing + unexpected + reshaped


def load_checked(module: torch.nn.Module, state: dict[str, Tensor], source: Path) -> None:
    """Fills `module` with `state` in float32. Refuses a state dict with a key missing, unexpected or of another shape."""
    faults = key_faults(module.state_dict(), state)
    if faults:
        shown = "; ".join(faults[:5]) + (f"; and {len(faults) - 5} more" if len(faults) > 5 else "")
        raise CheckpointError(f"{source} is not a DNABERT-2 checkpoint of the shape its config.json says: {shown}")
    module.load_state_dict({key: value.float() for key, value in state.items()})


def load_encoder(checkpoint: Checkpoint) -> dnabert2.DNABERT2:
    """The encoder in float32 on the CPU, in eval mode."""
    model = dnabert2.DNABERT2(checkpoint.config())
    load_checked(model, encoder_weights(checkpoint.state_dict(), checkpoint.weights), checkpoint.weights)
    return model.eval()


def load_model(name_or_folder: str) -> dnabert2.DNABERT2:
    """The encoder of a bundled name, a local folder or a hub name, as a torch module in float32 on the CPU, in eval mode.

    Called with `input_ids`, `attention_mask` and optional `token_type_ids`, integers of shape (batch, tokens), it answers an
    `EncoderOutput` whose `last_hidden_state` is (batch, tokens, hidden_size), zeros where masked. Raises CheckpointError or
    UsageError when there is no such model or its weights do not fit.
    """
    return load_encoder(find(name_or_folder))
