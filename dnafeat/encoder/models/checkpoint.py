"""Read a model's folder without running any code in it, recognise its architecture, and check it key by key."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Mapping
from contextlib import nullcontext
from dataclasses import MISSING, dataclass, fields, replace
from functools import cached_property
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

from dnafeat.declarations import shown
from dnafeat.encoder.models import vocabularies
from dnafeat.encoder.models.base import Config
from dnafeat.encoder.models.fetch import fetch
from dnafeat.encoder.models.heads import MaskedLM, SequenceClassifier, WeightedClassifier
from dnafeat.encoder.models.registry import FAMILIES, Family, recognise
from dnafeat.encoder.models.tokenizers import Tokenizer
from dnafeat.encoder.models.weights import read_tensors, tensor_names
from dnafeat.errors import CheckpointError, UsageError, one_line
from dnafeat.untrusted import read_object

BUNDLED = {"dnafeat-mini": Path(__file__).parents[2] / "bundled" / "dnafeat-mini"}

WEIGHTS = ("model.safetensors", "pytorch_model.bin")
# What may stand before an encoder's keys: published files have the first or none, ProkBERT's older classifiers the second.
_PREFIXES = ("bert.", "base_model.")
# Modules beside the encoder in published files; the encoder neither needs them nor trusts them.
_HEADS = ("cls.", "classifier.", "pooler.", "weighting_layer.")
# Older versions of transformers stored counting numbers as if they were weights.
_IGNORED = ("embeddings.position_ids", "embeddings.token_type_ids")
# SHA-256 of the published weights of DNABERT-S, whose architecture is DNABERT-2's and whose pooling is not.
_DNABERT_S = "f3cfc3d0541859df64759e758cc4bc40fe1d5760799a7d098a9f9f09501c1e5f"

# Bounds up to which shapes can be laid out without memory and compared with those of the weights.
_MOST_ROWS = 10**13
_MOST = {"hidden_size": 65_536, "num_hidden_layers": 1_000, "num_attention_heads": 65_536, "type_vocab_size": 65_536}

State = dict[str, Tensor]


@dataclass(frozen=True)
class Checkpoint:
    """A folder on this machine with weights, config and tokenizer, and what names its numbers.

    Attributes
    ----------
    name : str
        As the user asked for it.
    revision : str | None
        The hub's commit or a digest of an object-storage listing; None for a local folder.
    """

    name: str
    folder: Path
    revision: str | None = None

    @cached_property
    def weights(self) -> Path:
        for file in WEIGHTS:
            if (self.folder / file).is_file():
                return self.folder / file
        raise CheckpointError(f"{self.folder} has neither {' nor '.join(WEIGHTS)}: is it the folder of a model?")

    @cached_property
    def values(self) -> dict[str, Any]:
        """The content of `config.json`. Raises CheckpointError when it is missing or broken."""
        file = self.folder / "config.json"
        try:
            return read_object(file)
        except FileNotFoundError:
            raise CheckpointError(f"{self.folder} has no config.json: is it the folder of a model?") from None
        except (OSError, ValueError) as error:
            raise CheckpointError(f"{file} is not valid JSON: {one_line(error)}") from error

    @cached_property
    def names(self) -> list[str]:
        """The names that the weight file holds."""
        return tensor_names(self.weights)

    @cached_property
    def family(self) -> Family:
        """The architecture that the weights' names speak for. Raises CheckpointError where they speak for none."""
        names = self.names
        family = recognise(names)
        if family is None:
            known = ", ".join(one.name for one in FAMILIES)
            raise CheckpointError(
                f"{self.weights} holds no encoder of a known architecture ({known}): "
                f"its {len(names)} keys are like {min(names, default='none')!r}"
            )
        return family

    def config(self) -> Config:
        """The architecture's own fields of `config.json`. Raises CheckpointError when the file is missing, broken or short of one."""
        file, values, family = self.folder / "config.json", self.values, self.family
        chosen: dict[str, Any] = {}
        for field in fields(family.config):
            if field.name in values:
                chosen[field.name] = _number(file, field.name, values[field.name], whole=field.type == "int")
            elif field.default is MISSING:
                raise CheckpointError(f"{file} lacks {field.name}: {family.name} needs a whole number above 0 there")
        config = family.config(**chosen)
        # Each layer has tensors of its own, so that a config cannot ask for more of them than the file has.
        if config.num_hidden_layers > len(self.names):
            raise CheckpointError(
                f"{file} says num_hidden_layers is {config.num_hidden_layers:,}, and {self.weights.name} holds {len(self.names):,} tensors"
            )
        if config.hidden_size % config.num_attention_heads:
            raise CheckpointError(
                f"{file}: hidden_size {config.hidden_size} does not divide into {config.num_attention_heads} attention heads"
            )
        if values.get("hidden_act", "gelu") != "gelu":
            raise CheckpointError(
                f"{file} says hidden_act {shown(values['hidden_act'])}: {family.name} is computed with gelu alone"
            )
        for name, only in (("position_embedding_type", family.position_embedding), ("model_type", family.model_type)):
            if only is not None and values.get(name) not in (None, only):
                raise CheckpointError(f"{file} says {name} {shown(values[name])}: {family.name} is computed with {only} alone")
        return config

    def tokenizer(self, kmer: int = 0) -> Tokenizer:
        # ProkBERT-mini-long's shift stands in its files now and did not in older ones.
        return vocabularies.load(self.folder, kmer=kmer, shift=2 if self.is_called("mini-long") else None)

    def fitting_tokenizer(self, kmer: int = 0) -> Tokenizer:
        """The same, checked against the model's embedding. Raises CheckpointError where it has an id that the embedding lacks."""
        tokenizer, rows = self.tokenizer(kmer), self.config().vocab_size
        if tokenizer.vocab_size > rows or tokenizer.largest_id >= rows:
            raise CheckpointError(
                f"{self.folder}: its tokenizer has {tokenizer.vocab_size} entries with ids up to {tokenizer.largest_id}, and config.json "
                f"says vocab_size {rows}: they do not belong together"
            )
        return tokenizer

    def is_called(self, part: str) -> bool:
        """Return whether the name it was asked by, or the one in its config, ends so."""
        names = [self.name]
        if (self.folder / "config.json").is_file():
            names.append(str(self.values.get("_name_or_path", "")))
        return any(name.partition("@")[0].rstrip("/").casefold().endswith(part.casefold()) for name in names)

    @property
    def special_tokens_pooled(self) -> bool:
        """Return whether its mean counts [CLS] and [SEP] by default: DNABERT-S was trained so, no other was."""
        return self.is_called("DNABERT-S") or self.weights_sha256 == _DNABERT_S

    @cached_property
    def weights_sha256(self) -> str:
        """SHA-256 of the weight file, as `sha256sum` and the hub give it; no model is built for it."""
        with self.weights.open("rb") as file:
            return hashlib.file_digest(file, "sha256").hexdigest()

    def state(self) -> tuple[State, State]:
        """The tensors of the weight file in the precision they are stored in: the encoder's without a prefix, and the heads'."""
        whole = read_tensors(self.weights)
        if not isinstance(whole, dict) or not all(isinstance(k, str) and isinstance(v, Tensor) for k, v in whole.items()):
            raise CheckpointError(f"{self.weights} holds no state dict: it should map names to tensors")
        return split(whole, self.weights)


