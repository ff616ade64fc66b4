"""The rows of `sequences` that entries become."""

from __future__ import annotations

from typing import Any

import pyarrow as pa

from dnafeat.embed import opening
from dnafeat.store.schema import arrow_schema


class Counted:
    """A table that counts how often all its columns are looked through."""

    def __init__(self, table: pa.Table) -> None:
        self._table = table
        self.looks = 0

    def __len__(self) -> int:
        return len(self._table)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._table, name)

    def __getitem__(self, name: str) -> Any:
        self.looks += 1
        return self._table[name]

    @property
    def column_names(self) -> list[str]:
        self.looks += 1
        return self._table.column_names


def test_rows_of_many_keys_are_made_in_one_look_at_the_columns() -> None:
    keys = [f"k{i}" for i in range(300)]
    schema = pa.schema([*arrow_schema("sequences"), *((key, pa.string()) for key in (*keys, "old"))])
    values = {"sequence_id": ["a", "b"], "sequence_digest": ["SQ.1", "SQ.2"], **{key: [key, None] for key in keys}}
    rows: Any = Counted(pa.table({name: pa.array(cells, pa.string()) for name, cells in values.items()}))
    opened = opening._opened(rows, "source", 7, schema)
    assert rows.looks <= 2
    assert opened.schema.names == schema.names
    assert opened["k299"].to_pylist() == ["k299", None]
    assert opened["old"].to_pylist() == [None, None]
    assert set(opened["from_run"].to_pylist()) == {7}
