"""Joins the vectors of a store with those of other modalities on a key, on a Ray cluster.

    ray job submit --address http://HEAD:8265 --working-dir . -- \\
        python jobs/join.py --store s3://bucket/store --partner brainlm=s3://bucket/brainlm --on subject_id \\
        --level subject --aggregate concat --genes s3://bucket/genes.txt --output s3://bucket/joined

The same as `dnafeat join`; settings may also stand in a YAML file given with --config. Sent again over the same tables, it does nothing.
"""

import sys

from dnafeat.cli.main import main

if __name__ == "__main__":
    sys.exit(main(["join", *sys.argv[1:]]))
