"""Fine-tuning: labelled sequences to an artifact, with any number of workers.

The same command resumes from the run's last checkpoint, or reports that the artifact is there.
"""

from __future__ import annotations

import itertools
import json
import logging
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from dnafeat import sequence as dna
from dnafeat import storage
from dnafeat.encoder.models.tokenizers import Tokenizer
from dnafeat.encoder.source import Source
from dnafeat.errors import UsageError
from dnafeat.finetune import artifact, baselines
from dnafeat.finetune import splits as labelled
from dnafeat.finetune.config import FinetuneConfig
from dnafeat.finetune.groups import RowGroups
from dnafeat.finetune.labels import Labels
from dnafeat.finetune.metrics import format_table
from dnafeat.finetune.network import FineTuned, build, head_shape
from dnafeat.finetune.per_base import token_classes
from dnafeat.finetune.summary import better_baselines, format_baselines, format_seeds, over_seeds
from dnafeat.finetune.trainer import Data
from dnafeat.finetune.worker import FinetuneJob, finetune_worker
from dnafeat.provenance import digest_of, environment
from dnafeat.training.artifact import ABOUT, TrainingSummary, base_name, put, trained_before
from dnafeat.training.batches import Examples, truncate
from dnafeat.training.run import train
from dnafeat.training.worker import Launch, TrainingRun

_log = logging.getLogger(__name__)


@dataclass(frozen=True, kw_only=True)
class PreparedFinetuning:
    """Everything a run needs, checked before any worker starts.

    Attributes
    ----------
    digest : str
        Of the data, the base and the settings that shape what is learned: names the run.
    groups : RowGroups
        Which rows stand together.
    notes : list of str
        What a person should know of the data.
    settings : dict
        What the workers' loop takes.
    """

    source: Source
    splits: Mapping[str, labelled.Split]
    data: Data
    max_tokens: int
    truncated: Mapping[str, int]
    groups: RowGroups
    digest: str
    notes: list[str]
    settings: Mapping[str, Any]


def prepare(config: FinetuneConfig) -> PreparedFinetuning:
    """Read and check data, labels, base and settings. Raises UsageError for what is wrong, in one sentence."""
    source = Source.find(config.encoding())
    found = source.checkpoint
    if source.adapter is not None:
        raise UsageError(f"model {config.model} is an adapter: name the model it was made for, which is {found.name}")
    tokenizer, shape = found.fitting_tokenizer(config.kmer or 0), found.config()
    splits, groups = _splits(config, tokenizer)
    labels = _labels(config, splits)
    settings = config.training(labels.task, shape.hidden_size)
    if labels.task == "token":
        asked = {"head": config.head != "linear", "pooling": config.pooling, "reverse_complement": config.reverse_complement}
        for name in (name for name, given in asked.items() if given):
            raise UsageError(f"{name} is for one label a sequence, and task token has one a base: leave it out")
    max_tokens = _max_tokens(config, splits["train"], tokenizer, shape.positions)
    examples, truncated = {}, {}
    for name, split in splits.items():
        examples[name], truncated[name] = _examples(config, split, labels, tokenizer, max_tokens, name == "train")
    weights = labels.class_weights(examples["train"].targets) if config.class_weights else None
    counted = found.special_tokens_pooled if config.special_tokens is None else config.special_tokens
    # Here rather than in a worker: settings that do not fit end in a sentence.
    build(source, config, labels)
    data = Data(
        splits=examples,
        tokenizer=tokenizer,
        labels=labels,
        special_tokens=counted,
        class_weights=weights,
        groups=groups.numbers(splits),
    )
    digest = digest_of(
        {
            **config.shaping(),
            "learning_rate": settings["learning_rate"],
            "max_tokens": max_tokens,
            "data": {name: split.fingerprint for name, split in splits.items()},
            "weights": found.weights_sha256,
            "tokenizer": tokenizer.fingerprint,
        }
    )[:16]
    notes = [
        *labelled.format_overlaps(labelled.overlaps(splits)),
        *groups.notes(splits, divided=config.dev is None),
        *_idle_settings(config, labels),
    ]
    if config.baselines and labels.width > baselines.WIDTH:
        notes.append(
            f"{labels.width} classes are more than the {baselines.WIDTH} for which baselines are fitted: the majority alone is shown"
        )
    for name, count in truncated.items():
        if count:
            notes.append(
                f"{count:,} of {len(splits[name]):,} {name} sequences are longer than {max_tokens} tokens and lose their end: give "
                f"--max-tokens to keep it"
            )
    return PreparedFinetuning(
        source=source,
        splits=splits,
        data=data,
        max_tokens=max_tokens,
        truncated=truncated,
        groups=groups,
        digest=digest,
        notes=notes,
        settings=settings,
    )


