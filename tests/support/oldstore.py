"""Makes `store_v1.tar.gz`, the small store of contract number 1 that must stay readable, and `store_v1.json`, what it reads as.

Run once, by the code of that number, `python tests/support/oldstore.py tests/data`, and never again: a newer number gets files of
its own. Three runs of a source (one with a changed entry and a key more, one under another version) and one of another; names and a
channel.
"""

from __future__ import annotations

import json
import sys
import tarfile
import tempfile
from pathlib import Path
from typing import Any

from stores import A, B, Entry, fill, rows

from dnafeat.store import Store

FIRST = [Entry("a", "ACGT", {"subject_id": "S1"}), Entry("b", "ACGT", {"subject_id": "S2"}), Entry("c", "GGCC")]
SECOND = [Entry("a", "TTTT", {"subject_id": "S1", "gene_id": "cI"}), *FIRST[1:]]
OTHER = [Entry("a", "CCCC", {"subject_id": "S3"})]
READS: dict[str, dict[str, Any]] = {
    "by channel": {},
    "by name": {"version": "golden@1"},
    "before the key came": {"as_of": 1},
    "by run": {"run": "second"},
    "one subject": {"where": {"subject_id": ["S1"]}},
    "the other version": {"version": "golden@2"},
    "small columns": {"columns": ["sequence_digest", "bases", "cls+mean"], "version": "golden"},
}


def make(folder: Path) -> None:
    with tempfile.TemporaryDirectory() as scratch:
        store = Store(f"{scratch}/store_v1")
        for run_id, source, version, entries in (
            ("first", "cohort", A, FIRST),
            ("second", "cohort", A, SECOND),
            ("other", "other", A, OTHER),
            ("third", "cohort", B, SECOND),
        ):
            fill(store, entries, Path(scratch), source=source, version=version, run_id=run_id)
        store.name("golden", A.digest)
        store.name("golden", B.digest)
        store.point("production", A.digest)
        with tarfile.open(folder / "store_v1.tar.gz", "w:gz") as tar:
            tar.add(store.uri, "store_v1")
        lines = [f"{json.dumps(name)}: {json.dumps(rows(store.read(**options)))}" for name, options in READS.items()]
    (folder / "store_v1.json").write_text("{\n" + ",\n".join(lines) + "\n}\n")


if __name__ == "__main__":
    make(Path(sys.argv[1]))
