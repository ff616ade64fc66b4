"""Settings of a pretraining run."""

from __future__ import annotations

import hashlib
import json
from dataclasses import asdict, dataclass

from dnafeat.errors import UsageError
from dnafeat.pretrain import corpus
from dnafeat.sequence import digest

_NOT_IDENTITY = (
    *("files", "holdout", "holdout_interval", "output", "storage"),
    *("num_workers", "cpus_per_worker", "compile", "evaluate_every"),
)


@dataclass(frozen=True, kw_only=True)
class Options:
    """What is trained on what. Raises UsageError for values that make no sense."""

    files: tuple[str, ...]
    """FASTA files to train on, packed or not."""
    output: str
    """Folder of the finished model."""
    storage: str
    """Folder or URI for checkpoints, seen by every worker."""
    holdout: tuple[str, ...] = ()
    """FASTA files that are only evaluated on."""
    holdout_interval: tuple[str, ...] = ()
    """Intervals `RECORD:START-END` of training records, 0-based and half open, that are only evaluated on."""
    vocab_size: int = 9
    """Entries of the tokenizer: 9 is single bases, more is BPE trained on the training part."""
    kmer: int = 0
    """Where not 0: tokens are non-overlapping words of that many bases (1 to 4), and `vocab_size` has no say."""
    layers: int = 4
    hidden: int = 192
    heads: int = 6
    intermediate: int = 512
    dropout: float = 0.0
    initializer_range: float = 0.02
    """Standard deviation of the first weights. 0.02 suits 768 channels; narrow networks start better nearer 1/sqrt(hidden)."""
    steps: int = 10_000
    batch_tokens: int = 8192
    """Tokens of one optimiser step, all workers together, [CLS] and [SEP] included."""
    lengths: tuple[int, ...] = (64, 128, 256)
    """Tokens of a crop; each step draws one length, so that nothing is padded."""
    optimizer: str = "adamw"
    """adamw for all weights, or muon (Jordan et al. 2024) for the matrices inside the layers and adamw for the rest."""
    learning_rate: float = 2e-3
    warmup_steps: int = 200
    weight_decay: float = 0.01
    mask_rate: float = 0.15
    seed: int = 0
    precision: str = "auto"
    """Of the matrix products: float32, bfloat16, or auto, which is measured once on the first worker."""
    compile: bool = False
    """Compile each layer: faster after a minute or two, needs a C++ compiler on a CPU."""
    evaluate_every: int = 500
    """Steps between held-out losses and checkpoints."""
    num_workers: int = 1
    cpus_per_worker: int = 1

    def __post_init__(self) -> None:
        sizes = (
            "layers",
            "hidden",
            "heads",
            "intermediate",
            "steps",
            "batch_tokens",
            "evaluate_every",
            "num_workers",
            "cpus_per_worker",
        )
        for name in sizes:
            if getattr(self, name) < 1:
                raise UsageError(f"{name} is {getattr(self, name)}; it must be 1 or more")
        if self.hidden % self.heads:
            raise UsageError(f"hidden {self.hidden} does not divide into {self.heads} heads")
        if not 9 <= self.vocab_size <= 65_536:
            raise UsageError(f"vocab_size is {self.vocab_size}; it is 9 (single bases) to 65,536")
        if not self.lengths or min(self.lengths) < 16 or max(self.lengths) > self.batch_tokens // self.num_workers:
            raise UsageError(f"lengths {self.lengths} must lie between 16 and a worker's share of batch_tokens")
        for name in ("mask_rate", "learning_rate"):
            if not 0 < getattr(self, name) < 1:
                raise UsageError(f"{name} is {getattr(self, name)}; it must lie between 0 and 1")
        if not 0 <= self.dropout < 1:
            raise UsageError(f"dropout is {self.dropout}; it is 0 or more, and less than 1")
        if not 0 <= self.kmer <= 4:
            raise UsageError(f"kmer is {self.kmer}; it is 1 to 4 bases, or 0 for a tokenizer of vocab_size entries")
        if self.optimizer not in ("adamw", "muon"):
            raise UsageError(f"optimizer is {self.optimizer!r}; it is adamw or muon")
        if self.precision not in ("auto", "float32", "bfloat16"):
            raise UsageError(f"precision is {self.precision!r}; it is auto, float32 or bfloat16")

    def run_name(self, genomes: corpus.Genomes) -> str:
        """Names the run by everything that changes its result; workers and folders do not."""
        settings = {k: v for k, v in asdict(self).items() if k not in _NOT_IDENTITY}
        data = [[name, digest(letters)] for part in (genomes.train, genomes.heldout) for name, letters in part.items()]
        return "pretrain-" + hashlib.sha256(json.dumps([settings, data], sort_keys=True).encode()).hexdigest()[:12]
