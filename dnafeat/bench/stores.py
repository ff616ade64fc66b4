"""Stores of made-up vectors, for measuring what does not encode: their files and entries are those that the main job makes."""

from __future__ import annotations

import functools
import shutil
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path

import numpy as np
import pyarrow as pa

from dnafeat.cluster.spread import Each, here
from dnafeat.embed.config import EmbedConfig
from dnafeat.embed.intake import Checks, take_in
from dnafeat.encoder.describe import describe
from dnafeat.encoder.source import Source
from dnafeat.sources import reader as sources
from dnafeat.spill import Spill
from dnafeat.store import Store, digests
from dnafeat.store import vector_files as vectorfiles
from dnafeat.store.data_file import DataFile
from dnafeat.store.matrices import as_nullable_lists
from dnafeat.store.schema import arrow_schema

RUN = "made-up"
_PIECE_ROWS = 16_384
# From how many rows of a width to their vectors, (rows, width) float32.
Vectors = Callable[[int], np.ndarray]


def constant(vector: Sequence[float], rows: int) -> np.ndarray:
    """The same vector for all: what is cheapest to make and to store."""
    return np.broadcast_to(np.array(vector, np.float32), (rows, len(vector)))


def gaussian(width: int, rows: int) -> np.ndarray:
    """Vectors that compress as little as an encoder's."""
    return np.random.default_rng(rows).standard_normal((rows, width), np.float32)


def fill(config: EmbedConfig, vectors: Vectors, folder: Path, *, bases: int, tokens: int, rows: int, each: Each = here) -> None:
    """Commits made-up `mean` vectors of all sequences of a configuration's sources to its store, and publishes no run.

    Parameters
    ----------
    vectors : Vectors
        Sent to other processes where `each` does so.
    folder : Path
        For spills.
    bases, tokens : int
        What is said of each sequence.
    rows : int
        Of a file at most.
    """
    store, version = Store(config.store), describe(Source.find(config.encoding), config.encoding, gpu=False)
    store.create()
    intake = take_in(sources.look(list(config.sources), sources.ReadOptions()), Checks(), folder / "spills", each=each)
    make = functools.partial(_made_up, store, version.digest, vectors, bases, tokens, rows)
    found = each(make, intake.sequences.each(), "making vectors up")
    store.features.reload().commit([file for some in found for file in some])
    shutil.rmtree(folder / "spills")


def _made_up(
    store: Store, version: str, vectors: Vectors, bases: int, tokens: int, rows: int, sequences: Spill
) -> list[DataFile]:
    names = np.unique(digests.to_numpy(sequences.table()["sequence_digest"]))

    def pieces(part: np.ndarray) -> Iterator[pa.Table]:
        for first in range(0, len(part), _PIECE_ROWS):
            some = part[first : first + _PIECE_ROWS]
            yield table(some, {"mean": vectors(len(some))}, bases, tokens)

    parts = [names[first : first + rows] for first in range(0, len(names), rows)]
    return [vectorfiles.write(store.features, pieces(part), stem=RUN, version=version).file for part in parts]


def table(names: np.ndarray, vectors: Mapping[str, np.ndarray], bases: int, tokens: int) -> pa.Table:
    """Rows of `features` without the partition column, for sequences given by their digests, (n,) of dtype S35 in order."""
    n, schema = len(names), arrow_schema("features")
    chosen = ("sequence_digest", *vectors, "bases", "tokens", "windows", "run_id")
    schema = pa.schema([field for field in schema if field.name in chosen])
    columns = {"sequence_digest": digests.to_arrow(names), "run_id": pa.array([RUN] * n)}
    for name, value in (("bases", bases), ("tokens", tokens), ("windows", 1)):
        columns[name] = pa.array(np.full(n, value), schema.field(name).type)
    for name, values in vectors.items():
        columns[name] = as_nullable_lists(values, None).cast(schema.field(name).type)
    return pa.Table.from_arrays([columns[field.name] for field in schema], schema=schema)
