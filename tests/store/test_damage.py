"""Damaged files: never read as values, named in one sentence, and no obstacle to all else that a store has to do."""

from __future__ import annotations

import contextlib
import errno
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from stores import A, Entry, Run, copied, digest, expected, fill, rows

from dnafeat import parquet, storage
from dnafeat.cli.main import main
from dnafeat.errors import DamagedError, DnafeatError, DnafeatWarning, StoreError
from dnafeat.store import Store
from dnafeat.store.data_file import Change
from dnafeat.store.forget import forget
from dnafeat.store.maintain import maintain
from dnafeat.store.table import Table

MINE = [Entry("a", "ACGT", {"subject": "s1"}), Entry("b", "AAAA", {"subject": "s1"})]
OTHERS = [Entry("c", "GGCC", {"subject": "s2"}), Entry("d", "CCCC", {"subject": "s3"})]
BAD = Entry("s1-bad", "AC!T", {"subject": "s1"})


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> str:
    """The subject `s1` has a run of its own, and another file in each table therefore."""
    folder = tmp_path_factory.mktemp("made")
    uri = str(folder / "store")
    fill(uri, [*MINE, BAD], folder, source="one", run_id="one")
    fill(uri, OTHERS, folder, source="two", run_id="two")
    return uri


@pytest.fixture
def store(made: str, tmp_path: Path) -> Store:
    return Store(copied(made, str(tmp_path / "store")))


def files(store: Store, table: str, run_id: str = "") -> list[Path]:
    return sorted(path for path in Path(store.uri, table).rglob(f"{run_id}*.parquet") if "_delta_log" not in path.parts)


def pages(file: Path) -> Iterator[tuple[int, int]]:
    """Where the pages of each column of a Parquet file begin and end, without the header of the first."""
    metadata = pq.ParquetFile(file).metadata
    for group in range(metadata.num_row_groups):
        for column in map(metadata.row_group(group).column, range(metadata.num_columns)):
            start = column.dictionary_page_offset or column.data_page_offset
            yield start, start + column.total_compressed_size


def damage(file: Path) -> Path:
    """Flip a bit of the last page of every column."""
    raw = bytearray(file.read_bytes())
    for _, end in pages(file):
        raw[end - 1] ^= 4
    file.write_bytes(bytes(raw))
    return file


# bits


