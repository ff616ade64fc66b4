"""Lineages of versions and rows of withdrawn runs as they stand in `versions`: JSON that may be damaged or another's."""

from __future__ import annotations

import json
import warnings
from collections.abc import Mapping
from typing import Any

from dnafeat.errors import DnafeatWarning
from dnafeat.vectors import VECTORS, projection_name

UNKNOWN = "unknown"


def loaded(text: str | None) -> dict[str, Any] | None:
    """Return the JSON object that a text holds, or None where it holds none."""
    try:
        found = json.loads(text or "")
    except (TypeError, ValueError, RecursionError):
        return None
    return found if isinstance(found, dict) else None


def parsed(event: Mapping[str, Any], store: str) -> dict[str, Any]:
    """Return what the column `lineage` of an event holds; empty, with a warning, where it is no JSON object."""
    if (found := loaded(event["lineage"])) is not None:
        return found
    warnings.warn(
        f"the {event['event']} event of version {event['feature_version']} in {store}/versions has no lineage that can be read: "
        f"what it was made of is not known, and its vectors are as they were",
        DnafeatWarning,
        stacklevel=2,
    )
    return {}


def vectors_of(lineage: Mapping[str, Any]) -> list[str]:
    """The vectors that a version stores; all where its lineage does not say, as of older stores."""
    named = lineage.get("vectors")
    held = [name for name in named if name in VECTORS] if isinstance(named, list) else []
    return held or list(VECTORS)


def described(lineage: Mapping[str, Any]) -> dict[str, Any]:
    """What a listing shows of a lineage: model, adapter, precision and projection, `unknown` where it does not say."""
    try:
        projection = projection_name(lineage)
    except (KeyError, TypeError, AttributeError):
        projection = UNKNOWN
    texts = {name: lineage.get(name) for name in ("model", "precision")}
    shown = {name: value if isinstance(value, str) else UNKNOWN for name, value in texts.items()}
    adapter = lineage.get("adapter")
    return {**shown, "adapter": adapter if isinstance(adapter, str) else None, "projection": projection}
