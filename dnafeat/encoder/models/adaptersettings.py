"""Bounds of an adapter's settings: PEFT builds what `adapter_config.json` says before anybody can compare it with the weights."""

from __future__ import annotations

import math
import re
from collections.abc import Iterator, Mapping
from typing import Any

from dnafeat.declarations import shown

# Variants of LoRA that load files or modules of their own, repeat layers, or need more than the adapter's weights.
_REFUSED = (
    *(
        "megatron_config",
        "layer_replication",
        "corda_config",
        "lora_ga_config",
        "monteclora_config",
        "kasa_config",
        "velora_config",
    ),
    *("arrow_config", "use_bdlora", "use_qalora", "trainable_token_indices", "target_parameters", "alora_invocation_tokens"),
)
_INITIALISED = ("gaussian", "eva", "orthogonal", "pissa", "olora")
_MOST_ITERATIONS = 100
# A rank that can be laid out and compared with the weights key by key.
_LAID_OUT = 1_024
_MOST_LETTERS, _MOST_WILD = 10_000, 8
# A repeated group takes time that grows with a power of two of a name's length.
_REPEATED_GROUP = re.compile(r"\)[*+{]")


def check(values: Mapping[str, Any]) -> None:
    """Raise ValueError for settings of another type than PEFT writes, and for those that are not read here."""
    for name in _REFUSED:
        if values.get(name):
            raise ValueError(
                f"{name} is {shown(values[name])}, which is not read here: merge the adapter with PEFT, and give the model"
            )
    base = values.get("base_model_name_or_path")
    if base is not None and not isinstance(base, str):
        raise ValueError(f"base_model_name_or_path is {shown(base)}: it should be a text")
    _check_start(values.get("init_lora_weights"))
    for name in ("rank_pattern", "alpha_pattern"):
        pattern = values.get(name)
        if pattern is not None and not isinstance(pattern, dict):
            raise ValueError(f"{name} is {shown(pattern)}: it should be an object that maps names of modules to numbers")
    for name, alpha in (("lora_alpha", values.get("lora_alpha")), *_items(values, "alpha_pattern")):
        if alpha is not None and (isinstance(alpha, bool) or not isinstance(alpha, int | float) or not math.isfinite(alpha)):
            raise ValueError(f"{name} is {shown(alpha)}: it should be a number")
    for name, pattern in _patterns(values):
        _check_pattern(name, pattern)


def check_ranks(values: Mapping[str, Any], most: int) -> None:
    """Raise ValueError for a rank that is no whole number, or far larger than the weights have (`most`)."""
    for name, rank in (("r", values.get("r", 8)), *_items(values, "rank_pattern")):
        if type(rank) is not int or rank < 1:
            raise ValueError(f"{name} is {shown(rank)}: it should be a whole number above 0")
        if rank > max(most, _LAID_OUT):
            raise ValueError(f"{name} is {shown(rank)}, and its weights have a rank of {most} at the most")


def _check_start(start: Any) -> None:
    if start is None or isinstance(start, bool) or start in _INITIALISED:
        return
    found = re.fullmatch(r"pissa_niter_(\d{1,99})", start, re.ASCII) if isinstance(start, str) else None
    if found is None:
        raise ValueError(f"init_lora_weights is {shown(start)}, which is not read here")
    if int(found[1]) > _MOST_ITERATIONS:
        raise ValueError(f"init_lora_weights is {shown(start)}: more than {_MOST_ITERATIONS} iterations are not made here")


def _items(values: Mapping[str, Any], name: str) -> Iterator[tuple[str, Any]]:
    for key, value in (values.get(name) or {}).items():
        yield f"{name} of {key[:100]!r}", value


def _patterns(values: Mapping[str, Any]) -> Iterator[tuple[str, Any]]:
    """Texts that PEFT takes for regular expressions, or compares with names of modules."""
    for name in ("target_modules", "exclude_modules", "layers_pattern"):
        some = values.get(name)
        for one in some if isinstance(some, list) else [some]:
            if one is not None:
                yield name, one
    for name in ("rank_pattern", "alpha_pattern"):
        for one in values.get(name) or {}:
            yield name, one


def _check_pattern(name: str, pattern: Any) -> None:
    if not isinstance(pattern, str):
        raise ValueError(f"{name} holds {shown(pattern)}: it should be the name of a module")
    wild = len(re.findall(r"(?<!\\)[*+{]", pattern))
    if len(pattern) > _MOST_LETTERS or wild > _MOST_WILD or _REPEATED_GROUP.search(pattern):
        raise ValueError(f"{name} holds {shown(pattern)}, a pattern that can take for ever to match: name the modules instead")
