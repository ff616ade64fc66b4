"""dnafeat: a DNA feature store filled by jobs on Ray.

Reading needs `Store` and `matrix` alone, which import neither torch nor ray; everything else is loaded when it is first asked for.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from dnafeat.encoder.encoder import Encoder as Encoder
    from dnafeat.encoder.models.checkpoint import load_model as load_model
    from dnafeat.encoder.models.checkpoint import load_tokenizer as load_tokenizer
    from dnafeat.errors import DnafeatError as DnafeatError
    from dnafeat.store.store import Store as Store
    from dnafeat.store.store import matrix as matrix
    from dnafeat.store.stream import VectorStream as VectorStream

__version__ = "0.1.0"

_WHERE = {
    "DnafeatError": "dnafeat.errors",
    "Encoder": "dnafeat.encoder.encoder",
    "Store": "dnafeat.store.store",
    "VectorStream": "dnafeat.store.stream",
    "load_model": "dnafeat.encoder.models.checkpoint",
    "load_tokenizer": "dnafeat.encoder.models.checkpoint",
    "matrix": "dnafeat.store.store",
}
__all__ = sorted(_WHERE)


def __getattr__(name: str) -> Any:
    if name not in _WHERE:
        raise AttributeError(f"module 'dnafeat' has no attribute {name!r}")
    return getattr(importlib.import_module(_WHERE[name]), name)


def __dir__() -> list[str]:
    return [*__all__, "__version__"]
