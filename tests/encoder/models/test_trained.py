"""What an artifact of fine-tuning decides for embedding: base, k-mers, special tokens and the map to 512 dimensions."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import models
import numpy as np
import pytest
import torch
from safetensors.torch import save_file

from dnafeat.encoder import Encoder
from dnafeat.encoder.config import EncodingConfig
from dnafeat.encoder.models.checkpoint import find
from dnafeat.encoder.projection import Projector, load_projector
from dnafeat.encoder.source import Source
from dnafeat.errors import CheckpointError, UsageError
from tests.encoder.models.test_adapter import train

SEQUENCES = ["ACGTACGTTTGACA", models.dna(60), "GATTACANN"]


@pytest.fixture
def base(tmp_path: Path) -> Path:
    return models.random_folder(tmp_path / "base")


def artifact(base: Path, folder: Path, *, projector: bool = False, **encoding: Any) -> str:
    train(base, folder)
    about = {"base": {"model": str(base), "weights_sha256": find(str(base)).weights_sha256}, "encoding": encoding}
    (folder / "dnafeat.json").write_text(json.dumps(about))
    if projector:
        torch.manual_seed(5)
        save_file(Projector(48).state_dict(), folder / "projector.safetensors")
    return str(folder)


def test_k_mers_and_special_tokens_are_as_trained_unless_said(base: Path, tmp_path: Path) -> None:
    made = artifact(base, tmp_path / "artifact", kmer=3, special_tokens=True)
    found = Encoder.from_pretrained(str(base), made)
    same = Encoder.from_pretrained(str(base), made, kmer=3, special_tokens=True)
    assert found.version.digest == same.version.digest
    assert found.tokenizer.min_bases == 3
    assert found.version.special_tokens_pooled
    other = Encoder.from_pretrained(str(base), made, special_tokens=False)
    assert not other.version.special_tokens_pooled
    with pytest.raises(UsageError, match="trained with 3"):
        Encoder.from_pretrained(str(base), made, kmer=0)
    # An adapter that comes without a word of k-mers has none.
    plain = tmp_path / "plain"
    train(base, plain)
    assert Encoder.from_pretrained(str(base), str(plain)).tokenizer.min_bases == 1
    assert Encoder.from_pretrained(str(base), str(plain), kmer=3).tokenizer.min_bases == 3


def test_projected_is_by_the_projector_trained_with_the_adapter(base: Path, tmp_path: Path) -> None:
    made = artifact(base, tmp_path / "artifact", projector=True)
    vectors = Encoder.from_pretrained(str(base), made).encode(SEQUENCES)
    with torch.inference_mode():
        expected = load_projector(made, 48)(torch.from_numpy(vectors.mean)).numpy()
    np.testing.assert_allclose(vectors.projected, expected, atol=1e-5, rtol=0)
    by_name = Encoder.from_pretrained(str(base), projector=made)
    plain = Encoder.from_pretrained(str(base))
    versions = {e.version.projector_sha256 for e in (by_name, Encoder.from_pretrained(str(base), made))}
    assert len(versions) == 1
    assert versions != {plain.version.projector_sha256}
    np.testing.assert_array_equal(by_name.encode(SEQUENCES).mean, plain.encode(SEQUENCES).mean)
    random = Encoder.from_pretrained(str(base), made, projector="random@0")
    assert random.version.projector_sha256 == plain.version.projector_sha256


def test_a_projector_of_another_width_is_refused(base: Path, tmp_path: Path) -> None:
    made = artifact(base, tmp_path / "artifact", projector=True)
    save_file(Projector(32).state_dict(), tmp_path / "artifact" / "projector.safetensors")
    for config in (EncodingConfig(model=str(base), adapter=made), EncodingConfig(model=str(base), projector=made)):
        with pytest.raises(CheckpointError, match="from 48 to 512"):
            Source.find(config).projector(config)
    (tmp_path / "artifact" / "projector.safetensors").write_bytes(b"broken")
    with pytest.raises(CheckpointError, match="cannot be read as a projector"):
        load_projector(made, 48)


def test_a_base_with_other_weights_than_it_was_trained_on_is_refused(base: Path, tmp_path: Path) -> None:
    made = artifact(base, tmp_path / "artifact")
    other = models.random_folder(tmp_path / "other", seed=1)
    with pytest.raises(CheckpointError, match="other weights") as error:
        Encoder.from_pretrained(str(other), made)
    assert str(other) in str(error.value)
    Encoder.from_pretrained(str(models.random_folder(tmp_path / "copy")), made)
