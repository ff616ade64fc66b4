"""The page about a version: its numbers are those of the store, and nothing in it is loaded or run."""

from __future__ import annotations

import re
from html.parser import HTMLParser
from pathlib import Path

import numpy as np
import pytest
from models import dna
from stores import A, B, Entry, fill, vectors

from dnafeat.cli.main import main
from dnafeat.report.facts import SAMPLE, components, drawn, facts, neighbourhood
from dnafeat.report.job import rendered
from dnafeat.store import Store

HOSTILE = '</title></svg><script>alert("x")</script><img src=x onerror=alert(1)>'
POOL = [Entry(f"e{i}", dna(40 + i, seed=i), {"label": HOSTILE if i % 3 else "plain"}) for i in range(30)]


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> Store:
    folder = tmp_path_factory.mktemp("report")
    store = Store(str(folder / "store"))
    fill(store, POOL[:20], folder, run_id="mon")
    fill(store, POOL, folder, run_id="tue")
    fill(store, POOL, folder, run_id="wed", version=B)
    store.point("production", A.digest)
    return store


class Tags(HTMLParser):
    """Tags, and attributes that would load something."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.tags: set[str] = set()
        self.loads: list[str] = []
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.add(tag)
        for name, value in attrs:
            if name in ("src", "href", "xlink:href") and not str(value).startswith("#"):
                self.loads.append(f"{tag} {name}={value}")


def test_numbers_are_those_of_the_store(store: Store) -> None:
    found = facts(store, against=B.digest, color_by="label")
    table = store.read(columns=["mean", "bases", "sequence_digest"])
    by_id = {row["sequence_id"]: row for row in table.to_pylist()}
    assert (found.entries, found.sequences, len(found.ids)) == (30, 30, 30)
    assert dict(zip(found.ids, found.bases.tolist(), strict=True)) == {name: row["bases"] for name, row in by_id.items()}
    rows = np.array([by_id[name]["mean"] for name in found.ids])
    assert np.allclose(found.norms, np.linalg.norm(rows, axis=1))
    values = np.linalg.eigvalsh(np.cov(rows.T))[::-1]
    assert np.allclose(found.shares, values / values.sum())
    labels = [POOL[int(name[1:])].keys["label"] for name in found.ids]
    pairs = [labels[i] == labels[j] for i in range(30) for j in range(30) if i != j]
    assert found.neighbourhood.chance == pytest.approx(np.mean(pairs))
    cosines = rows @ rows.T / np.outer(found.norms, found.norms)
    for name, near in found.neighbourhood.examples:
        row = cosines[found.ids.index(name)].copy()
        row[found.ids.index(name)] = -2
        assert [cosine for _, cosine in near] == pytest.approx(np.sort(row)[::-1][:5])
    assert found.movement is not None
    moved = []
    for row in by_id.values():
        one, two = (np.array(vectors(row["sequence_digest"], version)["mean"]) for version in (A, B))
        moved.append(np.linalg.norm(one - two) / max(np.linalg.norm(one), np.linalg.norm(two)))
    assert found.movement.median == pytest.approx(np.median(moved))
    assert found.movement.largest == pytest.approx(max(moved))
    assert [row["run_id"] for row in found.runs] == ["mon", "tue"]


def test_the_page_loads_and_runs_nothing_and_names_are_text(store: Store) -> None:
    text = rendered(facts(store, against=B.digest, color_by="label"))
    tags = Tags(text)
    assert not {"script", "img", "link", "iframe", "object"} & tags.tags
    assert tags.loads == []
    assert HOSTILE not in text
    assert "&lt;script&gt;" in text
    assert text.count("<circle") == 30
    ids = re.findall(r'\bid="([^"]+)"', text)
    assert len(set(ids)) == len(ids)


def test_the_command_writes_a_page_and_says_what_it_cannot_do(
    store: Store, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    page = tmp_path / "report.html"
    assert main(["report", "--store", store.uri, "--run", "mon", "--output", str(page)]) == 0
    assert "20 entries" in capsys.readouterr().out
    assert page.read_text().startswith("<!doctype html>")
    for arguments, words in (
        (["--color-by", "lable"], "did you mean label?"),
        (["--version", "prodction"], "did you mean production?"),
        (["--run", "mno"], "dnafeat runs"),
    ):
        assert main(["report", "--store", store.uri, "--output", str(tmp_path / "no.html"), *arguments]) == 2
        assert words in capsys.readouterr().err
    assert not (tmp_path / "no.html").exists()
    (tmp_path / "file").write_text("")
    assert main(["report", "--store", store.uri, "--output", str(tmp_path / "file" / "page.html")]) in (2, 6)
    assert capsys.readouterr().err.count("\n") == 1


def test_a_store_with_one_entry_without_keys(tmp_path: Path) -> None:
    store = Store(str(tmp_path / "store"))
    fill(store, [Entry("only", "ACGTACGTAC")], tmp_path)
    text = rendered(facts(store))
    assert "One entry has no neighbours" in text
    assert text.count("<circle") == 1


@pytest.mark.parametrize("value", [1.0, 0.0, 3e38], ids=["equal", "zero", "huge"])
def test_vectors_without_a_spread_have_no_components(value: float) -> None:
    rows = np.full((40, 8), np.float32(value)).astype(np.float64)
    shares, places = components(rows)
    assert not shares.any()
    assert not places.any()
    assert len(neighbourhood(rows, [str(i) for i in range(40)], None).examples[0][1]) == 5


def test_a_large_version_is_sampled_evenly() -> None:
    places = drawn(1_000_000)
    assert len(np.unique(places)) == SAMPLE
    assert abs(places.mean() / 1e6 - 0.5) < 0.03
    assert drawn(7).tolist() == list(range(7))
