"""Alignment: the DNA of subjects and another modality of theirs into one space of 512 dimensions, on Ray Train, from stored vectors.

The same command again goes on from the run's last checkpoint, or says that the artifact is there.
"""

from __future__ import annotations

import json
import tempfile
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors.torch import save_file

from dnafeat import alignartifact, alignscores, artifact, storage
from dnafeat.alignartifact import KIND, Aligned, Side
from dnafeat.alignconfig import AlignConfig
from dnafeat.alignencoder import Letters, encoding, read_letters, subject_encoder
from dnafeat.alignment import Alignment, on_raw_vectors
from dnafeat.alignreport import format_scores, picture
from dnafeat.alignscores import Modality, Scores
from dnafeat.alignworker import AlignData, Tuning, align_worker, split_state
from dnafeat.config import EncodingConfig
from dnafeat.covariates import Covariates
from dnafeat.encoder import Encoder
from dnafeat.errors import UsageError
from dnafeat.finetuneconfig import default_rate
from dnafeat.joinedrows import DNA
from dnafeat.models.adapter import Source
from dnafeat.preparation import Preparation
from dnafeat.projection import PROJECTOR_FILE
from dnafeat.subjects import SIDES, Subjects, gather
from dnafeat.trainrun import fit
from dnafeat.version import digest_of, environment

# A float32 holds this share of a number.
_FLOAT32, _TOLERANCE = 6e-8, 1e-5
# How near the vectors of sequences must be to those that are stored of them, of the largest number there.
_ALIKE = 1e-3


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
    shaping = {**config.shaping(), "data": subjects.fingerprint, "genes": subjects.genes}
    source, letters = None, None
    if config.sequences is not None:
        source = Source.find(encoding(config))
        letters = read_letters(config, subjects.keys, source, subjects.about["on"])
        _check_letters(config, source, letters, subjects)
        shaping |= {"sequences": letters.fingerprint, "model": source.checkpoint.weights_sha256}
        shaping |= {"adapter": source.adapter.fingerprint() if source.adapter else None}
    return Prepared(subjects, covariates, design, steps, digest_of(shaping)[:16], notes, source, letters)


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
        {"settings": config.training(), "config": config, "pins": ready.source.pins if ready.source else None},
        ready.data(ready.tuning(config)),
        config,
        name=f"align-{ready.digest}",
        output=output,
        told=f"{ready.subjects.people('train'):,} training subjects",
        show=show,
        say=say,
    )
    model = Alignment(*(ready.steps[name].width for name in (DNA, ready.subjects.name)))
    own, tuned = split_state(trained)
    model.load_state_dict(own)
    sides = {DNA: Side(ready.steps[DNA], model.dna), ready.subjects.name: Side(ready.steps[ready.subjects.name], model.partner)}
    with tempfile.TemporaryDirectory(prefix="dnafeat-") as scratch:
        takes: str = ready.subjects.about["dna"]["feature_version"]
        further: dict[str, Any] = {}
        if ready.source is not None and ready.letters is not None:
            folder = Path(scratch) / "adapter"
            further, takes, dna = _tuned(config, ready, ready.source, ready.letters, sides[DNA], tuned, folder)
            ready = replace(ready, subjects=replace(ready.subjects, dna=dna))
        scores = measure(config, ready, sides)
        about = _about(config, ready, model, result, scores) | further | {"takes": takes}
        drawn = picture(scores, result["history"], ready.subjects.name)
        alignartifact.write(
            output, Aligned(about, sides, ready.covariates), about, result["history"], drawn, Path(scratch) / "adapter"
        )
    return about | {"already_trained": False}


def _tuned(
    config: AlignConfig,
    ready: Prepared,
    source: Source,
    letters: Letters,
    side: Side,
    tuned: Mapping[str, torch.Tensor],
    folder: Path,
) -> tuple[dict[str, Any], str, np.ndarray]:
    """Writes the tuned encoder's adapter, and encodes everybody's sequences by it as `embed --adapter` does.

    Returns
    -------
    dict
        What `dnafeat.json` says of base and encoding, by which the adapter is known.
    str
        The feature version that it makes.
    np.ndarray, shape=(n, hidden_size), float32
    """
    encoder = subject_encoder(source, config, letters).encoder
    with torch.no_grad():
        for name, value in encoder.named_parameters():
            if name in tuned:
                value.copy_(tuned[name])
    folder.mkdir()
    artifact.write_adapter(folder, encoder, source)
    save_file(on_raw_vectors(side.projector, side.steps).state_dict(), folder / PROJECTOR_FILE)
    asked, found = encoding(config), source.checkpoint
    about = {
        "base": {
            "model": artifact.base_name(found),
            "revision": found.revision,
            "weights_sha256": found.weights_sha256,
            "hidden_size": found.config().hidden_size,
        },
        "encoding": {"kmer": source.kmer(asked), "special_tokens": source.special_tokens(asked)},
    }
    (folder / artifact.ABOUT).write_text(json.dumps(about))
    engine = Encoder.load(EncodingConfig(model=config.model, adapter=str(folder), precision="float32"))
    (folder / artifact.ABOUT).unlink()
    return about, engine.version.digest, letters.means(engine.encode(letters.sequences).mean, len(ready.subjects))


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
        lines.append(f"next: dnafeat embed … --{'adapter' if 'base' in about else 'projector'} {output}")
    else:
        lines.append(f"its DNA projector takes prepared vectors of subjects: dnafeat align-apply {output} --joined …")
    return "\n".join(lines)
