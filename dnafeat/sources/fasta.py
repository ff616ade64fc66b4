"""FASTA and FASTQ into entries, in large chunks: memory does not grow with a FASTA record, on one line or on many."""

from __future__ import annotations

import itertools
import re
from collections.abc import Iterator
from typing import IO

from dnafeat.errors import UsageError
from dnafeat.sequence import normalise
from dnafeat.sources.entries import RAW_KEPT, Piece

CHUNK = 1 << 20  # bytes, unpacked
_MAX_HEADER = 1 << 20  # bytes
_MAX_READ = 1 << 26  # bytes of one FASTQ record
_BOM = b"\xef\xbb\xbf"
_COMMENT = re.compile(rb"(?<=\n);[^\n]*")


def read_fasta(file: IO[bytes], uri: str, chunk: int = CHUNK) -> Iterator[Piece]:
    """Records of a FASTA file; one longer than a chunk comes in several pieces.

    The id is the first word of the header, white space after `>` or not. Blank lines and lines that start with `;` are ignored.
    A header without an id, one that is not UTF-8 and letters before the first header are entries with a problem.

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
    for block in itertools.chain(_without_comments(file, chunk), (None,)):
        data += block or b""
        head, *bodies = data.split(b"\n>")
        more = block is not None and not bodies
        # A newline at the very end stays back: the next chunk may start with `>`.
        held = b"\n" if more and head.endswith(b"\n") else b""
        head = head.removesuffix(held)
        if record is not None:
            if record.problem is None:
                yield record._replace(letters=normalise(head), more=more)
        elif not stray and head.strip():
            stray = True
            blank = len(head) - len(head.lstrip())
            yield Piece(None, line + head.count(b"\n", 0, blank), head.strip()[:RAW_KEPT], "letters before the first header line")
        line += head.count(b"\n")
        if more:
            data = held
            continue
        record, seen = None, seen or bool(bodies)
        last = bodies.pop() if block is not None else b""
        for body in bodies:
            line += 1
            header, _, text = body.partition(b"\n")
            yield _record(header, line, normalise(text))
            line += body.count(b"\n")
        data = b"\n>" + last
        if len(last) > chunk:
            header, newline, text = last.partition(b"\n")
            if newline:
                line += 1
                record = _record(header, line, b"")
                if record.problem is not None:
                    yield record._replace(letters=normalise(text[:RAW_KEPT]))
                data = newline + text
            elif len(last) > _MAX_HEADER:
                raise UsageError(
                    f"{uri}, line {line + 1}, is a FASTA header of more than {_MAX_HEADER:,} bytes; is it a FASTA file?"
                )
    if not seen:
        raise UsageError(f"{uri} has no FASTA record: no line starts with '>'")


def _record(header: bytes, line: int, letters: bytes) -> Piece:
    try:
        return Piece(header.split(None, 1)[0].decode(), line, letters)
    except IndexError:
        return Piece(None, line, letters[:RAW_KEPT], "the header has no id")
    except UnicodeDecodeError:
        return Piece(None, line, letters[:RAW_KEPT], "the id in the header is not UTF-8")


def _without_comments(file: IO[bytes], chunk: int) -> Iterator[bytes]:
    """Chunks of a file in which lines that start with `;` are empty, so that lines keep their numbers."""
    edge = b"\n"  # what stands before the chunk
    inside = False  # a comment goes on into the chunk
    block = file.read(max(chunk, len(_BOM))).removeprefix(_BOM)
    while block:
        last = block[-1:]
        if inside:
            _, newline, rest = block.partition(b"\n")
            block, inside = newline + rest, not newline
        if b"\n;" in block or (edge == b"\n" and block.startswith(b";")):
            text = edge + block
            inside = text.rpartition(b"\n")[2].startswith(b";")
            block = _COMMENT.sub(b"", text)[1:]
        edge = last
        yield block
        block = file.read(chunk)


def read_fastq(file: IO[bytes], uri: str, chunk: int = CHUNK) -> Iterator[Piece]:
    """Records of a FASTQ file: four lines each, qualities as long as the letters; blank lines between records are ignored.

    A broken record is an entry with a problem, and reading goes on with the next four lines that fit together. What is between
    is part of that entry, unless it looks like a header (`@` there and `+` two lines further), which starts another one.

    Raises
    ------
    UsageError
        No good record in the file, or one longer than 64 MiB.
    """
    lines: list[bytes] = []
    broken = good = False
    line = 1  # the number of lines[0]
    data = b""
    start = file.read(max(chunk, len(_BOM))).removeprefix(_BOM)
    for block in itertools.chain((start,), iter(lambda: file.read(chunk), b""), (None,)):
        lines = (data + (block or b"")).split(b"\n")
        rest = lines.pop() if block is not None else b""
        at = 0
        while at + 4 <= len(lines) or (block is None and at < len(lines)):
            four = lines[at : at + 4]
            problem = _fastq_problem(four)
            if problem is None:
                yield _record(four[0][1:], line + at, normalise(four[1]))
                good, broken = True, False
                at += 4
                continue
            headed = four[0].startswith(b"@") and len(four) > 2 and four[2].startswith(b"+")
            if four[0].strip() and (headed or not broken):
                name = _record(four[0][1:], 0, b"").sequence_id if headed else None
                yield Piece(name, line + at, b"\n".join(four)[:RAW_KEPT], problem)
                broken = True
            at += 1
        line += at
        data = b"\n".join([*lines[at:], rest])
        if len(data) > _MAX_READ:
            raise UsageError(f"{uri}, line {line}, starts a FASTQ record of more than {_MAX_READ:,} bytes; is it a FASTQ file?")
    if not good:
        raise UsageError(
            f"{uri} has no FASTQ record: four lines, the first with '@', the third with '+', qualities as long as the letters"
        )


def _fastq_problem(four: list[bytes]) -> str | None:
    if not four[0].startswith(b"@"):
        return "a FASTQ record starts with '@'"
    if len(four) < 4:
        return "the file ends inside this FASTQ record"
    if not four[2].startswith(b"+"):
        return "the third line of a FASTQ record starts with '+'"
    letters, qualities = len(four[1].rstrip(b"\r")), len(four[3].rstrip(b"\r"))
    return None if letters == qualities else f"{letters} letters have {qualities} qualities"
