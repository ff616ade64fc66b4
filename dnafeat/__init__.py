"""dnafeat: a DNA feature store filled by jobs on Ray.

Reading needs `Store` and `matrix` alone, which import neither torch nor ray; everything else is loaded when it is first asked for.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from dnafeat.lazy import hand_out
from dnafeat.provenance import __version__ as __version__

if TYPE_CHECKING:
    from dnafeat.encoder import Encoder as Encoder
    from dnafeat.encoder import load_model as load_model
    from dnafeat.encoder import load_tokenizer as load_tokenizer
    from dnafeat.errors import DnafeatError as DnafeatError
    from dnafeat.search import neighbours as neighbours
    from dnafeat.store import Store as Store
    from dnafeat.store import VectorStream as VectorStream
    from dnafeat.store import matrix as matrix

_PUBLIC = {
    "DnafeatError": "dnafeat.errors",
    "Encoder": "dnafeat.encoder",
    "Store": "dnafeat.store",
    "VectorStream": "dnafeat.store",
    "load_model": "dnafeat.encoder",
    "load_tokenizer": "dnafeat.encoder",
    "matrix": "dnafeat.store",
    "neighbours": "dnafeat.search",
}
__all__ = sorted(_PUBLIC)
__getattr__, __dir__ = hand_out(__name__, _PUBLIC)
