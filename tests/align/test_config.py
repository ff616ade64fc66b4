"""The settings of an alignment: what contradicts itself is one sentence."""

from __future__ import annotations

from typing import Any

import pytest

from dnafeat.align.config import AlignConfig
from dnafeat.errors import UsageError

BASE: dict[str, Any] = {"store": "s", "partner": ("brain=b",), "output": "o"}


def test_the_join_it_makes_has_its_settings() -> None:
    config = AlignConfig.make(
        {**BASE, "level": "haplotype", "reduce": ("first",), "key": ("brain=eid",), "source": "x", "on": "id"}
    )
    join = config.join("o.joined")
    assert (join.store, join.partner, join.output, join.on, join.how) == ("s", ("brain=b",), "o.joined", "id", "inner")
    assert (join.level, join.reduce, join.key, join.source) == ("haplotype", ("first",), ("brain=eid",), "x")
    assert config.shares == pytest.approx({"dev": 0.15, "test": 0.2, "train": 0.65})


@pytest.mark.parametrize(
    ("given", "sentence"),
    [
        ({"store": None}, r"store is missing: say with --store and --partner"),
        ({"partner": ()}, r"partner names 0 modalities, and DNA is aligned with one"),
        ({"partner": ("a=x", "b=y")}, r"partner names 2 modalities"),
        ({"modality": "a"}, r"modality is for a joined table with several partners"),
        ({"joined": "j"}, r"joined is given and store, too"),
        ({"joined": "j", "store": None}, r"joined is given and partner, too"),
        ({"residualise": "brain"}, r"residualise 'brain' is none of both, dna, partner"),
        ({"categorical": ("site",)}, r"categorical names 'site', which is no covariate"),
        ({"covariates": ("age", "age")}, r"covariates names one twice"),
        ({"batch_size": 1}, r"batch_size 1 leaves nobody to tell a subject apart from"),
        ({"pca": 0}, r"pca 0 is too few"),
        ({"permutations": 0}, r"permutations 0 is too few"),
        ({"num_workers": 0}, r"num_workers 0 is too few"),
        ({"min_workers": 3}, r"min_workers 3 is more than num_workers 1"),
        ({"max_failures": -1}, r"max_failures -1 is less than none"),
        ({"dropout": 1.0}, r"dropout 1.0 is no share"),
        ({"temperature": 0.001}, r"temperature 0.001 is out of bounds"),
        ({"learning_rate": 0.0}, r"learning_rate 0.0 learns nothing"),
        ({"dev_share": 0.5, "test_share": 0.5}, r"dev_share and test_share leave nobody to train on"),
        ({"test_share": 0.0}, r"test_share 0.0 is no share"),
        ({"aggregate": "concat"}, r"concat needs the genes"),
        ({"level": "gene", "aggregate": "concat", "genes": "g"}, r"concat puts the genes of a row end to end"),
        ({"vector": "mean+x"}, r"vector 'x' is none of"),
    ],
)
def test_settings_that_contradict_themselves_are_one_sentence(given: dict[str, Any], sentence: str) -> None:
    with pytest.raises(UsageError, match=sentence):
        AlignConfig.make({name: value for name, value in {**BASE, **given}.items() if value is not None})
