"""Alignment: what is planted is found on held-out subjects and nothing else is, whatever the workers, and nothing of them is fitted."""

from __future__ import annotations

import contextlib
import io
import json
from pathlib import Path
from typing import Any

import alignments
import counts
import models
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch

from dnafeat.align import artifact as alignartifact
from dnafeat.align import job as align
from dnafeat.align import prepare as alignprepare
from dnafeat.align import worker as alignworker
from dnafeat.align.prepare import prepare, prepared
from dnafeat.align.subjects import Subjects
from dnafeat.align.worker import align_loop
from dnafeat.cli.main import main
from dnafeat.encoder import Encoder
from dnafeat.encoder.projection import load_projector
from dnafeat.errors import UsageError
from dnafeat.finetune import artifact
from dnafeat.training import on_ray as trainrun

KILLED_AFTER = 25
# Workers of the run that most tests look at. `make test` has one in this process: how Ray Train launches is one code, which
# fine-tuning's tests run on two workers.
WORKERS = 2 if counts.LONG else 1


@pytest.fixture(scope="module")
def both(place: tuple[str, str], request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """A run through the command line and what it printed. In `make test-long` one of its two workers was killed after 25 steps."""
    if WORKERS > 1:
        request.getfixturevalue("two_cpus_throughout")
    folder = tmp_path_factory.mktemp("both")
    marker, after = str(folder / "killed"), KILLED_AFTER

    def worker(attempt: Any) -> Any:
        # A closure, for workers cannot import this module.
        import os
        import signal
        from pathlib import Path

        from dnafeat.align import worker as alignworker

        loss = alignworker.AlignTask.loss

        def fatal(task: Any, step: int) -> Any:
            if step == after and task.context.rank == 1 and not Path(marker).exists():
                Path(marker).write_text(str(step))
                os.kill(os.getpid(), signal.SIGKILL)
            return loss(task, step)

        alignworker.AlignTask.loss = fatal  # type: ignore[method-assign]
        try:
            return alignworker.align_worker(attempt)
        finally:
            alignworker.AlignTask.loss = loss  # type: ignore[method-assign]

    values = alignments.settings(place, folder / "artifact", batch_size=33, family_column="family", eval_steps=10, patience=0)
    flags = [f"--{name.replace('_', '-')}={value}" for name, value in values.items() if name != "partner"]
    command = [
        "align",
        *flags,
        "--partner",
        *values["partner"],
        "--num-workers",
        str(WORKERS),
        "--cpus-per-worker",
        "1",
        "--json",
    ]
    out, err = io.StringIO(), io.StringIO()
    with pytest.MonkeyPatch.context() as patch, contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
        if WORKERS > 1:
            patch.setattr(align, "align_worker", worker)
        code = main(command)
    assert code == 0, err.getvalue()
    (line,) = out.getvalue().splitlines()
    about = json.loads(line)
    return {"output": folder / "artifact", "about": about, "err": err.getvalue(), "killed": Path(marker)}


@pytest.mark.long
def test_two_workers_one_of_them_killed_learn_what_one_learns(
    both: dict[str, Any], place: tuple[str, str], tmp_path: Path
) -> None:
    assert both["killed"].read_text() == str(KILLED_AFTER)
    chosen = alignments.config(place, both["output"], batch_size=33, family_column="family", eval_steps=10, patience=0)
    ready = prepare(chosen, show=False)
    assert ready.digest == both["about"]["digest"]
    one = alignments.trained(chosen, ready, tmp_path)
    history = json.loads((both["output"] / "history.json").read_text())
    for name, within in (("loss", 1e-5), ("eval_loss", 1e-5)):
        ours = {row["step"]: row[name] for row in one.history if name in row}
        theirs = {row["step"]: row[name] for row in history if name in row}
        assert list(theirs) == list(ours)
        early = [step for step in ours if step <= 20]
        assert [theirs[step] for step in early] == pytest.approx([ours[step] for step in early], abs=within)
        # Rounding grows with each step that builds on it.
        assert list(theirs.values()) == pytest.approx(list(ours.values()), abs=1e-3)
    losses = [row["loss"] for row in history if "loss" in row]
    assert len(losses) == 60
    assert losses[-1] < losses[0] / 3
    assert both["about"]["workers"] == 2


def test_what_is_planted_is_found_on_held_out_subjects(both: dict[str, Any]) -> None:
    told = both["about"]["measures"]
    assert told["subjects"] == both["about"]["split"]["test"]
    for found in told["retrieval"].values():
        one = found["recall@1"]
        assert one["value"] > 12 * one["chance"]
        assert one["low"] > 8 * one["chance"]
        assert one["value"] <= one["ceiling"] <= 1
        assert found["median_rank"]["value"] < 3
        assert found["median_rank"]["chance"] == (told["subjects"] + 1) / 2
    assert {name: one["p"] for name, one in told["tests"].items()} == dict.fromkeys(told["tests"], 1 / 50)


def test_the_artifact_is_whole_and_names_nobody(both: dict[str, Any]) -> None:
    # Its DNA vectors are cls, mean and max end to end: nothing that embed has at hand.
    found = {file.name for file in both["output"].iterdir()}
    assert found == {"dnafeat.json", "alignment.safetensors", "history.json", "alignment.png"}
    about = json.loads((both["output"] / "dnafeat.json").read_text())
    assert both["about"] == about | {"already_trained": False, "artifact": str(both["output"])}
    assert about["joined"]["dna"]["feature_version"]
    assert "S00" not in (both["output"] / "dnafeat.json").read_text()
    assert (both["output"] / "alignment.png").read_bytes().startswith(b"\x89PNG")
    with pytest.raises(UsageError, match="is an alignment and predicts no labels"):
        artifact.load(str(both["output"]))
    said = [line for line in both["err"].replace("\r", "\n").splitlines() if line.startswith("run ")]
    train, where = about["split"]["train"], f"{WORKERS} worker(s)" if WORKERS > 1 else "in this process"
    assert len(said) == 1
    assert said[0].startswith(
        f"run align-{about['digest']}: {train} training subjects, {where} on CPU, batches of 33; checkpoints in"
    )


def test_the_same_command_trains_nothing_and_another_is_refused(
    both: dict[str, Any], place: tuple[str, str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(trainrun, "start_ray", lambda: pytest.fail("Ray was started"))
    said: list[str] = []
    given: dict[str, Any] = {"batch_size": 33, "family_column": "family", "eval_steps": 10, "patience": 0}
    again = align.align(alignments.config(place, both["output"], **given), show=False, say=said.append)
    assert again | {"artifact": str(both["output"])} == both["about"] | {"already_trained": True}
    assert said == [f"{both['output']} holds this run's artifact already: nothing to train"]
    assert "was trained already" in align.format_result(again, "x")
    with pytest.raises(UsageError, match=rf"holds the artifact of another run, {again['digest']}: give another --output"):
        align.align(alignments.config(place, both["output"], **{**given, "seed": 1}), show=False)


def test_shuffled_subjects_are_found_by_chance(place: tuple[str, str], tmp_path: Path) -> None:
    about = alignments.aligned(alignments.config(place, tmp_path / "a", family_column="family", shuffle=True))
    told = about["measures"]
    for found in told["retrieval"].values():
        for k in (1, 5, 10):
            one = found[f"recall@{k}"]
            spread = np.sqrt(one["chance"] / told["subjects"])
            assert one["value"] < one["chance"] + 3.5 * spread
        assert 0.6 < found["median_rank"]["value"] / found["median_rank"]["chance"] < 1.4
    assert min(one["p"] for one in told["tests"].values()) > 0.02


def test_a_checkpoint_goes_on_as_if_nothing_had_been(place: tuple[str, str], tmp_path: Path) -> None:
    """With dropout, in the middle of an epoch: weights, optimiser, order and random numbers are taken up."""
    chosen = alignments.config(place, tmp_path / "a", dropout=0.3, batch_size=20, steps=14, eval_steps=4)
    ready = prepare(chosen, show=False)
    whole = alignments.trained(chosen, ready, tmp_path / "whole")
    half = align_loop(alignments.attempt(chosen, ready, tmp_path / "half"))
    for _ in range(9):
        half.advance()
    half.save(tmp_path / "ninth")
    again = align_loop(alignments.attempt(chosen, ready, tmp_path / "again", resume=tmp_path / "ninth"))
    assert again.step == 9
    again.run()
    assert again.history == whole.history
    best = whole.progress.best
    for name, value in best.tensors.items():
        assert (again.progress.best.tensors[name] == value).all()
    assert best.tensors


def test_it_stops_where_dev_gets_no_better_and_keeps_the_best(place: tuple[str, str], tmp_path: Path) -> None:
    chosen = alignments.config(place, tmp_path / "a", steps=400, eval_steps=5, patience=3, shuffle=True)
    ready = prepare(chosen, show=False)
    run = alignments.trained(chosen, ready, tmp_path)
    best = run.progress.best
    told = {row["step"]: row["eval_loss"] for row in run.history if "eval_loss" in row}
    assert run.step < 400
    assert best.step == min(told, key=lambda step: told[step])
    assert run.step == best.step + 3 * 5
    model = alignworker.Alignment(*(ready.steps[name].width for name in ("dna", "brain")))
    model.load_state_dict(best.tensors)
    parts = [torch.from_numpy(part["dev"]) for part in (ready.data().dna, ready.data().partner, ready.data().same)]
    assert alignworker.dev_loss(model, parts[0], parts[1], parts[2]) == pytest.approx(best.value, abs=1e-6)


def outlier(subjects: Subjects) -> Subjects:
    """The same with one held-out subject out of all proportion, in vectors and in covariates."""
    at = int(np.flatnonzero(subjects.rows("test"))[3])
    fields = {name: getattr(subjects, name) for name in Subjects.__dataclass_fields__}
    for name in ("dna", "partner"):
        fields[name] = fields[name].copy()
        fields[name][at] *= 1e6
    columns = {name: list(values) for name, values in subjects.columns.items()}
    columns["age"][at], columns["site"][at] = "1e9", "Mars"
    return Subjects(**{**fields, "columns": columns})


def test_nothing_that_is_fitted_knows_the_held_out_subjects(place: tuple[str, str], tmp_path: Path) -> None:
    chosen = alignments.config(
        place, tmp_path / "a", covariates=("age", "site"), pca=5, phenotype="number", family_column="family"
    )
    before = prepare(chosen, show=False)
    after = prepared(chosen, outlier(before.subjects))
    assert after.covariates == before.covariates
    for name, steps in before.steps.items():
        for what, numbers in steps.arrays().items():
            assert (after.steps[name].arrays()[what] == numbers).all(), (name, what)
        assert set(steps.arrays()) == ({"coef", "mean", "gain", "axes"} if name == "dna" else {"coef", "mean", "gain"})
    for one, other in zip((before.data().dna, before.data().partner), (after.data().dna, after.data().partner), strict=True):
        for side in ("train", "dev"):
            assert (one[side] == other[side]).all()
    # An outlier in training would be seen.
    fields = {name: getattr(before.subjects, name) for name in Subjects.__dataclass_fields__}
    turned = np.where(before.subjects.side == "train", "test", np.where(before.subjects.side == "test", "train", "dev"))
    seen = prepared(chosen, outlier(Subjects(**{**fields, "side": turned})))
    assert (seen.steps["dna"].mean != before.steps["dna"].mean).any()


def test_an_outlier_in_the_tables_moves_nobody_and_no_fitted_number(place: tuple[str, str], tmp_path: Path) -> None:
    chosen = alignments.config(place, tmp_path / "a", covariates=("age",))
    before = prepare(chosen, show=False)
    frame = pq.read_table(place[1]).to_pandas()
    stranger = next(key for key, side in zip(before.subjects.keys, before.subjects.side, strict=True) if side == "test")
    row = int(np.flatnonzero(frame["subject_id"] == stranger)[0])
    frame["vector"] = [np.asarray(one, np.float32) * np.float32(1e6 if i == row else 1) for i, one in enumerate(frame["vector"])]
    frame.at[row, "age"] = 10**6
    pq.write_table(pa.Table.from_pandas(frame, preserve_index=False), tmp_path / "new.parquet")
    after = prepare(alignments.config((place[0], str(tmp_path / "new.parquet")), tmp_path / "b", covariates=("age",)), show=False)
    assert (after.subjects.side == before.subjects.side).all()
    assert after.digest != before.digest
    for name, steps in before.steps.items():
        for what, numbers in steps.arrays().items():
            assert (after.steps[name].arrays()[what] == numbers).all(), (name, what)


def test_genes_end_to_end_cost_what_they_carry_and_probes_tell_a_class(place: tuple[str, str], tmp_path: Path) -> None:
    (tmp_path / "genes.txt").write_text("g1\ng0\ng9\n")
    frame = pq.read_table(place[1]).to_pandas()
    joined = {"aggregate": "concat", "genes": str(tmp_path / "genes.txt")}
    plain = prepare(alignments.config(place, tmp_path / "plain", **joined), show=False).subjects
    # What the brain holds is of the first gene alone.
    width = plain.dna.shape[1] // 3
    own = (plain.dna[:, :width] - plain.dna[:, :width].mean(axis=0)) / plain.dna[:, :width].std(axis=0)
    brain = dict(zip(plain.keys, own @ np.random.default_rng(0).normal(size=(width, 9)), strict=True))
    frame["vector"] = [brain[key].astype(np.float32) for key in frame["subject_id"]]
    pq.write_table(pa.Table.from_pandas(frame, preserve_index=False), tmp_path / "new.parquet")
    about = alignments.aligned(
        alignments.config((place[0], str(tmp_path / "new.parquet")), tmp_path / "a", **joined, phenotype="kind", steps=120)
    )
    genes = {one["gene"]: one for one in about["measures"]["genes"]}
    assert list(genes) == ["g1", "g0", "g9"]
    assert [one["present"] for one in genes.values()] == [1, 1, 0]
    lost = {gene: one["cost"]["recall@5"]["value"] for gene, one in genes.items()}
    assert lost["g1"] > 0.4
    assert abs(lost["g0"]) < 0.2
    assert lost["g9"] == 0
    assert genes["g1"]["cost"]["CCA"]["value"] > genes["g0"]["cost"]["CCA"]["value"] + 0.3
    blocks = [f"{kind} {one}" for kind in ("prepared", "projected") for one in ("dna", "brain", "both")]
    assert list(about["measures"]["probe"]["blocks"]) == blocks
    assert about["measures"]["probe"]["kind"] == "class"
    text = align.format_result(about, "x")
    for line in ("recall@5 lost without g1", "kind by projected both, auroc", "dnafeat align-apply x"):
        assert line in text
    assert not about["for_embed"]


def test_one_gene_end_to_end_cannot_be_taken_away(place: tuple[str, str], tmp_path: Path) -> None:
    (tmp_path / "genes.txt").write_text("g1\n")
    given: dict[str, Any] = {"aggregate": "concat", "genes": str(tmp_path / "genes.txt"), "steps": 5}
    about = alignments.aligned(alignments.config(place, tmp_path / "a", **given))
    assert "genes" not in about["measures"]
    assert any(note.startswith("one gene cannot be left out of one") for note in about["notes"])


@pytest.mark.parametrize(
    ("changes", "sentence"),
    [
        ({"phenotype": "subject_id"}, r"phenotype 'subject_id' has \d+ different texts for \d+ training subjects"),
        ({"covariates": ("subject_id",)}, r"covariate 'subject_id' has \d+ different texts"),
        ({"subjects": "S", "phenotype": "rare"}, r"2 train subjects have a value of phenotype 'rare', 2 of them different"),
    ],
)
def test_columns_that_cannot_be_used_are_one_sentence_before_any_training(
    place: tuple[str, str], tmp_path: Path, changes: dict[str, Any], sentence: str
) -> None:
    if "subjects" in changes:
        sides = prepare(alignments.config(place, tmp_path / "x"), show=False).subjects
        train = [key for key, side in zip(sides.keys, sides.side, strict=True) if side == "train"][:2]
        rows = [{"subject_id": key, "rare": f"v{i}"} for i, key in enumerate(train)]
        changes = {**changes, "subjects": alignments.write_csv(tmp_path / "s.csv", rows)}
    with pytest.raises(UsageError, match=sentence) as error:
        align.align(
            alignments.config(place, tmp_path / "a", **changes),
            show=False,
            launch=lambda *run, **more: pytest.fail("it was trained"),
        )
    assert "\n" not in str(error.value)
    assert not (tmp_path / "a").exists() or not list((tmp_path / "a").iterdir())


# -- what the artifact gives to others


@pytest.mark.parametrize("where", ["local", "s3"])
def test_an_encoder_projects_as_the_artifact_does(
    where: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, request: pytest.FixtureRequest
) -> None:
    """The version's mean vectors are those of a real encoder; `embed` and a notebook take them through the same engine."""
    base = str(models.random_folder(tmp_path / "base", num_hidden_layers=1))
    encoder = Encoder.from_pretrained(base)
    letters = [entry.sequence for entry in alignments.entries(60)]
    mean = encoder.encode(letters).mean
    draw = np.random.default_rng(0)
    subjects = made(mean, (mean @ draw.normal(size=(mean.shape[1], 5))).astype(np.float32))
    output = str(tmp_path / "a") if where == "local" else request.getfixturevalue("s3").uri("artifact")
    chosen = alignments.config(("unused", "unused"), output, steps=10, storage=str(tmp_path / "runs"))
    monkeypatch.setattr(alignprepare, "gather", lambda config, show: subjects)
    about = alignments.aligned(chosen)
    assert about["for_embed"]
    assert "dnafeat embed … --projector" in align.format_result(about, output)
    projected = Encoder.from_pretrained(base, projector=output).encode(letters)
    assert (projected.mean == mean).all()
    with torch.no_grad():
        again = load_projector(output, mean.shape[1])(torch.from_numpy(mean.copy())).numpy()
    assert projected.projected == pytest.approx(again, abs=1e-5)
    # And as the alignment itself brings subjects to the common space.
    aligned = alignartifact.read(output)
    assert aligned.sides["dna"](mean, None) == pytest.approx(again, abs=1e-5)
    assert np.linalg.norm(again - Encoder.from_pretrained(base).encode(letters).projected) > 1
    with pytest.raises(UsageError, match="holds no alignment"):
        alignartifact.read(str(tmp_path / "base"))


def made(dna: np.ndarray, partner: np.ndarray) -> Subjects:
    """Subjects without a store."""
    keys = [f"S{i:04}" for i in range(len(dna))]
    about = {
        "aggregate": "mean",
        "genes": None,
        "on": "subject_id",
        "level": "subject",
        "within": None,
        "dna": {"feature_version": "v", "vector": "mean"},
        "partners": [{"name": "brain"}],
    }
    side = np.array(["train"] * (len(keys) - 30) + ["dev"] * 10 + ["test"] * 20)
    return Subjects(keys, dna, partner, None, {}, np.arange(len(keys)), side, "brain", about, [])
