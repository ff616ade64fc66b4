"""Pretraining: its pieces, runs in this process, and one on two workers of Ray Train."""

from __future__ import annotations

import dataclasses
import json
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import counts
import numpy as np
import pytest
import ray
import torch

import dnafeat
from dnafeat.cli.main import main
from dnafeat.encoder.models.checkpoint import load_model
from dnafeat.encoder.models.dnabert2 import DNABERT2
from dnafeat.encoder.models.heads import MaskedLM
from dnafeat.encoder.models.tokenizers import train_bpe
from dnafeat.encoder.models.vocabularies import load
from dnafeat.errors import EncodingError, UsageError
from dnafeat.pretrain import artifact, corpus, heldout, masking, probe
from dnafeat.pretrain import job as pretrain
from dnafeat.pretrain.config import PretrainConfig
from dnafeat.pretrain.worker import PretrainData, PretrainTask, training_batch
from dnafeat.sequence import reverse_complement
from dnafeat.training.local import train_locally
from dnafeat.training.on_ray import train_on_ray
from dnafeat.training.worker import Launch, Outcome, TrainingRun

LAMBDA = Path(dnafeat.__file__).parent / "bundled" / "data" / "lambda_NC_001416.fa.gz"
PROMOTERS = LAMBDA.parent / "uci_promoters.csv"
RNG = np.random.default_rng(3)
# Workers of the run that most tests look at. `make test` has one in this process: how Ray Train launches is one code, which
# fine-tuning's tests run on two workers.
WORKERS = 2 if counts.LONG else 1


def random_dna(length: int) -> bytes:
    return bytes(RNG.choice(list(b"ACGT"), length).tolist())


def slow_shared(train: list[bytes], heldout: bytes, k: int) -> list[bool]:
    words = {s[i : i + k] for stretch in train for s in (stretch, reverse_complement(stretch)) for i in range(len(s) - k + 1)}
    covered = [False] * len(heldout)
    for i in range(len(heldout) - k + 1):
        if heldout[i : i + k] in words and b"N" not in heldout[i : i + k]:
            covered[i : i + k] = [True] * k
    return covered


@pytest.mark.parametrize("k", [8, 30, 31])
def test_shared_bases_equal_a_slow_search(k):
    train = [random_dna(300), random_dna(200) + b"N" + random_dna(100), b"ACG"]
    kept = random_dna(60) + train[0][50:130] + random_dna(40) + reverse_complement(train[1][150:260]) + b"NNN" + train[0][:20]
    found = heldout.shared_bases(train, [kept, b"ACGT"], k)
    assert found[0].tolist() == slow_shared(train, kept, k)
    assert found[0].any()
    assert not found[0].all()
    assert found[1].tolist() == [False] * 4


def test_tokens_that_touch_a_shared_base_are_not_scored():
    shared = random_dna(40)
    genomes = corpus.Genomes(
        {"a": random_dna(500) + shared + random_dna(500)}, {"b": random_dna(100) + reverse_complement(shared) + random_dna(100)}
    )
    prepared = heldout.prepare(genomes, train_bpe([genomes.train["a"].decode()], 40))
    ids, scored = prepared.heldout["b"]
    starts, ends = corpus.token_spans(prepared.tokenizer, ids)
    assert ends[-1] == 240
    assert scored.tolist() == [not (s < 140 and e > 100) for s, e in zip(starts, ends, strict=True)]
    assert prepared.excluded["b"] == pytest.approx(40 / 240)


def test_flanks_and_table_are_what_the_letters_say():
    letters = b"ACGTTGCANACG"
    tokenizer = train_bpe(["ACGT"], 9)
    ids, _ = corpus.tokenise(tokenizer, [letters])
    keys = heldout.flanks(letters, *corpus.token_spans(tokenizer, ids))
    padded = "AAA" + letters.decode().replace("N", "A") + "AAA"
    assert keys.tolist() == [
        int("".join(str("ACGT".index(c)) for c in padded[i : i + 3] + padded[i + 4 : i + 7]), 4) for i in range(12)
    ]
    baselines = heldout.fit_baselines(tokenizer, [b"AAACTTT" * 50])
    assert np.allclose(baselines.table.sum(1), 1)
    assert np.isclose(baselines.unigram.sum(), 1)
    scores = baselines.score(
        *(
            x[3:4]
            for x in (corpus.tokenise(tokenizer, [b"AAACTTT"])[0], heldout.flanks(b"AAACTTT", np.arange(7), np.arange(7) + 1))
        )
    )
    assert scores["table_accuracy"] == 1
    assert scores["table_loss"] < scores["unigram_loss"]


