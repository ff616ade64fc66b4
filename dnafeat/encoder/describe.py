"""The feature version that settings give, found without building the model: nothing here reads a weight but to hash its file."""

from __future__ import annotations

import warnings
from dataclasses import asdict

import torch

from dnafeat.encoder.config import EncodingConfig
from dnafeat.encoder.models.base import TRAINING_FIELDS, Config
from dnafeat.encoder.models.tokenizers import Tokenizer
from dnafeat.encoder.source import Source
from dnafeat.encoder.version import FeatureVersion
from dnafeat.encoder.windows import Cutting
from dnafeat.errors import DnafeatWarning, UsageError

WINDOW_TOKENS = 512


def cutting(spec: FeatureVersion, tokenizer: Tokenizer) -> Cutting:
    """The windows that a version's sequences are cut into."""
    positions = spec.architecture.get("max_position_embeddings")
    limit = None if positions is None else positions - tokenizer.specials
    return Cutting(
        capacity=limit if spec.window_bases else spec.window_tokens - tokenizer.specials,
        overlap=spec.overlap_bases or spec.overlap_tokens,
        bases=spec.window_bases,
        truncate=spec.truncate,
        both_strands=spec.strands == "both",
    )


def resolve_precision(precision: str, *, gpu: bool) -> str:
    """`auto` becomes bfloat16 on GPUs and float32 elsewhere: many CPUs lack the instructions and are 100 times slower."""
    return precision if precision != "auto" else ("bfloat16" if gpu else "float32")


def fast_in_bfloat16() -> bool:
    """Return whether this machine encodes on a GPU that has bfloat16 in hardware."""
    return torch.cuda.is_available() and torch.cuda.is_bf16_supported(including_emulation=False)


def describe(source: Source, config: EncodingConfig, *, gpu: bool | None = None) -> FeatureVersion:
    """The feature version these settings give, without building the model. `gpu` says whether GPUs will encode; None: look here."""
    found = source.checkpoint
    shape, tokenizer, kmer = found.config(), source.tokenizer(config), source.kmer(config)
    name, projector = source.projector(config)
    window, overlap = _window(config, shape, tokenizer)
    if kmer and not source.trained:
        warnings.warn(
            f"with kmer {kmer} a sequence has several times the tokens of plain BPE, which the published models were not trained "
            f"on; windows stay at {window} {'bases' if config.window_bases else 'tokens'}",
            DnafeatWarning,
            stacklevel=2,
        )
    return FeatureVersion(
        architecture={
            "family": found.family.name,
            **{name: value for name, value in asdict(shape).items() if name not in TRAINING_FIELDS},
        },
        weights_sha256=found.weights_sha256,
        tokenizer_sha256=tokenizer.fingerprint,
        adapter_sha256=source.adapter.fingerprint() if source.adapter else None,
        window_tokens=0 if config.window_bases else window,
        overlap_tokens=0 if config.window_bases else overlap,
        window_bases=window if config.window_bases else 0,
        overlap_bases=overlap if config.window_bases else 0,
        truncate=config.truncate,
        strands=config.strands,
        layer=_layer(config, shape),
        average_layers=config.average_layers,
        special_tokens_pooled=source.special_tokens(config),
        precision=resolve_precision(config.precision, gpu=fast_in_bfloat16() if gpu is None else gpu),
        projector_sha256=projector.fingerprint(),
        rounding=config.round_vectors,
        projector_input=projector.view,
        names={
            "model": found.name,
            "revision": found.revision,
            "adapter": source.adapter.name if source.adapter else None,
            "adapter_revision": source.adapter.revision if source.adapter else None,
            "projector": name,
            "projection": projector.lineage(),
            "kmer": kmer,
        },
    )


def _window(config: EncodingConfig, shape: Config, tokenizer: Tokenizer) -> tuple[int, int]:
    """Length and overlap of a window, in bases where they are given so, else in tokens."""
    if config.window_bases is not None:
        if config.window_bases < tokenizer.min_bases:
            raise UsageError(f"a window of {config.window_bases} bases has no token: give {tokenizer.min_bases} or more")
        overlap = config.window_bases // 4 if config.overlap_bases is None else config.overlap_bases
        if config.window_bases - overlap < tokenizer.shift:
            raise UsageError(
                f"windows of {config.window_bases} bases that share {overlap} advance by less than the {tokenizer.shift} bases from one "
                f"token to the next: give a smaller overlap"
            )
        return config.window_bases, overlap
    limit, specials = shape.positions, tokenizer.specials
    window = config.window_tokens if config.window_tokens is not None else min(WINDOW_TOKENS, limit or WINDOW_TOKENS)
    if window <= specials:
        raise UsageError(
            f"a window of {window} tokens has no room beside the {specials} special ones: give {specials + 1} or more"
        )
    if limit is not None and window > limit:
        raise UsageError(f"a window of {window} tokens is longer than the {limit} positions of this model: give {limit} or less")
    overlap = window // 4 if config.overlap_tokens is None else config.overlap_tokens
    if config.overlap_tokens is None and overlap >= window - specials:
        overlap = 0
    if not 0 <= overlap < window - specials:
        raise UsageError(
            f"an overlap of {overlap} tokens does not fit a window of {window}, of which {specials} are special: give less"
        )
    return window, overlap


def _layer(config: EncodingConfig, shape: Config) -> int:
    """The layer counted from the last, which is -1. Raises UsageError where there is none such."""
    layers = shape.num_hidden_layers
    layer = config.layer if config.layer < 0 else config.layer - layers - 1
    if not -layers - 1 <= layer <= -1:
        raise UsageError(
            f"there is no layer {config.layer}: the model has {layers}, from -1 back to -{layers}, and 0 for the embeddings"
        )
    if config.average_layers > layers + 2 + layer:
        raise UsageError(
            f"average_layers is {config.average_layers} and layer {config.layer} has not so many up to it: give less"
        )
    return layer
