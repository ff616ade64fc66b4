"""What a run of effects did, as a summary and in a few lines."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field

import numpy as np

from dnafeat.text import human_bytes

QUARTILES = (25, 50, 75)
_SKIPPED = {
    "star": "alleles *, which belong to a deletion of another record",
    "symbolic": "symbolic alleles and breakends, which have no letters",
    "reference": "alleles that stand for the reference",
    "repeated": "variants that stood there already",
    "refused": "with a sequence that is refused, such as for its N or other letters",
    "elsewhere": "haplotypes of regions that were not given",
}


@dataclass(frozen=True, kw_only=True)
class EffectsSummary:
    """The result of a run.

    Attributes
    ----------
    store, output : str
    source_name : str
        Of the rows in table `effects`.
    feature_version, run_id : str
    scope : str
    window : int or None
        Bases.
    records, variants : int
        Records read, and variants of them that change letters; 0 for haplotypes.
    haplotypes : int
        Compared ones; 0 for windows.
    samples : int
        Those that carriers are counted of.
    rows : int
        Of table `effects`, one for each variant, region and vector.
    windows, distinct, already_stored, encoded : int
        Sequences that were made, distinct ones of them, and of these the ones that had vectors and those that got some.
    skipped : dict of str to int
        What has no row, by reason.
    quartiles : dict of str to dict of str to list of float
        Cosine distances at 25, 50 and 75 %, by kind of variant (or `haplotype`) and by vector.
    unchanged : bool
        Whether the table had the same rows already.
    seconds : float
    bytes : int
        Of the output.
    runner, runner_reason : str
    """

    store: str
    output: str
    source_name: str
    feature_version: str
    run_id: str
    scope: str
    window: int | None
    records: int
    variants: int
    haplotypes: int
    samples: int
    rows: int
    windows: int
    distinct: int
    already_stored: int
    encoded: int
    skipped: dict[str, int] = field(default_factory=dict)
    quartiles: dict[str, dict[str, list[float]]] = field(default_factory=dict)
    unchanged: bool = False
    seconds: float = 0.0
    bytes: int = 0
    runner: str = ""
    runner_reason: str = ""

    def __repr__(self) -> str:
        return format_summary(self)


class Quartiles:
    """Collects cosine distances, 4 bytes each, by kind and vector."""

    def __init__(self) -> None:
        self._held: dict[tuple[str, str], list[np.ndarray]] = {}

    def add(self, kinds: np.ndarray, vector: str, distances: np.ndarray) -> None:
        """Add the distances of a vector, (n,) float, of pairs of these kinds, (n,) of texts."""
        for kind in np.unique(kinds):
            self._held.setdefault((str(kind), vector), []).append(distances[kinds == kind].astype(np.float32))

    def result(self) -> dict[str, dict[str, list[float]]]:
        """The quartiles by kind and vector."""
        found: dict[str, dict[str, list[float]]] = {}
        for (kind, vector), parts in sorted(self._held.items()):
            ends = np.percentile(np.concatenate(parts).astype(np.float64), QUARTILES)
            found.setdefault(kind, {})[vector] = [float(f"{end:.6g}") for end in ends]
        return found


def _skipped(counts: Mapping[str, int]) -> Iterator[str]:
    for name, text in _SKIPPED.items():
        if counts.get(name):
            yield f"{counts[name]:,} {text}"


def format_summary(summary: EffectsSummary) -> str:
    """A run's summary in a few lines."""
    s = summary
    told = "" if s.output == "-" else f", {human_bytes(s.bytes)}"
    lines = [f"{s.output}: {s.rows:,} rows{told} in {s.seconds:.1f} s", ""]
    lines.append(f"  source   {s.source_name}{' (unchanged)' if s.unchanged else ''}")
    if s.scope == "window":
        of = f", carriers of {s.samples:,} samples" if s.samples else ""
        lines.append(f"  variants {s.variants:,} of {s.records:,} records, in windows of {s.window:,} bases{of}")
    else:
        lines.append(f"  compared {s.haplotypes:,} haplotypes with the genome's letters of their regions")
    for heading, text in zip(["skipped"] + [""] * len(_SKIPPED), _skipped(s.skipped), strict=False):
        lines.append(f"  {heading:<9}{text}")
    lines.append(
        f"  encoded  {s.encoded:,} of {s.distinct:,} distinct sequences ({s.windows:,} in all), {s.already_stored:,} were there already"
    )
    if s.runner:
        lines.append(f"  runner   {s.runner}: {s.runner_reason}")
    if s.quartiles:
        lines += ["", f"  cosine distance{'':<12}25 %      50 %      75 %"]
        for kind, vectors in s.quartiles.items():
            for vector, ends in vectors.items():
                lines.append(f"  {kind:<12}{vector:<11}" + "  ".join(f"{end:<8.3g}" for end in ends).rstrip())
    if len(s.quartiles) > 1:
        lines += ["", "note: an indel moves every later token: compare distances of one kind alone"]
    return "\n".join(lines)
