"""The configuration of partner adapters: names of flags and of YAML settings, checked."""

from __future__ import annotations

import re
from dataclasses import dataclass

from dnafeat.settings import Settings, option, require

KINDS = ("brainlm", "brainmt", "swift", "generic")
WITH_TOKENS = ("brainlm", "brainmt")
REGIONS = 424  # of the atlas A424, which BrainLM reads


@dataclass(frozen=True, kw_only=True)
class PartnerConfig(Settings):
    """What `dnafeat partner` does."""

    kind: str = option("what wrote the files: brainlm, brainmt, swift, or generic for one vector a file or row", positional=True)
    input: tuple[str, ...] = option(
        ".pt, .npy, .npz, .safetensors, Parquet, CSV or TSV files, folders, globs or s3:// URIs", positional=True
    )
    output: str = option("Delta table to write, or a file if it ends in .parquet; local or s3://; one that is there is replaced")
    pool: str | None = option(
        "cls, or mean: of all tokens but CLS; brainlm and brainmt alone, swift is always averaged (default: cls)", None
    )
    timepoints: int | None = option(
        "brainlm: timepoints of a recording, which say how many tokens there must be; without them a mask of 0.75 over 160 looks "
        "like 40 without a mask",
        None,
    )
    patch: int = option("brainlm: timepoints of a token, timepoint_patching_size of the model's config", 20)
    tokens: int | None = option(
        "brainlm: tokens there must be, CLS counted, for models that have no 424·k + 1 (730 for vitmae_111M, 962 for patches of 14)",
        None,
    )
    cls_index: str | None = option(
        "brainmt: where CLS stands among tokens: first, last, middle or a number (default: first, as BrainMT has it)", None
    )
    rows: str | None = option(
        "what the rows of a two-dimensional array without ids are, brainlm and brainmt: tokens, or vectors, each of a window of its own "
        "(default: tokens for brainlm; for brainmt it must be said)",
        None,
    )
    width: int | None = option("numbers a vector must have (else as many as the first has)", None)
    id_column: str | None = option(
        "column or array with subjects or file names (else subject_id, subject, eid, participant_id, ids, else file, filename, name)",
        None,
    )
    vector_column: str | None = option(
        "column or array with the vectors, or a pattern such as f* for numeric columns (else the only one that can be)", None
    )
    id_from: str = option("name: a file's own name says whose it is; folder: the name of the folder it is in", "name")
    id_pattern: str | None = option(
        "regular expression that finds the named groups subject, session and window in names, (?P<subject>…) (else names of UK "
        "Biobank, BIDS and HCP are taken apart, and any other name is a subject)",
        None,
    )
    salt_file: str | None = option(
        "file with a salt: subjects become pseudonyms, and the table names no files; keep it outside", None
    )
    skip_bad: bool = option(
        "leave bad files and rows out and list them in a file beside the table (else nothing is written)", False
    )

    def __post_init__(self) -> None:
        require(self.kind in KINDS, f"kind {self.kind!r} is none of {', '.join(KINDS)}")
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
        require(self.pool in (None, "cls", "mean"), f"pool {self.pool!r} is neither cls nor mean")
        require(self.rows in (None, "tokens", "vectors"), f"rows {self.rows!r} are neither tokens nor vectors")
        require(
            self.cls_index is None or re.fullmatch(r"first|last|middle|\d+", self.cls_index) is not None,
            f"cls_index {self.cls_index!r} is none of first, last, middle or a number from 0",
        )
        require(
            self.cls_index is None or self.rows != "vectors",
            "cls_index is given, and rows are vectors, which have no CLS: leave one out",
        )
        require(self.patch >= 1, f"patch {self.patch} is no length: give 1 or more timepoints")
        require(
            self.timepoints is None or self.tokens is None, "timepoints and tokens both say how many tokens there are: give one"
        )
        require(
            self.timepoints is None or (self.timepoints >= self.patch and self.timepoints % self.patch == 0),
            f"timepoints {self.timepoints} are no multiple of the {self.patch} of a token: BrainLM takes whole tokens; see --patch",
        )
        require(self.tokens is None or self.tokens >= 2, f"tokens {self.tokens} is too few: give 2 or more, CLS counted")
        require(self.width is None or self.width >= 1, f"width {self.width} is too few: give 1 or more")
        require(self.id_from in ("name", "folder"), f"id_from {self.id_from!r} is neither name nor folder")
        if self.id_pattern is not None:
            _check_pattern(self.id_pattern)

    def pooling(self) -> str:
        """How arrays become vectors, in a word."""
        return {"swift": "average", "generic": "none"}.get(self.kind, self.pool or "cls")


def _check_pattern(pattern: str) -> None:
    try:
        groups = set(re.compile(pattern).groupindex)
    except re.error as error:
        require(False, f"id_pattern {pattern!r} is no regular expression: {error}")
    require("subject" in groups, f"id_pattern {pattern!r} has no group subject: write (?P<subject>…) around the id")
    strange = sorted(groups - {"subject", "session", "window"})
    require(not strange, f"id_pattern {pattern!r} names the group {', '.join(strange)}: there are subject, session and window")
