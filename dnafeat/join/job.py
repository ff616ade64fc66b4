"""`dnafeat join`: DNA vectors and those of other modalities, row by row on a key, into a Delta table of its own.

Small joins run here, large ones on Ray Data; both take the same steps (`steps`) over the same kind of parts.
"""

from __future__ import annotations

import functools
import json
import shutil
import tempfile
import time
import uuid
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from datetime import UTC, datetime
from typing import Any

import pyarrow as pa

from dnafeat import pseudonyms as keyhash
from dnafeat import storage
from dnafeat.cluster.config import on_cluster
from dnafeat.cluster.spread import Each, here
from dnafeat.errors import UsageError
from dnafeat.join import levels
from dnafeat.join.config import DNA, GENE, LEVELS, JoinConfig, JoinInputs, pairs
from dnafeat.join.modalities import PartnerTable, open_partner, read_mapping
from dnafeat.join.rows import DnaSide
from dnafeat.join.steps import (
    Dealt,
    deal_entries,
    deal_partner,
    deal_vectors,
    examples_of,
    own_spill,
    partner_schema,
    put_together,
)
from dnafeat.join.summary import JoinSummary
from dnafeat.join.table import WORK, JoinedTable
from dnafeat.provenance import __version__, digest_of
from dnafeat.spill import Spill
from dnafeat.store import Store, digests, reading
from dnafeat.store.lookup import Lookup
from dnafeat.store.replaced import ABOUT
from dnafeat.store.retry import looking_again
from dnafeat.store.schema import arrow_schema
from dnafeat.text import did_you_mean

# Grows when keys are spelled, or rows ordered, otherwise than before: the same inputs then give another result.
_KEY_RULE = 2
# Bytes of vectors that a partition of keys should hold, and of a join that is worth Ray's start.
_PARTITION_BYTES, _LARGE = 32 * 2**20, 512 * 2**20
_DIGEST_ROWS = 49_152  # entries of a partition of digests
_NAMED = 5  # missing genes that are named


def join(config: JoinConfig, *, show: bool = True) -> JoinSummary:
    """Join the vectors of a version with those of other modalities, and write them as one more version of a Delta table.

    Parameters
    ----------
    config : JoinConfig
    show : bool
        Whether to draw progress on standard error.

    Raises
    ------
    UsageError
        Settings, a partner's table or its keys are wrong; nothing is written.
    StoreError, ConflictError, EncodingError
        Storage or a worker failed, or another job wrote the output meanwhile. The same command continues.
    """
    with storage.reached(config.output):
        return looking_again(lambda: _Join(config, show)())


