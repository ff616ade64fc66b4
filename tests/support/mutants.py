"""Deliberately broken versions of the store's protocol, each of which a test must notice: `make mutants`.

    python tests/support/mutants.py [NAME …]

A mutant is one line of the package changed in a copy of the tree, in which the tests that should notice run. Those that survive are named
at the end, and the exit code is 1. Each mutant's line has to be in the tree once: `tests/test_house.py` looks.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import tempfile
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).parents[2]
COPIED = ("dnafeat", "schemas", "tests", "pyproject.toml", "constraints.txt")
GUARDS = "tests/embed/test_guards.py"


@dataclass(frozen=True)
class Mutant:
    """A change of one place, and the tests that must fail with it."""

    name: str
    file: str
    before: str
    after: str
    tests: str = GUARDS


PUBLISH, AUDIT = "dnafeat/embed/publish.py", "dnafeat/embed/audit.py"
WEIGHTS = "dnafeat/encoder/models/weights.py"
MUTANTS = (
    Mutant(
        "sequences-forget-erasure",
        PUBLISH,
        "            self._check_forgotten(table)\n            table.add_string_columns",
        "            table.add_string_columns",
    ),
    Mutant(
        "rejects-forget-erasure",
        PUBLISH,
        "            self._check_forgotten(table)\n            # What an attempt",
        "            # What an attempt",
    ),
    Mutant("features-forget-erasure", PUBLISH, "            self._check_forgotten(self.store.sequences.reload())\n", ""),
    Mutant("features-never-unchanged", PUBLISH, "planned + (base == planned)", "planned"),
    Mutant("features-two-ahead", PUBLISH, "planned + (base == planned)", "planned + 2 * (base == planned)"),
    Mutant(
        "no-seal",
        PUBLISH,
        "            self._check_stored(vectors, needed, each)\n            return Change()",
        "            return Change()",
        "tests/store/test_forget.py tests/embed/test_publish.py",
    ),
    Mutant(
        "publication-after-reading",
        "dnafeat/embed/run.py",
        "            intake = entries.read(workspace)\n",
        "            intake = entries.read(workspace)\n            publication = Publication(store, spec.run_id, spec.source_name)\n",
    ),
    Mutant("pickles-run", WEIGHTS, "weights_only=True, mmap=True", "weights_only=False, mmap=True"),
    Mutant(
        "pickles-run-loading",
        WEIGHTS,
        'map_location="cpu", weights_only=True)',
        'map_location="cpu", weights_only=False)',
        "tests/encoder/models/test_checkpoint.py",
    ),
    Mutant(
        "pickles-run-partners",
        "dnafeat/partners/arrays.py",
        "weights_only=True",
        "weights_only=False",
        "tests/partners/test_hostile.py",
    ),
    Mutant("salvage-takes-nan", "dnafeat/embed/salvage.py", " and not receipt.not_finite", ""),
    Mutant("audit-size", AUDIT, "if (size, len(names)) != (file.size, file.rows):", "if len(names) != file.rows:"),
    Mutant("audit-rows", AUDIT, "if (size, len(names)) != (file.size, file.rows):", "if size != file.size:"),
    Mutant("audit-counts", AUDIT, "if written != rows:", "if False:"),
    Mutant("audit-fewer-only", AUDIT, "if written != rows:", "if written < rows:"),
    Mutant(
        "run-twice",
        PUBLISH,
        'return None if len(table.read(["run_id"], ds.field("run_id") == self.run_id)) else Change(added=[file])',
        "return Change(added=[file])",
        "tests/embed/test_publish.py tests/embed/test_protocol.py",
    ),
    Mutant(
        "stored-again",
        PUBLISH,
        "            if base != planned:\n",
        "            if False:\n",
        "tests/embed/test_publish.py tests/embed/test_protocol.py",
    ),
    Mutant(
        "merge-without-vectors",
        PUBLISH,
        "                self._check_kept(kept, vectors.version, each)\n",
        "                pass\n",
        "tests/store/test_rollback.py",
    ),
)


def count(mutant: Mutant, tree: Path) -> int:
    """Count the places of a tree that a mutant would change."""
    return (tree / mutant.file).read_text().count(mutant.before)


def mutate(mutant: Mutant, tree: Path) -> None:
    """Apply a mutant to a copy of the tree."""
    if count(mutant, tree) != 1:
        raise SystemExit(f"{mutant.name}: its lines are in {mutant.file} {count(mutant, tree)} times, and not once")
    file = tree / mutant.file
    file.write_text(file.read_text().replace(mutant.before, mutant.after))


def survives(mutant: Mutant) -> bool:
    """Whether all tests pass in a tree with the mutant."""
    with tempfile.TemporaryDirectory(prefix="dnafeat-mutant-") as folder:
        tree = Path(folder)
        for name in COPIED:
            place = ROOT / name
            (shutil.copytree if place.is_dir() else shutil.copy)(place, tree / name)
        mutate(mutant, tree)
        command = [sys.executable, "-m", "pytest", "-q", "-x", "-p", "no:cacheprovider", *mutant.tests.split()]
        environment = {**os.environ, "PYTHONPATH": str(tree)}
        return subprocess.run(command, cwd=tree, env=environment, capture_output=True).returncode == 0


def main(names: list[str]) -> int:
    chosen = [one for one in MUTANTS if not names or one.name in names]
    left = []
    for one in chosen:
        alive = survives(one)
        left += [one.name] if alive else []
        print(f"{'SURVIVES' if alive else 'caught  '}  {one.name}", flush=True)
    print(f"{len(chosen) - len(left)} of {len(chosen)} caught")
    return 1 if left else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
