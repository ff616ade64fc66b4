"""The 512-dimensional column: a view, steps, a map, steps, in float32 whatever the encoder computes in, named by one fingerprint.

    view       cls, mean or max, or several end to end (`cls+mean`)
    before     any of the steps below
    map        mlp: hidden -> 1024 -> 512 with GELU, dropout and LayerNorm; linear: minus a centre, times 512 rows of weights
    after      any of the steps

A step is `l2` (to length 1), `layernorm` (to mean 0 and variance 1 over the numbers of a vector, no learned weights), or `zscore` (each
number to mean 0 and variance 1 over *training entries*; the statistics were fitted once and stand here). Nothing is taken over a batch:
a vector would depend on its neighbours.

What one is called says where its weights are from: `random@SEED` drawn, never trained; `pca@…` fitted (`fit-projector`); `mlp@…` trained.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import re
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors.torch import load_file, save
from torch import Tensor, nn

from dnafeat import storage
from dnafeat.encoder.models.fetch import fetch
from dnafeat.errors import CheckpointError, UsageError, one_line
from dnafeat.untrusted import check_regular, read_object
from dnafeat.vectors import PROJECTED_WIDTH, STEPS, check_steps, check_view, parts

PROJECTOR_FILE, DESCRIPTION_FILE = "projector.safetensors", "projector.json"
# Below a store, by fingerprint.
KEPT = "projectors"
KINDS = ("random", "pca", "mlp")
# Grows when a projection's arithmetic changes beyond the stated tolerance (1e-5).
_FORMAT = 1
_INNER = 1024
_ROWS = 8192
_RANDOM = re.compile(r"random@(\d+)")


class Projector(nn.Module):
    """The map `mlp`: (n, inputs) float32 to (n, 512) float32."""

    def __init__(self, inputs: int, dropout: float = 0.1) -> None:
        super().__init__()
        self.expand = nn.Linear(inputs, _INNER)
        self.dropout = nn.Dropout(dropout)
        self.reduce = nn.Linear(_INNER, PROJECTED_WIDTH)
        self.norm = nn.LayerNorm(PROJECTED_WIDTH)

    def forward(self, pooled: Tensor) -> Tensor:
        return self.norm(self.reduce(self.dropout(nn.functional.gelu(self.expand(pooled)))))


class LinearMap(nn.Module):
    """The map `linear`: (n, inputs) float32 to (n, 512) float32, computed in float64; rows of zeros give zeros exactly.

    Attributes
    ----------
    centre : Tensor, shape=(inputs,), float32
    components : Tensor, shape=(512, inputs), float32
    """

    centre: Tensor
    components: Tensor

    def __init__(self, centre: Tensor, components: Tensor) -> None:
        super().__init__()
        self.register_buffer("centre", centre)
        self.register_buffer("components", components)

    def forward(self, pooled: Tensor) -> Tensor:
        return ((pooled.double() - self.centre.double()) @ self.components.double().T).float()


class L2(nn.Module):
    """To length 1; a vector of zeros stays one."""

    def forward(self, vectors: Tensor) -> Tensor:
        return nn.functional.normalize(vectors, dim=-1)


class PlainLayerNorm(nn.Module):
    def forward(self, vectors: Tensor) -> Tensor:
        return nn.functional.layer_norm(vectors, vectors.shape[-1:])


class ZScore(nn.Module):
    """(x - mean) * scale, number by number.

    Attributes
    ----------
    mean, scale : Tensor, shape=(width,), float32
        Fitted; `scale` is one over the standard deviation, and 1 where training entries do not differ.
    """

    mean: Tensor
    scale: Tensor

    def __init__(self, mean: Tensor, scale: Tensor) -> None:
        super().__init__()
        self.register_buffer("mean", mean)
        self.register_buffer("scale", scale)

    def forward(self, vectors: Tensor) -> Tensor:
        return (vectors - self.mean) * self.scale


_PLAIN_STEPS = {"l2": L2, "layernorm": PlainLayerNorm}
Map = Projector | LinearMap


class Projection(nn.Module):
    """A map from pooled vectors to `projected`: (n, inputs) float32 to (n, 512) float32. In eval mode a row depends on no other (1e-5).

    Parameters
    ----------
    mapping : Projector | LinearMap
    view : str
        What it takes: cls, mean or max, or several with plus signs between.
    before, after : sequence of nn.Module
        `L2`, `PlainLayerNorm` or `ZScore`.
    about : mapping
        What changes no number: `kind`, one of `KINDS` (else mlp), `seed` of a random map, `fitted` (which entries the statistics are of).
    """

    def __init__(
        self,
        mapping: Map,
        *,
        view: str = "mean",
        before: Sequence[nn.Module] = (),
        after: Sequence[nn.Module] = (),
        about: Mapping[str, Any] | None = None,
    ) -> None:
        super().__init__()
        check_view(view)
        self.view, self.about = view, dict(about or {})
        self.before, self.map, self.after = nn.ModuleList(before), mapping, nn.ModuleList(after)

    def forward(self, pooled: Tensor) -> Tensor:
        with _full_precision(pooled.device):
            for step in (*self.before, self.map, *self.after):
                pooled = step(pooled)
        return pooled

    def of(self, views: Mapping[str, Tensor]) -> Tensor:
        """`projected` of pooled vectors by name, each (n, hidden_size) float32."""
        taken = [views[name] for name in parts(self.view)]
        pooled = taken[0] if len(taken) == 1 else torch.cat(taken, 1)
        return torch.cat([self(some) for some in pooled.split(_ROWS)])

    @property
    def inputs(self) -> int:
        """Numbers that it takes: hidden_size for each of its views."""
        return self.map.expand.in_features if isinstance(self.map, Projector) else len(self.map.centre)

    @property
    def kind(self) -> str:
        return self.about.get("kind", "mlp")

    @property
    def name(self) -> str:
        """`random@SEED` for what that is alone, else its kind and the beginning of its fingerprint."""
        if self.kind == "random" and self._is_plain:
            return f"random@{self.about['seed']}"
        return f"{self.kind}@{self.fingerprint()[:12]}"

    def description(self) -> dict[str, Any]:
        """The description of the computation, without the weights."""
        return {
            "format": _FORMAT,
            "view": self.view,
            "before": [_step_name(step) for step in self.before],
            "map": "mlp" if isinstance(self.map, Projector) else "linear",
            "after": [_step_name(step) for step in self.after],
            "inputs": self.inputs,
            "outputs": PROJECTED_WIDTH,
        }

    def lineage(self) -> dict[str, Any]:
        """The part of a version's lineage that describes it, beside its fingerprint."""
        return {
            "name": self.name,
            **self.description(),
            **{name: value for name, value in self.about.items() if value is not None},
        }

    def tensors(self) -> dict[str, Tensor]:
        """Weights and statistics under the names that they have in the file: those of the map as they are, of steps `before.0.mean`."""
        return {name.removeprefix("map."): value.detach().cpu().contiguous() for name, value in self.state_dict().items()}

    @property
    def _is_plain(self) -> bool:
        return self.view == "mean" and isinstance(self.map, Projector) and not len(self.before) and not len(self.after)

    def fingerprint(self) -> str:
        """SHA-256 over the description and the weights as little-endian float32, in the order of their names.

        Of an mlp on the mean without any step it is over the weights alone: such were there before there were descriptions.
        """
        digest = hashlib.sha256()
        if not self._is_plain:
            digest.update(json.dumps(self.description(), sort_keys=True, separators=(",", ":")).encode())
        for name, value in sorted(self.tensors().items()):
            digest.update(name.encode() + value.numpy().astype("<f4").tobytes())
        return digest.hexdigest()

    def to_bytes(self) -> bytes:
        """`projector.safetensors`."""
        return save(self.tensors())

    def to_json(self) -> bytes:
        """`projector.json`."""
        content = {"name": self.name, **self.description(), "fingerprint": self.fingerprint(), "about": self.about}
        return json.dumps(content, indent=1).encode() + b"\n"

    def save(self, uri: str) -> None:
        """Write both files into a folder or prefix. The description comes first: weights of another do not pass for its own."""
        _put(storage.join(uri, DESCRIPTION_FILE), self.to_json())
        _put(storage.join(uri, PROJECTOR_FILE), self.to_bytes())

    def keep(self, store: str) -> None:
        """Write both files to a store, beside the vectors that it makes there, so that anyone can project again."""
        stem = storage.join(store, KEPT, self.fingerprint())
        _put(f"{stem}.json", self.to_json())
        _put(f"{stem}.safetensors", self.to_bytes())


