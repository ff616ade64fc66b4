"""The configuration of a join, from YAML and the command line."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass

from dnafeat.settings import Settings, option, require
from dnafeat.vectors import VECTORS

DNA = "dna"

GENE = "gene_id"
# What names a group, beside the key on which tables are joined; at level sequence nothing is pooled.
LEVELS: dict[str, tuple[str, ...]] = {
    "sequence": (),
    "region": (GENE, "region_id"),
    "gene": (GENE,),
    "haplotype": ("haplotype",),
    "subject": (),
}
POOLINGS = ("mean", "max", "length")
AGGREGATES = (*POOLINGS, "concat")
RULES = ("mean", "max", "first", "last", "refuse")


@dataclass(frozen=True, kw_only=True)
class JoinInputs(Settings):
    """What is joined, and how its rows are made: the settings that all have who join."""

    partner: tuple[str, ...] = option(
        "NAME=URI: another modality's vectors, a Delta table, or Parquet files (file, folder or glob); once for each; without any the "
        "store's vectors are pooled alone",
        (),
        repeated=True,
    )
    on: str = option("key column of the store on which tables are joined, such as subject_id")
    version: str | None = option("version, name or channel (else production, or the only version)", None)
    source: str | None = option("entries of this source only", None)
    as_of: str | None = option(
        "the store's state as of a run (its id or number) or a time in UTC, such as 2026-11-20, whose end it is", None
    )
    vector: str = option("the store's vectors to join, or several end to end, as in cls+mean", "mean")
    level: str = option("what a row is: sequence, region, gene, haplotype or subject (the value of --on)", "subject")
    aggregate: str | None = option(
        "how a row's sequences become one vector: mean, max, length (mean weighted by bases), or concat (genes end to end) (else mean)",
        None,
    )
    genes: str | None = option(
        "manifest of genes, one a line or a table with a column gene_id: only they count, and concat has them in its order", None
    )
    within: str | None = option("how a gene's sequences become one vector under concat: mean, max or length (else mean)", None)
    reduce: tuple[str, ...] = option(
        "[NAME=]RULE: what several rows of a partner for one key become: mean, max, first, last, first:COLUMN or last:COLUMN (in "
        "the order of a column, else of the rows), or refuse (else mean)",
        (),
        repeated=True,
    )
    key: tuple[str, ...] = option("NAME=COLUMN: a partner's key column, where it is not named as --on", (), repeated=True)
    vector_column: tuple[str, ...] = option(
        "NAME=COLUMN: a partner's vectors, where it has several columns of lists", (), repeated=True
    )
    mapping: tuple[str, ...] = option(
        "NAME=URI: table that leads from a partner's keys to those of the store: a column named as --on, and one named as the partner's",
        (),
        repeated=True,
    )
    partner_version: tuple[str, ...] = option("NAME=N: an older version of a partner's Delta table", (), repeated=True)
    salt_file: str | None = option(
        "file with the salt under which keys are hashed, on both sides; those that are hashed already stay", None
    )
    ray: bool | None = option("spread the join over Ray (else where the vectors take more than 512 MiB, or on a cluster)", None)

    def __post_init__(self) -> None:
        _one_of("level", self.level, tuple(LEVELS))
        names = list(self.partners)
        for name in names:
            require(
                re.fullmatch(r"[a-z][a-z0-9_]*", name) is not None,
                f"partner {name!r} cannot name a column: use small letters, digits and _, beginning with a letter",
            )
            taken = {"dna", self.on, "source_name", "sequence_id", *(key for keys in LEVELS.values() for key in keys)}
            taken |= {f"{one}_{end}" for one in ("dna", *names) for end in ("rows", "mask")}
            clash = name in taken or name.startswith("has_")
            require(not clash, f"partner {name!r} has the name of another column of the result: give it another")
        for setting in ("key", "vector_column", "mapping", "partner_version"):
            strange = [name for name in pairs(getattr(self, setting), setting) if name not in names]
            require(
                not strange,
                f"{setting} names {strange[0] if strange else ''!r}, which is no partner: there are {', '.join(names)}",
            )
        for name, text in pairs(self.partner_version, "partner_version").items():
            require(text.isdecimal(), f"partner_version {name}={text!r} is no number of a Delta version")
        for name in names:
            self.rule(name)
        require(self.level != "sequence" or self.aggregate is None, "level sequence pools nothing: leave aggregate out")
        if self.aggregate is not None:
            _one_of("aggregate", self.aggregate, AGGREGATES)
        if self.within is not None:
            require(self.aggregate == "concat", "within is for aggregate concat: leave it out, or say aggregate")
            _one_of("within", self.within, POOLINGS)
        if self.aggregate == "concat":
            require(
                self.level in ("subject", "haplotype"),
                f"concat puts the genes of a row end to end, and a row of level {self.level} has one at the most: take level subject",
            )
            require(self.genes is not None, "concat needs the genes and their order: give a manifest with --genes")
        for part in self.vector.split("+"):
            require(part in VECTORS, f"vector {part!r} is none of {', '.join(VECTORS)}")

    @property
    def partners(self) -> dict[str, str]:
        """For each partner's name, where it lies."""
        return pairs(self.partner, "partner")

    @property
    def pooling(self) -> str:
        """How the sequences of a group, or of a gene under concat, become one vector."""
        if self.aggregate == "concat":
            return self.within or "mean"
        return self.aggregate or "mean"

    def rule(self, partner: str) -> tuple[str, str | None]:
        """How several rows of a partner for one key become one, and the column in whose order they stand."""
        found = "mean"
        for text in self.reduce:
            name, equals, rule = text.partition("=")
            if equals and name not in self.partners:
                require(False, f"reduce names {name!r}, which is no partner: there are {', '.join(self.partners)}")
            if not equals or name == partner:
                found = rule if equals else text
        rule, colon, column = found.partition(":")
        _one_of("reduce", rule, RULES)
        require(not colon or (rule in ("first", "last") and bool(column)), f"reduce {found!r} is not first:COLUMN or last:COLUMN")
        return rule, column or None


@dataclass(frozen=True, kw_only=True)
class JoinConfig(JoinInputs):
    """What `dnafeat join` and `jobs/join.py` do."""

    store: str = option("folder or s3:// prefix of the feature store")
    output: str = option("folder or s3:// prefix of the Delta table to write; one that is there gets another version")
    how: str = option(
        "inner: rows that all modalities have; left: all rows with DNA; outer: all rows that any modality has", "inner"
    )
    replace_widths: bool = option("let a modality have another width than in the output's last version", False)

    def __post_init__(self) -> None:
        super().__post_init__()
        _one_of("how", self.how, ("inner", "left", "outer"))


def pairs(texts: Sequence[str], setting: str) -> dict[str, str]:
    """`NAME=VALUE` texts as a mapping. Raises UsageError for one that is none, and for a name that comes twice."""
    found: dict[str, str] = {}
    for text in texts:
        name, equals, value = text.partition("=")
        require(bool(name and equals and value), f"{setting} {text!r} is not NAME=VALUE")
        require(name not in found, f"{setting} names {name!r} twice: leave one out")
        found[name] = value
    return found


def _one_of(setting: str, value: str, known: Sequence[str]) -> None:
    require(value in known, f"{setting} {value!r} is none of {', '.join(known)}")
