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
    assert (join.store, join.inputs.partner, join.output, join.inputs.on, join.how) == (
        "s",
        ("brain=b",),
        "o.joined",
        "id",
        "inner",
    )
    assert (join.inputs.level, join.inputs.reduce, join.inputs.key, join.inputs.source) == (
        "haplotype",
        ("first",),
        ("brain=eid",),
        "x",
    )
    assert config.shares == pytest.approx({"dev": 0.15, "test": 0.2, "train": 0.65})


@pytest.mark.parametrize(
    ("given", "sentence"),
    [
        ({"store": None}, r"store is missing: give --store and --partner"),
        ({"partner": ()}, r"partner names 0 modalities, and DNA is aligned with one"),
        ({"partner": ("a=x", "b=y")}, r"partner names 2 modalities"),
        ({"modality": "a"}, r"modality is for a joined table with several partners"),
        ({"joined": "j"}, r"joined is given and store, too"),
        ({"joined": "j", "store": None}, r"joined is given and partner, too"),
        ({"residualise": "brain"}, r"residualise 'brain' is none of both, dna, partner"),
        ({"categorical": ("site",)}, r"categorical names 'site', which is no covariate"),
        ({"covariates": ("age", "age")}, r"covariates names one twice"),
        (
            {"interactions": ("age:site",), "covariates": ("age",)},
            r"interactions has 'age:site': give two covariates and a colon",
        ),
        ({"interactions": ("age",), "covariates": ("age",)}, r"interactions has 'age': give two covariates"),
        ({"covariate_terms": "splines"}, r"covariate_terms is for --covariates"),
        ({"covariate_terms": "cubes", "covariates": ("age",)}, r"covariate_terms 'cubes' is none of linear, squares, splines"),
        ({"batch_size": 1}, r"batch_size 1 is too low: give 2 or more"),
        ({"pca": 0}, r"pca 0 is too low: give 1 or more"),
        ({"permutations": 0}, r"permutations 0 is too low: give 1 or more"),
        ({"num_workers": 0}, r"num_workers 0 is too low: give 1 or more"),
        ({"min_workers": 3}, r"min_workers 3 is more than num_workers 1"),
        ({"max_failures": -1}, r"max_failures -1 is too low: give 0 or more"),
        ({"dropout": 1.0}, r"dropout 1.0 is too high: give 0 or more and less than 1"),
        ({"temperature": 0.001}, r"temperature 0.001 is too low: give 0.01 to 1"),
        ({"learning_rate": 0.0}, r"learning_rate 0.0 is too low: give more than 0"),
        ({"dev_share": 0.5, "test_share": 0.5}, r"dev_share and test_share leave nobody to train on"),
        ({"test_share": 0.0}, r"test_share 0.0 is too low: give more than 0 and less than 1"),
        ({"aggregate": "concat"}, r"concat needs the genes"),
        ({"level": "gene", "aggregate": "concat", "genes": "g"}, r"concat concatenates the genes of a row"),
        ({"vector": "mean+x"}, r"vector 'x' is none of"),
    ],
)
def test_settings_that_contradict_themselves_are_one_sentence(given: dict[str, Any], sentence: str) -> None:
    with pytest.raises(UsageError, match=sentence):
        AlignConfig.make({name: value for name, value in {**BASE, **given}.items() if value is not None})
