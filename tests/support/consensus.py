"""Letters of haplotypes by `bcftools consensus`, as an oracle. It can abort its process, so that it runs in others than the test's."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Sequence
from typing import NamedTuple

ABORTED = "aborted"


class Wanted(NamedTuple):
    """One haplotype, counted from 1, of a sample over the letters of a FASTA file whose header is `contig:start-end`."""

    fasta: str
    vcf: str
    sample: str
    haplotype: int


def consensus(jobs: Sequence[Wanted]) -> list[str]:
    """The letters of each, in upper case; `ABORTED` where bcftools stopped or took its process with it."""
    found: list[str] = []
    while len(found) < len(jobs):
        given = json.dumps(jobs[len(found) :])
        run = subprocess.run([sys.executable, __file__], input=given, capture_output=True, text=True)
        lines = run.stdout.splitlines()
        found += lines
        if run.returncode < 0:  # a signal
            found.append(ABORTED)
        elif run.returncode:
            raise RuntimeError(run.stderr)
    return found


def _main() -> None:
    import pysam
    import pysam.bcftools

    pysam.set_verbosity(0)
    for fasta, vcf, sample, haplotype in json.load(sys.stdin):
        try:
            text = pysam.bcftools.consensus("-f", fasta, "-H", str(haplotype), "-s", sample, vcf)
            print("".join(text.splitlines()[1:]).upper(), flush=True)
        except pysam.SamtoolsError:
            print(ABORTED, flush=True)


if __name__ == "__main__":
    _main()
