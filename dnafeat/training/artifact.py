"""`dnafeat.json` and adapter files, which the artifacts of fine-tuning and alignment share."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from safetensors.torch import save_file

from dnafeat import storage
from dnafeat.encoder.models.checkpoint import BUNDLED, Checkpoint
from dnafeat.encoder.models.fetch import is_hub_name
from dnafeat.encoder.source import Source
from dnafeat.errors import UsageError, one_line
from dnafeat.untrusted import parse_object, read_object

ABOUT = "dnafeat.json"
# What `kind` says in an artifact of `dnafeat align`.
ALIGNMENT = "alignment"


class TrainingSummary(dict[str, Any]):
    """Summary of a training command: the artifact's `dnafeat.json`, with `already_trained` and `artifact`, its folder or prefix."""


def read(uri: str) -> dict[str, Any] | None:
    """Read `dnafeat.json` of an artifact; None where there is none. Raises UsageError when it cannot be read."""
    fs, path = storage.filesystem(storage.join(uri, ABOUT))
    try:
        if not fs.exists(path):
            return None
        if storage.is_local(uri):
            return read_object(Path(path))
        with fs.open(path, "rb") as file:
            return parse_object(file.read())
    except (*storage.STORAGE_ERRORS, ValueError) as error:
        raise storage.fault(error, UsageError)(f"{storage.join(uri, ABOUT)} cannot be read: {one_line(error)}") from error


def trained_before(output: str, digest: str, notes: Sequence[str], say: Callable[[str], None]) -> dict[str, Any] | None:
    """Return `dnafeat.json` of the run that `digest` names if it has ended already, else None after reporting `notes`.

    Raises UsageError where another run's artifact is there, or where nothing can be written.
    """
    place = storage.absolute(output)
    known = read(place)
    if known is None:
        storage.check_writable(place)
        for note in notes:
            say(note)
        return None
    if known.get("digest") != digest:
        raise UsageError(f"{output} holds the artifact of another run, {known.get('digest')}: give another --output")
    say(f"{output} holds this run's artifact already: nothing to train")
    return known | {"already_trained": True}


def base_name(base: Checkpoint) -> str:
    """Return the name of a base model, by which it is found from any folder."""
    lies_here = base.name not in BUNDLED and storage.is_local(base.name) and not is_hub_name(base.name)
    return str(base.folder) if lies_here else base.name


def put(uri: str, content: bytes) -> None:
    """Write one file of an artifact, whole or not at all."""
    storage.write_whole(uri, lambda out: out.write(content))


def write_adapter(folder: Path, encoder: Any, source: Source) -> None:
    """Write an encoder's LoRA matrices in PEFT's format, with the name of their base model."""
    import peft

    config = encoder.peft_config["default"]
    state = peft.get_peft_model_state_dict(encoder)
    config.inference_mode = True
    # Named here and not before: peft takes the name for a model of its own to load.
    name = base_name(source.checkpoint)
    config.base_model_name_or_path = name.partition("@")[0] if is_hub_name(name) else name
    config.revision = source.checkpoint.revision
    config.save_pretrained(str(folder))
    save_file({name: value.detach().cpu().contiguous() for name, value in state.items()}, folder / "adapter_model.safetensors")