def test_crops_stay_inside_stretches_and_reach_every_start():
    stream, offsets = np.arange(20, dtype=np.uint16), np.array([0, 4, 5, 20])
    rows = masking.crops(stream, offsets, 4, 4000, np.random.default_rng(0))
    assert (np.diff(rows, axis=1) == 1).all()
    starts, counts = np.unique(rows[:, 0], return_counts=True)
    assert starts.tolist() == [0, *range(5, 17)]
    assert counts.min() > 200
    with pytest.raises(UsageError, match="no training stretch has 16 tokens"):
        masking.crops(stream, offsets, 16, 1, np.random.default_rng(0))


def test_masking_is_80_10_10_of_the_rate_and_spares_unknown_tokens():
    rng = np.random.default_rng(0)
    ids = rng.integers(5, 9, (2000, 100))
    ids[:, 7] = 0
    inputs, targets = masking.mask(ids, 0.15, 9, rng)
    chosen = targets != -100
    assert (chosen.sum(1) == 15).all()
    assert not chosen[:, 7].any()
    assert (targets[chosen] == ids[chosen]).all()
    assert (inputs[~chosen] == ids[~chosen]).all()
    assert (inputs[chosen] == corpus.MASK).mean() == pytest.approx(0.8, abs=0.01)
    # 10 % stay, and a quarter of the 10 % random ones hit the same base.
    assert (inputs[chosen] == ids[chosen]).mean() == pytest.approx(0.125, abs=0.01)
    other = inputs[chosen & (inputs != corpus.MASK) & (inputs != ids)]
    assert set(other.tolist()) == {5, 6, 7, 8}
    inputs, targets = masking.mask(np.zeros((2, 50), np.int64), 0.15, 9, rng)
    assert not inputs.any()
    assert (targets == -100).all()


def test_both_strands_are_true_reverse_complements():
    assert corpus.both_strands([b"AACGN", b"T"]) == [b"AACGN", b"T", b"NCGTT", b"A"]


def test_two_workers_see_the_batch_of_one(tmp_path):
    chosen = options(tmp_path, seed=1, lengths=(16, 32), batch_tokens=256, mask_rate=0.2)
    data = PretrainData(stream=RNG.integers(5, 9, 500).astype(np.uint16), offsets=np.array([0, 500]), heldout={})
    for step in range(4):
        whole = training_batch(chosen, 9, data, step, 0, 1)
        halves = [training_batch(chosen, 9, data, step, rank, 2) for rank in (0, 1)]
        for i in (0, 1):
            assert torch.equal(whole[i][0::2], halves[0][i])
            assert torch.equal(whole[i][1::2], halves[1][i])
        assert (whole[0][:, 0] == 1).all()
        assert (whole[0][:, -1] == 2).all()
        assert whole[0].numel() == 256
        assert whole[2] == halves[0][2] == halves[1][2] == int((whole[1] != -100).sum())


@pytest.mark.parametrize(("letters", "tokens"), [
    ("ACGTTGCAAAC", ["ACG", "TTG", "CAA", "AC"]),
    ("ACGTNTTTT", ["ACG", "T", "[UNK]", "TTT", "T"]),
    ("RA", ["[UNK]", "A"]),
])  # fmt: skip
def test_kmers_are_cut_in_frame(letters, tokens):
    tokenizer = corpus.kmer_tokenizer(3)
    encoded = tokenizer.encode(letters)
    assert encoded.tokens == ["[CLS]", *tokens, "[SEP]"]
    starts, ends = corpus.token_spans(tokenizer, np.array(encoded.ids[1:-1]))
    assert list(zip(starts, ends, strict=True)) == encoded.offsets[1:-1]


def test_a_chromosome_keeps_its_frame_across_chunks():
    letters, tokenizer = random_dna(25_000), corpus.kmer_tokenizer(3)
    ids, offsets = corpus.tokenise(tokenizer, [letters])
    assert offsets.tolist() == [0, 8334]
    assert "".join(tokenizer.id_to_token(i) for i in ids).encode() == letters
    assert (ids[:-1] >= 5 + 4 + 16).all()


