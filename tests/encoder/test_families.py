"""Every architecture through the whole job: real tables, models from a folder and from S3."""

from __future__ import annotations

import itertools
import json
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import pytest
import rays
from models import bert_config, bert_state, dna, prokbert_config, prokbert_state, random_folder
from s3 import S3
from safetensors.torch import save_file
from stores import fasta

import dnafeat
from dnafeat.cli.main import main
from dnafeat.embed.config import EmbedConfig
from dnafeat.embed.job import embed
from dnafeat.errors import StoreError, UsageError
from dnafeat.sequence import reverse_complement

SPECIAL = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"]
SEQUENCES = {f"s{i}": dna(n, seed=i) for i, n in enumerate([6, 7, 20, 33, 60, 60, 150, 300])} | {"n": "ACGTNACGTTNA"}


def kmer_folder(folder: Path, kind: str) -> Path:
    """DNABERT-6 (`bert`, 64 positions) or a ProkBERT with shift 2, with random weights."""
    letters = "ATCG" if kind == "bert" else "ACGT"
    words = ["".join(word) for word in itertools.product(letters, repeat=6)]
    folder.mkdir(parents=True)
    (folder / "vocab.txt").write_text("\n".join([*SPECIAL, *words]) + "\n")
    make, draw = (bert_config, bert_state) if kind == "bert" else (prokbert_config, prokbert_state)
    values = make(vocab_size=4101, max_position_embeddings=64)
    (folder / "config.json").write_text(json.dumps(values))
    (folder / "tokenizer_config.json").write_text(json.dumps({"shift": 2, "kmer": 6} if kind == "prokbert" else {"max_len": 512}))
    save_file({key: value.clone() for key, value in draw(values).items()}, folder / "model.safetensors")
    return folder


def stored(store: str, column: str = "mean") -> dict[str, np.ndarray]:
    table = dnafeat.Store(store).read(columns=[column])
    return dict(zip(table["sequence_id"].to_pylist(), dnafeat.matrix(table[column]), strict=True))


@pytest.mark.parametrize(
    ("kind", "settings", "windowed", "truncated"),
    [
        pytest.param("bert", {}, 2, 0, marks=pytest.mark.long),
        ("bert", {"strands": "both", "truncate": True, "layer": -2}, 0, 2),
        pytest.param("prokbert", {"strands": "both", "average_layers": 2}, 2, 0, marks=pytest.mark.long),
        ("prokbert", {"window_bases": 40, "overlap_bases": 11, "special_tokens": True}, 4, 0),
    ],
    ids=str,
)
def test_stored_vectors_are_the_encoders_own(
    tmp_path: Path, kind: str, settings: dict[str, Any], windowed: int, truncated: int
) -> None:
    model = str(kmer_folder(tmp_path / "model", kind))
    source = fasta(tmp_path / "a.fa", SEQUENCES)
    store = str(tmp_path / "store")
    summary = embed(EmbedConfig.make(sources=(source,), store=store, model=model, shard_rows=4, **settings), show=False)
    assert (summary.encoded, summary.files, summary.windowed, summary.truncated) == (9, 3, windowed, truncated)
    encoder = dnafeat.Encoder.from_pretrained(model, **settings)
    assert summary.feature_version == encoder.version.digest
    expected = encoder.encode(list(SEQUENCES.values()))
    assert summary.tokens == expected.tokens.sum()
    for column in ("cls", "mean", "max", "projected", "cls+mean"):
        found = stored(store, column)
        for i, name in enumerate(SEQUENCES):
            np.testing.assert_allclose(found[name], expected.pooled(column)[i], atol=1e-5, rtol=0)


def test_both_strands_of_a_source_get_the_same_stored_vectors(tmp_path: Path) -> None:
    turned = {f"{name} turned": reverse_complement(letters.encode()).decode() for name, letters in SEQUENCES.items()}
    source = fasta(tmp_path / "a.fa", SEQUENCES | {name.replace(" ", "-"): letters for name, letters in turned.items()})
    store, model = str(tmp_path / "store"), str(random_folder(tmp_path / "model"))
    embed(EmbedConfig.make(sources=(source,), store=store, model=model, strands="both", window_tokens=30), show=False)
    vectors = stored(store, "cls+mean+max+projected")
    for name in SEQUENCES:
        np.testing.assert_allclose(vectors[f"{name}-turned"], vectors[name], atol=1e-5, rtol=0)


