"""Measures how far variants move the vectors of the genome around them, on a Ray cluster.

    ray job submit --address http://HEAD:8265 --working-dir . -- \\
        python jobs/effects.py --store s3://bucket/store --genome s3://bucket/hg38.fa --vcf s3://bucket/chr1.vcf.gz \\
        --strands both --output s3://bucket/effects.parquet --num-actors 8

The same as `dnafeat effects`; settings may also stand in a YAML file given with --config.
"""

import sys

from dnafeat.cli.main import main

if __name__ == "__main__":
    sys.exit(main(["effects", *sys.argv[1:]]))
