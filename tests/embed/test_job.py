"""The main job: from files to published rows, on a local disk and on S3, through the command line and the job file.

Tests without `two_cpus` run where `--runner auto` runs so little: in this process.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import psutil
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
import pytest
from models import dna
from s3 import S3
from stores import digest, fasta, stored_vectors

import dnafeat
from dnafeat.cli.main import main
from dnafeat.cluster import session as cluster
from dnafeat.embed import plan, runner
from dnafeat.embed.config import EmbedConfig
from dnafeat.embed.job import embed
from dnafeat.errors import AuditError, UsageError
from dnafeat.vectors import VECTORS

JOB = Path(__file__).parents[2] / "jobs" / "embed.py"


def vectors(store: str, **selection: Any) -> dict[str, dict[str, np.ndarray]]:
    return stored_vectors(dnafeat.Store(store).read(**selection))


def run(arguments: list[str], capsys: pytest.CaptureFixture[str]) -> tuple[int, dict[str, Any], str]:
    code = main(["embed", *arguments, "--json"])
    captured = capsys.readouterr()
    lines = captured.out.splitlines()
    return code, json.loads(lines[-1]) if lines else {}, captured.err


MIXED = {f"s{i}": dna(n, seed=i) for i, n in enumerate([1, 7, 20, 33, 60, 60, 150, 300, 700, 1200])}


@pytest.mark.parametrize(
    ("where", "actors", "rows"),
    [
        *(("local", actors, rows) for actors, rows in ((1, 100), (2, 3), (3, 2))),  # more actors than CPUs, too
        pytest.param("ray", 1, 100, marks=pytest.mark.long),
        ("ray", 2, 3),
        pytest.param("ray", 3, 2, marks=pytest.mark.long),
    ],
)
def test_stored_vectors_are_the_encoders_own_with_one_actor_and_with_two(
    model: str, tmp_path: Path, request: pytest.FixtureRequest, where: str, actors: int, rows: int
) -> None:
    if where == "ray":
        request.getfixturevalue("two_cpus")
    source, store = fasta(tmp_path / "mixed.fa", MIXED), str(tmp_path / "store")
    expected = dnafeat.Encoder.from_pretrained(model).encode(list(MIXED.values()))
    config = EmbedConfig.make(sources=(source,), store=store, model=model, num_actors=actors, shard_rows=rows, runner=where)
    summary = embed(config, show=False)
    assert (summary.encoded, summary.files) == (10, -(-10 // rows))
    stored = vectors(store)
    assert stored.keys() == MIXED.keys()
    for i, name in enumerate(MIXED):
        for column in VECTORS:
            np.testing.assert_allclose(stored[name][column], getattr(expected, column)[i], atol=1e-5, rtol=0)


def test_the_same_command_again_encodes_nothing_and_starts_no_ray(
    model: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    config = EmbedConfig.make(sources=(fasta(tmp_path / "a.fa", MIXED),), store=str(tmp_path / "store"), model=model)
    first = embed(config, show=False)
    before = vectors(config.store)
    monkeypatch.setattr(cluster, "start_ray", lambda: pytest.fail("Ray was started for nothing"))
    second = embed(config, show=False)
    assert (second.encoded, second.already_stored, second.opened, second.closed) == (0, 10, 0, 0)
    assert second.run_number > first.run_number
    after = vectors(config.store)
    assert all(np.array_equal(before[name]["mean"], after[name]["mean"]) for name in MIXED)


def test_only_what_is_new_is_encoded_and_what_is_gone_is_closed(model: str, tmp_path: Path) -> None:
    store = str(tmp_path / "store")
    config = EmbedConfig.make(
        sources=(fasta(tmp_path / "a.fa", {"a": "ACGTACGT", "b": "GGGCCC", "c": "ACGTACGT"}),), store=store, model=model
    )
    assert embed(config, show=False).encoded == 2
    fasta(tmp_path / "a.fa", {"a": "TTTTT", "b": "GGGCCC", "renamed": "ACGTACGT"})
    second = embed(config, show=False)
    assert (second.encoded, second.already_stored, second.opened, second.closed) == (1, 2, 2, 2)
    assert vectors(store).keys() == {"a", "b", "renamed"}


def test_a_second_source_leaves_the_first_as_it_was(model: str, tmp_path: Path) -> None:
    store = str(tmp_path / "store")
    one = EmbedConfig.make(
        sources=(fasta(tmp_path / "one.fa", {"x": "ACGTACGT", "y": "CCGG"}),), store=store, model=model, source_name="one"
    )
    embed(one, show=False)
    before = dnafeat.Store(store).read(source="one").sort_by("sequence_id")
    two = EmbedConfig.make(
        sources=(fasta(tmp_path / "two.fa", {"x": "GATTACA", "z": "CCGG"}),), store=store, model=model, source_name="two"
    )
    assert embed(two, show=False).encoded == 1
    assert dnafeat.Store(store).read(source="one").sort_by("sequence_id").equals(before)
    both = dnafeat.Store(store).read(columns=["bases"])
    assert sorted(
        zip(both["source_name"].to_pylist(), both["sequence_id"].to_pylist(), both["bases"].to_pylist(), strict=True)
    ) == [
        ("one", "x", 8),
        ("one", "y", 4),
        ("two", "x", 7),
        ("two", "z", 4),
    ]


def test_files_of_one_name_in_two_folders_are_two_sources(model: str, tmp_path: Path) -> None:
    store = str(tmp_path / "store")
    for folder, letters in (("p", "ACGT"), ("q", "GGTT")):
        (tmp_path / folder).mkdir()
        source = fasta(tmp_path / folder / "train.fa", {"r": letters})
        embed(EmbedConfig.make(sources=(source,), store=store, model=model), show=False)
    assert dnafeat.Store(store).read(columns=["bases"]).num_rows == 2


def test_tiles_are_entries_and_duplicates_are_encoded_once(model: str, tmp_path: Path) -> None:
    unit = dna(30, seed=1)
    source = fasta(tmp_path / "genome.fa", {"chr": unit * 5 + "ACGTA"})
    store = str(tmp_path / "store")
    summary = embed(EmbedConfig.make(sources=(source,), store=store, model=model, tile=30, stride=30), show=False)
    assert (summary.read, summary.distinct, summary.encoded) == (6, 2, 2)
    table = dnafeat.Store(store).read(columns=["bases", "sequence_digest"])
    names = {f"chr:{at}-{min(at + 30, 155)}" for at in range(0, 155, 30)}
    assert set(table["sequence_id"].to_pylist()) == names
    assert len(set(table["sequence_digest"].to_pylist())) == 2


def test_a_run_id_names_one_run(model: str, tmp_path: Path) -> None:
    config = EmbedConfig.make(
        sources=(fasta(tmp_path / "a.fa", {"a": "ACGT"}),), store=str(tmp_path / "s"), model=model, run_id="night"
    )
    first = embed(config, show=False)
    again = embed(config, show=False)
    assert again.already_published
    assert again.run_number == first.run_number
    with pytest.raises(UsageError, match="another configuration"):
        embed(EmbedConfig.make(**{**config.to_dict(), "max_n_share": 0.1}), show=False)
    fasta(tmp_path / "a.fa", {"a": "ACGG"})
    with pytest.raises(UsageError, match="another state of the source"):
        embed(config, show=False)
    assert dnafeat.Store(config.store).runs.dataset().count_rows() == 1


def test_another_window_is_another_version_beside_the_old_one(model: str, tmp_path: Path) -> None:
    store, source = str(tmp_path / "store"), fasta(tmp_path / "a.fa", {"long": dna(400, seed=5)})
    versions = [
        embed(
            EmbedConfig.make(sources=(source,), store=store, model=model, window_tokens=w, overlap_tokens=8), show=False
        ).feature_version
        for w in (64, 128)
    ]
    read = [dnafeat.Store(store).read(version=v, columns=["windows", "mean"]) for v in versions]
    assert [t["windows"].to_pylist() for t in read] != [[1], [1]]
    assert not np.allclose(dnafeat.matrix(read[0]["mean"]), dnafeat.matrix(read[1]["mean"]), atol=1e-5)
    with pytest.raises(dnafeat.DnafeatError, match="has 2 versions"):
        dnafeat.Store(store).read()
    assert main(["publish", "--store", store, "--version", versions[1]]) == 0
    assert dnafeat.Store(store).read(columns=["windows"]).equals(read[1].drop(["mean"]))


def test_rounded_vectors_are_a_version_of_their_own_and_the_encoders(
    model: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    store, source = str(tmp_path / "store"), fasta(tmp_path / "mixed.fa", MIXED)
    plain, rounded = (
        embed(EmbedConfig.make(sources=(source,), store=store, model=model, shard_rows=4, round_vectors=to), show=False)
        for to in (None, "bfloat16")
    )
    assert plain.feature_version != rounded.feature_version
    encoder = dnafeat.Encoder.from_pretrained(model, round_vectors="bfloat16")
    expected = encoder.encode(list(MIXED.values()))
    stored = vectors(store, version=rounded.feature_version)
    for column in VECTORS:
        found = np.stack([stored[name][column] for name in MIXED])
        assert not (found.view(np.uint32) & 0xFFFF).any()
        # But for what lies half way between two numbers.
        assert np.quantile(np.abs(found - getattr(expected, column)), 0.98) == 0
    capsys.readouterr()
    assert main(["versions", "--store", store]) == 0
    lines = {line.split()[1]: line for line in capsys.readouterr().out.splitlines()}
    assert "rounded to bfloat16" in lines[rounded.feature_version]
    assert "rounded" not in lines[plain.feature_version]


def test_a_vector_that_is_not_a_number_publishes_nothing(tmp_path: Path) -> None:
    import torch
    from models import config, state, write

    weights = state(config())
    weights["bert.embeddings.word_embeddings.weight"][8] = torch.nan  # T, which ACGTT has over
    folder = write(tmp_path / "broken", config(), weights)
    store = str(tmp_path / "store")
    job = EmbedConfig.make(sources=(fasta(tmp_path / "a.fa", {"a": "ACGTT", "b": "GGGG"}),), store=store, model=str(folder))
    with pytest.raises(AuditError, match="NaN"):
        embed(job, show=False)
    held = dnafeat.Store(store)
    assert [t.dataset().count_rows() for t in (held.features, held.sequences, held.runs)] == [0, 0, 0]
    assert not list(Path(store).glob("work/**/*.parquet"))


BAD = ">good one\nACGT\nacgu\n>bad\nACGXT\n>empty\n>also-good\nNACGT\n"


def test_a_bad_record_is_rejected_with_its_line_and_the_run_goes_on(
    model: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "mixed.fa").write_text(BAD)
    code, summary, _ = run([str(tmp_path / "mixed.fa"), "--store", str(tmp_path / "s"), "--model", model], capsys)
    assert code == 0
    assert {key: summary[key] for key in ("read", "rejected", "distinct", "already_stored", "encoded")} == {
        "read": 4,
        "rejected": 2,
        "distinct": 2,
        "already_stored": 0,
        "encoded": 2,
    }
    rejects = dnafeat.Store(str(tmp_path / "s")).rejects.dataset().to_table().sort_by("row").to_pylist()
    assert [(r["sequence_id"], r["row"], r["run_id"]) for r in rejects] == [
        ("bad", 4, summary["run_id"]),
        ("empty", 6, summary["run_id"]),
    ]
    assert "'X' at base 4" in rejects[0]["reason"]
    assert rejects[0]["text"] == "ACGXT"
    assert "empty" in rejects[1]["reason"]


def test_strict_stores_nothing_but_the_rejects(model: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "mixed.fa").write_text(BAD)
    code, summary, error = run([str(tmp_path / "mixed.fa"), "--store", str(tmp_path / "s"), "--model", model, "--strict"], capsys)
    assert (code, summary) == (1, {})
    assert "mixed.fa:4" in error
    assert error.count("\n") == 1
    held = dnafeat.Store(str(tmp_path / "s"))
    assert [t.dataset().count_rows() for t in (held.features, held.sequences, held.runs, held.rejects)] == [0, 0, 0, 2]


def test_an_id_that_stands_twice_ends_the_run_and_names_both_places(
    model: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "a.csv").write_text("id,sequence\nx,ACGT\ny,GGGG\nx,TTTT\n")
    code, _, error = run([str(tmp_path / "a.csv"), "--store", str(tmp_path / "s"), "--model", model], capsys)
    assert code == 2
    assert "a.csv:1" in error
    assert "a.csv:3" in error
    held = dnafeat.Store(str(tmp_path / "s"))
    assert [t.dataset().count_rows() for t in (held.features, held.sequences, held.runs, held.rejects)] == [0, 0, 0, 1]


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (["{tmp}/none.fa", "--store", "{tmp}/s"], "none.fa does not exist"),
        (["{tmp}/*.none", "--store", "{tmp}/s"], "matches no file"),
        (["{tmp}/a.csv", "--store", "{tmp}/s", "--sequence-column", "dna"], "'dna'"),
        (["{tmp}/a.csv", "--store", "{tmp}/s", "--id-column", "name"], "'name'"),
        (["{tmp}/a.csv", "--store", "{tmp}/a.csv"], "cannot be written"),
        (["{tmp}/a.csv", "--store", "/proc/no/store"], "cannot be written"),
        (["{tmp}/a.csv", "--store", "{tmp}/s", "--model", "no-such-model"], "no-such-model"),
        (["{tmp}/a.csv", "--store", "{tmp}/s", "--model", "{tmp}"], "config.json"),
        (["{tmp}/a.csv", "--store", "{tmp}/s", "--adapter", "{tmp}"], "adapter_config.json"),
        (["{tmp}/a.csv", "--store", "{tmp}/s", "--projector", "pca"], "random@"),
        (["{tmp}/a.csv"], "store is missing"),
        (["--store", "{tmp}/s"], "sources is missing"),
        (["{tmp}/a.csv", "--store", "{tmp}/s", "--stride", "5"], "stride"),
        (["{tmp}/a.csv", "--store", "{tmp}/s", "--overlap-tokens", "600"], "overlap"),
        (["{tmp}/a.csv", "--store", "{tmp}/s", "--run-id", "a b"], "--run-id 'a b' is no name"),
        (["--config", "{tmp}/a.yaml"], "stroe"),
        (["--config", "{tmp}/none.yaml"], "none.yaml"),
    ],
)
def test_what_a_user_got_wrong_is_one_sentence_and_exit_code_2(
    arguments: list[str], says: str, model: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "a.csv").write_text("id,sequence\nx,ACGT\n")
    (tmp_path / "a.yaml").write_text("sources: [a.csv]\nstroe: s\n")
    filled = [argument.format(tmp=tmp_path) for argument in arguments]
    code, _, error = run([*filled, *([] if "--model" in filled else ["--model", model])], capsys)
    assert code == 2
    assert says in error
    assert error.startswith("dnafeat: ")
    assert error.count("\n") == 1
    assert "Traceback" not in error


def job(arguments: list[str], environment: dict[str, str], cwd: Path) -> subprocess.CompletedProcess[str]:
    environment = {**os.environ, "RAY_USAGE_STATS_ENABLED": "0", **environment}
    return subprocess.run(
        [sys.executable, str(JOB), *arguments], env=environment, cwd=cwd, capture_output=True, text=True, timeout=300
    )


@pytest.mark.long
@pytest.mark.own_ray("the job file starts its own")
def test_the_job_file_reads_and_writes_s3_with_ray_of_its_own(model: str, tmp_path: Path, s3: S3) -> None:
    prefix = s3.uri("")
    with s3.client().open(f"{prefix}in/a.fa.gz", "wb", compression="gzip") as file:
        file.write(b"".join(f">{name}\n{letters}\n".encode() for name, letters in MIXED.items()))
    (tmp_path / "job.yaml").write_text(
        f"sources: ['{prefix}in/*.gz']\nstore: {prefix}store\nmodel: dnafeat-mini\nshard_rows: 4\n"
    )
    done = job(
        ["--config", "job.yaml", "--model", model, "--runner", "ray", "--num-actors", "2", "--json"], s3.environment, tmp_path
    )
    assert done.returncode == 0, done.stderr
    summary = json.loads(done.stdout.splitlines()[-1])
    assert (summary["read"], summary["encoded"], summary["files"]) == (10, 10, 3)
    assert "sequences/s" in done.stderr  # the progress bar, on standard error
    stored = vectors(f"{prefix}store")
    expected = dnafeat.Encoder.from_pretrained(model).encode(list(MIXED.values()))
    for i, name in enumerate(MIXED):
        np.testing.assert_allclose(stored[name]["mean"], expected.mean[i], atol=1e-5, rtol=0)
    # Work shards hold sequences and go when the run ends (the server keeps the empty folder itself).
    assert not [path for path in s3.client().find(f"{prefix}store/work") if "shard" in path]
    output = f"{prefix}out/vectors.parquet"
    assert main(["read", "--store", f"{prefix}store", "--columns", "mean,bases", "--output", output]) == 0
    import pyarrow.parquet as pq

    with s3.client().open(output, "rb") as file:
        table = pq.read_table(file)
    assert table.column_names == ["sequence_id", "source_name", "mean", "bases"]
    assert table.num_rows == 10


@pytest.mark.long
@pytest.mark.own_ray("the job file starts its own, and one of its workers is killed")
def test_a_killed_encoder_costs_nothing_but_time_and_the_last_line_is_still_the_summary(model: str, tmp_path: Path) -> None:
    wanted = {f"s{i}": dna(300, seed=i) for i in range(3000)}
    source, store = fasta(tmp_path / "many.fa", wanted), str(tmp_path / "store")
    command = [
        sys.executable,
        str(JOB),
        source,
        "--store",
        store,
        "--model",
        model,
        "--runner",
        "ray",
        "--num-actors",
        "2",
        "--shard-rows",
        "100",
        "--json",
    ]
    environment = {**os.environ, "RAY_USAGE_STATS_ENABLED": "0"}
    with (tmp_path / "out").open("w") as out, (tmp_path / "err").open("w") as err:
        running = subprocess.Popen(command, stdout=out, stderr=err, env=environment)
        try:
            end = time.monotonic() + 120
            while not list(Path(store).glob("features/feature_version=*/*.parquet")):
                assert running.poll() is None, (tmp_path / "err").read_text()
                assert time.monotonic() < end
                time.sleep(0.05)
            workers = [p for p in psutil.Process(running.pid).children(recursive=True) if "MapWorker" in " ".join(p.cmdline())]
            workers[0].kill()
            assert running.wait(240) == 0, (tmp_path / "err").read_text()
        finally:
            running.kill()
    summary = json.loads((tmp_path / "out").read_text().splitlines()[-1])
    assert summary["encoded"] == 3000
    held = dnafeat.Store(store)
    assert held.features.dataset().count_rows() == 3000
    assert set(held.read(columns=["bases"])["sequence_id"].to_pylist()) == wanted.keys()


def test_without_json_the_summary_says_what_was_done_and_what_to_try_next(
    model: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    store = str(tmp_path / "s")
    (tmp_path / "mixed.fa").write_text(BAD)
    assert main(["embed", str(tmp_path / "mixed.fa"), "--store", store, "--model", model]) == 0
    said = capsys.readouterr().out
    for part in ("4 read, 2 rejected", "2 sequences, 0 already there, 2 encoded", f"next: dnafeat read --store {store}"):
        assert part in said
    assert main(["versions", "--store", store]) == 0
    listed = capsys.readouterr().out
    assert dnafeat.Store(store).resolve() in listed
    output = str(tmp_path / "o.parquet")
    assert main(["read", "--store", store, "--output", output]) == 0
    assert main(["read", "--store", store, "--version", "nope", "--output", output]) == 2
    assert main(["read", "--store", str(tmp_path / "none"), "--output", output]) == 2
    assert main(["read", "--store", store, "--columns", "median", "--output", output]) == 2
    errors = capsys.readouterr().err.splitlines()
    assert [("nope" in errors[0]), ("no store" in errors[1]), ("median" in errors[2])] == [True] * 3


def test_a_sequence_that_no_worker_survives_is_refused_and_the_others_are_stored(
    model: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What the pipeline says of such a sequence (tests/embed/test_pipeline.py) becomes rejects, one for each entry that carries it."""
    source = fasta(tmp_path / "a.fa", {"a": "ACGTACGTAC", "b": "GGGCCCAATT", "again": "ACGTACGTAC", "c": "TTTTTACGAC"})
    poison = digest("ACGTACGTAC")

    class Refusing(runner.LocalRunner):
        def run(self, shards: Sequence[plan.Shard], *arguments: Any) -> Iterator[pa.Table]:
            for shard in shards:
                rows = pq.read_table(shard.uri)
                pq.write_table(rows.filter(pc.not_equal(rows["sequence_digest"], poison)), shard.uri)
            yield from super().run(shards, *arguments)
            yield pa.table({"receipt": [""], "refused": [[poison]]})

    monkeypatch.setattr(runner, "choose", lambda *_, **__: Refusing("asked for", workers=1, gpu=False, show=False))
    config = EmbedConfig.make(sources=(source,), store=str(tmp_path / "store"), model=model)
    summary = embed(config, show=False)
    assert (summary.read, summary.rejected, summary.distinct, summary.encoded, summary.opened) == (4, 2, 2, 2, 2)
    assert vectors(config.store).keys() == {"b", "c"}
    rejects = dnafeat.Store(config.store).rejects.read().to_pylist()
    assert sorted((row["sequence_id"], row["row"], row["reason"]) for row in rejects) == [
        ("a", 1, "encoding it ended the worker process again and again"),
        ("again", 5, "encoding it ended the worker process again and again"),
    ]


