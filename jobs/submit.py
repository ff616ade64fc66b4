"""Sends a night to the cluster's job server, follows it, and sends it again when it failed in a way that passes.

    python jobs/submit.py --attempts 3 -- python jobs/nightly.py --config jobs/nightly.yaml
    python jobs/submit.py --address http://HEAD:8265 --night 2026-11-20 -- python jobs/nightly.py --config jobs/nightly.yaml

Run id: the night, today's date unless told. Submission ids: 2026-11-20-1, -2, … A night that has succeeded is not sent again, and one that
is at work is followed. Exit code 0: published.
"""

import argparse
import sys

from dnafeat.cli.main import guarded
from dnafeat.cli.output import Output


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--address", default="http://127.0.0.1:8265", help="the job server (the head itself)")
    parser.add_argument(
        "--night", help="the run id; today's date, UTC, unless told; with several sources a name of its own for each"
    )
    parser.add_argument("--attempts", type=int, default=1, help="how often it may be sent (1)")
    parser.add_argument("--working-dir", default=".", help="the code that the job takes along (this folder)")
    parser.add_argument("command", nargs="+", help="after --: the night's command")
    options = parser.parse_args()

    def run() -> int:
        from dnafeat.embed.submit import submit

        submit(
            options.command,
            address=options.address,
            night=options.night,
            attempts=options.attempts,
            working_dir=options.working_dir,
            say=Output().narrate,
        )
        return 0

    return guarded(run)


sys.exit(main())