class _Join:
    """One join, from its configuration to its commit."""

    def __init__(self, config: JoinConfig, show: bool) -> None:
        self.clock = time.monotonic()
        self.config, self.inputs, self.show = config, config.inputs, show
        self.output = JoinedTable(config.output)
        self.attempt = uuid.uuid4().hex[:16]
        salt = (
            keyhash.read_salt(self.inputs.salt_file, config.store, config.output, *self.inputs.partners.values())
            if self.inputs.salt_file
            else None
        )
        self.side = dna_side(config, salt)
        if clash := set(self.side.keys) & set(self.inputs.partners):
            raise UsageError(f"partner {min(clash)!r} has the name of a key of the store's entries: give it another")
        self.partners = [_partner(self.inputs, name, uri) for name, uri in self.inputs.partners.items()]
        self.mappings = self._mappings()
        self.last = self.output.last()
        self.notes: list[str] = []
        self.committing = False

    def _mappings(self) -> dict[str, tuple[pa.Table, str]]:
        keys = {partner.name: partner.key for partner in self.partners}
        mappings = pairs(self.inputs.mapping, "mapping")
        return {name: read_mapping(name, uri, key=keys[name], on=self.inputs.on) for name, uri in mappings.items()}

    def __call__(self) -> JoinSummary:
        lineage = self.lineage()
        if self.last is not None and self.last["inputs_digest"] == lineage["inputs_digest"]:
            earlier = {name: value for name, value in self.last["summary"].items() if name != "notes"}
            return JoinSummary(
                **{
                    **earlier,
                    "output": self.config.output,
                    "output_version": self.last["output_version"],
                    "notes": [],
                    "unchanged": True,
                }
            )
        self.check_widths()
        storage.check_writable(self.output.uri)
        local = tempfile.mkdtemp(prefix="dnafeat-")
        work = local
        try:
            each, work = self.spread(local)
            return self.run(lineage, each, work)
        except BaseException:
            if not self.committing:
                self.output.give_up(self.attempt)
            raise
        finally:
            shutil.rmtree(local, ignore_errors=True)
            if work != local:
                storage.remove_folder(work)

    def spread(self, local: str) -> tuple[Each, str]:
        """Choose how the steps run over their parts, and the folder in which they meet."""
        wanted = self.inputs.ray if self.inputs.ray is not None else on_cluster() or self.bytes() > _LARGE
        if not wanted:
            return here, local
        from dnafeat.cluster import session as cluster
        from dnafeat.cluster.datasets import over_data
        from dnafeat.cluster.observe import Job

        cluster.start_ray()
        work = local if cluster.only_here() else storage.join(self.output.uri, WORK, self.attempt)
        return over_data(Job(name="join", run_id=self.attempt, source=self.side.store.uri), self.show), work

    @functools.cached_property
    def entries(self) -> int:
        return self.side.store.count_entries(self.side.state)

    def bytes(self) -> int:
        """Bytes of the vectors that are partitioned, and of the rows made of them."""
        others = sum(partner.width for partner in self.partners)
        dealt = self.entries * self.side.width + sum(partner.rows * partner.width for partner in self.partners)
        repeated = self.entries * others if self.inputs.level in ("sequence", "gene", "region") else 0
        return 4 * (dealt + repeated)

    def run(self, lineage: dict[str, Any], each: Each, work: str) -> JoinSummary:
        side = self.side
        partitions = min(digests.MAX_PARTITIONS, 1 + self.bytes() // _PARTITION_BYTES)
        ranges = min(digests.MAX_PARTITIONS, 1 + self.entries // _DIGEST_ROWS)
        found = each(
            functools.partial(deal_entries, side, ranges, work),
            side.store.sequences.paths([("source_name", "=", next(iter(side.state)))] if len(side.state) == 1 else None),
            "reading entries",
        )
        dna = Dealt.together(found, own_spill(work, side.entry_schema(), ranges))
        dealt = [self.deal(partner, partitions, each, work) for partner in self.partners]
        self.check_keys(dna, dealt)
        spills = each(functools.partial(deal_vectors, side, partitions, work, dna.rows), range(ranges), "reading vectors")
        make = functools.partial(
            put_together,
            side,
            self.partners,
            self.output.uri,
            self.output.stem(self.attempt),
            {ABOUT: json.dumps(lineage, sort_keys=True)},
            Spill.together(spills),
            [one.rows for one in dealt],
        )
        written = each(make, range(partitions), "joining")
        counts = sum((one.counts for one in written), Counter[str]())
        summary = self.summary(dna, dealt, counts, examples_of(written))
        files = [one.file for one in written if one.file is not None]
        about = {**lineage, "summary": asdict(summary)}
        names = [partner.name for partner in self.partners]
        self.committing = True
        version = self.output.commit(files, side.contract(names), about, self.attempt)
        self.output.sweep()
        seconds = round(time.monotonic() - self.clock, 3)
        return JoinSummary(**{**asdict(summary), "output_version": version, "seconds": seconds})

    def deal(self, partner: PartnerTable, partitions: int, each: Each, work: str) -> Dealt:
        mapping = self.mappings[partner.name][0] if partner.name in self.mappings else None
        step = functools.partial(deal_partner, partner, mapping, self.side.salt, partitions, work)
        found = each(step, range(partner.files), f"reading {partner.name}")
        return Dealt.together(found, own_spill(work, partner_schema(partner), partitions))

    # -- what is said ---------------------------------------------------------------------------------------------------

    def lineage(self) -> dict[str, Any]:
        """The lineage of the result. `inputs_digest` is the same where the result would be."""
        side, config = self.side, self.config
        dna = {
            "store": side.store.uri,
            "feature_version": side.version,
            "runs": {source: {"run_id": side.run_ids[source], "run_number": number} for source, number in side.state.items()},
            # Maintenance makes another of it, but so does forgetting, after which the result is another.
            "sequences_version": side.store.sequences.version(),
            "vector": self.inputs.vector,
            "width": self.widths()[DNA],
        }
        partners = []
        for partner in self.partners:
            rule, _ = self.inputs.rule(partner.name)
            about: dict[str, Any] = {**partner.lineage(), "reduce": rule}
            if mapping := pairs(self.inputs.mapping, "mapping").get(partner.name):
                about["mapping"] = {"uri": storage.absolute(mapping), "state": self.mappings[partner.name][1]}
            partners.append(about)
        inputs = {
            "dna": dna,
            "partners": partners,
            "on": self.inputs.on,
            "level": self.inputs.level,
            "aggregate": None if self.inputs.level == "sequence" else self.inputs.aggregate or "mean",
            "within": self.inputs.pooling if self.inputs.aggregate == "concat" else None,
            "genes": None if side.genes is None else list(side.genes),
            "how": config.how,
            "keys_hashed_under": None if side.salt is None else keyhash.check(side.salt),
            "key_rule": _KEY_RULE,
        }
        about_us = {"features_version": side.store.features.version(), "dnafeat": __version__}
        return {**inputs, **about_us, "made_at": f"{datetime.now(UTC):%Y-%m-%dT%H:%M:%SZ}", "inputs_digest": digest_of(inputs)}

    def widths(self) -> dict[str, int]:
        """Widths of each modality's vectors in the result."""
        genes = len(self.side.genes or ()) if self.inputs.aggregate == "concat" else 1
        return {DNA: self.side.width * genes, **{partner.name: partner.width for partner in self.partners}}

    def check_widths(self) -> None:
        """Raise UsageError where a modality's vectors are wider or narrower than in the last version."""
        if self.last is None or self.config.replace_widths:
            return
        before = {DNA: self.last["dna"]["width"], **{one["name"]: one["width"] for one in self.last["partners"]}}
        for name, width in self.widths().items():
            if before.get(name, width) != width:
                raise UsageError(
                    f"{name} is {width} wide and was {before[name]} in version {self.last['output_version']} of {self.output.uri}, which "
                    f"those who read it may count on: write to another --output, or allow it with --replace-widths"
                )

    def check_keys(self, dna: Dealt, partners: Sequence[Dealt]) -> None:
        """Raise UsageError where keys cannot meet: none in the store, or one side hashed and the other not."""
        on, store = self.inputs.on, self.side.store.uri
        if not dna.rows.rows:
            reasons = ", ".join(f"{count:,} {reason}" for reason, count in _left_out(dna.counts).items())
            raise UsageError(
                f"no entry of version {self.side.version} in {store} is left to join on {on!r}: {reasons or 'it has none'}"
            )
        if len(dna.salts) > 1:
            raise UsageError(
                f"some values of {on!r} in {store} are hashed and others are not, or under another salt: embed the source again with one "
                f"--salt-file"
            )
        for partner, dealt in zip(self.partners, partners, strict=True):
            if dealt.salts and dealt.salts != dna.salts:
                left, right = [_hashing(one) for one in (dealt.salts, dna.salts)]
                raise UsageError(
                    f"the keys of partner {partner.name} are {left} and those of {store} are {right}, so that they cannot meet: give "
                    f"the salt with --salt-file, which hashes those that are not"
                )

    def summary(self, dna: Dealt, partners: Sequence[Dealt], counts: Counter[str], unmatched: Mapping[str, str]) -> JoinSummary:
        """Summarise the join, without the version. Raises UsageError where it has no row."""
        config, notes = self.config, self.notes
        about = {}
        for partner, dealt in zip(self.partners, partners, strict=True):
            name = partner.name
            matches = {word: counts[f"{name} {word}"] for word in ("keys", "matched", "several")}
            alone = {"unmatched": matches["keys"] - matches["matched"], "dna_unmatched": counts[f"{name} dna alone"]}
            about[name] = {"width": partner.width, "rows": partner.rows, **matches, "reduce": self.inputs.rule(name)[0], **alone}
            if not matches["matched"]:
                examples = f"{dealt.examples[0]!r} there" if dealt.examples else "none there has a key and a vector"
                sentence = (
                    f"no {self.inputs.on} of partner {name} has DNA ({examples}, {dna.examples[0]!r} in the store): are they of one "
                    f"key space, or does it take a --mapping?"
                )
                if config.how == "inner":
                    raise UsageError(sentence)
                notes.append(sentence)
            else:
                sides = ((alone["unmatched"], name, name, "DNA"), (alone["dna_unmatched"], f"{name} {DNA}", "the store", name))
                notes += [
                    f"{count:,} {self.inputs.on} of {side} have no {other}, such as {unmatched[example]!r}"
                    for count, example, side, other in sides
                    if count
                ]
        if config.how == "inner" and not counts["rows"]:
            raise UsageError(
                f"no {self.inputs.on} has all modalities, so that an inner join has no row: take --how left or outer"
            )
        if self.side.genes is not None:
            missing = [gene for gene in self.side.genes if not dna.counts[f"gene {gene}"]]
            if missing:
                more = f" and {len(missing) - _NAMED:,} more" if len(missing) > _NAMED else ""
                notes.append(
                    f"{len(missing):,} of {len(self.side.genes):,} genes of the manifest have no sequence: "
                    f"{', '.join(missing[:_NAMED])}{more}"
                )
        left_out = {
            DNA: _left_out(dna.counts),
            **{p.name: _left_out(d.counts) for p, d in zip(self.partners, partners, strict=True)},
        }
        return JoinSummary(
            output=config.output,
            output_version=-1,
            rows=counts["rows"],
            complete=counts["complete"],
            sequences=counts["sequences"],
            dna_keys=counts["dna keys"],
            width=self.widths()[DNA],
            partners=about,
            left_out={name: reasons for name, reasons in left_out.items() if reasons},
            notes=notes,
        )


def dna_side(config: JoinConfig, salt: bytes | None) -> DnaSide:
    """Resolve the store's side of a join. Raises StoreError and UsageError for what it does not have."""
    inputs, store = config.inputs, Store(config.store)
    history = store.history()
    version = history.resolve(inputs.version)
    state = history.state(version, inputs.as_of, inputs.source)
    ids = {row["run_number"]: row["run_id"] for row in history.listing()}
    columns = reading.chosen((inputs.vector,), version, history.vectors(version))
    store.features.reload().version()
    store.sequences.reload().version()
    store.check_whole(history, state.values())
    own = arrow_schema("sequences").names
    keys = [name for name in store.sequences.schema().names if name not in own]
    further = LEVELS[inputs.level]
    genes = (GENE,) if inputs.genes is not None else ()
    for name in (inputs.on, *further, *genes):
        if name not in (*keys, "sequence_id"):
            there = ["sequence_id", *keys]
            hint = did_you_mean(name, there)
            raise UsageError(f"the entries of {store.uri} have no key {name!r}: there are {', '.join(there)}{hint}")
    if inputs.on in further:
        raise UsageError(f"level {inputs.level} has the key {inputs.on!r} by itself: join on another, such as subject_id")
    if inputs.level == "sequence":
        seen = reading.keys_with_values(store.sequences, state, keys)
        further = tuple(
            name for name in ("source_name", "sequence_id", *keys) if name != inputs.on and (name in own or name in seen)
        )
    parts = reading.stored(columns)
    widths = Lookup(store.features, version, history.parent(version)).widths(parts[1:])
    if len(widths) < len(parts[1:]):
        raise UsageError(f"version {version} of {store.uri} has no vectors: its sources are empty")
    return DnaSide(
        store=store,
        version=version,
        state=state,
        run_ids={source: ids[number] for source, number in state.items()},
        inputs=inputs,
        how=config.how,
        width=sum(widths[part] for part in inputs.vector.split("+")),
        keys=further,
        genes=None if inputs.genes is None else tuple(levels.read_genes(inputs.genes)),
        salt=salt,
        parent=history.parent(version),
    )


def _partner(inputs: JoinInputs, name: str, uri: str) -> PartnerTable:
    key = pairs(inputs.key, "key").get(name, inputs.on)
    version = pairs(inputs.partner_version, "partner_version").get(name)
    vector = pairs(inputs.vector_column, "vector_column").get(name)
    _, order = inputs.rule(name)
    return open_partner(name, uri, key=key, vector=vector, order=order, version=None if version is None else int(version))


def _left_out(counts: Counter[str]) -> dict[str, int]:
    """Reasons and how often, of what `Dealt` counts."""
    return {reason: count for reason, count in counts.items() if count and reason.startswith(("without ", "of genes", "whose "))}


def _hashing(salts: set[str | None]) -> str:
    if salts == {None}:
        return "not hashed"
    return "partly hashed" if None in salts else f"hashed (under {' and '.join(sorted(map(str, salts)))})"


def lineage(uri: str, version: int | None = None) -> dict[str, Any]:
    """The lineage of a joined table, at a version or the newest. Raises UsageError where there is none."""
    found = JoinedTable(uri).last(version)
    if found is None:
        raise UsageError(f"there is no table at {uri}: make one with `dnafeat join`")
    return found
