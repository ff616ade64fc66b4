"""Ways to spoil a file, each drawn from a `random.Random`: its bytes, its text, its structure, or what lies under its name."""

from __future__ import annotations

import bz2
import gzip
import io
import json
import os
import pickle
import re
import shutil
import socket
import zipfile
from collections.abc import Callable, Iterator
from pathlib import Path
from random import Random
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import yaml

# What a hostile file would make, in the folder in which a command runs.
CANARY = "canary"
# Bytes that a packed file unpacks to, at most: more than it has, and no trial of the disk.
BOMB = 4 * 2**20

Mutation = Callable[[Path, Random], None]

NUMBERS = (
    "-1",
    "0",
    "1e30",
    "1e-30",
    "nan",
    "inf",
    "-inf",
    str(2**31),
    str(2**53 + 1),
    str(2**63),
    str(10**30),
    "0x10",
    "1_0",
    "٣",
    "",
)
WORDS = (
    "NA",
    "null",
    "\x1b[2J\x1b[31mred",
    "a\x00b",
    "\u202eevil",
    "\udc80".encode("utf-8", "surrogatepass").decode("latin-1"),
    "../../up",
    "=1+1",
    "'",
    '"',
    ";",
    "\\",
    "%20",
    "é",
    "x" * 5000,
    "{}",
    "[[[[",
    "true",
    " ",
    "\r",
    "\u2028",
    "None",
)


class Runs:
    """A pickle of it makes the canary when it is loaded."""

    def __reduce__(self) -> tuple[Any, ...]:
        return (os.mkdir, (CANARY,))


# ---- bytes


def _at(draw: Random, content: bytes) -> int:
    return draw.randrange(len(content) + 1)


def cut(content: bytes, draw: Random) -> bytes:
    return content[: draw.choice([_at(draw, content), draw.randrange(65), max(0, len(content) - draw.randrange(1, 40))])]


def beheaded(content: bytes, draw: Random) -> bytes:
    return content[draw.choice([1, 2, 4, 8, _at(draw, content)]) :]


def flipped(content: bytes, draw: Random) -> bytes:
    changed = bytearray(content)
    for _ in range(draw.choice([1, 1, 3, 30])):
        if changed:
            changed[draw.randrange(len(changed))] ^= 1 << draw.randrange(8)
    return bytes(changed)


def swapped(content: bytes, draw: Random) -> bytes:
    a, b, c = sorted(_at(draw, content) for _ in range(3))
    return content[:a] + content[b:c] + content[a:b] + content[c:]


def inserted(content: bytes, draw: Random) -> bytes:
    at = _at(draw, content)
    return content[:at] + draw.randbytes(draw.choice([1, 4, 100, 5000])) + content[at:]


def deleted(content: bytes, draw: Random) -> bytes:
    at = _at(draw, content)
    return content[:at] + content[at + draw.choice([1, 4, 100]) :]


def repeated(content: bytes, draw: Random) -> bytes:
    a, b = sorted(_at(draw, content) for _ in range(2))
    return content[:b] + content[a:b] * draw.choice([1, 3, 20]) + content[b:]


def filled(content: bytes, draw: Random) -> bytes:
    at, size = _at(draw, content), draw.choice([1, 8, 512])
    return content[:at] + draw.choice([b"\0", b"\xff", b"\x7f"]) * size + content[at + size :]


def absurd_counts(content: bytes, draw: Random) -> bytes:
    """Sizes and counts stand in a header or a footer; a few bytes of them become the largest."""
    at = draw.randrange(min(len(content), 200) + 1)
    at = at if draw.random() < 0.6 else len(content) - at
    size = draw.choice([1, 2, 4, 8])
    return content[:at] + draw.choice([b"\xff" * size, b"\xff" * (size - 1) + b"\x7f", b"\0" * size]) + content[at + size :]


def emptied(content: bytes, draw: Random) -> bytes:
    return draw.choice([b"", b"\0" * len(content), b"\n", b"\0", draw.randbytes(len(content)), b" " * 1000])


