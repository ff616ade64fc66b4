"""Rows of a partner's files, checked one by one, on a local disk until all of them are known to be good."""

from __future__ import annotations

import sqlite3
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa

from dnafeat import pseudonyms as keyhash
from dnafeat.errors import UsageError
from dnafeat.partners.config import PartnerConfig
from dnafeat.partners.files import read
from dnafeat.partners.items import Item, Problem
from dnafeat.partners.kinds import pooled
from dnafeat.partners.names import Unfit, is_understood

SCHEMA = pa.schema(
    [
        ("subject_id", pa.string()),
        ("session", pa.string()),
        ("window", pa.int64()),
        ("vector", pa.list_(pa.float32())),
        ("file", pa.string()),
    ]
)
REJECTS = pa.schema([("file", pa.string()), ("row", pa.int64()), ("reason", pa.string())])
ROW_GROUP = 4096  # rows

_BATCH_BYTES = 16 * 2**20
_SHOWN = 5  # problems in a sentence


class _Pile:
    """Rows on a local disk, in the order they came, and out again as one stream."""

    def __init__(self, path: Path, schema: pa.Schema) -> None:
        self._path = path
        self._writer = pa.ipc.new_stream(str(path), schema)

    def add(self, batch: pa.RecordBatch) -> None:
        self._writer.write_batch(batch)

    def stream(self) -> pa.RecordBatchReader:
        self._writer.close()
        return pa.ipc.open_stream(pa.OSFile(str(self._path)))


class _Seen:
    """The subjects, sessions and windows seen so far, and where; on disk once they are many."""

    def __init__(self, path: Path) -> None:
        self._rows = sqlite3.connect(path)
        self._rows.execute("pragma journal_mode = off")
        self._rows.execute("create table seen (subject, session, window, place, unique (subject, session, window))")

    def add(self, subject: str, session: str | None, window: int | None, place: str) -> str | None:
        """None, or the place where the same has come before. (SQL takes two nulls for different.)"""
        key = (subject, session or "", -1 if window is None else window)
        if self._rows.execute("insert or ignore into seen values (?, ?, ?, ?)", (*key, place)).rowcount:
            return None
        found = self._rows.execute("select place from seen where subject = ? and session = ? and window = ?", key)
        return str(found.fetchone()[0])

    def counts(self) -> tuple[int, int, int]:
        """Distinct subjects, distinct sessions, and rows with a window."""
        ask = "select count(distinct subject), count(distinct nullif(session, '')), coalesce(sum(window >= 0), 0) from seen"
        subjects, sessions, windowed = self._rows.execute(ask).fetchone()
        return subjects, sessions, windowed

    def close(self) -> None:
        self._rows.close()


