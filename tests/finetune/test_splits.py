"""Labelled sequences: every row is read or the reading ends with its place, no sequence stands on two sides, and leaks are counted."""

from __future__ import annotations

import gzip
import hashlib
import itertools
import random
from collections import Counter
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest
from counts import examples
from files import parquet, write
from hypothesis import given, settings
from hypothesis import strategies as st
from labelled import sentence
from letters import other_strand
from s3 import S3

import dnafeat
from dnafeat.errors import UsageError
from dnafeat.finetune.splits import SPLITS, Split, format_overlaps, overlaps, random_splits, read_split
from dnafeat.store import digests

UCI = str(Path(dnafeat.__file__).parent / "bundled" / "data" / "uci_splice.csv.gz")

TEXT = "sequence,label\nACgu,yes\nAC GT,no\nGGCC, yes \nNNNN,\n"
SEQUENCES, LABELS = ["ACGT", "ACGT", "GGCC", "NNNN"], ["yes", "no", "yes", None]


def split(rows: Sequence[tuple[str, str | None]], name: str = "all") -> Split:
    """Rows of (sequence, label) as if they stood in a file of the split's name."""
    count = len(rows)
    ids = [f"r{i}" for i in range(count)]
    return Split(name, [s for s, _ in rows], [y for _, y in rows], ids, [f"{name}.csv"] * count, list(range(1, count + 1)))


def distinct(count: int, seed: int = 0) -> list[str]:
    """Sequences none of which is another one or its reverse complement."""
    rng = random.Random(seed)
    found: dict[str, None] = {}
    while len(found) < count:
        one = "".join(rng.choices("ACGT", k=16))
        if other_strand(one) not in found:
            found[one] = None
    return list(found)


def one_strand(sequence: str) -> str:
    return min(sequence, other_strand(sequence))


# Reading


def test_every_kind_of_table_is_the_same_split(tmp_path: Path) -> None:
    files = [
        write(tmp_path / "a.csv", TEXT),
        write(tmp_path / "a.tsv", TEXT.replace(",", "\t")),
        write(tmp_path / "a.csv.gz", gzip.compress(TEXT.encode())),
        parquet(tmp_path / "a.parquet", sequence=["ACgu", "AC GT", "GGCC", "NNNN"], label=["yes", "no", " yes ", None]),
    ]
    found = [read_split("train", file) for file in files]
    for file, one in zip(files, found, strict=True):
        assert (one.name, one.sequences, one.labels, len(one)) == ("train", SEQUENCES, LABELS, 4)
        assert one.ids == [f"{Path(file).name}:{row}" for row in (1, 2, 3, 4)]
        assert (one.files, one.rows) == ([file] * 4, [1, 2, 3, 4])
        assert [one.place(i) for i in (0, 3)] == [f"{file}:1", f"{file}:4"]
    assert len({one.fingerprint for one in found}) == 1


def test_s3(s3: S3) -> None:
    uri = s3.uri("labelled")
    s3.client().pipe(f"{uri}/part-1.csv.gz", gzip.compress(TEXT.encode()))
    s3.client().pipe(f"{uri}/part-2.csv", b"label,seq\nmaybe,AAAA\n")
    found = read_split("dev", uri)
    assert (found.sequences, found.labels) == ([*SEQUENCES, "AAAA"], [*LABELS, "maybe"])
    assert [found.place(i) for i in (3, 4)] == [f"{uri}/part-1.csv.gz:4", f"{uri}/part-2.csv:1"]
    assert sentence(f"{uri}/none.csv") == f"{uri}/none.csv does not exist or holds no file"


def test_ids_are_the_tables_own_where_it_has_them(tmp_path: Path) -> None:
    assert read_split("train", write(tmp_path / "a.csv", "id,seq,label\nx,AC,1\nx,GG,0\n")).ids == ["x", "x"]
    assert sentence(write(tmp_path / "b.csv", "id,seq,label\n,AC,1\n")).endswith(
        "b.csv, row 1, 'AC': the id column 'id' is empty; mend the row or take it out, for training leaves out none"
    )


