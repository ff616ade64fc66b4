"""Pseudonyms: the same under one salt, nobody's under another, and known for what they are."""

from __future__ import annotations

import hashlib
import hmac
from pathlib import Path

import pyarrow as pa
import pytest

from dnafeat import pseudonyms as keyhash
from dnafeat.errors import UsageError

SALT, OTHER = b"0123456789abcdef", b"fedcba9876543210"


def pseudonym(value: str, salt: bytes) -> str:
    return next(keyhash.pseudonyms([value], salt))


def test_a_pseudonym_is_the_hmac_of_the_id_behind_what_tells_the_salt() -> None:
    name = pseudonym("1000017", SALT)
    assert name == f"hk_{keyhash.check(SALT)}_{hmac.new(SALT, b'1000017', hashlib.sha256).hexdigest()[:32]}"
    assert len({pseudonym(str(i), SALT) for i in range(2000)}) == 2000
    assert "1000017" not in pseudonym("1000017", OTHER)
    assert keyhash.check(SALT) != keyhash.check(OTHER)


@pytest.mark.parametrize("chunked", [False, True])
def test_a_column_is_hashed_once_however_often_and_nulls_stay(chunked: bool) -> None:
    values = ["a", None, "b", "a", "ümlaut"]
    column = pa.chunked_array([values[:2], values[2:]]) if chunked else pa.array(values)
    once = keyhash.hashed(column, SALT)
    assert once.to_pylist() == [None if value is None else pseudonym(value, SALT) for value in values]
    assert keyhash.hashed(once, SALT).to_pylist() == once.to_pylist()
    assert keyhash.hashed(column.slice(1, 2), SALT).to_pylist() == once.to_pylist()[1:3]


def test_a_pseudonym_under_another_salt_is_refused() -> None:
    with pytest.raises(UsageError, match="hashed already, under another salt"):
        keyhash.hashed(pa.array(["x", pseudonym("a", OTHER)]), SALT)


def test_a_column_tells_what_it_is_hashed_under() -> None:
    mixed = pa.array(["plain", None, pseudonym("a", SALT), pseudonym("b", OTHER)])
    assert keyhash.checks(mixed) == {None, keyhash.check(SALT), keyhash.check(OTHER)}
    assert keyhash.checks(pa.array(["plain"])) == {None}
    assert keyhash.checks(pa.chunked_array([keyhash.hashed(pa.array(["a", None]), SALT)])) == {keyhash.check(SALT)}
    assert keyhash.checks(pa.array([None], pa.string())) == set()


def test_a_salt_is_read_from_a_file_that_lies_outside(store_uri: str, tmp_path: Path) -> None:
    (tmp_path / "salt").write_bytes(SALT + b"\n")
    assert keyhash.read_salt(str(tmp_path / "salt"), store_uri) == SALT
    with pytest.raises(UsageError, match=r"lies in .*: keep it where"):
        keyhash.read_salt(f"{store_uri}/secrets/salt", "elsewhere", store_uri)
    with pytest.raises(UsageError, match="does not exist"):
        keyhash.read_salt(str(tmp_path / "nothing"))
    (tmp_path / "short").write_text("12345\n")
    with pytest.raises(UsageError, match="has 5 bytes, and fewer than 16 can be guessed"):
        keyhash.read_salt(str(tmp_path / "short"))
