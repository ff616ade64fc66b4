"""Runs and versions as tables for the terminal."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from dnafeat.store.history import second
from dnafeat.store.lineages import loaded
from dnafeat.text import fitted


def format_versions(rows: list[dict], width: int | None = None) -> str:
    """Versions as a small table, in blocks where the terminal is narrower."""
    table = [["name", "version", "entries", "precision", "names", "channels", "model", "projection"]]
    for row in rows:
        model = row["model"] + (f" + {row['adapter']}" if row["adapter"] else "")
        called = [",".join(row[kind]) or "-" for kind in ("names", "channels")]
        rounding = (loaded(row["lineage"]) or {}).get("rounding")
        precision = row["precision"] + (f", rounded to {rounding}" if rounding else "")
        projection = row["projection"] + (f" of {row['parent']}" if row["parent"] else "")
        table.append([row["name"] or "-", row["feature_version"], f"{row['sequences']:,}", precision, *called, model, projection])
    return fitted(table, right={2}, width=width, lead=3)


def format_runs(rows: Sequence[Mapping[str, Any]], width: int | None = None) -> str:
    """Format the rows of `History.listing` as a small table, in blocks where the terminal is narrower."""
    table = [
        ["run", "number", "version", "finished", "read", "encoded", "opened", "closed", "rejected", "seconds", "state", "source"]
    ]
    for row in rows:
        counts = [f"{row[name]:,}" for name in ("read", "encoded", "opened", "closed", "rejected")]
        state = "withdrawn" if row["withdrawn_at"] else "published"
        head = [row["run_id"], str(row["run_number"]), row["feature_version"], second(row["finished_at"])]
        table.append([*head, *counts, f"{row['seconds']:,.1f}", state, row["source_name"]])
    return fitted(table, right={1, *range(4, 10)}, width=width, lead=4)