def _put(uri: str, content: bytes) -> None:
    storage.write_whole(uri, lambda file: file.write(content))


def _step_name(step: nn.Module) -> str:
    return next(name for name, kind in {**_PLAIN_STEPS, "zscore": ZScore}.items() if type(step) is kind)


@contextlib.contextmanager
def _full_precision(device: torch.device) -> Iterator[None]:
    """A block in which float32 is float32: neither TF32 nor what an autocast around it would make of products."""
    if device.type == "cpu" and not torch.is_autocast_enabled("cpu"):
        yield
        return
    before = torch.backends.cuda.matmul.fp32_precision
    torch.backends.cuda.matmul.fp32_precision = "ieee"
    try:
        with torch.autocast(device.type, enabled=False):
            yield
    finally:
        torch.backends.cuda.matmul.fp32_precision = before


@torch.inference_mode()
def applied(steps: Sequence[nn.Module], vectors: Tensor) -> Tensor:
    """Apply steps and maps to (n, width) float32, one after the other, as a projection has them."""
    with _full_precision(vectors.device):
        for step in steps:
            vectors = step(vectors)
    return vectors


def plain_step(name: str) -> nn.Module:
    """A step that has no statistics."""
    return _PLAIN_STEPS[name]()


# -- where they come from --------------------------------------------------------------------------------------------------