def _number(file: Path, name: str, value: Any, *, whole: bool) -> int | float:
    if whole and (type(value) is not int or value < 1):
        raise CheckpointError(f"{file} says {name} is {shown(value)}: it should be a whole number above 0")
    if whole and value > (most := _MOST.get(name, _MOST_ROWS)):
        raise CheckpointError(f"{file} says {name} is {shown(value)}: more than {most:,} are not read here")
    if not whole and (isinstance(value, bool) or not isinstance(value, int | float) or not 0 <= value < 1):
        raise CheckpointError(f"{file} says {name} is {shown(value)}: it should be a number from 0 to below 1")
    return value


def find(name: str, revision: str | None = None) -> Checkpoint:
    """The checkpoint behind a bundled name, a folder, an `s3://` prefix or a hub name `owner/model[@revision]`, fetched where needed.

    Raises
    ------
    UsageError
        There is no such model, or its place cannot be reached.
    """
    if not isinstance(name, str):
        raise UsageError(f"a model is named by a text, a folder or a name, and not by {shown(name)}")
    if name in BUNDLED:
        return Checkpoint(name, BUNDLED[name])
    return Checkpoint(name, *fetch(name, "model", revision))


def split(whole: State, source: Path) -> tuple[State, State]:
    """A published state dict as the encoder's entries without prefix, and those of the heads with the pooler among them."""
    prefix = next((prefix for prefix in _PREFIXES if any(key.startswith(prefix) for key in whole)), "")
    encoder: State = {}
    heads: State = {}
    for key, value in whole.items():
        bare = key.removeprefix(prefix)
        if bare.startswith(_HEADS):
            if bare in heads:
                raise CheckpointError(f"{source} holds {bare} twice, with {prefix!r} before it and without")
            heads[bare] = value
        elif prefix and bare == key:
            raise CheckpointError(f"{source}: some encoder keys start with {prefix!r} and some do not, for instance {key!r}")
        elif bare not in _IGNORED:
            encoder[bare] = value
    return encoder, heads


