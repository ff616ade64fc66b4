"""The benchmark: its arithmetic, that it measures what it says, and that it refuses to time wrong vectors. No speed is asserted."""

from __future__ import annotations

import json
import math
import subprocess
import sys
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import environments
import models
import numpy as np
import pytest
import torch

from dnafeat.bench import check as benchcheck
from dnafeat.bench import cohorts
from dnafeat.bench import engine as benchengine
from dnafeat.bench import inputs as benchinputs
from dnafeat.bench import limits as benchlimits
from dnafeat.bench import peers as benchpeers
from dnafeat.bench import people as benchpeople
from dnafeat.bench import pipeline as benchpipeline
from dnafeat.bench import process as benchprocess
from dnafeat.bench import tables as benchtables
from dnafeat.bench.config import BARE, SECTIONS, BenchmarkConfig
from dnafeat.bench.job import Benchmark, benchmark, format_table
from dnafeat.bench.rows import Row, format_rows, measured, not_measured, ratios, to_json, without_target
from dnafeat.bench.tokens import tokenising
from dnafeat.cli.main import main
from dnafeat.encoder import Encoder
from dnafeat.encoder.models.base import Config
from dnafeat.encoder.models.checkpoint import find, load_encoder
from dnafeat.encoder.models.dnabert2 import DNABERT2
from dnafeat.errors import BenchmarkError, UsageError

JOB = Path(__file__).parents[2] / "jobs" / "benchmark.py"
SMALL = {"hidden_size": 48, "num_hidden_layers": 2, "num_attention_heads": 12, "intermediate_size": 64}
SEQUENCES = [models.dna(length, seed) for seed, length in enumerate([3, 70, 300, 101, 1, 500, 400, 70, 120, 33] * 4)]


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> str:
    return str(benchinputs.write_model(tmp_path_factory.mktemp("models") / "small", SMALL, None))


# Rows.


def test_a_row_is_the_median_of_its_repeats_and_says_whether_its_target_is_met() -> None:
    row = measured("cpu.x", [3.0, 1.0, 2.0], "s", most=2.0)
    assert (row.value, row.spread, row.repeats, row.target, row.met) == (2.0, (1.0, 3.0), 3, "at most 2", True)
    assert measured("x", [0.0123456], "", least=0.0124).met is False
    assert measured("x", [1234567.8], "").value == 1234570.0
    # What falls short of a target by little does fall short.
    assert measured("x", [0.89996], "", least=0.9).met is False
    assert Row(name="x", value=100.0, least=64.0, most=256.0).met is True
    assert Row(name="x", value=300.0, least=64.0, most=256.0).met is False
    assert measured("x", [1.0], "").met is None
    assert measured("x", [math.nan], "", most=1.0).met is False
    missing = not_measured("gpu.x", "no GPU", least=8.0)
    assert (missing.value, missing.met, missing.target, missing.note) == (None, None, "at least 8", "not measured: no GPU")
    assert without_target(row, "too small").met is None


def test_ratios_are_taken_pair_by_pair() -> None:
    # A machine that is twice as slow in the second round changes no ratio.
    assert ratios([2.0, 4.0], [1.0, 2.0]) == [2.0, 2.0]
    with pytest.raises(ValueError, match="longer"):
        ratios([1.0], [1.0, 2.0])


def test_json_and_table_hold_every_row() -> None:
    rows = [
        Row(name="machine.cpu", value="a very good one with a long name, which widens no column " * 3),
        measured("cpu.a", [1.5], "×", least=1.8, note="a note"),
        measured("cpu.b", [2.5], "×", least=1.8, note="a note"),
        not_measured("gpu.c", "no GPU"),
    ]
    told = json.loads(to_json(rows))
    assert [list(one)[:5] for one in told] == [["name", "value", "unit", "target", "met"]] * 4
    assert [one["met"] for one in told] == [None, False, True, None]
    assert [Row(**row.fields()) for row in rows] == rows
    table = format_rows(rows)
    assert table.count("a note") == 1
    lines = {line.split()[0]: line for line in table.splitlines() if line}
    assert "NO" in lines["cpu.a"]
    assert "yes" in lines["cpu.b"]
    assert "–" in lines["gpu.c"]
    assert len(lines["cpu.a"]) < 100
    foot = format_table(rows, BenchmarkConfig(quick=True))
    assert "1 of 2 targets are met." in foot
    assert "Missed: cpu.a." in foot


