"""Stores of any size whose vectors are given, without an encoder; and a command that measures what PCA of one takes.

    python tests/support/madevectors.py --folder /somewhere/with/room --rows 1000000 --width 768

`tests/project/test_pca.py` compares two sizes.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import subprocess
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import psutil
import pyarrow as pa
from stores import A

from dnafeat.encoder.version import FeatureVersion
from dnafeat.project.config import FitProjectorConfig
from dnafeat.project.fit import fit_projector
from dnafeat.store import Store, digests
from dnafeat.store import vector_files as vectorfiles
from dnafeat.store.schema import arrow_schema

SOURCE = "cohort"
Values = Callable[[np.ndarray], Mapping[str, np.ndarray]]
_LETTERS = np.array(sorted("ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_"))


def names(numbers: np.ndarray, count: int) -> np.ndarray:
    """Made-up digests of sequences by number, (n,) of dtype S35, in the numbers' own order and over the whole range."""
    head = numbers * 4096 // count
    heads = np.char.add(_LETTERS[head // 64], _LETTERS[head % 64])
    return np.char.add(np.char.add("SQ.", heads), np.char.zfill(numbers.astype(str), 30)).astype(digests.DTYPE)


def version(columns: Sequence[str], hidden: int) -> FeatureVersion:
    return replace(A, architecture={"family": "tests", "hidden_size": hidden}, names={**A.names, "vectors": list(columns)})


def make(
    uri: str,
    count: int,
    values: Values,
    *,
    entries: Sequence[tuple[str, int, str]] | None = None,
    file_rows: int = 40_000,
) -> FeatureVersion:
    """A store with one published run.

    Parameters
    ----------
    count : int
        Distinct sequences.
    values : callable
        From their numbers to vectors by column, (n, width) float32 each.
    entries : sequence of (id, number of the sequence, subject)
        None: one a sequence, of ten subjects.
    """
    store = Store(uri)
    store.create()
    first = values(np.zeros(1, np.int64))
    made = version(list(first), next(iter(first.values())).shape[1])
    store.record_version(made.digest, event="created", lineage=made.lineage())
    schema = arrow_schema("features")
    schema = pa.schema([f for f in schema if f.name in ("sequence_digest", *first, "bases", "tokens", "windows", "run_id")])
    files = []
    for start in range(0, count, file_rows):
        numbers = np.arange(start, min(start + file_rows, count))
        plain = {name: pa.array(np.full(len(numbers), 300), schema.field(name).type) for name in ("bases", "tokens", "windows")}
        columns = {
            "sequence_digest": digests.to_arrow(names(numbers, count)),
            "run_id": pa.array(["run"] * len(numbers)),
            **plain,
        }
        for name, rows in values(numbers).items():
            offsets = pa.array(np.arange(0, rows.size + 1, rows.shape[1], dtype=np.int32))
            columns[name] = pa.ListArray.from_arrays(offsets, pa.array(rows.ravel())).cast(schema.field(name).type)
        table = pa.Table.from_arrays([columns[field.name] for field in schema], schema=schema)
        files.append(vectorfiles.write(store.features, [table], stem="run", version=made.digest).file)
    store.features.reload().commit(files)
    store.sequences.reload().add_string_columns(["subject_id"])
    for start in range(0, len(entries) if entries is not None else count, 250_000):
        _add_entries(store, count, None if entries is None else entries[start : start + 250_000], start)
    run = {"run_id": "run", "run_number": 1, "source_name": SOURCE, "feature_version": made.digest}
    row = {}
    for field in arrow_schema("runs"):
        nothing = "" if pa.types.is_string(field.type) else 0.0 if pa.types.is_floating(field.type) else 0
        row[field.name] = run.get(field.name, nothing)
    store.runs.commit([store.runs.write(pa.Table.from_pylist([row], schema=arrow_schema("runs")), stem="run")])
    return made


def _add_entries(store: Store, count: int, entries: Sequence[tuple[str, int, str]] | None, start: int) -> None:
    if entries is None:
        at = np.arange(start, min(start + 250_000, count))
        ids, subjects = np.char.add("e", at.astype(str)), np.char.add("S", (at % 10).astype(str))
    else:
        at = np.array([one[1] for one in entries])
        ids, subjects = (np.array([one[i] for one in entries]) for i in (0, 2))
    columns = {
        "source_name": pa.array([SOURCE] * len(at)),
        "sequence_id": pa.array(ids),
        "sequence_digest": digests.to_arrow(names(at, count)),
        "from_run": pa.array(np.ones(len(at), np.int64)),
        "until_run": pa.nulls(len(at), pa.int64()),
        "subject_id": pa.array(subjects),
    }
    sequences = store.sequences.reload()
    sequences.commit([sequences.write(pa.table(columns).cast(sequences.schema()), stem="run")])


# -- what it takes ---------------------------------------------------------------------------------------------------------


def spread_out(width: int) -> Values:
    """Vectors with a spectrum: the same numbers whoever asks, ten directions of much variance, and a mean far from zero."""
    draw = np.random.default_rng(0)
    directions = draw.standard_normal((10, width)).astype(np.float32) * np.arange(10, 0, -1, dtype=np.float32)[:, None]
    centre = 5 * draw.standard_normal(width).astype(np.float32)

    def values(numbers: np.ndarray) -> dict[str, np.ndarray]:
        noise = np.random.default_rng([1, int(numbers[0])])
        rows = noise.standard_normal((len(numbers), 10)).astype(np.float32) @ directions
        return {"mean": rows + 0.5 * noise.standard_normal(rows.shape).astype(np.float32) + centre}

    return values


def in_memory(width: int, rows: int, file_rows: int = 40_000) -> tuple[np.ndarray, np.ndarray]:
    """Mean and covariance of `spread_out` as NumPy has them from one matrix, (width,) and (width, width) float64."""
    values = spread_out(width)
    whole = np.concatenate([values(np.arange(at, min(at + file_rows, rows)))["mean"] for at in range(0, rows, file_rows)])
    mean = whole.mean(0, dtype=np.float64)
    total = np.zeros((width, width))
    for at in range(0, rows, 50_000):  # float64 of the whole would not fit beside it
        part = whole[at : at + 50_000] - mean
        total += part.T @ part
    return mean, total / (rows - 1)


def measured(folder: Path) -> dict[str, float]:
    """Fits the store in a folder in a process of its own: seconds, and the most bytes that it ever had, by the kernel."""
    process = subprocess.Popen([sys.executable, __file__, "--folder", str(folder), "--fit"])
    peak = 0
    began = time.monotonic()
    while process.poll() is None:
        with contextlib.suppress(psutil.Error, OSError, KeyError):
            status = dict(line.split(":", 1) for line in Path(f"/proc/{process.pid}/status").read_text().splitlines())
            peak = max(peak, int(status["VmHWM"].split()[0]) * 1024)
        time.sleep(0.05)
    assert process.returncode == 0
    return {"seconds": round(time.monotonic() - began, 1), "peak": peak}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--folder", type=Path, required=True, help="an empty one")
    parser.add_argument("--rows", type=int, default=1_000_000)
    parser.add_argument("--width", type=int, default=768)
    parser.add_argument("--fit", action="store_true", help="fit what is there already, and measure nothing")
    options = parser.parse_args()
    if options.fit:
        fit_projector(
            FitProjectorConfig(store=f"{options.folder}/store", source=SOURCE, output=f"{options.folder}/artifact"), show=False
        )
        return
    make(f"{options.folder}/store", options.rows, spread_out(options.width))
    print(json.dumps({"rows": options.rows, "width": options.width, **measured(options.folder)}))


if __name__ == "__main__":
    main()
