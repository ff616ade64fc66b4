"""What a run leaves on disks: nothing, however it ends."""

from __future__ import annotations

import tempfile
from pathlib import Path

import pytest

from dnafeat import storage
from dnafeat.cluster import session
from dnafeat.embed.workspace import Workspace


def there(uri: str) -> bool:
    fs, path = storage.filesystem(uri)
    fs.invalidate_cache()
    return fs.exists(path)


def test_both_places_go_with_the_workspace(store_uri: str) -> None:
    with Workspace(store_uri, "run-1") as workspace:
        (Path(workspace.folder) / "spill").write_bytes(b"rows")
        place = storage.join(workspace.work, "shard-00000.parquet")
        storage.write_whole(place, lambda file: file.write(b"rows"))
        assert there(place)
    assert not Path(workspace.folder).exists()
    assert not there(place)


def test_nothing_is_left_where_ray_does_not_start(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def fails() -> None:
        raise RuntimeError("Ray does not start")

    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path / "temporary"))
    (tmp_path / "temporary").mkdir()
    monkeypatch.setattr(session, "start_ray", fails)
    with pytest.raises(RuntimeError, match="Ray does not start"), Workspace(str(tmp_path / "store"), "run-1") as workspace:
        workspace.spread(show=False)
    assert list((tmp_path / "temporary").iterdir()) == []
    assert not (tmp_path / "store").exists()
