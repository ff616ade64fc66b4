"""A Delta table that every commit replaces whole: its versions are states, and each says in its commit what it was made of."""

from __future__ import annotations

import contextlib
import json
from collections.abc import Iterator, Sequence
from typing import Any

from deltalake import CommitProperties, Schema, Transaction
from deltalake.exceptions import CommitFailedError, DeltaError
from deltalake.transaction import create_table_with_add_actions

from dnafeat import storage, untrusted
from dnafeat.errors import ConflictError, DamagedError, one_line
from dnafeat.store import delta_log, durability
from dnafeat.store.data_file import DataFile
from dnafeat.store.retry import broken_off
from dnafeat.store.table import Table
from dnafeat.urls import delta_uri

ABOUT = "dnafeat"
"""The key under which a commit, or a Parquet footer, says what it was made of, as JSON."""
_CONFIGURATION = {
    # No ids in the log.
    "delta.dataSkippingNumIndexedCols": "0",
    # What a version was made of, and older versions, stay until they are removed.
    "delta.logRetentionDuration": "interval 3650 days",
    "delta.deletedFileRetentionDuration": "interval 3650 days",
}


class ReplacedTable:
    """The table at a folder or prefix, as it was when `look` was called last, whether it is there or not."""

    def __init__(self, uri: str) -> None:
        self.uri = storage.absolute(uri)
        self.table = Table(*self.uri.rsplit("/", 1))
        self.there = False

    def look(self) -> bool:
        """Return whether the table is there; a commit holds only if there was no other since."""
        self.there = self.table.reload().exists()
        if self.there:
            self.table.version()
        return self.there

    def commits(self) -> Iterator[tuple[int, dict[str, Any]]]:
        """The versions that say what they were made of, the newest first, and what they say."""
        for commit in self.table.snapshot.history() if self.there else ():
            if ABOUT in commit:
                try:
                    about = untrusted.parse_object(str(commit[ABOUT]).encode())
                except ValueError as error:
                    raise DamagedError(
                        f"{self.uri}: what version {commit['version']} was made of cannot be read: {one_line(error)}"
                    ) from error
                yield commit["version"], about

    def commit(self, files: Sequence[DataFile], contract: Schema, about: dict[str, Any], attempt: str) -> int:
        """Make these files the table, in place of what it was, and return its version.

        Parameters
        ----------
        files : sequence of DataFile
        contract : Schema
        about : dict
            What it was made of.
        attempt : str
            A name of this one commit, by which it is known again where its reply is lost.

        Raises
        ------
        ConflictError
            Another job has written the table since `look`; the files are removed.
        StoreError
            It cannot be written. The files stay, since the commit may be there and its reply be lost.
        """
        with storage.reached(self.uri):
            when = durability.now(self.uri)
        actions = [file.added(when) for file in files]
        durability.sync(self.uri, [file.path for file in files])
        if self.there:
            delta_log.sync(self.uri, self.table.version())
        properties = CommitProperties(
            max_commit_retries=0,
            custom_metadata={ABOUT: json.dumps(about, sort_keys=True)},
            app_transactions=[Transaction(attempt, 1)],
        )
        try:
            if self.there:
                self.table.snapshot.create_write_transaction(
                    [*actions], mode="overwrite", schema=contract, commit_properties=properties
                )
            else:
                create_table_with_add_actions(
                    delta_uri(self.uri),
                    contract,
                    actions,
                    mode="error",
                    configuration=_CONFIGURATION,
                    storage_options=storage.delta_options(self.uri),
                    commit_properties=properties,
                )
        except (DeltaError, OSError) as error:
            # The reply may have been lost, and the commit be there.
            there = self.table.reload().exists()
            if not there or self.table.transaction(attempt) is None:
                if there and (not self.there or isinstance(error, CommitFailedError) or broken_off(error)):
                    self.remove(files)
                    raise ConflictError(f"somebody else wrote {self.uri} meanwhile: send the same command again") from error
                raise storage.fault(error)(f"{self.uri} cannot be committed to: {one_line(error)}") from error
        self.there = True
        version = self.table.reload().version()
        delta_log.sync(self.uri, version)
        return version

    def remove(self, files: Sequence[DataFile]) -> None:
        """Remove files that did not become part of the table."""
        for file in files:
            with contextlib.suppress(*storage.STORAGE_ERRORS):
                storage.remove(storage.join(self.uri, file.path))
