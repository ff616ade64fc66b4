"""EncodingConfig: the settings that decide a vector."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from dnafeat.settings import Settings, option, require


@dataclass(frozen=True, kw_only=True)
class EncodingConfig(Settings, section="encoder"):
    """The settings that decide which vector a sequence gets, the same for embedding, prediction and notebooks."""

    model: str | None = option(
        "encoder: bundled name, local folder, s3:// prefix or hub name owner/model[@revision] (default: the adapter's base model, or "
        "dnafeat-mini)",
        None,
    )
    adapter: str | None = option("LoRA adapter in PEFT format, merged into the model: folder, s3:// prefix or hub name", None)
    projector: str | None = option(
        "projection to 512 dimensions: an artifact of fit-projector, finetune or align, or random@SEED, which is untrained (default: the "
        "adapter's projector, or random@0)",
        None,
    )
    kmer: int | None = option(
        "split sequences into overlapping k-mers of this length before BPE, for a DNABERT-2 fine-tuned with --kmer; 0: do not (default: "
        "as the adapter was trained)",
        None,
        ge=0,
    )
    precision: Literal["auto", "float32", "bfloat16", "int8"] = option(
        "precision of the matrix products; int8 is for CPUs; auto: bfloat16 on GPUs that support it, float32 elsewhere", "auto"
    )
    window_tokens: int | None = option(
        "longest window that the encoder sees at once, in tokens, special tokens included (default: 512, or the model's positions)",
        None,
    )
    overlap_tokens: int | None = option(
        "tokens that neighbouring windows of a long sequence share (default: a quarter of a window)", None
    )
    window_bases: int | None = option("split long sequences into windows of this many bases instead of tokens", None, ge=1)
    overlap_bases: int | None = option("bases that neighbouring windows share (default: a quarter of a window)", None, ge=0)
    truncate: bool = option("encode only the first window of a long sequence; the summary counts them", False)
    strands: Literal["forward", "both"] = option(
        "forward: the sequence as given; both: average the vectors of the sequence and of its reverse complement", "forward"
    )
    layer: int = option("hidden layer to pool: -1 is the last, -2 the one before it, 0 the embeddings", -1)
    average_layers: int = option("pool the mean of this many hidden layers, the last of which is --layer", 1, ge=1)
    special_tokens: bool | None = option(
        "include [CLS] and [SEP] in mean and max (default: only for DNABERT-S, which was trained so)", None
    )
    round_vectors: Literal["bfloat16"] | None = option(
        "round vectors to the 8 significant bits of bfloat16; they stay float32, in files of half the size (default: not rounded)",
        None,
    )

    def check(self) -> None:
        by_tokens = self.window_tokens is not None or self.overlap_tokens is not None
        by_bases = self.window_bases is not None or self.overlap_bases is not None
        require(not (by_tokens and by_bases), "windows are given in tokens and in bases: give one of them")
        require(self.overlap_bases is None or self.window_bases is not None, "overlap_bases is given without window_bases")
        if self.window_bases is not None and self.overlap_bases is not None:
            require(
                self.overlap_bases < self.window_bases,
                f"an overlap of {self.overlap_bases} bases does not fit a window of {self.window_bases}: give less",
            )
