"""Settings of a join."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

from dnafeat.settings import Settings, option, part, require
from dnafeat.vectors import VECTORS

DNA = "dna"

GENE = "gene_id"
# The columns that name a group beside the join key; at level sequence nothing is pooled.
LEVELS: dict[str, tuple[str, ...]] = {
    "sequence": (),
    "region": (GENE, "region_id"),
    "gene": (GENE,),
    "haplotype": ("haplotype",),
    "subject": (),
}
RULES = ("mean", "max", "first", "last", "refuse")


@dataclass(frozen=True, kw_only=True)
class JoinInputs(Settings, section="join"):
    """What is joined and how rows are made: the settings that every command with a join has."""

    partner: tuple[str, ...] = option(
        "NAME=URI: vectors of another modality, a Delta table or Parquet files (file, folder or glob); repeat for each; without any, only "
        "the store's vectors are pooled",
        (),
        section="input",
        repeated=True,
    )
    on: str = option(
        "key column on which tables are joined, such as subject_id; empty, NA, NaN, n/a, NULL and None are no keys",
        section="input",
    )
    version: str | None = option(
        "version, name or channel of the store (default: production, or the only version)", None, section="input"
    )
    source: str | None = option("entries of this source only (default: all sources)", None, section="input")
    as_of: str | None = option(
        "state of the store as of a run (its id or number) or of a time in UTC, such as 2026-11-20 for the end of that day",
        None,
        section="input",
    )
    vector: str = option(f"vectors of the store to join: {', '.join(VECTORS)}, several concatenated by +, as in cls+mean", "mean")
    level: Literal["sequence", "region", "gene", "haplotype", "subject"] = option(
        "what a row is; subject: a value of --on", "subject"
    )
    aggregate: Literal["mean", "max", "length", "concat"] | None = option(
        "how the sequences of a row become one vector; length: mean weighted by bases; concat: genes concatenated (default: mean)",
        None,
    )
    genes: str | None = option(
        "gene manifest, one gene a line or a table with a column gene_id: only these genes count, and concat keeps their order",
        None,
    )
    within: Literal["mean", "max", "length"] | None = option(
        "how the sequences of a gene become one vector under concat (default: mean)", None
    )
    reduce: tuple[str, ...] = option(
        "[NAME=]RULE: what several partner rows for one key become: mean, max, first, last, first:COLUMN or last:COLUMN (ordered by a "
        "column), or refuse (default: mean)",
        (),
        repeated=True,
    )
    key: tuple[str, ...] = option("NAME=COLUMN: key column of a partner (default: --on)", (), section="input", repeated=True)
    vector_column: tuple[str, ...] = option(
        "NAME=COLUMN: vector column of a partner with several columns of lists", (), section="input", repeated=True
    )
    mapping: tuple[str, ...] = option(
        "NAME=URI: table that maps keys of a partner to keys of the store, with a column named as --on and one named as the partner's key",
        (),
        section="input",
        repeated=True,
    )
    partner_version: tuple[str, ...] = option(
        "NAME=N: older version of a partner's Delta table", (), section="input", repeated=True
    )
    salt_file: str | None = option(
        "file with the salt with which keys are hashed, on both sides; hashed keys stay as they are", None, section="privacy"
    )
    ray: bool | None = option(
        "distribute the join over Ray (default: for more than 512 MiB of vectors, or on a cluster)", None, section="workers"
    )

    def check(self) -> None:
        names = list(self.partners)
        for name in names:
            require(
                re.fullmatch(r"[a-z][a-z0-9_]*", name) is not None,
                f"partner {name!r} cannot name a column: use small letters, digits and _, beginning with a letter",
            )
            taken = {"dna", self.on, "source_name", "sequence_id", *(key for keys in LEVELS.values() for key in keys)}
            taken |= {f"{prefix}_{end}" for prefix in ("dna", *names) for end in ("rows", "mask")}
            clash = name in taken or name.startswith("has_")
            require(not clash, f"partner {name!r} has the name of another column of the result: give it another")
        for setting in ("key", "vector_column", "mapping", "partner_version"):
            unknown = [name for name in pairs(getattr(self, setting), setting) if name not in names]
            require(
                not unknown,
                f"{setting} names {unknown[0] if unknown else ''!r}, which is no partner: there are {', '.join(names)}",
            )
        for name, text in pairs(self.partner_version, "partner_version").items():
            require(text.isdecimal(), f"partner_version {name}={text!r} is no number of a Delta version")
        for name in names:
            self.rule(name)
        require(self.level != "sequence" or self.aggregate is None, "level sequence pools nothing: leave aggregate out")
        require(
            self.within is None or self.aggregate == "concat",
            "within is for aggregate concat: leave it out, or give aggregate concat",
        )
        if self.aggregate == "concat":
            require(
                self.level in ("subject", "haplotype"),
                f"concat concatenates the genes of a row, and a row of level {self.level} has one at the most: take level subject",
            )
            require(self.genes is not None, "concat needs the genes and their order: give a manifest with --genes")
        for name in self.vector.split("+"):
            require(name in VECTORS, f"vector {name!r} is none of {', '.join(VECTORS)}")

    @property
    def partners(self) -> dict[str, str]:
        """URIs of the partners by name."""
        return pairs(self.partner, "partner")

    @property
    def pooling(self) -> str:
        """How the sequences of a group, or of a gene under concat, become one vector."""
        if self.aggregate == "concat":
            return self.within or "mean"
        return self.aggregate or "mean"

    def rule(self, partner: str) -> tuple[str, str | None]:
        """The rule by which several rows of a partner for one key become one, and the column that orders them."""
        found = "mean"
        for text in self.reduce:
            name, equals, rule = text.partition("=")
            if equals and name not in self.partners:
                require(False, f"reduce names {name!r}, which is no partner: there are {', '.join(self.partners)}")
            if not equals or name == partner:
                found = rule if equals else text
        rule, colon, column = found.partition(":")
        require(rule in RULES, f"reduce {rule!r} is none of {', '.join(RULES)}")
        require(not colon or (rule in ("first", "last") and bool(column)), f"reduce {found!r} is not first:COLUMN or last:COLUMN")
        return rule, column or None


@dataclass(frozen=True, kw_only=True)
class JoinConfig(Settings, section="output"):
    """Settings of `dnafeat join` and `jobs/join.py`."""

    store: str = option("feature store: folder or s3:// prefix", section="input", env="DNAFEAT_STORE")
    inputs: JoinInputs = part(JoinInputs)
    output: str = option("Delta table to write: folder or s3:// prefix; an existing table gets another version")
    how: Literal["inner", "left", "outer"] = option(
        "inner: rows that all modalities have; left: all rows with DNA; outer: all rows that any modality has",
        "inner",
        section="join",
    )
    replace_widths: bool = option("accept another vector width of a modality than in the last version of the output", False)


def pairs(texts: Sequence[str], setting: str) -> dict[str, str]:
    """Parse `NAME=VALUE` texts. Raises UsageError for another form, and for a name that comes twice."""
    found: dict[str, str] = {}
    for text in texts:
        name, equals, value = text.partition("=")
        require(bool(name and equals and value), f"{setting} {text!r} is not NAME=VALUE")
        require(name not in found, f"{setting} names {name!r} twice: leave one out")
        found[name] = value
    return found
