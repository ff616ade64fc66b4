"""Projects the stored vectors of a version anew, on a Ray cluster: a child version, for which nothing is encoded.

    ray job submit --address http://HEAD:8265 --working-dir . -- \\
        python jobs/project.py --store s3://bucket/store --projector s3://bucket/projectors/pca --name cohort-pca

The same as `dnafeat project`; settings may also stand in a YAML file given with --config. Sent again it projects what is new.
"""

import sys

from dnafeat.cli.main import main

if __name__ == "__main__":
    sys.exit(main(["project", *sys.argv[1:]]))
