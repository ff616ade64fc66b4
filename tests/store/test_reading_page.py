"""schemas/README.md: every block runs and prints what the page shows, and its statements by name are right in every case."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pages
import pytest
import rays
from places import local_first
from stores import A, B, Entry, Run, feature_version, fill, in_order

from dnafeat.project.config import ProjectConfig
from dnafeat.project.job import project
from dnafeat.store import Store
from dnafeat.store.rollback import rollback

PAGE = Path(__file__).parents[2] / "schemas" / "README.md"


@pytest.mark.own_ray("a join of Ray Data waits for ever for room in the small object store of the shared one")
def test_every_block_prints_what_the_page_shows(tmp_path: Path) -> None:
    with rays.own(object_store_memory=2**30):
        left = pages.run(PAGE, tmp_path)
    # Spark needs jars from the network. What has no language is a picture.
    assert [block.kind for block in left if block.kind] == ["python spark"]


def test_a_page_that_shows_something_else_fails(tmp_path: Path) -> None:
    page = tmp_path / "page.md"
    good = "```python\nprint(1)\nprint('a run of 3 s')\n```\n\n```text\n1\na run of … s\n```\n\n```sh\nexit 0\n```\n"
    page.write_text(good)
    assert pages.run(page, tmp_path) == []
    for before, after in (
        ("\n1\n", "\n2\n"),
        ("… s", "… h"),
        ("exit 0", "exit 1"),
        ("exit 0", "echo more"),
        ("print(1)", "print("),
    ):
        page.write_text(good.replace(before, after))
        with pytest.raises((AssertionError, SyntaxError)):
            pages.run(page, tmp_path)
    page.write_text("```text\n1\n```\n")
    with pytest.raises(AssertionError):
        pages.blocks(page)


@pytest.mark.parametrize(
    ("shown", "printed", "same"),
    [
        ("a\n", "a\n", True),
        ("a \n", "a\n", True),
        ("a\n", "a\nb\n", False),
        ("a … c\n", "a b c\n", True),
        ("a … c\n", "a\nc\n", False),
        ("a\n…\nc\n", "a\nb\nb\nc\n", True),
        ("a\n…\nc\n", "a\nc\n", True),
        ("a\n…\n", "a\nb\n", True),
        ("…\nc\n", "a\nb\n", False),
        ("", "", True),
        ("", "a\n", False),
        ("a.c\n", "abc\n", False),
    ],
)
def test_dots_stand_for_any_text_and_nothing_else_does(shown: str, printed: str, same: bool) -> None:
    assert pages.agrees(shown, printed) is same


# the statements by name


def statement(tool: str) -> str:
    """The page's own, for that tool."""
    found = [
        block.text for block in pages.blocks(PAGE) if block.kind == "python" and "'production'" in block.text.replace('"', "'")
    ]
    (text,) = [text for text in found if f"import {tool}" in text and "recorded_at" in text]
    return text


def pasted(tool: str, store: str, name: str) -> list[dict[str, Any]]:
    """What it gives for another store and name, with keys and columns as those of `ENTRIES`."""
    text = statement(tool).replace("subject_id, haplotype, gene_id, region_id", "subject_id")
    text = text.replace('"subject_id", "haplotype", "gene_id", "region_id"', '"subject_id"')
    text = re.sub(r"print\(.*\)\n", "", text).replace("store/{table}", f"{store}/{{table}}")
    for quote in "'\"":
        text = text.replace(f"{quote}production{quote}", f"{quote}{name}{quote}")
    if store.startswith("s3://"):
        # What the page says to pass.
        options = ', storage_options={"AWS_ALLOW_HTTP": "true"})'
        text = text.replace('{table}")', '{table}"' + options)
    names: dict[str, Any] = {}
    exec(text, names)
    rows = names["rows"]
    return in_order((rows.df() if tool == "duckdb" else rows.collect().to_pandas()).to_dict("records"))


def by_store(store: Store, name: str) -> list[dict[str, Any]]:
    table = store.read(name, columns=["mean"])
    return in_order(table.select(["sequence_id", "source_name", "subject_id", "mean"]).to_pandas().to_dict("records"))


def plain(rows: list[dict[str, Any]]) -> list[dict[str, Any]]:
    return in_order({**row, "subject_id": row["subject_id"] or None, "mean": [float(x) for x in row["mean"]]} for row in rows)


ENTRIES = [Entry(f"id{i}", "ACGT" * (i + 1), {"subject_id": f"S{i}"}) for i in range(8)]
CHANGED = [ENTRIES[0], ENTRIES[1]._replace(sequence="GGCC"), ENTRIES[2]._replace(keys={"subject_id": "S9"}), *ENTRIES[5:]]
OTHER = [Entry("id0", "CCCC", {"subject_id": "S9"}), Entry("id3", "ACGT", {"subject_id": "S3"})]


def several_runs(store: Store, folder: Path) -> Iterator[str]:
    """States of a store, one after the other; each gives the name to read."""
    fill(store, ENTRIES, folder, source="cohort", shard_rows=3)
    store.point("production", A.digest)
    yield "production"
    fill(store, OTHER, folder, source="other")
    fill(store, ENTRIES[:3], folder, source="cohort", version=B)
    store.name("lora", A.digest)
    store.name("lora", B.digest)
    yield from ("production", "lora@1", "lora@2")
    # The source has moved on under one version; the other shows it as it was.
    fill(store, CHANGED, folder, source="cohort", run_id="changed")
    yield from ("production", "lora@2")
    store.point("production", B.digest)
    store.point("staging", A.digest)
    yield from ("production", "staging", "lora@1")
    fill(store, [], folder, source="other", run_id="empty")
    yield "lora@1"
    rollback(store, "changed")
    rollback(store, "empty")
    yield from ("production", "staging", "lora@1")
    # One that is under way, and one of another version.
    late = Run(store, CHANGED[1:], folder, source="cohort").encode()
    for step in ("version", "features", "rejects", "sequences"):
        late.step(step)
        yield "staging"
    late.step("run")
    fill(store, OTHER, folder, source="cohort", version=feature_version(3))
    yield from ("staging", "lora@1", "lora@2")
    # A child, whose rows have no mean of their own, and its parent.
    project(ProjectConfig(store=store.uri, projector="random@5", version=A.digest, name="child"), show=False)
    store.point("staging", "child")
    yield from ("child@1", "staging", "lora@1")


@local_first
@pytest.mark.parametrize("tool", ["duckdb", "polars"])
def test_a_statement_by_name_gives_what_the_store_gives(store_uri: str, tmp_path: Path, tool: str) -> None:
    store = Store(store_uri)
    states = 0
    for name in several_runs(store, tmp_path):
        assert plain(pasted(tool, store_uri, name)) == plain(by_store(store, name)), (states, name)
        states += 1
    assert states == 23


def test_a_name_that_is_not_there_gives_no_rows(tmp_path: Path) -> None:
    store = Store(str(tmp_path / "store"))
    fill(store, ENTRIES, tmp_path)
    store.point("production", A.digest)
    assert pasted("duckdb", store.uri, "nobody") == []
    with pytest.raises(ValueError, match="item"):
        pasted("polars", store.uri, "nobody")
