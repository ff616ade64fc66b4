"""Files of arrays as other projects write them (.pt, .npy, .npz, .safetensors) into items, one array at a time."""

from __future__ import annotations

import math
import pickle
import struct
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import IO, Any

import numpy as np

from dnafeat import storage, untrusted
from dnafeat.errors import one_line
from dnafeat.partners.config import PartnerConfig
from dnafeat.partners.items import COMPANIONS, IDS, VECTORS, Item, Problem, some
from dnafeat.partners.names import Name, Unfit, apart, of_file, of_ids, texts, whole_numbers


def single(array: np.ndarray, uri: str, config: PartnerConfig) -> Item:
    """A file that is one array, named as the file is."""
    return Item(array=array, place=uri, file=storage.name(uri), names=[of_file(uri, config.id_from, config.id_pattern)])


def _read_npy(path: Path, uri: str, config: PartnerConfig) -> Iterator[Item | Problem]:
    with path.open("rb") as file:
        array = _numpy_load(file)
        if not isinstance(array, np.ndarray):
            raise Unfit("is an archive of arrays; give it the ending .npz")
        yield single(array, uri, config)


def _numpy_load(file: IO[bytes]) -> Any:
    try:
        return np.load(file, allow_pickle=False)
    except ValueError as error:
        if "Object arrays" in str(error):
            raise Unfit("holds Python objects, which are not loaded; save numbers, and texts as ids.astype(str)") from None
        # Of bytes that are no array at all NumPy says that they might be a pickle.
        raise Unfit("is damaged, or no array of NumPy's; write it again", f" ({one_line(error)})") from None


def _read_npz(path: Path, uri: str, config: PartnerConfig) -> Iterator[Item | Problem]:
    _check_archive(path)
    with path.open("rb") as file, _numpy_load(file) as arrays:

        def get(key: str) -> Any:
            try:
                return arrays[key]
            except ValueError as error:
                if "Object arrays" in str(error):
                    raise Unfit(f"{key!r} holds Python objects, which are not loaded; save texts as ids.astype(str)") from None
                raise

        yield from _mapping(arrays.files, get, uri, config)


def _read_torch(path: Path, uri: str, config: PartnerConfig) -> Iterator[Item | Problem]:
    import torch

    _check_archive(path)
    try:
        with warnings.catch_warnings(action="ignore"):
            value = torch.load(path, map_location="cpu", weights_only=True)
    except pickle.UnpicklingError as error:
        raise Unfit(
            "holds more than tensors, numbers and texts, which is not loaded; save those alone with torch.save",
            f" ({one_line(error)})",
        ) from None
    if isinstance(value, Mapping):
        strange = [key for key in value if not isinstance(key, str | int)]
        if strange:
            raise Unfit("has keys that are neither texts nor numbers; name its tensors by texts")
        named = {str(key): one for key, one in value.items()}
        yield from _mapping(list(named), lambda key: _of_tensor(named[key]), uri, config)
    elif isinstance(value, torch.Tensor):
        yield single(_of_tensor(value), uri, config)
    else:
        raise Unfit(f"holds a {type(value).__name__} and no tensor; save a tensor, or a dict of tensors")


def _check_archive(path: Path) -> None:
    try:
        untrusted.check_archive(path)
    except ValueError as error:
        raise Unfit("claims more than it holds; write it again", f" ({error})") from None


def _check_held(value: Any) -> None:
    """Raise Unfit for a tensor that would take more memory than what its file holds of it, such as an expanded or a sparse one."""
    import torch

    # A sparse tensor is filled up with zeros.
    held = _MOST_OF_SPARSE if value.is_sparse or value.layout is torch.sparse_csr else value.untyped_storage().nbytes()
    try:
        untrusted.check_held(value.numel(), value.element_size(), held)
    except ValueError as error:
        raise Unfit(f"holds a tensor that {error}") from None


def _of_tensor(value: Any) -> Any:
    """A tensor as an array; NumPy knows no bfloat16. Anything else as it is."""
    import torch

    if not isinstance(value, torch.Tensor):
        return value
    value = value.detach()
    if value.is_meta or value.is_quantized or value.is_nested:
        raise Unfit("holds a tensor without plain numbers; save it as float32")
    _check_held(value)
    return (value.float() if value.dtype is torch.bfloat16 else value).to_dense().numpy()


# The format's own names of types, all little-endian. https://github.com/huggingface/safetensors#format
_TYPES = {
    "F64": "<f8",
    "F32": "<f4",
    "F16": "<f2",
    "BF16": "<u2",
    "I64": "<i8",
    "I32": "<i4",
    "I16": "<i2",
    "I8": "<i1",
    "U64": "<u8",
    "U32": "<u4",
    "U16": "<u2",
    "U8": "<u1",
}
_MOST_OF_SPARSE = 2**30  # bytes of a sparse tensor with its zeros
_LONGEST_HEADER = 100_000_000  # bytes, as the format has it


