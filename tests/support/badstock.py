"""Valid inputs of every kind, and the commands that read them: what `badinputs` spoils."""

from __future__ import annotations

import bz2
import contextlib
import functools
import gzip
import io
import json
import lzma
import shutil
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import deltalake
import models
import numpy as np
import peft
import pyarrow as pa
import pyarrow.parquet as pq
import pysam
import torch
from people import as_bcf, vcf_text, write_genome, write_vcf
from safetensors.torch import save_file

from dnafeat.cli.main import main
from dnafeat.store import Store

# Kinds of input, and how often each is drawn; those that take long to make come last.
KINDS = {
    "sources": 6,
    "genome": 4,
    "partner": 6,
    "model": 5,
    "yaml": 3,
    "flags": 2,
    "adapter": 2,
    "labelled": 2,
    "pretraining": 1,
    "store": 5,
    "joined": 2,
    "projector": 2,
    "artifact": 2,
    "aligned": 1,
    "alignment": 1,
}
# Those whose stock is made in a second, without a store or a trained model.
QUICK = ("sources", "genome", "partner", "model", "yaml", "flags")
FLAGS = (
    "--json",
    "-q",
    "-v",
    "--store",
    "--config",
    "--tile",
    "--stride",
    "--model",
    "--adapter",
    "--projector",
    "--kmer",
    "--strands",
    "--window-tokens",
    "--overlap-tokens",
    "--window-bases",
    "--layer",
    "--average-layers",
    "--vectors",
    "--source-name",
    "--mode",
    "--max-closed",
    "--run-id",
    "--num-actors",
    "--gpus-per-actor",
    "--stall-seconds",
    "--hash-keys",
    "--salt-file",
    "--shard-rows",
    "--where",
    "--as-of",
    "--run",
    "--columns",
    "--version",
    "--output",
    "--format",
    "--limit",
    "--table",
    "--on",
    "--partner",
    "--level",
    "--aggregate",
    "--how",
    "--reduce",
    "--genes",
    "--key",
    "--pool",
    "--width",
    "--id-column",
    "--vector-column",
    "--id-pattern",
    "--cls-index",
    "--timepoints",
    "--samples",
    "--feature",
    "--promoter",
    "--flank",
    "--max-n-run",
    "--max-missing",
    "--max-n-share",
    "--iupac",
    "--strict",
    "--channel",
    "--name",
    "--dry-run",
    "--seed",
    "--precision",
    "--round-vectors",
    "--special-tokens",
    "--keyed-digests",
    "--",
    "-",
    "--help",
    "--no",
    "--x",
)
_SUBJECTS = [f"S{i:02}" for i in range(80)]
_EMBED = ("--model", "model", "--store", "store", "--runner", "local", "--json")


@dataclass(frozen=True)
class Sample:
    """Files of the stock, copied for each case, which of them are spoiled (globs), and commands that read them."""

    files: tuple[str, ...]
    spoiled: tuple[str, ...]
    commands: tuple[list[str], ...]


class Stock:
    """Valid inputs in a folder.

    Parameters
    ----------
    folder : Path
        Does not exist.
    kinds : iterable of str, optional
        To be made (default: all).

    Attributes
    ----------
    kinds : list of str
    rows : list of bytes
        Lines of what `read` gives of the store, sorted.
    """

    def __init__(self, folder: Path, kinds: Iterable[str] | None = None) -> None:
        self.folder = folder
        self.kinds = list(kinds or KINDS)
        self.rows: list[bytes] = []
        folder.mkdir(parents=True)
        models.random_folder(folder / "model")
        (folder / "in.fa").write_text(_fasta())
        self._samples = {kind: _MAKERS[kind](self) for kind in self.kinds}

    def samples(self, kind: str) -> list[Sample]:
        """The valid inputs of a kind."""
        return self._samples[kind]

    @functools.cached_property
    def store(self) -> str:
        """A store of some subjects, made once."""
        (self.folder / "cohort.csv").write_text(_table(",", subjects=_SUBJECTS))
        self.run(
            "embed",
            "cohort.csv",
            *_EMBED,
            "--source-name",
            "cohort",
            "--shard-rows",
            "10",
            "--run-id",
            "first",
            "--max-n-share",
            "0.2",
        )
        self.run("publish", "--store", "store")
        self.run("read", "--store", "store", "--columns", "mean,projected", "--output", "rows.csv")
        self.rows = sorted((self.folder / "rows.csv").read_bytes().splitlines())
        draw = np.random.default_rng(0)
        columns = {"subject_id": _SUBJECTS, "vector": draw.normal(size=(80, 6)).astype(np.float32).tolist()}
        pq.write_table(pa.table(columns), self.folder / "brain.parquet")
        return "store"

    @functools.cached_property
    def joined(self) -> str:
        """A joined table of that store."""
        self.run(
            "join",
            "--store",
            self.store,
            "--partner",
            "brain=brain.parquet",
            "--on",
            "subject_id",
            "--output",
            "joined",
            "--no-ray",
        )
        return "joined"

    def run(self, *arguments: str) -> None:
        """A command that succeeds."""
        told = io.StringIO()
        with contextlib.chdir(self.folder), contextlib.redirect_stdout(told), contextlib.redirect_stderr(told):
            code = main(list(arguments))
        assert code == 0, told.getvalue()