def packed(content: bytes, draw: Random) -> bytes:
    """Packed where it was not, or once more, or cut, or with something behind."""
    whole = draw.choice([gzip.compress, bz2.compress])(content)
    return draw.choice([whole, whole[: len(whole) // 2], whole + b"junk", whole + whole, gzip.compress(whole)])


BYTES = (cut, beheaded, flipped, swapped, inserted, deleted, repeated, filled, absurd_counts, emptied, packed)

# ---- text


def encoded(content: bytes, draw: Random) -> bytes:
    text = content.decode("utf-8", "replace")
    return draw.choice(
        [
            text.encode("utf-16"),
            text.encode("utf-16-le"),
            text.encode("utf-16-be"),
            text.encode("utf-32"),
            text.encode("utf-7"),
            b"\xef\xbb\xbf" + content,
            content.replace(b"\n", b"\n\xef\xbb\xbf", 1),
            content.replace(b"\n", b"\r"),
            content.replace(b"\n", b"\r\n"),
            content.replace(b"\n", b"\r", 2),
            content.replace(b"\n", b"\r\r\n"),
            content.replace(b"a", b"\xe9"),
            content.replace(b"A", b"\xff"),
            content.replace(b"\n", "\u2028".encode()),
        ]
    )


def worded(content: bytes, draw: Random) -> bytes:
    """One of the words or numbers of a text becomes another."""
    found = list(re.finditer(rb"[^\s,;]+", content))
    if not found:
        return content
    one = draw.choice(found)
    return content[: one.start()] + draw.choice(NUMBERS + WORDS).encode("utf-8", "surrogatepass") + content[one.end() :]


def numbered(content: bytes, draw: Random) -> bytes:
    found = list(re.finditer(rb"\d+", content))
    if not found:
        return worded(content, draw)
    one = draw.choice(found)
    return content[: one.start()] + draw.choice(NUMBERS).encode() + content[one.end() :]


def lined(content: bytes, draw: Random) -> bytes:
    """Lines lost, repeated, in another order, joined, or blank."""
    lines = content.splitlines(keepends=True) or [b""]
    i, j = draw.randrange(len(lines)), draw.randrange(len(lines))
    return b"".join(
        draw.choice(
            [
                lines[:i] + lines[i + 1 :],
                lines + lines,
                [*lines[:i], lines[j], *lines[i:]],
                lines[::-1],
                [*lines[:i], b"\n\n", *lines[i:]],
                [*lines[:i], lines[i].rstrip(b"\r\n"), *lines[i + 1 :]],
                lines[:1],
                [*lines[:i], b" ", *lines[i:]],
                [*lines, lines[0]],
            ]
        )
    )


def delimited(content: bytes, draw: Random) -> bytes:
    """A delimiter or a quote too many or too few, or others throughout."""
    mark = draw.choice([b",", b"\t", b'"', b"'", b";", b"|", b"\\", b">", b"@", b"+", b"#"])
    at = _at(draw, content)
    return draw.choice(
        [
            content[:at] + mark + content[at:],
            content.replace(b",", mark),
            content.replace(b"\t", mark),
            content.replace(mark, b"", 1),
            content.replace(b"\n", mark + b"\n"),
            content.replace(b"\n", b"\n" + mark),
            mark + content,
        ]
    )


def long(content: bytes, draw: Random) -> bytes:
    """Lines of millions of letters, thousands of columns, deep brackets."""
    at = _at(draw, content)
    piece = draw.choice(
        [b"J" * 3_000_000, b"," * 5000, b"\t" * 5000, b"[" * 200_000, b"{" * 200_000, b"\n" * 200_000, b'"' * 99_999]
    )
    return content[:at] + piece + content[at:]


TEXT = (encoded, worded, worded, numbered, numbered, lined, delimited, long)

# ---- structure


def _deep(draw: Random) -> Any:
    value: Any = 1
    for _ in range(draw.choice([50, 900])):
        value = [value] if draw.random() < 0.5 else {"a": value}
    return value


def _strange(draw: Random) -> Any:
    return draw.choice(
        [
            None,
            True,
            False,
            [],
            {},
            "",
            0,
            -1,
            1,
            2,
            10**6,
            10**9,
            2**31,
            2**63,
            10**30,
            0.5,
            -0.5,
            1e308,
            float("nan"),
            float("inf"),
            "1",
            "nan",
            "\x1b[31m",
            "../x",
            "x" * 5000,
            [1],
            [None],
            ["a", ["b"]],
            {"a": {"b": 1}},
            _deep(draw),
            "\ud800",
            list(range(5000)),
            "https://example.invalid/x",
            "s3://nowhere/x",
            "/",
            ".",
            "a\x00b",
            "\u202e",
        ]
    )


def _places(value: Any) -> Iterator[tuple[Any, Any]]:
    """Every place in nested lists and mappings, as container and key."""
    for key in list(value) if isinstance(value, dict) else range(len(value)) if isinstance(value, list) else ():
        yield value, key
        yield from _places(value[key])


def restructured(value: Any, draw: Random) -> Any:
    """A value of JSON with some of its places gone, added or of another kind."""
    for _ in range(draw.choice([1, 1, 1, 2, 5])):
        places = list(_places(value))
        if not places or draw.random() < 0.04:
            return _strange(draw)
        container, key = draw.choice(places)
        what = draw.random()
        if what < 0.15:
            del container[key]
        elif what < 0.25 and isinstance(container, dict):
            container[draw.choice(WORDS)] = _strange(draw)
        elif what < 0.35:
            container[key] = [container[key]] * draw.choice([1, 2])
        elif what < 0.45 and isinstance(container[key], int | float):
            container[key] = draw.choice(
                [-container[key], container[key] * 1000, container[key] + 1, float(container[key]), str(container[key])]
            )
        else:
            container[key] = _strange(draw)
    return value


def json_value(path: Path, draw: Random) -> None:
    path.write_text(json.dumps(restructured(json.loads(path.read_bytes()), draw)))


def json_line(path: Path, draw: Random) -> None:
    lines = path.read_text().splitlines() or ["{}"]
    i = draw.randrange(len(lines))
    lines[i] = json.dumps(restructured(json.loads(lines[i]), draw))
    path.write_text("\n".join(lines) + "\n")


def yaml_value(path: Path, draw: Random) -> None:
    path.write_text(yaml.safe_dump(restructured(yaml.safe_load(path.read_text()), draw), allow_unicode=True))


def yaml_code(path: Path, draw: Random) -> None:
    text = path.read_text()
    name = draw.choice([line.split(":")[0] for line in text.splitlines() if ":" in line])
    path.write_text(
        text
        + draw.choice(
            [
                f"{name}: !!python/object/apply:os.mkdir [{CANARY}]\n",
                f"x: !!python/name:os.system\n{name}: 3\n",
                f"a: &a [1]\n{name}: [*a, *a]\n",
                f"{name}: !!binary aGVsbG8=\n",
                f"{name}: 2026-01-01\n",
                f"{name}: !!set {{a, b}}\n",
                f"? [a, b]\n: {name}\n",
                f"<<: {{{name}: 1}}\n",
                f"{name}: 1:20:30\n",
                f"{name}: {'[' * 500}\n",
                "--- \n--- \n",
                f"{name}: |\n  a\n  b\n",
                f"{name}: 0o17\n",
                f"{name}: .nan\n",
                "1: 2\n",
                "~: 3\n",
                "? {a: 1}\n: 2\n",
                f'{name}: "\\e[31m"\n',
                "\t- a\n",
                f"{name}: 999999-99-99\n",
                f"{name}: 2026-02-31\n",
                f"{name}: !!int abc\n",
                f"{name}: !!timestamp x\n",
                f"{name}: !!float x\n",
                f"{name}: !!bool x\n",
            ]
        )
    )


def safetensors_header(path: Path, draw: Random) -> None:
    content = path.read_bytes()
    size = int.from_bytes(content[:8], "little")
    header = json.dumps(restructured(json.loads(content[8 : 8 + size]), draw)).encode()
    path.write_bytes(len(header).to_bytes(8, "little") + header + content[8 + size :])


def pickled(path: Path, draw: Random) -> None:
    """A pickle that runs something, as itself, in an archive of torch, or as an array of objects."""
    import numpy as np
    import torch

    kind = draw.randrange(4)
    if kind == 0:
        path.write_bytes(pickle.dumps(Runs()))
    elif kind == 1:
        torch.save({"a": Runs(), "vectors": torch.zeros(2, 3)}, path)
    elif kind == 2:
        with path.open("wb") as file:
            np.save(file, np.array([Runs(), None], object), allow_pickle=True)
    else:
        torch.save(Runs(), path, _use_new_zipfile_serialization=False)


def archive(path: Path, draw: Random) -> None:
    """A ZIP archive with a member that is spoiled, elsewhere, twice, huge or gone."""
    with zipfile.ZipFile(path) as old:
        members = [(one.filename, old.read(one)) for one in old.infolist()]
    i = draw.randrange(len(members))
    name, content = members[i]
    what = draw.randrange(6)
    if what < 3:
        members[i] = (name, draw.choice(BYTES)(content, draw))
    elif what == 3:
        members[i] = (draw.choice(["../" + name, "/" + name, name + "\x1b[31m", "a/" * 60 + name]), content)
    elif what == 4:
        del members[i]
    else:
        members[i] = (name, content + b"\0" * BOMB)
    with zipfile.ZipFile(path, "w", draw.choice([zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED])) as new:
        for name, content in members:
            new.writestr(name, content)


def gunzipped(path: Path, draw: Random) -> None:
    """A packed file whose content is spoiled, or that unpacks to very much."""
    content = gzip.decompress(path.read_bytes())
    if draw.random() < 0.15:
        content += draw.choice([b"J", b"\n", b"\0", b">a\nA\n", b","]) * BOMB
        content = content[:BOMB]
    else:
        content = draw.choice(BYTES + TEXT)(content, draw)
    path.write_bytes(gzip.compress(content, 1))


def columns(path: Path, draw: Random) -> None:
    """A Parquet file with a column of another type or name, twice, gone, without rows, or with nulls."""
    table = pq.read_table(path)
    i = draw.randrange(table.num_columns)
    name, rows = table.column_names[i], table.num_rows
    kinds: list[Any] = [
        [None] * rows,
        [True] * rows,
        [b"\xff\x00"] * rows,
        [[1]] * rows,
        [{"a": 1}] * rows,
        [float("nan")] * rows,
        [2**63 - 1] * rows,
        [0.1] * rows,
        ["\x1b[31m"] * rows,
        [""] * rows,
        ["NA"] * rows,
        ["x" * 100_000] * rows,
        [[]] * rows,
        [[[1.0]]] * rows,
        list(range(rows)),
    ]
    what = draw.randrange(10)
    if what < 6:
        table = table.set_column(i, name, pa.array(draw.choice(kinds)))
    elif what == 6:
        table = table.rename_columns([draw.choice(WORDS) if k == i else one for k, one in enumerate(table.column_names)])
    elif what == 7:
        table = table.append_column(draw.choice([name, name.upper(), draw.choice(table.column_names)]), table.column(i))
    elif what == 8:
        table = draw.choice(
            [table.drop_columns([name]), table.slice(0, 0), pa.concat_tables([table] * 2), table.drop_columns(table.column_names)]
        )
    else:
        column = table.column(i)
        casts = (
            pa.large_string(),
            pa.binary(),
            pa.dictionary(pa.int32(), pa.string()),
            pa.float16(),
            pa.decimal128(38, 3),
            pa.timestamp("ns"),
        )
        try:
            table = table.set_column(i, name, column.cast(draw.choice(casts)))
        except (pa.ArrowInvalid, pa.ArrowNotImplementedError, pa.ArrowTypeError):
            table = table.set_column(
                i, name, column.dictionary_encode() if not pa.types.is_nested(column.type) else pa.nulls(rows)
            )
    held = io.BytesIO()
    pq.write_table(table, held)
    path.write_bytes(held.getvalue())


# ---- names


def _removed(path: Path) -> None:
    shutil.rmtree(path) if path.is_dir() and not path.is_symlink() else path.unlink(missing_ok=True)


def no_file(path: Path, draw: Random) -> None:
    """A pipe, a socket, a folder, a link that leads nowhere, to itself or to a pipe, or nothing, in place of a file."""
    _removed(path)
    what = draw.randrange(8)
    if what == 0:
        os.mkfifo(path)
    elif what == 1:
        path.mkdir()
    elif what == 2:
        path.symlink_to("nowhere")
    elif what == 3:
        path.symlink_to(path.name)
    elif what == 4:
        os.mkfifo(path.with_name("pipe"))
        path.symlink_to("pipe")
    elif what == 5:
        path.mkdir()
        (path / "inner.txt").write_text("a\n")
    elif what == 6:
        # The name of a socket has at most 107 bytes, which a relative one keeps to.
        here = Path.cwd()
        os.chdir(path.parent)
        with socket.socket(socket.AF_UNIX) as one:
            one.bind(path.name[:90])
        os.chdir(here)


def sized(path: Path, draw: Random) -> None:
    """A file with a hole of gigabytes, which takes no room on the disk."""
    with path.open("r+b") as file:
        file.truncate(draw.choice([2**31, 2**33]))


def of_bytes(mutation: Callable[[bytes, Random], bytes]) -> Mutation:
    def change(path: Path, draw: Random) -> None:
        path.write_bytes(mutation(path.read_bytes(), draw))

    change.__name__ = mutation.__name__
    return change


_TEXTS = {".fa", ".fq", ".csv", ".tsv", ".txt", ".jsonl", ".bed", ".gff3", ".gtf", ".fai", ".json", ".yaml"}
_OF_STRUCTURE: dict[str, tuple[Mutation, ...]] = {
    ".json": (json_value,) * 14,
    ".yaml": (yaml_value, yaml_value, yaml_code) * 4,
    ".safetensors": (safetensors_header,) * 8,
    ".pt": (pickled, pickled, archive, archive, archive),
    ".bin": (pickled, pickled, archive, archive),
    ".npz": (pickled, archive, archive, archive),
    ".npy": (pickled,),
    ".gz": (gunzipped,) * 8,
    ".parquet": (columns,) * 10,
}


def mutations(path: Path) -> list[Mutation]:
    """The mutations that make sense for a file, by its name; those of its structure are drawn more often."""
    found = [of_bytes(one) for one in BYTES] + [no_file]
    if path.suffix in _TEXTS:
        found += [of_bytes(one) for one in TEXT]
    if "_delta_log" in path.parts and path.suffix == ".json":
        return [*found, *[json_line] * 14]
    if path.suffix in (".npy", ".pt", ".bin", ".safetensors", ".parquet", ".csv"):
        found.append(sized)
    return [*found, *_OF_STRUCTURE.get(path.suffix, ())]
