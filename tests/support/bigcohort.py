"""Joins of stores of any size, in a process of their own, and what they take in memory.

    python tests/support/bigcohort.py --entries 1000000 --folder /somewhere/with/room

Ten entries a subject; four share a sequence, as people share haplotypes. `tests/join/test_scale.py` compares two sizes.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path

import numpy as np
import psutil
import pyarrow as pa
import pyarrow.parquet as pq
from stores import A

from dnafeat.join.config import JoinConfig
from dnafeat.join.job import join
from dnafeat.store import Store, digests
from dnafeat.store import vector_files as vectorfiles
from dnafeat.store.schema import arrow_schema

SOURCE, GENES, OF_A_SUBJECT, SHARED_BY = "cohort", 5, 10, 4
VERSION = replace(A, names={**A.names, "vectors": ["mean"]})
_FILE_ROWS = 40_000


def vectors_of(numbers: np.ndarray, width: int) -> np.ndarray:
    """The made-up vectors of some sequences by number, (n, width) float32: anyone can make them again."""
    base = (numbers[:, None] * 31 + np.arange(width)[None, :] * 17) % 1009
    return (base / 1009 - 0.5).astype(np.float32)


def subjects_vector(subject: int, width: int) -> np.ndarray:
    """The mean of a subject's vectors, as a join has to give it."""
    return (
        vectors_of(np.arange(subject * OF_A_SUBJECT, (subject + 1) * OF_A_SUBJECT) // SHARED_BY, width).astype(np.float64).mean(0)
    )


def make(folder: Path, entries: int, width: int, brain_width: int) -> None:
    """A store with made-up vectors, and Parquet files of a partner with two sessions a subject, as one row group each."""
    store = Store(str(folder / "store"))
    store.create()
    store.record_version(VERSION.digest, event="created", lineage=VERSION.lineage())
    count = entries // SHARED_BY
    # Digests in order, as the files of a run have them.
    letters = sorted("ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_")
    heads = [letters[place // 64] + letters[place % 64] for place in (np.arange(count) * 4096 // count).tolist()]
    names = np.array([f"SQ.{head}{i:030d}" for i, head in enumerate(heads)], digests.DTYPE)
    schema = arrow_schema("features")
    schema = pa.schema([schema.field(name) for name in ("sequence_digest", "mean", "bases", "tokens", "windows", "run_id")])
    files = []
    for first in range(0, count, _FILE_ROWS):
        numbers = np.arange(first, min(first + _FILE_ROWS, count))
        n = len(numbers)
        offsets = pa.array(np.arange(0, (n + 1) * width, width, dtype=np.int32))
        lists = pa.ListArray.from_arrays(offsets, pa.array(vectors_of(numbers, width).ravel())).cast(schema.field("mean").type)
        plain = [pa.array(np.full(n, 300), schema.field(name).type) for name in ("bases", "tokens", "windows")]
        table = pa.Table.from_arrays([digests.to_arrow(names[numbers]), lists, *plain, pa.array(["run"] * n)], schema=schema)
        files.append(vectorfiles.write(store.features, [table], stem="run", version=VERSION.digest).file)
    store.features.reload().commit(files)
    store.sequences.reload().add_string_columns(["subject_id", "gene_id"])
    at = np.random.default_rng(0).permutation(entries)
    columns = {
        "source_name": pa.array([SOURCE] * entries),
        "sequence_id": pa.array(np.char.add("e", at.astype(str))),
        "sequence_digest": digests.to_arrow(names[at // SHARED_BY]),
        "from_run": pa.array(np.ones(entries, np.int64)),
        "until_run": pa.nulls(entries, pa.int64()),
        "subject_id": pa.array((at // OF_A_SUBJECT).astype(str)),
        "gene_id": pa.array(np.char.add("g", (at % GENES).astype(str))),
    }
    rows = pa.table(columns).cast(store.sequences.schema())
    pieces = [rows.slice(i, 250_000) for i in range(0, entries, 250_000)]
    store.sequences.commit([store.sequences.write(piece, stem="run") for piece in pieces])
    run = {"run_id": "run", "run_number": 1, "source_name": SOURCE, "feature_version": VERSION.digest}
    row = {}
    for field in arrow_schema("runs"):
        nothing = "" if pa.types.is_string(field.type) else 0.0 if pa.types.is_floating(field.type) else 0
        row[field.name] = run.get(field.name, nothing)
    store.runs.commit([store.runs.write(pa.Table.from_pylist([row], schema=arrow_schema("runs")), stem="run")])
    subjects = entries // OF_A_SUBJECT
    (folder / "brain").mkdir()
    for session in range(2):
        scans = vectors_of(np.arange(subjects) + session, brain_width)
        column = pa.FixedSizeListArray.from_arrays(pa.array(scans.ravel()), brain_width)
        table = pa.table({"subject_id": np.arange(subjects), "vector": column})
        pq.write_table(table, folder / "brain" / f"session-{session}.parquet", row_group_size=2**20)


def run(folder: Path, level: str) -> None:
    config = JoinConfig.make(
        store=str(folder / "store"),
        partner=(f"brain={folder}/brain",),
        on="subject_id",
        level=level,
        output=str(folder / f"joined-{level}"),
        ray=True,
    )
    summary = join(config, show=False)
    print(json.dumps({"rows": summary.rows, "sequences": summary.sequences, "seconds": summary.seconds}))


def measured(folder: Path, level: str) -> dict[str, float]:
    """Joins in another process: seconds, and the most bytes that its driver and the largest of its workers ever had, by the kernel."""
    command = [sys.executable, __file__, "--folder", str(folder), "--join", level]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
    driver = worker = 0
    this = psutil.Process(process.pid)
    while process.poll() is None:
        with contextlib.suppress(psutil.Error, OSError, KeyError):
            driver = max(driver, _peak(this.pid))
            worker = max([worker, *(_peak(one.pid) for one in this.children(recursive=True) if _called(one))])
        time.sleep(0.2)
    assert process.returncode == 0
    assert process.stdout is not None
    return {**json.loads(process.stdout.read().splitlines()[-1]), "driver": driver, "worker": worker}


def _called(process: psutil.Process) -> bool:
    return "_called" in " ".join(process.cmdline())


def _peak(pid: int) -> int:
    """The most memory that a process ever had, shared pages among it: a sample would miss it."""
    status = dict(line.split(":", 1) for line in Path(f"/proc/{pid}/status").read_text().splitlines())
    return int(status["VmHWM"].split()[0]) * 1024


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--folder", type=Path, required=True, help="an empty one")
    parser.add_argument("--entries", type=int, default=1_000_000)
    parser.add_argument("--width", type=int, default=768)
    parser.add_argument("--brain-width", type=int, default=512)
    parser.add_argument("--join", metavar="LEVEL", help="join what is there already, and measure nothing")
    options = parser.parse_args()
    if options.join:
        run(options.folder, options.join)
        return
    make(options.folder, options.entries, options.width, options.brain_width)
    for level in ("subject", "sequence"):
        print(level, json.dumps(measured(options.folder, level)), flush=True)


if __name__ == "__main__":
    main()
