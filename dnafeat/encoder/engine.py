"""Sequences to pooled and projected vectors: length-sorted micro-batches, pooling. Knows nothing of Ray or of stores.

A vector depends on its sequence alone (1e-5 in float32): not on batch-mates, order, padding or batch size.

A sequence longer than a window is cut into overlapping windows, and every token of it is owned by one of them (see `windows`).

- `mean`: over all owned tokens of all windows.
- `max`: element-wise over the same tokens.
- `cls`: mean of the windows' [CLS] states, weighted by the number of tokens each owns.

[CLS], [SEP] and [PAD] are out of mean and max; with `special_tokens` each window's [CLS] and [SEP] count as tokens. An [UNK] (an N) is
a token of the sequence. With both strands each vector is pooled for the sequence and for its reverse complement, and the two averaged.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import replace
from typing import Any, TypeVar

import numpy as np
import torch
from torch import Tensor, nn

from dnafeat import sequence as dna
from dnafeat.declarations import shown
from dnafeat.encoder.config import EncodingConfig
from dnafeat.encoder.describe import cutting, describe
from dnafeat.encoder.models.adapter import merge
from dnafeat.encoder.models.base import EncoderOutput, to_device, to_host
from dnafeat.encoder.models.checkpoint import load_encoder
from dnafeat.encoder.models.prepare import prepared
from dnafeat.encoder.models.tokenizers import Tokenizer
from dnafeat.encoder.packing import ROWS, pack, pad
from dnafeat.encoder.pooling import pool_windows
from dnafeat.encoder.projection import Projection
from dnafeat.encoder.results import Begun, Collected, Vectors, one_behind
from dnafeat.encoder.rounding import rounded
from dnafeat.encoder.source import Source
from dnafeat.encoder.version import FeatureVersion
from dnafeat.encoder.windows import Windows, cut
from dnafeat.errors import UsageError

# Called after each batch: sequences finished, content tokens, tokens computed with padding.
Report = Callable[[int, int, int], None]
T = TypeVar("T")


class Encoder:
    """A model with its tokenizer and projector, ready to encode. Make one with `from_pretrained`.

    Attributes
    ----------
    version : FeatureVersion
        What names the numbers it makes.
    tokenizer : Tokenizer
    cutting : Cutting
        How sequences are cut into windows, which `windows.cut` needs in another process.
    hidden_size : int
    batch_tokens : int
        Tokens computed at a time, padding counted; fewer once memory did not suffice for as many.
    """

    def __init__(
        self, model: nn.Module, tokenizer: Tokenizer, spec: FeatureVersion, projector: Projection, *, gpu: bool | None = None
    ) -> None:
        self.tokenizer = tokenizer
        self.version = spec
        self.cutting = cutting(spec, tokenizer)
        self.dtype = torch.bfloat16 if spec.precision == "bfloat16" else torch.float32
        on_gpu = gpu is not False and torch.cuda.is_available() and spec.precision != "int8"
        self.device = torch.device("cuda" if on_gpu else "cpu")
        self.model: Any = prepared(model.to(self.device, self.dtype).eval(), int8=spec.precision == "int8")
        self.projector = projector.to(self.device).eval()
        self._ragged = hasattr(self.model, "ragged")
        self.hidden_size: int = spec.architecture["hidden_size"]
        # Small batches stay in the CPU's caches: 1,024 tokens ran 5 to 20 % faster than 4,096 to 16,384, narrow model or wide.
        self.batch_tokens = 65_536 if self.device.type == "cuda" else 1024
        # Sequences that a GPU is given while those before them are copied to the host; None: all.
        self.at_once = 2048 if self.device.type == "cuda" else None
        # Batches for which memory did not suffice.
        self.halved = 0

    def __repr__(self) -> str:
        names, version = self.version.names, self.version
        adapter = f", adapter={names['adapter']!r}" if names.get("adapter") else ""
        return (
            f"Encoder({names.get('model')!r}{adapter}, version={version.digest!r}, precision={version.precision!r}, "
            f"hidden_size={self.hidden_size}, projection={self.projector.name!r}, device={str(self.device)!r})"
        )

    @classmethod
    def from_pretrained(cls, model: str | None = None, adapter: str | None = None, **settings: Any) -> Encoder:
        """Load an encoder.

        Parameters
        ----------
        model : str | None
            `dnafeat-mini` (bundled), a local folder, an `s3://` prefix, or a hub name `owner/model[@revision]`; None: the adapter's
            base, else `dnafeat-mini`.
        adapter : str | None
            A LoRA adapter in PEFT's format, merged into the weights.
        **settings
            Fields of `dnafeat.config.EncodingConfig`: precision, window_tokens, overlap_tokens, window_bases, overlap_bases, truncate,
            strands, layer, average_layers, special_tokens, kmer, projector, round_vectors.

        Raises
        ------
        UsageError
            There is no such model, adapter or setting, or the weights do not fit their architecture.
        """
        return cls.load(EncodingConfig.make({"model": model, "adapter": adapter, **settings}))

    @classmethod
    def load(
        cls, config: EncodingConfig, pins: tuple[str | None, str | None] = (None, None), *, gpu: bool | None = None
    ) -> Encoder:
        """The encoder of a configuration; `pins` as of a `Source`. It takes a GPU where there is one, unless `gpu` is False."""
        source = Source.find(config, pins)
        spec = describe(source, config, gpu=gpu)
        network = load_encoder(source.checkpoint)
        if source.adapter is not None:
            network = merge(network, source.adapter)
        return cls(network, source.tokenizer(config), spec, source.projector(config)[1], gpu=gpu)

    def encode(self, sequences: Sequence[str], report: Report | None = None) -> Vectors:
        """Encode sequences, normalised as the store does (upper case, U to T, no white space), so that the vectors are the same.

        Raises UsageError when one is empty, has a letter that is no IUPAC code, or is too short for a token.
        """
        texts = self._normalised(sequences)

        def windows(first: int, end: int) -> Windows:
            try:
                return cut(texts[first:end], self.tokenizer, self.cutting)
            except UsageError:
                # Cut all of them, so that the error has its number among all.
                cut(texts, self.tokenizer, self.cutting)
                raise

        return self._encode(len(texts), windows, report)

    def encode_windows(self, windows: Windows, report: Report | None = None) -> Vectors:
        """The same from windows that `windows.cut` made, for pipelines that tokenise elsewhere."""
        return self._encode(len(windows.cut), windows.part, report)

    def _encode(self, n: int, windows: Callable[[int, int], Windows], report: Report | None) -> Vectors:
        """Vectors of `n` sequences. A GPU is given some at a time: it computes them while others are tokenised, or copied to the host."""
        step = self.at_once or max(n, 1)
        parts = one_behind(self.begin(windows(at, min(at + step, n)), report) for at in range(0, max(n, 1), step))
        if step >= n:
            return next(parts).vectors()
        made = Collected(n)
        for part in parts:
            made.add(part.vectors())
        return made.vectors()

    def _normalised(self, sequences: Sequence[str]) -> list[str]:
        if isinstance(sequences, str | bytes) or not isinstance(sequences, Iterable):
            what = (
                "one text was given: put it into a list"
                if isinstance(sequences, str)
                else f"this is of type {type(sequences).__name__}"
            )
            raise UsageError(f"a list of sequences is wanted, and {what}")
        sequences = list(sequences)
        for i, text in enumerate(sequences):
            if not isinstance(text, str):
                raise UsageError(
                    f"sequence {i} of {len(sequences)} is {shown(text)} ({type(text).__name__}) and no text: leave it out"
                )
        letters = [dna.normalise(sequence.encode(errors="replace")) for sequence in sequences]
        for i, one in enumerate(letters):
            if fault := dna.problem(one, alphabet=dna.IUPAC, min_bases=self.tokenizer.min_bases):
                raise UsageError(f"sequence {i} of {len(letters)} cannot be encoded: {fault}")
        return [one.decode() for one in letters]

    @torch.inference_mode()
    def begin(self, windows: Windows, report: Report | None = None) -> Begun:
        """Begin to encode windows. A GPU computes asynchronously; on CPUs all is done when this returns."""
        n, hidden_size, strands = len(windows.cut), self.hidden_size, 1 + self.cutting.both_strands
        units = windows.sequence * strands + windows.strand
        owned = windows.own_stop - windows.own_start
        extra = self.tokenizer.specials if self.version.special_tokens_pooled else 0
        total = torch.zeros(n * strands, hidden_size, device=self.device)
        largest = torch.full((n * strands, hidden_size), -torch.inf, device=self.device)
        cls = torch.zeros(n * strands, hidden_size, device=self.device)
        # A sequence is finished with its last window, of the second strand where there are two.
        last = np.append(np.diff(windows.sequence) > 0, True)[: len(windows)]
        computed = 0

        def pooled_alone(chosen: np.ndarray) -> tuple[int, Tensor, Tensor, Tensor]:
            size, blocks = self._blocks(windows, chosen)
            parts = [pool_windows(hidden, own, self.tokenizer.sep_id is not None) for hidden, own in blocks]
            of_total, lone, of_cls = (torch.cat(part) for part in zip(*parts, strict=True))
            weight = to_device(owned[chosen], self.device)
            return size, of_total, lone, of_cls * weight[:, None]

        sizes = windows.stop - windows.start
        for chosen, (size, of_total, of_largest, of_cls) in self._batches(sizes, pooled_alone, padded=not self._ragged):
            unit = to_device(units[chosen], self.device)
            total.index_add_(0, unit, of_total)
            largest.scatter_reduce_(0, unit[:, None].expand_as(of_largest), of_largest, "amax")
            cls.index_add_(0, unit, of_cls)
            computed += size
            if report is not None:
                forward = windows.strand[chosen] == 0
                report(int(last[chosen].sum()), int(owned[chosen][forward].sum()), size)
        tokens = np.bincount(units, owned, minlength=n * strands)
        pooled = np.bincount(units, owned + extra, minlength=n * strands)
        mean = total / self._column(pooled)
        cls = cls / self._column(tokens)
        to = self.version.rounding
        mean, largest, cls = (rounded(x.view(n, strands, hidden_size).mean(1), to) for x in (mean, largest, cls))
        # Of the vectors as they are stored, so that projecting those again gives the same.
        projected = rounded(self.projector.of({"cls": cls, "mean": mean, "max": largest}), to)
        return Begun(
            vectors={name: to_host(x) for name, x in (("cls", cls), ("mean", mean), ("max", largest), ("projected", projected))},
            windows=windows,
            needed=int((windows.stop - windows.start + self.tokenizer.specials).sum()),
            computed=computed,
        )

    @torch.inference_mode()
    def states(self, windows: Windows, report: Report | None = None) -> Iterator[tuple[np.ndarray, Tensor]]:
        """The states that are pooled, batch by batch: numbers of windows, (rows,), and (rows, tokens, hidden_size) float32.

        A window's [CLS] is the first of its tokens, and its content follows. `report` counts each window as a sequence.
        """
        sizes = windows.stop - windows.start

        def states(chosen: np.ndarray) -> tuple[int, Tensor]:
            ids, mask, _ = self._batch(windows, chosen)
            return ids.numel(), self._states(ids, mask)

        for chosen, (size, hidden) in self._batches(sizes, states, padded=True):
            yield chosen, hidden
            if report is not None:
                report(len(chosen), int(sizes[chosen].sum()), size)

    def attentions(self, sequence: str) -> np.ndarray:
        """Attention probabilities of one sequence, (layers, heads, tokens, tokens) float32, [CLS] and what ends it among the tokens.

        The model runs its plain attention for it, which is slow and kept out of `encode`. Raises UsageError for a sequence that takes
        more than one window.
        """
        windows = cut(self._normalised([sequence]), self.tokenizer, replace(self.cutting, both_strands=False))
        if len(windows) > 1 or windows.cut.any():
            size = f"{self.cutting.bases} bases" if self.cutting.bases else f"{self.version.window_tokens} tokens"
            raise UsageError(f"the sequence takes more than one window of {size}: give a shorter one")
        ids, mask, _ = self._batch(windows, np.array([0]))
        with torch.inference_mode():
            output: EncoderOutput = self.model(ids, mask, output_attentions=True)
        return torch.cat(output.attentions or ()).float().cpu().numpy()

    def _blocks(self, windows: Windows, chosen: np.ndarray) -> tuple[int, list[tuple[Tensor, Tensor | None]]]:
        """Tokens computed, and the states of some windows in blocks of equal length with what is pooled of each.

        States are (rows, tokens, hidden_size) float32; what is pooled is a mask (rows, tokens), or None where it is the whole content.
        """
        if not self._ragged:
            ids, mask, own = self._batch(windows, chosen)
            return ids.numel(), [(self._states(ids, mask), own)]
        packed = pack(windows, chosen, self.tokenizer, special_tokens=self.version.special_tokens_pooled)
        last = len(self.model.encoder.layer) + 1 + self.version.layer
        first = last + 1 - self.version.average_layers
        tokens, runs = packed.filled(self.tokenizer.pad_id)
        hidden = self.model.ragged(to_device(tokens, self.device), runs, first, last).float()
        own, at = to_device(packed.own, self.device), 0
        blocks: list[tuple[Tensor, Tensor | None]] = []
        for (count, length), whole in zip(packed.runs, packed.whole, strict=True):
            of_block = slice(at, at := at + count * length)
            states = hidden[of_block].view(count, length, -1)
            blocks.append((states, None if whole else own[of_block].view(count, length)))
        return len(hidden), blocks

    def _states(self, ids: Tensor, mask: Tensor) -> Tensor:
        """The hidden layer, or mean of layers, that is pooled: (rows, tokens, hidden_size) float32."""
        layer, count = self.version.layer, self.version.average_layers
        if (layer, count) == (-1, 1):
            return self.model(ids, mask).last_hidden_state.float()
        states = self.model(ids, mask, output_hidden_states=True).hidden_states
        end = len(states) + 1 + layer
        return torch.stack([state.float() for state in states[end - count : end]]).mean(0)

    def _column(self, values: np.ndarray) -> Tensor:
        return to_device(values.astype(np.float32), self.device)[:, None]

    def _batches(
        self, lengths: np.ndarray, compute: Callable[[np.ndarray], T], *, padded: bool
    ) -> Iterator[tuple[np.ndarray, T]]:
        """Window numbers by falling length (the largest batch first shows at once whether memory suffices), up to a budget of tokens,
        and what `compute` makes of them. With padding all of a batch count as long as its first; without, it is filled up to `ROWS`.

        A batch for which memory does not suffice is halved, down to a single window, and so is the budget from then on.
        """
        order = np.argsort(-lengths, kind="stable")
        sizes = lengths[order] + self.tokenizer.specials
        i = 0
        while i < len(order):
            some = sizes[i : i + max(1, self.batch_tokens)]
            counted = some[0] * np.arange(1, len(some) + 1) if padded else -(-np.cumsum(some) // ROWS) * ROWS
            count = max(1, int(np.searchsorted(counted, self.batch_tokens, "right")))
            chosen = order[i : i + count]
            made = None
            try:
                made = compute(chosen)
            except (MemoryError, RuntimeError) as error:
                if len(chosen) == 1 or not _out_of_memory(error):
                    raise
            if made is not None:
                i += len(chosen)
                yield chosen, made
            else:
                # Not before, for the error holds what the batch had taken.
                self.batch_tokens = max(int(some[0]), int(counted[count - 1]) // 2)
                self.halved += 1
                if self.device.type == "cuda":
                    torch.cuda.empty_cache()

    def _batch(self, windows: Windows, chosen: np.ndarray) -> tuple[Tensor, Tensor, Tensor]:
        """Ids, mask and what is pooled of some windows, each (rows, longest window)."""
        arrays = pad(windows, chosen, self.tokenizer, special_tokens=self.version.special_tokens_pooled)
        ids, real, own = (to_device(array, self.device) for array in arrays)
        return ids, real, own


def _out_of_memory(error: Exception) -> bool:
    """Return whether memory did not suffice, on an accelerator or beside it; torch says some of it in words alone."""
    phrases = ("DefaultCPUAllocator", "out of memory", "CUBLAS_STATUS_ALLOC_FAILED")
    return isinstance(error, MemoryError | torch.OutOfMemoryError) or any(words in str(error) for words in phrases)
