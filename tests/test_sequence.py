"""What a sequence is: normalised, refused with the place named, known by its digest, turned around."""

from __future__ import annotations

import base64
import hashlib
import hmac

import pytest
from hypothesis import given
from hypothesis import strategies as st

from dnafeat.sequence import IUPAC, UNAMBIGUOUS, digest, normalise, problem, reverse_complement

# What each IUPAC code stands for (NC-IUB 1984).
BASES = {
    "A": "A", "C": "C", "G": "G", "T": "T", "R": "AG", "Y": "CT", "S": "CG", "W": "AT", "K": "GT", "M": "AC",
    "B": "CGT", "D": "AGT", "H": "ACT", "V": "ACG", "N": "ACGT",
}  # fmt: skip


@pytest.mark.parametrize(
    ("raw", "normal"),
    [
        (b"acgtn", b"ACGTN"),
        (b"ACGU", b"ACGT"),
        (b"acgu", b"ACGT"),
        (b" A\tC\r\nG\x0bT\x0c", b"ACGT"),
        (b"ryswkmbdhv", b"RYSWKMBDHV"),
        (b"", b""),
        (b"AC-GT*\x00\xff1", b"AC-GT*\x00\xff1"),
    ],
)
def test_normalising_raises_case_turns_u_to_t_drops_white_space_and_keeps_the_rest(raw: bytes, normal: bytes) -> None:
    assert normalise(raw) == normal


@given(st.binary())
def test_normalising_twice_changes_nothing_and_agrees_with_python_text(raw: bytes) -> None:
    once = normalise(raw)
    assert normalise(once) == once
    assert once == raw.upper().replace(b"U", b"T").translate(None, b" \t\r\n\v\f")


@given(st.text(alphabet="ACGTN", min_size=1))
def test_sequences_of_acgtn_are_good(letters: str) -> None:
    assert problem(letters.encode()) is None


def test_an_empty_sequence_is_refused() -> None:
    assert problem(b"") == "the sequence is empty"
    assert problem(normalise(b" \n")) == "the sequence is empty"


@given(st.text(alphabet="ACGTN", max_size=30), st.sampled_from("XJ-*1RYKz"), st.binary(max_size=30))
def test_the_first_strange_letter_is_named_with_its_place(before: str, strange: str, after: bytes) -> None:
    sequence = before.encode() + strange.encode() + after
    count = sum(letter not in b"ACGTN" for letter in sequence)
    expected = f"letter {strange!r} at base {len(before) + 1} is outside A C G T N ({count} such)"
    assert problem(sequence) == expected


def test_a_byte_that_cannot_be_shown_is_named_by_its_number() -> None:
    assert "0x00 at base 3" in (problem(b"AC\x00GT") or "").replace("'", "")
    assert "0xc3 at base 1" in (problem("ä".encode()) or "").replace("'", "")


@given(st.text(alphabet="ACGTNRYSWKMBDHV", min_size=1))
def test_iupac_codes_are_good_when_asked_for_and_only_then(letters: str) -> None:
    assert problem(letters.encode(), alphabet=IUPAC) is None
    assert (problem(letters.encode(), alphabet=UNAMBIGUOUS) is None) == (not set(letters) - set("ACGTN"))


@pytest.mark.parametrize("letter", "XEFIJLOPQZU-.*?0")
def test_what_is_no_iupac_code_is_refused_with_iupac_allowed(letter: str) -> None:
    fault = problem(b"RY" + letter.encode(), alphabet=IUPAC)
    assert fault is not None
    assert f"{letter!r} at base 3 is outside the IUPAC codes" in fault


@pytest.mark.parametrize(
    ("n", "of", "allowed"), [(1, 10, 0.1), (3, 10, 0.3), (1, 3, 1 / 3), (0, 5, 0.0), (5, 5, 1.0), (7, 100, 0.07)]
)
def test_a_share_of_n_as_large_as_allowed_is_good_and_one_more_is_not(n: int, of: int, allowed: float) -> None:
    assert problem(b"N" * n + b"A" * (of - n), max_n_share=allowed) is None
    if n < of:
        fault = problem(b"N" * (n + 1) + b"A" * (of - n - 1), max_n_share=allowed)
        assert fault is not None
        assert f"{of} bases" in fault
        assert f"{(n + 1) / of:.3f}" in fault


@given(st.text(alphabet="ACGTN", min_size=1, max_size=12), st.integers(1, 12))
def test_a_sequence_shorter_than_a_token_is_refused_with_both_lengths(letters: str, least: int) -> None:
    fault = problem(letters.encode(), min_bases=least)
    if len(letters) >= least:
        assert fault is None
    else:
        bases = "1 base is" if len(letters) == 1 else f"{len(letters)} bases are"
        assert fault == f"{bases} too few for a token of this model, which takes {least}"


def test_a_short_sequence_is_refused_for_its_letters_first_and_for_its_length_before_its_n() -> None:
    assert problem(b"", min_bases=6) == "the sequence is empty"
    assert "'X' at base 2" in (problem(b"AX", min_bases=6) or "")
    assert "'R' at base 2" in (problem(b"AR", min_bases=6) or "")
    assert "too few" in (problem(b"AR", min_bases=6, alphabet=IUPAC) or "")
    assert "too few" in (problem(b"NNNNN", min_bases=6, max_n_share=0.1) or "")
    assert "N makes up" in (problem(b"NNNNNN", min_bases=6, max_n_share=0.1) or "")


def test_a_salted_digest_is_the_hmac_in_the_same_form() -> None:
    salted = digest(b"ACGT", b"salt")
    assert base64.urlsafe_b64decode(salted.removeprefix("SQ.")) == hmac.new(b"salt", b"ACGT", "sha512").digest()[:24]
    assert len({digest(b"ACGT"), salted, digest(b"ACGT", b"other"), digest(b"ACGA", b"salt")}) == 4


def test_the_digest_is_the_refget_one() -> None:
    assert digest(b"ACGT") == "SQ.aKF498dAxcJAqme6QYQ7EZ07-fiw8Kw2"
    assert digest(normalise(b"ac gu\n")) == "SQ.aKF498dAxcJAqme6QYQ7EZ07-fiw8Kw2"


@given(st.text(alphabet="ACGTN"))
def test_the_digest_is_the_first_24_bytes_of_sha512_in_url_safe_base64(letters: str) -> None:
    shown = digest(letters.encode())
    assert len(shown) == 35
    assert base64.urlsafe_b64decode(shown.removeprefix("SQ.")) == hashlib.new("sha512", letters.encode()).digest()[:24]


@given(st.text(alphabet="ACGTNRYSWKMBDHV"))
def test_the_reverse_complement_of_the_reverse_complement_is_the_sequence(letters: str) -> None:
    assert reverse_complement(reverse_complement(letters.encode())) == letters.encode()


@given(st.text(alphabet="ACGTNRYSWKMBDHV"))
def test_the_other_strand_pairs_every_base_read_backwards(letters: str) -> None:
    other = reverse_complement(letters.encode()).decode()
    paired = [{"ACGT"["TGCA".index(base)] for base in BASES[letter]} for letter in reversed(letters)]
    assert [set(BASES[letter]) for letter in other] == paired


def test_a_known_sequence_turned_around() -> None:
    assert reverse_complement(b"GATTACA") == b"TGTAATC"
