"""What predicts: an artifact as the driver finds it, and the actor that has its encoder and head."""

from __future__ import annotations

import time
import warnings
from dataclasses import dataclass, replace

import numpy as np
import pyarrow as pa
import torch
from safetensors import SafetensorError

from dnafeat import parquet
from dnafeat.cluster.board import Board
from dnafeat.embed.runner import expected_flops
from dnafeat.embed.tokenise import Tokenised, one_list
from dnafeat.embed.worker import PIECE_ROWS, EncoderSettings, ShardWorker, Tally
from dnafeat.encoder import Encoder
from dnafeat.encoder.config import EncodingConfig
from dnafeat.encoder.describe import cutting, describe, resolve_precision
from dnafeat.encoder.models.checkpoint import find as find_model
from dnafeat.encoder.source import Source, anywhere
from dnafeat.encoder.version import FeatureVersion
from dnafeat.errors import DnafeatWarning, UsageError, one_line
from dnafeat.finetune import artifact
from dnafeat.finetune.labels import Labels
from dnafeat.finetune.network import Head, TokenHead
from dnafeat.finetune.per_base import base_values, intervals
from dnafeat.spill import Spill


@dataclass(frozen=True)
class Predictor:
    """An artifact as the driver found it: what the actors are to load, and the head, which is sent to them.

    Attributes
    ----------
    encoding : EncodingConfig
        Of its encoder.
    precision : str
        It was trained in.
    version : FeatureVersion
        Of the vectors the head takes, for float32.
    """

    labels: Labels
    head: Head | TokenHead
    encoding: EncodingConfig
    precision: str
    source: Source
    version: FeatureVersion

    @classmethod
    def find(cls, name: str, *, windows: bool, model: str | None = None) -> Predictor:
        """The artifact in a folder, an `s3://` prefix or a hub repository.

        Parameters
        ----------
        windows : bool
            Whether all windows of a long sequence are pooled.
        model : str | None
            Where its base is now; None: where it was in training.

        Raises
        ------
        UsageError
            There is none, something of it or its base is missing, or it takes no windows or no model.
        CheckpointError
            The base is not the one it was trained on.
        """
        found = artifact.load(anywhere(name))
        try:
            labels, head, method = found.labels, found.head(), found.about["method"]
            encoding = found.encoding(anywhere(model) if model and method != "full" else None)
            precision, trained_on = found.about["encoding"]["precision"], found.about["base"]["model"]
        except (KeyError, TypeError, ValueError, AttributeError, OSError, RuntimeError, SafetensorError) as error:
            raise UsageError(
                f"{name} is no whole artifact of dnafeat finetune: {type(error).__name__}: {one_line(error)}"
            ) from error
        if windows and labels.task == "token":
            raise UsageError(f"{name} predicts a label for each base, which takes a single window: leave --windows out")
        if model is not None and method == "full":
            raise UsageError(f"{name} was trained whole (method full) and has all weights itself: leave --model out")
        if method != "full":
            _find_base(name, encoding, trained_on if model is None else None)
        encoding = replace(encoding, truncate=not windows)
        # What comes from the artifact is pinned to the state whose head this is.
        pins = found.revision if method == "full" else None, found.revision if method == "lora" else None
        source = Source.find(encoding, pins)
        if method != "full":
            found.check_base(source.checkpoint)
        with warnings.catch_warnings():
            # That k-mers are unusual, which the artifact was trained with.
            warnings.simplefilter("ignore", DnafeatWarning)
            version = describe(source, replace(encoding, precision="float32"))
        return cls(labels, head, encoding, precision, source, version)

    def expected_flops(self, sequences: Spill) -> float:
        """Operations that the encoder takes for some sequences."""
        tokenizer = self.source.tokenizer(self.encoding)
        return expected_flops(self.version.architecture, sequences, tokenizer, cutting(self.version, tokenizer))

    def settings(self, precision: str | None, *, gpu: bool) -> EncoderSettings:
        """For actors with or without GPUs, in the precision asked for; without one as trained, and in float32 on CPUs.

        An artifact's measures are computed in float32, so float32 gives them again; bfloat16 agrees within about 1e-2.
        """
        chosen = (self.precision if gpu else "float32") if precision is None else resolve_precision(precision, gpu=gpu)
        version = replace(self.version, precision=chosen)
        tokenizer = self.source.tokenizer(self.encoding)
        return EncoderSettings(
            config=self.encoding.replace(precision=chosen),
            pins=self.source.pins,
            tokenizer=tokenizer,
            cutting=cutting(version, tokenizer),
            vectors=(),
            version=version.digest,
        )


