"""Pooling of groups, and manifests of genes."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest

from dnafeat.errors import UsageError
from dnafeat.join.levels import Groups, concatenate, pool, read_genes, starts


def rows(keys: list[str], vectors: np.ndarray, bases: list[int] | None = None) -> pa.Table:
    column = pa.FixedSizeListArray.from_arrays(pa.array(vectors.astype(np.float32).ravel()), vectors.shape[1])
    names = [f"{i:03d}" for i in range(len(keys))]
    return pa.table(
        {
            "key": pa.array(keys, pa.string()),
            "id": pa.array(names, pa.string()),
            "bases": bases or [1] * len(keys),
            "vector": column,
        }
    )


@pytest.mark.parametrize("width", [1, 63, 64, 65, 200])
def test_groups_are_pooled_whatever_the_order_and_the_width(width: int) -> None:
    draw = np.random.default_rng(width)
    keys, vectors = [f"k{i}" for i in draw.integers(5, size=40)], draw.normal(size=(40, width)).astype(np.float32)
    bases = draw.integers(1, 9, size=40)
    table = rows(keys, vectors, bases.tolist())
    found = {how: pool(table, ["key"], how, ["id"]) for how in ("mean", "max", "length", "first", "last")}
    for i, key in enumerate(sorted(set(keys))):
        own = np.flatnonzero(np.array(keys) == key)
        wanted = {
            "mean": vectors[own].astype(np.float64).mean(0),
            "max": vectors[own].max(0),
            "length": np.average(vectors[own].astype(np.float64), axis=0, weights=bases[own]),
            "first": vectors[own[0]],
            "last": vectors[own[-1]],
        }
        for how, groups in found.items():
            assert groups.names["key"][i].as_py() == key
            assert groups.rows[i] == len(own)
            np.testing.assert_allclose(groups.vectors[i], wanted[how], rtol=1e-6, atol=1e-7)
    shuffled = table.take(pa.array(draw.permutation(40)))
    for how, groups in found.items():
        np.testing.assert_array_equal(pool(shuffled, ["key"], how, ["id"]).vectors, groups.vectors)


def test_nothing_is_pooled_to_nothing() -> None:
    for how in ("mean", "max", "length", "first"):
        groups = pool(rows([], np.empty((0, 3))), ["key"], how)
        assert (groups.vectors.shape, len(groups.rows), len(groups.names)) == ((0, 3), 0, 0)


def test_groups_begin_where_any_column_changes() -> None:
    table = pa.table({"a": ["x", "x", "x", "y"], "b": ["1", "1", "2", "2"]})
    assert starts(table, ["a"]).tolist() == [0, 3]
    assert starts(table, ["a", "b"]).tolist() == [0, 2, 3]
    assert starts(table.slice(0, 0), ["a"]).tolist() == []


def test_genes_stand_in_the_manifests_order_and_missing_ones_are_zeros() -> None:
    names = pa.table({"subject": ["s", "s", "t"], "gene_id": ["a", "c", "b"]})
    groups = Groups(names, np.array([[1, 2], [3, 4], [5, 6]], np.float32), np.ones(3, np.int64))
    vectors, mask = concatenate(groups, np.array([2, 0]), np.array([1, 2]), ["c", "b", "a"])
    assert vectors.tolist() == [[0, 0, 5, 6, 0, 0], [3, 4, 0, 0, 1, 2]]
    assert mask.tolist() == [[False, True, False], [True, False, True]]


@pytest.mark.parametrize(
    ("text", "genes"),
    [
        ("b\na\n", ["b", "a"]),
        ("# genes\n\n b \r\na", ["b", "a"]),
        ("gene_id\nb\na\n", ["b", "a"]),
        ("start,gene_id\n1,b\n2,a\n", ["b", "a"]),
        ('gene_id\tname\nb\t"x, y"\n', ["b"]),
        ("\ufeffgene_id\nb\n", ["b"]),
    ],
)
def test_a_manifest_is_a_list_or_a_table(tmp_path: Path, text: str, genes: list[str]) -> None:
    (tmp_path / "genes").write_text(text, newline="")
    assert read_genes(str(tmp_path / "genes")) == genes


@pytest.mark.parametrize(
    ("text", "sentence"),
    [
        ("", "names no gene: give one a line"),
        ("gene_id\n", "names no gene: give one a line"),
        ("a\nb\na\n", "names gene 'a' twice, in lines 1 and 3"),
        ("name,start\na,1\n", "has no column 'gene_id'"),
        ("start,gene_id\n1,a\n2\n", "line 3, names no gene"),
    ],
)
def test_a_manifest_that_is_none_is_one_sentence(tmp_path: Path, text: str, sentence: str) -> None:
    (tmp_path / "genes").write_text(text)
    with pytest.raises(UsageError, match=sentence):
        read_genes(str(tmp_path / "genes"))
    (tmp_path / "latin").write_bytes(b"g\xe9ne\n")
    with pytest.raises(UsageError, match="is not UTF-8 text"):
        read_genes(str(tmp_path / "latin"))
