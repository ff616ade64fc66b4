"""Brings the DNA of subjects and another modality of theirs to one space, on Ray Train.

    ray job submit --address http://HEAD:8265 --working-dir . -- \\
        python jobs/align.py --store s3://bucket/store --partner brainlm=s3://bucket/brainlm --on subject_id \\
        --subjects s3://bucket/subjects.csv --family-column family_id --covariates age,sex,site --phenotype score \\
        --num-workers 4 --output s3://bucket/artifacts/brainlm

The same as `dnafeat align`; settings may also stand in a YAML file given with --config. Sent again, it goes on from the run's last
checkpoint, or says that the artifact is there.
"""

import sys

from dnafeat.cli.main import main

if __name__ == "__main__":
    sys.exit(main(["align", *sys.argv[1:]]))
