"""Read a shard's sequences and cut them into windows of token ids, before an encoder has them.

No torch, and no file of a model: the tokenizer comes with the settings. A process that only tokenises takes little memory, is there a
second sooner, and needs no model on its node.
"""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from dnafeat import parquet, storage
from dnafeat.cluster.attempts import Attempt
from dnafeat.cluster.board import TOKENISING, Board
from dnafeat.cluster.observe import Job
from dnafeat.encoder.models.tokenizers import Tokenizer
from dnafeat.encoder.windows import ARRAYS, Cutting, Windows, cut
from dnafeat.errors import DamagedError, EncodingError, one_line


@dataclass(frozen=True, kw_only=True)
class TokeniserSettings:
    """What tokenising the run's shards takes."""

    tokenizer: Tokenizer
    cutting: Cutting
    job: Job = field(default_factory=Job)
    packages: dict[str, str] = field(default_factory=dict)
    """Versions of the libraries in the driver; a process that has others says so."""


@dataclass(frozen=True)
class Tokenised:
    """A tokenised shard as an encoder takes it.

    Attributes
    ----------
    uri : str
    digests : pa.StringArray, length n
    bases : np.ndarray, shape=(n,), int64
    windows : Windows
    """

    uri: str
    digests: pa.Array
    bases: np.ndarray
    windows: Windows

    @classmethod
    def of(cls, row: pa.Table) -> Tokenised:
        """From a row that `row` made."""
        arrays = {name: row[name].combine_chunks().flatten() for name in (*ARRAYS, "bases", "digests")}
        digests, bases = arrays.pop("digests").cast(pa.string()), arrays.pop("bases").to_numpy()
        windows = Windows(**{name: array.to_numpy(zero_copy_only=False) for name, array in arrays.items()})
        return cls(row["uri"][0].as_py(), digests, bases, windows)

    def row(self) -> pa.Table:
        """One row, arrays as lists, as it goes from one process to another."""
        columns = {
            "digests": self.digests,
            "bases": pa.array(self.bases),
            **{name: pa.array(getattr(self.windows, name)) for name in ARRAYS},
        }
        return pa.table({"uri": [self.uri], **{name: one_list(column) for name, column in columns.items()}})

    @property
    def counts(self) -> dict[str, int]:
        """Tokens; sequences whose end was left out; sequences of several windows."""
        return {
            "tokens": int(self.windows.tokens().sum()),
            "truncated": int(self.windows.cut.sum()),
            "windowed": int((self.windows.counts() > 1).sum()),
        }


def tokenise(uri: str, settings: TokeniserSettings, board: Board) -> Tokenised:
    """Read a shard and cut its sequences into windows of token ids. Raises EncodingError where it cannot be read."""
    name = TOKENISING + storage.name(uri)
    begun(name, board)
    with reached(uri, "read"):
        table = parquet.read(uri)
    letters = table["sequence"].cast(pa.large_string()).to_pylist()
    windows = cut(letters, settings.tokenizer, settings.cutting)
    bases = pc.binary_length(table["sequence"]).cast(pa.int64()).combine_chunks()
    board.finish(name)
    return Tokenised(uri, table["sequence_digest"].combine_chunks(), bases.to_numpy(), windows)


def tokenise_shards(batch: Any, settings: TokeniserSettings, board: Board) -> Any:
    """Tokenise shards of a Ray dataset (an Arrow table with column uri): one row in, one row out."""
    # The library starts a thread for every core unless told not to, in each of the tasks beside the encoders.
    os.environ["TOKENIZERS_PARALLELISM"] = "false"
    return pa.concat_tables([tokenise(uri, settings, board).row() for uri in batch["uri"].to_pylist()])


@contextlib.contextmanager
def reached(uri: str, how: str) -> Iterator[None]:
    """Raise EncodingError, which names the place, where the block cannot reach its storage; s3fs and botocore have tried again by then."""
    try:
        yield
    except (OSError, pa.ArrowException, DamagedError, *storage.SERVER_ERRORS) as error:
        raise EncodingError(f"{uri} cannot be {how}: {one_line(error)}") from error


def begun(name: str, board: Board) -> Attempt:
    """Report that this process begins a shard. Raises EncodingError where the run has to end."""
    attempt = board.begin(name)
    if attempt.stop is not None:
        raise EncodingError(attempt.stop)
    return attempt


def one_list(values: pa.Array) -> pa.Array:
    """An array as the only row of a list column, not copied."""
    return pa.LargeListArray.from_arrays(pa.array([0, len(values)]), values)
