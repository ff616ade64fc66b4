"""FASTA into entries, in large chunks: memory does not grow with a record, on one line or on many."""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from typing import IO

from dnafeat.errors import UsageError
from dnafeat.sequence import normalise, spelled_in_kmers
from dnafeat.sources.entries import RAW_KEPT, Piece
from dnafeat.sources.lines import chunks, without_comments

CHUNK = 1 << 20  # bytes, unpacked
_MAX_HEADER = 1 << 20  # bytes
_SAMPLE = 1 << 12  # bytes that are enough to recognise k-mers
_JOINED = "put a line end before the '>'"


def read_fasta(file: IO[bytes], uri: str, chunk: int = CHUNK) -> Iterator[Piece]:
    """Records of a FASTA file; one longer than a chunk comes in several pieces.

    The id is the first word of the header, white space before and after `>` or not. Blank lines and lines that start with `;` are
    ignored; lines end in `\\n`, `\\r\\n` or `\\r`. A header without an id, one that is not UTF-8, letters before the first header, k-mers
    with blanks between and a `>` behind letters are entries with a problem; in the last case the record behind it is another one.

    Parameters
    ----------
    file : IO[bytes]
        Unpacked bytes.
    uri : str
        Its name in messages.
    chunk : int
        Bytes read at a time.

    Raises
    ------
    UsageError
        No record in the file, or a header longer than 1 MiB.
    """
    record: Piece | None = None  # the record whose letters go on in the next chunk
    stray = seen = False
    line = 0  # newlines before `data`, the one put in front of the file included: every header then follows a newline
    data = b"\n"
    for block in itertools.chain(without_comments(chunks(file, chunk)), (None,)):
        data += block or b""
        head, *bodies = data.split(b"\n>")
        # Nearly never: a search in every record would take as long as the rest.
        behind = data.count(b">") > len(bodies)
        more = block is not None and not bodies
        # A newline at the very end stays back: the next chunk may start with `>`.
        held = b"\n" if more and head.endswith(b"\n") else b""
        head = head.removesuffix(held)
        if record is not None:
            if record.problem is None:
                record = record._replace(problem=_joined(head, line))
                raw = record.problem is not None
                yield record._replace(letters=head[:RAW_KEPT] if raw else normalise(head), more=more and not raw)
        elif not stray and head.strip():
            stray = True
            blank = len(head) - len(head.lstrip())
            yield Piece(None, line + head.count(b"\n", 0, blank), head.strip()[:RAW_KEPT], "letters before the first header line")
        if behind:
            yield from _behind(head, line)
        line += head.count(b"\n")
        if more:
            data = held
            continue
        record, seen = None, seen or bool(bodies)
        last = bodies.pop() if block is not None else b""
        for body in bodies:
            line += 1
            header, _, text = body.partition(b"\n")
            letters, newlines = normalise(text), body.count(b"\n")
            # With the line end of the header.
            if behind or len(letters) + newlines <= len(text):
                yield _checked(header, line, text)
                yield from _behind(text, line + 1)
            else:
                yield _record(header, line, letters)
            line += newlines
        data = b"\n>" + last
        if len(last) > chunk:
            header, newline, text = last.partition(b"\n")
            if newline:
                line += 1
                record = _checked(header, line, text[:_SAMPLE])
                if record.problem is not None:
                    yield record
                data = newline + text
            elif len(last) > _MAX_HEADER:
                raise UsageError(
                    f"{uri}, line {line + 1}, is a FASTA header of more than {_MAX_HEADER:,} bytes; is it a FASTA file?"
                )
    if not seen:
        raise UsageError(f"{uri} has no FASTA record: no line starts with '>'")


def _record(header: bytes, line: int, letters: bytes) -> Piece:
    name, problem = id_of(header)
    return Piece(name, line, letters) if problem is None else Piece(name, line, letters[:RAW_KEPT], problem)


def _checked(header: bytes, line: int, text: bytes) -> Piece:
    """A record whose text holds more than letters and line ends."""
    problem = _joined(text, line + 1)
    if problem is None and b" " in text:
        problem = spelled_in_kmers(text if len(text) < _SAMPLE else text[:_SAMPLE].rpartition(b" ")[0])
    record = _record(header, line, normalise(text if problem is None else text[:RAW_KEPT]))
    return record if problem is None or record.problem is not None else record._replace(problem=problem)


def id_of(header: bytes) -> tuple[str | None, str | None]:
    """The id in a header, and why there is none."""
    try:
        return header.split(None, 1)[0].decode(), None
    except IndexError:
        return None, "the header has no id"
    except UnicodeDecodeError:
        return None, "the id in the header is not UTF-8"


def _joined(text: bytes, line: int) -> str | None:
    """The problem of a record in whose letters, which begin at a line, a header seems to stand."""
    at = text.find(b">")
    if at < 0:
        return None
    behind = line + text.count(b"\n", 0, at)
    return f"a header seems to stand behind the letters of line {behind}: {_JOINED}"


def _behind(text: bytes, line: int) -> Iterator[Piece]:
    """The records whose headers stand behind letters: each is another one, so that it is counted."""
    first, *others = text.split(b">")
    for other in others:
        line += first.count(b"\n")
        first = other
        header, _, letters = other.partition(b"\n")
        yield Piece(
            id_of(header)[0], line, letters[:RAW_KEPT], f"its header stands behind letters of the record before: {_JOINED}"
        )
