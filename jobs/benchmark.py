"""Measures how fast this machine encodes, beside its limits and other ways to do it, prints one table and writes bench.json.

    python jobs/benchmark.py                                 (everything; 40 minutes on 2 cores, 20 GB of disk)
    python jobs/benchmark.py --quick                         (minutes, with fewer repeats of smaller inputs)
    PYTHONPATH=. python jobs/benchmark.py --bare             (a bare GPU machine: torch and transformers are enough)

The same as `dnafeat benchmark`, whose --help says what can be chosen. It measures the machine it runs on and starts a Ray of its own there,
so it is not sent to a cluster.
"""

import sys

from dnafeat.cli.main import main

if __name__ == "__main__":
    sys.exit(main(["benchmark", *sys.argv[1:]]))