def test_more_rows_than_one_batch_holds(tmp_path: Path) -> None:
    sequences = distinct(9000)
    text = "sequence,label\n" + "".join(f"{s},{i}\n" for i, s in enumerate(sequences))
    for folder, found in ((tmp_path / "one", text), (tmp_path / "two", "sequence,label\nACGT,x\n")):
        write(folder / "a.csv", found)
    found = read_split("train", str(tmp_path))
    assert found.sequences == [*sequences, "ACGT"]
    assert found.labels == [*map(str, range(9000)), "x"]
    assert [found.place(i) for i in (8999, 9000)] == [f"{tmp_path}/one/a.csv:9000", f"{tmp_path}/two/a.csv:1"]


@pytest.mark.parametrize(
    ("header", "asked", "chosen"),
    [
        ("label,target", None, 0),
        ("target,Label", None, 1),
        ("class,y", None, 1),
        ("TARGETS,Labels", None, 1),
        ("label,my label", "my label", 1),
        ("target,y", "y", 1),
    ],
)
def test_label_column(tmp_path: Path, header: str, asked: str | None, chosen: int) -> None:
    file = write(tmp_path / "a.csv", f"{header},sequence\nfirst,second,ACGT\n")
    assert read_split("train", file, label_column=asked).labels == [("first", "second")[chosen]]


def test_numbers_in_parquet_are_text(tmp_path: Path) -> None:
    assert read_split("train", parquet(tmp_path / "a.parquet", seq=["A", "C"], label=[1, None])).labels == ["1", None]
    assert read_split("train", parquet(tmp_path / "b.parquet", seq=["A", "C"], label=[0.25, float("nan")])).labels == [
        "0.25",
        "nan",
    ]


def test_label_columns_that_are_not_there(tmp_path: Path) -> None:
    remedy = "give a CSV, TSV or Parquet table that has one, or name its label column"
    good = write(tmp_path / "a.csv", "sequence,target,y\nACGT,1,2\n")
    assert sentence(good) == f"{good} could have its labels in 'target', 'y'; name the label column, or call it 'label'"
    assert sentence(good, label_column="class") == (
        f"{good} has no column 'class' for labels besides ids and sequences, whose further columns are 'target', 'y'; {remedy}"
    )
    bare = write(tmp_path / "b.csv", "sequence\nACGT\n")
    assert sentence(bare) == (
        f"{bare} has no column 'label' for labels besides ids and sequences, which has no further column; {remedy}"
    )
    fasta = write(tmp_path / "c.fa", ">a\nACGT\n")
    assert sentence(fasta).startswith(f"{fasta} has no column 'label' for labels")
    # One file of several: its rows must not come without a label.
    assert sentence(str(tmp_path), label_column="y").startswith(f"{bare} has no column 'y' for labels")


def test_sequence_columns(tmp_path: Path) -> None:
    file = write(tmp_path / "a.csv", "dna,label\nACGT,1\n")
    assert read_split("train", file, sequence_column="dna").sequences == ["ACGT"]
    assert "has no column 'sequence' or 'seq'; name the sequence column, which is one of 'dna', 'label'" in sentence(file)


@pytest.mark.parametrize(
    ("row", "shown", "fault"),
    [
        ("ACXTX,1", "ACXTX", "letter 'X' at base 3 is outside A C G T N (2 such)"),
        ("ACRT,1", "ACRT", "letter 'R' at base 3 is outside A C G T N (1 such)"),
        (" ,1", "", "the sequence is empty"),
        ("AC,1", "AC", "2 bases are too few for a token of this model, which takes 3"),
        ("ACGT", "ACGT", "1 fields in a row where the header has 2"),
        ("ACGT,1,2", "ACGT,1,2", "3 fields in a row where the header has 2"),
        ("A" * 60 + "X,1", "A" * 40 + "…", "letter 'X' at base 61 is outside A C G T N (1 such)"),
    ],
)
def test_a_row_that_cannot_be_used_ends_the_reading(tmp_path: Path, row: str, shown: str, fault: str) -> None:
    file = write(tmp_path / "a.csv", f"sequence,label\nACGT,1\nGGGG,0\n{row}\nTTTT,0\n")
    expected = f"{file}, row 3, {shown!r}: {fault}; mend the row or take it out, for training leaves out none"
    assert sentence(file, min_bases=3) == expected


