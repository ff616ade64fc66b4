"""The tables' contracts in `schemas/*.json` (Delta's schema JSON), as Delta and Arrow schemas. No schema is written anywhere else."""

from __future__ import annotations

from functools import cache
from pathlib import Path

import pyarrow as pa
from deltalake import Schema

TABLES = ("features", "sequences", "versions", "rejects", "runs")
VECTORS = ("cls", "mean", "max", "projected")
PROJECTED_WIDTH = 512

# The newest contract of each table. An older number stays readable: columns it lacks come back as nulls.
_CURRENT = dict.fromkeys(TABLES, 1)


def _folder() -> Path:
    """`dnafeat/schemas` in an installed package, the repository's own `schemas` in a checkout."""
    here = Path(__file__).parent
    return here / "schemas" if (here / "schemas").is_dir() else here.parent / "schemas"


@cache
def delta_schema(table: str) -> Schema:
    """The current contract of a table, field comments included."""
    return Schema.from_json((_folder() / f"{table}.v{_CURRENT[table]}.json").read_text())


@cache
def arrow_schema(table: str) -> pa.Schema:
    """The same as an Arrow schema without metadata; vectors are `list<element: float>`."""
    fields = pa.schema(delta_schema(table).to_arrow())
    return pa.schema([field.remove_metadata() for field in fields])
