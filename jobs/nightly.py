"""Embeds what is new in a source, every night, and moves the channel `production` when all is well.

    ray job submit --address http://HEAD:8265 --submission-id 2026-11-21-1 --working-dir . -- \\
        python jobs/nightly.py --config jobs/nightly.yaml --run-id 2026-11-21
    python jobs/nightly.py FILE.fa --store ./store --source-name cohort                      (this machine alone)

The run id is the night: sent again after a failure (under another submission id) it goes on, and once it is published it does nothing.
Flags are those of `dnafeat nightly --help`; they override the YAML file.
"""

import sys

from dnafeat.cli.main import main

sys.exit(main(["nightly", *sys.argv[1:]]))
