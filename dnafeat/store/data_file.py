"""Files of a table, and what a commit does with them."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any

from deltalake.transaction import AddAction


def plain(name: str) -> str:
    """A name of letters, digits, '.', '_' and '-' alone; two names never become the same."""
    return re.sub(r"[^A-Za-z0-9._-]", lambda m: "".join(f"~{byte:02x}" for byte in m[0].encode()), name)


@dataclass(frozen=True)
class DataFile:
    """A whole Parquet file below a table's folder, not yet part of it.

    Attributes
    ----------
    path : str
        Relative to the table's folder.
    size : int
        Bytes.
    rows : int
    minimum, maximum : Mapping[str, Any]
        Of the columns that have statistics.
    nulls : Mapping[str, int]
        Likewise.
    partition : Mapping[str, str]
        Partition column values, which do not stand in the file.
    """

    path: str
    size: int
    rows: int
    minimum: Mapping[str, Any]
    maximum: Mapping[str, Any]
    nulls: Mapping[str, int]
    partition: Mapping[str, str]

    def added(self, when: datetime, rows_change: bool = True) -> AddAction:
        """The action that adds it to a table at a time."""
        ends = {"minValues": dict(self.minimum), "maxValues": dict(self.maximum), "nullCount": dict(self.nulls)}
        stats = {"numRecords": self.rows, **ends}
        return AddAction(self.path, self.size, self.partition, int(when.timestamp() * 1000), rows_change, json.dumps(stats))


@dataclass(frozen=True, kw_only=True)
class Change:
    """The content of one commit: files added, paths removed, and transactions left in the log beside its own id."""

    added: Sequence[DataFile] = ()
    removed: Sequence[str] = ()
    transactions: Mapping[str, int] = field(default_factory=dict)
    number: int = 1
    """The version under which the commit's own application id is left in the log."""
    rows_change: bool = True
    """False: the same rows in other files, which readers of the table's changes can skip."""
