"""Prediction: what the trained network itself answers, for every entry, in the order of the input.

Tests that ask for `on_ray` run on it; the others take the local runner.
"""

from __future__ import annotations

import itertools
import json
import runpy
import shutil
import sys
import tempfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
from models import KMER_SPECIAL, bert_config, bert_state, dna, random_folder
from people import vcf_text, write_genome, write_vcf
from s3 import S3
from safetensors.torch import load_file, save_file
from stores import fasta

from dnafeat import spill
from dnafeat.cli.main import main
from dnafeat.cluster import session as cluster
from dnafeat.embed import plan
from dnafeat.embed.intake import Checks, take_in
from dnafeat.encoder import Encoder
from dnafeat.errors import AuditError, CheckpointError, EncodingError, StoreError, StrictError, UsageError
from dnafeat.finetune import artifact
from dnafeat.finetune import job as finetune
from dnafeat.finetune.config import FinetuneConfig, PredictConfig
from dnafeat.finetune.network import FineTuned, build
from dnafeat.finetune.per_base import base_values
from dnafeat.finetune.prediction import PredictSummary, _in_order, predict
from dnafeat.finetune.predictor import Predictor
from dnafeat.finetune.trainer import Data
from dnafeat.sequence import reverse_complement
from dnafeat.sources import reader as sources
from dnafeat.training.batches import Collate, Examples, truncate

# Workers say on their own that k-mers are unusual; here they are this process.
pytestmark = pytest.mark.filterwarnings("ignore:with kmer")
JOB = Path(__file__).parents[2] / "jobs" / "predict.py"
LABELS: dict[str, tuple[Any, ...]] = {
    "binary": ("0", "1"),
    "multiclass": ("exon", "intron", "neither"),
    "multilabel": (["x"], ["y;z", "w"], []),
    "regression": ("1.5", "3", "7"),
    "token": ("0-9=gene", "5-20=gene"),
}
MAX_TOKENS = 24
# Twice the same, in another case and as RNA too, with an N, and two that are longer than a window.
LETTERS = [dna(n, seed=n) for n in (9, 30, 14)] + ["ACGTNACGTTAC", dna(30, seed=30).lower(), dna(200, seed=1), dna(90, seed=2)]
SEQUENCES = {f"s{i}": one for i, one in enumerate([*LETTERS, LETTERS[2].replace("T", "U"), LETTERS[0]])}
DISTINCT, LONG = 6, 2