def test_the_last_kmer_of_a_crop_is_cut_short(tmp_path):
    tokenizer = corpus.kmer_tokenizer(3)
    short = corpus.shortened(tokenizer, 3)
    names = [[tokenizer.id_to_token(i) for i in row] for row in short.tolist()]
    assert names[tokenizer.token_to_id("GTA")] == ["G", "GT", "GTA"]
    assert names[tokenizer.token_to_id("C")] == ["C", "C", "C"]
    assert names[0] == ["[UNK]"] * 3
    stream, _ = corpus.tokenise(tokenizer, [random_dna(3000)])
    chosen = options(tmp_path, seed=1, lengths=(32,), batch_tokens=6400, mask_rate=0.2, kmer=3)
    data = PretrainData(stream=stream, offsets=np.array([0, len(stream)]), heldout={}, shortened=short)
    inputs, targets, _ = training_batch(chosen, 89, data, 0, 0, 1)
    last = torch.where(targets[:, -2] == -100, inputs[:, -2], targets[:, -2])
    lengths = [len(tokenizer.id_to_token(i)) for i in last.tolist()]
    assert min(lengths.count(n) for n in (1, 2, 3)) > 40


def options(folder: Path, **changes) -> PretrainConfig:
    shape = {
        "layers": 2,
        "hidden": 32,
        "heads": 2,
        "intermediate": 32,
        "batch_tokens": 1024,
        "lengths": (32, 64),
        "evaluate_every": 3,
    }
    name = next(iter(corpus.read_records([str(LAMBDA)])))
    settings = {
        "files": (str(LAMBDA),),
        "holdout_interval": (f"{name}:10000-14000",),
        "output": str(folder / "model"),
        "storage": str(folder / "runs"),
        "steps": 6,
        "warmup_steps": 2,
        "precision": "float32",
    }
    return PretrainConfig.make(**(settings | shape | changes))


@pytest.fixture(scope="module")
def finished(request, tmp_path_factory):
    """Settings and numbers of a run, in `make test-long` on two workers, which Ray Train launches."""
    if WORKERS > 1:
        request.getfixturevalue("two_cpus_throughout")
        # Workers cannot import a test module: what is defined here travels whole.
        ray.cloudpickle.register_pickle_by_value(sys.modules[__name__])
    chosen = options(tmp_path_factory.mktemp("pretrain"), num_workers=WORKERS, probe=(str(PROMOTERS),))
    return chosen, pretrain.pretrain(chosen, show=False)


def run_of(chosen: PretrainConfig, stream: Any = None) -> TrainingRun:
    genomes = corpus.read_genomes(chosen.files, (), chosen.holdout_interval)
    prepared = heldout.prepare(genomes, pretrain.make_tokenizer(chosen, genomes))
    if stream is not None:
        prepared = dataclasses.replace(prepared, stream=stream(prepared.stream))
    return pretrain.training_run(chosen, chosen.run_name(genomes), genomes, prepared)


def trained(chosen: PretrainConfig, launch: Launch, stream: Any = None) -> Outcome:
    return launch(run_of(chosen, stream), show=False, say=lambda line: None)


def test_a_run_writes_what_it_trained(finished):
    chosen, metrics = finished
    folder = Path(chosen.output)
    assert (metrics["training"]["steps"], metrics["training"]["workers"]) == (6, WORKERS)
    assert {p.name for p in folder.iterdir()} == {
        "config.json", "model.safetensors", "tokenizer.json", "tokenizer_config.json", "metrics.json", "README.md",
    }  # fmt: skip
    assert json.loads((folder / "config.json").read_text())["architectures"] == ["BertForMaskedLM"]
    (row,) = metrics["masked_lm"].values()
    # Six steps teach nothing, but four bases cannot cost much more than ln 4 either.
    assert 1.3 < row["loss"] < 2.3
    assert row["tokens"] == 4000 // 254 * 254
    assert "one-hot by position" in metrics["probes"]["uci_promoters.csv"]["accuracy"]
    assert f"{row['loss']:.4f}" in (folder / "README.md").read_text()

    # A finished run is not trained again, whatever the number of workers; what it wrote is its last state, rounded.
    outcome = trained(chosen.replace(num_workers=1), train_on_ray if WORKERS > 1 else train_locally)
    assert (outcome.results["steps"], outcome.results["workers"]) == (6, WORKERS)
    model = MaskedLM(DNABERT2(run_of(chosen).job.shape)).eval()
    model.load_state_dict({k: v.bfloat16().float() for k, v in outcome.tensors.items()})
    ids = torch.from_numpy(load(folder).ragged(["ACGTNACGT"]).ids.astype(np.int64))[None]
    with torch.no_grad():
        assert torch.equal(dnafeat.load_model(str(folder))(ids).last_hidden_state, model.bert(ids).last_hidden_state)
        assert torch.equal(load_model(str(folder), "masked-lm")(ids).logits, model(ids).logits)