def test_what_is_too_short_for_a_token_is_rejected_and_the_rest_is_stored(tmp_path: Path) -> None:
    model, store = str(kmer_folder(tmp_path / "model", "bert")), str(tmp_path / "store")
    source = fasta(tmp_path / "a.fa", {"long": "ACGTACGT", "five": "ACGTA", "six": "ACGTAC", "n": "NACNTA"})
    summary = embed(EmbedConfig.make(sources=(source,), store=store, model=model), show=False)
    assert (summary.read, summary.rejected, summary.encoded) == (4, 1, 3)
    rejects = dnafeat.Store(store).rejects.reload().read().to_pylist()
    assert [(row["sequence_id"], row["text"]) for row in rejects] == [("five", "ACGTA")]
    assert "5 bases" in rejects[0]["reason"]
    assert "6" in rejects[0]["reason"]


def test_a_version_keeps_the_vectors_it_was_made_with(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    model, store = str(random_folder(tmp_path / "model")), str(tmp_path / "store")
    arguments = ["embed", fasta(tmp_path / "a.fa", SEQUENCES), "--store", store, "--model", model, "--source-name", "a"]
    assert main([*arguments, "--vectors", "mean,projected", "--json"]) == 0
    whole = dnafeat.Store(store).read()
    assert whole.column_names == ["sequence_id", "source_name", "mean", "projected"]
    for columns in (["cls"], ["mean", "mean+max"]):
        with pytest.raises(StoreError, match="mean, projected"):
            dnafeat.Store(store).read(columns=columns)
    # Another choice would leave rows with and rows without a vector under one name.
    assert main(arguments) == 2
    assert "--vectors mean,projected" in capsys.readouterr().err
    assert main([*arguments, "--vectors", "projected,mean"]) == 0
    out = tmp_path / "out.parquet"
    assert main(["read", "--store", store, "--columns", "mean+projected", "--output", str(out)]) == 0
    written = pq.read_table(out)
    assert written.column_names == ["sequence_id", "source_name", "mean+projected"]
    np.testing.assert_array_equal(
        dnafeat.matrix(written["mean+projected"]),
        np.concatenate([dnafeat.matrix(whole[name]) for name in ("mean", "projected")], axis=1),
    )


@pytest.mark.long
# On Ray, because actors could fetch the model where threads of the driver cannot but share it.
@pytest.mark.own_ray("its workers do not find the S3 server")
def test_a_model_on_s3_is_fetched_by_the_driver_and_not_again_by_its_actors(
    tmp_path: Path, s3_server: S3, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("DNAFEAT_CACHE", str(tmp_path / "cache"))
    uri, folder = s3_server.uri() + "-model", random_folder(tmp_path / "model")
    settings = {"sources": (fasta(tmp_path / "a.fa", SEQUENCES),), "store": str(tmp_path / "store"), "runner": "ray"}
    # Workers of this Ray know neither the server nor its keys: what they encode with, they have from the cache of this machine.
    with rays.own(), s3_server.found():
        s3_server.client().put(f"{folder}/", uri, recursive=True)
        summary = embed(EmbedConfig.make(**settings, model=uri), show=False)
        with pytest.raises(UsageError, match="does not exist"):
            embed(EmbedConfig.make(**settings, model=uri + "-none"), show=False)
    assert summary.encoded == len(SEQUENCES)
    lineage = dnafeat.Store(settings["store"]).lineage(summary.feature_version)
    copies = [entry for entry in (tmp_path / "cache" / "models").iterdir() if entry.is_dir()]
    assert [copy.name for copy in copies] == [lineage["revision"]]
    # The same files in a folder are the same version: nothing is encoded again.
    assert embed(EmbedConfig.make(**settings, model=str(folder)), show=False).encoded == 0
