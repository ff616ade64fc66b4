"""Settings of `dnafeat partner`."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Literal

from dnafeat.settings import Settings, option, require

WITH_TOKENS = ("brainlm", "brainmt")
REGIONS = 424  # of the atlas A424, which BrainLM reads


@dataclass(frozen=True, kw_only=True)
class PartnerConfig(Settings, section="input"):
    """Settings of `dnafeat partner`."""

    kind: Literal["brainlm", "brainmt", "swift", "generic"] = option(
        "model that wrote the files; generic: one vector per file or row", positional=True
    )
    input: tuple[str, ...] = option(
        ".pt, .npy, .npz, .safetensors, Parquet, CSV or TSV files, folders, globs or s3:// URIs", positional=True
    )
    output: str = option(
        "Delta table to write, or a file if the name ends in .parquet; local or s3://; an existing one is replaced",
        section="output",
    )
    pool: Literal["cls", "mean"] | None = option(
        "for brainlm and brainmt; mean: of all tokens but CLS (default: cls; swift is always averaged)", None
    )
    timepoints: int | None = option(
        "brainlm: timepoints of a recording, from which the number of tokens follows; without them a mask of 0.75 over 160 cannot be told "
        "from 40 without a mask",
        None,
    )
    patch: int = option("brainlm: timepoints of a token, timepoint_patching_size in the model's config", 20, ge=1)
    tokens: int | None = option(
        "brainlm: expected tokens, CLS included, for models without 424·k + 1 (730 for vitmae_111M, 962 for patches of 14)",
        None,
        ge=2,
    )
    cls_index: str | None = option(
        "brainmt: position of CLS among the tokens: first, last, middle or a number from 0 (default: first, as in BrainMT)", None
    )
    rows: Literal["tokens", "vectors"] | None = option(
        "brainlm and brainmt: what the rows of a two-dimensional array without ids are; vectors: each of a window (default: tokens for "
        "brainlm; required for brainmt)",
        None,
    )
    width: int | None = option("numbers in a vector (default: as in the first one)", None, ge=1)
    id_column: str | None = option(
        "column or array with subjects or file names (default: subject_id, subject, eid, participant_id, ids, else file, filename, name)",
        None,
    )
    vector_column: str | None = option(
        "column or array with the vectors, or a pattern such as f* for numeric columns (default: the only candidate)", None
    )
    id_from: Literal["name", "folder"] = option("name from which subjects are read: of the file, or of its folder", "name")
    id_pattern: str | None = option(
        "regular expression with the named groups subject, session and window, (?P<subject>…) (default: names of UK Biobank, BIDS and HCP "
        "are parsed, and any other name is a subject)",
        None,
    )
    salt_file: str | None = option(
        "file with a salt: subjects become pseudonyms, and the table names no files; keep it outside the table's folder",
        None,
        section="privacy",
    )
    skip_bad: bool = option(
        "skip bad files and rows, and list them in a file beside the table (default: nothing is written)", False, section="output"
    )

    def check(self) -> None:
        require(bool(self.input), "name at least one file or folder with embeddings")
        for name, value, kinds in (
            ("pool", self.pool, WITH_TOKENS),
            ("rows", self.rows, WITH_TOKENS),
            ("cls_index", self.cls_index, ("brainmt",)),
            ("timepoints", self.timepoints, ("brainlm",)),
            ("tokens", self.tokens, ("brainlm",)),
        ):
            require(
                value is None or self.kind in kinds, f"{name} is for {' and '.join(kinds)}, not for {self.kind}: leave it out"
            )
        require(
            self.cls_index is None or re.fullmatch(r"first|last|middle|\d+", self.cls_index) is not None,
            f"cls_index {self.cls_index!r} is none of first, last, middle or a number from 0",
        )
        require(
            self.cls_index is None or self.rows != "vectors",
            "cls_index is given, and rows are vectors, which have no CLS: leave one out",
        )
        require(
            self.timepoints is None or self.tokens is None, "timepoints and tokens both give the number of tokens: leave one out"
        )
        require(
            self.timepoints is None or (self.timepoints >= self.patch and self.timepoints % self.patch == 0),
            f"timepoints {self.timepoints} are no multiple of the {self.patch} of a token: BrainLM takes whole tokens; see --patch",
        )
        if self.id_pattern is not None:
            _check_pattern(self.id_pattern)

    def pooling(self) -> str:
        """How arrays become vectors."""
        return {"swift": "average", "generic": "none"}.get(self.kind, self.pool or "cls")


def _check_pattern(pattern: str) -> None:
    try:
        groups = set(re.compile(pattern).groupindex)
    except re.error as error:
        require(False, f"id_pattern {pattern!r} is no regular expression: {error}")
    require("subject" in groups, f"id_pattern {pattern!r} has no group subject: write (?P<subject>…) around the id")
    unknown = sorted(groups - {"subject", "session", "window"})
    require(not unknown, f"id_pattern {pattern!r} names the group {', '.join(unknown)}: there are subject, session and window")