def made(arguments: list[str], folder: Path) -> list[str | None]:
    """What a refused command should not have left: its output, and runs that count."""
    found: list[str | None] = []
    for name in ("out", "out.parquet", "out.csv", "joined-new"):
        if (folder / name).exists() and arguments[0] not in ("finetune", "pretrain", "align"):
            found.append(name)
    if (
        arguments[0] == "embed"
        and (entries(folder / "store") or 0) > 0
        and not any((folder / one).exists() for one in ("cohort.csv", "pca"))
    ):
        found.append("entries in the store")
    return found


def entries(store: Path) -> int | None:
    """Entries that readers of a store see; None where there is none."""
    if not (store / "sequences" / "_delta_log").is_dir():
        return None
    found = Store(str(store))
    if not found.runs.dataset().count_rows():
        return 0
    table = found.sequences.dataset().to_table(columns=["until_run"])
    return int(table["until_run"].null_count)


def _fasta(count: int = 6) -> str:
    return "".join(f">s{i} note {i}\n{models.dna(20 + 15 * i, i)}\n{models.dna(30, i + 50)}\n" for i in range(count))


def _fastq(count: int = 6) -> str:
    return "".join(f"@r{i}\n{models.dna(20 + 3 * i, i)}\n+\n{'I' * (20 + 3 * i)}\n" for i in range(count))


def _table(mark: str, subjects: Iterable[str] = ("S1", "S2", "S3", "S4", "S5"), **columns: Iterable[Any]) -> str:
    subjects = list(subjects)
    own = {
        "sequence_id": [f"e{i}" for i in range(len(subjects))],
        "sequence": [models.dna(24 + i, i) for i in range(len(subjects))],
    }
    own |= {"subject_id": subjects, "gene_id": ["g1", "g2"] * len(subjects), **columns}
    rows = zip(*(list(column)[: len(subjects)] for column in own.values()), strict=True)
    return "\n".join(mark.join(map(str, row)) for row in [list(own), *rows]) + "\n"


def _sources(stock: Stock) -> list[Sample]:
    here = stock.folder
    made_of = {"in.fq": _fastq(), "in.csv": _table(","), "in.tsv": _table("\t"), "in.fastq": _fastq(2)}
    for name, text in made_of.items():
        (here / name).write_text(text)
    columns = {"sequence_id": ["a", "b", "c"], "sequence": [models.dna(30, i) for i in range(3)], "subject_id": [1, 2, 3]}
    table = pa.table(columns)
    pq.write_table(table, here / "in.parquet")
    (here / "in.jsonl").write_text("".join(json.dumps(row) + "\n" for row in table.to_pylist()))
    deltalake.write_deltalake(str(here / "delta"), table)
    for name in ("in.fa", "in.fq", "in.csv"):
        content = (here / name).read_bytes()
        (here / f"{name}.gz").write_bytes(gzip.compress(content))
    (here / "in.fa.bz2").write_bytes(bz2.compress(_fasta().encode()))
    (here / "in.fa.xz").write_bytes(lzma.compress(_fasta().encode()))
    pysam.tabix_compress(str(here / "in.fa"), str(here / "blocks.fa.gz"), force=True)
    (here / "several").mkdir()
    for name in ("in.csv", "in.fa"):
        shutil.copy(here / name, here / "several" / name)
    (here / "salt.txt").write_text("a salt of thirty-two letters at least, and more\n")
    single = [
        *made_of,
        "in.fa",
        "in.parquet",
        "in.jsonl",
        "in.fa.gz",
        "in.fq.gz",
        "in.csv.gz",
        "in.fa.bz2",
        "in.fa.xz",
        "blocks.fa.gz",
    ]
    found = [
        Sample(
            (name, "model"),
            (name,),
            (["embed", name, *_EMBED], ["embed", name, "--tile", "30", *_EMBED], ["embed", name, "--strict", *_EMBED]),
        )
        for name in single
    ]
    found.append(Sample(("delta", "model"), ("delta/**/*",), (["embed", "delta", *_EMBED],)))
    found.append(Sample(("several", "model"), ("several/*",), (["embed", "several", *_EMBED], ["embed", "several/*", *_EMBED])))
    hashed = ["embed", "in.csv", *_EMBED, "--hash-keys", "subject_id", "--salt-file", "salt.txt"]
    found.append(Sample(("in.csv", "salt.txt", "model"), ("in.csv", "salt.txt"), (hashed,)))
    return found


