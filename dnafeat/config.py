"""One frozen, checked configuration a job, from YAML and flags: the same names in both, flags win, unknown keys are errors."""

from __future__ import annotations

import argparse
import json
import re
import types
import typing
from collections.abc import Mapping
from dataclasses import MISSING, Field, asdict, dataclass, field, fields
from pathlib import Path
from typing import Any, Self

import yaml

from dnafeat.errors import UsageError
from dnafeat.schema import VECTORS


def option(help: str, default: Any = MISSING, *, shapes: bool = False, positional: bool = False, repeated: bool = False) -> Any:
    """A configuration field. `shapes` says whether it can change which entries a run stores (the feature version covers the vectors).

    A list is `positional` arguments, or a flag that is `repeated` for each item, or else a flag with commas between them.
    """
    return field(default=default, metadata={"help": help, "shapes": shapes, "positional": positional, "repeated": repeated})


class Settings:
    """What all configurations have: how they are made from a file and flags, and taken apart again."""

    def shaping(self) -> dict[str, Any]:
        """The settings that can change what comes out, other than the vectors' own."""
        return {f.name: getattr(self, f.name) for f in fields(self) if f.metadata["shapes"]}  # type: ignore[arg-type]

    def to_dict(self) -> dict[str, Any]:
        return asdict(self)  # type: ignore[call-overload]

    @classmethod
    def load(cls, file: str | None, flags: Mapping[str, Any]) -> Self:
        """The configuration of a YAML file, overridden by those flags that are not None."""
        values = _read_yaml(file, cls) if file else {}
        values |= {key: value for key, value in flags.items() if value is not None}
        required = [f.name for f in fields(cls) if f.default is MISSING]  # type: ignore[arg-type]
        for name in required:
            require(name in values, f"{name} is missing: give it on the command line{' or in ' + file if file else ''}")
        return cls.make(values)

    @classmethod
    def make(cls, values: Mapping[str, Any]) -> Self:
        """The configuration of some settings by name, each of the type it should have. Raises UsageError."""
        hints = typing.get_type_hints(cls)
        strange = [name for name in values if name not in hints]
        require(not strange, f"no setting {strange[0] if strange else ''!r}: there are {', '.join(hints)}")
        return cls(**{name: _checked(name, value, hints[name]) for name, value in values.items()})


