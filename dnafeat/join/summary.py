"""The result of a join, and its description."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from dnafeat.join.config import DNA


@dataclass(frozen=True, kw_only=True)
class JoinSummary:
    """The result of a join.

    Attributes
    ----------
    output : str
    output_version : int
        Of the Delta table.
    rows : int
    complete : int
        Rows that have all modalities.
    sequences, dna_keys : int
        Entries of the store that count, and distinct keys among them.
    partners : Mapping[str, Mapping[str, Any]]
        Of each partner: width, rows, keys, matched (keys that have DNA), several (keys with several rows), reduce (what became of them),
        unmatched (its keys without DNA), dna_unmatched (keys of the store without it).
    width : int
        Of the DNA vectors in the result.
    left_out : Mapping[str, Mapping[str, int]]
        Of each modality, what was left out and why.
    notes : list of str
        What should be known, a sentence each.
    unchanged : bool
        Whether the output was made of the same already, and nothing was done.
    seconds : float
    """

    output: str
    output_version: int
    rows: int
    complete: int
    sequences: int
    dna_keys: int
    width: int
    partners: Mapping[str, Mapping[str, Any]]
    left_out: Mapping[str, Mapping[str, int]]
    notes: list[str]
    unchanged: bool = False
    seconds: float = 0.0

    def __repr__(self) -> str:
        return format_summary(self)


def format_summary(summary: JoinSummary) -> str:
    """The result in a few lines."""
    s = summary
    if s.unchanged:
        return f"{s.output} is made of the same already, version {s.output_version} with {s.rows:,} rows: nothing to do"
    lines = [
        f"{s.rows:,} rows in version {s.output_version} of {s.output} ({s.seconds:,.1f} s), {s.complete:,} with all modalities",
        "",
    ]
    lines.append(f"  {DNA:<10} {s.sequences:,} sequences of {s.dna_keys:,} keys, {s.width:,} wide")
    for name, about in s.partners.items():
        several = f", {about['several']:,} with several rows ({about['reduce']})" if about["several"] else ""
        lines.append(
            f"  {name:<10} {about['rows']:,} rows of {about['keys']:,} keys{several}, {about['width']:,} wide; {about['matched']:,} keys "
            f"have DNA"
        )
    for name, reasons in s.left_out.items():
        for reason, count in reasons.items():
            lines.append(f"  left out   {count:,} rows of {name} {reason}")
    lines += [f"  note       {note}" for note in s.notes]
    return "\n".join(lines)
