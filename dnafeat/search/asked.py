"""Queries as they are given: ids of entries, sequences, and files of either."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from dnafeat import sequence as dna
from dnafeat import storage
from dnafeat.errors import UsageError
from dnafeat.sources.lists import read_list
from dnafeat.sources.reader import ReadOptions, expand, read
from dnafeat.urls import refuse_secrets

_LISTS = (".txt", ".list", ".ids")
_SHOWN = 40


@dataclass(frozen=True)
class Query:
    """One query: a sequence, or where `sequence` is None an entry's id, which is its name then."""

    name: str
    sequence: str | None = None


def parse(texts: Sequence[str]) -> list[Query]:
    """Read what files hold, and take every other text for an id or a sequence, which is settled when ids are looked up.

    Raises UsageError for a file that cannot be read, a sequence with letters outside the IUPAC codes, and a name that stands twice.
    """
    found: list[Query] = []
    for text in texts:
        if not _is_file(text):
            found.append(Query(text))
        elif text.lower().endswith(_LISTS):
            found += [Query(name) for _, name in read_list(text, "sequence_id", "id")]
        else:
            found += _sequences(text)
    if not found:
        raise UsageError("there is no query: the files hold no sequence")
    known: dict[str, Query] = {}
    for query in found:
        if known.setdefault(query.name, query) != query:
            raise UsageError(f"two queries are called {query.name!r}: give each its own name")
    return list(known.values())


def as_sequence(text: str) -> Query | None:
    """The query that a text is as a sequence; None where it has letters that no sequence has."""
    letters = dna.normalise(text.encode(errors="replace"))
    if dna.problem(letters, alphabet=dna.IUPAC) is not None:
        return None
    return Query(text if len(text) <= _SHOWN else f"{text[:_SHOWN]}…", text)


def _is_file(text: str) -> bool:
    if "://" in text:
        refuse_secrets(text)
        return True
    return len(text) < 4096 and "\n" not in text and storage.exists(text)


def _sequences(uri: str) -> list[Query]:
    found = []
    for batch in read(expand([storage.absolute(uri)]), ReadOptions(keys=False)):
        columns = (batch[name].to_pylist() for name in ("sequence_id", "sequence", "problem"))
        for name, letters, problem in zip(*columns, strict=True):
            if fault := problem or dna.problem(letters, alphabet=dna.IUPAC):
                raise UsageError(f"query {name!r} of {uri} cannot be encoded: {fault}")
            found.append(Query(name, letters.decode()))
    return found
