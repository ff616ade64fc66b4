"""The arrays of BrainLM, BrainMT and SwiFT: their shapes checked, and one vector made of each recording or window.

BrainLM: https://github.com/vandijklab/BrainLM, brainlm_mae/modeling_brainlm.py. BrainMT: https://github.com/arunkumar-kannan/BrainMT-fMRI,
src/brainmt. SwiFT: https://github.com/Transconnectome/SwiFT, project/module/models. schemas/PARTNERS.md has the contract.
"""

from __future__ import annotations

import re
from dataclasses import dataclass, field

import numpy as np

from dnafeat.partners.config import REGIONS, WITH_TOKENS, PartnerConfig
from dnafeat.partners.items import Item
from dnafeat.partners.names import Unfit

# Channels of SwiFT's last stage: 8 times an embed_dim of 24, 36 or 48, which its README recommends.
SWIFT_WIDTHS = (192, 288, 384)
BRAINMT_WIDTH = 512
# SwiFT's preprocessing writes a recording as frame_0.pt, frame_1.pt, … of [x, y, z, 1]: the model's input.
_FRAME = re.compile(r"frame_\d+\.pt|voxel_(mean|std)\.pt")


@dataclass(frozen=True)
class Pooled:
    """Vectors of an item, (rows, width) float32; what there were of tokens; and what the user should know of them."""

    vectors: np.ndarray
    tokens: int | None = None
    notes: tuple[str, ...] = field(default=())


def pooled(item: Item, config: PartnerConfig) -> Pooled:
    """One vector for each recording or window of an item.

    Raises
    ------
    Unfit
        The array holds no numbers, or is of a shape that the kind does not have.
    """
    array = item.array
    if array.dtype.kind not in "fiu":
        raise Unfit(f"holds {array.dtype} and no numbers; export the vectors")
    if not array.size:
        raise Unfit(f"is empty, of shape {_shape(array)}; export it again")
    if config.kind in WITH_TOKENS:
        return _of_tokens(item, config)
    if config.kind == "swift":
        return _of_maps(item)
    rows = array if item.batched else np.atleast_1d(array)[None] if array.ndim < 2 else array
    if rows.ndim != 2:
        raise Unfit(f"is of shape {_shape(array)}; one vector a file or row is wanted, [width] or [rows, width]")
    return Pooled(_float32(rows))


def _of_tokens(item: Item, config: PartnerConfig) -> Pooled:
    array, notes = item.array, _masking(item)
    if item.batched or array.ndim == 3 or (array.ndim == 2 and len(array) == 1):
        rows = array
    elif array.ndim == 1:
        rows = array[None]
    elif array.ndim == 2:
        rows = array if _are_vectors(array, config) else array[None]
    else:
        raise Unfit(f"is of shape {_shape(array)}; {config.kind} has [hidden], [tokens, hidden] or [rows, tokens, hidden]")
    if rows.ndim == 2:
        return Pooled(_float32(rows), notes=notes)
    if rows.ndim != 3:
        raise Unfit(
            f"is of shape {_shape(array)}; with an id for each row, {config.kind} has [rows, hidden] or [rows, tokens, hidden]"
        )
    tokens = rows.shape[1]
    if config.kind == "brainlm":
        _check_tokens(tokens, config)
    at = _cls(tokens, config)
    cls = rows[:, at]
    if config.pooling() == "cls":
        return Pooled(_float32(cls), tokens, notes)
    if tokens < 2:
        raise Unfit("holds CLS alone, and no tokens that could be averaged; take --pool cls")
    others = rows.sum(axis=1, dtype=np.float64) - cls.astype(np.float64)
    return Pooled(_float32(others / (tokens - 1)), tokens, notes)


def _are_vectors(array: np.ndarray, config: PartnerConfig) -> bool:
    """Return whether the rows of a two-dimensional array are vectors of windows and not tokens."""
    if config.rows is not None:
        return config.rows == "vectors"
    if config.kind == "brainlm" or config.cls_index is not None:
        return False
    raise Unfit(
        f"is of shape {_shape(array)} and has no ids: say --rows vectors if each row is a window (what BrainMT's forward_features gives), "
        "or --rows tokens if one of them is CLS"
    )


