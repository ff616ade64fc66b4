"""Settings of `dnafeat benchmark`."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal, get_args

from dnafeat.settings import Settings, option, require

Section = Literal["cpu", "gpu", "pipeline", "tokenising", "duplicates", "flat", "plan", "files", "read", "cohort"]
SECTIONS: tuple[str, ...] = get_args(Section)
# These need torch and transformers only, the others the whole of dnafeat.
BARE = ("cpu", "gpu")


@dataclass(frozen=True, kw_only=True)
class BenchmarkConfig(Settings, section="input"):
    """Settings of `dnafeat benchmark` and `jobs/benchmark.py`."""

    quick: bool = option(
        "fewer repeats on smaller inputs: minutes on 2 cores; targets that name an input size are not checked", False
    )
    bare: bool = option(f"measure only {' and '.join(BARE)}, which need torch and transformers but neither Ray nor Delta", False)
    only: tuple[Section, ...] = option("sections to measure, with commas (default: all)", ())
    output: str = option("JSON file to write the rows to", "bench.json", section="output")
    model: str | None = option(
        "encoder to measure: folder, bundled name or hub name (default: one of DNABERT-2-117M's size with random weights)",
        None,
        section="encoder",
    )
    tokenizer: str | None = option(
        "folder with the tokenizer.json of the random encoder, such as DNABERT-2's (default: BPE trained on the bundled genome, with as "
        "many tokens per sequence)",
        None,
        section="encoder",
    )
    gue: str | None = option("folder with GUE tasks, whose sequences replace tiles of the bundled genome", None)
    threads: int | None = option(
        "CPU threads of the engine and of its peers (default: one per core)", None, section="workers", ge=1
    )
    folder: str | None = option(
        "folder for temporary stores and models; the whole benchmark needs 20 GB (default: $TMPDIR)", None, section="output"
    )

    def check(self) -> None:
        heavy = [name for name in self.only if name not in BARE]
        require(
            not (self.bare and heavy), f"bare leaves out {', '.join(heavy)}: they need Ray or Delta; leave out one of the two"
        )
        require(
            self.tokenizer is None or self.model is None,
            "tokenizer is for the random encoder, and model names another: leave out one",
        )

    @property
    def sections(self) -> tuple[str, ...]:
        """The sections to measure, in the table's order."""
        return tuple(name for name in SECTIONS if name in (self.only or SECTIONS) and (name in BARE or not self.bare))
