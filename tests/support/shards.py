"""Work shards as the plan writes them."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
from stores import digest

from dnafeat.embed.intake import SEQUENCE_SCHEMA
from dnafeat.embed.plan import Shard


def cut_shard(folder: Path, name: str, sequences: Sequence[str]) -> Shard:
    """A shard of some sequences, in the order of their digests."""
    named = sorted((digest(one), one.encode()) for one in sequences)
    folder.mkdir(parents=True, exist_ok=True)
    columns = [pa.array(column, f.type) for column, f in zip(zip(*named, strict=True), SEQUENCE_SCHEMA, strict=True)]
    pq.write_table(pa.Table.from_arrays(columns, schema=SEQUENCE_SCHEMA), folder / name)
    return Shard(str(folder / name), len(sequences))