def _read_safetensors(path: Path, uri: str, config: PartnerConfig) -> Iterator[Item | Problem]:
    # By hand, since the library needs torch to read bfloat16, and this command no torch for anything but .pt.
    with path.open("rb") as file:
        (length,) = struct.unpack("<Q", file.read(8))
        if length > _LONGEST_HEADER:
            raise ValueError("its header is longer than the format allows")
        size = path.stat().st_size - 8 - length
        if size < 0:
            raise ValueError("it is shorter than its header says")
        header = untrusted.parse_object(file.read(length))
        header.pop("__metadata__", None)

        def get(key: str) -> np.ndarray:
            start, end = header[key]["data_offsets"]
            kind, shape = header[key]["dtype"], header[key]["shape"]
            if not all(type(number) is int and number >= 0 for number in (start, end, *shape)) or not start <= end <= size:
                raise ValueError(f"{key!r} lies outside of the file")
            if kind not in _TYPES:
                raise Unfit(f"{key!r} is of type {kind}, which is not read here; save it as F32")
            dtype = np.dtype(_TYPES[kind])
            if end - start != math.prod(shape) * dtype.itemsize:
                raise ValueError(f"{key!r} has another size than its shape says")
            file.seek(8 + length + start)
            flat = np.frombuffer(file.read(end - start), dtype)
            if kind == "BF16":
                flat = (flat.astype(np.uint32) << 16).view(np.float32)
            return flat.reshape(shape)

        yield from _mapping(list(header), get, uri, config)


READERS: dict[str, Callable[[Path, str, PartnerConfig], Iterator[Item | Problem]]] = {
    ".npy": _read_npy,
    ".npz": _read_npz,
    ".safetensors": _read_safetensors,
    ".pt": _read_torch,
    ".pth": _read_torch,
}


def _mapping(keys: Sequence[str], get: Callable[[str], Any], uri: str, config: PartnerConfig) -> Iterator[Item | Problem]:
    """Arrays by name: one of them with ids or companions beside it, or one for each subject."""
    ids = config.id_column or next((key for key in IDS if key in keys), None)
    if config.id_column and ids not in keys:
        raise Unfit(f"has no array {config.id_column!r}; name one of {some(keys)}")
    beside = {*(key for key in (ids, "session", "window") if key), *COMPANIONS}
    rest = [key for key in keys if key not in beside]
    chosen = _chosen(keys, rest, len(rest) < len(keys), config)
    if chosen is not None:
        yield _together(chosen, ids, keys, get, uri, config)
        return
    for key in rest:
        try:
            yield Item(
                array=_an_array(get(key), key),
                place=f"{uri}, {key}",
                file=f"{storage.name(uri)}#{key}",
                names=[apart(key, config.id_pattern)],
            )
        except Unfit as error:
            yield Problem(place=f"{uri}, {key}", file=f"{storage.name(uri)}#{key}", reason=error.reason, detail=error.detail)


def _chosen(keys: Sequence[str], rest: Sequence[str], together: bool, config: PartnerConfig) -> str | None:
    """The name of the one array with vectors; None: each is named by its subject."""
    if config.vector_column is not None:
        if config.vector_column not in keys:
            raise Unfit(f"has no array {config.vector_column!r}; name one of {some(keys)} with --vector-column")
        return config.vector_column
    usual = [key for key in rest if key in VECTORS]
    if together and len(rest) == 1:
        return rest[0]
    if len(usual) == 1:
        return usual[0]
    if not rest:
        raise Unfit("holds no array with vectors; write one beside the ids")
    if usual or together:
        raise Unfit(f"holds several arrays, {some(rest)}; say which with --vector-column")
    return None


def _an_array(value: Any, key: str) -> np.ndarray:
    if not isinstance(value, np.ndarray):
        raise Unfit(f"{key!r} is a {type(value).__name__} and no array; save it as a tensor or an array")
    return value


def _together(
    chosen: str, ids: str | None, keys: Sequence[str], get: Callable[[str], Any], uri: str, config: PartnerConfig
) -> Item:
    """An array with what stands beside it."""
    array = _an_array(get(chosen), chosen)
    count = len(array) if array.ndim > 1 else 1
    subjects = texts(get(ids), f"the array {ids!r}") if ids in keys and ids is not None else None
    sessions = texts(get("session"), "the array 'session'") if "session" in keys else None
    windows = whole_numbers(get("window"), "the array 'window'") if "window" in keys else None
    beside = {ids or "ids": subjects, "session": sessions, "window": windows}
    for name, values in beside.items():
        if values is not None and len(values) not in (1, count):
            raise Unfit(f"has {len(values)} of {name!r} for {count} rows of {chosen!r}; write one for each row")
    batched = array.ndim > 1 and any(values is not None and len(values) == count for values in beside.values())
    rows = count if batched else 1
    names: list[Name | None]
    if subjects is None:
        names = [of_file(uri, config.id_from, config.id_pattern)] * rows
    else:
        names = of_ids(subjects * rows if len(subjects) == 1 else subjects, False, config.id_pattern)
    if sessions is not None:
        labels = sessions * rows if len(sessions) == 1 else sessions
        names = [name and name._replace(session=session) for name, session in zip(names, labels, strict=True)]
    return Item(
        array=array,
        place=uri,
        file=storage.name(uri),
        names=names,
        windows=None if windows is None else windows * rows if len(windows) == 1 else windows,
        batched=batched,
        companions={key: np.asarray(_an_array(get(key), key)) for key in COMPANIONS if key in keys},
    )
