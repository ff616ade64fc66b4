"""The conformance set of regions and cohorts: expected letters by bcftools 1.24, bedtools 2.30 and gffread 0.12.7, or by hand."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from people import stored, write_vcf

from dnafeat.cli.options import given
from dnafeat.cli.parser import Parser
from dnafeat.errors import UsageError
from dnafeat.sources.regions.config import GenomeConfig

SET = json.loads((Path(__file__).parent / "conformance.json").read_text())


def settings(folder: Path, case: dict[str, Any]) -> GenomeConfig:
    """The files of a case, and the settings that its options make."""
    from dnafeat.cli.options import add_options

    (folder / "genome.fa").write_text(case.get("genome", SET["genome"]))
    (folder / case["regions"]).write_text(case["text"], newline="")
    options = ["--genome", str(folder / "genome.fa"), "--regions", str(folder / case["regions"]), *case["options"]]
    if "vcf" in case:
        options += ["--vcf", write_vcf(folder / "cohort.vcf.gz", case["vcf"])]
    parser = Parser(prog="case", add_help=False)
    add_options(parser, GenomeConfig)
    return GenomeConfig.load(None, given(parser.parse_args(options), GenomeConfig))


@pytest.mark.parametrize("case", SET["cases"], ids=lambda case: case["name"])
def test_case(tmp_path: Path, case: dict[str, Any]) -> None:
    if "error" in case:
        with pytest.raises(UsageError) as refused:
            stored(settings(tmp_path, case))
        assert [word for word in case["error"] if word not in str(refused.value)] == []
        return
    letters, counts, _ = stored(settings(tmp_path, case))
    assert letters == {tuple(key): sequence for *key, sequence in case["expected"]}
    expected = case.get("counts", {})
    counts["distinct"] = len({one for one in letters.values() if one})
    assert {name: counts[name] for name in expected} == expected
