"""What a projection is told in words: the pooled views it takes, and the steps before and after its map."""

from __future__ import annotations

from collections.abc import Sequence

from dnafeat.errors import UsageError

VIEWS = ("cls", "mean", "max")
STEPS = ("l2", "layernorm", "zscore")


def parts(view: str) -> list[str]:
    """The pooled vectors that stand end to end in a view: `cls+mean` is cls and mean."""
    return view.split("+")


def check_view(view: str, what: str = "view") -> None:
    """Raises UsageError, which calls it `what`, for what is none, or has one vector twice."""
    names = parts(view) if isinstance(view, str) else []
    if not names or any(name not in VIEWS for name in names) or len(set(names)) != len(names):
        raise UsageError(f"{what} {view!r} is not known: use {', '.join(VIEWS)}, with + between several")


def check_steps(steps: Sequence[str], known: Sequence[str] = STEPS) -> None:
    """Raises UsageError for one that there is not."""
    if strange := [step for step in steps if step not in known]:
        raise UsageError(f"step {strange[0]!r} is not known: use {', '.join(known)}")