def _check_tokens(tokens: int, config: PartnerConfig) -> None:
    """BrainLM has CLS and, for each of 424 regions, one token for every `patch` timepoints."""
    if config.tokens is not None or config.timepoints is not None:
        wanted = config.tokens or REGIONS * (config.timepoints or 0) // config.patch + 1
        if tokens == wanted:
            return
        asked = f"{config.timepoints} timepoints make {wanted:,}" if config.timepoints else f"{wanted:,} were asked for"
        fault = f"has {tokens:,} tokens where {asked}"
        if tokens == wanted - 1:
            raise Unfit(f"{fault}: CLS is missing; export last_hidden_state whole")
        raise Unfit(f"{fault}: a mask was left on, or the recording is of another length; export with mask_ratio 0")
    if tokens > 1 and (tokens - 1) % REGIONS == 0:
        return
    if tokens % REGIONS == 0:
        raise Unfit(f"has {tokens:,} tokens, a multiple of {REGIONS}: CLS is missing; export last_hidden_state whole")
    raise Unfit(
        f"has {tokens:,} tokens, which is no {REGIONS}·k + 1: a mask was left on; export with mask_ratio 0, or say --tokens N for a model "
        "that has others, or --rows vectors if the rows are vectors of windows"
    )


def _cls(tokens: int, config: PartnerConfig) -> int:
    named = {None: 0, "first": 0, "last": tokens - 1, "middle": tokens // 2}
    at = named[config.cls_index] if config.cls_index in named else int(config.cls_index or 0)
    if at >= tokens:
        raise Unfit(f"has {tokens:,} tokens, and none with index {at}; say where CLS stands with --cls-index")
    return at


def _masking(item: Item) -> tuple[str, ...]:
    """What `mask` and `ids_restore` tell of how a recording went through BrainLM. Raises Unfit where a mask was on."""
    mask = item.companions.get("mask")
    if mask is not None and mask.any():
        share = np.count_nonzero(mask) / mask.size
        raise Unfit(f"was made with a mask over {share:.0%} of its tokens; export with mask_ratio 0")
    order = item.companions.get("ids_restore")
    if order is not None and item.array.ndim > 1 and order.shape[-1] > item.array.shape[-2] > 1:
        # As many as there were before the mask; without one CLS comes on top of them.
        raise Unfit(
            f"has {item.array.shape[-2]:,} tokens of {order.shape[-1]:,} (ids_restore): a mask was left on; export with mask_ratio 0"
        )
    if order is not None and (order != np.arange(order.shape[-1])).any():
        return ("shuffled",)
    return ()


def _of_maps(item: Item) -> Pooled:
    """SwiFT's encoder gives [B, C, D, H, W, T], which its heads average over all but channels."""
    array, shape = item.array, item.array.shape
    if _FRAME.fullmatch(item.file) and array.ndim == 4 and shape[-1] == 1:
        raise Unfit("is a volume that goes into SwiFT, not what comes out; export what the encoder gives")
    has_rows = item.batched or array.ndim in (2, 6) or (array.ndim == 5 and _has_batch(shape))
    rows = array if has_rows else array[None]
    if rows.ndim not in (2, 5, 6):
        raise Unfit(
            f"is of shape {_shape(array)}; SwiFT has [C], [C, d, h, w] or [C, d, h, w, t], and an axis for rows before them"
        )
    if rows.shape[1] not in SWIFT_WIDTHS and rows.ndim > 2 and rows.shape[-1] in SWIFT_WIDTHS:
        raise Unfit(f"is of shape {_shape(array)}, with its {rows.shape[-1]} channels last; move them to the front")
    if rows.ndim == 2:
        return Pooled(_float32(rows))
    return Pooled(_float32(rows.mean(axis=tuple(range(2, rows.ndim)), dtype=np.float64)))


def _has_batch(shape: tuple[int, ...]) -> bool:
    """Return whether five axes are [B, C, d, h, w] and not [C, d, h, w, t]."""
    return shape[0] == 1 or (shape[0] not in SWIFT_WIDTHS and shape[1] in SWIFT_WIDTHS)


def _float32(rows: np.ndarray) -> np.ndarray:
    with np.errstate(over="ignore"):  # what is too large becomes infinite, and is then refused by its place
        return np.ascontiguousarray(rows, np.float32)


def _shape(array: np.ndarray) -> str:
    return str(list(array.shape))
