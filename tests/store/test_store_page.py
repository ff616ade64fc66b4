"""The page in a store's folder that says how it is read."""

from __future__ import annotations

from pathlib import Path

import pytest
from stores import Entry, fill

from dnafeat.errors import StoreError
from dnafeat.store import Store
from dnafeat.store.maintain import maintain
from dnafeat.store.ownership import MARKER, README


def test_a_new_store_has_a_page_that_stays(tmp_path: Path) -> None:
    uri = tmp_path / "store"
    fill(str(uri), [Entry("a", "ACGT")], tmp_path)
    page = uri / README
    assert "Delta tables" in page.read_text()
    assert maintain(Store(str(uri))).foreign_files == 0
    page.write_text("ours")
    fill(str(uri), [Entry("a", "ACGT"), Entry("b", "GGCC")], tmp_path)
    maintain(Store(str(uri)))
    assert page.read_text() == "ours"
    page.unlink()
    Store(str(uri)).create()
    assert not page.exists()


def test_a_folder_with_a_page_alone_is_no_store(tmp_path: Path) -> None:
    (tmp_path / README).write_text("of a project")
    with pytest.raises(StoreError, match="holds other files"):
        Store(str(tmp_path)).create()
    assert not (tmp_path / MARKER).exists()
    assert (tmp_path / README).read_text() == "of a project"
