"""Two versions compared: what is counted, the numbers against plain NumPy, and the same at any size of partition."""

from __future__ import annotations

import json
import math
import random
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest
from places import local_first
from stores import WIDTHS, A, B, Entry, Run, digest, feature_rows, feature_version, fill, vectors

from dnafeat.cli.main import main
from dnafeat.encoder.version import FeatureVersion
from dnafeat.errors import StoreError
from dnafeat.store import Store, lookup
from dnafeat.store import drift as drifting
from dnafeat.store.drift import Agreement, diff
from dnafeat.store.rollback import rollback
from dnafeat.vectors import VECTORS

ONE = [Entry("a", "ACGT"), Entry("b", "ACGT"), Entry("c", "GGCC"), Entry("d", "TTTT"), Entry("e", "AAAA")]
OTHER = [*ONE[:4], Entry("y", "CACA"), Entry("z", "CACA"), Entry("x", "TGTG")]


def random_entries(count: int, seed: int) -> list[Entry]:
    dice = random.Random(seed)
    return [Entry(f"{seed}-{i}", "".join(dice.choices("ACGT", k=24))) for i in range(count)]


def agreement(one: list[list[float]], other: list[list[float]]) -> list[float]:
    """The eight numbers by plain sums over lists of vectors."""
    cosines, distances = [], []
    for a, b in zip(one, other, strict=True):
        lengths = math.sqrt(math.fsum(x * x for x in a)), math.sqrt(math.fsum(x * x for x in b))
        apart = math.sqrt(math.fsum((x - y) ** 2 for x, y in zip(a, b, strict=True)))
        if min(lengths) == 0:
            cosines.append(float(max(lengths) == 0))
        else:
            cosines.append(math.fsum(x * y for x, y in zip(a, b, strict=True)) / (lengths[0] * lengths[1]))
        distances.append(apart / max(lengths) if max(lengths) else 0.0)
    return [
        np.mean(cosines),
        np.median(cosines),
        np.percentile(cosines, 5),
        min(cosines),
        np.mean(distances),
        np.median(distances),
        np.percentile(distances, 95),
        max(distances),
    ]


def numbers(found: Agreement) -> list[float]:
    return [getattr(found, name) for name in Agreement.__dataclass_fields__]


def fill_vectors(store: str, folder: Path, version: FeatureVersion, made: Callable[[str], dict[str, list[float]]]) -> None:
    """`ONE` under a version whose vectors are made of each sequence by `made`; kinds it lacks are null."""
    letters = {digest(entry.sequence): entry.sequence for entry in ONE}
    table = feature_rows(sorted(letters), version)
    for name in VECTORS:
        at = table.schema.get_field_index(name)
        values = pa.array([made(letters[one]).get(name) for one in sorted(letters)], table.schema.field(name).type)
        table = table.set_column(at, table.schema.field(name), values)
    run = Run(store, ONE, folder, version=version).encode()
    run.files = [run.store.features.write(table, stem="made", partition={"feature_version": version.digest})]
    run.publish()


# counts and numbers


@local_first
def test_versions_are_compared_on_the_sequences_they_have_in_common(store_uri: str, tmp_path: Path) -> None:
    fill(store_uri, ONE, tmp_path)
    fill(store_uri, OTHER[:4], tmp_path, version=B, source="first")
    fill(store_uri, OTHER[3:], tmp_path, version=B, source="second")
    store = Store(store_uri)
    store.point("production", A.digest)
    found = diff(store, "production", B.digest[:6])
    assert (found.one, found.other) == (A.digest, B.digest)
    # Distinct sequences, however many entries and sources name them.
    assert (found.common, found.only_one, found.only_other) == (3, 1, 2)
    assert (tuple(found.vectors), dict(found.not_comparable)) == (VECTORS, {})
    common = sorted({digest(entry.sequence) for entry in ONE[:4]})
    for name in VECTORS:
        wanted = agreement([vectors(one, A)[name] for one in common], [vectors(one, B)[name] for one in common])
        assert numbers(found.vectors[name]) == pytest.approx(wanted, abs=1e-6), name
    # It is the same from the other side.
    back = diff(store, B.digest, A.digest)
    assert (back.only_one, back.only_other) == (2, 1)
    assert {name: numbers(one) for name, one in back.vectors.items()} == {
        name: pytest.approx(numbers(one), abs=1e-12) for name, one in found.vectors.items()
    }


