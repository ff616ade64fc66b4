"""The settings of a join: what contradicts itself is one sentence."""

from __future__ import annotations

import argparse
from typing import Any

import pytest

from dnafeat.cli.options import add_options, given
from dnafeat.errors import UsageError
from dnafeat.join.config import JoinConfig

BASE: dict[str, Any] = {"store": "s", "on": "subject_id", "output": "o", "partner": ("brain=b",)}


def test_a_partner_has_its_own_rule_or_the_general_one_the_last_given_winning() -> None:
    given = {**BASE, "partner": ("brain=s3://b/x=1", "other=c"), "reduce": ("max", "other=last:visit")}
    config, plain = JoinConfig.make(given).inputs, JoinConfig.make(BASE).inputs
    assert config.partners == {"brain": "s3://b/x=1", "other": "c"}
    assert [config.rule(name) for name in config.partners] == [("max", None), ("last", "visit")]
    assert plain.rule("brain") == ("mean", None)
    assert JoinConfig.make({**BASE, "reduce": ("brain=max", "first")}).inputs.rule("brain") == ("first", None)


def test_partners_may_be_given_one_by_one_or_together() -> None:
    parser = argparse.ArgumentParser()
    add_options(parser, JoinConfig)
    command = "--store s --on k --output o --partner a=1 b=2 --level gene --partner c=3 --reduce max b=first"
    flags = command.split()
    config = JoinConfig.load(None, given(parser.parse_args(flags), JoinConfig)).inputs
    assert config.partners == {"a": "1", "b": "2", "c": "3"}
    assert [config.rule(name)[0] for name in "abc"] == ["max", "first", "max"]


@pytest.mark.parametrize(
    ("given", "sentence"),
    [
        ({"partner": ("brain",)}, r"partner 'brain' is not NAME=VALUE"),
        ({"partner": ("brain=",)}, r"partner 'brain=' is not NAME=VALUE"),
        ({"partner": ("brain=a", "brain=b")}, r"partner names 'brain' twice"),
        ({"partner": ("Brain=a",)}, r"partner 'Brain' cannot name a column: use small letters"),
        ({"partner": ("dna=a",)}, r"partner 'dna' has the name of another column"),
        ({"partner": ("has_dna=a",)}, r"partner 'has_dna' has the name of another column"),
        ({"partner": ("gene_id=a",)}, r"partner 'gene_id' has the name of another column"),
        ({"partner": ("subject_id=a",)}, r"partner 'subject_id' has the name of another column"),
        ({"partner": ("a=x", "a_rows=y")}, r"partner 'a_rows' has the name of another column"),
        ({"key": ("x=eid",)}, r"key names 'x', which is no partner: there are brain"),
        ({"mapping": ("x=m",)}, r"mapping names 'x', which is no partner"),
        ({"partner_version": ("brain=x",)}, r"partner_version brain='x' is no number of a Delta version"),
        ({"reduce": ("x=mean",)}, r"reduce names 'x', which is no partner"),
        ({"reduce": ("median",)}, r"reduce 'median' is none of mean, max, first, last, refuse"),
        ({"reduce": ("mean:visit",)}, r"reduce 'mean:visit' is not first:COLUMN or last:COLUMN"),
        ({"level": "exon"}, r"level 'exon' is none of sequence, region, gene, haplotype, subject"),
        ({"how": "right"}, r"how 'right' is none of inner, left, outer"),
        ({"aggregate": "sum"}, r"aggregate 'sum' is none of mean, max, length, concat"),
        ({"level": "sequence", "aggregate": "mean"}, r"level sequence pools nothing: leave aggregate out"),
        ({"level": "gene", "aggregate": "concat", "genes": "g"}, r"a row of level gene has one at the most: take level subject"),
        ({"aggregate": "concat"}, r"concat needs the genes and their order: give a manifest with --genes"),
        ({"within": "max"}, r"within is for aggregate concat"),
        ({"aggregate": "concat", "genes": "g", "within": "concat"}, r"within 'concat' is none of mean, max, length"),
        ({"vector": "mean+x"}, r"vector 'x' is none of cls, mean, max, projected"),
    ],
)
def test_settings_that_contradict_themselves_are_one_sentence(given: dict[str, Any], sentence: str) -> None:
    with pytest.raises(UsageError, match=sentence):
        JoinConfig.make({**BASE, **given})
