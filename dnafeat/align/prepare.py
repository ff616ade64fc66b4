"""What an alignment needs before any worker starts: subjects joined and split, and all that is fitted on those it trains on."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property

import numpy as np
import torch

from dnafeat.align import kinship
from dnafeat.align import scores as alignscores
from dnafeat.align.config import AlignConfig
from dnafeat.align.covariates import Covariates
from dnafeat.align.encoder import Letters, encoding, read_letters, subject_encoder
from dnafeat.align.nuisance import Families, Residuals, correlation_of
from dnafeat.align.preparation import Preparation
from dnafeat.align.subjects import Subjects, gather
from dnafeat.align.worker import AlignData, Tuning
from dnafeat.encoder.source import Source
from dnafeat.errors import UsageError
from dnafeat.join.config import DNA
from dnafeat.provenance import digest_of
from dnafeat.training.config import default_rate

# How near the vectors of sequences must be to those that are stored of them, of the largest number there.
_ALIKE = 1e-3
# Held-out families, and different orders of them, below which a permutation test and a bootstrap say nothing.
_LEAST_FAMILIES, _LEAST_ORDERS = 8, 1000


@dataclass(frozen=True)
class PreparedAlignment:
    """Everything a run needs, checked before any worker starts; all that is fitted is fitted on training rows.

    Attributes
    ----------
    design : np.ndarray | None, shape=(n, covariate columns)
    steps : mapping of str to Preparation
        Of `dna` and of the partner.
    digest : str
        Of the data and the settings that shape what is learned: names the run.
    source, letters : Source | None, Letters | None
        Base and sequences of an encoder that is tuned, too.
    """

    subjects: Subjects
    covariates: Covariates | None
    design: np.ndarray | None
    steps: Mapping[str, Preparation]
    digest: str
    notes: list[str]
    source: Source | None = None
    letters: Letters | None = None

    def vectors(self, name: str, without: slice | None = None) -> np.ndarray:
        """The prepared vectors of a modality, (n, width) float32."""
        rows = self.subjects.dna if name == DNA else self.subjects.partner
        steps = self.steps[name]
        return steps(rows, self.design if steps.coef is not None else None, without)

    def nuisance(self, at: np.ndarray) -> Residuals:
        """The map from some rows, one of each subject, to what permutation tests exchange: without the covariates, where there are any."""
        subjects = self.subjects
        families = subjects.exchanged(at)
        if self.covariates is None:
            return Residuals.none(families)
        columns = {name: [subjects.columns[name][i] for i in at] for name in self.covariates.names}
        return self.covariates.nuisance(columns, [subjects.keys[i] for i in at], Families.of(families, self._relatives))

    @cached_property
    def _relatives(self) -> float:
        """The correlation of relatives, of training subjects and the mean of both modalities."""
        subjects = self.subjects
        rows, families = subjects.rows("train"), subjects.exchanged(subjects.first("train"))
        if len(np.unique(families)) == len(families):
            return 0.5
        both = [subjects.by_subject(self.vectors(name)[rows], "train") for name in self.steps]
        return float(np.mean([correlation_of(families, vectors) for vectors in both]))

    def tuning(self, config: AlignConfig) -> Tuning | None:
        if self.source is None or self.letters is None:
            return None
        return Tuning(
            letters=self.letters,
            rows={side: np.flatnonzero(self.subjects.rows(side)) for side in ("train", "dev")},
            mean=self.steps[DNA].mean,
            gain=self.steps[DNA].gain,
            rate=config.encoder_learning_rate or default_rate("lora", self.source.checkpoint.config().hidden_size),
        )

    def data(self, tuning: Tuning | None = None) -> AlignData:
        sides = ("train", "dev")
        subjects = self.subjects
        dna, partner = self.vectors(DNA), self.vectors(subjects.name)
        at = {side: subjects.rows(side) for side in sides}
        return AlignData(
            dna={side: dna[at[side]] for side in sides},
            partner={side: partner[at[side]] for side in sides},
            same={side: subjects.same[at[side]] for side in sides},
            tuning=tuning,
        )


def prepare(config: AlignConfig, *, show: bool = True) -> PreparedAlignment:
    """Joins, splits and fits. Raises UsageError for what is wrong, in one sentence."""
    subjects = gather(config, show=show)
    return prepared(config, subjects)


def prepared(config: AlignConfig, subjects: Subjects) -> PreparedAlignment:
    """What is fitted on the training rows of some subjects."""
    train, notes = subjects.rows("train"), list(subjects.notes)
    covariates, design = None, None
    if config.covariates:
        columns = {name: subjects.columns[name] for name in config.covariates}
        covariates = Covariates.fit(columns, train, config.categorical, config.covariate_terms, config.pairs)
        design, strange = covariates.design(columns, subjects.keys)
        notes += [
            f"nothing of {name} is taken out of {count:,} row(s), whose value no training subject has"
            for name, count in strange.items()
        ]
    steps = {}
    for name, rows in ((DNA, subjects.dna), (subjects.name, subjects.partner)):
        own = config.residualise in ("both", "dna" if name == DNA else "partner")
        components = config.pca if name == DNA else None
        steps[name] = Preparation.fit(rows[train], design[train] if design is not None and own else None, components)
        if not steps[name].varies:
            raise UsageError(f"the vectors of {name} are the same for all training subjects: nobody can be told apart by them")
    if len(subjects.genes) == 1:
        notes.append("one gene cannot be left out of one: what it costs to leave genes out is not measured")
    if config.phenotype:
        alignscores.target(subjects, config.phenotype)
    shaping = {**config.shaping(), "data": subjects.fingerprint, "genes": subjects.genes}
    source, letters = None, None
    if config.sequences is not None:
        source = Source.find(encoding(config))
        letters = read_letters(config, subjects.keys, source, subjects.about["on"])
        _check_letters(config, source, letters, subjects)
        shaping |= {"sequences": letters.fingerprint, "model": source.checkpoint.weights_sha256}
        shaping |= {"adapter": source.adapter.fingerprint() if source.adapter else None}
    ready = PreparedAlignment(subjects, covariates, design, steps, digest_of(shaping)[:16], notes, source, letters)
    notes += _exchanged(ready)
    return ready


def _exchanged(ready: PreparedAlignment) -> list[str]:
    """Sentences on who changes places in permutation tests. Raises UsageError where too few do."""
    subjects = ready.subjects
    for side, words in (("train", "training"), ("test", "held-out")):
        at = subjects.first(side)
        rest = ready.nuisance(at)
        families, units = len(np.unique(subjects.exchanged(at))), len(np.unique(rest.groups))
        orders, movable = kinship.arrangements(rest.groups), kinship.movable(rest.groups)
        who = f"{len(at):,} {words} subjects in {families:,} families"
        taken = f"the covariates take {families - units:,} degrees of freedom" if rest.families else ""
        if units < _LEAST_FAMILIES or (side == "test" and orders < _LEAST_ORDERS):
            raise UsageError(
                f"{who}{f', of which {taken},' if taken else ''} are too few to test: {units:,} rows or families that are exchanged, in "
                f"{orders:,} orders, where {_LEAST_FAMILIES} and {_LEAST_ORDERS:,} are needed; give another --test-share or --seed, "
                f"more families{', or fewer covariates or levels' if taken else ', or one member of each'}"
            )
    if taken:
        notes = [f"permutation tests exchange {units:,} rows for {who}: the mean of each family, and {taken}"]
    else:
        notes = [f"permutation tests exchange {movable:,} of {who}, each family for others of its size"]
    if rest.left_out:
        notes.append(
            f"held-out subjects are too few for {rest.left_out:,} columns of curves and products of covariates, which stay in the tests"
        )
    return notes


def _check_letters(config: AlignConfig, source: Source, letters: Letters, subjects: Subjects) -> None:
    """Raises UsageError where the vectors of some subjects are not those that their sequences have."""
    some = np.arange(min(3, len(subjects)))
    encoder = subject_encoder(source, config, letters).eval()
    with torch.no_grad():
        found = encoder(some).numpy()
    stored = subjects.dna[some]
    if found.shape != stored.shape or not np.allclose(found, stored, rtol=0, atol=_ALIKE * np.abs(stored).max()):
        raise UsageError(
            f"the sequences of {subjects.keys[0]!r} in {config.sequences} have other vectors by {source.checkpoint.name} than version "
            f"{subjects.about['dna']['feature_version']} has: name the table that was embedded, and the version's own --model and --adapter"
        )


def for_embed(subjects: Subjects, steps: Preparation) -> bool:
    """Whether the DNA's projector takes what embedding has at hand: a mean vector, and nothing of the subject."""
    alone = steps.coef is None and steps.axes is None and subjects.about["aggregate"] != "concat"
    return bool(alone and subjects.about["dna"]["vector"] == "mean")