@dataclass(frozen=True, kw_only=True)
class EncodingConfig(Settings):
    """Everything that decides what vector a sequence gets, the same for embedding, predicting and notebooks."""

    model: str | None = option(
        "bundled encoder, local folder, s3:// prefix, or hub name owner/model[@revision] (else the adapter's base, else dnafeat-mini)",
        None,
    )
    adapter: str | None = option("LoRA adapter in PEFT's format, merged into the model: folder, s3:// prefix or hub name", None)
    projector: str | None = option(
        "map to 512 dimensions: an artifact of dnafeat finetune --head projector, or random@SEED, which is untrained (else the adapter's "
        "own, else random@0)",
        None,
    )
    kmer: int | None = option(
        "cut sequences into overlapping k-mers with spaces before BPE, for a DNABERT-2 fine-tuned with --kmer; 0: do not (else as the "
        "adapter was trained)",
        None,
    )
    precision: str = option(
        "auto, float32, bfloat16 or int8, which is for CPUs; auto: bfloat16 on GPUs that have it, float32 elsewhere", "auto"
    )
    window_tokens: int | None = option(
        "longest window the encoder sees at once, special tokens counted (else 512, or as many as the model has positions)", None
    )
    overlap_tokens: int | None = option(
        "tokens that neighbouring windows of a longer sequence share (else a quarter of a window)", None
    )
    window_bases: int | None = option("cut longer sequences into windows of this many bases, and not by tokens", None)
    overlap_bases: int | None = option("bases that neighbouring windows share (else a quarter of a window)", None)
    truncate: bool = option("encode the first window of a longer sequence alone; the summary counts them", False)
    strands: str = option("forward, or both: vectors of the sequence and of its reverse complement, averaged", "forward")
    layer: int = option("hidden layer to pool: -1 is the last, -2 the one before, 0 the embeddings", -1)
    average_layers: int = option("pool the mean of this many hidden layers, the last of them being --layer", 1)
    special_tokens: bool | None = option(
        "count [CLS] and [SEP] in mean and max (else only for DNABERT-S, which was trained so)", None
    )
    round_vectors: str | None = option(
        "bfloat16: round vectors to its 8 significant bits; they stay float32, in files of half the size (else not rounded)", None
    )

    def __post_init__(self) -> None:
        require(
            self.precision in ("auto", "float32", "bfloat16", "int8"),
            f"precision {self.precision!r} is none of auto, float32, bfloat16, int8",
        )
        require(self.strands in ("forward", "both"), f"strands {self.strands!r} is neither forward nor both")
        require(
            self.round_vectors in (None, "bfloat16"),
            f"round_vectors {self.round_vectors!r} is no rounding: give bfloat16, or leave it out",
        )
        require(self.kmer is None or self.kmer >= 0, f"kmer {self.kmer} is no length: give 1 or more bases, or 0 for none")
        require(self.average_layers >= 1, f"average_layers {self.average_layers} is too few: give 1 or more")
        by_tokens = self.window_tokens is not None or self.overlap_tokens is not None
        by_bases = self.window_bases is not None or self.overlap_bases is not None
        require(not (by_tokens and by_bases), "windows are given in tokens and in bases: give one of them")
        require(self.overlap_bases is None or self.window_bases is not None, "overlap_bases is given without window_bases")
        require(
            self.window_bases is None or self.window_bases >= 1,
            f"window_bases {self.window_bases} is no length: give 1 or more bases",
        )
        if self.window_bases is not None and self.overlap_bases is not None:
            require(
                0 <= self.overlap_bases < self.window_bases,
                f"an overlap of {self.overlap_bases} bases does not fit a window of {self.window_bases}: give less",
            )

    def encoding(self) -> dict[str, Any]:
        """The settings that decide the vectors."""
        return {f.name: getattr(self, f.name) for f in fields(EncodingConfig)}


