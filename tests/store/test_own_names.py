"""The name that every version has by itself: it never moves, is accepted where a version is, and cannot be given to another."""

from __future__ import annotations

from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pyarrow as pa
import pytest
from stores import A, B, Entry, fill, refused

from dnafeat.errors import StoreError
from dnafeat.store import Store
from dnafeat.store.names import Names
from dnafeat.store.schema import arrow_schema

ENTRIES = [Entry("a", "ACGT"), Entry("b", "GGCC")]


def events(*rows: tuple[str, str, str | None, str | None]) -> pa.Table:
    """Events (version, kind, name, model) in their order."""
    start = datetime(2026, 1, 1, tzinfo=UTC)
    made = [
        {
            "feature_version": version,
            "event": kind,
            "name": name,
            "lineage": None if model is None else f'{{"model": "{model}", "adapter": null}}',
            "recorded_at": start + timedelta(seconds=i),
        }
        for i, (version, kind, name, model) in enumerate(rows)
    ]
    return pa.Table.from_pylist(made, schema=arrow_schema("versions"))


def test_versions_of_one_model_are_numbered_in_their_order() -> None:
    rows = [
        ("v1", "created", None, "dnafeat-mini"),
        ("v2", "created", None, "zhihan1996/DNABERT-2-117M@abc"),
        ("v3", "created", None, "dnafeat-mini"),
        ("v4", "created", None, "/data/my model/"),
        ("v5", "created", None, None),
        ("v1", "created", None, "dnafeat-mini"),
    ]
    own = {"dnafeat-mini@1": "v1", "DNABERT-2-117M@1": "v2", "dnafeat-mini@2": "v3", "mymodel@1": "v4", "version@1": "v5"}
    assert Names("s", events(*rows)).own == own
    # What comes later changes none of them.
    assert Names("s", events(*rows, ("v9", "created", None, "dnafeat-mini"))).own == {**own, "dnafeat-mini@3": "v9"}


def test_names_that_were_given_before_are_passed_over() -> None:
    rows = [
        ("v1", "created", None, "m"),
        ("v2", "created", None, "m"),
        ("v2", "name", "m@1", None),
        ("v3", "created", None, "m"),
        ("v3", "name", "m@3", None),
    ]
    names = Names("s", events(*rows))
    assert names.own == {"m@2": "v1", "m@4": "v2", "m@5": "v3"}
    for name, version in names.own.items():
        assert names.given.get(name, version) == version


def test_a_version_is_meant_by_its_own_name(tmp_path: Path) -> None:
    uri = str(tmp_path / "store")
    other = replace(A, weights_sha256="9" * 64)
    for version in (A, B, other):
        fill(uri, ENTRIES, tmp_path, version=version)
    store = Store(uri)
    assert [row["name"] for row in store.versions().to_pylist()] == ["tests-1@1", "tests-2@1", "tests-1@2"]
    assert [store.resolve(name) for name in ("tests-1@1", "tests-1@2", "tests-1", "tests-2")] == [
        A.digest,
        other.digest,
        other.digest,
        B.digest,
    ]
    assert len(store.read("tests-2@1", ["mean"])) == 2
    with pytest.raises(StoreError) as error:
        store.resolve("tests-3@1")
    refused(error, "no version, name or channel", "did you mean")
    with pytest.raises(StoreError) as error:
        store.name("tests-1@2", A.digest)
    refused(error, "tests-1@2", other.digest, "stays so")
    assert store.name("tests-1", A.digest) == ("tests-1@3", A.digest)
    assert store.name("tests-2", B.digest) == ("tests-2@1", B.digest)
    assert [row["name"] for row in store.versions().to_pylist()] == ["tests-1@1", "tests-2@1", "tests-1@2"]
    # A channel of such a name keeps its meaning.
    store.point("tests-4", A.digest)
    assert store.resolve("tests-4") == A.digest
