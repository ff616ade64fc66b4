"""`-` for standard input and output, and files that are no regular ones: devices and pipes are written into, never replaced."""

from __future__ import annotations

import bz2
import contextlib
import gzip
import io
import lzma
import os
import shutil
import stat
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import IO, Any

from dnafeat.errors import UsageError
from dnafeat.text import visible

STANDARD = "-"
_BLOCK = 1 << 20
_HEAD = 1 << 16
_PACKED: dict[bytes, tuple[str, Any]] = {
    b"\x1f\x8b": (".gz", gzip.open),
    b"BZh": (".bz2", bz2.open),
    b"\xfd7zXZ": (".xz", lzma.open),
}
_SHOWN = 20


@contextlib.contextmanager
def spooled_input(settings: Any) -> Iterator[Any]:
    """Settings in which - among the input files is a file with what standard input holds, and the source is named `stdin`."""
    values = settings.to_dict()
    name = next((one for one in ("sources", "input") if STANDARD in (values.get(one) or ())), None)
    if name is None:
        yield settings
        return
    if values[name].count(STANDARD) > 1:
        raise UsageError(f"{name} names standard input (-) twice, and it can be read once: leave one out")
    with tempfile.TemporaryDirectory(prefix="dnafeat-") as folder:
        file = _spooled(Path(folder))
        values[name] = tuple(str(file) if one == STANDARD else one for one in values[name])
        # Not the name of a temporary file: the next run under it replaces these entries.
        if values.get("source_name", "") is None:
            tile = values.get("tile")
            values["source_name"] = "stdin" if tile is None else f"stdin#tile={tile},stride={values['stride'] or tile}"
        yield type(settings).make(values)


def _spooled(folder: Path) -> Path:
    source: IO[bytes] = sys.stdin.buffer
    raw = folder / "raw"
    with raw.open("wb") as file:
        shutil.copyfileobj(source, file, _BLOCK)
    named = folder / f"stdin{_ending(raw)}"
    raw.rename(named)
    return named


def _ending(file: Path) -> str:
    """The ending that a file of sequences should have, by its content. Raises UsageError for what it cannot be."""
    with file.open("rb") as raw:
        head = raw.read(_HEAD)
    packed = ""
    for magic, (ending, opened) in _PACKED.items():
        if head.startswith(magic):
            packed = ending
            try:
                with opened(file, "rb") as unpacked:
                    head = unpacked.read(_HEAD)
            except (OSError, EOFError, lzma.LZMAError) as error:
                raise UsageError(f"standard input is packed ({ending}) and damaged: {error}") from error
    start = head.removeprefix(b"\xef\xbb\xbf").lstrip()
    if not start:
        raise UsageError("standard input is empty: pipe FASTA, FASTQ, CSV or TSV into the command")
    if start.startswith(b"PAR1"):
        return f".parquet{packed}"
    for mark, ending in ((b">", ".fa"), (b";", ".fa"), (b"@", ".fq")):
        if start.startswith(mark):
            return ending + packed
    line = start.partition(b"\n")[0]
    for delimiter, ending in ((b"\t", ".tsv"), (b",", ".csv")):
        if delimiter in line:
            return ending + packed
    begins = visible(start[:_SHOWN].decode("utf-8", "replace"))
    raise UsageError(f"standard input is neither FASTA, FASTQ, CSV, TSV nor Parquet: it begins with '{begins}'")


def is_special(output: str) -> bool:
    """Whether an output is standard output, a device, a pipe or a socket, which are written into. Raises UsageError for a folder."""
    if output == STANDARD:
        return True
    if "://" in output:
        return False
    try:
        mode = Path(os.path.expanduser(output)).stat().st_mode  # noqa: PTH111
    except OSError:
        return False
    if stat.S_ISDIR(mode):
        raise UsageError(f"{output} is a folder: give --output the name of a file in it")
    return not stat.S_ISREG(mode)


@contextlib.contextmanager
def written(output: str, stdout: IO[str]) -> Iterator[str]:
    """Where to write a file that is to end up in `output`: there, or for what cannot be replaced in a temporary file that is copied.

    Links are followed: what they point at is written, and the link stays. Nothing is copied when the block raises.
    """
    if not is_special(output):
        yield output
        return
    with tempfile.TemporaryDirectory(prefix="dnafeat-") as folder:
        file = Path(folder) / "output"
        yield str(file)
        with file.open("rb") as content:
            if output == STANDARD:
                stdout.flush()
                binary = getattr(stdout, "buffer", None)
                if binary is None:
                    stdout.write(content.read().decode())
                    return
                shutil.copyfileobj(content, binary, _BLOCK)
                binary.flush()
            else:
                with Path(os.path.expanduser(output)).open("wb") as target:  # noqa: PTH111
                    shutil.copyfileobj(content, target, _BLOCK)


def format_of(output: str, asked: str | None, stdout: IO[str]) -> str:
    """Parquet, csv or tsv: as asked, else by the name's ending, else Parquet. Raises UsageError for Parquet on a terminal."""
    name = output.lower()
    found = asked or next((kind for kind in ("csv", "tsv") if name.endswith(f".{kind}")), "parquet")
    if output == STANDARD and found == "parquet" and stdout.isatty():
        raise UsageError(
            "standard output is a terminal, which cannot show Parquet: send it to a file or a pipe, or give --format csv"
        )
    return found


def write_delimited(file: IO[bytes], batches: Iterator[Any], delimiter: str) -> int:
    """Write record batches as delimited text with a header, a column for each number of a vector. Returns the number of rows."""
    import pyarrow as pa
    from pyarrow import csv

    rows, writer = 0, None
    for batch in batches:
        flat = _flat(batch)
        if writer is None:
            # Closing the writer must not close the file, which is flushed to the disk first.
            writer = csv.CSVWriter(
                pa.PythonFile(_Kept(file), mode="w"), flat.schema, write_options=csv.WriteOptions(delimiter=delimiter)
            )
        writer.write_batch(flat)
        rows += len(batch)
    if writer is not None:
        writer.close()
    return rows


class _Kept(io.RawIOBase):
    """A file that stays open when a wrapper around it is closed."""

    def __init__(self, file: IO[bytes]) -> None:
        self._file = file

    def writable(self) -> bool:
        return True

    def write(self, data: Any) -> int:
        self._file.write(data)
        return memoryview(data).nbytes


def _flat(batch: Any) -> Any:
    """A batch whose vectors are columns `mean_0`, `mean_1`, …, and whose lists of texts are texts with `;` between."""
    import numpy as np
    import pyarrow as pa
    import pyarrow.compute as pc

    arrays, names = [], []
    for name, column in zip(batch.schema.names, batch.columns, strict=True):
        if not pa.types.is_fixed_size_list(column.type):
            texts = pa.types.is_list(column.type) and pa.types.is_string(column.type.value_type)
            arrays.append(pc.binary_join(column.cast(pa.list_(pa.string())), ";") if texts else column)
            names.append(name)
            continue
        width = column.type.list_size
        values = np.asarray(column.flatten()).reshape(-1, width)
        arrays += [pa.array(np.ascontiguousarray(values[:, i])) for i in range(width)]
        names += [f"{name}_{i}" for i in range(width)]
    return pa.RecordBatch.from_arrays(arrays, names=names)