# Inputs.


def test_tiles_are_distinct_pieces_of_the_genome_equally_many_of_each_length() -> None:
    tiles, letters = benchinputs.tiles(1000), benchinputs.genome()
    assert len(letters) == 48_502
    assert len(set(tiles)) == 1000
    assert {length: sum(len(one) == length for one in tiles) for length in benchinputs.LENGTHS} == dict.fromkeys(
        benchinputs.LENGTHS, 200
    )
    assert all(one in letters for one in tiles)
    assert tiles == benchinputs.tiles(1000)
    assert [len(one) for one in tiles] != sorted(len(one) for one in tiles)
    assert len(set(benchinputs.tiles(1_000_000, benchinputs.SHORT))) >= 1_000_000
    with pytest.raises(UsageError, match="lambda has 48,003 tiles of 500 bases and 60,000 are asked for"):
        benchinputs.tiles(300_000)


def test_the_trained_tokenizer_gives_as_many_tokens_as_the_published_one(model: str) -> None:
    tokenizer = find(model).tokenizer()
    tiles = benchinputs.tiles(2000)
    # DNABERT-2's own tokenizer on tiles of lambda, special tokens included.
    for length, published in {70: 17.4, 101: 23.9, 300: 65.1, 400: 86.4, 500: 107.2}.items():
        counts = np.diff(tokenizer.ragged([one for one in tiles if len(one) == length]).offsets) + tokenizer.specials
        assert counts.mean() == pytest.approx(published, rel=0.02)


def test_gue_sequences_come_from_every_task(tmp_path: Path) -> None:
    for task in "ab":
        (tmp_path / task).mkdir()
        rows = "".join(f"{models.dna(50, seed + 100 * ord(task))},0\n" for seed in range(9))
        (tmp_path / task / "train.csv").write_text("sequence,label\n" + rows)
    held = {task: (tmp_path / task / "train.csv").read_text() for task in "ab"}
    found = benchinputs.gue(str(tmp_path), 8)
    assert [sum(one in held[task] for one in found) for task in "ab"] == [4, 4]
    with pytest.raises(UsageError, match="holds no GUE task"):
        benchinputs.gue(str(tmp_path / "nowhere"), 8)


# Limits.


def test_operations_are_counted_as_by_hand() -> None:
    with torch.device("meta"):
        layers = benchlimits.products(DNABERT2(Config(vocab_size=4096, **benchinputs.FULL)))
    by_hand = 12 * 2 * (768 * 3 * 768 + 768 * 768 + 768 * 2 * 3072 + 3072 * 768)
    assert len(layers) == 48
    assert benchlimits.operations(layers) == by_hand == 226_492_416
    # Queries by keys and probabilities by values: 2 · n · n · hidden each, in every layer.
    assert benchlimits.attention_operations([3, 5], 768, 12) == 12 * (4 * 9 * 768 + 4 * 25 * 768)


@pytest.mark.parametrize("packed", [False, True])
def test_limits_are_of_real_products(packed: bool) -> None:
    if packed and not benchlimits.has_packed():
        pytest.skip("this PyTorch has no oneDNN")
    layers = [torch.nn.Linear(64, 96), torch.nn.Linear(96, 64)]
    limit = benchlimits.Products(layers, 32, torch.float32, packed=packed)
    assert limit.operations == 32 * 2 * 2 * 64 * 96
    x, weight, out = torch.randn(32, 64), layers[0].weight.detach(), torch.empty(32, 96)
    with torch.inference_mode():
        found = (benchlimits._packed if packed else benchlimits._plain)(x, weight, out)()
    torch.testing.assert_close(found, x @ weight.t(), atol=1e-4, rtol=0)
    assert limit.rate(2) > 0


# Peers and the check.


