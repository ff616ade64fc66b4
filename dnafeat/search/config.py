"""NeighboursConfig: the settings of a search."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from dnafeat.settings import Settings, option, require


@dataclass(frozen=True, kw_only=True)
class NeighboursConfig(Settings, section="input"):
    """`dnafeat neighbours`."""

    store: str = option("folder or s3:// prefix of the store", env="DNAFEAT_STORE")
    query: tuple[str, ...] = option(
        "an id of an entry, a sequence, a file of sequences, or a .txt file with an id a line; several may be given",
        repeated=True,
    )
    version: str | None = option("version, name or channel (default: production, or the only version)", None)
    column: Literal["cls", "mean", "max", "projected"] = option("vectors to compare", "mean")
    metric: Literal["cosine", "l2", "dot"] = option(
        "cosine: 1 - cosine; l2: Euclidean distance; dot: minus the dot product", "cosine"
    )
    k: int = option("sequences to find for each query, its own among them", 10, ge=1, le=100_000)
    source: str | None = option("compare entries of this source only", None)
    where: tuple[str, ...] = option(
        "compare entries with this key (or sequence_id) only; again with the same column: either value", (), repeated=True
    )
    as_of: str | None = option("state as of a run (its id or number) or a time in UTC", None)
    panel: str | None = option("CSV or TSV of subjects, the first column as subject_id: its other columns are keys, too", None)
    by: tuple[str, ...] = option("count the entries of a neighbour by these keys, with commas, in place of listing them", ())
    salt_file: str | None = option("the salt under which ids or digests were hashed", None, section="privacy")
    output: str | None = option("write the table there; - is standard output (default: print a summary)", None, section="output")
    format: Literal["parquet", "csv", "tsv"] | None = option(
        "format of the file (default: by the name's ending, else parquet)", None, section="output"
    )

    def check(self) -> None:
        require(all(one.strip() for one in self.query), "query is empty: give an id, a sequence or a file")
        require(len(set(self.by)) == len(self.by), "by names a key twice")
