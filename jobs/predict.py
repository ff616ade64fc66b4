"""Predicts the labels of sequences with what fine-tuning wrote, on a Ray cluster.

    ray job submit --address http://HEAD:8265 --working-dir . -- \\
        python jobs/predict.py s3://bucket/artifacts/promoters --input 's3://bucket/reads/*.csv.gz' \\
        --output s3://bucket/predictions.parquet --num-actors 8

The same as `dnafeat predict`; settings may also stand in a YAML file given with --config.
"""

import sys

from dnafeat.cli.main import main

if __name__ == "__main__":
    sys.exit(main(["predict", *sys.argv[1:]]))
