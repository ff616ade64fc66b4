"""The command: files in, one checked table out, or a sentence and nothing; on a disk and on S3."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
from deltalake import DeltaTable, write_deltalake
from s3 import S3
from safetensors.torch import save_file

from dnafeat import __version__, storage
from dnafeat import pseudonyms as keyhash
from dnafeat.cli.main import guarded, main
from dnafeat.errors import ConflictError, StoreError, UsageError
from dnafeat.partners import intake as partnerintake
from dnafeat.partners import output as partneroutput
from dnafeat.partners.config import PartnerConfig
from dnafeat.partners.intake import SCHEMA
from dnafeat.partners.job import PartnerSummary, format_summary, partner
from dnafeat.partners.output import Before, publish

SALT = "0123456789abcdef"


def make(kind: str, output: str | Path, *inputs: str | Path, **settings: Any) -> PartnerSummary:
    return partner(PartnerConfig.make({"kind": kind, "input": [str(one) for one in inputs], "output": str(output), **settings}))


def read(uri: str | Path) -> list[dict[str, Any]]:
    if str(uri).endswith(".parquet"):
        with storage.open_input(str(uri)) as file:
            return pq.read_table(file).to_pylist()
    return DeltaTable(str(uri), storage_options=storage.delta_options(str(uri))).to_pyarrow_table().to_pylist()


def draw(*shape: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).normal(size=shape).astype(np.float32)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    (tmp_path / "in").mkdir()
    return tmp_path / "in"


def refused(folder: Path, **settings: Any) -> str:
    """The sentence of a call that writes nothing."""
    output = folder.parent / "refused"
    with pytest.raises(UsageError) as error:
        make("generic", output, folder, **settings)
    assert not output.exists()
    assert "\n" not in str(error.value)
    return str(error.value).replace(f"{folder}/", "")


KINDS: dict[str, tuple[tuple[int, ...], Any, dict[str, Any]]] = {
    "brainlm": ((424 * 2 + 1, 6), lambda array: array[0], {}),
    "brainmt": ((512,), lambda array: array, {}),
    "swift": ((288, 2, 2, 2, 3), lambda array: array.mean(axis=(1, 2, 3, 4)), {}),
    "generic": ((5,), lambda array: array, {}),
}


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("ending", ["npy", "npz", "pt", "safetensors", "parquet", "csv"])
def test_every_kind_in_every_format(kind: str, ending: str, folder: Path) -> None:
    shape, vector, settings = KINDS[kind]
    arrays = {
        "1000017_20227_2_0": draw(*shape),
        "1000017_20227_3_0": draw(*shape, seed=1),
        "0017_20227_2_0": draw(*shape, seed=2),
    }
    for name, array in arrays.items():
        if ending == "npy":
            np.save(folder / f"{name}.npy", array)
        elif ending == "npz":
            np.savez(folder / f"{name}.npz", vector=array)
        elif ending == "pt":
            torch.save(torch.tensor(array), folder / f"{name}.pt")
        elif ending == "safetensors":
            save_file({"last_hidden_state": torch.tensor(array)}, folder / f"{name}.safetensors")
    flat = [vector(array) if ending == "csv" else array.ravel() for array in arrays.values()]
    if ending == "parquet":
        columns = {"file": list(arrays), "vector": [one.tolist() for one in flat], "shape": [list(shape)] * 3}
        pq.write_table(pa.table(columns), folder / "all.parquet")
    elif ending == "csv":
        pd.DataFrame(np.stack(flat), index=pd.Index(arrays, name="file")).to_csv(folder / "all.csv")
    summary = make(kind, folder.parent / "out", folder, **settings)
    rows = {(row["subject_id"], row["session"]): row for row in read(folder.parent / "out")}
    assert (summary.rows, summary.subjects, summary.sessions, summary.windowed, summary.notes) == (3, 2, 2, 0, [])
    assert summary.width == len(vector(draw(*shape)))
    for name, array in arrays.items():
        subject, _, session, _ = name.split("_")
        row = rows[subject, session]
        np.testing.assert_allclose(row["vector"], vector(array), atol=1e-6)
        assert row["file"] == (f"all.{ending}" if ending in ("parquet", "csv") else f"{name}.{ending}")
        assert row["window"] is None


def test_the_table_is_of_its_types_and_tells_how_it_was_made(folder: Path, tmp_path: Path) -> None:
    np.save(folder / "a.npy", draw(4))
    summary = make("generic", tmp_path / "out", folder)
    table = DeltaTable(str(tmp_path / "out"))
    assert pa.schema(table.schema().to_arrow()).names == SCHEMA.names
    assert table.to_pyarrow_table().schema.field("vector").type.value_type == pa.float32()
    about = json.loads(table.history(1)[0]["dnafeat"])
    settings = {"input": [str(folder)], "patch": 20, "id_from": "name"}
    told = {"kind": "generic", "pooling": "none", "width": 4, "rows": 1, "files": 1, "rejected": 0, "salt": None}
    assert about == {**told, "settings": settings, "dnafeat": __version__}
    assert (summary.version, summary.was_version, summary.was_width) == (0, None, None)
    make("generic", tmp_path / "x.parquet", folder)
    assert json.loads(pq.read_metadata(tmp_path / "x.parquet").metadata[b"dnafeat"]) == about
    assert read(tmp_path / "x.parquet") == read(tmp_path / "out")


def test_vectors_are_plain_and_the_log_has_no_ids(folder: Path, tmp_path: Path) -> None:
    for name in ("secret-one", "secret-two"):
        np.save(folder / f"{name}.npy", draw(400))
    make("generic", tmp_path / "out", folder)
    make("generic", tmp_path / "out", folder)
    (uri,) = DeltaTable(str(tmp_path / "out")).file_uris()
    column = pq.read_metadata(uri).row_group(0).column(3)
    assert column.path_in_schema.startswith("vector.")
    assert column.compression == "ZSTD"
    assert "RLE_DICTIONARY" not in column.encodings
    log = "".join(path.read_text() for path in (tmp_path / "out" / "_delta_log").glob("*.json"))
    assert "secret" not in log


@pytest.mark.parametrize("output", ["table", "table.parquet"])
def test_on_s3(s3: S3, output: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    source, client = s3.uri("emb"), s3.client()
    for i in range(3):
        np.savez(tmp_path / "x.npz", last_hidden_state=draw(425, 6, seed=i), ids_restore=np.arange(424))
        client.put_file(str(tmp_path / "x.npz"), f"{source}/100001{i}_20227_2_0.npz")
    torch.save(draw(3) is None, tmp_path / "bad.pt")
    client.put_file(str(tmp_path / "bad.pt"), f"{source}/1000020_20227_2_0.pt")
    target = s3.uri(output)
    command = ["partner", "brainlm", f"{source}/", "--output", target]
    assert main(command) == 2
    assert f"{source}/1000020_20227_2_0.pt: holds a bool and no tensor" in capsys.readouterr().err
    assert not client.exists(target)
    assert main([*command, "--skip-bad", "--json"]) == 0
    told = json.loads(capsys.readouterr().out)
    assert (told["rows"], told["rejected"], told["rejects"]) == (3, 1, f"{target.removesuffix('.parquet')}.rejects.parquet")
    assert {row["subject_id"] for row in read(target)} == {"1000010", "1000011", "1000012"}
    assert [row["file"] for row in read(told["rejects"])] == ["1000020_20227_2_0.pt"]
    assert main(["partner", "brainlm", f"{source}/*.npz", "--output", target]) == 0
    assert not client.exists(told["rejects"])


def test_storage_that_does_not_give_a_file_is_no_bad_file(s3: S3, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    np.save(tmp_path / "a.npy", draw(3))
    gone = s3.uri("gone.npy")
    monkeypatch.setattr("dnafeat.storage.expand", lambda pattern: [])
    monkeypatch.setattr("dnafeat.sources.reader.expand", lambda patterns: [str(tmp_path / "a.npy"), gone])
    with pytest.raises(StoreError, match=rf"{gone} cannot be read or written: .*; send the same command again"):
        make("generic", tmp_path / "out", gone, skip_bad=True)
    assert not (tmp_path / "out").exists()


def test_rows_of_one_recording_are_windows(folder: Path, tmp_path: Path) -> None:
    np.save(folder / "1000017_20227_2_0.npy", draw(3, 4))
    np.savez(folder / "sub.npz", vector=draw(2, 4), eid=np.array([5, 5]))
    np.savez(folder / "told.npz", vector=draw(2, 4), eid=6, window=np.array([20, 40]))
    np.savez(folder / "people.npz", vector=draw(2, 4), eid=np.array([7, 8]))
    np.savez(folder / "visits.npz", vector=draw(2, 4), eid=np.array([9, 9]), session=np.array(["a", "b"]))
    summary = make("generic", tmp_path / "out", folder)
    rows = {(row["subject_id"], row["session"], row["window"]) for row in read(tmp_path / "out")}
    assert rows == {
        *(("1000017", "2", i) for i in range(3)),
        *(("5", None, i) for i in range(2)),
        *(("6", None, i) for i in (20, 40)),
        *(("7", None, None), ("8", None, None), ("9", "a", None), ("9", "b", None)),
    }
    assert (summary.rows, summary.subjects, summary.sessions, summary.windowed) == (11, 6, 3, 7)


def test_folders_name_subjects_and_files_their_windows(tmp_path: Path) -> None:
    for name, window in (("1000017_20227_2_0", 0), ("1000017_20227_2_0", 12), ("sub-9_ses-b", 3)):
        (tmp_path / "in" / name).mkdir(parents=True, exist_ok=True)
        torch.save(torch.ones(192, 2, 2, 2, 20), tmp_path / "in" / name / f"window_{window}.pt")
    make("swift", tmp_path / "out", tmp_path / "in", id_from="folder")
    rows = [(row["subject_id"], row["session"], row["window"], row["file"]) for row in read(tmp_path / "out")]
    assert rows == [("1000017", "2", 0, "window_0.pt"), ("1000017", "2", 12, "window_12.pt"), ("9", "b", 3, "window_3.pt")]
    with pytest.raises(UsageError, match="has the subject, session and window of an earlier one"):
        make("swift", tmp_path / "out", tmp_path / "in", id_from="folder", id_pattern=r"(?P<subject>\d+).*(?P<window>\d)$")


def test_another_width_is_refused_with_the_files_of_each(folder: Path, tmp_path: Path) -> None:
    for i in range(3):
        np.save(folder / f"b{i}.npy", draw(768))
    np.save(folder / "a.npy", draw(512))
    assert refused(folder) == (
        "vectors are of several widths, 768 in 3 (the first is b0.npy); 512 in 1 (the first is a.npy): make a table of each, since one "
        "table has one width; nothing was written"
    )
    summary = make("generic", tmp_path / "out", folder, width=768, skip_bad=True)
    assert (summary.rows, summary.width, summary.rejected) == (3, 768, 1)
    assert make("generic", tmp_path / "out", folder, skip_bad=True).rows == 1
    np.save(folder / "a.npy", draw(768))
    assert "b0.npy: is 768 wide and not 512; make a table of its own for that width" in refused(folder, width=512)


def test_a_new_width_is_a_new_version_and_told(folder: Path, tmp_path: Path) -> None:
    np.save(folder / "a.npy", draw(768))
    for output in (tmp_path / "out", tmp_path / "x.parquet"):
        make("generic", output, folder)
    table = DeltaTable(str(tmp_path / "out"))
    write_deltalake(table, table.to_pyarrow_table(), mode="append")  # by somebody else, who tells nothing
    np.save(folder / "a.npy", draw(512))
    summary = make("generic", tmp_path / "out", folder)
    assert (summary.version, summary.was_version, summary.was_width) == (2, 0, 768)
    assert f"  table     {tmp_path / 'out'}, version 2, was 768 wide in version 0\n" in format_summary(summary)
    assert f"  table     {tmp_path / 'x.parquet'}, was 768 wide before\n" in format_summary(
        make("generic", tmp_path / "x.parquet", folder)
    )
    assert "was" not in format_summary(make("generic", tmp_path / "out", folder))
    assert [len(row["vector"]) for row in read(tmp_path / "out")] == [512]
    assert len(DeltaTable(str(tmp_path / "out"), version=0).to_pyarrow_table()["vector"][0]) == 768


def test_values_that_are_not_finite(folder: Path) -> None:
    np.save(folder / "a.npy", np.array([1, np.nan], np.float32))
    assert refused(folder) == (
        "a.npy: holds nan at index 1 of its vector; export it again; nothing was written (--skip-bad leaves it out)"
    )
    np.savez(folder / "a.npz", vector=np.array([[1, 2], [1e300, 2]]), eid=np.array([1, 2]))
    (folder / "a.npy").unlink()
    assert "a.npz, row 2: holds inf at index 0 of its vector" in refused(folder)


def test_the_same_twice_is_told_with_both_places(folder: Path) -> None:
    np.save(folder / "1000017_20227_2_0.npy", draw(2))
    np.savez(folder / "x.npz", vector=draw(2, 2), eid=np.array([1, 1000017]), session=np.array([2, 2]))
    assert refused(folder) == (
        "x.npz, row 2: has the subject, session and window of an earlier one; keep one, or tell them apart by session or window (which is "
        "1000017_20227_2_0.npy); nothing was written (--skip-bad leaves it out)"
    )


def test_rows_without_a_subject_and_names_that_say_a_window(folder: Path) -> None:
    np.savez(folder / "x.npz", vector=draw(2, 2), ids=np.array(["a", " "]))
    assert "x.npz, row 2: has no subject; give it an id, or leave it out" in refused(folder)
    (folder / "x.npz").unlink()
    np.save(folder / "a_window-3.npy", draw(2, 2))
    assert "a_window-3.npy: has 2 rows, and its name says that it is window 3" in refused(folder)


def test_the_first_few_are_named_and_all_are_counted(folder: Path) -> None:
    for i in range(9):
        (folder / f"{i}.npy").write_bytes(b"" if i else b"damaged")
    np.save(folder / "good.npy", draw(2))
    sentence = refused(folder)
    assert sentence.startswith(
        "9 things in 10 files cannot be used, and nothing was written (--skip-bad leaves them out): 0.npy: is damaged, or no"
    )
    assert sentence.endswith("4.npy: is empty: it has no bytes; write it again; and 4 more")


def test_what_is_left_out_is_listed_and_nothing_is_lost(folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    np.save(folder / "good.npy", draw(2))
    np.save(folder / "nan.npy", np.array([np.inf, 0]))
    (folder / "empty.pt").write_bytes(b"")
    (folder / "x.csv").write_text("eid,f0,f1\n1,1,2\n2,x,2\n3,1,2\ngood,1,2\n")
    command = ["partner", "generic", str(folder), "--output", str(tmp_path / "out"), "--skip-bad"]
    assert main(command) == 0
    assert f"  rejected  4, listed in {tmp_path / 'out'}.rejects.parquet\n" in capsys.readouterr().out
    assert sorted(row["subject_id"] for row in read(tmp_path / "out")) == ["1", "3", "good"]
    rejects = {(row["file"], row["row"]): row["reason"] for row in read(f"{tmp_path / 'out'}.rejects.parquet")}
    assert {place: reason.split(";")[0] for place, reason in rejects.items()} == {
        ("nan.npy", None): "holds inf at index 0 of its vector",
        ("empty.pt", None): "is empty: it has no bytes",
        ("x.csv", 2): "column 'f0' holds 'x', which is no number",
        ("x.csv", 4): "has the subject, session and window of an earlier one",
    }
    assert rejects["x.csv", 4].endswith(f"(which is {folder / 'good.npy'})")
    for name in ("nan.npy", "empty.pt", "x.csv"):
        (folder / name).unlink()
    assert main(command) == 0
    assert not (tmp_path / "out.rejects.parquet").exists()


def test_nothing_good_is_no_table(folder: Path) -> None:
    (folder / "a.npy").write_bytes(b"")
    assert "no vector was left to write: " in refused(folder, skip_bad=True)


def test_a_salt_hashes_subjects_and_hides_names(folder: Path, tmp_path: Path) -> None:
    (tmp_path / "salt").write_text(SALT)
    known, other = keyhash.pseudonyms(["1000017", "1000018"], SALT.encode())
    np.save(folder / "1000017_20227_2_0.npy", draw(2))
    np.save(folder / "1000018_20227_2_0.npy", draw(2))
    np.savez(folder / "1000019_20227_2_0.npz", vector=draw(2, 2), ids=np.array([known, "1000018"]), session=[2, 2])
    settings: dict[str, Any] = {"salt_file": str(tmp_path / "salt"), "skip_bad": True}
    summary = make("generic", tmp_path / "out", folder, **settings)
    rows = read(tmp_path / "out")
    assert {row["subject_id"] for row in rows} == {known, other}
    assert {row["file"] for row in rows} == {None}
    # Both of the .npz are there already, one of them hashed before.
    assert [(row["file"], row["reason"].split(";")[0]) for row in read(f"{tmp_path / 'out'}.rejects.parquet")] == [
        (None, "has the subject, session and window of an earlier one")
    ] * 2
    assert "subjects are pseudonyms, and the table names no files" in summary.notes
    assert json.loads(DeltaTable(str(tmp_path / "out")).history(1)[0]["dnafeat"])["salt"] == keyhash.check(SALT.encode())
    written = [path for path in tmp_path.rglob("*") if path.is_file() and folder not in path.parents and path.name != "salt"]
    assert len(written) == 3
    for path in written:
        content = path.read_bytes()
        if path.suffix == ".parquet":
            content += repr(pq.read_table(path).to_pylist()).encode()
        assert b"10000" not in content, path


def test_an_id_under_another_salt_is_refused(folder: Path, tmp_path: Path) -> None:
    (tmp_path / "salt").write_text(SALT)
    np.savez(folder / "x.npz", vector=draw(1, 2), ids=np.array(list(keyhash.pseudonyms(["a"], b"another salt 1234"))))
    assert "x.npz: has an id that is hashed already, under another salt" in refused(folder, salt_file=str(tmp_path / "salt"))


def test_notes_of_what_may_be_wrong_and_is_not_refused(folder: Path, tmp_path: Path) -> None:
    np.savez(folder / "a.npz", last_hidden_state=draw(425, 4), ids_restore=np.arange(424)[::-1])
    np.savez(folder / "b.npz", last_hidden_state=draw(849, 4))
    (folder / "log.txt").write_text("")
    summary = make("brainlm", tmp_path / "out", folder)
    assert (sorted(summary.tokens), sorted(summary.timepoints)) == ([425, 849], [20, 40])
    assert [note.split(",")[0].split(" (")[0] for note in summary.notes] == [
        "recordings have different numbers of tokens",
        "1 were computed with shuffled tokens",
        "1 files of other kinds in the input were not read",
    ]
    np.save(folder / "c.npy", draw(96))
    for kind, told in (
        ("swift", "SwiFT's configurations have 192, 288, 384 channels and these have 96"),
        ("brainmt", "BrainMT's"),
    ):
        (note,) = make(kind, tmp_path / "out", folder / "c.npy").notes
        assert note.startswith(told)


def test_what_is_there_already_is_not_written_over(folder: Path, tmp_path: Path) -> None:
    np.save(folder / "a.npy", draw(2))
    write_deltalake(str(tmp_path / "other"), pa.table({"sequence_id": ["a"]}))
    with pytest.raises(UsageError, match="is a table of something else, with the columns sequence_id: name another output"):
        make("generic", tmp_path / "other", folder)
    (tmp_path / "files").mkdir()
    (tmp_path / "files" / "x").write_text("mine")
    with pytest.raises(UsageError, match="files holds x and is no table: name a new folder"):
        make("generic", tmp_path / "files", folder)


def test_two_at_once_do_not_write_over_each_other(folder: Path, tmp_path: Path) -> None:
    np.save(folder / "a.npy", draw(2))
    output = str(tmp_path / "out")
    make("generic", output, folder)
    before = Before.look(output)
    make("generic", output, folder)
    rows = DeltaTable(output).to_pyarrow_table().cast(SCHEMA)
    with pytest.raises(ConflictError, match=r"somebody else wrote .* meanwhile: send the same command again"):
        publish(pa.RecordBatchReader.from_batches(SCHEMA, rows.to_batches()), output, before, {"width": 2})
    table = DeltaTable(output)
    assert table.version() == 1
    # What was written for nothing is gone; the first version's file is still there.
    assert sorted(path.name for path in Path(output).glob("*.parquet")) == sorted(
        {Path(uri).name for version in (0, 1) for uri in DeltaTable(output, version=version).file_uris()}
    )


def test_a_large_table_is_of_several_files_and_a_write_that_fails_leaves_none(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(partneroutput, "ROW_GROUP", 10)
    monkeypatch.setattr(partneroutput, "_FILE_BYTES", 10)
    monkeypatch.setattr(partnerintake, "ROW_GROUP", 4)
    np.savez(folder / "x.npz", vector=draw(30, 2), eid=np.arange(30))
    make("generic", tmp_path / "out", folder)
    assert len(DeltaTable(str(tmp_path / "out")).file_uris()) == 3
    assert [row["subject_id"] for row in read(tmp_path / "out")] == [str(i) for i in range(30)]
    real, calls = partneroutput.write_parquet, []

    def full(uri: str, tables: Any) -> int:
        calls.append(uri)
        if len(calls) == 2:
            raise OSError(28, "No space left on device")
        return real(uri, tables)

    monkeypatch.setattr(partneroutput, "write_parquet", full)
    with pytest.raises(StoreError, match="No space left on device"):
        make("generic", tmp_path / "new", folder)
    assert not list((tmp_path / "new").iterdir())


def test_what_needs_torch_says_so(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture
) -> None:
    np.save(folder / "a.npy", draw(2))
    torch.save(torch.ones(2), folder / "b.pt")
    monkeypatch.setitem(sys.modules, "torch", None)
    make("generic", tmp_path / "out", folder / "a.npy")
    config = PartnerConfig.make({"kind": "generic", "input": [str(folder)], "output": str(tmp_path / "out"), "skip_bad": True})
    assert guarded(lambda: partner(config).rows) == 2
    assert capsys.readouterr().err == "dnafeat: this command needs torch: pip install 'dnafeat[jobs]'\n"


def test_arrays_and_tables_need_neither_torch_nor_ray(folder: Path, tmp_path: Path) -> None:
    np.save(folder / "a.npy", draw(2))
    save_file({"b": torch.ones(2)}, folder / "x.safetensors")
    (folder / "x.csv").write_text("eid,f0,f1\n1,1,2\n")
    code = (
        "import sys\nfor name in ('torch', 'ray', 'safetensors', 'transformers'): sys.modules[name] = None\n"
        "from dnafeat.cli.main import main\nsys.exit(main(sys.argv[1:]))"
    )
    command = [sys.executable, "-c", code, "partner", "generic", str(folder), "--output", str(tmp_path / "out"), "--json"]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    assert json.loads(done.stdout)["rows"] == 3


@pytest.mark.long
def test_memory_does_not_grow_with_the_rows(folder: Path, tmp_path: Path) -> None:
    """At most 1.2 times the memory for 10 times the rows, in processes of their own: 20 MB of vectors, and 200."""
    code = (
        "import re, sys\nfrom pathlib import Path\nfrom dnafeat.cli.main import main\nassert main(sys.argv[1:]) == 0\n"
        # What getrusage gives is at least what the parent had.
        "print(re.search(r'VmHWM:\\s+(\\d+)', Path('/proc/self/status').read_text())[1])"
    )
    peaks = []
    for rows in (20_000, 200_000):
        with pq.ParquetWriter(
            folder / "x.parquet", pa.schema([("eid", pa.int64()), ("vector", pa.list_(pa.float32()))])
        ) as writer:
            for start in range(0, rows, 2_000):
                vectors = pa.ListArray.from_arrays(
                    pa.array(range(0, 2_001 * 256, 256), pa.int32()), draw(2_000 * 256, seed=start)
                )
                writer.write_table(pa.table({"eid": range(start, start + 2_000), "vector": vectors}))
        command = [sys.executable, "-c", code, "partner", "generic", str(folder), "--output", str(tmp_path / "out")]
        out = subprocess.run(command, capture_output=True, text=True, check=True).stdout
        assert out.startswith(f"{rows:,} vectors of {rows:,} subjects, 256 wide")
        peaks.append(int(out.split()[-1]))
    assert peaks[1] < 1.2 * peaks[0]


def test_names_that_are_understood_beside_others_are_told(folder: Path) -> None:
    for name in ("100307_rfMRI_REST1_LR", "100610_rfMRI_REST1_7T_PA", "100610_REST2_odd"):
        np.save(folder / f"{name}.npy", draw(4))
    summary = make("generic", folder.parent / "out", folder)
    assert (summary.subjects, summary.sessions) == (3, 2)
    assert "2 files are named as UK Biobank, BIDS or HCP do, and others are not" in summary.notes[0]
    assert "'100610_REST2_odd.npy'" in summary.notes[0]


def test_the_columns_that_were_taken_are_told(folder: Path) -> None:
    (folder / "a.csv").write_text("subject_id,age,f0,f1\nS1,34,0.1,0.2\n")
    summary = make("generic", folder.parent / "out", folder)
    assert summary.columns == ["2 columns, 'f0' to 'f1'; 'age' left out, since not numbered as those"]
    assert "  columns   2 columns, 'f0' to 'f1'; 'age' left out" in format_summary(summary)