def test_labels_that_are_not_utf8_end_the_reading(tmp_path: Path) -> None:
    message = sentence(write(tmp_path / "a.csv", b"sequence,label\nACGT,1\nAC,\xe9\n"))
    assert "row 2, 'AC': column 'label' is not UTF-8 text" in message


def test_iupac_codes_only_when_asked_for(tmp_path: Path) -> None:
    file = write(tmp_path / "a.csv", "sequence,label\nACRT,1\n")
    assert read_split("train", file, iupac=True).sequences == ["ACRT"]
    assert "letter 'Z' at base 3 is outside the IUPAC codes" in sentence(
        write(tmp_path / "b.csv", "sequence,label\nACZT,1\n"), iupac=True
    )


def test_files_without_rows(tmp_path: Path) -> None:
    empty = write(tmp_path / "a.csv", "sequence,label\n")
    assert sentence(empty) == f"{empty} has no rows, and train needs some; name another file for train"
    nothing = write(tmp_path / "b.csv", "")
    assert sentence(nothing) == f"{nothing} is empty: it has no header line"
    missing = str(tmp_path / "no.csv")
    assert sentence(missing) == f"{missing} does not exist or holds no file"


# Fingerprint and groups


def test_fingerprint_is_of_sequences_and_labels_in_order_alone(tmp_path: Path) -> None:
    one = read_split("train", write(tmp_path / "a.csv", TEXT))
    moved = read_split("test", write(tmp_path / "deep" / "b.csv", TEXT.replace("sequence,", "seq,").replace("AC GT", "acgt")))
    assert one.fingerprint == moved.fingerprint
    rows: list[list[tuple[str, str | None]]] = [
        [("ACGT", "1"), ("GG", "0")],
        [("GG", "0"), ("ACGT", "1")],
        [("ACGT", "0"), ("GG", "1")],
        [("ACGT", "1")],
        [("ACGT", "12"), ("GG", "0")],
        [("ACGT", None), ("GG", "0")],
        [("ACGT", "-"), ("GG", "0")],
        [("ACGT", "1" + "2:GG"), ("GG", "0")],
        [("ACGT", "é"), ("GG", "0")],
        [],
    ]
    assert len({split(one).fingerprint for one in rows}) == len(rows)


def test_fingerprint_stays_what_it_was() -> None:
    # It stands in the artifacts of finished runs, and names unfinished ones.
    assert split([("ACGT", "1"), ("GG", None)]).fingerprint == hashlib.sha256(b"4:ACGT1:12:GG-").hexdigest()


@given(st.lists(st.text("ACGTNRY", min_size=1, max_size=4), min_size=1, max_size=30))
def test_groups_are_sequences_on_either_strand(sequences: list[str]) -> None:
    found = split([(s, None) for s in sequences]).groups
    assert found.dtype == digests.DTYPE
    for (a, one), (b, other) in itertools.combinations(zip(sequences, found, strict=True), 2):
        assert (one == other) == (a == b or a == other_strand(b))


# Random splits


@st.composite
def labelled_rows(draw: st.DrawFn) -> list[tuple[str, str | None]]:
    """Rows of 30 to 80 groups with duplicates and reverse complements, and labels that may contradict each other."""
    rng = random.Random(draw(st.integers(0, 2**32)))
    labels = draw(st.sampled_from([["a", "b"], ["a", "b", "c", None], [str(i) for i in range(12)]]))
    weights = [1 / (i + 1) ** draw(st.integers(0, 2)) for i in range(len(labels))]
    rows = []
    for one in distinct(draw(st.integers(30, 80)), rng.randrange(1000)):
        for _ in range(rng.choice([1, 1, 1, 2, 4])):
            rows.append((rng.choice([one, other_strand(one)]), rng.choices(labels, weights)[0]))
    rng.shuffle(rows)
    return rows


SHARES = st.sampled_from([(0.7, 0.15, 0.15), (0.6, 0.2, 0.2), (1 / 3, 1 / 3, 1 / 3), (0.25, 0.5, 0.25)])


