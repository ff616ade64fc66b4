"""Read weight files, safetensors or pickled, without running any code in them and within what they hold."""

from __future__ import annotations

import warnings
from pathlib import Path
from typing import Any

import safetensors.torch
import torch
from torch import Tensor

from dnafeat.errors import CheckpointError, one_line
from dnafeat.untrusted import check_archive, check_held, check_regular


def tensor_names(file: Path) -> list[str]:
    """The names a weight file holds, without reading its numbers where the format allows that."""
    _check_file(file)
    if file.suffix == ".safetensors":
        try:
            with safetensors.safe_open(file, "pt") as tensors:
                return list(tensors.keys())
        except Exception as error:  # whatever the library makes of a broken file
            raise CheckpointError(f"{file} cannot be read as plain weights: {one_line(error)}") from error
    try:
        with warnings.catch_warnings(action="ignore"):
            held = torch.load(file, map_location="cpu", weights_only=True, mmap=True)
    except Exception:  # a pickle of before 2020, or a broken one
        held = read_tensors(file)
    return [name for name in held if isinstance(name, str)] if isinstance(held, dict) else []


def read_tensors(file: Path) -> Any:
    """Read a `.safetensors` or a pickled weight file. No code in it is run.

    Raises CheckpointError when it cannot be read, or holds tensors that are no plain real numbers or claim more than the file holds.
    """
    _check_file(file)
    try:
        if file.suffix == ".safetensors":
            held = safetensors.torch.load_file(file)
        else:
            # It warns of pickles that it then refuses.
            with warnings.catch_warnings(action="ignore"):
                held = torch.load(file, map_location="cpu", weights_only=True)
    except Exception as error:  # a file made to break the unpickler can raise anything
        raise CheckpointError(f"{file} cannot be read as plain weights: {one_line(error)}") from error

    for name, value in held.items() if isinstance(held, dict) else ():
        if isinstance(value, Tensor) and (fault := _fault(value)):
            raise CheckpointError(f"{file}: {name!r} {fault}")
    return held


def _check_file(file: Path) -> None:
    try:
        check_regular(file)
        check_archive(file)
    except (OSError, ValueError) as error:
        raise CheckpointError(f"{file} cannot be read as plain weights: {one_line(error)}") from error


def _fault(value: Tensor) -> str | None:
    """Why a tensor cannot be a weight; None where it can."""
    if value.is_complex():
        return "holds complex numbers, and weights are real ones"
    if value.layout is not torch.strided or value.is_quantized or value.is_meta or value.is_nested:
        return "is a sparse, quantised or empty tensor, and weights are plain ones"
    try:
        check_held(value.numel(), value.element_size(), value.untyped_storage().nbytes())
    except ValueError as error:
        return str(error)
    return None