@dataclass(frozen=True, kw_only=True)
class EmbedConfig(EncodingConfig):
    """What `dnafeat embed` and `jobs/embed.py` do. Lengths are in bases unless a name says tokens."""

    sources: tuple[str, ...] = option("FASTA, FASTQ, CSV, TSV or Parquet files, folders, globs or s3:// URIs", positional=True)
    store: str = option("folder or s3:// prefix of the feature store")
    vectors: tuple[str, ...] = option("vectors to store, with commas", VECTORS)
    source_name: str | None = option("name of the source in the store; a later run under it replaces its entries", None)
    mode: str = option("replace: entries that are gone from the source are closed; merge: they stay", "replace", shapes=True)
    id_column: str | None = option(
        "column of a table that names its entries (else sequence_id or id, else file name and row)", None, shapes=True
    )
    sequence_column: str | None = option("column of a table that holds the sequences (else sequence or seq)", None, shapes=True)
    tile: int | None = option(
        "cut records into entries of this many bases, named <id>:<start>-<end>, 0-based half-open", None, shapes=True
    )
    stride: int | None = option("bases from the start of one tile to the next (else the tile's length)", None, shapes=True)
    iupac: bool = option("accept all IUPAC codes and not only A C G T N", False, shapes=True)
    max_n_share: float = option("refuse entries with a larger share of N, 0 to 1", 0.5, shapes=True)
    strict: bool = option("store nothing but the rejects when an entry is refused", False, shapes=True)
    hash_keys: tuple[str, ...] = option(
        "columns of ids of people, with commas, whose values are hashed under the salt of --salt-file before anything is stored; "
        "sequence_id may be one",
        (),
    )
    keyed_digests: bool = option(
        "digest sequences under that salt, too, so that nobody without it can tell which sequence a digest is of", False
    )
    salt_file: str | None = option("file with that salt; keep it where readers of the store cannot read it", None)
    keep_rejected_text: bool | None = option("keep the text of refused entries in rejects (else unless keys are hashed)", None)
    run_id: str | None = option(
        "name of the run (else the time and a random part); a published one is not run again", None, shapes=False
    )
    num_actors: int | None = option("encoder actors (else one a GPU, or one a CPU)", None)
    gpus_per_actor: float | None = option(
        "GPUs an encoder actor holds; 0: encode on CPUs (else 1 where the cluster has GPUs)", None
    )
    accelerator_type: str | None = option(
        "kind of GPU that an actor's node must have, as Ray names it: L4, A100, … (else any)", None
    )
    shard_rows: int | None = option(
        "sequences a work shard holds (else as many as keep all actors busy, files up to 128 MiB)", None, shapes=False
    )

    def __post_init__(self) -> None:
        super().__post_init__()
        require(bool(self.sources), "name at least one source to embed")
        strange = [name for name in self.vectors if name not in VECTORS]
        require(not strange, f"vectors names {', '.join(strange)}: there are {', '.join(VECTORS)}")
        require(bool(self.vectors) and len(set(self.vectors)) == len(self.vectors), "vectors names none, or one twice")
        require(
            bool(self.hash_keys or self.keyed_digests) == (self.salt_file is not None),
            "salt_file is for hash_keys (the columns to hash) and keyed_digests: give it with one of them, and neither without it",
        )
        require(self.mode in ("replace", "merge"), f"mode {self.mode!r} is neither replace nor merge")
        require(self.tile is None or self.tile >= 1, f"tile {self.tile} is no length: give 1 or more bases")
        require(self.stride is None or self.stride >= 1, f"stride {self.stride} is no step: give 1 or more bases")
        require(self.stride is None or self.tile is not None, "stride is given without tile: say how long the tiles are")
        require(0 <= self.max_n_share <= 1, f"max_n_share {self.max_n_share} is no share: give a number from 0 to 1")
        require(self.num_actors is None or self.num_actors >= 1, f"num_actors {self.num_actors} is too few: give 1 or more")
        require(
            self.gpus_per_actor is None or self.gpus_per_actor >= 0, f"gpus_per_actor {self.gpus_per_actor} is less than none"
        )
        require(
            self.precision != "int8" or not self.gpus_per_actor,
            f"precision int8 is for CPUs, and gpus_per_actor is {self.gpus_per_actor}: leave one of them out",
        )
        require(self.shard_rows is None or self.shard_rows >= 1, f"shard_rows {self.shard_rows} is too few: give 1 or more")
        require(
            self.run_id is None or re.fullmatch(r"[A-Za-z0-9_.:-]{1,128}", self.run_id) is not None,
            f"run_id {self.run_id!r} is no name: use letters, digits, '.', '_', ':' and '-', 128 at most",
        )


def require(condition: bool, sentence: str) -> None:
    """Raises UsageError with the sentence where the condition does not hold."""
    if not condition:
        raise UsageError(sentence)


def _read_yaml(file: str, config: type) -> dict[str, Any]:
    try:
        values = yaml.safe_load(Path(file).read_text())
    except OSError as error:
        raise UsageError(f"configuration {file} cannot be read: {error.strerror or error}") from error
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise UsageError(f"configuration {file} is not valid YAML: {' '.join(str(error).split())}") from error
    values = {} if values is None else values  # an empty file
    require(isinstance(values, dict), f"configuration {file} must be a mapping of settings to values")
    known = [f.name for f in fields(config)]
    strange = [str(key) for key in values if key not in known]
    require(not strange, f"configuration {file} has the unknown setting {', '.join(strange)}: known are {', '.join(known)}")
    return values