def _genome(stock: Stock) -> list[Sample]:
    here = stock.folder
    contigs = {"c": "ACGTTGCAACGGATCCTTAGGCAT" * 10, "d": "ACGT" * 30}
    write_genome(here / "g.fa", contigs)
    (here / "r.bed").write_text("c\t0\t60\tr1\nc\t20\t100\tr2\t0\t-\nd\t10\t80\tr3\n")
    line = "c\tx\t{}\t{}\t{}\t.\t+\t.\t{}\n"
    (here / "r.gff3").write_text(
        "##gff-version 3\n"
        + line.format("gene", 11, 90, "ID=g1;Name=A")
        + line.format("mRNA", 11, 90, "ID=t1;Parent=g1")
        + line.format("exon", 11, 40, "ID=x1;Parent=t1")
        + line.format("exon", 61, 90, "ID=x2;Parent=t1")
    )
    about = 'gene_id "g1"; transcript_id "t1";'
    (here / "r.gtf").write_text("".join(line.format(kind, 11, 90, about) for kind in ("gene", "transcript", "exon")))
    records = [("c", 11, "G", "T", "0|1", "1|1"), ("c", 31, "A", "AC", "1|0", "0|0"), ("c", 71, "C", "CT", "0|0", "0/1")]
    fitting = [(c, at, contigs[c][at - 1], alt, *calls) for c, at, _, alt, *calls in records]
    vcf = write_vcf(here / "v.vcf.gz", vcf_text({name: len(one) for name, one in contigs.items()}, ["ANNA", "BERT"], fitting))
    as_bcf(vcf, here / "v.bcf")
    (here / "who.txt").write_text("ANNA\nBERT\n")
    base = ["embed", "--genome", "g.fa", *_EMBED]
    found = [
        Sample(
            ("g.fa", "g.fa.fai", regions, "model"),
            ("g.fa", "g.fa.fai", regions),
            ([*base, "--regions", regions], [*base, "--regions", regions, "--splice"]),
        )
        for regions in ("r.bed", "r.gff3", "r.gtf")
    ]
    for calls, index in (("v.vcf.gz", "v.vcf.gz.tbi"), ("v.bcf", "v.bcf.csi")):
        cohort = [*base, "--regions", "r.bed", "--vcf", calls, "--source-name", "x"]
        files = ("g.fa", "g.fa.fai", "r.bed", calls, index, "who.txt", "model")
        found.append(Sample(files, (calls, index, "who.txt"), (cohort, [*cohort, "--samples", "who.txt"])))
    return found


def _partner(stock: Stock) -> list[Sample]:
    here = stock.folder
    vectors, ids = np.arange(24, dtype=np.float32).reshape(4, 6), np.array(["S1", "S2", "S3", "S4"])
    np.save(here / "S1.npy", vectors[0])
    np.savez(here / "p.npz", vectors=vectors, ids=ids)
    np.savez_compressed(here / "q.npz", vectors=vectors, ids=ids)
    torch.save({"vectors": torch.tensor(vectors), "ids": list(ids)}, here / "p.pt")
    save_file({"S1": torch.tensor(vectors[0]), "S2": torch.tensor(vectors[1])}, here / "p.safetensors")
    table = pa.table({"subject_id": list(ids), "vector": vectors.tolist()})
    pq.write_table(table, here / "p.parquet")
    rows = [
        ["subject_id", *(f"f{i}" for i in range(6))],
        *([name, *row] for name, row in zip(ids, vectors.tolist(), strict=True)),
    ]
    for name, mark in (("p.csv", ","), ("p.tsv", "\t")):
        (here / name).write_text("\n".join(mark.join(map(str, row)) for row in rows) + "\n")
    (here / "p.csv.gz").write_bytes(gzip.compress((here / "p.csv").read_bytes()))
    np.savez(here / "b.npz", vectors=np.zeros((2, 425, 4), np.float32), ids=ids[:2])
    found = []
    for name in ("S1.npy", "p.npz", "q.npz", "p.pt", "p.safetensors", "p.parquet", "p.csv", "p.tsv", "p.csv.gz"):
        command = ["partner", "generic", name, "--output", "out.parquet", "--json"]
        found.append(Sample((name,), (name,), (command, [*command, "--skip-bad"])))
    brain = ["partner", "brainlm", "b.npz", "--output", "out", "--json"]
    found.append(Sample(("b.npz",), ("b.npz",), (brain, [*brain, "--pool", "mean"])))
    return found