def _find_base(name: str, encoding: EncodingConfig, trained_on: str | None) -> None:
    """Looks for the base of an artifact; `trained_on` is what it was in training, None where the user has named it."""
    try:
        _ = find_model(str(encoding.model)).weights  # raises where there are none
    except UsageError as error:
        if trained_on is None:
            raise
        raise UsageError(
            f"{name} was trained on {trained_on}, which is not found: say with --model where that is now ({error})"
        ) from error


class PredictShards(ShardWorker):
    """The logits of every sequence of a shard, end to end, or for task token its labelled intervals."""

    def __init__(self, encoder: Encoder, settings: EncoderSettings, board: Board, head: Head | TokenHead, labels: Labels) -> None:
        super().__init__(encoder, settings, board)
        self.head, self.labels = head.to(self.encoder.device).eval(), labels

    def shard(self, shard: Tokenised) -> pa.Table:
        began, tally, head = time.time(), Tally(self.board, self.job), self.head
        answer, strange = self._per_base(head, shard, tally) if isinstance(head, TokenHead) else self._logits(head, shard, tally)
        tally.flush()
        counts = {**shard.counts, "not_finite": strange, "began": began, "ended": time.time()}
        columns = {name: [value] for name, value in counts.items()}
        return pa.table({"digests": one_list(shard.digests), "answer": one_list(answer), **columns})

    @torch.inference_mode()
    def _logits(self, head: Head, shard: Tokenised, tally: Tally) -> tuple[pa.Array, int]:
        parts = [np.empty((0, self.labels.width), np.float32)]
        for at in range(0, len(shard.digests), PIECE_ROWS):
            end = min(at + PIECE_ROWS, len(shard.digests))
            vectors = self.encoder.encode_windows(shard.windows.part(at, end), tally)
            pooled = torch.from_numpy(vectors.pooled(head.shape.views))
            parts.append(head(pooled.to(self.encoder.device)).cpu().numpy())
        logits = np.concatenate(parts)
        return pa.array(logits.ravel()), int((~np.isfinite(logits)).any(1).sum())

    @torch.inference_mode()
    def _per_base(self, head: TokenHead, shard: Tokenised, tally: Tally) -> tuple[pa.Array, int]:
        texts: list[str] = [""] * len(shard.digests)
        strange = 0
        letters = parquet.read(shard.uri, ["sequence"])["sequence"].cast(pa.large_string()).to_pylist()
        for at in range(0, len(texts), PIECE_ROWS):
            end = min(at + PIECE_ROWS, len(texts))
            # One window a sequence, so that windows and sequences have the same numbers.
            windows = shard.windows.part(at, end)
            tokens, starts, stops = self.encoder.tokenizer.spans(letters[at:end])
            for chosen, hidden in self.encoder.states(windows, tally):
                logits = head(hidden).cpu().numpy()
                for i, row in zip(chosen, logits, strict=True):
                    first, size = tokens.offsets[i], int(windows.stop[i] - windows.start[i])
                    own = slice(first, first + size)
                    content = row[1 : 1 + size]
                    strange += not np.isfinite(content).all()
                    values = base_values(content, starts[own], stops[own], len(letters[at + i]))
                    texts[at + i] = intervals(self.labels.choices(values), self.labels.names)
        return pa.array(texts, pa.large_string()), strange
