"""FASTQ into entries, in large chunks: four lines a record."""

from __future__ import annotations

import itertools
import re
from collections.abc import Iterator
from typing import IO

from dnafeat.errors import UsageError
from dnafeat.sequence import normalise, spelled_in_kmers
from dnafeat.sources.entries import RAW_KEPT, Piece
from dnafeat.sources.fasta import CHUNK, id_of
from dnafeat.sources.lines import chunks

_MAX_READ = 1 << 26  # bytes of a record
_LETTERS = re.compile(rb"[A-Za-z*.-]+")


def read_fastq(file: IO[bytes], uri: str, chunk: int = CHUNK) -> Iterator[Piece]:
    r"""Records of a FASTQ file: four lines each, qualities as long as the letters; blank lines between records are ignored.

    Lines end in `\n`, `\r\n` or `\r`. A header that stands behind the qualities of the record before, in one line, is one. A broken record
    is an entry with a problem, and reading goes on with the next four lines that fit together. What is between is part of that entry,
    unless it looks like a header (`@` there, and letters alone in the next line or `+` in the one after it), which starts another one.

    Raises
    ------
    UsageError
        No good record in the file, or one longer than 64 MiB.
    """
    lines: list[bytes] = []
    broken = good = False
    line = 1  # the number of lines[0]
    data = b""
    for block in itertools.chain(chunks(file, chunk), (None,)):
        lines = (data + (block or b"")).split(b"\n")
        rest = lines.pop() if block is not None else b""
        at = 0
        while at + 4 <= len(lines) or (block is None and at < len(lines)):
            four = lines[at : at + 4]
            if four[0][:1] in (b" ", b"\t"):
                four[0] = four[0].lstrip(b" \t")
            problem = _problem(four)
            if problem is None:
                yield _record(four, line + at)
                good, broken = True, False
                at += 4
                continue
            if end := _joint(four):
                if block is not None and at + 6 > len(lines):
                    break
                if lines[at + 5 : at + 6] and lines[at + 5].startswith(b"+"):
                    yield _record(four, line + at)
                    good, broken = True, False
                    at += 3
                    lines[at] = four[3][end:]
                    continue
            headed = (
                four[0].startswith(b"@") and len(four) > 2 and (four[2].startswith(b"+") or bool(_LETTERS.fullmatch(four[1])))
            )
            if four[0].strip() and (headed or not broken):
                name = id_of(four[0][1:])[0] if headed else None
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


def _record(four: list[bytes], line: int) -> Piece:
    name, problem = id_of(four[0][1:])
    letters = four[1]
    if problem is None and b" " in letters:
        problem = spelled_in_kmers(letters)
    return Piece(name, line, normalise(letters), problem)


def _joint(four: list[bytes]) -> int:
    """Where the next header begins in the line of the qualities, for want of a line end before it; 0 where there is none."""
    if len(four) < 4 or not (four[0].startswith(b"@") and four[2].startswith(b"+")):
        return 0
    end = len(four[1])
    return end if four[3][end : end + 1] == b"@" else 0


def _problem(four: list[bytes]) -> str | None:
    if not four[0].startswith(b"@"):
        return "a FASTQ record starts with '@'"
    if len(four) < 4:
        return "the file ends inside this FASTQ record"
    if not four[2].startswith(b"+"):
        return "the third line of a FASTQ record starts with '+'"
    letters, qualities = len(four[1]), len(four[3])
    return None if letters == qualities else f"{letters} letters have {qualities} qualities"