def _model(stock: Stock) -> list[Sample]:
    here = stock.folder
    found = []
    made_by = {
        "dnabert2": (models.config(), models.state),
        "bert": (models.bert_config(), models.bert_state),
        "prokbert": (models.prokbert_config(), models.prokbert_state),
    }
    for name, (values, state) in made_by.items():
        for pickled in (False, True):
            folder = f"{name}{'-bin' if pickled else ''}"
            models.write(here / folder, values, state(values), pickled=pickled)
            if name != "dnabert2":
                (here / folder / "tokenizer.json").unlink()
                letters = ["".join(one) for one in np.array(np.meshgrid(*["ACGT"] * 3, indexing="ij")).reshape(3, -1).T]
                (here / folder / "vocab.txt").write_text("\n".join([*models.KMER_SPECIAL, *letters]) + "\n")
            (here / folder / "tokenizer_config.json").write_text(
                json.dumps({"tokenizer_class": "PreTrainedTokenizerFast", "cls_token": "[CLS]"})
            )
            embed = ["embed", "in.fa", "--model", folder, "--store", "store", "--runner", "local", "--json"]
            found.append(Sample((folder, "in.fa"), (f"{folder}/*",), (["model-info", folder, "--json"], embed)))
    return found


def _adapter(stock: Stock) -> list[Sample]:
    here = stock.folder
    from dnafeat import load_model

    wrapped = peft.get_peft_model(
        load_model(str(here / "model")), peft.LoraConfig(target_modules=["Wqkv", "wo"], r=4, lora_alpha=8)
    )
    wrapped.save_pretrained(here / "adapter")
    command = ["model-info", "model", "--adapter", "adapter", "--json"]
    embed = ["embed", "in.fa", "--adapter", "adapter", *_EMBED]
    return [Sample(("model", "adapter", "in.fa"), ("adapter/adapter*",), (command, embed))]


def _yaml(stock: Stock) -> list[Sample]:
    here = stock.folder
    settings = {
        "sources": ["in.fa"],
        "store": "store",
        "model": "model",
        "runner": "local",
        "tile": 40,
        "vectors": ["mean", "projected"],
        "max_closed": 0.5,
    }
    (here / "embed.yaml").write_text("".join(f"{name}: {json.dumps(value)}\n" for name, value in settings.items()))
    (here / "tune.yaml").write_text(
        "train: train.csv\noutput: out\nsteps: 2\nrunner: local\nmethod: lora\nlora_options: {use_rslora: true}\n"
    )
    (here / "join.yaml").write_text(
        "store: store\non: subject_id\npartner: [a=b.parquet]\noutput: out\nlevel: gene\nreduce: [mean]\n"
    )
    files = ("in.fa", "model", "embed.yaml", "tune.yaml", "join.yaml")
    return [
        Sample(files, ("embed.yaml",), (["embed", "--config", "embed.yaml"], ["config", "embed", "--config", "embed.yaml"])),
        Sample(files, ("tune.yaml",), (["finetune", "--config", "tune.yaml"], ["config", "finetune", "--config", "tune.yaml"])),
        Sample(files, ("join.yaml",), (["join", "--config", "join.yaml"], ["config", "join", "--config", "join.yaml"])),
    ]


