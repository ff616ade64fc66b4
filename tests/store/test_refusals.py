"""Refused entries as a command lists them, and conditions that no entry meets."""

from __future__ import annotations

import json
from pathlib import Path

import pyarrow as pa
import pytest
from stores import Entry, fill

from dnafeat.cli.main import main
from dnafeat.errors import DnafeatWarning
from dnafeat.store import Store
from dnafeat.store.refusals import reasons_of, refusals
from dnafeat.store.schema import arrow_schema

GOOD = [Entry("a", "ACGT", {"label": "EI"}), Entry("b", "AACC", {"label": "IE"}), Entry("c", "GGCC", {"label": "N"})]
BAD = [Entry(f"bad{i}", "AC" + "G" * i + "!", {"label": "EI"}) for i in range(5)]


@pytest.fixture
def store(tmp_path: Path) -> Store:
    uri = str(tmp_path / "store")
    fill(uri, [*GOOD, *BAD, Entry("empty", " ")], tmp_path, run_id="one")
    fill(uri, [*GOOD, BAD[0]], tmp_path, run_id="two", source="other")
    fill(uri, GOOD, tmp_path, run_id="three")
    return Store(uri)


def listed(capsys: pytest.CaptureFixture[str], store: Store, *arguments: str, code: int = 0) -> dict:
    assert main(["rejects", "--store", store.uri, "--json", *arguments]) == code
    out = capsys.readouterr().out
    return json.loads(out) if out else {}


def test_reasons_are_counted_together_whatever_their_numbers(store: Store, capsys: pytest.CaptureFixture[str]) -> None:
    found = listed(capsys, store)
    reasons = list(found["reasons"].items())
    assert found["rejected"] == 7
    assert reasons == [("letter '!' at base … is outside A C G T N (… such)", 6), ("the sequence is empty", 1)]
    assert {(one["run_id"], one["sequence_id"]) for one in found["entries"]} == {
        *(("one", entry.id) for entry in BAD),
        ("one", "empty"),
        ("two", "bad0"),
    }
    assert "text" not in found["entries"][0]


def test_a_run_is_chosen_by_id_or_number_and_a_limit_is_kept(store: Store, capsys: pytest.CaptureFixture[str]) -> None:
    assert listed(capsys, store, "--run", "two")["rejected"] == listed(capsys, store, "--run", "2")["rejected"] == 1
    some = listed(capsys, store, "--run", "one", "--limit", "2")
    assert (some["rejected"], len(some["entries"])) == (6, 2)
    assert listed(capsys, store, "--run", "three") == {
        "store": store.uri,
        "run_id": "three",
        "rejected": 0,
        "reasons": {},
        "entries": [],
    }
    assert main(["rejects", "--store", store.uri, "--run", "twoo"]) == 2
    assert "did you mean two?" in capsys.readouterr().err


def test_the_text_has_the_reasons_and_then_the_entries(store: Store, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["rejects", "--store", store.uri, "--limit", "1"]) == 0
    told = capsys.readouterr().out
    assert told.startswith(f"7 refused entries of {store.uri}\n")
    assert "      6  letter '!' at base … is outside" in told
    assert "1 of them are shown; --limit shows more" in told
    assert main(["rejects", "--store", store.uri, "--run", "three"]) == 0
    assert capsys.readouterr().out == "no entry of run three was refused\n"


def test_places_and_names_are_no_part_of_a_reason() -> None:
    texts = [
        "sequence_id stands already at s3://b/x.csv:12",
        "sequence_id stands already at y.csv:1,300",
        "column 'subject' is not UTF-8",
    ]
    counted = reasons_of([pa.record_batch({"reason": texts})])
    assert counted == {"sequence_id stands already at …": 2, "column … is not UTF-8": 1}


def test_refusals_of_a_run_that_was_not_published_are_found(store: Store) -> None:
    table = store.rejects
    rows = table.reload().read().slice(0, 1).to_pylist()
    table.commit(
        [table.write(pa.Table.from_pylist([{**rows[0], "run_id": "strict"}], schema=arrow_schema("rejects")), stem="strict")]
    )
    assert refusals(store, "strict").rejected == 1


# conditions


@pytest.mark.parametrize(
    ("values", "said"),
    [
        (["eii"], r"no entry that is read has label 'eii' \(did you mean EI\?\)"),
        (["nothing like it"], r"no entry that is read has label 'nothing like it'$"),
        (["EI", "ie"], r"no entry that is read has label 'ie' \(did you mean IE\?\)"),
    ],
)
def test_a_value_that_no_entry_has_is_told_of_with_the_nearest(store: Store, values: list[str], said: str) -> None:
    with pytest.warns(DnafeatWarning, match=said):
        found = store.read(columns=["bases"], where={"label": values})
    assert len(found) == (2 if "EI" in values else 0)


@pytest.mark.filterwarnings("error")
def test_values_that_are_there_are_not_told_of_even_where_they_do_not_meet(store: Store) -> None:
    assert len(store.read(columns=["bases"], where={"label": "EI", "sequence_id": "b"})) == 0
    assert len(store.read(columns=["bases"], where={"label": "EI"})) == 2


def test_the_command_tells_of_it_on_standard_error(store: Store, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for command in (["read", "--output", str(tmp_path / "v.parquet")], ["export", "--output", str(tmp_path / "export")]):
        assert main([*command, "--store", store.uri, "--where", "label=eii"]) == 0
        assert "dnafeat: no entry that is read has label 'eii' (did you mean EI?)\n" in capsys.readouterr().err