@pytest.fixture(scope="module")
def ways(model: str) -> Callable[[list[str]], Mapping[str, np.ndarray]]:
    """Mean vectors by every way that is measured, and by the plain model in float64."""
    plain, tokenizer = load_encoder(find(model)), benchpeers.load_tokenizer(Path(model))
    assert isinstance(plain, DNABERT2)
    cpu = torch.device("cpu")
    peers = {
        "padded": benchpeers.loop(benchpeers.padded(plain), tokenizer, cpu),
        "sorted": benchpeers.loop(benchpeers.padded(plain), tokenizer, cpu, by_length=True),
        "unpadded": benchpeers.loop(benchpeers.unpadded(plain), tokenizer, cpu),
        "sentence_transformers": benchpeers.sentence_transformer(plain, plain.config.hidden_size, tokenizer, cpu),
    }

    def found(sequences: list[str]) -> dict[str, np.ndarray]:
        vectors = {name: peer(sequences) for name, peer in peers.items()}
        vectors["engine"] = Encoder.from_pretrained(model).encode(sequences).mean
        return vectors | {"plain": benchcheck.plain_means(plain, find(model).tokenizer(), sequences)}

    return found


def test_every_peer_gives_the_plain_models_vectors(ways: Callable[[list[str]], Mapping[str, np.ndarray]]) -> None:
    vectors = ways([*SEQUENCES, "N" * 40, "A"])
    for name in ("padded", "sorted", "unpadded", "sentence_transformers", "engine"):
        rows = benchcheck.check(name, vectors[name], vectors["plain"], "float32")
        assert [row.met for row in rows] == [True, True]


@pytest.mark.parametrize("wrong", [1e-3, np.nan])
def test_one_wrong_number_of_one_vector_is_refused(wrong: float) -> None:
    reference = np.random.default_rng(0).standard_normal((5, 48))
    found = reference.astype(np.float32)
    benchcheck.check("it", found, reference, "float32")
    found[3, 7] += wrong
    with pytest.raises(BenchmarkError, match="it gives wrong vectors"):
        benchcheck.check("it", found, reference, "float32")


def test_a_wrong_engine_is_not_timed(model: str, monkeypatch: pytest.MonkeyPatch) -> None:
    right = Encoder.encode

    def wrong(self: Encoder, *arguments: Any) -> Any:
        vectors = right(self, *arguments)
        vectors.mean[-1] *= 1.001
        return vectors

    monkeypatch.setattr(Encoder, "encode", wrong)
    with pytest.raises(BenchmarkError, match=r"cpu\.float32 gives wrong vectors") as error:
        benchengine.measure({"device": "cpu", "model": model, "sequences": SEQUENCES, "threads": 1, "repeats": 1})
    assert error.value.exit_code == 4


def test_peers_that_are_given_fewer_sequences_keep_their_rate(model: str, monkeypatch: pytest.MonkeyPatch) -> None:
    given: list[int] = []

    def seconds(_: Any, sequences: Sequence[str]) -> float:
        given.append(len(sequences))
        return len(sequences) / 8

    monkeypatch.setattr(benchengine, "_seconds", seconds)
    settings = {"device": "cpu", "model": model, "sequences": benchinputs.tiles(20), "threads": 1, "repeats": 1}
    rows = {one["name"]: one["value"] for one in benchengine.measure(settings | {"peer_sequences": benchinputs.tiles(5)})}
    assert set(given) == {5}
    assert rows["cpu.padded.rate"] == rows["cpu.bert.rate"] == 8
    assert rows["cpu.float32.over_padded"] == pytest.approx(rows["cpu.float32.rate"] / 8, rel=1e-3)


