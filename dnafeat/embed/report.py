"""What a run did, as a summary and in a few lines."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field

from dnafeat.text import human_bytes

_TOLD = 5  # keys in a line
_REASONS = 3  # of refused entries that a summary shows


@dataclass(frozen=True, kw_only=True)
class RunSummary:
    """What a run did. Sequences are distinct ones; entries are what the source names. Rates count the encoding alone.

    Of the sequences it encoded, `windowed` took several windows and `truncated` were encoded without their end. `stages` are the seconds
    that reading, planning, encoding, audit and publishing took; the rest of `seconds` is the beginning. `runner` is where it encoded
    (local, ray, or empty where nothing had to be), and `runner_reason` why there. `missing` counts, of each key, the entries without it;
    `reject_reasons` refused entries by reason, the most frequent first, with … for numbers and names. `cohort` is what was counted of
    regions and people, and is empty for other sources.
    """

    run_id: str
    run_number: int
    source_name: str
    feature_version: str
    store: str
    read: int
    rejected: int
    distinct: int
    already_stored: int
    salvaged: int
    encoded: int
    opened: int
    closed: int
    files: int
    bytes: int
    tokens: int
    windowed: int
    truncated: int
    seconds: float
    sequences_per_second: float
    tokens_per_second: float
    padding_share: float
    stages: dict[str, float]
    already_published: bool = False
    runner: str = ""
    runner_reason: str = ""
    missing: dict[str, int] = field(default_factory=dict)
    reject_reasons: dict[str, int] = field(default_factory=dict)
    cohort: dict[str, int] = field(default_factory=dict)

    def __repr__(self) -> str:
        return describe_run(self)


_RULES = {
    "missing": "missing alleles, read as the reference",
    "unphased": "heterozygous calls without phase, taken as they are written",
    "ambiguous": "times a subject has several of those in a region",
    "mixed_ploidy": "times a subject has calls of several ploidies in a region",
    "left_out": "times a subject has too many missing alleles in a region, and no entry",
    "overlaps": "alleles that an earlier one overlaps, and that were left out; see `bcftools norm -f GENOME -m -any`",
    "star": "alleles * that change nothing",
    "symbolic": "symbolic alleles and breakends that were not applied",
    "cut_flanks": "flanks cut at the end of a contig",
    "absent_contigs": "contigs that the cohort does not have, where all have the reference",
    "masked": "regions left out because of a run of N",
}


def _cohort(counts: Mapping[str, int]) -> Iterator[tuple[str, str]]:
    """Headings and lines of what was counted of regions and people."""
    if "subjects" in counts:
        people = f"{counts['subjects']:,} subjects, {counts['records']:,} records in {counts['regions']:,} regions"
        yield "cohort", f"{people}: {counts['haplotypes']:,} haplotypes, {counts['saved']:,} encodings saved"
    elif counts:
        yield "regions", f"{counts['regions']:,}"
    for name, text in _RULES.items():
        if counts.get(name):
            yield "", f"{counts[name]:,} {text}"


def describe_run(summary: RunSummary) -> str:
    """The summary of a run in a few lines, and the next command to try."""
    s = summary
    if s.already_published:
        head = f"run {s.run_id} is published already, from the same source and configuration: nothing to do"
    elif s.encoded:
        head = f"run {s.run_id}: {s.encoded:,} sequences encoded in {s.seconds:.1f} s"
    elif not s.distinct:
        head = f"run {s.run_id}: no entry to encode ({s.seconds:.1f} s)"
    else:
        head = f"run {s.run_id}: nothing to encode, every vector is there already ({s.seconds:.1f} s)"
    lines = [head, ""]
    lines.append(f"  source   {s.source_name}")
    lines.append(f"  entries  {s.read:,} read, {s.rejected:,} rejected, {s.opened:,} new or changed, {s.closed:,} closed")
    if s.missing:
        told = [f"{count:,} without {key}" for key, count in s.missing.items()]
        lines.append(f"  keys     {', '.join(told[:_TOLD])}{f' and {len(told) - _TOLD} more' if len(told) > _TOLD else ''}")
    lines += [f"  {heading:<9}{text}" for heading, text in _cohort(s.cohort)]
    salvaged = f", {s.salvaged:,} taken from a run that had ended" if s.salvaged else ""
    lines.append(f"  distinct {s.distinct:,} sequences, {s.already_stored:,} already there{salvaged}, {s.encoded:,} encoded")
    if s.encoded:
        rate = f"{s.sequences_per_second:,.1f} sequences/s, {s.tokens_per_second:,.0f} tokens/s, {100 * s.padding_share:.1f} % padding"
        lines.append(f"  encoder  {rate}")
        lines.append(f"  runner   {s.runner}: {s.runner_reason}")
        lines.append(f"  written  {s.files:,} files, {human_bytes(s.bytes)}")
    if s.seconds >= 60:
        lines.append(f"  time     {', '.join(f'{stage} {seconds:,.1f} s' for stage, seconds in s.stages.items())}")
    if s.windowed or s.truncated:
        lines.append(f"  long     {s.windowed:,} sequences in several windows, {s.truncated:,} truncated")
    if s.rejected:
        for reason, number in list(s.reject_reasons.items())[:_REASONS]:
            lines.append(f"  rejects  {number:,}: {reason}")
        lines.append(
            f"  rejects  table rejects of the store, run_id {s.run_id}: dnafeat rejects --store {s.store} --run {s.run_id}"
        )
    lines.append(f"  version  {s.feature_version} in {s.store}")
    lines += ["", f"next: dnafeat read --store {s.store} --version {s.feature_version} --output vectors.parquet"]
    return "\n".join(lines)
