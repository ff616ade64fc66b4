"""Vectors rounded to bfloat16's precision and left float32: zstd stores them in half the bytes, and every reader reads them."""

from __future__ import annotations

from torch import Tensor


def rounded(vectors: Tensor, to: str | None) -> Tensor:
    """Round to 8 significant bits, ties to even; return the numbers as they are where `to` is None.

    Parameters
    ----------
    vectors : torch.Tensor
        Any shape, float32. What is not finite stays so, and what is above bfloat16's largest number becomes infinite.
    to : str | None
        `bfloat16` or None.

    Returns
    -------
    torch.Tensor
        The same shape, float32: at most 2^-8 of a number from it.
    """
    return vectors if to is None else vectors.bfloat16().float()
