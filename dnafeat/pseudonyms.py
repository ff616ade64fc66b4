"""Pseudonyms in place of the ids of people: HMAC-SHA-256 under a salt that stays outside the store.

A pseudonym is `hk_<check>_<hash>`: 8 hexadecimals that are the same for everything hashed under one salt, and 32 of the id's own. So
a table tells by itself whether its keys are hashed and whether two tables can meet, whatever else was lost of them, and hashing what is
hashed already changes nothing. Who has the salt can find an id by trying all there are; who has not cannot.
"""

from __future__ import annotations

import hmac
import lzma
import re
import zlib
from collections.abc import Iterable, Iterator

import pyarrow as pa
import pyarrow.compute as pc

from dnafeat import storage
from dnafeat.errors import UsageError, one_line

_PSEUDONYM = re.compile(r"hk_([0-9a-f]{8})_[0-9a-f]{32}")
_PATTERN = rf"^{_PSEUDONYM.pattern}$"
# A pseudonym's check can be tried against guesses of the salt, so that it must not be one that can be guessed.
_LEAST_BYTES = 16


def read_salt(uri: str, *outside: str) -> bytes:
    """The salt in a file, without the line's end.

    Parameters
    ----------
    uri : str
        Local path or `s3://`.
    outside : str
        Stores and tables below which it must not lie.

    Raises
    ------
    UsageError
        It cannot be read, is too short, or lies below one of `outside`.
    """
    place = storage.absolute(uri)
    for other in map(storage.absolute, outside):
        if place == other or place.startswith(f"{other}/"):
            raise UsageError(f"the salt {uri} lies in {other}: keep it where readers of the data cannot read it")
    with storage.open_input(place) as file:
        try:
            salt = file.read().strip()
        except (EOFError, zlib.error, lzma.LZMAError, *storage.STORAGE_ERRORS) as error:
            raise storage.fault(error, UsageError)(f"the salt {uri} cannot be read: {one_line(error)}") from error
    if len(salt) < _LEAST_BYTES:
        raise UsageError(
            f"the salt in {uri} has {len(salt)} bytes, and fewer than {_LEAST_BYTES} can be guessed: make one with "
            f"`openssl rand -hex 32 > {storage.name(uri)}`"
        )
    return salt


def check(salt: bytes) -> str:
    """The mark of a salt that all pseudonyms under it share: 8 hexadecimals."""
    return hmac.digest(salt, b"dnafeat: which salt", "sha256").hex()[:8]


def pseudonyms(values: Iterable[str], salt: bytes) -> Iterator[str]:
    """The pseudonym of each id; one that is a pseudonym under this salt already stays. Raises UsageError for one under another."""
    own = check(salt)
    for value in values:
        found = _PSEUDONYM.fullmatch(value)
        if found and found[1] != own:
            raise UsageError(f"the key {value!r} is hashed already, under another salt: give the salt it was made with")
        yield value if found else f"hk_{own}_{hmac.digest(salt, value.encode(), 'sha256').hex()[:32]}"


def hashed(column: pa.Array | pa.ChunkedArray, salt: bytes) -> pa.Array | pa.ChunkedArray:
    """A column of strings with `pseudonyms` in their place; nulls stay. Each distinct value is hashed once."""
    if isinstance(column, pa.ChunkedArray):
        return pa.chunked_array([hashed(chunk, salt) for chunk in column.chunks], pa.string())
    coded = column.cast(pa.string()).dictionary_encode()
    names = pa.array(pseudonyms(coded.dictionary.to_pylist(), salt), pa.string())
    return names.take(coded.indices)


def checks(column: pa.Array | pa.ChunkedArray) -> set[str | None]:
    """The checks of the salts that a column's values are hashed under; None for values that are not hashed. Nulls do not count."""
    column = column.drop_null()
    is_hashed = pc.match_substring_regex(column, _PATTERN)
    found: set[str | None] = set() if pc.all(is_hashed).as_py() is not False else {None}
    return found | set(pc.utf8_slice_codeunits(column.filter(is_hashed), 3, 11).unique().to_pylist())
