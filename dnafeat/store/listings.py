"""Runs and versions as tables for the terminal."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import Any

from dnafeat.store.history import second
from dnafeat.text import aligned


def format_versions(rows: list[dict]) -> str:
    """Versions as a small table."""
    from dnafeat.text import aligned

    table = [["version", "entries", "precision", "names", "channels", "model", "projection"]]
    for row in rows:
        model = row["model"] + (f" + {row['adapter']}" if row["adapter"] else "")
        called = [",".join(row[kind]) or "-" for kind in ("names", "channels")]
        rounding = json.loads(row["lineage"]).get("rounding")
        precision = row["precision"] + (f", rounded to {rounding}" if rounding else "")
        projection = row["projection"] + (f" of {row['parent']}" if row["parent"] else "")
        table.append([row["feature_version"], f"{row['sequences']:,}", precision, *called, model, projection])
    return aligned(table, right={1})


def format_runs(rows: Sequence[Mapping[str, Any]]) -> str:
    """What `History.listing` gives as a small table."""
    table = [
        ["run", "number", "version", "finished", "read", "encoded", "opened", "closed", "rejected", "seconds", "state", "source"]
    ]
    for row in rows:
        counts = [f"{row[name]:,}" for name in ("read", "encoded", "opened", "closed", "rejected")]
        state = "withdrawn" if row["withdrawn_at"] else "published"
        head = [row["run_id"], str(row["run_number"]), row["feature_version"], second(row["finished_at"])]
        table.append([*head, *counts, f"{row['seconds']:,.1f}", state, row["source_name"]])
    return aligned(table, right={1, *range(4, 10)})
