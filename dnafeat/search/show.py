"""Neighbours for the terminal: a line for each, with its entries counted and their keys summed up."""

from __future__ import annotations

from collections import Counter

import pyarrow as pa

from dnafeat.text import aligned

_FIXED = ("query", "neighbour", "distance", "rank", "sequence_digest", "entries")
_NAMED = 4  # values of a key; of more kinds only the number is shown
_MOST_KINDS = 8


def format_neighbours(table: pa.Table) -> str:
    """The nearest of each query in a table."""
    if "entries" in table.column_names:
        return _plain(table)
    keys = [name for name in table.column_names if name not in _FIXED]
    blocks: list[str] = []
    groups: dict[tuple[str, int], list[dict]] = {}
    for row in table.to_pylist():
        groups.setdefault((row["query"], row["rank"]), []).append(row)
    for query in dict.fromkeys(query for query, _ in groups):
        lines = [["rank", "distance", "entries", "such as", *keys]]
        for (own, rank), rows in groups.items():
            if own == query:
                head = [str(rank), f"{rows[0]['distance']:.6g}", f"{len(rows):,}", rows[0]["neighbour"]]
                lines.append([*head, *(_summed([row[key] for row in rows]) for key in keys)])
        blocks.append(f"{query}\n\n{_indented(aligned(lines, right={0, 1, 2}))}")
    return "\n\n".join(blocks)


def _plain(table: pa.Table) -> str:
    keys = [name for name in table.column_names if name not in _FIXED]
    blocks = []
    rows = table.to_pylist()
    for query in dict.fromkeys(row["query"] for row in rows):
        lines = [["rank", "distance", *keys, "entries"]]
        for row in rows:
            if row["query"] == query:
                named = ("-" if row[key] is None else row[key] for key in keys)
                lines.append([str(row["rank"]), f"{row['distance']:.6g}", *named, f"{row['entries']:,}"])
        blocks.append(f"{query}\n\n{_indented(aligned(lines, right={0, 1, len(keys) + 2}))}")
    return "\n\n".join(blocks)


def _summed(values: list[str | None]) -> str:
    counts = Counter("-" if value is None else value for value in values)
    if len(counts) == 1:
        return next(iter(counts))
    if len(counts) > _MOST_KINDS:
        return f"{len(counts):,} values"
    told = [f"{value} {number:,}" for value, number in counts.most_common(_NAMED)]
    return ", ".join([*told, "…"] if len(counts) > _NAMED else told)


def _indented(text: str) -> str:
    return "\n".join(f"  {line}" for line in text.splitlines())