def key_faults(wanted: Mapping[str, Tensor], given: Mapping[str, Tensor]) -> list[str]:
    """List what keeps `given` from filling `wanted`, key by key; empty when it fits."""
    missing = [f"missing {key}" for key in wanted if key not in given]
    unexpected = [f"unexpected {key}" for key in given if key not in wanted]
    reshaped = [
        f"{key} is {tuple(given[key].shape)} and should be {tuple(wanted[key].shape)}"
        for key in wanted
        if key in given and given[key].shape != wanted[key].shape
    ]
    return missing + unexpected + reshaped


def check(module: nn.Module, state: State, source: Path, what: str) -> None:
    """Refuse a state dict with a key missing, unexpected or of another shape."""
    faults = key_faults(module.state_dict(), state)
    if faults:
        shown = "; ".join(faults[:5]) + (f"; and {len(faults) - 5} more" if len(faults) > 5 else "")
        raise CheckpointError(f"{source} is not a {what} of the shape its config.json says: {shown}")


def load_checked(module: nn.Module, state: State, source: Path, what: str) -> None:
    """Fill `module` with `state` in float32. Refuses what `check` refuses."""
    check(module, state, source, what)
    module.load_state_dict({key: value.float() for key, value in state.items()})


class _Unfilled(TorchFunctionMode):
    """Leave parameters as memory has them, where a checkpoint fills them all: random numbers for none cost a second in a large model,
    and on the meta device torch loads its compiler for them."""

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        if getattr(func, "__module__", None) == "torch.nn.init":
            return kwargs["tensor"] if "tensor" in kwargs else args[0]
        return func(*args, **kwargs)


def load_encoder(checkpoint: Checkpoint, *, dropout: float | None = None, initialise: bool = False) -> nn.Module:
    """The encoder in float32 on the CPU, in eval mode.

    Parameters
    ----------
    dropout : float | None
        For training, in place of what the config says.
    initialise : bool
        Draw random weights before they are filled. Fresh weights that training draws afterwards, of a head or of LoRA, depend on it:
        without it a seed would give other ones than in earlier releases.
    """
    return _filled(checkpoint, checkpoint.state()[0], dropout, initialise=initialise)


