"""`dnafeat fit-projector`: makes the artifact of a projection, its statistics fitted on named training entries alone.

Every z-score and the principal components take one pass over the training entries' vectors, which stream by. What comes out is the same
to the bit for the same entries, whatever else the store holds and however its files lie.
"""

from __future__ import annotations

import contextlib
import shutil
import tempfile
import time
import uuid
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

from torch import nn

from dnafeat import storage
from dnafeat.cluster.config import on_cluster
from dnafeat.cluster.spread import Each, here
from dnafeat.encoder.projection import Map, Projection, load_projector, plain_step, random_map, seed_of
from dnafeat.errors import UsageError
from dnafeat.project import statistics as fitting
from dnafeat.project.config import FitProjectorConfig
from dnafeat.project.entries import Training, find_lookup, find_training
from dnafeat.store import Store
from dnafeat.store.retry import looking_again
from dnafeat.vectors import describe_projection, parts


@dataclass(frozen=True, kw_only=True)
class FitSummary:
    """The result of `dnafeat fit-projector`.

    Attributes
    ----------
    output, name, fingerprint : str
    description : str
        In a line.
    entries, sequences : int
        Training entries, and their distinct sequences; 0 where nothing was fitted.
    components : int | None
        Of 512, where they are principal ones; the other numbers of its outcome are 0.
    explained : float | None
        Share of the variance that they hold.
    notes : list of str
    seconds : float
    """

    output: str
    name: str
    fingerprint: str
    description: str
    entries: int
    sequences: int
    components: int | None
    explained: float | None
    notes: list[str]
    seconds: float

    def __repr__(self) -> str:
        return format_summary(self)


def fit_projector(config: FitProjectorConfig, *, show: bool = True) -> FitSummary:
    """Fit the statistics a projection needs, and write its artifact.

    Raises
    ------
    UsageError, StoreError
        Map, view, store or training entries are wrong, or the vectors cannot be read. Nothing is written.
    """
    began = time.monotonic()
    with _spread(config, show) as (each, folder):

        def fitted_once() -> tuple[_Fit, Projection]:
            fit = _Fit(config, each, folder)
            return fit, fit.projection()

        made, projection = looking_again(fitted_once)
    with storage.reached(config.output):
        projection.save(storage.absolute(config.output))
    fitted = projection.about.get("fitted") if made.training else None
    return FitSummary(
        output=config.output,
        name=projection.name,
        fingerprint=projection.fingerprint(),
        description=describe_projection(projection.lineage()),
        entries=fitted["entries"] if fitted else 0,
        sequences=fitted["sequences"] if fitted else 0,
        components=made.about.get("components"),
        explained=made.about.get("explained"),
        notes=made.notes,
        seconds=round(time.monotonic() - began, 3),
    )


@contextlib.contextmanager
def _spread(config: FitProjectorConfig, show: bool) -> Iterator[tuple[Each, str]]:
    """Choose how parts are processed, and a folder for temporary files: on a cluster as tasks, which meet below the output."""
    spread = on_cluster() and config.store is not None
    folder = tempfile.mkdtemp(prefix="dnafeat-")
    work = storage.join(storage.absolute(config.output), "work", uuid.uuid4().hex) if spread else folder
    try:
        if spread:
            from dnafeat.cluster import session as cluster
            from dnafeat.cluster.tasks import over_tasks

            cluster.start_ray()
            yield over_tasks(show), work
        else:
            yield here, folder
    finally:
        shutil.rmtree(folder, ignore_errors=True)
        if spread:
            storage.remove_folder(work)


@dataclass
class _Fit:
    config: FitProjectorConfig
    each: Each
    folder: str
    training: Training | None = None
    about: dict[str, Any] = field(default_factory=dict)
    notes: list[str] = field(default_factory=list)

    def projection(self) -> Projection:
        config, seed = self.config, seed_of(self.config.map)
        inner = load_projector(config.map) if config.map != "pca" and seed is None else None
        view = config.view or (inner.view if inner else "mean")
        if inner is not None and inner.view != view:
            raise UsageError(f"{config.map} takes {inner.view} and not {view}: leave --view out")
        if config.map == "pca" or "zscore" in (*config.before, *config.after):
            assert config.store is not None
            self.training = find_training(Store(config.store), config, view, self.folder)
            self.about["fitted"] = dict(self.training.about)
            if self.training.unmatched:
                self.notes.append(f"{self.training.unmatched:,} values of {config.train} are those of no entry")
        before = self._steps(view, config.before, [])
        if inner is not None:
            self._check_width(inner, view)
            before = [*before, *inner.before]
            mapping: Map = inner.map
            self.about |= {**{name: value for name, value in inner.about.items() if name != "fitted"}, "of": inner.lineage()}
        elif seed is not None:
            mapping = random_map(seed, self._inputs(view))
            self.about |= {"kind": "random", "seed": seed}
        else:
            mapping = self._principal(view, before)
        own = [*inner.after] if inner is not None else []
        after = self._steps(view, config.after, [*before, mapping, *own])
        return Projection(mapping, view=view, before=before, after=[*own, *after], about=self.about).eval()

    def _steps(self, view: str, names: Sequence[str], done: Sequence[nn.Module]) -> list[nn.Module]:
        """Steps behind those that are `done`, each fitted on what comes out of the ones before it."""
        made: list[nn.Module] = []
        for name in names:
            if name != "zscore":
                made.append(plain_step(name))
                continue
            assert self.training is not None
            made.append(fitting.zscore(self.training.moments(view, [*done, *made], self.each, pairs=False)))
        return made

    def _principal(self, view: str, before: Sequence[nn.Module]) -> Map:
        assert self.training is not None
        found = fitting.principal_components(
            self.training.moments(view, before, self.each, pairs=True), whiten=self.config.whiten
        )
        self.about |= {
            "kind": "pca",
            "components": found.components,
            "explained": found.explained,
            "whitened": self.config.whiten,
        }
        if found.components < len(found.map.components):
            self.notes.append(
                f"there are {found.components} principal components, so that the other {len(found.map.components) - found.components} of "
                f"{len(found.map.components)} numbers of the map's outcome are 0"
            )
        return found.map

    def _inputs(self, view: str) -> int:
        store = Store(self.config.store or "")
        history = store.history()
        lookup = find_lookup(store, history, history.resolve(self.config.version), view)
        return sum(lookup.widths(parts(view)).values())

    def _check_width(self, inner: Projection, view: str) -> None:
        """Raise UsageError where an artifact's map is not one for the store's vectors."""
        if self.config.store is not None and (width := self._inputs(view)) != inner.inputs:
            raise UsageError(f"{self.config.map} takes {view} of {inner.inputs} numbers, and the store's are {width} wide")


def format_summary(summary: FitSummary) -> str:
    """Describe a fitted projection in a few lines, with the next command to try."""
    s = summary
    lines = [f"{s.name} is in {s.output} ({s.seconds:.1f} s)", "", f"  steps    {s.description}"]
    if s.entries:
        lines.append(f"  training {s.entries:,} entries of {s.sequences:,} distinct sequences")
    if s.components is not None and s.explained is not None:
        lines.append(f"  kept     {s.components} principal components with {100 * s.explained:.1f} % of the variance")
    lines.append(f"  sha256   {s.fingerprint}")
    lines += [f"  note     {note}" for note in s.notes]
    return "\n".join([*lines, "", f"next: dnafeat project --store STORE --projector {s.output}"])
