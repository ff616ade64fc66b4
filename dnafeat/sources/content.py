"""The kind of a file, by its name and its first bytes, and what is no table or sequence at all, called by its name."""

from __future__ import annotations

import codecs
import contextlib
import lzma
import re
import zlib
from collections.abc import Iterator
from typing import IO, NamedTuple

import pyarrow as pa

from dnafeat import packing, storage
from dnafeat.errors import UsageError, one_line

KINDS = {
    "fasta": ("fa", "fasta", "fna", "ffn", "frn", "fas", "fsa", "mpfa"),
    "fastq": ("fq", "fastq"),
    "csv": ("csv",),
    "tsv": ("tsv", "tab", "txt"),
    "parquet": ("parquet", "pq"),
}
_BY_EXTENSION = {extension: kind for kind, extensions in KINDS.items() for extension in extensions}
_BY_FIRST_BYTES = {b">": "fasta", b"@": "fastq", b"PAR1": "parquet"}
_TITLES = {"fasta": "FASTA", "fastq": "FASTQ", "csv": "CSV", "tsv": "TSV"}
_HEAD = 1 << 16  # bytes, unpacked

_AGAIN = "download it again, signed in, and look at it before"
# What people have in place of a table or sequences, and what to do: first bytes, in upper or lower case.
_OTHERS: tuple[tuple[bytes, str, str], ...] = (
    (rb"PK\x03\x04", "a zip archive or an Excel workbook", "unpack it, or save the sheet as CSV"),
    (rb"\xd0\xcf\x11\xe0\xa1\xb1\x1a\xe1", "an Excel or Word file", "save it as CSV"),
    (
        rb"7z\xbc\xaf\x27\x1c|rar!\x1a\x07|\x1f[\x9d\xa0]|\x04\x22\x4d\x18|lzip",
        "packed in a way that is not read here",
        "unpack it",
    ),
    (
        rb"bam\x01|cram[\x01-\x04]|ncbi\.sra",
        "a file of alignments or reads",
        "write it as FASTQ, with samtools fastq or fasterq-dump",
    ),
    (rb"@(hd|sq|rg|pg|co)\t\w\w:", "SAM", "write it as FASTQ, with samtools fastq"),
    (rb"\x1a\x41\x27\x43|\x43\x27\x41\x1a", "a .2bit file", "write it as FASTA, with twoBitToFa"),
    (
        rb"\x89hdf|sqlite format 3|%pdf|\{\\rtf|bcf\x02|orc[\x00-\x1f]|obj\x01|arrow1\x00",
        "no text",
        "write it as FASTA, FASTQ, CSV, TSV or Parquet",
    ),
    (
        rb"##fileformat=vcf|##gff-version|track (?:name|type|db)=|browser (?:position|hide|dense) ",
        "a file of variants or regions",
        "give the sequences themselves",
    ),
    (rb"locus {7}|id {3}\S", "a GenBank or EMBL file", "write it as FASTA"),
    (rb"version https://git-lfs", "a Git LFS pointer and not the file itself", "fetch it with git lfs pull"),
    (rb"<!doctype html|<html|<head|<body", "an HTML page, such as a page to sign in or of an error", _AGAIN),
    (rb"<\?xml|<error", "XML, such as the error of a server", _AGAIN),
    (rb"[\[{]\s*[\"{\[\]}]", "JSON", "write it as CSV, TSV or Parquet, such as with read_json of pandas"),
)
_OTHER = tuple((re.compile(pattern, re.DOTALL | re.IGNORECASE), what, remedy) for pattern, what, remedy in _OTHERS)
_TAR = slice(257, 262)
_UTF_32 = (codecs.BOM_UTF32_LE, codecs.BOM_UTF32_BE)
_UTF_16 = (codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)
_BLANKS = b" \t\r\n\v\f\xef\xbb\xbf"
_SHOWN = 200  # bytes that are enough to see an encoding by


class Content(NamedTuple):
    """The kind of a file: fasta, fastq, csv, tsv or parquet; `blank` where it holds nothing but white space."""

    kind: str
    blank: bool = False