class PartnerIntake:
    """Everything read so far: good rows and refused ones on disk, and what is to be said of them."""

    def __init__(self, folder: Path, config: PartnerConfig, salt: bytes | None) -> None:
        self.config, self.salt = config, salt
        self.seen = _Seen(folder / "seen")
        self.rows = 0
        self.refused = 0
        self.width: int | None = config.width
        self.tokens: Counter[int] = Counter()
        self.widths: dict[int, tuple[int, str]] = {}  # by width: how many items, and the first one's place
        self.shuffled = 0
        self.said: dict[str, None] = {}  # notes of files, each once
        self.understood = 0  # files named as UK Biobank, BIDS or HCP do
        self.whole_names: list[str] = []  # the first names of others, which are subjects as they are
        self._vectors = _Pile(folder / "vectors", SCHEMA)
        self._rejects = _Pile(folder / "rejects", REJECTS)
        self._problems: list[str] = []  # the first few
        self._columns: dict[str, list[Any]] = {name: [] for name in SCHEMA.names}
        self._held = 0

    def close(self) -> None:
        self.seen.close()

    def take(self, files: Sequence[str]) -> None:
        """Read files, one after the other."""
        for uri in files:
            for piece in read(uri, self.config):
                if isinstance(piece, Problem):
                    self._refuse(piece)
                else:
                    self._take_item(piece)
        self._flush()

    def judge(self, files: int) -> None:
        """Raise UsageError where what was read cannot be published."""
        if not self.config.skip_bad and self.refused:
            raise UsageError(self._refusal(files))
        if not self.rows:
            raise UsageError(f"no vector was left to write: {self._refusal(files)}")

    def vectors(self) -> pa.RecordBatchReader:
        return self._vectors.stream()

    def rejects(self) -> pa.RecordBatchReader:
        return self._rejects.stream()

    def _refusal(self, files: int) -> str:
        if len(self.widths) > 1 and not self.config.skip_bad:
            groups = sorted(self.widths.items(), key=lambda group: -group[1][0])
            widths = "; ".join(f"{width} in {count:,} (the first is {place})" for width, (count, place) in groups[:_SHOWN])
            return f"vectors are of several widths, {widths}: make a table of each, since one table has one width; nothing was written"
        if self.refused == 1:
            return f"{self._problems[0]}; nothing was written (--skip-bad leaves it out)"
        more = f"; and {self.refused - _SHOWN:,} more" if self.refused > _SHOWN else ""
        listed = "; ".join(self._problems) + more
        return f"{self.refused:,} things in {files:,} files cannot be used, and nothing was written (--skip-bad leaves them out): {listed}"

    def _refuse(self, problem: Problem) -> None:
        self.refused += 1
        if len(self._problems) < _SHOWN:
            self._problems.append(str(problem))
        reason = problem.reason if self.salt else problem.reason + problem.detail
        row = {"file": None if self.salt else problem.file, "row": problem.row, "reason": reason}
        self._rejects.add(pa.RecordBatch.from_pylist([row], REJECTS))

    def _take_item(self, item: Item) -> None:
        try:
            made = pooled(item, self.config)
            rows, width = made.vectors.shape
            names, windows = _of_rows(item, rows)
            subjects = self._subjects([name and name.subject for name in names])
        except Unfit as error:
            self._refuse(Problem(place=item.place, file=item.file, reason=error.reason, detail=error.detail, row=item.row))
            return
        if item.note is not None and len(self.said) < _SHOWN:
            self.said[item.note] = None
        self._count_name(item)
        count, first = self.widths.get(width, (0, item.place))
        self.widths[width] = (count + 1, first)
        self.width = self.width or width
        if made.tokens is not None:
            self.tokens[made.tokens] += rows
        self.shuffled += "shuffled" in made.notes
        finite = np.isfinite(made.vectors).all(axis=1)
        for at, (subject, name, window) in enumerate(zip(subjects, names, windows, strict=True)):
            problem = self._problem_of(item, at, subject, name and name.session, window, made.vectors[at], bool(finite[at]))
            if problem is not None:
                self._refuse(problem)
                continue
            values = (subject, name and name.session, window, made.vectors[at], None if self.salt else item.file)
            for column, value in zip(self._columns.values(), values, strict=True):
                column.append(value)
            self._held += made.vectors[at].nbytes
            if self._held >= _BATCH_BYTES or len(self._columns["file"]) >= ROW_GROUP:
                self._flush()

    def _count_name(self, item: Item) -> None:
        """Notice whether the subject of a file is a part of its name or all of it."""
        name = item.names[0] if item.row is None and self.config.id_pattern is None and len(set(item.names)) == 1 else None
        if name is None:
            return
        written = item.file.rpartition("#")[2]
        if name.subject not in (written, written.rpartition(".")[0]) or is_understood(written):
            self.understood += is_understood(written)
        elif len(self.whole_names) < _SHOWN:
            self.whole_names.append(written)

    def _subjects(self, subjects: list[str | None]) -> list[str | None]:
        if self.salt is None:
            return subjects
        try:
            return keyhash.hashed(pa.array(subjects, pa.string()), self.salt).to_pylist()
        except UsageError as error:
            raise Unfit("has an id that is hashed already, under another salt", f" ({error})") from None

    def _problem_of(
        self, item: Item, at: int, subject: str | None, session: str | None, window: int | None, vector: np.ndarray, finite: bool
    ) -> Problem | None:
        reason, detail = None, ""
        if not subject:
            reason = "has no subject; give it an id, or leave it out"
        elif len(vector) != self.width:
            first = self.widths.get(self.width or 0)
            reason = f"is {len(vector)} wide and not {self.width}; make a table of its own for that width"
            detail = f" (the first of {self.width} is {first[1]})" if first else ""
        elif not finite:
            place = int(np.flatnonzero(~np.isfinite(vector))[0])
            reason = f"holds {vector[place]} at index {place} of its vector; export it again"
        elif earlier := self.seen.add(subject, session, window, item.place_of(at)):
            reason = "has the subject, session and window of an earlier one; keep one, or tell them apart by session or window"
            detail = f" (which is {earlier})"
        if reason is None:
            return None
        row = None if item.row is None else item.row + at
        return Problem(place=item.place_of(at), file=item.file, reason=reason, detail=detail, row=row)

    def _flush(self) -> None:
        count = len(self._columns["file"])
        if not count:
            return
        vectors = self._columns.pop("vector")
        flat = pa.array(np.concatenate(vectors))
        offsets = pa.array(np.arange(0, len(flat) + 1, self.width or 1, dtype=np.int32))
        arrays = {name: pa.array(values, SCHEMA.field(name).type) for name, values in self._columns.items()}
        arrays["vector"] = pa.ListArray.from_arrays(offsets, flat)
        self._vectors.add(
            pa.RecordBatch.from_arrays([arrays[name].cast(SCHEMA.field(name).type) for name in SCHEMA.names], schema=SCHEMA)
        )
        self.rows += count
        self._columns = {name: [] for name in SCHEMA.names}
        self._held = 0


def _of_rows(item: Item, rows: int) -> tuple[Sequence[Any], Sequence[int | None]]:
    """Whose each row is, and its window: the rows of an array that are all of one subject and session are windows 0, 1, …"""
    names = list(item.names) if len(item.names) == rows else list(item.names) * rows
    windows = list(item.windows) if item.windows is not None else None
    if windows is not None:
        return names, windows if len(windows) == rows else windows * rows
    named = [name and name.window for name in names]
    if item.row is not None or rows == 1 or len({name and name[:2] for name in names}) > 1:
        return names, named
    if named[0] is not None:
        raise Unfit(f"has {rows} rows, and its name says that it is window {named[0]}; write one row, or another name")
    return names, list(range(rows))
