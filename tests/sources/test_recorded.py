"""Regions as bedtools and gffread cut them out: their output was recorded by `tests/support/recorded.py`."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from people import stored, write_genome
from recorded import genome_of

from dnafeat.sequence import digest
from dnafeat.sources.regions.config import GenomeConfig

CASES = json.loads((Path(__file__).parent / "recorded.json").read_text())


@pytest.mark.parametrize("case", CASES, ids=lambda case: f"{case['command'].split()[0]}-{case['genome']}")
def test_as_recorded(tmp_path: Path, case: dict[str, Any]) -> None:
    regions = tmp_path / case["command"].split()[-1 if "gffread" in case["command"] else -3]
    regions.write_text(case["regions"])
    genome = write_genome(tmp_path / "genome.fa", genome_of(case["genome"]))
    feature = case["options"][1] if case["options"] else None
    config = GenomeConfig.make(genome=genome, regions=str(regions), feature=feature, splice=bool(case["options"]))
    found, _, layout = stored(config)
    # gffread names a coding sequence by its transcript.
    names = {one.name: one.transcript_id if feature == "CDS" else one.name for one in layout.regions}
    assert {names[name]: digest(letters.encode()) for (_, name, _), letters in found.items()} == case["found"]
