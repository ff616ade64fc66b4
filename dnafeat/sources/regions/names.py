"""Names of contigs that mean the same: with and without `chr`, and the four names of the mitochondrion."""

from __future__ import annotations

from collections.abc import Collection

from dnafeat.errors import UsageError

_MITOCHONDRION = ("M", "MT", "chrM", "chrMT")


def same_contig(name: str, others: Collection[str], where: str) -> str | None:
    """The one of some names that means the same contig; None where there is none.

    Raises UsageError, which names `where` the others are, if two could be meant and none is the name itself.
    """
    if name in others:
        return name
    turned = name.removeprefix("chr") if name.startswith("chr") else f"chr{name}"
    found = [one for one in (_MITOCHONDRION if name in _MITOCHONDRION else (turned,)) if one in others]
    if len(found) > 1:
        raise UsageError(f"contig {name} can be {' or '.join(found)} of {where}: use one name for it in all files")
    return found[0] if found else None
