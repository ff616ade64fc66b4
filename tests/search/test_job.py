"""`dnafeat neighbours`: ids are looked up, sequences that the store lacks are encoded by the version's own model."""

from __future__ import annotations

import csv
import json
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest
from stores import Entry, fill, refused, write_csv

import dnafeat
from dnafeat.cli.main import main
from dnafeat.embed import EmbedConfig, embed
from dnafeat.errors import DnafeatWarning, StoreError, UsageError
from dnafeat.search.asked import as_sequence, parse
from dnafeat.store import Store, matrix

DICE = np.random.default_rng(0)
LETTERS = {f"t{i}": "".join(DICE.choice(list("ACGT"), 60)) for i in range(30)}
NEW = LETTERS["t3"][:50] + "ACGTACGTAC"


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> str:
    folder = tmp_path_factory.mktemp("search")
    entries = [Entry(name, letters, {"subject_id": f"S{i % 3}"}) for i, (name, letters) in enumerate(LETTERS.items())]
    source = write_csv(folder / "cohort.csv", [*entries, Entry("twin", LETTERS["t3"], {"subject_id": "S9"})])
    embed(EmbedConfig.make(sources=[source], store=str(folder / "store"), runner="local", strands="both", source_name="cohort"))
    return str(folder / "store")


def test_new_sequences_are_encoded_as_the_version_was(store: str) -> None:
    both = dnafeat.neighbours(store, ids=["t5"], sequences={"new": NEW, "known": LETTERS["t7"]}, k=4, metric="l2")
    queries = dict.fromkeys(both["query"].to_pylist())
    assert list(queries) == ["t5", "new", "known"]
    encoder = dnafeat.Encoder.from_pretrained("dnafeat-mini", strands="both")
    own = encoder.encode([NEW]).mean[0].astype(np.float64)
    whole = Store(store).read(columns=["mean"])
    distances = np.sqrt(((matrix(whole["mean"]).astype(np.float64) - own) ** 2).sum(axis=1))
    order = np.argsort(distances)
    mine = [row for row in both.to_pylist() if row["query"] == "new"]
    assert {mine[0]["neighbour"], mine[1]["neighbour"]} == {"t3", "twin"}
    np.testing.assert_allclose([row["distance"] for row in mine], distances[order[: len(mine)]], atol=1e-4)
    known = [row for row in both.to_pylist() if row["query"] == "known"]
    assert (known[0]["neighbour"], known[0]["distance"]) == ("t7", 0.0)


def test_projected_vectors_are_compared_by_the_stored_projector(store: str) -> None:
    table = dnafeat.neighbours(store, sequences={"new": NEW}, column="projected", k=2)
    assert {"t3", "twin"} <= set(table["neighbour"].to_pylist())


def test_a_model_that_changed_is_not_compared_with(store: str, monkeypatch: pytest.MonkeyPatch) -> None:
    lineage = Store(store).lineage(Store(store).resolve())
    monkeypatch.setattr(Store, "lineage", lambda self, version: {**lineage, "weights_sha256": "0" * 64})
    with pytest.raises(UsageError, match="differs in weights_sha256"):
        dnafeat.neighbours(store, sequences=[NEW])
    monkeypatch.setattr(Store, "lineage", lambda self, version: {})
    with pytest.raises(StoreError, match="no lineage that can be read"):
        dnafeat.neighbours(store, sequences=[NEW])


def test_the_command_prints_and_writes(store: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["neighbours", "--store", store, "--query", "t3", "--k", "2"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines[0] == "t3"
    assert lines[3].split()[:5] == ["1", "0", "2", "t3", "cohort"]
    assert "S0 1, S9 1" in lines[3]
    fasta = tmp_path / "new.fa"
    fasta.write_text(f">mine\n{NEW}\n>other\n{LETTERS['t8']}\n")
    output = str(tmp_path / "near.parquet")
    assert main(["neighbours", "--store", store, "--query", str(fasta), LETTERS["t9"], "--k", "3", "--output", output]) == 0
    table = pq.read_table(output)
    assert list(dict.fromkeys(table["query"].to_pylist())) == ["mine", "other", f"{LETTERS['t9'][:40]}…"]
    capsys.readouterr()
    listed = tmp_path / "some.txt"
    listed.write_text("t1\nt2\n")
    assert main(["neighbours", "--store", store, "--query", str(listed), "--k", "1", "--json"]) == 0
    rows = json.loads(capsys.readouterr().out)
    assert [(row["query"], row["neighbour"], row["rank"]) for row in rows] == [("t1", "t1", 1), ("t2", "t2", 1)]
    written = tmp_path / "near.csv"
    assert main(["neighbours", "--store", store, "--query", "t1", "--k", "2", "--output", str(written)]) == 0
    assert next(csv.reader(written.open()))[:3] == ["query", "neighbour", "distance"]


def test_entries_are_counted_by_the_columns_of_a_panel(store: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    panel = tmp_path / "panel.tsv"
    panel.write_text("sample\tpop\nS0\tGBR\nS9\tFIN\n")
    command = ["neighbours", "--store", store, "--query", "t3", "--k", "1", "--panel", str(panel), "--json"]
    assert main([*command, "--by", "pop"]) == 0
    rows = json.loads(capsys.readouterr().out)
    assert [(row["pop"], row["entries"]) for row in rows] == [("FIN", 1), ("GBR", 1)]
    assert main(["neighbours", "--store", store, "--query", "t3", "--k", "1", "--by", "pop"]) == 2
    assert "no key 'pop' to count by" in capsys.readouterr().err


def test_what_is_neither_id_nor_sequence_is_told(store: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["neighbours", "--store", store, "--query", "t33"]) == 2
    error = capsys.readouterr().err
    assert "t33" in error
    assert "did you mean t3?" in error
    assert "outside the IUPAC codes" in error
    bad = tmp_path / "bad.fa"
    bad.write_text(">x\nACG!T\n")
    with pytest.raises(UsageError) as raised:
        parse([str(bad)])
    refused(raised, "'x'", "'!'")  # type: ignore[arg-type]
    bad.write_text(">x\nACGT\n>x\nAAAA\n")
    with pytest.raises(UsageError, match="two queries are called 'x'"):
        parse([str(bad)])
    assert as_sequence("t1") is None
    assert main(["neighbours", "--store", store, "--query", " "]) == 2
    assert main(["neighbours", "--store", store, "--query", "t1", "--k", "0"]) == 2


def test_hashed_ids_are_asked_for_with_their_salt(tmp_path: Path) -> None:
    from dnafeat.pseudonyms import pseudonyms

    salt = b"a salt of many bytes"
    (tmp_path / "salt").write_bytes(salt)
    entries = [Entry(next(pseudonyms([name], salt)), letters) for name, letters in list(LETTERS.items())[:4]]
    fill(str(tmp_path / "store"), entries, tmp_path)
    store = Store(str(tmp_path / "store"))
    with pytest.raises(StoreError, match="ids are hashed"):
        store.neighbours(["t1"], k=1)
    table = store.neighbours(["t1"], k=1, salt_file=str(tmp_path / "salt"))
    assert table["neighbour"].to_pylist() == [entries[1].id]
    with pytest.warns(DnafeatWarning):
        assert len(dnafeat.neighbours(store, ids=["t1"], k=9, salt_file=str(tmp_path / "salt"))) == 4