def _kind(hint: Any) -> Any:
    """The type a field has beside None."""
    accepted = typing.get_args(hint) if isinstance(hint, types.UnionType) else (hint,)
    return next(a for a in accepted if a is not type(None))


def _checked(name: str, value: Any, hint: Any) -> Any:
    """A value as its field's type. Raises UsageError where YAML or a flag gave another."""
    if value is None and type(None) in typing.get_args(hint):
        return None
    kind = _kind(hint)
    if typing.get_origin(kind) is tuple:
        items = [value] if isinstance(value, str) else value
        require(
            isinstance(items, list | tuple) and all(isinstance(i, str) for i in items),
            f"{name} must be a list of texts, not {value!r}",
        )
        return tuple(items)
    if typing.get_origin(kind) is dict:
        require(isinstance(value, dict), f"{name} must be a mapping of names to values, not {value!r}")
        return dict(value)
    if kind is float and isinstance(value, int) and not isinstance(value, bool):
        return float(value)
    words = {int: "a whole number", float: "a number", bool: "true or false", str: "a text"}
    require(
        isinstance(value, kind) and (kind is bool or not isinstance(value, bool)), f"{name} must be {words[kind]}, not {value!r}"
    )
    return value


def add_options(parser: argparse.ArgumentParser, config: type) -> None:
    """Gives a parser one flag for each field of a configuration, `--config FILE` first. Values default to None: not given."""
    parser.add_argument(
        "--config", metavar="FILE", help="YAML file with these settings, named as the flags with _ for -; flags win"
    )
    hints = typing.get_type_hints(config)
    positional = any(f.metadata["positional"] for f in fields(config))
    # What must be given comes first, whichever class it was declared in.
    for f in sorted(fields(config), key=lambda f: f.default is not MISSING):
        kind = _kind(hints[f.name])
        text = f.metadata["help"].replace("%", "%%") + _default_note(f)
        flag = "--" + f.name.replace("_", "-")
        if f.metadata["positional"]:
            several = typing.get_origin(kind) is tuple
            metavar = f.name.upper().removesuffix("S" if several else "")
            parser.add_argument(f.name, nargs="*" if several else "?", default=None, metavar=metavar, help=text)
        elif f.metadata["repeated"]:
            # Several at a time where they cannot be taken for positional arguments.
            many: Any = {} if positional else {"nargs": "+"}
            parser.add_argument(
                flag, action="append" if positional else "extend", default=None, metavar="TEXT", help=text, **many
            )
        elif typing.get_origin(kind) is tuple:
            parser.add_argument(flag, type=_split, default=None, metavar="A,B,…", help=text)
        elif typing.get_origin(kind) is dict:
            parser.add_argument(flag, type=_mapping, default=None, metavar="JSON", help=text)
        elif kind is bool:
            parser.add_argument(flag, action=argparse.BooleanOptionalAction, default=None, help=text)
        else:
            parser.add_argument(flag, type=kind, default=None, metavar={int: "N", float: "X"}.get(kind, "TEXT"), help=text)


def _split(text: str) -> tuple[str, ...]:
    return tuple(part.strip() for part in text.split(",") if part.strip())


def _mapping(text: str) -> dict[str, Any]:
    try:
        values = json.loads(text)
    except ValueError:
        values = None
    if not isinstance(values, dict):
        raise argparse.ArgumentTypeError(f'{text!r} is no JSON object, such as {{"name": 1}}')
    return values


def _default_note(f: Field) -> str:
    shown = f.default not in (MISSING, None, False, ())
    default = ",".join(f.default) if isinstance(f.default, tuple) else f.default
    return f" (default: {default})" if shown else ""


def given(arguments: argparse.Namespace, config: type) -> dict[str, Any]:
    """The flags of a configuration that were given; an empty list of positional arguments counts as not given."""
    values = {f.name: getattr(arguments, f.name) for f in fields(config)}
    return {key: value for key, value in values.items() if value not in (None, [])}