@settings(max_examples=examples(40, 150))
@given(labelled_rows(), SHARES, st.integers(0, 5), st.booleans())
def test_random_splits(rows: list[tuple[str, str | None]], shares: tuple[float, float, float], seed: int, stratify: bool) -> None:
    whole = split(rows)
    parts = random_splits(whole, dict(zip(SPLITS, shares, strict=True)), seed, stratify)
    assert list(parts) == [part.name for part in parts.values()] == list(SPLITS)
    # Every row in exactly one part, with all that belongs to it, in its order.
    entries = list(zip(whole.ids, whole.sequences, whole.labels, whole.files, whole.rows, strict=True))
    found = [list(zip(p.ids, p.sequences, p.labels, p.files, p.rows, strict=True)) for p in parts.values()]
    assert sorted(entries, key=lambda e: e[4]) == sorted(itertools.chain(*found), key=lambda e: e[4])
    assert all(part == sorted(part, key=lambda e: e[4]) for part in found)
    # No group on two sides.
    groups = [{one_strand(s) for s in part.sequences} for part in parts.values()]
    assert not any(a & b for a, b in itertools.combinations(groups, 2))
    # A part can be too large by the last group it got, and too small by that of the two others; train also has what it must see.
    largest = max(Counter(map(one_strand, whole.sequences)).values())
    forced = largest * len(set(whole.labels)) if stratify else 0
    for i, (share, part) in enumerate(zip(shares, parts.values(), strict=True)):
        assert len(part) <= share * len(rows) + largest + (forced if i == 0 else 0) + 1e-6
        assert len(part) >= share * len(rows) - 2 * largest - (forced if i else 0) - 1e-6
    if stratify:
        assert set(parts["train"].labels) == set(whole.labels)


@settings(max_examples=examples(15, 50))
@given(labelled_rows(), st.integers(0, 5), st.booleans(), st.randoms(use_true_random=False))
def test_random_splits_do_not_depend_on_the_order_of_rows(
    rows: list[tuple[str, str | None]], seed: int, stratify: bool, rng: random.Random
) -> None:
    mixed = rng.sample(rows, len(rows))
    one, other = (random_splits(split(r), {"train": 0.6, "dev": 0.2, "test": 0.2}, seed, stratify) for r in (rows, mixed))
    for name in SPLITS:
        here, there = (Counter(zip(p[name].sequences, p[name].labels, strict=True)) for p in (one, other))
        assert here == there


def test_random_splits_of_the_bundled_splice_set() -> None:
    whole = read_split("all", UCI)
    parts = random_splits(whole, seed=7)
    counts = Counter(whole.labels)
    for part, share in zip(parts.values(), (0.8, 0.1, 0.1), strict=True):
        assert abs(len(part) - share * len(whole)) <= 4
        for label, count in Counter(part.labels).items():
            assert abs(count - share * counts[label]) <= 4
    assert not any(overlaps(parts).shared.values())
    # Another version of NumPy must not move rows from test to train under runs that exist.
    assert {name: part.fingerprint[:12] for name, part in parts.items()} == {
        "train": "c3fd5c0eb432",
        "dev": "91e983058507",
        "test": "77b22670efbf",
    }
    assert random_splits(whole, seed=8)["test"].fingerprint != parts["test"].fingerprint
    assert random_splits(whole, seed=7, stratify=False)["test"].fingerprint != parts["test"].fingerprint


def test_rare_labels_stand_in_train_and_common_ones_even_out_the_rest() -> None:
    sequences = distinct(200)
    rows = [(s, f"rare {i}" if i < 40 else "common") for i, s in enumerate(sequences)]
    # A label that stands only beside another one, in a group that counts for the other.
    rows += [(sequences[100], "common"), (sequences[100], "hidden")]
    for seed in range(20):
        parts = random_splits(split(rows), seed=seed)
        assert {f"rare {i}" for i in range(40)} | {"hidden"} <= set(parts["train"].labels)
        assert [abs(len(part) - share) <= 4 for part, share in zip(parts.values(), (161, 20, 20), strict=True)] == [True] * 3


