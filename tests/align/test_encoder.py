"""An encoder tuned end to end: vectors are those that are stored, gradients reach LoRA alone, and what is left encodes as it did."""

from __future__ import annotations

import itertools
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import alignments
import models
import numpy as np
import pytest
import torch
from safetensors.torch import load_file

from dnafeat.align import artifact as alignartifact
from dnafeat.align import encoder as alignencoder
from dnafeat.align import job as align
from dnafeat.align import prepare as alignprepare
from dnafeat.align.config import AlignConfig
from dnafeat.align.encoder import encoding, read_letters, subject_encoder
from dnafeat.align.prepare import prepared
from dnafeat.align.subjects import Subjects
from dnafeat.align.worker import align_loop
from dnafeat.encoder.engine import Encoder
from dnafeat.encoder.source import Source
from dnafeat.errors import UsageError

PEOPLE = 60


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> str:
    return str(models.random_folder(tmp_path_factory.mktemp("models") / "base", num_hidden_layers=1))


@pytest.fixture(scope="module")
def table(tmp_path_factory: pytest.TempPathFactory) -> str:
    """Sequences of 60 subjects, some with one more than others, many shared."""
    draw = np.random.default_rng(0)
    pool = ["".join(draw.choice(list("ACGT"), int(draw.integers(9, 40)))) for _ in range(40)]
    rows = [
        {"sequence_id": f"{i}.{j}", "subject_id": f"S{i:04}", "sequence": pool[int(draw.integers(40))]}
        for i in range(PEOPLE + 5)
        for j in range(2 + i % 2)
    ]
    return alignments.write_csv(
        tmp_path_factory.mktemp("letters") / "letters.csv", [rows[i] for i in draw.permutation(len(rows))]
    )


def settings(base: str, table: str, output: Path | str, **changes: Any) -> AlignConfig:
    given = {"store": "s", "partner": ("brain=b",), "output": str(output), "sequences": table, "model": base, "dropout": 0.0}
    quick = {**alignments.QUICK, "steps": 30, "eval_steps": 10, "batch_size": 16, "resamples": 5, "permutations": 5}
    return AlignConfig.make({**given, **quick, "encoder_learning_rate": 0.01, **changes})


def rows_of(table: str) -> dict[str, list[str]]:
    found: dict[str, list[str]] = {}
    for line in Path(table).read_text().splitlines()[1:]:
        _, key, letters = line.split(",")
        found.setdefault(key, []).append(letters)
    return found


def people(base: str, table: str) -> Subjects:
    """Subjects with the vectors that a store has of these sequences."""
    own, engine = rows_of(table), Encoder.from_pretrained(base)
    keys = [f"S{i:04}" for i in range(PEOPLE)]
    dna = np.stack([engine.encode(own[key]).mean.mean(axis=0) for key in keys])
    partner = np.tanh(dna @ np.random.default_rng(1).normal(size=(dna.shape[1], 6))).astype(np.float32)
    about = {
        "aggregate": "mean",
        "genes": None,
        "on": "subject_id",
        "level": "subject",
        "within": None,
        "dna": {"feature_version": "v", "vector": "mean", "width": dna.shape[1]},
        "partners": [{"name": "brain", "width": 6}],
    }
    side = np.array(["train"] * 36 + ["dev"] * 10 + ["test"] * 14)
    return Subjects(keys, dna, partner, None, {}, np.arange(PEOPLE), side, "brain", about, [])


def test_vectors_are_those_of_the_engine_in_any_company(base: str, table: str, monkeypatch: pytest.MonkeyPatch) -> None:
    config, subjects = settings(base, table, "o"), people(base, table)
    source = Source.find(encoding(config))
    letters = read_letters(config, subjects.keys, source, "subject_id")
    assert len(letters.sequences) <= 40 < len(letters.subject)
    encoder = subject_encoder(source, config, letters)
    for tokens, rows in ((8192, np.arange(PEOPLE)), (60, np.array([7, 3, 3, 59])), (8192, np.array([], np.int64))):
        monkeypatch.setattr(alignencoder, "_TOKENS", tokens)
        found = encoder(rows)
        assert found.detach().numpy() == pytest.approx(subjects.dna[rows], abs=1e-5)
    again = letters.means(Encoder.from_pretrained(base).encode(letters.sequences).mean, PEOPLE)
    assert again == pytest.approx(subjects.dna, abs=1e-5)


