"""What a task does with a shard before an encoder has it: reads its sequences and adds their windows of token ids.

No torch, and no file of a model: the tokenizer comes with the settings. A process that only tokenises takes little memory, is there a
second sooner, and needs no model on its node.
"""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any, cast

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
import ray
from botocore.exceptions import BotoCoreError, ClientError

from dnafeat import storage
from dnafeat.cluster import packages as pins
from dnafeat.cluster.attempts import Attempt
from dnafeat.cluster.observe import Job
from dnafeat.cluster.progress import TOKENISING
from dnafeat.encoder.models.tokenizers import Tokenizer
from dnafeat.encoder.windows import ARRAYS, Cutting, Windows, cut
from dnafeat.errors import EncodingError, one_line


@dataclass(frozen=True, kw_only=True)
class TokeniserSettings:
    """What a task needs to tokenise the run's shards."""

    tokenizer: Tokenizer
    cutting: Cutting
    job: Job = field(default_factory=Job)
    packages: dict[str, str] = field(default_factory=dict)
    """Versions of the libraries in the driver; a process that has others says so."""


def tokenise_shards(batch: Any, settings: TokeniserSettings, progress: ray.actor.ActorHandle) -> Any:
    """Reads shards (an Arrow table with column uri) and adds their windows of token ids: one row in, one row out, arrays as lists."""
    # The library starts a thread for every core unless told not to, in each of the tasks beside the encoders.
    os.environ["TOKENIZERS_PARALLELISM"] = "false"
    return pa.concat_tables([_tokenised(uri, settings, progress) for uri in batch["uri"].to_pylist()])


def _tokenised(uri: str, settings: TokeniserSettings, progress: ray.actor.ActorHandle) -> pa.Table:
    name = TOKENISING + storage.name(uri)
    begun(name, progress)
    compare_packages(settings, progress)
    with reached(uri, "read"):
        fs, path = storage.filesystem(uri)
        with fs.open(path, "rb") as file:
            table = pq.read_table(file)
    letters = table["sequence"].cast(pa.large_string()).to_pylist()
    windows = cut(letters, settings.tokenizer, settings.cutting)
    columns = {
        "digests": table["sequence_digest"].combine_chunks(),
        "bases": pc.binary_length(table["sequence"]).cast(pa.int64()).combine_chunks(),
        **{name: pa.array(getattr(windows, name)) for name in ARRAYS},
    }
    progress.finish.remote(name)
    return pa.table({"uri": [uri], **{name: one_list(column) for name, column in columns.items()}})


@contextlib.contextmanager
def reached(uri: str, how: str) -> Iterator[None]:
    """Raises EncodingError, which names the place, where the block cannot reach its storage; s3fs and botocore have tried again by then."""
    try:
        yield
    except (OSError, pa.ArrowException, BotoCoreError, ClientError) as error:
        raise EncodingError(f"{uri} cannot be {how}: {one_line(error)}") from error


def begun(name: str, progress: ray.actor.ActorHandle) -> Attempt:
    """Says that this process begins something, and waits until that is known, whatever becomes of the process."""
    attempt = cast(Attempt, ray.get(progress.begin.remote(name)))
    if attempt.stop is not None:
        raise EncodingError(attempt.stop)
    return attempt


_compared: set[str] = set()


def compare_packages(settings: TokeniserSettings, progress: ray.actor.ActorHandle) -> None:
    """Notes, once in a process and run, where it has other versions than the driver."""
    if settings.job.run_id in _compared:
        return
    _compared.add(settings.job.run_id)
    if other := pins.differing(settings.packages, pins.installed()):
        node = ray.util.get_node_ip_address()
        progress.note.remote(f"node {node} has other versions than the driver: {', '.join(other)}; install the same on all nodes")


def one_list(values: pa.Array) -> pa.Array:
    """An array as the only row of a list column, not copied."""
    return pa.LargeListArray.from_arrays(pa.array([0, len(values)]), values)


@dataclass(frozen=True)
class Tokenised:
    """A tokenised shard as an actor takes it.

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
        """From one row of what `tokenise_shards` returns."""
        arrays = {name: row[name].combine_chunks().flatten() for name in (*ARRAYS, "bases", "digests")}
        digests, bases = arrays.pop("digests").cast(pa.string()), arrays.pop("bases").to_numpy()
        windows = Windows(**{name: array.to_numpy(zero_copy_only=False) for name, array in arrays.items()})
        return cls(row["uri"][0].as_py(), digests, bases, windows)

    @property
    def truncated(self) -> int:
        """Sequences whose end was left out."""
        return int(self.windows.cut.sum())

    @property
    def counts(self) -> dict[str, int]:
        """What a receipt says of its length."""
        windows = self.windows
        counted = {"tokens": int(windows.tokens().sum()), "windowed": int((windows.counts() > 1).sum())}
        return counted | {"truncated": self.truncated}
