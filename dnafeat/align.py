"""Alignment: the DNA of subjects and another modality of theirs into one space of 512 dimensions, on Ray Train, from stored vectors.

The same command again goes on from the run's last checkpoint, or says that the artifact is there.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from dnafeat import alignartifact, alignscores, artifact, storage
from dnafeat.alignartifact import KIND, Aligned, Side
from dnafeat.alignconfig import AlignConfig
from dnafeat.alignment import Alignment
from dnafeat.alignreport import format_scores, picture
from dnafeat.alignscores import Modality, Scores
from dnafeat.alignworker import AlignData, align_worker
from dnafeat.covariates import Covariates
from dnafeat.errors import UsageError
from dnafeat.joinedrows import DNA
from dnafeat.preparation import Preparation
from dnafeat.subjects import SIDES, Subjects, gather
from dnafeat.trainrun import fit
from dnafeat.version import digest_of, environment

# A float32 holds this share of a number.
_FLOAT32, _TOLERANCE = 6e-8, 1e-5


@dataclass(frozen=True)
class Prepared:
    """Everything a run needs, checked before any worker starts; all that is fitted is fitted on training rows.

    Attributes
    ----------
    design : np.ndarray | None, shape=(n, covariate columns)
    steps : mapping of str to Preparation
        Of `dna` and of the partner.
    digest : str
        Of the data and the settings that shape what is learned: names the run.
    """

    subjects: Subjects
    covariates: Covariates | None
    design: np.ndarray | None
    steps: Mapping[str, Preparation]
    digest: str
    notes: list[str]

    def vectors(self, name: str, without: slice | None = None) -> np.ndarray:
        """The prepared vectors of a modality, (n, width) float32."""
        rows = self.subjects.dna if name == DNA else self.subjects.partner
        steps = self.steps[name]
        return steps(rows, self.design if steps.coef is not None else None, without)

    def data(self) -> AlignData:
        sides = ("train", "dev")
        subjects = self.subjects
        dna, partner = self.vectors(DNA), self.vectors(subjects.name)
        at = {side: subjects.rows(side) for side in sides}
        return AlignData(
            dna={side: dna[at[side]] for side in sides},
            partner={side: partner[at[side]] for side in sides},
            same={side: subjects.same[at[side]] for side in sides},
        )


def prepare(config: AlignConfig, *, show: bool = True) -> Prepared:
    """Joins, splits and fits. Raises UsageError for what is wrong, in one sentence."""
    subjects = gather(config, show=show)
    return prepared(config, subjects)


def prepared(config: AlignConfig, subjects: Subjects) -> Prepared:
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
    mean, gain = steps[DNA].mean, steps[DNA].gain
    noise = float(np.median(np.abs(mean * gain)[gain > 0])) * _FLOAT32
    if noise > _TOLERANCE:
        notes.append(
            f"DNA vectors of subjects differ by little of their size: what float32 rounds away of them is {noise:.1g} of their spread, and "
            f"projected vectors hold to that and not to {_TOLERANCE:.0e}"
        )
    digest = digest_of({**config.shaping(), "data": subjects.fingerprint, "genes": subjects.genes})[:16]
    return Prepared(subjects, covariates, design, steps, digest, notes)


def align(config: AlignConfig, *, show: bool = True, say: Callable[[str], None] = print) -> dict[str, Any]:
    """Trains, or goes on with, the run that data and settings name, measures it on held-out subjects, and writes its artifact.

    Returns
    -------
    dict
        The artifact's `dnafeat.json`, and whether it was there already (`already_trained`).

    Raises
    ------
    UsageError
        Something is wrong with tables, columns or settings; no worker was started.
    EncodingError
        The workers failed more often than they may; the same command goes on from the last checkpoint.
    """
    output = storage.absolute(config.output)
    ready = prepare(config, show=show)
    known = artifact.read(output)
    if known is not None:
        if known.get("digest") != ready.digest:
            raise UsageError(f"{config.output} holds the artifact of another run, {known.get('digest')}: give another --output")
        say(f"{config.output} holds this run's artifact already: nothing to train")
        return known | {"already_trained": True}
    storage.check_writable(output)
    for note in ready.notes:
        say(note)
    trained, result = fit(
        align_worker,
        {"settings": config.training()},
        ready.data(),
        config,
        name=f"align-{ready.digest}",
        output=output,
        told=f"{ready.subjects.people('train'):,} training subjects",
        show=show,
        say=say,
    )
    model = Alignment(*(ready.steps[name].width for name in (DNA, ready.subjects.name)))
    model.load_state_dict(trained)
    sides = {DNA: Side(ready.steps[DNA], model.dna), ready.subjects.name: Side(ready.steps[ready.subjects.name], model.partner)}
    scores = measure(config, ready, sides)
    about = _about(config, ready, model, result, scores)
    drawn = picture(scores, result["history"], ready.subjects.name)
    alignartifact.write(output, Aligned(about, sides, ready.covariates), about, result["history"], drawn)
    return about | {"already_trained": False}


def measure(config: AlignConfig, ready: Prepared, sides: Mapping[str, Side]) -> Scores:
    """All measures on the held-out subjects."""
    subjects = ready.subjects

    def modality(name: str, without: slice | None = None) -> dict[str, Modality]:
        rows = subjects.dna if name == DNA else subjects.partner
        found = {}
        for side in ("train", "test"):
            at = subjects.rows(side)
            own = None if ready.design is None else ready.design[at]
            vectors = sides[name].prepared(rows[at], own, without), sides[name](rows[at], own, without)
            found[side] = Modality(*(subjects.by_subject(one, side) for one in vectors))
        return found

    dna, partner = modality(DNA), modality(subjects.name)
    genes = len(subjects.genes)
    width = subjects.dna.shape[1] // max(1, genes)
    return alignscores.score(
        subjects,
        {side: {DNA: dna[side], subjects.name: partner[side]} for side in ("train", "test")},
        ablate=(lambda gene: modality(DNA, slice(gene * width, (gene + 1) * width))) if genes > 1 else None,
        phenotype=config.phenotype,
        permutations=config.permutations,
        resamples=config.resamples,
        seed=config.seed,
    )


def _about(config: AlignConfig, ready: Prepared, model: Alignment, result: Mapping[str, Any], scores: Scores) -> dict[str, Any]:
    """What `dnafeat.json` says. It names no subject."""
    subjects = ready.subjects
    joined = {name: value for name, value in subjects.about.items() if name != "summary"}
    steps = ready.steps[DNA]
    alone = steps.coef is None and steps.axes is None and subjects.about["aggregate"] != "concat"
    return {
        "kind": KIND,
        "digest": ready.digest,
        "joined": {"uri": storage.absolute(config.joined or f"{config.output}.joined"), **joined},
        "modalities": {
            name: {
                "width": len(own.mean),
                "prepared": own.width,
                "residualised": own.coef is not None,
                "pca": own.axes is not None,
            }
            for name, own in ready.steps.items()
        },
        "for_embed": bool(alone and subjects.about["dna"]["vector"] == "mean"),
        "covariates": None if ready.covariates is None else ready.covariates.to_dict(),
        "split": {side: subjects.people(side) for side in SIDES} | {"families": len(np.unique(subjects.groups))},
        "fingerprint": subjects.fingerprint,
        "temperature": float(np.exp(-float(model.log_scale.detach()))),
        "measures": scores.told,
        "notes": ready.notes,
        **{name: result[name] for name in ("steps", "best_step", "dev_loss", "seconds", "workers", "device")},
        "config": json.loads(json.dumps(config.to_dict())),
        "environment": environment(),
    }


def format_result(about: Mapping[str, Any], output: str) -> str:
    """The artifact of a run as one table."""
    split, (dna, partner) = about["split"], about["modalities"].items()
    done = "was trained already" if about["already_trained"] else f"{about['steps']:,} steps in {about['seconds']:.0f} s"
    measured = about["measures"]
    lines = [
        f"{output}: {dna[0]} ({dna[1]['width']:,} wide) and {partner[0]} ({partner[1]['width']:,}), {done}, best at step "
        f"{about['best_step']:,}, temperature {about['temperature']:.3f}",
        f"{split['train']:,} subjects to train on, {split['dev']:,} to choose by, {split['test']:,} held out, in {split['families']:,} "
        f"families; what follows is measured on those held out, {measured['families']:,} families",
        "",
        format_scores(measured),
        "",
        *about["notes"],
    ]
    if about["for_embed"]:
        lines.append(f"next: dnafeat embed … --projector {output}")
    else:
        lines.append(f"its DNA projector takes prepared vectors of subjects: dnafeat align-apply {output} --joined …")
    return "\n".join(lines)
