"""The files that make up a table just now, for readers that know no Delta."""

from __future__ import annotations

import json
from datetime import UTC, datetime
from typing import Any

from dnafeat import storage
from dnafeat.errors import UsageError
from dnafeat.store.catalog import Store
from dnafeat.store.retention import RETENTION
from dnafeat.store.schema import ON_DEMAND, TABLES
from dnafeat.store.table import Table
from dnafeat.text import did_you_mean, iso


def file_list(store: Store, table: str = "features", version: str | None = None) -> dict[str, Any]:
    """The files of a table's newest snapshot.

    Parameters
    ----------
    store : Store
    table : str
    version : str | None
        Of `features`, this version's alone, by whatever `Store.resolve` takes.

    Returns
    -------
    dict
        `store`, `table`, `parent` (of the version, or None: where the files of a version lack `cls`, `mean` or `max`, they are in those of
        its parent), `delta_version` (of the snapshot), `listed_at` and `holds_until` (UTC: a file that is replaced meanwhile lies
        there for so long, unless a subject is forgotten, whose files go at the next maintenance), and `files`: of each `uri`, `rows`,
        `size` (bytes) and, of `features`, `feature_version`, which does not stand in the file.

    Raises
    ------
    UsageError
        There is no such table, or it has no versions.
    """
    tables = {name: Table(store.uri, name) for name in (*TABLES, *ON_DEMAND)}
    if table not in tables:
        raise UsageError(f"a store has no table {table!r}: there are {', '.join(tables)}{did_you_mean(table, tables)}")
    if table in ON_DEMAND and not tables[table].exists():
        # Where there is no store at all that is said.
        store.runs.reload().version()
        made = {
            "haplotypes": "the first run of a cohort makes it (`dnafeat embed --vcf`)",
            "effects": "`dnafeat effects` makes it",
        }
        raise UsageError(f"{store.uri} has no table {table} yet: {made[table]}")
    if version is not None and table != "features":
        raise UsageError(
            f"the files of table {table!r} are not apart by version: leave out the version, or list those of features"
        )
    history = store.history() if version is not None else None
    digest = history.resolve(version) if history is not None else None
    now, one = datetime.now(UTC).replace(microsecond=0), tables[table].reload()
    files = []
    for file, _ in one.files():
        if digest is None or file.partition["feature_version"] == digest:
            files.append({"uri": storage.join(one.uri, file.path), "rows": file.rows, "size": file.size, **file.partition})
    return {
        "store": store.uri,
        "table": table,
        "parent": history.parent(digest) if history is not None and digest is not None else None,
        "delta_version": one.version(),
        "listed_at": iso(now),
        "holds_until": iso(now + RETENTION),
        "files": sorted(files, key=lambda file: file["uri"]),
    }


def format_files(listed: dict[str, Any], as_json: bool) -> str:
    """One URI a line, or one JSON object."""
    return json.dumps(listed, indent=1) if as_json else "\n".join(file["uri"] for file in listed["files"])