def test_a_version_does_not_differ_from_itself(tmp_path: Path) -> None:
    store = fill(str(tmp_path / "store"), ONE, tmp_path).store
    found = diff(store, A.digest, A.digest)
    assert (found.common, found.only_one, found.only_other) == (4, 0, 0)
    for one in found.vectors.values():
        assert numbers(one) == [1, 1, 1, 1, 0, 0, 0, 0]


def test_only_what_is_published_now_is_counted(tmp_path: Path) -> None:
    uri = str(tmp_path / "store")
    fill(uri, [*ONE, Entry("gone", "CCCC")], tmp_path)
    fill(uri, ONE, tmp_path)
    fill(uri, [*ONE, Entry("never", "CTCT")], tmp_path, version=B)
    fill(uri, [*ONE, Entry("bad", "GAGA")], tmp_path, version=B, run_id="bad")
    store = Store(uri)
    rollback(store, "bad")
    found = diff(store, A.digest, B.digest)
    assert (found.common, found.only_one, found.only_other) == (4, 0, 1)


@pytest.mark.parametrize("rows", [64, 7, 1])
def test_numbers_do_not_depend_on_partitions(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, rows: int) -> None:
    uri = str(tmp_path / "store")
    both = random_entries(150, 1)
    fill(uri, [*both, *random_entries(20, 2)], tmp_path, shard_rows=40)
    fill(uri, [*both, *random_entries(30, 3)], tmp_path, version=B, shard_rows=30)
    store = Store(uri)
    whole = diff(store, A.digest, B.digest)
    assert (whole.common, whole.only_one, whole.only_other) == (150, 20, 30)
    held: list[int] = []
    add = drifting._Comparison.add
    monkeypatch.setattr(drifting._Comparison, "add", lambda self, names: (held.append(len(names)), add(self, names))[1])
    monkeypatch.setattr(drifting, "_PARTITION_ROWS", rows)
    monkeypatch.setattr(lookup, "_BYTES", 16 * 4 * sum(WIDTHS.values()))
    found = diff(store, A.digest, B.digest)
    assert sum(held) == 150
    assert max(held) <= 3 * rows + 5
    assert replace(found, vectors={}) == replace(whole, vectors={})
    for name in VECTORS:
        assert numbers(found.vectors[name]) == pytest.approx(numbers(whole.vectors[name]), abs=1e-12)


# vectors of every kind


def test_a_zero_vector_divides_nothing_by_zero(tmp_path: Path) -> None:
    uri = str(tmp_path / "store")
    zero = {name: [0.0] * width for name, width in WIDTHS.items()}
    unit = {name: [1.0] + [0.0] * (width - 1) for name, width in WIDTHS.items()}
    fill_vectors(uri, tmp_path, A, lambda letters: zero if letters in ("ACGT", "GGCC") else unit)
    fill_vectors(uri, tmp_path, B, lambda letters: zero if letters in ("ACGT", "TTTT") else unit)
    with np.errstate(all="raise"):
        found = diff(Store(uri), A.digest, B.digest)
    for name in VECTORS:
        # Both zero, one zero, the other zero, neither.
        wanted = agreement([[0], [0], [1], [1]], [[0], [1], [0], [1]])
        assert numbers(found.vectors[name]) == pytest.approx(wanted)
        assert (found.vectors[name].cosine_mean, found.vectors[name].distance_max) == (0.5, 1.0)


def test_small_differences_of_long_vectors_are_not_lost_in_rounding(tmp_path: Path) -> None:
    uri = str(tmp_path / "store")
    width = 1024
    steps = {"ACGT": 0.0, "GGCC": 2.0**-13, "TTTT": 2.0**-12, "AAAA": 2.0**-11}
    fill_vectors(uri, tmp_path, A, lambda letters: {name: [1.0] * width for name in WIDTHS})
    fill_vectors(uri, tmp_path, B, lambda letters: {name: [1.0 - steps[letters]] * width for name in WIDTHS})
    for one in diff(Store(uri), A.digest, B.digest).vectors.values():
        assert one.distance_max == pytest.approx(2.0**-11, rel=1e-6)
        assert one.distance_median == pytest.approx(1.5 * 2.0**-13, rel=1e-6)
        assert one.cosine_min == 1