def _idle_settings(config: FinetuneConfig, labels: Labels) -> list[str]:
    """A sentence where settings of steps were given for a probe that takes none."""
    if config.method != "probe" or (config.head != "linear" and labels.task != "token"):
        return []
    given = [name for name in ("steps", "eval_steps", "learning_rate") if getattr(config, name) is not None]
    flags = ", ".join(f"--{name.replace('_', '-')}" for name in given)
    return [f"a probe is solved as a regression and takes no steps: {flags} change nothing"] if given else []


def _splits(config: FinetuneConfig, tokenizer: Tokenizer) -> tuple[dict[str, labelled.Split], RowGroups]:
    """Read the splits, divide what is not given, and find which rows stand together."""
    named = {"train": config.train, "dev": config.dev, "test": config.test}
    options: dict[str, Any] = {
        "label_column": config.label_column,
        "sequence_column": config.sequence_column,
        "group_column": config.group_column,
        "iupac": config.iupac,
        "min_bases": tokenizer.min_bases,
    }
    found = {name: labelled.read_split(name, file, **options) for name, file in named.items() if file is not None}
    together = config.group_column is None if config.group_similar is None else config.group_similar
    groups = RowGroups.of(found, together=together, column=config.group_column)
    if "dev" not in found:
        shares = {"train": 1.0, "dev": config.dev_share} | ({} if "test" in found else {"test": config.test_share})
        shares["train"] -= sum(share for name, share in shares.items() if name != "train")
        whole = found.pop("train")
        names = groups.names(whole)
        cut = labelled.random_splits(whole, shares, seed=config.seed, stratify=config.task != "token", groups=names)
        found = {**cut, **found}
    return {name: found[name] for name in named if name in found}, groups


def _labels(config: FinetuneConfig, splits: Mapping[str, labelled.Split]) -> Labels:
    split = splits["train"]
    lengths = [len(sequence) for sequence in split.sequences]
    return Labels.fit(split.labels, config.task, split.place, lengths=lengths)


def _max_tokens(config: FinetuneConfig, split: labelled.Split, tokenizer: Tokenizer, positions: int | None) -> int:
    """Return the longest input in tokens, special tokens counted: as asked, else what the longest training sequence needs, up to 512."""
    limit = positions or 512
    if config.max_tokens is not None:
        if positions is not None and config.max_tokens > positions:
            raise UsageError(
                f"max_tokens {config.max_tokens} is more than the {positions} positions of this model: give {positions} or less"
            )
        if config.max_tokens <= tokenizer.specials:
            raise UsageError(
                f"max_tokens {config.max_tokens} leaves no room beside the {tokenizer.specials} special tokens: give more"
            )
        return config.max_tokens
    longest = int(np.diff(tokenizer.ragged(split.sequences).offsets).max()) + tokenizer.specials
    return min(longest, limit)


def _examples(
    config: FinetuneConfig, split: labelled.Split, labels: Labels, tokenizer: Tokenizer, max_tokens: int, training: bool
) -> tuple[Examples, int]:
    capacity = max_tokens - tokenizer.specials
    lengths = [len(sequence) for sequence in split.sequences]
    targets: Any = labels.encode(split.labels, split.place, lengths=lengths)
    if labels.task == "token":
        return _token_examples(split, targets, tokenizer, capacity)
    tokens, cut = truncate(tokenizer.ragged(split.sequences), capacity)
    reverse = None
    if training and config.reverse_complement:
        turned = [dna.reverse_complement(sequence.encode()).decode() for sequence in split.sequences]
        reverse, _ = truncate(tokenizer.ragged(turned), capacity)
    return Examples(tokens, targets, reverse), int(cut.sum())


def _token_examples(
    split: labelled.Split, per_base: list[np.ndarray], tokenizer: Tokenizer, capacity: int
) -> tuple[Examples, int]:
    tokens, starts, stops = tokenizer.spans(split.sequences)
    kept, cut = truncate(tokens, capacity)
    classes, spans = [], []
    for i, (a, b) in enumerate(itertools.pairwise(tokens.offsets)):
        b = min(b, a + capacity)
        classes.append(token_classes(per_base[i], starts[a:b], stops[a:b]))
        spans.append(np.stack([starts[a:b], stops[a:b]], axis=1))
    return Examples(kept, np.concatenate(classes), spans=np.concatenate(spans), per_base=per_base), int(cut.sum())


class FinetuneSummary(TrainingSummary):
    """Summary of `finetune`: `dnafeat.json`, with the metrics of each split, steps and seconds, `already_trained` and `artifact`."""

    def __repr__(self) -> str:
        return format_result(self, self["artifact"])