def look(uri: str) -> Content:
    """Choose the reader of a file: by its extension, else by its first bytes. Raises UsageError for what is read by none."""
    name = storage.name(uri)
    extension = name[: len(name) - len(packing.ending(name))].lower().rpartition(".")[2]
    kind = _BY_EXTENSION.get(extension) if "." in name else None
    if kind == "parquet":
        return Content(kind)
    with storage.open_input(uri) as file:
        start = file.read(_HEAD)
    if start.startswith(b"PAR1"):
        return Content("parquet")
    check_text(start, uri)
    text = start.lstrip(_BLANKS)
    if kind is not None:
        _check_kind(text, kind, uri)
        return Content(kind, not text and len(start) < _HEAD)
    for mark, kind in _BY_FIRST_BYTES.items():
        if text.startswith(mark):
            return Content(kind)
    known = "; ".join(f"{kind} ({', '.join('.' + e for e in extensions)})" for kind, extensions in KINDS.items())
    raise UsageError(
        f"{uri} is of no kind that is read here, which are {known}, packed or not ({', '.join(packing.ENDINGS)}); rename the file"
    )


@contextlib.contextmanager
def reading(uri: str) -> Iterator[None]:
    """Turn what goes wrong inside a file (damaged, cut off, out of reach) into one sentence."""
    try:
        yield
    except (OSError, EOFError, zlib.error, lzma.LZMAError, pa.ArrowException, *storage.SERVER_ERRORS) as error:
        raise storage.fault(error, UsageError)(f"{uri} cannot be read: {one_line(error)}") from error


@contextlib.contextmanager
def open_text(uri: str) -> Iterator[IO[bytes]]:
    """Open a text file as `storage.open_input` does. Raises UsageError as `check_text`, and in the block as `reading`."""
    with reading(uri):
        with storage.open_input(uri) as file:
            check_text(file.read(_HEAD), uri)
        with storage.open_input(uri) as file:
            yield file


def unique_ids(file: str, other: str) -> str:
    """What to do about an id that stands in two places, by the kind of their files."""
    kinds = {look(uri).kind for uri in (file, other)}
    if not kinds & {"fasta", "fastq"}:
        return "make ids unique in the source, or name another column with --id-column"
    mark = "@" if kinds == {"fastq"} else ">"
    advice = f"make ids unique in the source, where they are the first words after '{mark}'"
    return advice if file == other else f"{advice}, or embed the files as two sources, each with a --source-name"


def check_text(start: bytes, uri: str) -> None:
    """Raise UsageError where a file begins as neither sequences nor a table do: another encoding, a page, an archive."""
    if (encoding := _encoding(start)) is not None:
        raise UsageError(f"{uri} is {encoding} text, and so its header line is not UTF-8; save the file as UTF-8")
    text = start[:_SHOWN].lstrip(_BLANKS)
    for pattern, what, remedy in _OTHER:
        if pattern.match(text):
            raise UsageError(f"{uri} is {what}, which is not read here: {remedy}")
    if start[_TAR] == b"ustar":
        raise UsageError(f"{uri} is a tar archive, which is not read here: unpack it")


def _encoding(start: bytes) -> str | None:
    """UTF-16 or UTF-32, by the mark at the beginning or the zeros between the letters."""
    if start.startswith(_UTF_32):
        return "UTF-32"
    if start.startswith(_UTF_16):
        return "UTF-16"
    some = start[: _SHOWN // 4 * 4]
    zeros = [some[at::4].count(0) for at in range(4)]
    quarter = max(1, len(some) // 4)
    wide = [count >= 0.9 * quarter for count in zeros]
    if len(some) >= 8 and sum(wide) == 3:
        return "UTF-32"
    return "UTF-16" if len(some) >= 4 and wide in ([True, False] * 2, [False, True] * 2) else None


def _check_kind(text: bytes, kind: str, uri: str) -> None:
    """Raise UsageError where the first letter is that of another kind."""
    found = _BY_FIRST_BYTES.get(text[:1])
    if found in _TITLES and found != kind and not (found == "fastq" and kind in ("csv", "tsv")):
        raise UsageError(
            f"{uri} begins as {_TITLES[found]} does and is named as {_TITLES[kind]} is; give it the ending .{KINDS[found][0]}"
        )
