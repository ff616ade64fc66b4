"""Items of partner files: an array and its subject, or a problem of a file, an array or a row."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np

from dnafeat.partners.names import Name

IDS = ("subject_id", "subject", "eid", "participant_id", "ids")
COMPANIONS = ("mask", "ids_restore")
VECTORS = (
    "vector",
    "vectors",
    "embedding",
    "embeddings",
    "feature",
    "features",
    "cls",
    "cls_token",
    "last_hidden_state",
    "arr_0",
)


@dataclass(frozen=True, kw_only=True)
class Item:
    """An array, and whose it is.

    Attributes
    ----------
    array : np.ndarray
        As the file has it.
    place : str
        What sentences call it: the file, with the name inside it.
    file : str
        What the table calls it: the file's base name, or `name#key`.
    names : Sequence of Name or None
        One for each row of the array's first axis if `batched`; else one, of all there is. None: without an id.
    windows : Sequence of int or None, or None
        Likewise, where the file gives them.
    batched : bool
        Whether the first axis has a row for each of `names`.
    row : int or None
        Number of the first row in a table, 1-based; None: not of a table.
    companions : Mapping of str to np.ndarray
        `mask` and `ids_restore` of BrainLM, where the file has them.
    note : str or None
        What the user should know of how the file was read.
    """

    array: np.ndarray
    place: str
    file: str
    names: Sequence[Name | None]
    windows: Sequence[int | None] | None = None
    batched: bool = False
    row: int | None = None
    companions: Mapping[str, np.ndarray] = field(default_factory=dict)
    note: str | None = None

    def place_of(self, row: int) -> str:
        """What a sentence calls the row of this item with this number, from 0."""
        if self.row is not None:
            return f"{self.place}, row {self.row + row}"
        return f"{self.place}, row {row + 1}" if self.batched or row else self.place


@dataclass(frozen=True, kw_only=True)
class Problem:
    """A file, an array or a row that makes no vector: place as in a sentence, name as in the table, and the reason."""

    place: str
    file: str
    reason: str
    detail: str = ""
    row: int | None = None

    def __str__(self) -> str:
        return f"{self.place}: {self.reason}{self.detail}"


def some(names: Sequence[str]) -> str:
    """The first of some names, for a sentence."""
    return ", ".join(map(repr, names[:6])) + (", …" if len(names) > 6 else "")