def _flags(stock: Stock) -> list[Sample]:
    commands = (
        ["embed", "in.fa", *_EMBED],
        ["nightly", "in.fa", "--store", "store", "--runner", "local"],
        ["read", "--store", "x", "--output", "-"],
        ["diff", "a", "b", "--store", "x"],
        ["files", "--store", "x"],
        ["lineage", "x"],
        ["rejects", "--store", "x"],
        ["runs", "--store", "x"],
        ["versions", "--store", "x"],
        ["finetune", "--train", "x.csv", "--output", "out"],
        ["predict", "x", "--input", "in.fa", "--output", "-"],
        ["pretrain", "x.fa", "--output", "out"],
        ["fit-projector", "--store", "x", "--train", "a.txt", "--output", "out"],
        ["project", "--store", "x", "--projector", "random@1"],
        ["align", "--store", "x", "--partner", "a=b", "--output", "out"],
        ["align-apply", "x", "--joined", "y", "--output", "out.parquet"],
        ["join", "--store", "x", "--partner", "a=b", "--output", "out"],
        ["partner", "generic", "x.csv", "--output", "out"],
        ["export", "--store", "x", "--output", "out"],
        ["publish", "--store", "x"],
        ["maintain", "--store", "x"],
        ["rollback", "r", "--store", "x"],
        ["forget", "--store", "x", "--where", "a=b"],
        ["benchmark", "--x"],
        ["demo", "--x"],
        ["demo-align", "--x"],
        ["model-info", "model"],
        ["models"],
        ["config", "embed"],
        ["completion", "bash"],
        ["help", "embed"],
    )
    return [Sample(("in.fa", "model"), (), commands)]


def _labelled(stock: Stock) -> list[Sample]:
    here = stock.folder
    labels = ["a", "b"] * 15
    text = _table(",", subjects=[f"S{i}" for i in range(30)], label=labels, value=[i / 7 for i in range(30)])
    (here / "train.csv").write_text(text)
    (here / "train.tsv").write_text(text.replace(",", "\t"))
    pq.write_table(pa.table({"sequence": [models.dna(30, i) for i in range(30)], "label": labels}), here / "train.parquet")
    brief = (
        "--model",
        "model",
        "--output",
        "out",
        "--steps",
        "2",
        "--no-baselines",
        "--runner",
        "local",
        "--max-tokens",
        "32",
        "--no-group-similar",
    )
    return [
        Sample(
            (name, "model"),
            (name,),
            (
                ["finetune", "--train", name, *brief],
                ["finetune", "--train", name, "--method", "probe", *brief],
                ["finetune", "--train", name, "--task", "regression", "--label-column", "value", *brief],
            ),
        )
        for name in ("train.csv", "train.tsv", "train.parquet")
    ]


def _pretraining(stock: Stock) -> list[Sample]:
    (stock.folder / "genome.fa").write_text(f">a\n{models.dna(20_000)}\n>b\n{models.dna(9000, 1)}\n")
    command = [
        "pretrain",
        "genome.fa",
        "--output",
        "out",
        "--steps",
        "1",
        "--layers",
        "1",
        "--hidden",
        "12",
        "--heads",
        "2",
        "--intermediate",
        "12",
        "--batch-tokens",
        "512",
    ]
    return [Sample(("genome.fa",), ("genome.fa",), (command,))]


def _store(stock: Stock) -> list[Sample]:
    store = stock.store
    commands: tuple[list[str], ...] = (
        ["versions", "--store", store],
        ["runs", "--store", store, "--json"],
        ["rejects", "--store", store],
        ["files", "--store", store],
        *[["read", "--store", store, "--columns", "mean,projected", "--output", "read.csv"]] * 5,
        ["export", "--store", store, "--output", "out"],
        ["maintain", "--store", store],
        ["maintain", "--store", store, "--drop-damaged"],
        ["forget", "--store", store, "--where", "subject_id=S03", "--yes"],
        ["rollback", "first", "--store", store, "--yes"],
        ["publish", "--store", store, "--channel", "x"],
        ["embed", "in.fa", *_EMBED],
        ["diff", "production", "production", "--store", store],
        ["embed", "cohort.csv", *_EMBED, "--source-name", "cohort"],
        ["project", "--store", store, "--projector", "random@5"],
        [
            "join",
            "--store",
            store,
            "--partner",
            "brain=brain.parquet",
            "--on",
            "subject_id",
            "--output",
            "joined-new",
            "--no-ray",
        ],
        ["read", "--store", store, "--as-of", "first", "--where", "subject_id=S01", "--output", "out.csv"],
    )
    files = (store, "in.fa", "cohort.csv", "brain.parquet", "model")
    spoiled = ("store/*/_delta_log/*", "store/features/**/*.parquet", "store/sequences/**/*.parquet", "store/**/*", "store/*")
    return [Sample(files, (one,), commands) for one in spoiled]


