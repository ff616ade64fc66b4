"""`dnafeat partner`: files of brain-imaging embeddings into one table of vectors that `dnafeat join` reads.

All is read and checked first, and lies meanwhile in a temporary folder; then it is published in one piece.
"""

from __future__ import annotations

import tempfile
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from dnafeat import pseudonyms as keyhash
from dnafeat import storage
from dnafeat.partners.config import REGIONS, PartnerConfig
from dnafeat.partners.files import find
from dnafeat.partners.intake import PartnerIntake
from dnafeat.partners.kinds import BRAINMT_WIDTH, SWIFT_WIDTHS
from dnafeat.partners.output import Before, list_rejects, publish, rejects_uri
from dnafeat.provenance import __version__


@dataclass
class PartnerSummary:
    """The result of `dnafeat partner`."""

    output: str
    kind: str
    pooling: str
    width: int
    rows: int
    subjects: int
    sessions: int
    windowed: int
    """Rows that are one of several windows, or of a numbered one."""
    files: int
    tokens: list[int]
    """How many tokens recordings have, the most frequent first; at most 5."""
    timepoints: list[int]
    """Of BrainLM's recordings, by their tokens, in the same order."""
    rejected: int
    rejects: str | None
    version: int | None
    """Of the Delta table; None for a Parquet file."""
    was_width: int | None
    was_version: int | None
    notes: list[str] = field(default_factory=list)
    columns: list[str] = field(default_factory=list)
    """Which columns of tables of numbers the vectors are, a sentence each."""

    def __repr__(self) -> str:
        return format_summary(self)


def partner(config: PartnerConfig) -> PartnerSummary:
    """Read files, check them, and write one table.

    Raises
    ------
    UsageError
        Nothing can be read, something is bad and `skip_bad` is off, or the output is something else. Nothing is written.
    StoreError
        Storage does not answer, or refuses.
    """
    output = storage.absolute(config.output)
    salt = keyhash.read_salt(config.salt_file, output) if config.salt_file else None
    files, others = find(config)
    before = Before.look(output)
    with tempfile.TemporaryDirectory(prefix="dnafeat-partner-") as folder:
        intake = PartnerIntake(Path(folder), config, salt)
        try:
            with storage.reached(folder):
                intake.take(files)
            intake.judge(len(files))
            list_rejects(intake.rejects() if intake.refused else None, output)
            version = publish(intake.vectors(), output, before, _about(intake, len(files)))
            return _summary(intake, before, version, len(files), others)
        finally:
            intake.close()


def _summary(intake: PartnerIntake, before: Before, version: int | None, files: int, others: int) -> PartnerSummary:
    config = intake.config
    subjects, sessions, windowed = intake.seen.counts()
    tokens = [count for count, _ in intake.tokens.most_common(5)]
    by_regions = config.kind == "brainlm" and all((count - 1) % REGIONS == 0 for count in tokens)
    return PartnerSummary(
        output=config.output,
        kind=config.kind,
        pooling=config.pooling(),
        width=intake.width or 0,
        rows=intake.rows,
        subjects=subjects,
        sessions=sessions,
        windowed=windowed,
        files=files,
        tokens=tokens,
        timepoints=[(count - 1) // REGIONS * config.patch for count in tokens] if by_regions else [],
        rejected=intake.refused,
        rejects=rejects_uri(config.output) if intake.refused else None,
        version=version,
        was_width=before.width,
        was_version=before.version,
        notes=_notes(intake, others),
        columns=list(intake.said),
    )


def _about(intake: PartnerIntake, files: int) -> dict[str, Any]:
    """What the table's commit or footer tells of how it was made; under a salt no name of a file, which could hold an id."""
    config = intake.config
    settings: Mapping[str, Any] = config.to_dict()
    hidden = {"kind", "output", "salt_file", "skip_bad", *(("input",) if intake.salt else ())}
    return {
        "kind": config.kind,
        "pooling": config.pooling(),
        "width": intake.width,
        "rows": intake.rows,
        "files": files,
        "rejected": intake.refused,
        "salt": keyhash.check(intake.salt) if intake.salt else None,
        "settings": {name: value for name, value in settings.items() if name not in hidden and value is not None},
        "dnafeat": __version__,
    }


def _notes(intake: PartnerIntake, others: int) -> list[str]:
    config, notes = intake.config, []
    if config.kind == "swift" and intake.width not in SWIFT_WIDTHS:
        known = ", ".join(map(str, SWIFT_WIDTHS))
        notes.append(
            f"SwiFT's configurations have {known} channels and these have {intake.width}: is the axis of channels the first?"
        )
    if config.kind == "brainmt" and intake.width != BRAINMT_WIDTH:
        notes.append(f"BrainMT's configuration has {BRAINMT_WIDTH} numbers and these have {intake.width}")
    if len(intake.tokens) > 1:
        notes.append(
            "recordings have different numbers of tokens, which vectors of one length of recording are hardly compared with"
        )
    if intake.shuffled:
        notes.append(
            f"{intake.shuffled:,} were computed with shuffled tokens (ids_restore), which changes BrainLM's CLS from run to run: "
            "export with increasing noise"
        )
    if intake.understood and intake.whole_names and not intake.salt:
        notes.append(
            f"{intake.understood:,} files are named as UK Biobank, BIDS or HCP do, and others are not, so that their names are subjects, "
            f"such as {intake.whole_names[0]!r}: say with --id-pattern what of a name is the subject"
        )
    if intake.salt:
        notes.append("subjects are pseudonyms, and the table names no files")
    if others:
        notes.append(f"{others:,} files of other kinds in the input were not read")
    return notes


def format_summary(summary: PartnerSummary) -> str:
    """The summary in a few lines, and the next command to try."""
    s = summary
    what = f"{_count(s.rows, 'vector')} of {_count(s.subjects, 'subject')}, {s.width:,} wide"
    lines = [f"{what}, from {_count(s.files, 'file')} ({s.kind}, {s.pooling})", ""]
    if s.tokens:
        lines.append(f"  tokens    {_tokens(s)}")
    if s.sessions or s.windowed:
        lines.append(f"  rows      {_count(s.sessions, 'session')}, {_count(s.windowed, 'row')} with a window")
    lines += [f"  columns   {told}" for told in s.columns]
    if s.rejected:
        lines.append(f"  rejected  {s.rejected:,}, listed in {s.rejects}")
    was = ""
    if s.was_width is not None and s.was_width != s.width:
        was = f", was {s.was_width:,} wide" + (f" in version {s.was_version}" if s.was_version is not None else " before")
    lines.append(f"  table     {s.output}" + (f", version {s.version}" if s.version is not None else "") + was)
    lines += [f"  note      {note}" for note in s.notes]
    lines += ["", f"next: dnafeat join --store STORE --partner {s.kind}={s.output} --on subject_id --output URI"]
    return "\n".join(lines)


def _count(number: int, noun: str) -> str:
    return f"{number:,} {noun}{'' if number == 1 else 's'}"


def _tokens(s: PartnerSummary) -> str:
    counts = " or ".join(f"{count:,}" for count in s.tokens)
    if not s.timepoints:
        return counts
    return f"{counts}: CLS, and {REGIONS} regions over {' or '.join(f'{times:,}' for times in s.timepoints)} timepoints"
