"""Move a channel to a version only where its readers lose no source, beside others that publish meanwhile."""

from __future__ import annotations

from dataclasses import dataclass

from dnafeat.store.catalog import Store
from dnafeat.store.history import History


@dataclass(frozen=True, kw_only=True)
class Move:
    """The result of a move.

    Attributes
    ----------
    version : str | None
        The version that the channel points at now.
    moved : bool
    waits_for : tuple of str
        Sources that the channel's version has and the new one lacks, for which the channel stays.
    """

    version: str | None
    moved: bool
    waits_for: tuple[str, ...]


def move(store: Store, channel: str, version: str) -> Move:
    """Point a channel at a published version unless its readers would lose a source.

    The sources are compared at the snapshot that the move is committed from, so that a channel that another has moved meanwhile is looked
    at anew. Runs are published in another table: they are looked at once more after the commit, and where one was published in between
    under the version before, the channel goes back to it.

    Raises
    ------
    StoreError
        The channel has the name of a version, or the store cannot be read or written.
    ConflictError
        Others were faster again and again.
    """
    before: str | None = None
    lacking: tuple[str, ...] = ()
    moved = False

    def stays() -> bool:
        nonlocal before, lacking, moved
        history = store.history()
        before = history.names.channels.get(channel)
        lacking = _lost(history, before, version)
        moved = before != version and not lacking and version in history.versions()
        return not moved

    store.record_version(version, event="channel", name=channel, unless=stays)
    if not moved:
        return Move(version=before, moved=False, waits_for=lacking)
    if before is not None and (lacking := _lost(store.history(), before, version)):
        store.record_version(
            before, event="channel", name=channel, unless=lambda: store.history().names.channels.get(channel) != version
        )
        return Move(version=store.channels().get(channel), moved=False, waits_for=lacking)
    return Move(version=version, moved=True, waits_for=())


def _lost(history: History, before: str | None, version: str) -> tuple[str, ...]:
    """Sources that one version has and another lacks, sorted."""
    return tuple(sorted(set(history.filled_by(before)) - set(history.filled_by(version)))) if before is not None else ()
