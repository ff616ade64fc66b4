"""Checkpoint, adapter and projector that a configuration names."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

from dnafeat import storage
from dnafeat.declarations import shown
from dnafeat.encoder.config import EncodingConfig
from dnafeat.encoder.models.adapter import Adapter, resolve
from dnafeat.encoder.models.checkpoint import BUNDLED, Checkpoint
from dnafeat.encoder.models.fetch import is_hub_name
from dnafeat.encoder.models.tokenizers import Tokenizer
from dnafeat.encoder.projection import PROJECTOR_FILE, Projection, load_projector, read_projector
from dnafeat.errors import CheckpointError, UsageError, one_line
from dnafeat.untrusted import read_object

_MOST_KMER = 1_000


def anywhere(name: str) -> str:
    """The name of a model, an adapter or an artifact as it means the same in every working folder: local paths are absolute."""
    return name if name in BUNDLED or is_hub_name(name) else storage.absolute(name)


def portable(config: EncodingConfig) -> EncodingConfig:
    """The same settings for workers, whose working folder is another one."""
    names = {name: getattr(config, name) for name in ("model", "adapter")}
    absolute = {name: anywhere(value) for name, value in names.items() if value is not None}
    if config.projector is not None and Path(config.projector).exists():
        absolute["projector"] = storage.absolute(config.projector)
    return config.replace(**absolute)


@dataclass(frozen=True)
class Source:
    """The files of an encoder on this machine, and what pins them: a checkpoint and the adapter on it, if any."""

    checkpoint: Checkpoint
    adapter: Adapter | None

    @classmethod
    def find(cls, config: EncodingConfig, pins: tuple[str | None, str | None] = (None, None)) -> Source:
        return cls(*resolve(config.model, config.adapter, *pins))

    @cached_property
    def trained(self) -> dict[str, Any]:
        """`dnafeat.json` of the fine-tuning run that made adapter or model; empty where it came from elsewhere."""
        file = (self.adapter or self.checkpoint).folder / "dnafeat.json"
        try:
            values = read_object(file) if file.is_file() else {}
        except (OSError, ValueError) as error:
            raise CheckpointError(f"{file} is not valid JSON: {one_line(error)}") from error
        for name in ("base", "encoding"):
            if not isinstance(values.get(name, {}), dict):
                raise CheckpointError(f"{file} says {name} is {shown(values[name])}: it should be an object, as dnafeat wrote it")
        encoding = values.get("encoding", {})
        kmer, special = encoding.get("kmer"), encoding.get("special_tokens")
        if kmer is not None and (type(kmer) is not int or not 0 <= kmer <= _MOST_KMER):
            raise CheckpointError(f"{file} says kmer is {shown(kmer)}: it should be a whole number from 0 to {_MOST_KMER}")
        if special is not None and type(special) is not bool:
            raise CheckpointError(f"{file} says special_tokens is {shown(special)}: it should be true or false")
        base = values.get("base", {}).get("weights_sha256")
        if self.adapter is not None and base not in (None, self.checkpoint.weights_sha256):
            raise CheckpointError(
                f"adapter {self.adapter.name} was trained on {values['base'].get('model')} with other weights than "
                f"{self.checkpoint.name} has (sha256 {str(base)[:12]}… and {self.checkpoint.weights_sha256[:12]}…)"
            )
        return values

    def kmer(self, config: EncodingConfig) -> int:
        """Length of the k-mers before BPE: as asked, else as it was trained. Raises UsageError where the two differ."""
        before = self.trained.get("encoding", {}).get("kmer")
        if config.kmer is not None and before is not None and config.kmer != before:
            raise UsageError(
                f"kmer is {config.kmer} and {(self.adapter or self.checkpoint).name} was trained with {before}: leave --kmer out"
            )
        return (before or 0) if config.kmer is None else config.kmer

    def tokenizer(self, config: EncodingConfig) -> Tokenizer:
        return self.checkpoint.fitting_tokenizer(self.kmer(config))

    def special_tokens(self, config: EncodingConfig) -> bool:
        """Return whether mean and max count [CLS] and [SEP]: as asked, else as it was trained, else as the model's authors did."""
        if config.special_tokens is not None:
            return config.special_tokens
        before = self.trained.get("encoding", {}).get("special_tokens")
        return self.checkpoint.special_tokens_pooled if before is None else before

    def projector(self, config: EncodingConfig) -> tuple[str, Projection]:
        """The map to 512 dimensions and where it is from: as asked, else the one trained with it, else `random@0`."""
        hidden = self.checkpoint.config().hidden_size
        own = self.adapter or self.checkpoint
        name = config.projector
        if name is None:
            name = own.name if (own.folder / PROJECTOR_FILE).is_file() else "random@0"
        if name == own.name:
            return name, read_projector(own.folder, hidden)
        return name, load_projector(name, hidden)

    @property
    def pins(self) -> tuple[str | None, str | None]:
        """Revisions of model and adapter: with them another process gets the same files, without asking over the network again."""
        return self.checkpoint.revision, self.adapter.revision if self.adapter else None
