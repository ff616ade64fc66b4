"""How much the tests try: little in `make test`, everything in `make test-long` (DNAFEAT_TESTS=long), hours of it in `make chaos`.

`make chaos` says its own numbers in `DNAFEAT_PROTOCOL_EXAMPLES`, `DNAFEAT_CHAOS_KILLS` and `DNAFEAT_CHAOS_SEQUENCES`; what is tried is
then drawn anew each time.
"""

from __future__ import annotations

import os

LONG = os.environ.get("DNAFEAT_TESTS") == "long"


def examples(few: int, full: int) -> int:
    """Examples of a property test in `make test` and in `make test-long`."""
    return full if LONG else few


# Examples of a property test that says no number of its own.
EXAMPLES = examples(25, 100)
# Histories that the state machine of the store tries.
HISTORIES = int(os.environ.get("DNAFEAT_PROTOCOL_EXAMPLES") or examples(4, 30))
# Killed runs, and the sequences of each.
KILLS = int(os.environ.get("DNAFEAT_CHAOS_KILLS") or 3)
SEQUENCES = int(os.environ.get("DNAFEAT_CHAOS_SEQUENCES") or 900)
# Bad inputs of all kinds.
BAD_INPUTS = examples(16, 2000)