def _joined(stock: Stock) -> list[Sample]:
    stock.joined  # noqa: B018
    join = [
        "join",
        "--store",
        stock.store,
        "--partner",
        "brain=brain.parquet",
        "--on",
        "subject_id",
        "--output",
        "joined-new",
        "--no-ray",
    ]
    (stock.folder / "genes.txt").write_text("g1\ng2\n")
    concat = [*join, "--aggregate", "concat", "--genes", "genes.txt"]
    again = [
        "join",
        "--store",
        stock.store,
        "--partner",
        "brain=brain.parquet",
        "--on",
        "subject_id",
        "--output",
        "joined",
        "--no-ray",
    ]
    return [
        Sample((stock.store, "brain.parquet"), ("brain.parquet",), (join, [*join, "--how", "outer"])),
        Sample((stock.store, "brain.parquet", "genes.txt"), ("genes.txt",), (concat,)),
        Sample((stock.store, "brain.parquet", "joined"), ("joined/**/*",), (again, ["lineage", "joined", "--json"])),
    ]


def _projector(stock: Stock) -> list[Sample]:
    (stock.folder / "train.txt").write_text("\n".join(_SUBJECTS[:20]) + "\n")
    fit = ["fit-projector", "--store", stock.store, "--train", "train.txt", "--train-by", "subject_id", "--before", "zscore"]
    stock.run(*fit, "--output", "pca")
    project = ["project", "--store", stock.store, "--projector", "pca"]
    return [
        Sample((stock.store, "train.txt"), ("train.txt",), ([*fit, "--output", "out"],)),
        Sample(
            (stock.store, "pca", "model", "in.fa"),
            ("pca/*",),
            (project, ["model-info", "model", "--projector", "pca"], ["embed", "in.fa", *_EMBED, "--projector", "pca"]),
        ),
    ]


def _artifact(stock: Stock) -> list[Sample]:
    found = []
    _labelled(stock)
    for method in ("lora", "full", "probe"):
        name = f"tuned-{method}"
        stock.run(
            "finetune",
            "--train",
            "train.csv",
            "--model",
            "model",
            "--output",
            name,
            "--steps",
            "1",
            "--no-baselines",
            "--method",
            method,
            "--runner",
            "local",
            "--no-group-similar",
        )
        shutil.rmtree(stock.folder / f"{name}.runs")
        predict = ["predict", name, "--input", "in.fa", "--output", "out.csv", "--runner", "local"]
        if method != "full":
            predict += ["--model", "model"]
        found.append(
            Sample((name, "in.fa", "model"), (f"{name}/*.json", f"{name}/*.safetensors"), (predict, ["model-info", name]))
        )
        found.append(Sample((name, "in.fa", "model"), ("in.fa",), (predict,)))
    return found


_ALIGN = ("--steps", "2", "--eval-steps", "1", "--permutations", "9", "--resamples", "9", "--runner", "local")


def _aligned(stock: Stock) -> list[Sample]:
    rows = "".join(f"{name},{30 + i},{'ab'[i % 2]},F{i},{i * 0.5}\n" for i, name in enumerate(_SUBJECTS))
    (stock.folder / "people.csv").write_text(f"subject_id,age,site,family,score\n{rows}")
    command = ["align", "--joined", stock.joined, "--subjects", "people.csv", "--output", "out", *_ALIGN]
    return [
        Sample(
            ("joined", "people.csv"),
            ("people.csv",),
            (
                [*command, "--covariates", "age,site", "--family-column", "family"],
                [*command, "--phenotype", "score"],
            ),
        )
    ]


def _alignment(stock: Stock) -> list[Sample]:
    stock.run("align", "--joined", stock.joined, "--output", "aligned", *_ALIGN)
    apply = ["align-apply", "aligned", "--joined", "joined", "--output", "out.parquet"]
    return [Sample(("aligned", "joined"), ("aligned/*.json", "aligned/*.safetensors", "aligned/*/*.json"), (apply,))]


_MAKERS: dict[str, Callable[[Stock], list[Sample]]] = {
    "sources": _sources,
    "genome": _genome,
    "partner": _partner,
    "model": _model,
    "yaml": _yaml,
    "flags": _flags,
    "adapter": _adapter,
    "labelled": _labelled,
    "pretraining": _pretraining,
    "store": _store,
    "joined": _joined,
    "projector": _projector,
    "artifact": _artifact,
    "aligned": _aligned,
    "alignment": _alignment,
}
