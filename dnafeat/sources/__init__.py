"""Read files of sequences into one stream of entries."""

from __future__ import annotations

from typing import TYPE_CHECKING

from dnafeat.lazy import hand_out

if TYPE_CHECKING:
    from dnafeat.sources.lists import read_list as read_list
    from dnafeat.sources.reader import ReadOptions as ReadOptions
    from dnafeat.sources.reader import read as read

_PUBLIC = {
    "ReadOptions": "dnafeat.sources.reader",
    "read": "dnafeat.sources.reader",
    "read_list": "dnafeat.sources.lists",
}
__all__ = sorted(_PUBLIC)
__getattr__, __dir__ = hand_out(__name__, _PUBLIC)
