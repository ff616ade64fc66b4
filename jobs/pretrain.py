"""Masked-language-model pretraining of a small DNABERT-2 from FASTA files.

On a cluster:

    ray job submit --working-dir . -- python jobs/pretrain.py ecoli.fna.gz saureus.fa.gz --holdout lambda.fa \\
        --num-workers 4 --storage s3://bucket/runs --output model

On this machine, the same without the first part:

    python jobs/pretrain.py ecoli.fna.gz saureus.fa.gz --holdout lambda.fa --storage runs --output model

Sent again, the same command goes on from the run's last checkpoint. `--card MODEL` trains nothing: it measures a finished model on
the same hold-outs again and rewrites its card.
"""

from __future__ import annotations

import argparse
import sys
from typing import Any

import ray

from dnafeat.errors import DnafeatError
from dnafeat.pretrain.config import Options
from dnafeat.pretrain.job import run


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    add = parser.add_argument
    add("files", nargs="+", help="FASTA files to train on, packed or not")
    add("--output", required=True, help="folder of the finished model")
    add("--storage", default="runs", help="folder or URI for checkpoints, seen by every worker (default: runs)")
    add("--holdout", action="append", default=[], metavar="FILE", help="FASTA file that is only evaluated on; may be given again")
    add(
        "--holdout-interval",
        action="append",
        default=[],
        metavar="RECORD:START-END",
        help="the same for part of a training record, 0-based, half open",
    )
    for name in (
        "vocab-size",
        "kmer",
        "layers",
        "hidden",
        "heads",
        "intermediate",
        "steps",
        "batch-tokens",
        "warmup-steps",
        "seed",
        "evaluate-every",
    ):
        add(f"--{name}", type=int, default=argparse.SUPPRESS)
    for name in ("learning-rate", "weight-decay", "mask-rate", "dropout", "initializer-range"):
        add(f"--{name}", type=float, default=argparse.SUPPRESS)
    add("--lengths", type=int, nargs="+", default=argparse.SUPPRESS, help="tokens of a crop; each step draws one")
    add("--precision", choices=("auto", "float32", "bfloat16"), default=argparse.SUPPRESS)
    add("--optimizer", choices=("adamw", "muon"), default=argparse.SUPPRESS)
    add("--compile", action="store_true", help="compile each layer: faster after a minute or two; needs a C++ compiler on a CPU")
    add("--num-workers", type=int, default=argparse.SUPPRESS)
    add("--cpus-per-worker", type=int, default=argparse.SUPPRESS)
    add("--card", metavar="MODEL", help="train nothing: measure this finished model and write its card to --output")
    add(
        "--probe",
        action="append",
        default=[],
        metavar="FILE",
        help="CSV of sequence,label to probe frozen vectors with; may be given again",
    )
    given = vars(parser.parse_args())
    card, probes = given.pop("card"), tuple(given.pop("probe"))
    try:
        settings: dict[str, Any] = {key: tuple(value) if isinstance(value, list) else value for key, value in given.items()}
        options = Options(**settings)
        if card is None and not ray.is_initialized():
            ray.init()
        run(options, card=card, probes=probes)
    except DnafeatError as error:
        print(f"pretrain: {error}", file=sys.stderr)
        return error.exit_code
    return 0


if __name__ == "__main__":
    sys.exit(main())
