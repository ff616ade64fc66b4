"""Faults at the calls by which a store writes: a process that dies before or after one, a reply that is lost, somebody else in between."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator
from typing import Any

import pytest
from deltalake import DeltaTable
from deltalake.exceptions import CommitFailedError
from deltalake.table import TableAlterer

from dnafeat import storage

KINDS = ("dies before", "dies after", "reply lost", "connection lost", "somebody between")


class Died(BaseException):
    """The process is gone: nothing of the library may catch it and go on."""


class Faults:
    """Counts the writing calls, and lets one of them go wrong.

    A call is: an object or file that appears (`storage.write_whole`), a folder that goes (`storage.remove_folder`), a commit, added
    columns, files that go (`storage.remove_files`).
    """

    def __init__(self) -> None:
        self.calls = 0
        self._left, self._kind, self._table = 0, "", ""
        self._between: Callable[[], None] | None = None

    def arm(self, calls: int, kind: str, between: Callable[[], None] | None = None, table: str = "") -> None:
        """The fault comes at the given one of the calls from now on, the first being 1; with `table` only calls below it count."""
        self._left, self._kind, self._between, self._table = calls, kind, between, table

    def disarm(self) -> bool:
        """Takes a fault back; whether it was still to come."""
        waiting, self._left = self._left > 0, 0
        return waiting

    def _wrapped(self, real: Callable[..., Any], *, commits: bool) -> Callable[..., Any]:
        def call(*arguments: Any, **options: Any) -> Any:
            self.calls += 1
            if self._table and f"/{self._table}/" not in f"{_place(arguments[0])}/":
                return real(*arguments, **options)
            self._left -= 1
            if self._left != 0:
                return real(*arguments, **options)
            kind = self._kind
            if kind == "somebody between":
                between, self._between = self._between, None
                if between is not None:
                    between()
                return real(*arguments, **options)
            if kind == "dies before":
                raise Died
            found = real(*arguments, **options)
            if kind == "dies after":
                raise Died
            if kind == "connection lost":
                raise OSError("the connection was closed before an answer came")
            if commits:
                # What a client that sends the same conditional write again is told.
                raise CommitFailedError("a version of this number is there already")
            return found

        return call

    @contextlib.contextmanager
    def around(self) -> Iterator[Faults]:
        """A block in which the calls are counted."""
        with pytest.MonkeyPatch.context() as patch:
            for owner, name, commits in (
                (storage, "write_whole", False),
                (storage, "remove_folder", False),
                (DeltaTable, "create_write_transaction", True),
                (TableAlterer, "add_columns", True),
                (storage, "remove_files", False),
            ):
                patch.setattr(owner, name, self._wrapped(getattr(owner, name), commits=commits))
            yield self


def _place(first: Any) -> str:
    """Where a call writes, by its first argument."""
    if isinstance(first, DeltaTable):
        return first.table_uri.rstrip("/")
    return first.table.table_uri.rstrip("/") if isinstance(first, TableAlterer) else str(first)
