"""Embeds sequences into a feature store.

    ray job submit --address http://HEAD:8265 --working-dir . -- python jobs/embed.py --config jobs/embed.yaml
    python jobs/embed.py FILE.fa --store ./store                      (this machine alone)

Flags are those of `dnafeat embed --help`; they override the YAML file.
"""

import sys

from dnafeat.cli.main import main

sys.exit(main(["embed", *sys.argv[1:]]))
