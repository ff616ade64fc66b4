"""Artifact layout of fine-tuning: a folder or prefix with all that is needed to predict as the training process did.

dnafeat.json                                  what it is: base, labels, settings, metrics, fingerprints of the data, versions
adapter_config.json, adapter_model.safetensors   method lora: PEFT's format, keys of the bare encoder
config.json, model.safetensors                method full: the whole encoder
head.safetensors                              classifier, with its pooler or projector
projector.json, projector.safetensors         head projector: the map to 512 dimensions alone, which `embed --projector` takes
tokenizer.json, vocab.txt, tokenizer_config.json   as the base has them
history.json, curves.png, confusion-SPLIT.png  how training went
"""

from __future__ import annotations

import json
import tempfile
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file
from torch import nn

from dnafeat import storage
from dnafeat.encoder.config import EncodingConfig
from dnafeat.encoder.models.checkpoint import Checkpoint, key_faults
from dnafeat.encoder.models.fetch import fetch, is_hub_name
from dnafeat.encoder.models.weights import read_tensors
from dnafeat.encoder.projection import Projection
from dnafeat.encoder.source import Source
from dnafeat.errors import CheckpointError, UsageError, one_line
from dnafeat.finetune.labels import Labels
from dnafeat.finetune.network import FineTuned, Head, HeadShape, TokenHead
from dnafeat.training import figures as report
from dnafeat.training.artifact import ABOUT, ALIGNMENT, put, read, write_adapter

_TOKENIZER = ("tokenizer.json", "vocab.txt", "tokenizer_config.json")


def write(uri: str, model: FineTuned, source: Source, about: Mapping[str, Any], result: Mapping[str, Any]) -> None:
    """Write an artifact, `dnafeat.json` last: without it there is none."""
    with tempfile.TemporaryDirectory(prefix="dnafeat-") as scratch:
        folder = Path(scratch)
        if about["method"] == "lora":
            write_adapter(folder, model.encoder, source)
        elif about["method"] == "full":
            _write_encoder(folder, model.encoder, source)
        head = {name: value.detach().contiguous() for name, value in model.head.state_dict().items()}
        save_file(head, folder / "head.safetensors")
        if isinstance(model.head, Head) and (projector := model.head.projector) is not None:
            Projection(projector, view=model.head.shape.views, about={"kind": "mlp"}).save(str(folder))
        for name in _TOKENIZER:
            if (source.checkpoint.folder / name).is_file():
                (folder / name).write_bytes((source.checkpoint.folder / name).read_bytes())
        (folder / "history.json").write_text(json.dumps(result["history"], indent=1))
        names = ("mcc", "f1", "accuracy") if about["labels"]["task"] != "regression" else ("spearman", "pearson", "r2")
        (folder / "curves.png").write_bytes(report.curves(result["history"], names))
        for split, matrix in result["confusion"].items():
            title = f"{split}: {sum(map(sum, matrix)):,} {'bases' if about['labels']['task'] == 'token' else 'sequences'}"
            (folder / f"confusion-{split}.png").write_bytes(report.confusion(matrix, about["labels"]["names"], title))
        for file in sorted(folder.iterdir()):
            put(storage.join(uri, file.name), file.read_bytes())
    put(storage.join(uri, ABOUT), json.dumps(about, indent=1).encode())


def _write_encoder(folder: Path, encoder: nn.Module, source: Source) -> None:
    """Write the encoder's weights, keys without a prefix, and the base's config, which still describes it."""
    state: dict[str, torch.Tensor] = {name: value.detach().cpu().contiguous() for name, value in encoder.state_dict().items()}
    save_file(state, folder / "model.safetensors", metadata={"format": "pt"})
    (folder / "config.json").write_text(json.dumps(source.checkpoint.values, indent=2))


@dataclass(frozen=True)
class Artifact:
    """An artifact on this machine.

    Attributes
    ----------
    about : dict
        `dnafeat.json`.
    folder : Path
    """

    name: str
    about: Mapping[str, Any]
    folder: Path
    revision: str | None

    @property
    def labels(self) -> Labels:
        return Labels.from_dict(self.about["labels"])

    def head(self) -> Head | TokenHead:
        """Load the trained head on the CPU, in eval mode."""
        shape = self.about["head"]
        hidden = self.about["base"]["hidden_size"]

        def build() -> Head | TokenHead:
            return Head(HeadShape(**shape)) if shape else TokenHead(hidden, self.labels.width, 0.0)

        file = self.folder / "head.safetensors"
        try:
            held = read_tensors(file)
            # Shapes alone at first: what dnafeat.json says may be more than the memory holds.
            with torch.device("meta"):
                faults = key_faults(build().state_dict(), held)
        except (TypeError, ValueError, RuntimeError, AttributeError) as error:
            raise CheckpointError(f"{file} does not fit {ABOUT}: {one_line(error)}") from error
        if faults:
            raise CheckpointError(f"{file} does not fit {ABOUT}: {'; '.join(faults[:3])}")
        head = build()
        head.load_state_dict(held)
        return head.eval()

    def encoding(self, model: str | None = None) -> EncodingConfig:
        """Return base, adapter and settings that give the vectors its head was trained on.

        Parameters
        ----------
        model : str | None
            Where the base is now, for methods lora and probe; None: where it was in training.
        """
        method, base = self.about["method"], self.about["base"]
        name = model or base["model"]
        if model is None and base["revision"] and is_hub_name(name):
            name = f"{name.partition('@')[0]}@{base['revision']}"
        return EncodingConfig.make(
            {
                **self.about["encoding"],
                "model": self.name if method == "full" else name,
                "adapter": self.name if method == "lora" else None,
            }
        )

    def check_base(self, base: Checkpoint) -> None:
        """Raise CheckpointError where a model is not the one that the artifact was trained on."""
        trained = self.about["base"]
        if trained["weights_sha256"] != base.weights_sha256:
            raise CheckpointError(
                f"{self.name} was trained on {trained['model']} with other weights than {base.name} has now (sha256 "
                f"{trained['weights_sha256'][:12]}… and {base.weights_sha256[:12]}…): bring those back, or say with --model where they are"
            )
        for name in _TOKENIZER:
            own, other = self.folder / name, base.folder / name
            if own.is_file() and not (other.is_file() and other.read_bytes() == own.read_bytes()):
                raise CheckpointError(
                    f"{self.name} was trained with another tokenizer than {base.name} has now: {name} differs; bring that back, or say "
                    f"with --model where the base is"
                )


def load(name: str, revision: str | None = None) -> Artifact:
    """Load the artifact in a folder or an `s3://` prefix, fetched once a machine. Raises UsageError where there is none."""
    folder, pin = fetch(name, "artifact", revision)
    about = read(str(folder))
    if about is None:
        raise UsageError(f"{name} holds no {ABOUT}: give the folder that dnafeat finetune wrote")
    if about.get("kind") == ALIGNMENT:
        raise UsageError(f"{name} is an alignment and predicts no labels: give the folder that dnafeat finetune wrote")
    found = Artifact(name, about, folder, pin)
    try:
        found.labels, found.encoding(), about["method"], about["head"], about["encoding"]["precision"]
        about["base"]["model"], about["base"]["weights_sha256"][:1], about["base"]["hidden_size"] + 1
    except (UsageError, LookupError, TypeError, ValueError, AttributeError) as error:
        reason = f"{error} is missing" if isinstance(error, KeyError) else one_line(error)
        raise UsageError(f"{name}: {ABOUT} is not as dnafeat finetune wrote it: {reason}") from error
    return found
