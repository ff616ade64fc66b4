"""The configuration of the benchmark: names of flags and of YAML settings, checked."""

from __future__ import annotations

from dataclasses import dataclass

from dnafeat.settings import Settings, option, require

# What of the table needs torch and transformers alone, and what needs the whole of dnafeat.
BARE = ("cpu", "gpu")
SECTIONS = (*BARE, "pipeline", "tokenising", "duplicates", "flat", "plan", "files", "read")


@dataclass(frozen=True, kw_only=True)
class BenchmarkConfig(Settings):
    """What `dnafeat benchmark` and `jobs/benchmark.py` do."""

    quick: bool = option(
        "fewer repeats of smaller inputs: minutes on 2 cores; what a target names a size for has no target then", False
    )
    bare: bool = option(f"only {' and '.join(BARE)}, which need torch and transformers and neither Ray nor Delta", False)
    only: tuple[str, ...] = option(f"sections to measure, with commas: {', '.join(SECTIONS)} (else all)", ())
    output: str = option("file to write the rows to, as JSON", "bench.json")
    model: str | None = option(
        "folder, bundled name or hub name of the encoder to measure (else one of DNABERT-2-117M's size with random weights)", None
    )
    tokenizer: str | None = option(
        "folder with the tokenizer.json that the random encoder is to have, such as DNABERT-2's (else BPE trained on the bundled genome, "
        "with as many tokens to a sequence)",
        None,
    )
    gue: str | None = option("folder with GUE's tasks, whose sequences are measured in place of the genome's tiles", None)
    threads: int | None = option("threads of engine and peers on the CPU (else one for each core)", None)
    folder: str | None = option(
        "where stores and models are made meanwhile; the whole benchmark takes 20 GB there (else $TMPDIR)", None
    )

    def __post_init__(self) -> None:
        strange = [name for name in self.only if name not in SECTIONS]
        require(not strange, f"only names {', '.join(strange)}: there are {', '.join(SECTIONS)}")
        heavy = [name for name in self.only if name not in BARE]
        require(
            not (self.bare and heavy), f"bare leaves out {', '.join(heavy)}: they need Ray or Delta; leave out one of the two"
        )
        require(self.threads is None or self.threads >= 1, f"threads {self.threads} is too few: give 1 or more")
        require(
            self.tokenizer is None or self.model is None,
            "tokenizer is for the random encoder, and model names another: leave out one",
        )

    @property
    def sections(self) -> tuple[str, ...]:
        """What is measured, in the table's order."""
        return tuple(name for name in SECTIONS if name in (self.only or SECTIONS) and (name in BARE or not self.bare))