def test_the_engine_is_measured_beside_limits_and_peers(model: str) -> None:
    settings = {"device": "cpu", "model": model, "sequences": benchinputs.tiles(40), "threads": 1, "repeats": 2}
    rows = {one["name"]: Row(**one) for one in benchengine.measure(settings)}
    for peer in ("padded", "sorted", "unpadded", "bert", "sentence_transformers"):
        rate, over = rows[f"cpu.{peer}.rate"], rows[f"cpu.float32.over_{peer}"]
        assert rate.repeats == over.repeats == 2
        assert over.spread is not None
        # The median ratio lies between the ratios of the extremes.
        ends = rows["cpu.float32.rate"].spread, rate.spread
        assert ends[0] is not None
        assert ends[1] is not None
        assert ends[0][0] / ends[1][1] * 0.99 <= over.value <= ends[0][1] / ends[1][0] * 1.01
    targets = {name: row.target for name, row in rows.items() if row.target}
    assert targets["cpu.float32.share_of_matmul"] == "at least 0.9"
    assert targets["cpu.float32.over_padded"] == "at least 1.8"
    assert targets["cpu.float32.over_unpadded"] == "at least 1.15"
    assert targets["cpu.int8.over_float32"] == "at least 1.3"
    assert rows["cpu.float32.error"].met
    if rows["cpu.int8.over_float32"].value is None:
        assert "not available" in rows["cpu.int8.over_float32"].note


def test_the_section_of_a_gpu_has_its_own_targets_and_peers(model: str, monkeypatch: pytest.MonkeyPatch) -> None:
    class OnCPU:
        """torch, whose GPU is a CPU: rates mean nothing, and all that measures and writes them runs."""

        device = staticmethod(lambda name: torch.device("cpu"))

        def __getattr__(self, name: str) -> Any:
            return getattr(torch, name)

    monkeypatch.setattr(benchengine, "torch", OnCPU())
    sequences = benchinputs.tiles(40)
    settings = {"device": "gpu", "model": model, "sequences": sequences, "peer_sequences": sequences[:20], "threads": 1}
    rows = {one["name"]: Row(**one) for one in benchengine.measure(settings | {"repeats": 2})}
    assert rows["gpu.limit.matmul"].unit == rows["gpu.bfloat16.useful"].unit == "TFLOP/s"
    targets = {name: row.target for name, row in rows.items() if row.target and not name.endswith((".cosine", ".error"))}
    assert targets == {
        "gpu.bfloat16.share_of_matmul": "at least 0.6",
        "gpu.bfloat16.padding_share": "at most 0.03",
        "gpu.bfloat16.over_padded": "at least 8",
    }
    for peer in ("padded", "sorted", "unpadded", "bert", "padded_bfloat16", "sentence_transformers"):
        assert rows[f"gpu.{peer}.rate"].value > 0
        assert rows[f"gpu.bfloat16.over_{peer}"].repeats == 2


# Processes.


def test_a_process_answers_with_its_own_peak_of_memory(model: str) -> None:
    settings = {"model": model, "sequences": SEQUENCES, "device": "cpu", "threads": 1}
    answer = benchprocess.call("engine", "peak", settings)
    assert answer.value == len(SEQUENCES)
    assert 50 * 2**20 < answer.peak < 4 * 2**30


def test_faults_of_a_process_are_sentences_here(tmp_path: Path) -> None:
    settings = {"folder": str(tmp_path), "shapes": {"small": SMALL}, "tokenizer": str(tmp_path / "nowhere")}
    with pytest.raises(Exception, match=r"nowhere is no folder with a tokenizer\.json") as error:
        benchprocess.call("inputs", "write_models", settings)
    assert getattr(error.value, "exit_code", None) == 2
    with pytest.raises(BenchmarkError, match="what measures inputs ended with exit code 1 and without an answer"):
        benchprocess.call("inputs", "no_such_function", {})