class DyingStream:
    """Token ids that fail the fifth time a batch is drawn from them, once."""

    def __init__(self, stream: np.ndarray, marker: Path) -> None:
        self.stream, self.marker, self.drawn = stream, marker, 0

    def __getitem__(self, at: np.ndarray) -> np.ndarray:
        self.drawn += 1
        if self.drawn == 5 and not self.marker.exists():
            self.marker.touch()
            raise RuntimeError("this worker dies")
        return self.stream[at]


@pytest.mark.long
def test_a_run_that_dies_goes_on_and_ends_like_one_on_two_workers(tmp_path, finished):
    chosen, metrics = finished
    marker = tmp_path / "died"
    alone = chosen.replace(num_workers=1, storage=str(tmp_path / "runs"))
    outcome = trained(alone, train_on_ray, lambda stream: DyingStream(stream, marker))
    assert marker.exists()
    # The first half was not repeated: its row of the history is there once.
    rows = [row for row in outcome.results["history"] if "eval_loss" in row]
    assert [row["step"] for row in rows] == [3, 6]
    both = load_model(chosen.output, "masked-lm").state_dict()
    for key, value in outcome.tensors.items():
        torch.testing.assert_close(value.bfloat16().float(), both[key], rtol=0.02, atol=1e-4)
    heldout_losses = [row[key] for row in (rows[-1], metrics["training"]["history"][-1]) for key in row if "heldout_loss" in key]
    assert heldout_losses[0] == pytest.approx(heldout_losses[1], abs=1e-4)


@pytest.mark.long
def test_a_worker_in_this_process_trains_what_workers_of_ray_train(tmp_path, finished):
    chosen, metrics = finished
    outcome = trained(chosen.replace(num_workers=1, storage=str(tmp_path / "runs")), train_locally)
    assert [row["step"] for row in outcome.results["history"] if "loss" in row] == list(range(1, 7))
    for ours, theirs in zip(
        (row for row in outcome.results["history"] if "eval_loss" in row), metrics["training"]["history"], strict=True
    ):
        assert ours["eval_loss"] == pytest.approx(theirs["eval_loss"], abs=1e-4)


@pytest.mark.parametrize("optimizer", ["adamw", "muon"])
def test_a_checkpoint_goes_on_as_if_nothing_had_been(tmp_path, optimizer):
    """With dropout and both optimisers: weights, optimisers, schedule, crops and random numbers are taken up."""
    chosen = options(tmp_path, optimizer=optimizer, dropout=0.3, storage=str(tmp_path / "whole"))
    whole = trained(chosen, train_locally)
    broken = chosen.replace(storage=str(tmp_path / "broken"))
    with pytest.raises(EncodingError, match="RuntimeError: this worker dies"):
        trained(broken, train_locally, lambda stream: DyingStream(stream, tmp_path / "died"))
    again = trained(broken, train_locally)
    assert again.results["history"] == whole.results["history"]
    assert again.results["seconds"] > 0
    for name, value in whole.tensors.items():
        assert torch.equal(again.tensors[name], value), name


def test_shares_of_the_loss_and_its_gradient_sum_up_whatever_the_workers(tmp_path):
    run = run_of(options(tmp_path, batch_tokens=1100))
    found = []
    for world in (1, 2, 3):
        losses, gradients = [], []
        for rank in range(world):
            torch.manual_seed(0)
            context = SimpleNamespace(rank=rank, world_size=world, device=torch.device("cpu"))
            task = PretrainTask(run.job.config, run.job.shape, run.data, context, "float32")
            loss = task.loss(4)
            loss.backward()
            losses.append(float(loss))
            gradients.append(torch.cat([p.grad.ravel() for p in task.model.parameters()]))
        found.append((sum(losses), torch.stack(gradients).sum(0)))
    for total, gradient in found[1:]:
        assert total == pytest.approx(found[0][0], abs=1e-5)
        torch.testing.assert_close(gradient, found[0][1], rtol=1e-3, atol=1e-6)


