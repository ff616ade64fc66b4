"""Sequences to pooled and projected vectors: windows, length-sorted micro-batches, pooling. Knows nothing of Ray or of stores.

A vector depends on its sequence alone (1e-5 in float32): not on batch-mates, order, padding or batch size.

A sequence longer than a window is cut into overlapping windows, and every token of it is *owned* by one window: the border lies in
the middle of the overlap, so that each token is represented where it has context on both sides and counts once.

- `mean`: over all owned tokens of all windows.
- `max`: element-wise over the same tokens.
- `cls`: mean of the windows' [CLS] states, weighted by the number of tokens each owns.

[CLS], [SEP] and [PAD] are out of mean and max; an [UNK] (an N) is a token of the sequence.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass

import numpy as np
import torch
from torch import Tensor

from dnafeat import sequence as dna
from dnafeat.errors import CheckpointError, UsageError
from dnafeat.models import adapter as adapters
from dnafeat.models import checkpoint as checkpoints
from dnafeat.models.dnabert2 import DNABERT2
from dnafeat.projection import load_projector
from dnafeat.tokenizers import Tokens
from dnafeat.version import FeatureVersion

WINDOW_TOKENS = 512
OVERLAP_TOKENS = 128

# (sequences finished, content tokens, tokens computed with padding) since the last call.
Report = Callable[[int, int, int], None]


@dataclass(frozen=True)
class Vectors:
    """What `encode` returns, in input order.

    Attributes
    ----------
    cls, mean, max : np.ndarray, shape=(n, hidden_size), float32
    projected : np.ndarray, shape=(n, 512), float32
    tokens : np.ndarray, shape=(n,), int64
        Content tokens, special ones not counted.
    windows : np.ndarray, shape=(n,), int32
    padding_share : float
        Share of the tokens computed that were padding.
    """

    cls: np.ndarray
    mean: np.ndarray
    max: np.ndarray
    projected: np.ndarray
    tokens: np.ndarray
    windows: np.ndarray
    padding_share: float


@dataclass(frozen=True)
class Windows:
    """Windows over ragged tokens, in order of their sequences.

    `start:stop` is what a window sees and `own_start:own_stop` what it owns, both in positions of `Tokens.ids`; all int64, (windows,).
    """

    sequence: np.ndarray
    start: np.ndarray
    stop: np.ndarray
    own_start: np.ndarray
    own_stop: np.ndarray


def cut_windows(offsets: np.ndarray, capacity: int, overlap: int) -> Windows:
    """Cuts each sequence into the fewest windows of at most `capacity` content tokens that share `overlap` or more.

    A window starts every `capacity - overlap` tokens; the last is moved back to end with the sequence. Of a shared stretch of odd
    length, the token in the middle belongs to the later window.

    Parameters
    ----------
    offsets : np.ndarray, shape=(n + 1,), int64
    capacity : int
        Content tokens a window holds.
    overlap : int
        Least number of tokens that neighbouring windows share; less than `capacity`.
    """
    length = np.diff(offsets)
    stride = capacity - overlap
    count = np.where(length <= capacity, 1, -(-(length - capacity) // stride) + 1)
    sequence = np.repeat(np.arange(len(length)), count)
    index = np.arange(count.sum()) - np.repeat(np.cumsum(count) - count, count)
    size = length[sequence]
    # The last window ends with the sequence and is as long as the others, so that its tokens have as much context.
    start = np.minimum(index * stride, np.maximum(size - capacity, 0))
    stop = np.minimum(start + capacity, size)
    first, last = index == 0, index == count[sequence] - 1
    border = np.empty(len(start) + 1, np.int64)
    border[1:-1] = (start[1:] + stop[:-1]) // 2
    border[[0, -1]] = 0
    own_start = np.where(first, 0, border[:-1])
    own_stop = np.where(last, size, border[1:])
    base = offsets[:-1][sequence]
    return Windows(sequence, base + start, base + stop, base + own_start, base + own_stop)


class Encoder:
    """A model with its tokenizer and projector, ready to encode. Make one with `from_pretrained`."""

    def __init__(
        self, model: DNABERT2, tokenizer: checkpoints.BPETokenizer, spec: FeatureVersion, projector: torch.nn.Module
    ) -> None:
        self.tokenizer = tokenizer
        self.version = spec
        self.dtype = torch.bfloat16 if spec.precision == "bfloat16" else torch.float32
        self.device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
        self.model = model.to(self.device, self.dtype).eval()
        self.projector = projector.to(self.device).eval()
        self.hidden_size = model.config.hidden_size
        # Small batches stay in the CPU's caches: 1,024 tokens ran 5 to 20 % faster than 4,096 to 16,384, narrow model or wide.
        self.batch_tokens = 65_536 if self.device.type == "cuda" else 1024

    @classmethod
    def from_pretrained(
        cls,
        model: str,
        adapter: str | None = None,
        *,
        precision: str = "auto",
        window: int = WINDOW_TOKENS,
        overlap: int = OVERLAP_TOKENS,
        projector: str = "random@0",
    ) -> Encoder:
        """Loads an encoder.

        Parameters
        ----------
        model : str
            `dnafeat-mini` (bundled), a local folder, or a hub name `owner/model[@revision]`.
        adapter : str | None
            Folder of a LoRA adapter in PEFT's format, merged into the weights.
        precision : str
            `auto` (bfloat16 on a GPU, float32 elsewhere), `float32` or `bfloat16`.
        window, overlap : int
            Tokens of the longest window, special ones counted, and tokens that neighbouring windows share.
        projector : str
            `random@SEED`: the untrained projection of the mean vector to 512 dimensions.

        Raises
        ------
        UsageError
            There is no such model or adapter, or its weights do not fit its architecture.
        """
        found = checkpoints.find(model)
        spec = describe(found, adapter, precision=precision, window=window, overlap=overlap, projector=projector)
        network = checkpoints.load_encoder(found)
        if adapter is not None:
            network = adapters.merge(network, adapter)
        return cls(network, found.tokenizer(), spec, load_projector(projector, network.config.hidden_size))

    def encode(self, sequences: Sequence[str], report: Report | None = None) -> Vectors:
        """Encodes sequences, normalised as the store does (upper case, U to T, no white space), so that the vectors are the same.

        Raises UsageError when one is empty or has a letter that is no IUPAC code.
        """
        if isinstance(sequences, str):
            raise UsageError("encode takes a list of sequences, and was given one text: put it into a list")
        letters = [dna.normalise(sequence.encode(errors="replace")) for sequence in sequences]
        for i, one in enumerate(letters):
            if fault := dna.problem(one, alphabet=dna.IUPAC):
                raise UsageError(f"sequence {i} of {len(letters)} cannot be encoded: {fault}")
        return self.encode_tokens(self.tokenizer.encode([one.decode() for one in letters]), report)

    @torch.inference_mode()
    def encode_tokens(self, tokens: Tokens, report: Report | None = None) -> Vectors:
        """The same from token ids, for pipelines that tokenise elsewhere."""
        spec = self.version
        windows = cut_windows(tokens.offsets, spec.window_tokens - 2, spec.overlap_tokens)
        n, length = len(tokens.offsets) - 1, np.diff(tokens.offsets)
        if n and length.min() < 1:
            raise UsageError(f"sequence {int(length.argmin())} of {n} has no tokens: leave it out")
        total = torch.zeros(n, self.hidden_size, device=self.device)
        largest = torch.full((n, self.hidden_size), -torch.inf, device=self.device)
        cls = torch.zeros(n, self.hidden_size, device=self.device)
        computed = 0
        for chosen in self._batches(windows.stop - windows.start):
            ids, mask, own = self._batch(tokens.ids, windows, chosen)
            hidden = self.model(ids, mask).last_hidden_state.float()
            owner = torch.from_numpy(windows.sequence[chosen]).to(self.device)
            total.index_add_(0, owner, torch.bmm(own.float()[:, None], hidden)[:, 0])
            lone = hidden.masked_fill(~own[:, :, None], -torch.inf).amax(1)
            largest.scatter_reduce_(0, owner[:, None].expand_as(lone), lone, "amax")
            owned = torch.from_numpy(windows.own_stop[chosen] - windows.own_start[chosen]).to(self.device)
            cls.index_add_(0, owner, hidden[:, 0] * owned[:, None])
            computed += ids.numel()
            if report is not None:
                ends = windows.own_stop[chosen] == tokens.offsets[1:][windows.sequence[chosen]]
                report(int(ends.sum()), int(owned.sum()), ids.numel())
        counts = torch.from_numpy(length).to(self.device)[:, None]
        mean, cls = total / counts, cls / counts
        projected = torch.cat([self.projector(part) for part in mean.split(8192)])
        needed = int((windows.stop - windows.start + 2).sum())
        return Vectors(
            cls=cls.cpu().numpy(),
            mean=mean.cpu().numpy(),
            max=largest.cpu().numpy(),
            projected=projected.cpu().numpy(),
            tokens=length,
            windows=np.bincount(windows.sequence, minlength=n).astype(np.int32),
            padding_share=1 - needed / computed if computed else 0.0,
        )

    def _batches(self, lengths: np.ndarray) -> Iterator[np.ndarray]:
        """Window numbers by falling length (the largest batch first shows at once whether memory suffices), up to a budget of tokens."""
        order = np.argsort(-lengths, kind="stable")
        i = 0
        while i < len(order):
            rows = max(1, self.batch_tokens // int(lengths[order[i]] + 2))
            yield order[i : i + rows]
            i += rows

    def _batch(self, flat: np.ndarray, windows: Windows, chosen: np.ndarray) -> tuple[Tensor, Tensor, Tensor]:
        """Ids, mask and ownership of some windows, each (rows, longest + 2): [CLS] content [SEP] padding."""
        start, stop = windows.start[chosen, None], windows.stop[chosen, None]
        width = int((stop - start).max()) + 2
        position = start + np.arange(-1, width - 1)[None, :]
        content = (position >= start) & (position < stop)
        ids = np.where(content, flat[np.where(content, position, 0)], self.tokenizer.pad_id)
        ids[:, 0] = self.tokenizer.cls_id
        ids[position == stop] = self.tokenizer.sep_id
        own = (position >= windows.own_start[chosen, None]) & (position < windows.own_stop[chosen, None])
        to = self.device
        return (
            torch.from_numpy(ids.astype(np.int64)).to(to),
            torch.from_numpy(position <= stop).to(to),
            torch.from_numpy(own).to(to),
        )


def resolve_precision(precision: str, *, gpu: bool) -> str:
    """`auto` becomes bfloat16 on GPUs and float32 elsewhere: many CPUs lack the instructions and are 100 times slower."""
    if precision not in ("auto", "float32", "bfloat16"):
        raise UsageError(f"precision {precision!r} is none of auto, float32, bfloat16")
    return precision if precision != "auto" else ("bfloat16" if gpu else "float32")


def describe(
    found: checkpoints.Checkpoint,
    adapter: str | None = None,
    *,
    precision: str = "auto",
    window: int = WINDOW_TOKENS,
    overlap: int = OVERLAP_TOKENS,
    projector: str = "random@0",
    gpu: bool | None = None,
) -> FeatureVersion:
    """The feature version these settings give, without building the model. `gpu` says where it will run; None: look here."""
    if not window >= 3:
        raise UsageError(f"a window of {window} tokens has no room beside [CLS] and [SEP]: give 3 or more")
    if not 0 <= overlap < window - 2:
        raise UsageError(f"an overlap of {overlap} tokens does not fit a window of {window}, of which 2 are special: give less")
    config, tokenizer = found.config(), found.tokenizer()
    if tokenizer.vocab_size > config.vocab_size:
        raise CheckpointError(
            f"{found.folder}: tokenizer.json has {tokenizer.vocab_size} entries and config.json says vocab_size {config.vocab_size}: "
            f"they do not belong together"
        )
    # What only training reads changes no vector.
    shape = {name: value for name, value in asdict(config).items() if name not in ("hidden_dropout_prob", "initializer_range")}
    return FeatureVersion(
        architecture={"family": "dnabert2", **shape},
        weights_sha256=found.weights_sha256(),
        tokenizer_sha256=tokenizer.fingerprint,
        adapter_sha256=adapters.fingerprint(adapter) if adapter is not None else None,
        window_tokens=window,
        overlap_tokens=overlap,
        strands="forward",
        layer=-1,
        special_tokens_pooled=False,
        precision=resolve_precision(precision, gpu=torch.cuda.is_available() if gpu is None else gpu),
        projector_sha256=load_projector(projector, config.hidden_size).fingerprint(),
        names={"model": found.name, "revision": found.revision, "adapter": adapter, "projector": projector},
    )
