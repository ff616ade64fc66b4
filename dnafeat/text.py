"""Text for people: tables that fit the terminal, suggestions, dates, and characters that a terminal would obey."""

from __future__ import annotations

import difflib
import re
import textwrap
import unicodedata
from collections.abc import Collection, Iterable, Sequence
from datetime import UTC, datetime

# Categories of characters that move the cursor, break lines, cannot be encoded, or are not seen and reorder what is (UAX #9):
# control, line and paragraph separators, surrogates, format.
_OBEYED = {"Cc", "Zl", "Zp", "Cs", "Cf"}
_GAP = "  "


def visible(text: str, *, keep: str = "") -> str:
    r"""Escape the characters that a terminal would obey: `\x1b[2J` is shown as five characters and clears nothing.

    Parameters
    ----------
    text : str
        May hold names of files, columns, sources or channels that others chose.
    keep : str
        Characters to leave as they are, such as "\n" in a text of several lines.
    """
    if text.isascii() and text.isprintable():
        return text
    return "".join(_escaped(one) if one not in keep and _is_obeyed(one) else one for one in text)


def _is_obeyed(character: str) -> bool:
    return unicodedata.category(character) in _OBEYED


def _escaped(character: str) -> str:
    return character.encode("unicode_escape").decode("ascii")


def did_you_mean(word: str, known: Iterable[str]) -> str:
    """The end of a sentence that names the closest known words: ` (did you mean mean?)`; empty where none is close."""
    names = list(known)
    folded = {name.lower(): name for name in reversed(names)}
    close = difflib.get_close_matches(word.lower(), folded, n=2, cutoff=0.67)
    # One is offered, and a second only where it is as near.
    near = [one for one in close if _likeness(word, one) >= _likeness(word, close[0]) - 0.05]
    return f" (did you mean {' or '.join(folded[one] for one in near)}?)" if near else ""


def _likeness(word: str, other: str) -> float:
    return difflib.SequenceMatcher(None, word.lower(), other).ratio()


def iso(when: datetime) -> str:
    """A time in UTC as ISO 8601 with `Z`, as precise as it is."""
    return when.astimezone(UTC).isoformat().replace("+00:00", "Z")


def count(number: int, noun: str) -> str:
    """A number with its noun: `1 file`, `1,200 files`."""
    return f"{number:,} {noun}{'' if number == 1 else 's'}"


def human_bytes(count: int) -> str:
    """Bytes for people: `512 bytes`, `42.7 kB`, `1.3 MB`, in powers of 1,000."""
    for unit, factor in (("GB", 1e9), ("MB", 1e6), ("kB", 1e3)):
        if count >= factor:
            return f"{count / factor:,.1f} {unit}"
    return f"{count} bytes"


def aligned(table: Sequence[Sequence[str]], right: Collection[int] = ()) -> str:
    """Rows of cells under each other, some columns aligned to the right."""
    rows = [[visible(cell) for cell in row] for row in table]
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    return "\n".join(_line(cells, widths, right) for cells in rows)


def _line(cells: Sequence[str], widths: Sequence[int], right: Collection[int]) -> str:
    padded = [cell.rjust(widths[i]) if i in right else cell.ljust(widths[i]) for i, cell in enumerate(cells)]
    return _GAP.join(padded).rstrip()


def fitted(table: Sequence[Sequence[str]], right: Collection[int] = (), *, width: int | None = None, lead: int = 1) -> str:
    """A table with a header as `aligned`, or in blocks where it is wider than the terminal.

    Parameters
    ----------
    table : sequence of sequences of str
        The first row is the header.
    right : collection of int
        Columns aligned to the right.
    width : int, optional
        Columns of the terminal (default: no limit).
    lead : int
        Columns of the first line of a block. The others follow below it as `name value`, wrapped between values; no value is cut
        unless it alone is wider than the terminal, and then it is shortened in its middle.
    """
    whole = aligned(table, right)
    if width is None or max(map(len, whole.splitlines())) <= width:
        return whole
    rows = [[visible(cell) for cell in row] for row in table]
    heads = aligned([row[:lead] for row in rows], [i for i in right if i < lead]).splitlines()
    lines = [shortened(heads[0], width)]
    for head, row in zip(heads[1:], rows[1:], strict=True):
        lines.append(shortened(head, width))
        lines += _wrapped([f"{name} {value}" for name, value in zip(rows[0][lead:], row[lead:], strict=True) if value], width)
    return "\n".join(lines)


def _wrapped(items: Sequence[str], width: int, indent: str = "    ") -> list[str]:
    """Items with commas between them, in lines that break between items only."""
    lines: list[str] = []
    for i, item in enumerate(items):
        text = shortened(item, width - len(indent) - 1) + ("," if i < len(items) - 1 else "")
        if lines and len(lines[-1]) + 1 + len(text) <= width:
            lines[-1] += f" {text}"
        else:
            lines.append(indent + text)
    return lines


def shortened(text: str, width: int) -> str:
    """A text of at most `width` characters, with … in place of its middle where it is longer."""
    if len(text) <= width:
        return text
    left = max(0, (width - 1) // 2)
    return f"{text[:left]}…{text[len(text) - (width - 1 - left) :]}"


def filled(text: str, width: int | None) -> str:
    """A text whose long lines are wrapped at words, each to its own indentation."""
    if width is None:
        return text
    return "\n".join(_filled_line(line, width) for line in text.splitlines())


def _filled_line(line: str, width: int) -> str:
    # A row of a table stays one, and a command can be copied.
    if len(line) <= width or line.lstrip().startswith(("next:", "dnafeat ")) or len(re.findall(r"\S {2,}", line)) > 2:
        return line
    indent = " " * (len(line) - len(line.lstrip()))
    # A label such as `  source   x` keeps its column.
    label, gap, _ = line.lstrip().partition("  ")
    hang = " " * (len(line) - len(line.lstrip()[len(label) :].lstrip())) if gap and indent else f"{indent}  "
    return textwrap.fill(
        line.strip(), width, initial_indent=indent, subsequent_indent=hang, break_long_words=False, break_on_hyphens=False
    )
