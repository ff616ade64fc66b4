"""Names of vectors, views and steps of projections."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Literal, get_args

from dnafeat.errors import UsageError

Vector = Literal["cls", "mean", "max", "projected"]
VECTORS: tuple[str, ...] = get_args(Vector)
PROJECTED_WIDTH = 512

VIEWS = ("cls", "mean", "max")
Step = Literal["l2", "layernorm", "zscore"]
STEPS: tuple[str, ...] = get_args(Step)


def parts(view: str) -> list[str]:
    """The pooled vectors that stand end to end in a view: `cls+mean` is cls and mean."""
    return view.split("+")


def check_view(view: str, what: str = "view") -> None:
    """Raise UsageError, which calls it `what`, for what is none, or has one vector twice."""
    names = parts(view) if isinstance(view, str) else []
    if not names or any(name not in VIEWS for name in names) or len(set(names)) != len(names):
        raise UsageError(f"{what} {view!r} is not known: use {', '.join(VIEWS)}, with + between several")


def check_steps(steps: Sequence[str], known: Sequence[str] = STEPS) -> None:
    """Raise UsageError for one that there is not."""
    if strange := [step for step in steps if step not in known]:
        raise UsageError(f"step {strange[0]!r} is not known: use {', '.join(known)}")


_ABOUT = {"random": "a fixed random map, untrained", "pca": "principal components", "mlp": "trained"}


def projection_name(lineage: Mapping[str, Any]) -> str:
    """The name of a version's projection, by the version's lineage; derived for lineages that do not have it."""
    if description := lineage.get("projection"):
        return description["name"]
    asked = str(lineage.get("projector", ""))
    return asked if asked.startswith("random@") else f"mlp@{lineage['projector_sha256'][:12]}"


def describe_projection(description: Mapping[str, Any]) -> str:
    """Describe a projection by its lineage, in a line: `mean > zscore > pca@3f… (principal components of 812 entries)`."""
    about = _ABOUT[description.get("kind", "mlp")]
    fitted = description.get("fitted")
    of = f", statistics of {fitted['entries']:,} training entries" if fitted else ""
    return (
        f"{' > '.join([description['view'], *description['before'], description['name'], *description['after']])} ({about}{of})"
    )
