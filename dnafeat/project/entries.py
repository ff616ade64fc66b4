"""Select the training entries of a fitted projection and stream their vectors.

An entry counts once however many share its sequence, so that a sequence two subjects carry counts twice. Vectors come in the order of
their digests, in chunks that depend on the training entries alone: neither other entries, nor files, nor maintenance change a bit of
what is fitted.
"""

from __future__ import annotations

import functools
import hashlib
import uuid
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import torch
from torch import nn

from dnafeat import pseudonyms as keyhash
from dnafeat.cluster.spread import Each
from dnafeat.encoder.projection import applied
from dnafeat.errors import StoreError, UsageError
from dnafeat.keys import spelled, spelled_text
from dnafeat.project.config import FitProjectorConfig
from dnafeat.sources.lists import read_list
from dnafeat.spill import Spill
from dnafeat.statistics import Moments
from dnafeat.store import Store, conditions, digests, reading
from dnafeat.store.digests import netstring
from dnafeat.store.history import History
from dnafeat.store.lookup import Lookup
from dnafeat.store.matrices import matrix
from dnafeat.store.schema import arrow_schema
from dnafeat.text import did_you_mean
from dnafeat.vectors import parts

_DIGESTS = pa.schema([("sequence_digest", pa.string())])
_RANGES = 1024
# Entries whose vectors are read in one part.
_PART_ROWS = 131_072
_BATCH_ROWS = 131_072


def find_lookup(store: Store, history: History, version: str, view: str) -> Lookup:
    """Find a version's vectors. Raises StoreError where it does not have those of a view."""
    reading.chosen(parts(view), version, history.vectors(version))
    store.features.reload().version()
    return Lookup(store.features, version, history.parent(version))


@dataclass(frozen=True)
class Training:
    """Named entries, and how their vectors are read.

    Attributes
    ----------
    about : Mapping
        What a projection keeps of them: `store`, `feature_version`, `runs` (of each source the number as of which), `entries`, distinct
        `sequences`, `digest` (SHA-256 of the sum of the SHA-256 of each entry's source and id, as netstrings; the sums run over four
        times 64 bits), and the columns they were named `by`. No id and no key's value.
    unmatched : int
        Values of the list that no entry has.
    """

    lookup: Lookup
    digests: Spill
    about: Mapping[str, Any]
    unmatched: int

    def moments(self, view: str, steps: Sequence[nn.Module], each: Each, *, pairs: bool) -> Moments:
        """Moments of the entries' vectors after some steps. One pass; in memory is one part's digests and a chunk of vectors."""
        found = each(functools.partial(_moments, self.lookup, view, list(steps), pairs), self._parts(), "fitting")
        total = functools.reduce(Moments.__add__, found)
        if not np.isfinite(total.squares).all():
            raise StoreError(f"{self.lookup.features.uri}: a {view} vector of the training entries is not finite")
        return total

    def _parts(self) -> list[Spill]:
        """Neighbouring ranges of digests together, by how many entries they have."""
        number = np.cumsum(self.digests.counts) // _PART_ROWS
        first = np.flatnonzero(np.diff(number, prepend=-1))
        spills = [self.digests.part(int(a), int(b)) for a, b in zip(first, [*first[1:], _RANGES], strict=True)]
        return [spill for spill in spills if spill.rows]


def _moments(lookup: Lookup, view: str, steps: Sequence[nn.Module], pairs: bool, part: Spill) -> Moments:
    names, counts = _distinct(part)
    found = [
        Moments.of(applied(steps, torch.from_numpy(values)).numpy(), counts[place], pairs=pairs)
        for place, values in vectors(lookup, view, names)
    ]
    return functools.reduce(Moments.__add__, found)


def vectors(lookup: Lookup, view: str, names: np.ndarray) -> Iterator[tuple[slice, np.ndarray]]:
    """A view of some sequences a chunk at a time: places in `names`, sorted digests, and (n, inputs) float32."""
    for place, batch in lookup.in_chunks(names, parts(view)):
        yield place, np.concatenate([matrix(batch[name]) for name in parts(view)], axis=1)


