"""Files of vectors below `features`: written with a receipt in the footer, known again by it, and rewritten with the rows asked for."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field, fields
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from dnafeat import parquet, storage
from dnafeat.errors import StoreError
from dnafeat.store import digests
from dnafeat.store.data_file import DataFile
from dnafeat.store.profiles import Profile, vectors_profile
from dnafeat.store.schema import arrow_schema
from dnafeat.store.table import Table
from dnafeat.vectors import VECTORS

_FOOTER = "dnafeat"
_PIECE_ROWS = 8_192


@dataclass(frozen=True, kw_only=True)
class Norms:
    """L2 norms of one vector column of a file, and how many rows of it hold a NaN or an infinity; those are in no norm."""

    least: float = float("inf")
    mean: float = 0.0
    largest: float = 0.0
    not_finite: int = 0


@dataclass(frozen=True, kw_only=True)
class Receipt:
    """Metadata of a vector file, known without reading its rows; all but path and size is in its footer.

    Attributes
    ----------
    file : DataFile
    shard : str
        The work shard it was made of; empty for a rewritten file.
    tokens : int
        Content tokens.
    windowed, truncated : int
        Sequences that took several windows, and those whose end was left out.
    computed, needed : int
        Tokens that went through the encoder, with special tokens; with and without padding.
    refused : tuple of str
        Digests of sequences of the shard that are not in the file, since encoding them ended the worker process again and again.
    began, ended : float
        Seconds since the epoch.
    norms : Mapping[str, Norms]
        Of each vector column.
    profile : str
        JSON of the vectors' part of a run's profile; empty in files of earlier releases.
    """

    file: DataFile
    shard: str = ""
    tokens: int = 0
    windowed: int = 0
    truncated: int = 0
    computed: int = 0
    needed: int = 0
    refused: tuple[str, ...] = ()
    began: float = 0.0
    ended: float = 0.0
    norms: Mapping[str, Norms] = field(default_factory=dict)
    profile: str = ""

    def __post_init__(self) -> None:
        object.__setattr__(self, "refused", tuple(self.refused))  # JSON makes lists of tuples

    @property
    def not_finite(self) -> int:
        return sum(norms.not_finite for norms in self.norms.values())

    def to_json(self) -> str:
        return json.dumps(asdict(self))

    @classmethod
    def from_json(cls, text: str) -> Receipt:
        content = json.loads(text)
        norms = {name: Norms(**values) for name, values in content.pop("norms").items()}
        return cls(file=DataFile(**content.pop("file")), norms=norms, **content)


def write(
    table: Table,
    pieces: Iterable[pa.Table],
    *,
    stem: str,
    version: str,
    about: Callable[[], Mapping[str, Any]] = dict,
) -> Receipt:
    """Write rows of `features`, in digest order and without the partition column, as one file that is not part of the table yet.

    Parameters
    ----------
    table : Table
        `features`.
    pieces : iterable of pyarrow.Table
        Let go one by one; each is written while the next is made.
    stem : str
        Beginning of the file's name.
    version : str
        The rows' feature version.
    about : callable
        Fields of `Receipt` that the rows do not tell, asked once the last piece is written.
    """
    meters: dict[str, _Meter] = {}
    profile = Profile()
    counts = {"tokens": 0, "windowed": 0}
    content: dict[str, Any] = {}

    def metered() -> Iterator[pa.Table]:
        nonlocal profile
        for piece in pieces:
            found = {name: _rows_of(piece[name]) for name in VECTORS if name in piece.column_names}
            for name, rows in found.items():
                meters.setdefault(name, _Meter()).add(rows)
            profile += vectors_profile(found)
            counts["tokens"] += pc.sum(piece["tokens"]).as_py() or 0
            counts["windowed"] += int((piece["windows"].to_numpy() > 1).sum())
            yield piece

    def footer() -> dict[str, str]:
        norms = {name: meter.norms() for name, meter in meters.items()}
        content.update(counts, **about(), norms=norms, profile=profile.to_json())
        return {_FOOTER: json.dumps({**content, "norms": {name: asdict(one) for name, one in norms.items()}})}

    file = table.write(metered(), stem=stem, partition={"feature_version": version}, footer=footer)
    return Receipt(file=file, **content)


class _Meter:
    """The norms of a column, gathered piece by piece."""

    def __init__(self) -> None:
        self.rows, self.total, self.least, self.largest, self.strange = 0, 0.0, float("inf"), 0.0, 0

    def add(self, rows: np.ndarray) -> None:
        if not len(rows):
            return
        norms = np.linalg.norm(rows, axis=1)
        good = norms[np.isfinite(norms)].astype(np.float64)
        self.strange += len(norms) - len(good)
        if len(good):
            self.rows, self.total = self.rows + len(good), self.total + float(good.sum())
            self.least, self.largest = min(self.least, float(good.min())), max(self.largest, float(good.max()))

    def norms(self) -> Norms:
        return Norms(least=self.least, mean=self.total / max(1, self.rows), largest=self.largest, not_finite=self.strange)


def _rows_of(column: pa.ChunkedArray) -> np.ndarray:
    """The vectors of a column, (n, width) float32. Rows of a version with a parent may have none of their own."""
    column = column.drop_null()
    if not len(column):
        return np.empty((0, 0), np.float32)
    return np.asarray(column.combine_chunks().flatten()).reshape(len(column), -1)


def read_receipt(table: Table, path: str, size: int, version: str) -> Receipt | None:
    """The receipt in the footer of a vector file, or None for one that is not whole or not ours.

    Parameters
    ----------
    table : Table
        `features`.
    path : str
        Relative to the table's folder.
    size : int
        Bytes.
    version : str
        The feature version in whose folder it lies.
    """
    try:
        with parquet.opened(storage.join(table.uri, path)) as opened:
            metadata = opened.metadata
        content = json.loads((metadata.metadata or {})[_FOOTER.encode()])
        norms = {name: Norms(**values) for name, values in content.pop("norms").items()}
        # The footer's own statistics: the rows are in digest order.
        at = metadata.schema.to_arrow_schema().get_field_index("sequence_digest")
        first = metadata.row_group(0).column(at).statistics.min
        last = metadata.row_group(metadata.num_row_groups - 1).column(at).statistics.max
    except (*storage.STORAGE_ERRORS, StoreError, pa.ArrowException, KeyError, AttributeError, TypeError):
        return None
    own = {f.name for f in fields(Receipt)}
    file = DataFile(
        path,
        size,
        metadata.num_rows,
        {"sequence_digest": _text(first)},
        {"sequence_digest": _text(last)},
        {"sequence_digest": 0},
        {"feature_version": version},
    )
    return Receipt(file=file, norms=norms, **{name: value for name, value in content.items() if name in own})


def _text(value: Any) -> str:
    return value.decode() if isinstance(value, bytes) else value


def read_columns(table: Table, path: str, columns: Sequence[str]) -> pa.Table:
    """Read some columns of a vector file."""
    return parquet.read(storage.join(table.uri, path), columns)


def read_digests(table: Table, path: str) -> np.ndarray:
    """The digests of a vector file in its order, (rows,) of dtype S35."""
    return digests.to_numpy(read_columns(table, path, ["sequence_digest"])["sequence_digest"])


def keeping(rows: np.ndarray) -> Callable[[DataFile, np.ndarray], np.ndarray]:
    """Make the `keep` of `rewrite` that keeps some rows, (rows,) bool, of a single file."""
    return lambda file, names: rows


def rewrite(
    table: Table,
    files: Sequence[DataFile],
    keep: Callable[[DataFile, np.ndarray], np.ndarray],
    *,
    stem: str,
    version: str,
) -> Receipt | None:
    """Rows of some vector files as one new file in digest order, not part of the table yet; None where no row stays.

    Parameters
    ----------
    table : Table
        `features`.
    files : sequence of DataFile
        Of one version; held in memory together.
    keep : callable
        From a file and its digests, (rows,) of dtype S35, to the rows that stay, (rows,) bool.
    stem, version
        As for `write`.
    """
    parts = []
    for one in files:
        rows = parquet.read(storage.join(table.uri, one.path))
        table.check_columns(rows.column_names, one.path)
        stays = keep(one, digests.to_numpy(rows["sequence_digest"]))
        if stays.any():
            parts.append(rows if stays.all() else rows.filter(pa.array(stays)))
    if not parts:
        return None
    whole = pa.concat_tables(parts, promote_options="default")
    if len(parts) > 1:
        whole = whole.sort_by("sequence_digest")
    schema = pa.schema([f for f in arrow_schema("features") if f.name in whole.column_names])
    whole = whole.select(schema.names).cast(schema)
    pieces = (whole.slice(at, _PIECE_ROWS) for at in range(0, len(whole), _PIECE_ROWS))
    return write(table, pieces, stem=stem, version=version)
