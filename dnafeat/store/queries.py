"""What a store answers: entries with their vectors, some of them by id or sequence, and the nearest of a query."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Collection, Iterable, Iterator, Sequence
from typing import TYPE_CHECKING

import numpy as np
import pyarrow as pa

from dnafeat.errors import StoreError, UsageError
from dnafeat.pseudonyms import read_salt
from dnafeat.store.conditions import Where, listed
from dnafeat.store.history import AsOf, History
from dnafeat.store.matrices import matrix
from dnafeat.store.nearest import Metric
from dnafeat.store.neighbours import Scope, check_question, search
from dnafeat.store.online import Asked, get
from dnafeat.store.reading import Reading, check_selection, chosen, load_entries
from dnafeat.store.retry import looking_again
from dnafeat.store.schema import arrow_schema
from dnafeat.store.sql import duckdb_connection, polars_frame
from dnafeat.store.table import Table

if TYPE_CHECKING:
    import duckdb
    import polars


class Queries(ABC):
    """The part of `Store` that reads."""

    uri: str
    features: Table
    sequences: Table

    @abstractmethod
    def history(self) -> History:
        """The runs and the names of versions as they are now."""

    @abstractmethod
    def check_whole(self, history: History, numbers: Collection[int] | None = None) -> None:
        """As `Store` says."""

    @abstractmethod
    def tables(self) -> tuple[Table, ...]:
        """The five tables that every store has, each at its snapshot."""

    def keys(self) -> list[str]:
        """The caller's keys, at the present snapshot of `sequences`."""
        return [name for name in self.sequences.schema().names if name not in arrow_schema("sequences").names]

    def read(
        self,
        version: str | None = None,
        columns: Sequence[str] | None = None,
        source: str | None = None,
        as_of: AsOf | None = None,
        where: Where | None = None,
        run: str | int | None = None,
    ) -> pa.Table:
        """The entries of a version with their vectors.

        Parameters
        ----------
        version : str | None
            A version, a name or a channel, as they are named now; None: the channel `production`, or the only version there is.
        columns : sequence of str | None
            Any of cls, mean, max, projected, sequence_digest, bases, tokens, windows, run_id; vectors with plus signs between them,
            as in `cls+mean`, come end to end as one column of that name; None: the stored vectors.
        source : str | None
            One source's name; None: all sources that have filled the version.
        as_of : str | int | datetime.date | None
            The state as it was when a run was published, by its id or number, or at a time: a datetime (without a zone: UTC), a date
            (its end, UTC), or either in ISO format; None: the newest. Of each source its last published run up to then counts, less
            what has been withdrawn or forgotten since.
        where : mapping of str to str or sequence of str | None
            Keys, or `sequence_id`, and the value or values that each may have: only such entries. Of the vectors only those files and
            row groups are read in which one of theirs can stand.
        run : str | int | None
            A published run by its id or number: its version and its source, as of it. In place of version, source and as_of.

        Returns
        -------
        pyarrow.Table
            `sequence_id`, `source_name`, the keys of which any entry of the version had a value then, and `columns`, in no particular
            order. A vector column is one array, a fixed-size list of float32; `dnafeat.matrix(table["mean"])` is its (n, width) NumPy
            array, without a copy.

        Raises
        ------
        StoreError
            Something that was asked for is not there, nothing was published by then, or the store is damaged.
        """
        return self.reading(version, columns, source, as_of, where, run).table()

    def scan(
        self,
        version: str | None = None,
        columns: Sequence[str] | None = None,
        source: str | None = None,
        as_of: AsOf | None = None,
        where: Where | None = None,
        run: str | int | None = None,
    ) -> Iterator[pa.RecordBatch]:
        """`read` in batches: ids and keys are held in memory, vectors pass through. At least one batch, which may be empty."""
        return self.reading(version, columns, source, as_of, where, run).batches()

    def reading(
        self,
        version: str | None = None,
        columns: Sequence[str] | None = None,
        source: str | None = None,
        as_of: AsOf | None = None,
        where: Where | None = None,
        run: str | int | None = None,
    ) -> Reading:
        """Resolve a read without reading vectors: the version, and its entries with ids and keys."""
        check_selection(version, source, where)
        # Iterators, too, have to last for more than one look.
        where = None if where is None else {name: listed(values) for name, values in where.items()}
        columns = listed(columns)
        return looking_again(lambda: self._resolved(version, columns, source, as_of, where, run))

    def _resolved(
        self,
        version: str | None,
        columns: Sequence[str] | None,
        source: str | None,
        as_of: AsOf | None,
        where: Where | None,
        run: str | int | None,
    ) -> Reading:
        history = self.history()
        if run is not None:
            for name, value in (("version", version), ("source", source), ("as_of", as_of)):
                if value is not None:
                    raise StoreError(f"run {run!r} says which version, source and time are read: leave out {name} {str(value)!r}")
            row = history.run(run)
            version, source, as_of = row["feature_version"], row["source_name"], row["run_number"]
        digest = history.resolve(version)
        state = history.state(digest, as_of, source)
        names = chosen(columns, digest, history.vectors(digest))
        # Loaded after `runs`, both tables hold at least what the published runs name. And `features` first: an erasure takes the names
        # out of `sequences` before it takes out the vectors, so that all that is named has its vectors.
        self.features.reload().version()
        self.sequences.reload()
        self.check_whole(history, state.values())
        whole = history.state(digest, as_of)
        entries = load_entries(self.sequences, state, whole, where)
        return Reading(self.features, digest, state, names, entries, parent=history.parent(digest), sequences=self.sequences)

    def get(
        self,
        ids: Iterable[str] | None = None,
        version: str | None = None,
        columns: Sequence[str] | None = None,
        *,
        sequences: Iterable[str] | None = None,
        source: str | None = None,
        missing: str = "refuse",
        salt_file: str | None = None,
    ) -> pa.Table:
        """Vectors of some entries in the order asked, without reading the others.

        The ids of all entries are searched; of the vectors only the pages of files are read that hold a wanted one.

        Parameters
        ----------
        ids : iterable of str | None
            Each as it stands in `sequence_id`; one may come twice.
        version, columns, source
            As `read` takes them.
        sequences : iterable of str | None
            In place of ids: letters, found by their digests. Nothing is encoded.
        missing : str
            `refuse`: raise StoreError, which names what is not there; `null`: its row has no vector.
        salt_file : str | None
            The salt under which ids, or digests of sequences, were hashed.

        Returns
        -------
        pyarrow.Table
            A row for each value asked for: `sequence_id` (of sequences `sequence_digest`), then `columns` as `read` gives them.

        Examples
        --------
        >>> table = store.get(["e7", "e3"], columns=["mean"])
        >>> dnafeat.matrix(table["mean"])
        """
        check_selection(version, source, None)
        if missing not in ("refuse", "null"):
            raise UsageError(f"missing is {missing!r}: use refuse or null")
        asked = Asked.of(ids, sequences, None if salt_file is None else read_salt(salt_file, self.uri))
        columns = listed(columns)
        return looking_again(lambda: get(self, asked, version, columns, source, missing))

    def neighbours(
        self,
        ids: Iterable[str] | None = None,
        version: str | None = None,
        column: str = "mean",
        metric: Metric = "cosine",
        k: int = 10,
        *,
        sequences: Iterable[str] | None = None,
        vectors: np.ndarray | None = None,
        labels: Sequence[str] | None = None,
        where: Where | None = None,
        source: str | None = None,
        as_of: AsOf | None = None,
        by: Sequence[str] = (),
        salt_file: str | None = None,
    ) -> pa.Table:
        """The nearest sequences of some queries among a version's entries, exactly.

        Every distinct sequence is compared once and counts as one neighbour, however many entries have it; that of the query itself is
        one of them. All files are read once, and memory does not grow with them, but for 8 bytes an entry.

        Parameters
        ----------
        ids : iterable of str | None
            Entries of the version whose vectors are the queries.
        version : str | None
            As `read` takes it.
        column : str
            cls, mean, max or projected.
        metric : str
            `cosine` (1 - cosine), `l2` (Euclidean distance) or `dot` (minus the dot product).
        k : int
            Sequences for each query.
        sequences : iterable of str | None
            In place of ids: sequences that have a vector in the version. `dnafeat.neighbours` encodes others.
        vectors : np.ndarray | None
            In place of ids: (queries, width) vectors of the version's model.
        labels : sequence of str | None
            Names of the queries (default: the ids, or their numbers from 1).
        where, source, as_of
            Which entries are searched, as `read` takes them.
        by : sequence of str
            Keys by which the entries of each neighbour are counted, in place of a row for each.
        salt_file : str | None
            The salt under which ids, or digests of sequences, were hashed.

        Returns
        -------
        pyarrow.Table
            `query`, `neighbour` (an entry's `sequence_id`), `distance` (float64), `rank` (from 1), `sequence_digest`, `source_name` and
            keys, in the order of queries, ranks, sources and ids. Of equal distances the smaller digest comes first. With `by`: `query`,
            `rank`, `distance`, `sequence_digest`, the keys, and `entries`, their number.

        Raises
        ------
        StoreError
            An entry is not there (the nearest name is offered), nothing meets the conditions, or the version has no such column.
        UsageError
            A query is missing, not finite, zero under a cosine, or of another width; k or the metric makes no sense.
        """
        check_selection(version, source, where)
        where = None if where is None else {name: listed(values) for name, values in where.items()}
        check_question(column, metric, k)
        if (vectors is None) == (ids is None and sequences is None):
            raise UsageError("give ids, sequences or vectors, and one of them")
        if vectors is None:
            ids, sequences = listed(ids), listed(sequences)
            asked = self.get(ids, version, [column], sequences=sequences, source=None, salt_file=salt_file)
            vectors, labels = matrix(asked[column]), labels or (list(ids) if ids is not None else None)
        queries = np.ascontiguousarray(vectors, np.float32)
        names = list(labels) if labels is not None else [str(i + 1) for i in range(len(queries))]
        if len(names) != len(queries):
            raise UsageError(f"there are {len(queries)} queries and {len(names)} labels: give each query one")
        return search(lambda: Scope.of(self, version, column, source, as_of, where), queries, names, k, metric, by)

    # -- other tools ---------------------------------------------------------------------------------------------------

    def polars(self, version: str | None = None, columns: Sequence[str] | None = None) -> polars.LazyFrame:
        """A lazy frame of polars with the entries of a version, their keys and `columns`, as `read` has them; nothing is read yet.

        Vectors are lists. Raises UsageError where polars is not installed.
        """
        columns = listed(columns)
        return looking_again(lambda: polars_frame(self, version, columns))

    def duckdb(self) -> duckdb.DuckDBPyConnection:
        """A connection of DuckDB with a view for each version and channel, by name, and the store's tables as they are now.

        Vectors are `FLOAT[n]`. Raises UsageError where duckdb is not installed.

        Examples
        --------
        >>> store.duckdb().sql('select sequence_id, mean from "dnafeat-mini@1"')
        """
        return looking_again(lambda: duckdb_connection(self))