def load_projector(name: str, hidden_size: int | None = None) -> Projection:
    """The projection of a name: `random@SEED`, an untrained, fixed random map of the mean, or a folder, `s3://` prefix or hub name.

    With `hidden_size` it must be one for vectors of that width, and for `random@SEED` it has to be given. Raises UsageError where there
    is none.
    """
    match = _RANDOM.fullmatch(name)
    if not match:
        return read_projector(fetch(name, "projector")[0], hidden_size)
    if hidden_size is None:
        raise UsageError(f"{name} has no width of its own: say with which encoder")
    seed = int(match[1])
    return Projection(random_map(seed, hidden_size), about={"kind": "random", "seed": seed}).eval()


def random_map(seed: int, inputs: int) -> Projector:
    """An mlp as it is drawn for a seed.

    The weights are drawn by NumPy's PCG64, which gives the same numbers on every machine; torch's generators do not promise to.
    """
    projector = Projector(inputs).eval()
    random = np.random.Generator(np.random.PCG64(seed))
    with torch.no_grad():
        for layer in (projector.expand, projector.reduce):
            # He's scale keeps the variance through the GELU.
            drawn = random.standard_normal(layer.weight.shape) * np.sqrt(2.0 / layer.in_features)
            layer.weight.copy_(torch.from_numpy(drawn.astype(np.float32)))
            layer.bias.zero_()
    return projector


def seed_of(name: str) -> int | None:
    """The seed in `random@SEED`; None for any other name."""
    match = _RANDOM.fullmatch(name)
    return int(match[1]) if match else None


