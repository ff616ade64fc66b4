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

import ray

from dnafeat.cli.options import add_options, given
from dnafeat.errors import DnafeatError
from dnafeat.pretrain.config import PretrainConfig
from dnafeat.pretrain.job import run


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    add_options(parser, PretrainConfig)
    options = parser.parse_args()
    try:
        config = PretrainConfig.load(options.config, given(options, PretrainConfig))
        if config.card is None and not ray.is_initialized():
            ray.init()
        run(config, card=config.card, probes=config.probe)
    except DnafeatError as error:
        print(f"pretrain: {error}", file=sys.stderr)
        return error.exit_code
    return 0


if __name__ == "__main__":
    sys.exit(main())
