"""Makes a projection, its statistics fitted on named training entries of a store, on a Ray cluster.

    ray job submit --address http://HEAD:8265 --working-dir . -- \\
        python jobs/fit_projector.py --store s3://bucket/store --train s3://bucket/train.txt --train-by subject_id \\
        --before zscore --map pca --after l2 --output s3://bucket/projectors/pca

The same as `dnafeat fit-projector`; settings may also stand in a YAML file given with --config.
"""

import sys

from dnafeat.cli.main import main

if __name__ == "__main__":
    sys.exit(main(["fit-projector", *sys.argv[1:]]))