def _distinct(spill: Spill) -> tuple[np.ndarray, np.ndarray]:
    """Sorted digests of a part and how many entries have each."""
    found = [digests.to_numpy(batch["sequence_digest"]) for batch in spill.every_batch()]
    return np.unique(np.concatenate(found), return_counts=True)


def find_training(store: Store, config: FitProjectorConfig, view: str, folder: str) -> Training:
    """Look the training entries up in one pass over `sequences`, and spill their digests into a folder.

    Raises
    ------
    UsageError, StoreError
        The version does not have the view, a column is no key, the list cannot be read, or no entry is named.
    """
    history = store.history()
    version = history.resolve(config.version)
    lookup, state = find_lookup(store, history, version, view), history.state(version, source=config.source)
    sequences = store.sequences.reload()
    store.check_whole(history, state.values())
    own = arrow_schema("sequences").names
    keys = [name for name in sequences.schema().names if name not in own]
    salt = None if config.salt_file is None else keyhash.read_salt(config.salt_file, store.uri)
    where = conditions.parse_where(config.where)
    if salt is not None:
        where = {column: list(keyhash.pseudonyms(map(spelled_text, values), salt)) for column, values in where.items()}
    named = conditions.conditions(where, keys, store.uri)
    for column, values in where.items():
        conditions.warn_of_unknown(sequences, state, column, values, pa.chunked_array([], pa.string()))
    wanted = _listed(config, salt)
    if config.train_by not in (*keys, "sequence_id"):
        raise UsageError(
            f"the entries of {store.uri} have no key {config.train_by!r}: there are {', '.join(['sequence_id', *keys])}"
            f"{did_you_mean(config.train_by, ['sequence_id', *keys])}"
        )
    spill = Spill(folder, f"training-{uuid.uuid4().hex}", _DIGESTS, _RANGES)
    seen, total = np.zeros(0 if wanted is None else len(wanted), bool), np.zeros(4, np.uint64)
    columns = list(dict.fromkeys(["source_name", "sequence_id", "sequence_digest", config.train_by]))
    for source, number in state.items():
        rows = conditions.stood(source, number)
        for batch in sequences.batches(
            columns, rows if named is None else rows & named, [("source_name", "=", source)], _BATCH_ROWS
        ):
            if wanted is not None:
                at = pc.index_in(spelled(batch[config.train_by]), value_set=wanted)
                seen[at.drop_null().to_numpy()] = True
                batch = batch.filter(at.is_valid())
            total += _summed(batch)
            chosen = digests.to_numpy(batch["sequence_digest"])
            spill.add(pa.RecordBatch.from_arrays([digests.to_arrow(chosen)], schema=_DIGESTS), digests.partition(chosen, _RANGES))
    spill.close()
    if not spill.rows:
        raise UsageError(
            f"no entry of version {version} in {store.uri} is named for training: look at --train, --where and --source"
        )
    about = {
        "store": store.uri,
        "feature_version": version,
        "runs": state,
        "entries": spill.rows,
        "sequences": 0,
        "digest": hashlib.sha256(total.astype("<u8").tobytes()).hexdigest(),
        "by": [
            *([config.train_by] if wanted is not None else []),
            *where,
            *(["source_name"] if config.source is not None else []),
        ],
    }
    made = Training(lookup, spill, about, len(seen) - int(seen.sum()))
    about["sequences"] = sum(len(_distinct(part)[0]) for part in made._parts())
    return made


def _listed(config: FitProjectorConfig, salt: bytes | None) -> pa.Array | None:
    if config.train is None:
        return None
    values = dict.fromkeys(spelled_text(value) for _, value in read_list(config.train, config.train_by, "training entry"))
    return pa.array(keyhash.pseudonyms(values, salt) if salt is not None else values, pa.string())


def _summed(batch: pa.RecordBatch) -> np.ndarray:
    """The sum of the SHA-256 of each entry's source and id, (4,) uint64 that run over."""
    lines = pc.binary_join_element_wise(netstring(batch["source_name"]), netstring(batch["sequence_id"]), "").cast(pa.binary())
    hashed = b"".join(hashlib.sha256(line).digest() for line in lines.to_pylist())
    return np.frombuffer(hashed, "<u8").reshape(-1, 4).sum(axis=0, dtype=np.uint64)