def finetune(
    config: FinetuneConfig, *, show: bool = True, say: Callable[[str], None] = _log.info, launch: Launch = train
) -> FinetuneSummary:
    """Train, or resume, the run that data, base and settings name, and write its artifact; with `seeds`, one run after another.

    Parameters
    ----------
    show : bool
        Whether to show a progress bar.
    say : function
        Called with each sentence that a user should read before training ends.
    launch : Launch
        Runs the workers.

    Returns
    -------
    FinetuneSummary
        Metrics of each split are measured in float32. `already_trained` is whether the artifact was there. With several seeds the
        summary of the first, with the scores of all under `seeds`.

    Raises
    ------
    UsageError
        Something is wrong with data, base or settings; no worker was started.
    EncodingError
        The workers failed more often than they may; the same command resumes from the last checkpoint.
    """
    first = _finetune(config, show, say, launch)
    if config.seeds == 1:
        return first
    summaries = [first]
    for seed in range(config.seed + 1, config.seed + config.seeds):
        output = storage.join(f"{config.output.rstrip('/')}.seeds", str(seed))
        summaries.append(_finetune(config.replace(seed=seed, seeds=1, output=output), show, say, launch))
    first["seeds"] = over_seeds(summaries)
    put(storage.join(storage.absolute(config.output), ABOUT), json.dumps(_kept(first), indent=1).encode())
    return first


def _kept(summary: Mapping[str, Any]) -> dict[str, Any]:
    """What an artifact keeps of a summary."""
    return {name: value for name, value in summary.items() if name not in ("already_trained", "artifact")}


def _finetune(config: FinetuneConfig, show: bool, say: Callable[[str], None], launch: Launch) -> FinetuneSummary:
    """Train, or resume, one run and write its artifact."""
    prepared = prepare(config)
    output = storage.absolute(config.output)
    if known := trained_before(config.output, prepared.digest, prepared.notes, say):
        if config.baselines and not known.get("baselines"):
            known["baselines"] = _baselines(config, prepared)
        return FinetuneSummary(known, artifact=config.output)
    run = TrainingRun(
        name=f"finetune-{prepared.digest}",
        work=finetune_worker,
        job=FinetuneJob(config=config, pins=prepared.source.pins, settings=prepared.settings),
        data=prepared.data,
        workers=config.workers,
        output=output,
        subject=f"{len(prepared.data.splits['train']):,} training sequences",
        batch=f"batches of {config.batch_size}",
    )
    trained, result = launch(run, show=show, say=say)
    model: FineTuned = build(prepared.source, config, prepared.data.labels)
    model.load_trainable(trained)
    about = _about(config, prepared, result)
    if config.baselines:
        frozen = result.get("frozen")
        about["baselines"] = _baselines(config, prepared) | ({} if frozen is None else {"frozen": frozen})
        about["notes"] = [*about["notes"], *better_baselines(about)]
    artifact.write(output, model, prepared.source, about, result)
    return FinetuneSummary(about, already_trained=False, artifact=config.output)


def _baselines(config: FinetuneConfig, prepared: PreparedFinetuning) -> dict[str, Any]:
    """Measure the baselines of letters on a run's splits."""
    data = prepared.data
    targets: dict[str, Any] = {
        name: examples.targets if examples.per_base is None else examples.per_base for name, examples in data.splits.items()
    }
    return baselines.measure(data.labels, prepared.splits, targets, data.groups, config.seed)


def _about(config: FinetuneConfig, prepared: PreparedFinetuning, result: Mapping[str, Any]) -> dict[str, Any]:
    """Make the content of `dnafeat.json`."""
    found, data = prepared.source.checkpoint, prepared.data
    return {
        "digest": prepared.digest,
        "base": {
            "model": base_name(found),
            "revision": found.revision,
            "weights_sha256": found.weights_sha256,
            "hidden_size": found.config().hidden_size,
        },
        "method": config.method,
        "head": None if data.per_token else head_shape(config, found.config().hidden_size, data.labels.width).to_dict(),
        "labels": data.labels.to_dict(),
        "encoding": {
            "kmer": config.kmer or 0,
            "window_tokens": prepared.max_tokens,
            "truncate": True,
            "special_tokens": data.special_tokens,
            "precision": result["precision"],
        },
        "metrics": result["metrics"],
        # A run that an earlier release trained to its end has none.
        "intervals": result.get("intervals", {}),
        "groups": prepared.groups.describe(prepared.splits),
        "rows": {name: len(split) for name, split in prepared.splits.items()},
        "truncated": dict(prepared.truncated),
        "fingerprints": {name: split.fingerprint for name, split in prepared.splits.items()},
        "notes": prepared.notes,
        "steps": result["steps"],
        "best_step": result["best_step"],
        "seconds": result["seconds"],
        "workers": result["workers"],
        "device": result["device"],
        "config": json.loads(json.dumps(config.to_dict())),
        "environment": environment(),
    }


def format_result(about: Mapping[str, Any], output: str) -> str:
    """Format the summary of a run in a few lines."""
    done = "was trained already" if about["already_trained"] else f"{about['steps']:,} steps in {about['seconds']:.0f} s"
    lines = [f"{output}: {about['method']} on {about['base']['model']}, {done}, best at step {about['best_step']:,}", ""]
    lines += [format_table(about["metrics"]), ""]
    if table := format_baselines(about):
        lines += [table, ""]
    if "seeds" in about:
        lines += [format_seeds(about["seeds"]), ""]
    lines += about["notes"]
    return "\n".join(lines)
