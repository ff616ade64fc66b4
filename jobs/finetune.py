"""Fine-tunes an encoder on labelled sequences, on Ray Train.

    ray job submit --address http://HEAD:8265 --working-dir . -- \\
        python jobs/finetune.py --train s3://bucket/train.csv --dev s3://bucket/dev.csv --test s3://bucket/test.csv \\
        --model zhihan1996/DNABERT-2-117M --num-workers 4 --output s3://bucket/artifacts/promoters

The same as `dnafeat finetune`; settings may also stand in a YAML file given with --config. Sent again, it goes on from the run's last
checkpoint, or says that the artifact is there.
"""

import sys

from dnafeat.cli.main import main

if __name__ == "__main__":
    sys.exit(main(["finetune", *sys.argv[1:]]))
