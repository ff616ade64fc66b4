"""The tables' contracts in `schemas/*.json` (Delta's schema JSON), as Delta and Arrow schemas. No schema is written anywhere else.

An encoder needs the names and widths alone, so Delta and Arrow are imported when a schema is first asked for.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from functools import cache
from pathlib import Path

import pyarrow as pa
from deltalake import Schema

TABLES = ("features", "sequences", "versions", "rejects", "runs")
# Tables that a store has once a run needs them.
ON_DEMAND = ("haplotypes", "effects")
DROPPABLE = ("features", "sequences", "rejects", *ON_DEMAND)
"""Tables whose damaged files can go: the next run of a source makes anew what they held of it, but for the past and for rejects."""

# The newest contract of each table. An older number stays readable: columns it lacks come back as nulls.
_CURRENT = dict.fromkeys((*TABLES, *ON_DEMAND), 1)


def _folder() -> Path:
    """`dnafeat/schemas` in an installed package, the repository's own `schemas` in a checkout."""
    here = Path(__file__).parents[1]
    return here / "schemas" if (here / "schemas").is_dir() else here.parent / "schemas"


@cache
def delta_schema(table: str) -> Schema:
    """The current contract of a table, field comments included."""
    from deltalake import Schema

    return Schema.from_json((_folder() / f"{table}.v{_CURRENT[table]}.json").read_text())


@cache
def arrow_schema(table: str) -> pa.Schema:
    """The same as an Arrow schema without metadata; vectors are `list<element: float>`."""
    return without_metadata(delta_schema(table))


def joined_schema(on: str, keys: Sequence[str], modalities: Sequence[str], masked: Sequence[str]) -> Schema:
    """The contract of a joined table: its key, further keys, and the columns of each modality, `masked` ones with a mask.

    `schemas/joined.v1.json` has the columns with `{on}`, `{key}` and `{modality}` in their names.
    """
    from deltalake import Schema

    fields = {field["name"]: field for field in json.loads((_folder() / "joined.v1.json").read_text())["fields"]}

    def named(pattern: str, **names: str) -> dict:
        comment = fields[pattern]["metadata"]["comment"]
        for name, value in names.items():
            comment = comment.replace(f"{{{name}}}", value)
        return {**fields[pattern], "name": pattern.format(**names), "metadata": {"comment": comment}}

    chosen = [named("{on}", on=on), *(named("{key}", key=key) for key in keys)]
    for name in modalities:
        patterns = ["{modality}", "has_{modality}", "{modality}_rows", *(["{modality}_mask"] if name in masked else [])]
        chosen += [named(pattern, modality=name) for pattern in patterns]
    return Schema.from_json(json.dumps({"type": "struct", "fields": chosen}))


def without_metadata(schema: Schema) -> pa.Schema:
    """A contract as an Arrow schema without comments."""
    import pyarrow as pa

    return pa.schema([field.remove_metadata() for field in pa.schema(schema.to_arrow())])
