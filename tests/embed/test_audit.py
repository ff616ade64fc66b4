"""The audit: each check fails for what it is there for, names itself, and lets good files pass."""

from __future__ import annotations

import contextlib
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from stores import A, Entry, digest, feature_rows, fill

from dnafeat.embed.audit import audit
from dnafeat.errors import AuditError
from dnafeat.store import Store
from dnafeat.store import vector_files as vectorfiles
from dnafeat.store.vector_files import Receipt

NAMES = sorted(digest("ACGT" + "ACGT"[i % 4] + "ACGT"[i // 4]) for i in range(16))


@pytest.fixture
def store(tmp_path: Path) -> Store:
    """With some vectors of the version, so that there is a history."""
    fill(str(tmp_path / "store"), [Entry(f"e{i}", "TTTTG" + "ACGT"[i]) for i in range(4)], tmp_path)
    return Store(str(tmp_path / "store"))


def write(store: Store, rows: pa.Table, shard: str = "w/shard-00000.parquet") -> Receipt:
    return vectorfiles.write(store.features, [rows], stem="run", version=A.digest, about=lambda: {"shard": shard})


def good(store: Store) -> list[Receipt]:
    return [write(store, feature_rows(NAMES[:9]), "a"), write(store, feature_rows(NAMES[9:]), "b")]


def scaled(rows: pa.Table, name: str, factor: float) -> pa.Table:
    at = rows.schema.get_field_index(name)
    values = [[factor * number for number in one] for one in rows[name].to_pylist()]
    return rows.set_column(at, rows.schema.field(at), pa.array(values, rows.schema.field(at).type))


def again(tmp_path: Path, rows: pa.Table) -> str:
    pq.write_table(rows, tmp_path / "again.parquet")
    return str(tmp_path / "again.parquet")


def test_good_files_pass(store: Store, tmp_path: Path) -> None:
    check = again(tmp_path, scaled(feature_rows([NAMES[0], NAMES[10]]), "mean", 1 + 1e-6))
    audit(store, A.digest, "float32", good(store), rows=16, check=check)
    audit(store, A.digest, "float32", [], rows=0)


def gone(store: Store) -> list[Receipt]:
    receipts = good(store)
    Path(store.features.uri, receipts[1].file.path).unlink()
    return receipts


def cut(store: Store) -> list[Receipt]:
    receipts = good(store)
    path = Path(store.features.uri, receipts[0].file.path)
    path.write_bytes(path.read_bytes()[:-9])
    return receipts


def longer(store: Store) -> list[Receipt]:
    receipts = good(store)
    other = write(store, feature_rows(NAMES))
    path = Path(store.features.uri, receipts[0].file.path)
    path.write_bytes(Path(store.features.uri, other.file.path).read_bytes())
    return receipts


@pytest.mark.parametrize(
    ("made", "fault"),
    [
        (lambda store: good(store)[:1], "counts: 9 sequences were written and 16 were to be"),
        (lambda store: [replace(one, shard="same") for one in good(store)], "shards: one of them has two receipts"),
        (gone, "is gone or cannot be read"),
        (cut, "is gone or cannot be read"),
        (longer, "16 rows and was written with"),
        (lambda store: [write(store, feature_rows([*NAMES[:15], NAMES[14]]))], "holds a sequence twice or out of order"),
        (
            lambda store: [write(store, feature_rows(NAMES[:8]), "a"), write(store, feature_rows(NAMES[7:15]), "b")],
            "stands in another file too",
        ),
        (lambda store: [write(store, scaled(feature_rows(NAMES), "cls", float("nan")))], "finite: 16 vectors hold a NaN"),
        (lambda store: [write(store, scaled(feature_rows(NAMES), "max", 0.0))], "norms: max vectors have a mean norm of 0"),
        (lambda store: [write(store, scaled(feature_rows(NAMES), "mean", 5.0))], "norms: mean vectors have a mean norm of"),
    ],
    ids=["lost", "twice", "gone", "cut", "longer", "order", "overlap", "nan", "zero", "norms"],
)
def test_each_check_names_itself(store: Store, made: Callable[[Store], list[Receipt]], fault: str) -> None:
    receipts = made(store)
    with pytest.raises(AuditError) as error:
        audit(store, A.digest, "float32", receipts, rows=16)
    assert str(error.value).startswith("the audit failed and nothing was published: ")
    assert fault in str(error.value)
    assert "\n" not in str(error.value)
    assert error.value.exit_code == 4


def test_without_a_history_any_norm_but_zero_will_do(tmp_path: Path) -> None:
    store = Store(str(tmp_path / "empty"))
    store.create()
    audit(store, A.digest, "float32", [write(store, scaled(feature_rows(NAMES), "mean", 1e6))], rows=16)


@pytest.mark.parametrize(
    ("precision", "factor", "passes"), [("float32", 1.001, False), ("bfloat16", 1.01, True), ("bfloat16", 1.2, False)]
)
def test_vectors_that_come_out_otherwise_the_second_time(
    store: Store, tmp_path: Path, precision: str, factor: float, passes: bool
) -> None:
    check = again(tmp_path, scaled(feature_rows([NAMES[3], NAMES[12]]), "projected", factor))
    if passes:
        audit(store, A.digest, precision, good(store), rows=16, check=check)
        return
    with pytest.raises(AuditError, match=r"sample: encoded again, a projected vector of .* differs by"):
        audit(store, A.digest, precision, good(store), rows=16, check=check)


@pytest.mark.parametrize(("vector", "within", "beyond"), [("mean", 1.0075, 1.0082), ("projected", 1.015, 1.017)])
def test_rounded_vectors_may_differ_by_a_step_of_their_rounding(
    store: Store, tmp_path: Path, vector: str, within: float, beyond: float
) -> None:
    files = good(store)
    for factor, passes in ((within, True), (beyond, False)):
        check = again(tmp_path, scaled(feature_rows([NAMES[3], NAMES[12]]), vector, factor))
        with (
            contextlib.nullcontext()
            if passes
            else pytest.raises(AuditError, match=f"sample: encoded again, a {vector} vector of")
        ):
            audit(store, A.digest, "float32", files, rows=16, rounding="bfloat16", check=check)
        with pytest.raises(AuditError, match="sample"):
            audit(store, A.digest, "float32", files, rows=16, check=check)


def test_what_was_encoded_again_must_be_there(store: Store, tmp_path: Path) -> None:
    check = again(tmp_path, feature_rows(sorted([NAMES[3], digest("GGGGGGGG")])))
    with pytest.raises(AuditError, match=r"sample: 2 sequences were encoded again and 1 of them are in the files"):
        audit(store, A.digest, "float32", good(store), rows=16, check=check)
    audit(store, A.digest, "float32", good(store), rows=16, check=check, refused=[digest("GGGGGGGG")])