def test_workers_memory_is_seen_from_outside() -> None:
    hungry = "import time; held = b'x' * (200 << 20); time.sleep(1.5)"
    between = f"import subprocess, sys; subprocess.run([sys.executable, '-c', {hungry!r}])"
    # In a process that has no other children: below this one a server may run for other tests.
    code = f"""
import subprocess, sys
from dnafeat.bench import process as benchprocess
with benchprocess.Workers() as workers:
    subprocess.run([sys.executable, "-c", {between!r}])
print(workers.largest)
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert 200 << 20 < int(done.stdout) < 260 << 20


# The sections beyond the engine, on the smallest inputs.


@pytest.mark.long
@pytest.mark.own_ray("the benchmark runs the pipeline in a process of its own")
def test_a_pipeline_run_is_held_against_the_bare_engine(model: str, tmp_path: Path) -> None:
    rows = benchpipeline.against_engine(model, SEQUENCES, tmp_path, actors=1, threads=1, repeats=1)
    found = {row.name: row for row in rows}
    assert found["pipeline.over_engine"].value == pytest.approx(
        found["pipeline.rate"].value / found["pipeline.engine"].value, rel=2e-3
    )
    assert found["pipeline.committed_over_engine"].value < found["pipeline.over_engine"].value
    assert found["pipeline.startup"].value > 0
    assert found["pipeline.driver"].value > 100
    assert not (tmp_path / "pipeline-store").exists()


@pytest.mark.long
def test_tokenising_is_measured_in_a_ray_task(model: str, tmp_path: Path, two_cpus: None) -> None:
    rows = tokenising(model, tmp_path, count=500, repeats=2)
    assert [row.repeats for row in rows] == [2] * 5
    assert rows[0].target == "at least 8000"


def test_planning_and_a_night_without_news_are_measured(model: str, tmp_path: Path) -> None:
    rows = {row.name: row for row in benchtables.planning(model, tmp_path, entries=2000, night=3000, repeats=1)}
    assert rows["plan.per_core"].target == "at least 50000"
    # The target names a million entries.
    assert rows["plan.night.3000"].target is None
    assert "the target is for 1,000,000" in rows["plan.night.3000"].note


def test_reading_is_measured_over_the_same_files(model: str, tmp_path: Path) -> None:
    rows = {row.name: row for row in benchtables.reading(model, tmp_path, rows=3000, repeats=2)}
    assert rows["read.ratio"].repeats == 2
    assert rows["read.memory"].value > 1


@pytest.mark.long
def test_files_duplicates_and_growth_are_measured(tmp_path: Path) -> None:
    folder = benchinputs.write_model(tmp_path / "wide", benchinputs.WIDE, None)
    rows = {row.name: row for row in benchtables.files(str(folder), SEQUENCES, tmp_path, threads=1, repeats=1)}
    assert rows["files.mean"].met
    assert 0.45 < rows["files.bfloat16_bytes"].value < 0.6
    small = str(benchinputs.write_model(tmp_path / "small", SMALL, None))
    made = benchpipeline.duplicates(small, SEQUENCES[:20], tmp_path, copies=10, actors=1, repeats=1)
    assert made[2].target == "at most 1.15"
    grown = {row.name: row for row in benchpipeline.flat(small, (20, 200), tmp_path, actors=1)}
    # The targets are for a million.
    assert not [row.name for row in grown.values() if row.target]
    assert grown["flat.driver.growth"].value > 0.5


# The command.


@pytest.mark.long
def test_bare_needs_torch_and_transformers_alone(model: str, tmp_path: Path) -> None:
    python = environments.make(tmp_path / "venv", environments.closure("torch") | environments.closure("transformers"))
    absent = "import importlib.util, sys; print([name for name in sys.argv[1:] if importlib.util.find_spec(name)])"
    names = ["ray", "deltalake", "pyarrow", "pandas", "botocore", "s3fs", "peft", "sklearn"]
    environment = {"PATH": "/usr/bin:/bin", "OMP_NUM_THREADS": "1"}
    done = subprocess.run([python, "-c", absent, *names], capture_output=True, text=True, env=environment)
    assert done.stdout == "[]\n"
    command = [
        python,
        str(JOB),
        "--bare",
        "--quick",
        "--model",
        model,
        "--threads",
        "1",
        "--output",
        str(tmp_path / "bench.json"),
    ]
    done = subprocess.run(command, capture_output=True, text=True, env=environment)
    assert done.returncode == 0, done.stderr
    rows = {row["name"]: row for row in json.loads((tmp_path / "bench.json").read_text())}
    assert rows["cpu.float32.over_padded"]["value"] > 0
    assert "ray not installed" in rows["machine.versions"]["value"]
    assert "cpu.float32.over_padded" in done.stdout
    if not torch.cuda.is_available():
        assert rows["gpu.bfloat16.over_padded"]["note"] == "not measured: no GPU"
        assert rows["gpu.bfloat16.over_padded"]["met"] is None


def test_what_is_left_out_is_not_measured() -> None:
    assert BenchmarkConfig().sections == SECTIONS
    assert BenchmarkConfig(bare=True).sections == BARE
    assert BenchmarkConfig(only=("read", "cpu")).sections == ("cpu", "read")


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        (["--only", "speed"], "only names speed: there are cpu, gpu, pipeline"),
        (["--bare", "--only", "cpu,read"], "bare leaves out read"),
        (["--threads", "0"], "--threads 0 is too low: give 1 or more"),
        (["--model", "x", "--tokenizer", "y"], "leave out one"),
        (["--output", "file/bench.json"], "output file/bench.json cannot be written"),
        (["--folder", "nowhere"], "folder nowhere cannot be used"),
        (["--model", "nowhere"], "model 'nowhere' is neither a folder"),
        (["--tokenizer", "nowhere"], "tokenizer nowhere is no folder with a tokenizer.json"),
        (["--gue", "."], "holds no GUE task"),
    ],
)
def test_wrong_arguments_get_a_sentence(
    arguments: list[str], sentence: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture
) -> None:
    (tmp_path / "file").touch()
    monkeypatch.chdir(tmp_path)
    assert main(["benchmark", *arguments]) == 2
    told = capsys.readouterr().err.strip().splitlines()
    assert sentence in told[-1]


def test_rows_of_finished_sections_are_kept_when_a_later_one_fails(
    model: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fails(*_: Any, **__: Any) -> Any:
        raise BenchmarkError("it fails")

    monkeypatch.setattr(Benchmark, "_models", {"tiny": model, "wide": model})
    monkeypatch.setattr(benchtables, "reading", fails)
    monkeypatch.setattr(benchtables, "planning", lambda *_, **__: [measured("plan.x", [1.0], "s")])
    config = BenchmarkConfig(quick=True, only=("plan", "read"), model=model, output=str(tmp_path / "bench.json"))
    with pytest.raises(BenchmarkError, match="it fails"):
        benchmark(config, say=lambda text: None)
    names = [row["name"] for row in json.loads((tmp_path / "bench.json").read_text())]
    assert names[-1] == "plan.x"
    assert "machine.cpu" in names


# Cohorts.


def test_what_is_measured_of_a_cohort(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(benchpeople, "_SHARED", (30, 9, 300))
    monkeypatch.setattr(benchpeople, "_DENSE", (30, 40, 4000))
    told = benchpeople.opened({"folder": str(tmp_path / "a"), "regions": 3, "repeats": 2})
    assert (told["rows"], len(told["rates"])) == (180, 2)
    assert told["bytes"] > 3
    told = benchpeople.built({"folder": str(tmp_path / "b")})
    assert len(told["built"]) == len(told["read"]) == 4
    assert min(told["built"]) > 0
    cohorts.write(tmp_path / "few", subjects=30, regions=3, bases=300, records=9)
    drawn = cohorts.redrawn(90, 30, seed=1)
    cohorts.write(tmp_path / "many", subjects=30, regions=3, bases=300, records=9, drawn=drawn)
    few, many = (benchpeople.taken_in({"folder": str(tmp_path / name)}) for name in ("few", "many"))
    assert (few["entries"], many["entries"], few["records"]) == (180, 540, 27)
    known = [
        len(np.unique(cohorts.haplotypes(60, 9, seed)[people], axis=0)) for people in (range(60), drawn) for seed in range(3)
    ]
    assert [few["distinct"], many["distinct"]] == [sum(known[:3]), sum(known[3:])]


def test_a_made_cohort_is_the_same_for_a_seed_and_shares_haplotypes() -> None:
    first, again, other = (cohorts.haplotypes(400, 45, seed) for seed in (1, 1, 2))
    assert (first == again).all()
    assert (first != other).any()
    assert 10 < len(np.unique(first, axis=0)) < 60
    carriers = first.sum(axis=0)
    assert (carriers > 0).all()
    assert np.median(carriers) < 40