def test_a_sequence_with_several_labels_counts_for_the_most_frequent() -> None:
    sequences = distinct(100)
    rows = [(s, label) for i, s in enumerate(sequences) for label in ("aab" if i < 50 else "bbb")]
    for seed in range(10):
        for part, count in zip(random_splits(split(rows), seed=seed).values(), (40, 5, 5), strict=True):
            assert abs(len(set(part.sequences) & set(sequences[:50])) - count) <= 1


def test_many_small_labels_leave_no_part_empty() -> None:
    rows = [(s, f"label {i // 3}") for i, s in enumerate(distinct(300))]
    assert [len(part) for part in random_splits(split(rows)).values()] == [240, 30, 30]


def test_numbers_are_stratified_in_bins() -> None:
    rng = random.Random(1)
    rows = [(s, f"{rng.lognormvariate(0, 2):.9g}") for s in distinct(400)]
    edges = np.quantile([float(y) for _, y in rows], np.linspace(0, 1, 11))[1:-1]
    for seed in range(10):
        parts = random_splits(split(rows), seed=seed)
        for part, rows_a_bin in zip(parts.values(), (32, 4, 4), strict=True):
            found = np.bincount(np.searchsorted(edges, [float(y) for y in part.labels if y]), minlength=10)
            assert (np.abs(found - rows_a_bin) <= 1).all()


def test_texts_that_are_no_classes_are_not_stratified() -> None:
    whole = split([(s, f"0 1 {i}") for i, s in enumerate(distinct(100))])
    assert random_splits(whole, seed=3) == random_splits(whole, seed=3, stratify=False)


@pytest.mark.parametrize("shares", [(0.8, 0.1), (0.8, 0.2, 0.0), (0.8, 0.1, 0.2), (1.2, -0.1, -0.1), (float("nan"), 0.1, 0.1)])
def test_shares_that_are_none(shares: tuple[float, ...]) -> None:
    with pytest.raises(UsageError) as error:
        random_splits(split([("ACGT", "1")]), dict(zip(SPLITS, shares, strict=False)))
    shown = ", ".join(f"{name} {share:g}" for name, share in zip(SPLITS, shares, strict=False))
    assert str(error.value) == f"shares are {shown}; give numbers above 0 that add up to 1"


@pytest.mark.parametrize("names", [("train",), ("train", "dev"), ("train", "test"), ("a", "b", "c", "d", "e")])
def test_any_number_of_parts(names: tuple[str, ...]) -> None:
    rows = [(s, "ab"[i % 2]) for i, s in enumerate(distinct(200))]
    shares = (
        {name: 0.5 if i == 0 else 0.5 / (len(names) - 1) for i, name in enumerate(names)} if len(names) > 1 else {"train": 1.0}
    )
    parts = random_splits(split(rows), shares, seed=1)
    assert [(name, part.name) for name, part in parts.items()] == [(name, name) for name in names]
    assert [abs(len(part) - 200 * share) <= 2 for part, share in zip(parts.values(), shares.values(), strict=True)] == [
        True
    ] * len(names)
    assert sorted(row for part in parts.values() for row in part.rows) == list(range(1, 201))


@pytest.mark.parametrize("rows", [[], [("ACGG", "1")], [("ACGG", "1"), ("CCGT", "0")] * 50])
@pytest.mark.parametrize("stratify", [True, False])
def test_too_few_sequences_for_three_parts(rows: list[tuple[str, str | None]], stratify: bool) -> None:
    with pytest.raises(UsageError) as error:
        random_splits(split(rows), stratify=stratify)
    where = "all.csv: with" if rows else "all: with"
    assert str(error.value) == (
        f"{where} shares train 0.8, dev 0.1, test 0.1 and {min(1, len(rows))} distinct sequences (reverse complements taken as one) "
        f"{'dev' if rows else 'train'} gets no row; give other shares, or files for dev and test"
    )


# Overlaps