def test_gradients_do_not_depend_on_how_tokens_are_cut_and_reach_lora_alone(
    base: str, table: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    config, subjects = settings(base, table, "o"), people(base, table)
    source = Source.find(encoding(config))
    letters = read_letters(config, subjects.keys, source, "subject_id")
    found = []
    for tokens in (8192, 50):
        monkeypatch.setattr(alignencoder, "_TOKENS", tokens)
        torch.manual_seed(0)
        encoder = subject_encoder(source, config, letters)
        encoder(np.arange(9)).square().sum().backward()
        grads = {name: value.grad for name, value in encoder.named_parameters() if value.requires_grad}
        assert all("lora_" in name for name in grads)
        found.append(grads)
    assert found[0].keys() == found[1].keys()
    assert any(value.abs().max() > 1e-3 for value in found[0].values() if value is not None)
    for name, value in found[0].items():
        torch.testing.assert_close(found[1][name], value, rtol=1e-4, atol=1e-5)


@pytest.fixture
def tuned(base: str, table: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[..., dict[str, Any]]:
    def run(**changes: Any) -> dict[str, Any]:
        monkeypatch.setattr(alignprepare, "gather", lambda config, show: people(base, table))
        return alignments.aligned(settings(base, table, tmp_path / "artifact", **changes))

    return run


def test_what_is_left_encodes_and_projects_as_it_was_measured(
    tuned: Callable[..., dict[str, Any]], base: str, table: str, tmp_path: Path
) -> None:
    about = tuned()
    output = str(tmp_path / "artifact")
    assert {file.name for file in (tmp_path / "artifact").iterdir()} >= {"adapter_config.json", "adapter_model.safetensors"}
    assert about["for_embed"]
    assert "dnafeat embed … --adapter" in align.format_result(about, output)
    history = json.loads((tmp_path / "artifact" / "history.json").read_text())
    losses = [row["loss"] for row in history if "loss" in row]
    assert losses[-1] < losses[0] / 2
    moved = [float(v.abs().max()) for k, v in load_file(f"{output}/adapter_model.safetensors").items() if "lora_B" in k]
    assert max(moved) > 1e-3
    letters = list(itertools.chain.from_iterable(rows_of(table).values()))
    engine, before = Encoder.from_pretrained(base, adapter=output), Encoder.from_pretrained(base)
    vectors = engine.encode(letters)
    assert np.abs(vectors.mean - before.encode(letters).mean).max() > 1e-3
    assert engine.version.digest == about["takes"] != before.version.digest
    aligned = alignartifact.read(output)
    assert vectors.projected == pytest.approx(aligned.sides["dna"](vectors.mean, None), abs=1e-5)
    # The measures are of the tuned encoder's vectors.
    subjects = people(base, table)
    own = rows_of(table)
    dna = np.stack([engine.encode(own[key]).mean.mean(axis=0) for key in subjects.keys])
    at = subjects.rows("test")
    unit = [
        x / np.linalg.norm(x, axis=1, keepdims=True)
        for x in (aligned.sides["dna"](dna[at], None), aligned.sides["brain"](subjects.partner[at], None))
    ]
    cosine = unit[0] @ unit[1].T
    rank = 1 + (cosine > np.diag(cosine)[:, None] + 1e-6).sum(axis=1)
    assert about["measures"]["retrieval"]["dna to brain"]["median_rank"]["value"] == pytest.approx(np.median(rank), abs=0.5)


def test_an_adapter_is_trained_on(
    tuned: Callable[..., dict[str, Any]], base: str, table: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    tuned(steps=10)
    first = str(tmp_path / "artifact")
    engine, own = Encoder.from_pretrained(base, adapter=first), rows_of(table)
    subjects = people(base, table)
    dna = np.stack([engine.encode(own[key]).mean.mean(axis=0) for key in subjects.keys])
    fields = {name: getattr(subjects, name) for name in Subjects.__dataclass_fields__}
    again = Subjects(**{**fields, "dna": dna})
    config = settings(base, table, tmp_path / "second", adapter=first, steps=10)
    monkeypatch.setattr(alignprepare, "gather", lambda config, show: again)
    alignments.aligned(config)
    before, after = (load_file(f"{place}/adapter_model.safetensors") for place in (first, tmp_path / "second"))
    assert before.keys() == after.keys()
    assert max(float((after[name] - before[name]).abs().max()) for name in before) > 1e-3
    with pytest.raises(UsageError, match=r"have other vectors by .*base than version v has"):
        prepared(settings(base, table, tmp_path / "third"), again)


def test_a_checkpoint_has_the_encoder_too(base: str, table: str, tmp_path: Path) -> None:
    config = settings(base, table, tmp_path / "a", steps=8, eval_steps=4)
    ready = prepared(config, people(base, table))
    whole = alignments.trained(config, ready, tmp_path / "whole")
    unending = settings(base, table, tmp_path / "a", steps=8, eval_steps=4, patience=0)
    alignments.trained(unending, ready, tmp_path / "half").save(tmp_path / "kept")
    again = align_loop(alignments.attempt(config, ready, tmp_path / "again", resume=tmp_path / "kept"))
    assert again.over
    for name, value in whole.task.tensors().items():
        assert (again.task.tensors()[name] == value).all()
    assert any(name.startswith("tuned.") for name in whole.task.tensors())


@pytest.mark.parametrize(
    ("changes", "text", "sentence"),
    [
        ({}, "id,sequence\na,ACGTACGT\n", r"has no column 'subject_id', by which its sequences belong to subjects"),
        ({}, "id,subject_id,sequence\na,S0000,ACGTACGTAA\n", r"has no sequence of 59 subjects, such as 'S0001'"),
        ({}, "id,subject_id,sequence\na,S0000,ACGTXX\n", r"row 1: "),
        ({"model": "dnafeat-mini"}, None, r"have other vectors by dnafeat-mini than version v has: name the table"),
    ],
)
def test_letters_that_are_not_those_of_the_vectors_are_refused(
    base: str, table: str, tmp_path: Path, changes: dict[str, Any], text: str | None, sentence: str
) -> None:
    if text is not None:
        (tmp_path / "letters.csv").write_text(text)
    config = settings(base, table if text is None else str(tmp_path / "letters.csv"), tmp_path / "a", **changes)
    with pytest.raises(UsageError, match=sentence) as error:
        prepared(config, people(base, table))
    assert "\n" not in str(error.value)


def test_longer_sequences_than_a_window_are_refused(base: str, table: str, tmp_path: Path) -> None:
    rows = [{"id": key, "subject_id": key, "sequence": "ACGGT" * (400 if key == "S0003" else 3)} for key in rows_of(table)]
    config = settings(base, alignments.write_csv(tmp_path / "long.csv", rows), tmp_path / "a")
    with pytest.raises(
        UsageError, match=r"has a sequence of [\d,]+ tokens, and end to end they are encoded whole, 510 at the most"
    ):
        prepared(config, people(base, table))


@pytest.mark.long
def test_two_workers_tune_as_one_does(
    base: str, table: str, two_cpus: None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    subjects = people(base, table)
    monkeypatch.setattr(alignprepare, "gather", lambda config, show: subjects)
    found = []
    for workers in (1, 2):
        output = tmp_path / str(workers)
        align.align(settings(base, table, output, num_workers=workers, cpus_per_worker=1), show=False)
        rows = json.loads((output / "history.json").read_text())
        found.append([row["loss"] for row in rows if "loss" in row])
    assert found[0][:10] == pytest.approx(found[1][:10], abs=1e-5)
    assert found[0] == pytest.approx(found[1], abs=1e-3)