def test_no_byte_of_a_store_has_a_hashed_id_and_its_subject_can_be_forgotten(
    model: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    rows = [f"{subject}-{i},{subject},{dna(40, seed=i + 9 * len(subject))}" for subject in ("Smith", "Miller") for i in range(3)]
    (tmp_path / "people.csv").write_text(
        "id,subject_id,sequence\n" + "\n".join([*rows, "Smith-x,Smith,AC!T", "Smith-y,Smith"]) + "\n"
    )
    (tmp_path / "salt").write_text("a salt that nobody knows\n")
    store = str(tmp_path / "store")
    command = [str(tmp_path / "people.csv"), "--store", store, "--model", model, "--source-name", "people"]
    hiding = ["--hash-keys", "subject_id,sequence_id", "--keyed-digests", "--salt-file", str(tmp_path / "salt")]
    code, summary, _ = run([*command, *hiding], capsys)
    assert (code, summary["encoded"], summary["rejected"]) == (0, 6, 2)
    files = [path for path in Path(store).rglob("*") if path.is_file()]
    assert len(files) > 10
    for path in files:
        held = path.read_bytes() if path.suffix != ".parquet" else str(pq.read_table(path).to_pylist()).encode()
        assert b"Smith" not in held, path
        assert b"Miller" not in held, path
    table = dnafeat.Store(store).read(columns=["mean", "sequence_digest"])
    assert len(pc.unique(table["subject_id"])) == 2
    assert not {digest(row.split(",")[2]) for row in rows} & set(table["sequence_digest"].to_pylist())
    assert pc.all(pc.match_substring_regex(table["sequence_id"], "^hk_[0-9a-f]{8}_[0-9a-f]{32}$")).as_py()
    assert main(["forget", "--store", store, "--where", "subject_id=Smith", "--salt-file", str(tmp_path / "salt")]) == 0
    assert len(dnafeat.Store(store).read(columns=["mean"])) == 3
    assert main(["embed", *command, "--hash-keys", "subject_id"]) == 2
    assert "--salt-file is for --hash-keys" in capsys.readouterr().err