@pytest.mark.parametrize("table", ["features", "sequences"])
def test_a_flipped_bit_is_an_error_that_names_the_file_or_changes_nothing(store: Store, table: str) -> None:
    (file,) = files(store, table, "two")
    sound, whole = file.read_bytes(), rows(store.read())
    places = [start + (end - start) * part // 7 for start, end in pages(file) for part in (1, 4, 6)]
    told = []
    for at in places:
        raw = bytearray(sound)
        raw[at] ^= 1 << at % 8
        file.write_bytes(bytes(raw))
        try:
            assert rows(Store(store.uri).read()) == whole
        except StoreError as error:
            told.append(str(error))
    assert all(file.name in text and "\n" not in text for text in told)
    # The rest are padding, or of columns that are not read.
    assert len(told) > len(places) // 3
    file.write_bytes(sound)
    assert rows(store.read()) == whole


@pytest.mark.parametrize("table", ["features", "sequences"])
def test_a_column_whose_name_was_damaged_is_not_read_as_nulls(store: Store, table: str) -> None:
    """Names stand in the footer, which has no checksum."""
    file = files(store, table, "two")[0]
    name = b"mean" if table == "features" else b"subject"
    raw = file.read_bytes()
    footer = len(raw) - 8 - int.from_bytes(raw[-8:-4], "little")
    file.write_bytes(raw[:footer] + raw[footer:].replace(name, b"x" + name[1:]))
    # Of vectors the first batch tells before the file is read to its end.
    with pytest.raises(StoreError, match="is damaged" if table == "features" else rf"{file.name} is damaged: it has a column 'x"):
        store.read()
    assert [str(file)] == list(maintain(store, drop_damaged=True).dropped)


def test_every_way_of_reading_a_vector_file_compares_checksums(store: Store) -> None:
    table, file = store.features, damage(files(store, "features", "two")[0])
    path = str(file.relative_to(f"{store.uri}/features"))
    where = [("feature_version", "=", A.digest)]
    for read in (
        lambda: parquet.read(str(file)),
        lambda: parquet.check(str(file)),
        lambda: list(table.pages(["sequence_digest", "mean"], where, 10)),
        lambda: table.read(["mean"]),
        lambda: list(table.batches(["mean"], pa.compute.scalar(True), [], 10)),
        lambda: table.read_file(path),
        lambda: store.read(),
        lambda: list(store.scan()),
    ):
        with pytest.raises(DamagedError, match=file.name):
            read()


def test_files_without_checksums_are_read(tmp_path: Path) -> None:
    made = pa.table({"sequence_digest": ["a", "b"], "row": [1, 2]})
    pq.write_table(made, tmp_path / "old.parquet", write_page_checksum=False)
    assert parquet.read(str(tmp_path / "old.parquet")).equals(made)


@pytest.mark.parametrize("content", [b"", b"PAR1", b"PAR1" + bytes(100) + b"PAR1"])
def test_what_is_no_parquet_is_damage_and_what_is_not_there_is_not(tmp_path: Path, content: bytes) -> None:
    file = tmp_path / "a.parquet"
    with pytest.raises(FileNotFoundError):
        parquet.read(str(file))
    file.write_bytes(content)
    with pytest.raises(DamagedError, match=r"a\.parquet is damaged"):
        parquet.read(str(file))


# commands beside a damaged file


@pytest.mark.parametrize("table", ["features", "sequences", "rejects", "runs", "versions"])
def test_an_erasure_takes_out_all_that_can_be_read_and_says_what_cannot(
    store: Store, table: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    broken = damage(
        files(store, table, "created" if table == "versions" else "one" if table in ("features", "rejects") else "two")[0]
    )
    assert main(["forget", "--store", store.uri, "--where", "subject=s1"]) == 2
    error = capsys.readouterr().err
    assert broken.name in error
    assert "restore" in error
    assert error.count("\n") == 1
    assert gone(store, "s1", besides=broken)
    # What was replaced is deleted, and the damaged file is named again.
    assert (str(broken) in maintain(Store(store.uri)).damaged) == (table in ("features", "sequences"))
    assert broken.exists()


def test_a_damaged_file_that_cannot_hold_the_subject_is_no_obstacle(store: Store) -> None:
    damage(files(store, "features", "two")[0])
    assert forget(store, {"subject": "s1"}).vectors == 2


def gone(store: Store, subject: str, besides: Path) -> bool:
    """Whether no file of the snapshots of entries and vectors has the subject, but for a damaged one."""
    names = {digest(entry.sequence) for entry in MINE}
    for name in ("features", "sequences"):
        table = Table(store.uri, name)
        for path in table.paths():
            file = Path(store.uri, name, path)
            if file != besides:
                found = pq.read_table(file, partitioning=None)
                assert not names & set(found["sequence_digest"].to_pylist())
    return True


@pytest.mark.parametrize("table", ["features", "sequences", "rejects"])
def test_damaged_files_are_dropped_where_asked_and_the_next_run_makes_up_for_them(
    store: Store, table: str, tmp_path: Path
) -> None:
    broken = damage(files(store, table, "one")[0])
    assert [str(broken)] == list(maintain(store, drop_damaged=True, dry_run=True).dropped)
    done = maintain(store, drop_damaged=True)
    assert (list(done.dropped), done.damaged) == ([str(broken)], ())
    # It may hold a subject that was erased.
    assert not broken.exists()
    forget(store, {"subject": "s3"})
    again = fill(store.uri, [*MINE, BAD], tmp_path, source="one")
    assert again.work.missing.rows == (len(MINE) if table == "features" else 0)
    assert rows(store.read(source="one")) == expected(MINE, ["subject"], source="one")
    assert rows(store.read(source="two")) == expected(OTHERS[:1], ["subject"], source="two")


@pytest.mark.parametrize("table", ["features", "sequences", "rejects", "runs", "versions"])
def test_no_command_ends_in_a_traceback(store: Store, table: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for file in files(store, table):
        damage(file)
    for command in (
        ["versions"],
        ["runs"],
        ["read", "--output", str(tmp_path / "v.parquet")],
        ["rejects"],
        ["maintain", "--dry-run"],
        ["maintain"],
        ["forget", "--where", "subject=s1", "--dry-run"],
        ["rollback", "two", "--dry-run"],
        ["publish"],
    ):
        code = main([*command, "--store", store.uri])
        captured = capsys.readouterr()
        assert code in (0, 2), command
        assert "Traceback" not in captured.err
        assert code == 0 or captured.err.count("\n") == 1
    with contextlib.suppress(DnafeatError):
        Run(store.uri, [*OTHERS, Entry("e", "TTTT")], tmp_path, source="two").encode().publish()
    with contextlib.suppress(DnafeatError):
        store.read()


# lineages


@pytest.mark.parametrize(
    "lineage",
    [
        None,
        "",
        "{",
        "[]",
        "7",
        '"text"',
        "{}",
        '{"model": 7, "projection": [], "vectors": 7}',
        '{"vectors": ["x", 7]}',
        "[" * 100_000,
    ],
)
@pytest.mark.filterwarnings("ignore::dnafeat.errors.DnafeatWarning")
def test_a_broken_lineage_stops_nothing(store: Store, lineage: str | None, tmp_path: Path) -> None:
    break_lineage(store, lineage)
    listed = store.versions().to_pylist()
    assert (listed[0]["feature_version"], listed[0]["model"]) == (A.digest, "unknown")
    assert main(["versions", "--store", store.uri]) == 0
    assert rows(store.read(source="two")) == expected(OTHERS, ["subject"], source="two")
    maintain(store)
    fill(store.uri, OTHERS[:1], tmp_path, source="two")
    assert forget(store, {"subject": "s1"}).entries == 2
    assert store._repr_markdown_()
    assert main(["rollback", "one", "--store", store.uri]) == 0


def test_a_broken_lineage_is_told_of(store: Store) -> None:
    break_lineage(store, "{")
    with pytest.warns(DnafeatWarning, match=rf"created event of version {A.digest} .* has no lineage that can be read"):
        store.versions()


def break_lineage(store: Store, lineage: str | None) -> None:
    """Put a text in the place of the lineages of all versions."""
    table = store._versions
    events = table.reload().read()
    made = [{**row, "lineage": lineage} if row["event"] == "created" else row for row in events.to_pylist()]
    new = table.write(pa.Table.from_pylist(made, schema=events.schema), stem="broken")
    table.settle("broken", lambda: Change(added=[new], removed=table.paths()))


# disks


@pytest.mark.parametrize("number", [errno.ENOSPC, errno.EROFS, errno.EIO])
@pytest.mark.parametrize("command", [["publish"], ["publish", "--name", "good"], ["rollback", "two"]])
def test_a_full_or_read_only_disk_is_exit_code_6_and_a_sentence(
    store: Store, command: list[str], number: int, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def fails(*_: Any) -> int:
        raise OSError(number, "not now")

    with monkeypatch.context() as patch:
        patch.setattr(storage, "write_whole", fails)
        assert main([*command, "--store", store.uri]) == 6
    error = capsys.readouterr().err
    assert error.count("\n") == 1
    assert "not now" in error
    assert main([*command, "--store", store.uri, "--json"]) == 0
    assert json.loads(capsys.readouterr().out)