def _filled(checkpoint: Checkpoint, state: State, dropout: float | None = None, *, initialise: bool = False) -> nn.Module:
    family, config = checkpoint.family, checkpoint.config()
    if dropout is not None:
        own = {field.name for field in fields(config)}
        off: dict[str, Any] = dict.fromkeys({"hidden_dropout_prob", "attention_probs_dropout_prob"} & own, dropout)
        config = replace(config, **off)
    what = f"{family.name} checkpoint"
    # Shapes alone at first: a wrong size in the config may be more than the memory holds.
    with _Unfilled(), torch.device("meta"):
        check(family.build(config), state, checkpoint.weights, what)
    with nullcontext() if initialise else _Unfilled():
        model = family.build(config)
    load_checked(model, state, checkpoint.weights, what)
    return model.eval()


def load_masked_lm(checkpoint: Checkpoint) -> MaskedLM:
    """The encoder with its masked-LM head; the head is checked like the encoder, its decoder being the word embedding."""
    state, heads = checkpoint.state()
    model = MaskedLM(_filled(checkpoint, state))
    given = {key.removeprefix("cls."): value for key, value in heads.items() if key.startswith("cls.predictions.")}
    # The bias has two names in BERT's files, and the decoder's weight may or may not be written down once more.
    twice = {"predictions.decoder.weight": state["embeddings.word_embeddings.weight"]}
    if "predictions.bias" in given:
        twice["predictions.decoder.bias"] = given.pop("predictions.bias")
    for key, value in twice.items():
        if not torch.equal(given.setdefault(key, value), value):
            raise CheckpointError(
                f"{checkpoint.weights} holds two versions of cls.{key}, which is the word embedding, or the bias of the predictions"
            )
    load_checked(model.cls, given, checkpoint.weights, "masked-LM head")
    return model.eval()


def load_classifier(checkpoint: Checkpoint) -> nn.Module:
    """The encoder with the sequence classifier its file holds, as many labels as that has: BERT's on the pooler, or ProkBERT's."""
    state, heads = checkpoint.state()
    heads = {key: value for key, value in heads.items() if not key.startswith("cls.")}
    if "classifier.weight" not in heads or heads["classifier.weight"].dim() != 2:
        raise CheckpointError(f"{checkpoint.weights} has no classifier: missing classifier.weight")
    weighted = "weighting_layer.weight" in heads
    if weighted:
        # ProkBERT's files hold a pooler that its classifier does not use.
        heads = {key: value for key, value in heads.items() if not key.startswith("pooler.")}
    kind = WeightedClassifier if weighted else SequenceClassifier
    model = kind(_filled(checkpoint, state), len(heads["classifier.weight"]))
    own = nn.ModuleDict({name: module for name, module in model.named_children() if name not in ("bert", "dropout")})
    load_checked(own, heads, checkpoint.weights, "sequence-classification head")
    return model.eval()


_LOADERS: dict[str | None, Callable[[Checkpoint], nn.Module]] = {
    None: load_encoder,
    "masked-lm": load_masked_lm,
    "classifier": load_classifier,
}


def load_model(name: str, head: str | None = None) -> nn.Module:
    """The encoder of a bundled name, folder, `s3://` prefix or hub name, as a torch module in float32 on the CPU, in eval mode.

    Parameters
    ----------
    head : str | None
        `masked-lm` or `classifier`: the encoder with the head its file holds.

    Returns
    -------
    torch.nn.Module
        Called with `input_ids`, `attention_mask` and optional `token_type_ids`, integers of shape (batch, tokens), an encoder
        answers an `EncoderOutput` whose `last_hidden_state` is (batch, tokens, hidden_size), zeros where masked; with
        `output_hidden_states` and `output_attentions` also those. With a head it answers `logits`.

    Raises
    ------
    UsageError, CheckpointError
        There is no such model, or its weights do not fit.
    """
    if head not in _LOADERS:
        raise UsageError(f"head {head!r} is not known: use masked-lm or classifier, or leave it out")
    return _LOADERS[head](find(name))


def load_tokenizer(name: str, *, kmer: int = 0) -> Tokenizer:
    """The tokenizer of a bundled name, folder, `s3://` prefix or hub name; with `kmer`, on the sequence's k-mers with spaces between."""
    return find(name).tokenizer(kmer)
