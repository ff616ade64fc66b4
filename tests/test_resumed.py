"""Runs that died with some of their files written are sent again, and have more to encode: what was encoded counts, nothing twice."""

from __future__ import annotations

from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from models import dna, random_folder
from stores import digest, fasta

import dnafeat
from dnafeat import embed as embedding
from dnafeat.config import EmbedConfig
from dnafeat.embed import embed
from dnafeat.schema import VECTORS

POOL = {f"s{i}": dna(20 + i, seed=i) for i in range(12)}


class Died(BaseException):
    """The driver is gone, after its last file and before its first commit."""


def test_files_of_two_dead_runs_and_new_ones_make_a_run(tmp_path: Path, two_cpus: None, monkeypatch: pytest.MonkeyPatch) -> None:
    """Each of the three has cut shards of its own, and they have the same names."""
    store = str(tmp_path / "store")
    model = str(random_folder(tmp_path / "tiny", num_hidden_layers=1))

    def run(last: int, **own: Any) -> embedding.Summary:
        source = fasta(tmp_path / "a.fa", dict(list(POOL.items())[:last]))
        return embed(EmbedConfig(sources=(source,), store=store, model=model, num_actors=1, shard_rows=2, **own), show=False)

    def dies(*arguments: Any, **options: Any) -> None:
        raise Died

    with monkeypatch.context() as patch:
        patch.setattr(embedding, "audit", dies)
        for last in (4, 8):
            with pytest.raises(Died):
                run(last, run_id=f"dead-{last}")
    done = run(12)
    assert (done.distinct, done.already_stored, done.salvaged, done.encoded) == (12, 0, 8, 4)
    stored = dnafeat.Store(store).features.reload().read(["sequence_digest"])["sequence_digest"].to_pylist()
    assert Counter(stored) == {digest(letters): 1 for letters in POOL.values()}
    table = dnafeat.Store(store).read()
    expected = dnafeat.Encoder.from_pretrained(model).encode([POOL[name] for name in table["sequence_id"].to_pylist()])
    for name in VECTORS:
        np.testing.assert_allclose(dnafeat.matrix(table[name]), getattr(expected, name), atol=1e-5, rtol=0)