def test_overlaps_of_the_bundled_splice_set() -> None:
    found = overlaps({"train": read_split("train", UCI)})
    assert (found.rows, found.shared, found.duplicates) == ({"train": 3186}, {}, {"train": 185})
    conflicts = found.conflicts["train"]
    assert (conflicts.sequences, conflicts.labels, conflicts.opposite) == (1, ("n", "ie"), False)
    assert conflicts.places == (f"{UCI}:2675", f"{UCI}:2961")
    assert format_overlaps(found) == [
        f"1 sequence of train has more than one label: 'n' at {UCI}:2675, and 'ie' at {UCI}:2961",
        "185 of 3,186 train rows repeat a sequence of train, on one strand or the other",
    ]


def test_overlaps() -> None:
    a, b, c, d, e = distinct(5)
    parts = {
        "train": split([(a, "1"), (b, "0"), (other_strand(a), None)], "train"),
        "dev": split([(other_strand(b), "0"), (b, "1"), (c, "1"), (a, "1"), (c, "2"), (d, "1")], "dev"),
        "test": split([(c, "1"), (e, "1"), (e, "1")], "test"),
    }
    found = overlaps(parts)
    assert found.shared == {("train", "dev"): 3, ("train", "test"): 0, ("dev", "test"): 1}
    assert found.duplicates == {"train": 1, "dev": 2, "test": 1}
    leak = "have a sequence that {} has too, on one strand or the other: what is measured on {} is in part remembered"
    assert format_overlaps(found) == [
        "3 of 6 dev rows " + leak.format("train", "dev"),
        "1 of 3 test rows " + leak.format("dev", "test"),
        "1 sequence of train has more than one label: '1' at train.csv:1, and its reverse complement no label at train.csv:3",
        "2 sequences of dev have more than one label: '0' at dev.csv:1, and its reverse complement '1' at dev.csv:2",
        "1 of 3 train rows repeat a sequence of train, on one strand or the other",
        "2 of 6 dev rows repeat a sequence of dev, on one strand or the other",
        "1 of 3 test rows repeat a sequence of test, on one strand or the other",
    ]


def test_nothing_is_said_of_clean_splits() -> None:
    sequences = distinct(9)
    parts = {name: split([(s, "1") for s in sequences[i::3]], name) for i, name in enumerate(SPLITS)}
    assert format_overlaps(overlaps(parts)) == []
    assert format_overlaps(overlaps({})) == []


@settings(max_examples=examples(25, 100))
@given(st.lists(st.lists(st.tuples(st.text("ACG", min_size=1, max_size=2), st.sampled_from("xy")), max_size=12), max_size=3))
def test_overlaps_are_what_counting_one_by_one_gives(rows: list[list[tuple[str, str | None]]]) -> None:
    parts = {name: split(one, name) for name, one in zip(SPLITS, rows, strict=False)}
    found = overlaps(parts)
    for (one, other), count in found.shared.items():
        known = set(map(one_strand, parts[one].sequences))
        assert count == sum(one_strand(s) in known for s in parts[other].sequences)
    assert list(found.shared) == list(itertools.combinations(parts, 2))
    for name, part in parts.items():
        labels: dict[str, set[str | None]] = {}
        for sequence, label in zip(part.sequences, part.labels, strict=True):
            labels.setdefault(one_strand(sequence), set()).add(label)
        assert found.duplicates[name] == len(part) - len(labels)
        conflicting = sum(len(one) > 1 for one in labels.values())
        assert (found.conflicts[name].sequences if name in found.conflicts else 0) == conflicting


def test_kmers_and_open_quotes_end_the_reading(tmp_path: Path) -> None:
    letters = "GCTAAAGACAATTACATAACATACACGTC"
    words = " ".join(letters[i : i + 6] for i in range(len(letters) - 5))
    table = tmp_path / "a.tsv"
    table.write_text(f"sequence\tlabel\n{letters}\t0\n{words}\t1\n")
    with pytest.raises(UsageError, match=r"row 2, .*written as 24 overlapping 6-mers, which are 29 bases"):
        read_split("train", str(table))
    notes = ['"5 prime' if i in (3, 9) else "ok" for i in range(12)]
    rows = [f"{letters}\t{i % 2}\t{note}" for i, note in enumerate(notes)]
    table.write_text("sequence\tlabel\tnote\n" + "\n".join(rows) + "\n")
    with pytest.raises(UsageError, match=r"row 4, column 'note': the quote before '5 prime' is not closed"):
        read_split("train", str(table))
