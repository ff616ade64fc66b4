"""Alignment: the DNA of subjects and another modality of theirs into one space of 512 dimensions, from stored vectors.

The same command resumes from the run's last checkpoint, or reports that the artifact is there.
"""

from __future__ import annotations

import json
import logging
import tempfile
from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch

from dnafeat import storage
from dnafeat.align import artifact as alignartifact
from dnafeat.align import scores as alignscores
from dnafeat.align.artifact import Aligned, Side
from dnafeat.align.config import AlignConfig
from dnafeat.align.encoder import Letters, encoding, subject_encoder
from dnafeat.align.model import Alignment
from dnafeat.align.prepare import PreparedAlignment, for_embed, prepare
from dnafeat.align.report import format_scores, picture
from dnafeat.align.scores import Modality, Scores
from dnafeat.align.subjects import SIDES
from dnafeat.align.worker import AlignJob, align_worker, split_state
from dnafeat.encoder import Encoder
from dnafeat.encoder.config import EncodingConfig
from dnafeat.encoder.source import Source
from dnafeat.join.config import DNA
from dnafeat.provenance import environment
from dnafeat.training.artifact import ABOUT, ALIGNMENT, TrainingSummary, base_name, trained_before, write_adapter
from dnafeat.training.run import train
from dnafeat.training.worker import Launch, TrainingRun

_log = logging.getLogger(__name__)
_UNLIKELY = 0.01  # p at which covariates are reported to explain what is left


class AlignSummary(TrainingSummary):
    """Summary of `align`: `dnafeat.json`, with measures on held-out subjects, steps and seconds, `already_trained` and `artifact`."""

    def __repr__(self) -> str:
        return format_result(self, self["artifact"])


def align(
    config: AlignConfig, *, show: bool = True, say: Callable[[str], None] = _log.info, launch: Launch = train
) -> AlignSummary:
    """Train, or resume, the run that data and settings name, measure it on held-out subjects, and write its artifact.

    Parameters
    ----------
    show : bool
        Whether to show progress bars.
    say : function
        Called with each sentence that a user should read before training ends.
    launch : Launch
        Runs the workers.

    Returns
    -------
    AlignSummary
        `already_trained` is whether the artifact was there.

    Raises
    ------
    UsageError
        Something is wrong with tables, columns or settings; no worker was started.
    EncodingError
        The workers failed more often than they may; the same command resumes from the last checkpoint.
    """
    output = storage.absolute(config.output)
    ready = prepare(config, show=show)
    if known := trained_before(config.output, ready.digest, ready.notes, say):
        return AlignSummary(known, artifact=config.output)
    run = TrainingRun(
        name=f"align-{ready.digest}",
        work=align_worker,
        job=AlignJob(config=config, pins=ready.source.pins) if ready.source else AlignJob(config=config),
        data=ready.data(ready.tuning(config)),
        workers=config.workers,
        output=output,
        subject=f"{ready.subjects.people('train'):,} training subjects",
        batch=f"batches of {config.batch_size}",
    )
    trained, result = launch(run, show=show, say=say)
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
    return AlignSummary(about, already_trained=False, artifact=config.output)


def _tuned(
    config: AlignConfig,
    ready: PreparedAlignment,
    source: Source,
    letters: Letters,
    side: Side,
    tuned: Mapping[str, torch.Tensor],
    folder: Path,
) -> tuple[dict[str, Any], str, np.ndarray]:
    """Write the tuned encoder's adapter, and encode the sequences of all subjects by it as `embed --adapter` does.

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
    write_adapter(folder, encoder, source)
    side.projection().save(str(folder))
    asked, found = encoding(config), source.checkpoint
    about = {
        "base": {
            "model": base_name(found),
            "revision": found.revision,
            "weights_sha256": found.weights_sha256,
            "hidden_size": found.config().hidden_size,
        },
        "encoding": {"kmer": source.kmer(asked), "special_tokens": source.special_tokens(asked)},
    }
    (folder / ABOUT).write_text(json.dumps(about))
    engine = Encoder.load(EncodingConfig(model=config.model, adapter=str(folder), precision="float32"))
    (folder / ABOUT).unlink()
    return about, engine.version.digest, letters.means(engine.encode(letters.sequences).mean, len(ready.subjects))


def measure(config: AlignConfig, ready: PreparedAlignment, sides: Mapping[str, Side]) -> Scores:
    """Measure an alignment on the held-out subjects."""
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
        nuisance=ready.nuisance if ready.covariates is not None else None,
        ablate=(lambda gene: modality(DNA, slice(gene * width, (gene + 1) * width))) if genes > 1 else None,
        phenotype=config.phenotype,
        permutations=config.permutations,
        resamples=config.resamples,
        seed=config.seed,
    )


def _about(
    config: AlignConfig, ready: PreparedAlignment, model: Alignment, result: Mapping[str, Any], scores: Scores
) -> dict[str, Any]:
    """Make the content of `dnafeat.json`. It names no subject."""
    subjects = ready.subjects
    joined = {name: value for name, value in subjects.about.items() if name != "summary"}
    return {
        "kind": ALIGNMENT,
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
        "for_embed": for_embed(subjects, ready.steps[DNA]),
        "covariates": None if ready.covariates is None else ready.covariates.to_dict(),
        "split": {side: subjects.people(side) for side in SIDES}
        | {"families": len(np.unique(subjects.exchanged())), "groups": len(subjects.group_sizes())},
        "fingerprint": subjects.fingerprint,
        "temperature": float(np.exp(-float(model.log_scale.detach()))),
        "measures": scores.told,
        "notes": [*ready.notes, *unremoved(ready, scores.told)],
        **{name: result[name] for name in ("steps", "best_step", "dev_loss", "seconds", "workers", "device")},
        "config": json.loads(json.dumps(config.to_dict())),
        "environment": environment(),
    }


def unremoved(ready: PreparedAlignment, measured: Mapping[str, Any]) -> list[str]:
    """A warning where covariates explain held-out vectors from which they were removed."""
    found = {
        name: one
        for name, one in measured.get("explained", {}).items()
        if ready.steps[name].coef is not None and one["value"] > 0 and one["p"] <= max(_UNLIKELY, 1 / (1 + one["shuffles"]))
    }
    if not found:
        return []
    shares = " and ".join(f"{one['value']:.1%} of the held-out variance of {name}" for name, one in found.items())
    passes = "" if len(found) < len(ready.steps) else ", where it can pass for a signal between both"
    return [
        f"warning: covariates still explain {shares} after their removal: retrieval, projected vectors and probes carry it{passes}. "
        f"The tests take it out again. Try --covariate-terms splines, --interactions, or fewer levels"
    ]


def format_result(about: Mapping[str, Any], output: str) -> str:
    """Format the summary of a run with a table of its measures."""
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