@pytest.fixture
def on_ray(two_cpus: None, ray_cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Ray, with its workers' cache of models for this process, too."""
    monkeypatch.setenv("DNAFEAT_CACHE", str(ray_cache))


@pytest.fixture(autouse=True)
def _in_this_process(request: pytest.FixtureRequest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    if "on_ray" not in request.fixturenames:
        monkeypatch.setenv("DNAFEAT_CACHE", str(tmp_path / "cache"))
        monkeypatch.setattr(plan, "_SHARD_MIN_ROWS", 2)


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return random_folder(tmp_path_factory.mktemp("models") / "tiny")


@pytest.fixture(scope="module")
def kmer_base(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A DNABERT-3 with 64 positions."""
    folder = tmp_path_factory.mktemp("models") / "dnabert3"
    folder.mkdir()
    words = ["".join(word) for word in itertools.product("ATCG", repeat=3)]
    (folder / "vocab.txt").write_text("\n".join([*KMER_SPECIAL, *words]) + "\n")
    (folder / "config.json").write_text(json.dumps(bert_config()))
    save_file({key: value.clone() for key, value in bert_state(bert_config()).items()}, folder / "model.safetensors")
    return folder


@dataclass(frozen=True)
class Trained:
    """An artifact, and the network it was written from."""

    uri: str
    model: FineTuned
    data: Data

    def logits(self, letters: str) -> np.ndarray:
        """The training network's own for one sequence, (1, width) or, per token, (1, tokens, width)."""
        tokenizer = self.data.tokenizer
        tokens, _ = truncate(tokenizer.ragged([letters]), MAX_TOKENS - tokenizer.specials)
        batch = Collate(Examples(tokens, np.zeros(1)), tokenizer, self.data.special_tokens, False)([(0, 1.0, False)])
        with torch.no_grad():
            return self.model(batch["input_ids"], batch["attention_mask"], batch["content"]).numpy()


def trained(uri: Path | str, base: Path, task: str = "multiclass", **settings: Any) -> Trained:
    """An artifact without training: every weight that training may change has been moved at random."""
    labelled = Path(tempfile.mkdtemp()) / "labelled.parquet"
    letters = [dna(40, seed=100 + i) for i in range(len(LABELS[task]))]
    pq.write_table(pa.table({"sequence": letters, "label": list(LABELS[task])}), labelled)
    files = {"train": str(labelled), "dev": str(labelled), "output": str(uri)}
    config = FinetuneConfig.make(**files, model=str(base), task=task, max_tokens=MAX_TOKENS, **settings)
    prepared = finetune.prepare(config)
    labelled.unlink()
    labelled.parent.rmdir()
    torch.manual_seed(0)
    model = build(prepared.source, config, prepared.data.labels)
    with torch.no_grad():
        for parameter in model.trainable().values():
            parameter += 0.1 * torch.randn_like(parameter)
    made = Trained(str(uri), model.eval(), prepared.data)
    if task == "token":
        # Both classes are predicted somewhere.
        with torch.no_grad():
            model.head.classifier.bias -= torch.from_numpy(made.logits(LETTERS[5])[0, 1:-1].mean(0))
    result: dict[str, Any] = {"precision": "float32", "device": "CPU", "metrics": {}, "history": [], "confusion": {}}
    result |= {"steps": 1, "best_step": 1, "seconds": 0.0, "workers": 1}
    artifact.write(str(uri), model, prepared.source, finetune._about(config, prepared, result), result)
    return made


Make = Callable[..., Trained]


@pytest.fixture(scope="module")
def make(base: Path, kmer_base: Path, tmp_path_factory: pytest.TempPathFactory) -> Make:
    """An artifact with these settings, the same for all tests, which leave it as it is."""
    known: dict[str, Trained] = {}

    def get(model: str = "BPE", **settings: Any) -> Trained:
        name = f"{model} {sorted(settings.items())}"
        if name not in known:
            known[name] = trained(tmp_path_factory.mktemp("artifact"), {"BPE": base, "k-mers": kmer_base}[model], **settings)
        return known[name]

    return get


def copied(made: Trained, folder: Path) -> Trained:
    """The same artifact in a place of its own, to be damaged."""
    return replace(made, uri=str(shutil.copytree(made.uri, folder)))


def normal(letters: str) -> str:
    return letters.upper().replace("U", "T")


def run(made: Trained, folder: Path, sequences: dict[str, str] = SEQUENCES, **settings: Any) -> tuple[pa.Table, PredictSummary]:
    output = folder / "predictions.parquet"
    source = fasta(folder / "input.fa", sequences)
    summary = predict(PredictConfig.make(artifact=made.uri, input=(source,), output=str(output), **settings), show=False)
    assert sorted(path.name for path in folder.glob("predictions*")) == ["predictions.parquet"]
    return pq.read_table(output), summary


def matrix(table: pa.Table) -> np.ndarray:
    return np.stack([table[name].to_numpy() for name in table.column_names if name.startswith("probability_")], axis=1)


def check(table: pa.Table, made: Trained, sequences: dict[str, str] = SEQUENCES) -> None:
    """Ids in order, and what the network answers for each sequence alone."""
    labels = made.data.labels
    assert table["sequence_id"].to_pylist() == list(sequences)
    logits = np.concatenate([made.logits(normal(one)) for one in sequences.values()])
    assert len(np.unique(logits.round(4), axis=0)) > 3  # the answers differ, so that a mixed-up order would show
    expected = labels.probabilities(logits)
    if labels.task == "regression":
        assert table.schema.equals(pa.schema([("sequence_id", pa.string()), ("predicted", pa.float64())]))
        np.testing.assert_allclose(table["predicted"].to_numpy(), expected[:, 0], atol=1e-5, rtol=0)
        return
    assert table.column_names == ["sequence_id", "predicted", *(f"probability_{name}" for name in labels.names)]
    assert table.schema.types == [pa.string(), pa.string(), *[pa.float64()] * labels.width]
    np.testing.assert_allclose(matrix(table), expected, atol=1e-5, rtol=0)
    assert table["predicted"].to_pylist() == labels.predicted(logits)


WAYS: dict[str, dict[str, Any]] = {
    "LoRA": {"task": "multiclass", "method": "lora"},
    "probe, two vectors": {"task": "binary", "method": "probe", "pooling": "cls+mean"},
    "full, pooler": {"task": "multilabel", "method": "full", "head": "pooler"},
    "LoRA, projector": {"task": "regression", "method": "lora", "head": "projector"},
    "LoRA, k-mers before BPE": {"task": "multiclass", "method": "lora", "kmer": 3, "pooling": "max"},
    "full, special tokens": {"task": "binary", "method": "full", "special_tokens": True, "head": "projector"},
    "probe, k-mers before BPE": {"task": "regression", "method": "probe", "kmer": 4, "pooling": "cls+mean+max"},
}


@pytest.mark.parametrize("way", WAYS)
def test_every_entry_gets_what_the_trained_network_answers(way: str, make: Make, tmp_path: Path) -> None:
    made = make(**WAYS[way])
    table, summary = run(made, tmp_path)
    check(table, made)
    long = sum(np.diff(made.data.tokenizer.ragged([one]).offsets)[0] > MAX_TOKENS - 2 for one in LETTERS[:4] + LETTERS[5:])
    assert long >= LONG
    assert (summary.rows, summary.refused, summary.sequences, summary.truncated) == (9, 0, DISTINCT, long)
    assert (summary.windowed, summary.precision, summary.window_tokens) == (0, "float32", MAX_TOKENS)


def test_regions_of_a_cohort_stand_in_the_order_of_their_lines(make: Make, tmp_path: Path) -> None:
    made = make(**WAYS["LoRA"])
    genome = dna(300, seed=1)
    ref, alt = genome[119], next(base for base in "ACGT" if base != genome[119])
    lines = ["c\t200\t260\tlast\t0\t-", "c\t100\t150\tmiddle", "c\t0\t2\tshort", "c\t20\t80\tfirst"]
    (tmp_path / "r.bed").write_text("\n".join(lines))
    vcf = write_vcf(tmp_path / "v.vcf.gz", vcf_text({"c": 300}, ["A", "B"], [("c", 120, ref, alt, "0|1", "1|1")]))
    paths = {"genome": write_genome(tmp_path / "g.fa", {"c": genome}), "regions": str(tmp_path / "r.bed"), "vcf": (vcf,)}
    output = tmp_path / "predictions.parquet"
    summary = predict(PredictConfig.make(artifact=made.uri, output=str(output), max_n_share=0.0, **paths), show=False)
    own = {
        "last": reverse_complement(genome[200:260].encode()).decode(),
        "middle": genome[100:150],
        "short": genome[:2],
        "first": genome[20:80],
    }
    changed = genome[100:119] + alt + genome[120:150]
    letters = {
        f"{person}/{name}/{number}": changed if name == "middle" and (person, number) != ("A", 1) else text
        for name, text in own.items()
        for person in "AB"
        for number in (1, 2)
    }
    check(pq.read_table(output), made, letters)
    assert (summary.rows, summary.sequences) == (16, 5)


@pytest.mark.parametrize("method", ["lora", "full", "probe"])
def test_dnabert_with_k_mers(method: str, make: Make, tmp_path: Path) -> None:
    made = make("k-mers", method=method, pooling="cls+mean")
    table, summary = run(made, tmp_path, SEQUENCES | {"short": "AC"})
    assert (summary.rows, summary.refused, summary.truncated) == (10, 1, 3)
    assert "2 bases are too few" in str(summary.first_refused)
    check(table.slice(0, 9), made)
    assert set(table.slice(9).to_pylist()[0].values()) == {"short", None}


@pytest.mark.usefixtures("on_ray")
def test_this_process_and_two_actors_answer_the_same(make: Make, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(plan, "_SHARD_MIN_ROWS", 7)
    made = make(task="multiclass", method="lora")
    many = {f"s{i}": dna(20 + i % 60, seed=i % 60) for i in range(100)}
    one, summary = run(made, tmp_path, many, runner="local")
    two, _ = run(made, tmp_path, many, num_actors=2)
    assert summary.sequences == 60
    np.testing.assert_allclose(matrix(one), matrix(two), atol=1e-6, rtol=0)
    check(one, made, many)
    check(two, made, many)


def test_all_windows_are_pooled_where_asked_for(make: Make, tmp_path: Path) -> None:
    made = make(method="full", pooling="cls+mean+max")
    table, summary = run(made, tmp_path, windows=True)
    assert (summary.truncated, summary.windowed) == (0, LONG)
    found = artifact.load(made.uri)
    encoder = Encoder.load(replace(found.encoding(), truncate=False))
    with torch.no_grad():
        logits = found.head()(torch.from_numpy(encoder.encode(list(SEQUENCES.values())).pooled("cls+mean+max"))).numpy()
    np.testing.assert_allclose(matrix(table), made.data.labels.probabilities(logits), atol=1e-5, rtol=0)
    first, _ = run(made, tmp_path)
    changed = np.abs(matrix(first) - matrix(table)).max(1) > 1e-4
    assert np.flatnonzero(changed).tolist() == [5, 6]


@pytest.mark.parametrize("kind", ["BPE", "k-mers"])
def test_labels_of_bases_come_as_intervals(kind: str, make: Make, tmp_path: Path) -> None:
    made = make(kind, task="token")
    table, summary = run(made, tmp_path)
    assert summary.truncated >= LONG
    assert table.schema.equals(pa.schema([("sequence_id", pa.string()), ("predicted", pa.string())]))
    assert table["sequence_id"].to_pylist() == list(SEQUENCES)
    labels, seen = made.data.labels, set()
    for letters, text in zip(SEQUENCES.values(), table["predicted"].to_pylist(), strict=True):
        letters = normal(letters)
        _, starts, stops = made.data.tokenizer.spans([letters])
        size = min(len(starts), MAX_TOKENS - 2)
        covered = int(stops[:size].max())
        values = base_values(made.logits(letters)[0, 1 : 1 + size], starts[:size], stops[:size], covered)
        # What training reads as labels is what prediction writes.
        np.testing.assert_array_equal(labels.encode([text], lambda row: "here", [covered])[0], values.argmax(1))
        assert text.startswith("0-")
        assert f"-{covered}=" in text.rpartition(";")[2]
        seen |= set(values.argmax(1).tolist())
    assert seen == {0, 1}
    with pytest.raises(UsageError, match="leave --windows out"):
        run(made, tmp_path, windows=True)


BAD = (
    "sequence_id,sequence,mean\ngood,ACGTACGT,1\nstrange,ACGXT,2\ntoo,many,fields,here\n,ACGT,\n"
    "good,GATTACA,\nnn,NNNNNNACGT,\nlast,ACGTACGT,\n"
)


def test_refused_entries_keep_their_rows(make: Make, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    made = make(task="multiclass", method="lora")
    source, output = tmp_path / "bad.csv", tmp_path / "new" / "out.parquet"
    source.write_text(BAD)
    command = ["predict", made.uri, "--input", str(source), "--output", str(output)]
    assert main([*command, "--strict"]) == 1
    text = capsys.readouterr().err
    assert "4 of 7 entries were refused" in text
    assert f"'strange' at {source}:2: letter 'X' at base 4" in text
    assert not output.parent.exists()
    assert main([*command, "--json"]) == 0
    summary = json.loads(capsys.readouterr().out.splitlines()[-1])
    assert (summary["rows"], summary["refused"], summary["sequences"], summary["output"]) == (7, 4, 2, str(output))
    assert summary["first_refused"].startswith(f"'strange' at {source}:2: letter")
    assert [path.name for path in output.parent.iterdir()] == ["out.parquet"]
    table = pq.read_table(output)
    assert table["sequence_id"].to_pylist() == ["good", "strange", None, None, "good", "nn", "last"]
    null = [False, True, True, True, False, True, False]
    assert all(table[name].is_null().to_pylist() == null for name in table.column_names[1:])
    kept = table.filter(pa.array([not one for one in null]))
    expected = np.concatenate([made.logits(one) for one in ("ACGTACGT", "GATTACA", "ACGTACGT")])
    np.testing.assert_allclose(matrix(kept), made.data.labels.probabilities(expected), atol=1e-5, rtol=0)
    assert main([*command, "--max-n-share", "0.7"]) == 0
    text = capsys.readouterr().out
    assert f"refused  3 entries, whose rows are null: the first is 'strange' at {source}:2" in text
    assert pq.read_table(output)["predicted"].null_count == 3  # the file before was replaced


def test_input_that_is_refused_as_a_whole_needs_no_ray(make: Make, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    made = make(**WAYS["probe, k-mers before BPE"])
    monkeypatch.setattr(cluster, "start_ray", lambda: pytest.fail("Ray was started for nothing"))
    table, summary = run(made, tmp_path, {"a": "XX", "b": ""})
    assert (summary.rows, summary.refused, summary.sequences) == (2, 2, 0)
    assert table.to_pylist() == [{"sequence_id": "a", "predicted": None}, {"sequence_id": "b", "predicted": None}]
    assert table.schema.field("predicted").type == pa.float64()


def test_several_inputs_stand_in_the_order_given(make: Make, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    made = make(task="multiclass", method="lora")
    pq.write_table(pa.table({"key": ["p1", "p2"], "dna": ["ACGTAC", "!"]}), tmp_path / "z.parquet")
    (tmp_path / "a.tsv").write_text("key\tdna\tfile\nt1\tGGGTTT\tx\n")
    files = [str(tmp_path / name) for name in ("z.parquet", "a.tsv")]
    out = str(tmp_path / "out.parquet")
    flags = [*itertools.chain.from_iterable(("--input", file) for file in files), "--output", out]
    assert main(["predict", made.uri, *flags, "--id-column", "key", "--sequence-column", "dna"]) == 0
    assert pq.read_table(out)["sequence_id"].to_pylist() == ["p1", "p2", "t1"]
    assert pq.read_table(out)["predicted"].is_null().to_pylist() == [False, True, False]
    assert main(["predict", made.uri, *flags]) == 2
    assert "no column 'sequence' or 'seq'" in capsys.readouterr().err


def test_accepted_and_refused_entries_are_merged_in_order(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(spill, "_BUFFER_BYTES", 1)  # every batch on its own
    monkeypatch.setattr(sources, "batches", _small(sources.batches))
    random = np.random.default_rng(0)
    files, wanted = [], []
    for number in (2, 0, 1):
        good = [bool(one) for one in random.random(57) < (0.9, 0.5, 0.0)[number]]
        names = [f"{number}-{i}" for i in range(57)]
        files.append(
            fasta(tmp_path / f"{number}.fa", {name: "ACGT" if fine else "!" for name, fine in zip(names, good, strict=True)})
        )
        wanted += list(zip(names, good, strict=True))
    intake = take_in(sources.look(files, sources.ReadOptions(keys=False)), Checks(), tmp_path, by_id=False)
    rows = [row for batch in _in_order(intake, files) for row in batch.to_pylist()]
    assert [(row["sequence_id"], row["sequence_digest"] is not None) for row in rows] == wanted


def _small(batches: Any) -> Any:
    def cut(*arguments: Any) -> Iterator[pa.RecordBatch]:
        for batch in batches(*arguments):
            for at in range(0, len(batch), 5):
                yield batch.slice(at, 5)

    return cut


@pytest.mark.long
@pytest.mark.usefixtures("on_ray")
def test_everything_may_lie_on_s3(s3: S3, make: Make, base: Path, capsys: pytest.CaptureFixture[str]) -> None:
    _from_s3(s3, make(task="multiclass", method="lora"), base, capsys)


@pytest.mark.parametrize("method", ["full", "probe"])
def test_other_methods_on_s3(method: str, s3: S3, make: Make, base: Path, capsys: pytest.CaptureFixture[str]) -> None:
    _from_s3(s3, make(method=method), base, capsys)


def _from_s3(s3: S3, made: Trained, base: Path, capsys: pytest.CaptureFixture[str]) -> None:
    prefix, client = s3.uri("prefix"), s3.client()
    for folder, name in ((Path(made.uri), "artifact"), (base, "base")):
        for file in folder.iterdir():
            client.pipe(f"{prefix}/{name}/{file.name}", file.read_bytes())
    source, output = f"{prefix}/input.fa", f"{prefix}/out/predictions.parquet"
    client.pipe(source, "".join(f">{name}\n{letters}\n" for name, letters in SEQUENCES.items()).encode())
    command = ["predict", f"{prefix}/artifact", "--input", source, "--output", output, "--json"]
    whole = json.loads(Path(made.uri, "dnafeat.json").read_text())["method"] == "full"
    assert main(command if whole else [*command, "--model", f"{prefix}/base"]) == 0
    assert json.loads(capsys.readouterr().out.splitlines()[-1])["output"] == output
    with client.open(output, "rb") as file:
        check(pq.read_table(file), made)
    assert [name.rpartition("/")[2] for name in client.find(f"{prefix}/out")] == ["predictions.parquet"]


def refusal(capsys: pytest.CaptureFixture[str], *arguments: str) -> str:
    assert main(["predict", *arguments]) == 2
    captured = capsys.readouterr()
    assert captured.out == ""
    lines = captured.err.strip().splitlines()
    assert len(lines) == 1, lines
    assert lines[0].startswith("dnafeat: ")
    return lines[0]


def test_what_is_no_artifact_is_refused_in_one_sentence(
    make: Make, base: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    made = copied(make(method="probe"), tmp_path / "artifact")
    source, out = fasta(tmp_path / "a.fa", {"a": "ACGT"}), str(tmp_path / "out.parquet")
    flags = ["--input", source, "--output", out]
    assert "holds no dnafeat.json: give the folder that dnafeat finetune wrote" in refusal(capsys, str(base), *flags)
    assert "is neither a folder" in refusal(capsys, str(tmp_path / "none"), *flags)
    assert "artifact is missing" in refusal(capsys, *flags)
    assert "input is missing" in refusal(capsys, made.uri, "--output", out)
    assert "does not exist" in refusal(capsys, made.uri, "--input", str(tmp_path / "none.fa"), "--output", out)
    assert "both input and output" in refusal(capsys, made.uri, "--input", source, "--output", source)
    assert "is a folder" in refusal(capsys, made.uri, "--input", source, "--output", str(tmp_path))
    assert "--max-n-share" in refusal(capsys, made.uri, *flags, "--max-n-share", "2")
    about = Path(made.uri, "dnafeat.json")
    whole = about.read_text()
    for text in ("{}", '{"labels": 1}'):
        about.write_text(text)
        assert "is not as dnafeat finetune wrote it" in refusal(capsys, made.uri, *flags)
    about.write_text("{")
    assert "cannot be read" in refusal(capsys, made.uri, *flags)
    about.write_text(whole)
    Path(made.uri, "head.safetensors").unlink()
    assert "head.safetensors cannot be" in refusal(capsys, made.uri, *flags)
    assert not Path(out).exists()


@pytest.mark.parametrize("method", ["lora", "probe"])
def test_a_base_that_has_moved_is_named_with_model(
    method: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    base, artifact_, moved = random_folder(tmp_path / "base"), tmp_path / "artifact", tmp_path / "moved"
    made = trained(artifact_, base, method=method)
    before, _ = run(made, tmp_path)
    base.rename(moved)
    flags = ["--input", str(tmp_path / "input.fa"), "--output", str(tmp_path / "out.parquet")]
    said = refusal(capsys, made.uri, *flags)
    assert f"{made.uri} was trained on {base}, which is not found: say with --model where that is now (model" in said
    after, _ = run(made, tmp_path, model=str(moved))
    assert after.equals(before)
    # A relative name has to mean the same in every worker.
    monkeypatch.chdir(tmp_path)
    assert Predictor.find(made.uri, windows=False, model="moved").encoding.model == str(moved)
    base.mkdir()
    assert f"{base}, which is not found: say with --model" in refusal(capsys, made.uri, *flags)
    for wrong in (base, artifact_):
        assert "is it the folder of a model?" in refusal(capsys, made.uri, *flags, "--model", str(wrong))
    assert "is neither a folder" in refusal(capsys, made.uri, *flags, "--model", str(tmp_path / "none"))
    random_folder(base, seed=1)
    for model in (None, str(base)):
        with pytest.raises(CheckpointError, match=r"with other weights than .* has now .* or say with --model where they are"):
            run(made, tmp_path, model=model)
    tokenizer = json.loads((moved / "tokenizer.json").read_text())
    tokenizer["model"]["merges"].reverse()
    (moved / "tokenizer.json").write_text(json.dumps(tokenizer))
    with pytest.raises(CheckpointError, match=r"with another tokenizer than .*moved has now: tokenizer\.json differs"):
        run(made, tmp_path, model=str(moved))


def test_an_artifact_with_all_weights_takes_no_model(make: Make, base: Path, tmp_path: Path) -> None:
    made = make(method="full")
    with pytest.raises(UsageError, match=r"has all weights itself: leave --model out"):
        run(made, tmp_path, model=str(base))


def test_logits_that_are_no_numbers_write_nothing(make: Make, tmp_path: Path) -> None:
    made = copied(make(task="multiclass", method="lora"), tmp_path / "artifact")
    head = load_file(Path(made.uri, "head.safetensors"))
    head["classifier.weight"][0, 0] = torch.nan
    save_file(head, Path(made.uri, "head.safetensors"))
    with pytest.raises(AuditError, match="NaN"):
        run(made, tmp_path)
    assert not list(tmp_path.glob("predictions*"))


@pytest.mark.usefixtures("on_ray")
def test_a_failure_leaves_the_output_that_was_there_and_nothing_else(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    base = random_folder(tmp_path / "base")
    made = trained(tmp_path / "artifact", base, method="probe")
    output = tmp_path / "predictions.parquet"
    output.write_bytes(b"before")
    config = PredictConfig.make(artifact=made.uri, input=(fasta(tmp_path / "a.fa", SEQUENCES),), output=str(output))
    distinct = plan.distinct
    with monkeypatch.context() as patch:
        # The workers find another encoder than the driver did.
        patch.setattr(plan, "distinct", lambda *arguments: random_folder(base, seed=1) and distinct(*arguments))
        with pytest.raises(EncodingError, match="is not the same on all nodes"):
            predict(config, show=False)
    assert output.read_bytes() == b"before"
    assert sorted(path.name for path in tmp_path.iterdir()) == ["a.fa", "artifact", "base", "predictions.parquet"]
    random_folder(base)
    with pytest.raises(StrictError):
        predict(config.replace(input=(fasta(tmp_path / "a.fa", {"a": "!"}),), strict=True), show=False)
    assert output.read_bytes() == b"before"
    (tmp_path / "file").write_text("")
    with pytest.raises(StoreError, match="cannot be written"):
        predict(config.replace(input=(fasta(tmp_path / "a.fa", {"a": "!"}),), output=str(tmp_path / "file" / "x")), show=False)


def test_the_job_file_is_the_command(
    make: Make, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    output = tmp_path / "out.parquet"
    flags = ["--input", fasta(tmp_path / "a.fa", {"a": "!"}), "--output", str(output), "--json"]
    monkeypatch.setattr(sys, "argv", [str(JOB), make(method="probe").uri, *flags])
    with pytest.raises(SystemExit) as ended:
        runpy.run_path(str(JOB), run_name="__main__")
    assert ended.value.code == 0
    assert json.loads(capsys.readouterr().out.splitlines()[-1])["refused"] == 1
    assert pq.read_table(output).num_rows == 1