def read_projector(folder: Path, hidden_size: int | None = None) -> Projection:
    """The projection that lies in an artifact's folder; one without `projector.json` is an mlp of the mean.

    Raises CheckpointError when it cannot be read, or does not fit vectors of a width.
    """
    file = folder / PROJECTOR_FILE
    content = _read_description(folder / DESCRIPTION_FILE)
    try:
        check_regular(file)
        stored = load_file(file)
        if strange := [name for name, value in stored.items() if value.is_complex()]:
            raise ValueError(f"{strange[0]!r} holds complex numbers")
        tensors = {name: value.float() for name, value in stored.items()}
    except Exception as error:  # whatever the library makes of a missing or broken file
        raise CheckpointError(f"{file} cannot be read as a projector: {one_line(error)}") from error
    before, after = (
        [_step(f"{side}.{i}", name, tensors) for i, name in enumerate(content[side])] for side in ("before", "after")
    )
    mapping = _mapping(content["map"], tensors)
    if mapping is None or any(step is None for step in (*before, *after)) or tensors:
        raise CheckpointError(f"{file} is no projector to {PROJECTED_WIDTH} dimensions: its weights have other names or shapes")
    steps = [[step for step in side if step is not None] for side in (before, after)]
    found = Projection(mapping, view=content["view"], before=steps[0], after=steps[1], about=content["about"]).eval()
    if hidden_size is not None and found.inputs != hidden_size * len(parts(found.view)):
        raise CheckpointError(
            f"{file} is no projector from {hidden_size} to {PROJECTED_WIDTH} dimensions: it takes {found.view}, {found.inputs} wide, of "
            f"another model"
        )
    if content.get("fingerprint", found.fingerprint()) != found.fingerprint():
        raise CheckpointError(f"{file} does not belong to the {DESCRIPTION_FILE} beside it: one of them was changed or replaced")
    return found


_LEGACY: dict[str, Any] = {"view": "mean", "before": [], "map": "mlp", "after": [], "about": {"kind": "mlp"}}


def _read_description(file: Path) -> dict[str, Any]:
    if not file.is_file():
        return _LEGACY
    try:
        content = read_object(file)
        if content["format"] != _FORMAT:
            raise CheckpointError(
                f"{file} has format {content['format']!r}, which this dnafeat does not read: it reads {_FORMAT}"
            )
        check_view(content["view"])
        check_steps([*content["before"], *content["after"]], STEPS)
        known = {name: content[name] for name in (*_LEGACY, "fingerprint")}
        if known["map"] not in ("mlp", "linear") or not isinstance(known["about"], dict):
            raise ValueError(f"map is {known['map']!r}")
    except (OSError, ValueError, KeyError, TypeError, UsageError) as error:
        if isinstance(error, CheckpointError):
            raise
        raise CheckpointError(f"{file} does not describe a projector: {one_line(error)}") from error
    return known


def _taken(tensors: dict[str, Tensor], shapes: Mapping[str, tuple[int | None, ...]]) -> list[Tensor] | None:
    """Tensors of these names and shapes, taken out; None where one is missing or of another shape."""
    for name, shape in shapes.items():
        there = tuple(tensors[name].shape) if name in tensors else ()
        if len(there) != len(shape) or any(wanted not in (None, size) for size, wanted in zip(there, shape, strict=True)):
            return None
    return [tensors.pop(name) for name in shapes]


def _step(place: str, name: str, tensors: dict[str, Tensor]) -> nn.Module | None:
    if name != "zscore":
        return plain_step(name)
    found = _taken(tensors, {f"{place}.mean": (None,), f"{place}.scale": (None,)})
    return ZScore(*found) if found and found[0].shape == found[1].shape else None


def _mapping(kind: str, tensors: dict[str, Tensor]) -> Map | None:
    if kind == "linear":
        found = _taken(tensors, {"centre": (None,), "components": (PROJECTED_WIDTH, None)})
        return LinearMap(*found) if found and len(found[0]) == found[1].shape[1] else None
    inner = tensors["expand.weight"].shape if "expand.weight" in tensors else ()
    # Before it is built: a tensor without a row can name any width and hold nothing.
    if len(inner) != 2 or inner[0] != _INNER or not inner[1]:
        return None
    projector = Projector(inner[1])
    shapes = {name: tuple(value.shape) for name, value in projector.state_dict().items()}
    if found := _taken(tensors, shapes):
        projector.load_state_dict(dict(zip(shapes, found, strict=True)))
    return projector if found else None
