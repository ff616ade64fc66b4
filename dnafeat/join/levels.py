"""Vectors pooled up the levels of genetics: subject, haplotype, gene, region (an exon, say), sequence.

Every sequence of a group counts alike, whatever stands between: the mean of a subject is the mean over all its sequences, not a mean of
gene means. Sums are taken in float64, in the order of source and id, so that neither cuts nor workers change a digit.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from dnafeat.errors import UsageError
from dnafeat.join.config import GENE
from dnafeat.keys import spelled_text
from dnafeat.sources.lists import read_list
from dnafeat.store.matrices import matrix, one_array


def read_genes(uri: str) -> list[str]:
    """The genes of a manifest in its order: one a line, or a CSV or TSV with a column `gene_id`; empty lines and `#` lines do not count.

    Raises UsageError for one that cannot be read, is empty, or names a gene twice.
    """
    seen: dict[str, int] = {}
    for at, written in read_list(uri, GENE, "gene"):
        gene = spelled_text(written)
        if gene in seen:
            raise UsageError(f"{uri} names gene {gene!r} twice, in lines {seen[gene]} and {at}: take one out")
        seen[gene] = at
    return list(seen)


def starts(rows: pa.Table, by: Sequence[str]) -> np.ndarray:
    """Find where groups of equal values begin in sorted rows without nulls in these columns: (groups,) int64."""
    if not len(rows):
        return np.empty(0, np.int64)
    new = np.zeros(len(rows), bool)
    new[0] = True
    for name in by:
        column = one_array(rows[name])
        new[1:] |= pc.not_equal(column.slice(1), column.slice(0, len(column) - 1)).to_numpy(zero_copy_only=False)
    return np.flatnonzero(new)


@dataclass(frozen=True)
class Groups:
    """Pooled rows.

    Attributes
    ----------
    names : pa.Table
        The columns that tell the groups apart, in their order.
    vectors : np.ndarray, shape=(groups, width), float32
    rows : np.ndarray, shape=(groups,), int64
        Rows that were pooled into each.
    """

    names: pa.Table
    vectors: np.ndarray
    rows: np.ndarray


def pool(rows: pa.Table, by: Sequence[str], how: str, order: Sequence[str] = ()) -> Groups:
    """Pool the vectors of each group.

    Parameters
    ----------
    rows : pa.Table
        With the columns `by` and `order`, `vector` (fixed-size list of float32) and, for `length`, `bases`.
    by : sequence of str
        Columns of strings without nulls.
    how : str
        mean; max, element by element; length, the mean weighted by `bases`; first or last, in the order of `order`.
    order : sequence of str
        Columns in whose order numbers are added up.
    """
    at = pc.sort_indices(rows, [(name, "ascending") for name in (*by, *order)])
    names = rows.select(list(by)).take(at)
    first = starts(names, by)
    count = np.diff([*first, len(rows)]).astype(np.int64)
    vectors, place = matrix(rows["vector"]), at.to_numpy()
    if how in ("first", "last"):
        pooled = vectors[place[first if how == "first" else first + count - 1]]
    elif not len(rows):
        pooled = vectors
    elif how == "max":
        pooled = np.maximum.reduceat(vectors[place], first)
    else:
        weight = rows["bases"].to_numpy()[place].astype(np.float64) if how == "length" else np.ones(len(rows))
        pooled = np.empty((len(first), vectors.shape[1]), np.float32)
        # Some columns at a time: float64 of all of them would be three times the rows.
        for a in range(0, vectors.shape[1], 64):
            part = vectors[:, a : a + 64][place].astype(np.float64) * weight[:, None]
            pooled[:, a : a + 64] = np.add.reduceat(part, first) / np.add.reduceat(weight, first)[:, None]
    return Groups(names.take(pa.array(first)), pooled, count)


def concatenate(groups: Groups, chosen: np.ndarray, length: np.ndarray, genes: Sequence[str]) -> tuple[np.ndarray, np.ndarray]:
    """The vectors of several genes end to end, in the manifest's order; zeros for those that are missing.

    Parameters
    ----------
    groups : Groups
        By key and gene.
    chosen, length : np.ndarray, shape=(n,), int64
        Where each key's groups begin, and how many they are.
    genes : sequence of str

    Returns
    -------
    vectors : np.ndarray, shape=(n, genes * width), float32
    mask : np.ndarray, shape=(n, genes), bool
        Which genes are there.
    """
    width = groups.vectors.shape[1]
    own = np.repeat(np.arange(len(chosen)), length)
    rows = np.repeat(chosen - (np.cumsum(length) - length), length) + np.arange(length.sum())
    gene = pc.index_in(one_array(groups.names[GENE]).take(pa.array(rows)), value_set=pa.array(genes, pa.string())).to_numpy()
    vectors = np.zeros((len(chosen), len(genes), width), np.float32)
    mask = np.zeros((len(chosen), len(genes)), bool)
    vectors[own, gene], mask[own, gene] = groups.vectors[rows], True
    return vectors.reshape(len(chosen), -1), mask
