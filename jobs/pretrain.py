"""Pretrain a DNABERT-2 by masked-language modelling on FASTA files, on Ray Train.

    ray job submit --address http://HEAD:8265 --working-dir . -- \\
        python jobs/pretrain.py s3://bucket/genome.fa.gz --holdout s3://bucket/other.fa.gz --num-workers 4 \\
        --storage s3://bucket/runs --output s3://bucket/models/my-model

    python jobs/pretrain.py genome.fa.gz --holdout other.fa.gz --output my-model                (this machine alone)

The same as `dnafeat pretrain`; settings may also stand in a YAML file given with --config. Sent again, it resumes from the run's last
checkpoint, or reports that the model is there.
"""

import sys

from dnafeat.cli.main import main

if __name__ == "__main__":
    sys.exit(main(["pretrain", *sys.argv[1:]]))
