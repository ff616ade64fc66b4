"""Two nights of very many made-up entries, the second with one in a hundred new: what each stage takes, in seconds and in memory.

    python tests/support/scale.py --entries 50000000 --folder /somewhere/with/room

The vectors of the first night are made up, too (encoding them would take days, and is not what this measures); everything else is the
main job as it is, the encoding of what is new included. `make scale` runs it.
"""

from __future__ import annotations

import argparse
import functools
import json
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import psutil
import pyarrow as pa
import pyarrow.parquet as pq

from dnafeat.bench import stores as benchstore
from dnafeat.cluster import session as cluster
from dnafeat.cluster.tasks import over_tasks
from dnafeat.embed.config import EmbedConfig
from dnafeat.embed.job import embed
from dnafeat.encoder import Encoder
from dnafeat.store import Store

BASES = 100
FILES = 100  # the last one is new in the second night
COPIES = 0.25  # share of entries that carry the sequence of another
MOVED = GONE = 0.01  # of the entries of the first file, in the second night
ROWS_OF_A_FILE = 250_000  # of vectors


def entries(folder: Path, number: int, rows: int) -> str:
    """A file of the source, the same whenever it is made."""
    path = folder / f"part-{number:03d}.parquet"
    draw = np.random.default_rng(number)
    which = np.where(draw.random(rows) < COPIES, draw.integers(0, rows, rows), np.arange(rows))
    letters = np.frombuffer(b"ACGT", np.uint8)[draw.integers(0, 4, (rows, BASES), np.uint8)][which]
    offsets = np.arange(0, rows * BASES + 1, BASES, dtype=np.int32)
    names = np.char.add(f"e{number:03d}-", np.arange(rows).astype(str))
    columns = {
        "sequence_id": pa.array(names),
        "sequence": pa.StringArray.from_buffers(rows, pa.py_buffer(offsets), pa.py_buffer(letters.tobytes())),
        "subject_id": pa.array(np.char.add("s", draw.integers(0, 10_000, rows).astype(str))),
    }
    pq.write_table(pa.table(columns), path, compression="zstd", row_group_size=100_000)
    return str(path)


def second_state(path: Path) -> None:
    """Some entries of a file are gone, others are another subject's."""
    table = pq.read_table(path)
    table = table.slice(int(GONE * len(table)))
    moved = int(MOVED * len(table))
    subject = pa.concat_arrays([pa.array(["moved"] * moved), table["subject_id"].combine_chunks()[moved:]])
    pq.write_table(table.set_column(2, "subject_id", subject), path, compression="zstd", row_group_size=100_000)


def fill(config: EmbedConfig, folder: Path) -> None:
    """Commits made-up vectors of all sequences of a configuration's sources."""
    vector = Encoder.load(config.encoding).encode(["ACGT" * (BASES // 4)]).mean[0].tolist()
    cluster.start_ray()
    made_up = functools.partial(benchstore.constant, vector)
    benchstore.fill(config, made_up, folder, bases=BASES, tokens=34, rows=ROWS_OF_A_FILE, each=over_tasks(True))
    cluster.stop_ray()


class Memory(threading.Thread):
    """The most memory that this process had, and that any of those it started had, from second to second, in bytes."""

    def __init__(self) -> None:
        super().__init__(daemon=True)
        self.own = self.worker = self.all = 0
        self.over = threading.Event()

    def run(self) -> None:
        this = psutil.Process()
        while not self.over.wait(1.0):
            self.own = max(self.own, this.memory_full_info().uss)
            found = []
            for child in this.children(recursive=True):
                try:
                    # Of the object store, which Ray's workers share, each would count all that it has touched.
                    found.append(child.memory_full_info().uss)
                except psutil.Error:
                    continue
            self.worker, self.all = max([self.worker, *found]), max(self.all, self.own + sum(found))


@contextmanager
def measured(what: str, told: dict[str, object]) -> Iterator[None]:
    memory, began = Memory(), time.monotonic()
    memory.start()
    yield
    memory.over.set()
    memory.join()
    sizes = {name: round(getattr(memory, name) / 2**30, 2) for name in ("own", "worker", "all")}
    print(json.dumps({"what": what, "seconds": round(time.monotonic() - began, 1), "GiB": sizes, **told}), flush=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--entries", type=int, default=50_000_000)
    parser.add_argument("--folder", type=Path, required=True, help="an empty one, for 1 GB of a million entries")
    parser.add_argument("--model", default="dnafeat-mini")
    options = parser.parse_args()
    folder: Path = options.folder
    (folder / "source").mkdir(parents=True)
    rows = options.entries // FILES
    with measured("making entries up", {}):
        files = [entries(folder / "source", number, rows) for number in range(FILES - 1)]
    store = Store(str(folder / "store"))
    told: dict[str, object] = {}
    with measured("making vectors up", told):
        fill(EmbedConfig.make(sources=tuple(files), store=store.uri, model=options.model, vectors=("mean",)), folder)
    config = EmbedConfig.make(
        sources=(str(folder / "source"),), store=store.uri, source_name="cohort", model=options.model, vectors=("mean",)
    )
    for night in ("the first night", "the second night, 1 % new", "a third one, nothing new"):
        told = {}
        with measured(night, told):
            summary = embed(config, show=True)
            cluster.stop_ray()
            told |= {
                name: getattr(summary, name) for name in ("read", "distinct", "already_stored", "encoded", "opened", "closed")
            }
            told["stages"] = summary.stages
        if night == "the first night":
            entries(folder / "source", FILES - 1, rows)
            second_state(folder / "source" / "part-000.parquet")
    count = options.entries - int(GONE * rows)
    assert store.count_entries(store.history().state(summary.feature_version)) == count, "entries are missing or too many"


if __name__ == "__main__":
    sys.exit(main())
