"""The ninth column of GFF3 and GTF.

GFF3 (version 1.26) writes `key=value,value;key=value`, and letters that would end a value as %2C and the like. GTF writes
`key "value"; key "value";`, repeats a key that has several values, and has no escapes: a comma or a semicolon between quotes is
the value's. Each line tells which of them it has, since the first lines of a file often have fewer attributes than others.
"""

from __future__ import annotations

import re
from urllib.parse import unquote

# Names that can have several values in GFF3; in another, a comma that should have been escaped is the value's.
_LISTS = ("Parent", "Alias", "Note", "Dbxref", "Ontology_term")
_GFF3 = re.compile(r"[\s;]*[^\s=;\"]+\s*=")
# A key, and its value in quotes or without; the quote that ends a value stands before a semicolon or at the end.
_GTF = re.compile(r"""[\s;]*([^\s;"]+)(?:\s+"(.*?)"(?=\s*(?:;|$))|([^;]*))""")


def attributes(text: str) -> dict[str, list[str]]:
    """Values by their names, in order, of a line's ninth column."""
    return _of_gff3(text) if is_gff3(text) else _of_gtf(text)


def is_gff3(text: str) -> bool:
    """Whether a ninth column is one of GFF3, whose names stand before `=`."""
    return _GFF3.match(text) is not None


def _of_gff3(text: str) -> dict[str, list[str]]:
    found: dict[str, list[str]] = {}
    for pair in text.split(";"):
        name, _, text = pair.partition("=")
        if name := unquote(name.strip()):
            values = _bare(text).split(",") if name in _LISTS else [_bare(text)]
            found.setdefault(name, []).extend(unquote(value.strip()) for value in values)
    return found


def _of_gtf(text: str) -> dict[str, list[str]]:
    found: dict[str, list[str]] = {}
    for name, quoted, bare in _GTF.findall(text):
        found.setdefault(name, []).append((quoted or bare.strip().strip('"')).strip())
    return found


def _bare(value: str) -> str:
    """A value without blanks around it, and without the quotes that some programs write though the format has none."""
    value = value.strip()
    return value[1:-1] if len(value) > 1 and value[0] == value[-1] == '"' else value