def test_opposite_vectors_are_as_far_apart_as_can_be(tmp_path: Path) -> None:
    uri = str(tmp_path / "store")
    fill_vectors(uri, tmp_path, A, lambda letters: {name: [1.5] * width for name, width in WIDTHS.items()})
    fill_vectors(uri, tmp_path, B, lambda letters: {name: [-1.5] * width for name, width in WIDTHS.items()})
    for one in diff(Store(uri), A.digest, B.digest).vectors.values():
        assert numbers(one) == [-1, -1, -1, -1, 2, 2, 2, 2]


@pytest.mark.parametrize("partition_rows", [16_384, 1])
def test_kinds_that_cannot_be_compared_are_listed_with_why(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, partition_rows: int, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(drifting, "_PARTITION_ROWS", partition_rows)
    uri = str(tmp_path / "store")
    narrow = replace(B, names={**B.names, "vectors": ["mean", "max", "projected"]})
    fill(uri, ONE, tmp_path)
    fill_vectors(uri, tmp_path, narrow, lambda letters: {"mean": [1.0] * 4, "max": [1.0] * 2, "projected": [1.0] * 6})
    for one, other in ((A, B), (B, A)):
        found = diff(Store(uri), one.digest, other.digest)
        assert tuple(found.vectors) == ("mean", "projected")
        assert set(found.not_comparable) == {"cls", "max"}
        assert found.not_comparable["cls"] == f"stored by {A.digest} alone"
        assert f"5 wide in {A.digest}" in found.not_comparable["max"] or f"and 5 in {A.digest}" in found.not_comparable["max"]
    assert main(["diff", "--store", uri, A.digest, B.digest]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines[0] == f"4 sequences in both, 0 in {A.digest} alone, 0 in {B.digest} alone"
    assert [line.split()[0] for line in lines[-4:]] == ["mean", "projected", "cls", "max"]


def test_versions_without_a_common_sequence_are_counted_alone(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    uri = str(tmp_path / "store")
    fill(uri, ONE, tmp_path)
    fill(uri, [Entry("x", "CTCTCT")], tmp_path, version=B)
    fill(uri, [], tmp_path, version=feature_version(3))
    for other, count in ((B, 1), (feature_version(3), 0)):
        assert main(["diff", "--store", uri, A.digest, other.digest, "--json"]) == 0
        told = json.loads(capsys.readouterr().out)
        assert told == {
            "one": A.digest,
            "other": other.digest,
            "common": 0,
            "only_one": 4,
            "only_other": count,
            "vectors": {},
            "not_comparable": {},
        }


# what is wrong


def test_a_version_that_is_not_there_and_damage_are_one_sentence(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    uri = str(tmp_path / "store")
    fill(uri, ONE, tmp_path, shard_rows=1)
    fill(uri, ONE, tmp_path, version=B)
    assert main(["diff", "--store", uri, A.digest, "never"]) == 2
    assert "'never'" in capsys.readouterr().err
    features = Store(uri).features
    features.commit([], removed=features.paths([("feature_version", "=", A.digest)])[:1])
    for one, other in ((A, B), (B, A)):
        with pytest.raises(
            StoreError, match=f"of 4 sequences of version {A.digest}, 1 have no vectors and 0 have several"
        ) as error:
            diff(Store(uri), one.digest, other.digest)
        assert "\n" not in str(error.value)
    features.reload().commit(
        [features.write(feature_rows([digest("ACGT")], B), stem="x", partition={"feature_version": B.digest})]
    )
    with pytest.raises(StoreError, match="1 have several"):
        diff(Store(uri), B.digest, B.digest)


@pytest.mark.parametrize("strange", [math.nan, math.inf])
def test_numbers_that_are_not_finite_are_told_and_not_averaged(tmp_path: Path, strange: float) -> None:
    uri = str(tmp_path / "store")
    fill(uri, ONE, tmp_path)
    fill_vectors(
        uri,
        tmp_path,
        B,
        lambda letters: {n: [strange if letters == "GGCC" else 1.0] + [1.0] * (w - 1) for n, w in WIDTHS.items()},
    )
    with pytest.raises(StoreError, match="not finite"):
        diff(Store(uri), A.digest, B.digest)