def test_a_model_is_found_again_measured_again_for_a_new_probe_and_not_replaced(tmp_path):
    chosen = options(tmp_path, steps=2, evaluate_every=2)
    said = []
    first = pretrain.pretrain(chosen, show=False, say=said.append, launch=train_locally)
    assert not first["already_trained"]
    assert first["artifact"] == chosen.output
    assert said[0].startswith("held out: ")
    assert said[1].startswith(f"run {first['training']['run']}: 44,502 training bases, ")
    assert json.loads(json.dumps(first)) == first
    assert "2 steps in" in repr(first)
    refused = lambda run, **more: pytest.fail("it was trained")  # noqa: E731
    said.clear()
    again = pretrain.pretrain(chosen, show=False, say=said.append, launch=refused)
    assert again == first | {"already_trained": True}
    assert said == [f"{chosen.output} holds this run's model already: nothing to train"]
    assert "was trained already" in pretrain.format_result(again, chosen.output)
    table = tmp_path / "probe.csv"
    rows = [f"{random_dna(20).decode()},{'ab'[i % 2]}\n" for i in range(30)]
    table.write_text("sequence,label\n" + "".join(rows))
    probed = pretrain.pretrain(chosen.replace(probe=(str(table),)), show=False, launch=refused)
    assert probed["training"] == first["training"]
    assert list(probed["probes"]) == ["probe.csv"]
    assert artifact.read(chosen.output)["probes"].keys() == {"probe.csv"}
    with pytest.raises(UsageError, match=f"holds the model of another run, {first['training']['run']}: give another --output"):
        pretrain.pretrain(chosen.replace(seed=5), show=False, launch=refused)


def test_a_model_can_be_written_to_s3(tmp_path, s3):
    chosen = options(tmp_path, steps=1, output=s3.uri("model"))
    metrics = pretrain.pretrain(chosen, show=False, launch=train_locally)
    assert artifact.read(chosen.output)["training"] == metrics["training"]
    assert dnafeat.load_model(chosen.output).config.hidden_size == 32


def test_a_card_is_written_again_without_training(tmp_path, finished):
    chosen, metrics = finished
    copy = chosen.replace(output=str(tmp_path / "copy"), card=chosen.output, probe=())
    again = pretrain.pretrain(copy, show=False, launch=lambda run, **more: pytest.fail("it was trained"))
    assert again["masked_lm"] == metrics["masked_lm"]
    assert again["training"] == metrics["training"]
    assert (tmp_path / "copy" / "model.safetensors").read_bytes() == (Path(chosen.output) / "model.safetensors").read_bytes()


def test_the_run_name_tells_data_and_settings_and_not_machines(tmp_path):
    chosen = options(tmp_path)
    genomes = corpus.read_genomes(chosen.files, (), chosen.holdout_interval)
    name = chosen.run_name(genomes)
    assert chosen.replace(num_workers=2, storage="elsewhere").run_name(genomes) == name
    assert chosen.replace(learning_rate=1e-3).run_name(genomes) != name
    assert chosen.run_name(corpus.Genomes(genomes.train, {"other": b"ACGT"})) != name


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ([str(LAMBDA)], "needs at least one training record and something held out"),
        (["nowhere.fa", "--holdout", str(LAMBDA)], "nowhere.fa does not exist"),
        ([str(LAMBDA), "--holdout-interval", "chrX:0-10"], "no training record chrX"),
        ([str(LAMBDA), "--holdout", str(LAMBDA), "--heads", "7"], "hidden 192 does not divide into 7 heads"),
    ],
)
def test_the_command_says_in_one_sentence_what_is_wrong(tmp_path, arguments, message, capsys):
    assert main(["pretrain", *arguments, "--output", str(tmp_path), "--card", "dnafeat-mini"]) == 2
    said = capsys.readouterr().err
    assert message in said
    assert said.startswith("dnafeat: ")
    assert said.count("\n") == 1


def test_probes_keep_equal_sequences_and_reverse_complements_together():
    data = probe.Labelled.of(["ACGTT", "aacgt", "ACGTT", "GGGGG", "CCCCC", "TTTTA"], ["a", "a", "b", "a", "a", "b"])
    assert len(set(data.groups[:3])) == 1
    assert data.groups[3] == data.groups[4]
    assert (data.repeated, data.conflicting) == (3, 1)
    many = probe.Labelled.of([random_dna(12).decode() for _ in range(60)] * 2, ["a", "b"] * 60)
    for fit, test in probe.splits(many, seed=0):
        assert not set(many.groups[fit]) & set(many.groups[test])


def test_a_probe_reads_what_is_there_and_nothing_else():
    sequences = [("ACG" if i % 2 else "TTT") + random_dna(17).decode() for i in range(120)]
    data = probe.Labelled.of(sequences, ["b" if i % 2 else "a" for i in range(120)])
    assert probe.accuracy(probe.one_hot(sequences), data, seed=0) > 0.95
    shuffled = dataclasses.replace(data, labels=RNG.permutation(data.labels))
    assert probe.accuracy(probe.one_hot(sequences), shuffled, seed=0) < 0.7
    rows, words = probe.kmer_counts(["AAAN", "ACG"], 3).nonzero()
    assert (rows.tolist(), words.tolist()) == ([0, 1], [0, 6])
