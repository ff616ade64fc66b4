"""What an alignment needs before any worker starts: subjects joined and split, and all that is fitted on those it trains on."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import torch

from dnafeat.align import scores as alignscores
from dnafeat.align.config import AlignConfig
from dnafeat.align.covariates import Covariates
from dnafeat.align.encoder import Letters, encoding, read_letters, subject_encoder
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
        covariates = Covariates.fit(columns, train, config.categorical)
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
    return PreparedAlignment(subjects, covariates, design, steps, digest_of(shaping)[:16], notes, source, letters)


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
