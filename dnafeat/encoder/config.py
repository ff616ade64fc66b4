"""EncodingConfig: everything that decides a vector."""

from __future__ import annotations

from dataclasses import dataclass, fields
from typing import Any

from dnafeat.settings import Settings, option, require


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
