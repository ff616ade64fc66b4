"""The speed table: what the targets of dnafeat's speed are, measured with limits and peers side by side in one process tree.

Each part runs in processes of its own (`process`), and what is compared takes turns, so that whatever else the machine does falls on
both. `engine` measures the encoder, `pipeline` the Ray pipeline, `tables` what happens before and after encoding.
"""

from __future__ import annotations

import importlib.metadata
import logging
import os
import platform
import re
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, datetime
from functools import cached_property
from pathlib import Path
from typing import Any

from dnafeat import storage
from dnafeat.bench import inputs as benchinputs
from dnafeat.bench import process as benchprocess
from dnafeat.bench.config import BenchmarkConfig
from dnafeat.bench.rows import Row, format_rows, not_measured, to_json
from dnafeat.errors import UsageError

_log = logging.getLogger(__name__)
_PACKAGES = ("dnafeat", "torch", "transformers", "tokenizers", "numpy", "ray", "pyarrow", "deltalake")
_FLAGS = re.compile(r"avx2|avx512f|avx512_bf16|avx512_vnni|avx_vnni|amx_\w+|asimd|sve\d?|bf16|i8mm")


@dataclass(frozen=True, kw_only=True)
class Sizes:
    """How much is measured, and how often. Sequences unless a name says otherwise."""

    repeats: int
    """Rounds of engine and peers; of whole runs of the pipeline, `runs`."""
    runs: int
    cpu: int
    gpu: int
    gpu_peers: int
    pipeline: int
    tokenising: int
    duplicates: int
    flat: tuple[int, ...]
    entries: int
    night: int
    files: int
    read: int
    regions: int
    """Of a cohort whose rows are written; of one that is planned, `planned`."""
    planned: int


_FULL = Sizes(
    repeats=5, runs=3, cpu=400, gpu=16_384, gpu_peers=2048, pipeline=4000, tokenising=40_000, duplicates=3000,
    flat=(10_000, 100_000, 1_000_000), entries=400_000, night=1_000_000, files=128, read=1_000_000, regions=200, planned=100,
)  # fmt: skip
_QUICK = Sizes(
    repeats=3, runs=1, cpu=100, gpu=8192, gpu_peers=1024, pipeline=2000, tokenising=10_000, duplicates=600,
    flat=(5000, 50_000), entries=100_000, night=100_000, files=24, read=100_000, regions=40, planned=20,
)  # fmt: skip
# What the engine should reach on a GPU, where there is none.
_NO_GPU = (
    not_measured("gpu.bfloat16.share_of_matmul", "no GPU", least=0.6),
    not_measured("gpu.bfloat16.padding_share", "no GPU", most=0.03),
    not_measured("gpu.bfloat16.over_padded", "no GPU", least=8.0),
)
# A GPU has done with what keeps a CPU busy for a minute before it is warm.
_GPU_TIMES = 50


def benchmark(config: BenchmarkConfig, say: Callable[[str], None] = _log.info) -> list[Row]:
    """Measures the sections that a configuration names, and writes `config.output` after each.

    Parameters
    ----------
    config : BenchmarkConfig
    say : callable
        Told what is being measured (default: the log).

    Raises
    ------
    BenchmarkError
        A way to get vectors gives others than the plain model.
    UsageError
        The model, tokenizer, sequences or a place to write are wrong.
    """
    # Whatever is wrong shows before anything is measured.
    if config.tokenizer is not None:
        benchinputs.tokenizer_file(config.tokenizer)
    if config.gue is not None:
        benchinputs.gue(config.gue, 1)
    output = Path(config.output).expanduser()
    rows = machine()
    _save(output, rows)
    try:
        held = tempfile.TemporaryDirectory(prefix="dnafeat-bench-", dir=config.folder)
    except OSError as error:
        raise UsageError(f"folder {config.folder} cannot be used: {error.strerror}") from error
    with held as folder:
        bench = Benchmark(config, Path(folder))
        rows += bench.facts()
        for section in config.sections:
            began = time.monotonic()
            say(f"measuring {section} …")
            rows += getattr(bench, section)()
            _save(output, rows)
            say(f"measuring {section}: {time.monotonic() - began:.0f} s")
    return rows


def _save(output: Path, rows: list[Row]) -> None:
    try:
        storage.write_whole(storage.absolute(str(output)), lambda file: file.write(to_json(rows).encode()))
    except OSError as error:
        raise UsageError(f"output {output} cannot be written: {error.strerror}") from error


def format_table(rows: list[Row], config: BenchmarkConfig) -> str:
    """The table, and below it how many targets are met."""
    judged = [row for row in rows if row.target]
    missed, open_ = ([row.name for row in judged if row.met is met] for met in (False, None))
    foot = [f"{sum(row.met is True for row in judged)} of {len(judged)} targets are met."]
    if missed:
        foot.append(f"Missed: {', '.join(missed)}.")
    if open_:
        foot.append(f"Not measured: {', '.join(open_)}.")
    if config.quick:
        foot.append(
            "--quick: fewer repeats of smaller inputs than the targets name; the numbers of record are those of a full run."
        )
    return format_rows(rows, ["", *foot])


class Benchmark:
    """The sections of the table: each method measures one of them."""

    def __init__(self, config: BenchmarkConfig, folder: Path) -> None:
        self.config, self.folder = config, folder
        self.sizes = _QUICK if config.quick else _FULL
        self.threads = config.threads or cores()

    def facts(self) -> list[Row]:
        """What the rows below are about."""
        told = self._device
        facts = {"gpu": told.get("gpu", "none"), "torch_cpu": f"{told['capability']}, oneDNN {'yes' if told['onednn'] else 'no'}"}
        facts["threads"] = str(self.threads)
        if self.config.model is None:
            tokenizer = self.config.tokenizer or "trained on lambda, with as many tokens to a sequence as DNABERT-2's"
            facts["model"] = f"random weights in DNABERT-2-117M's shape; tokenizer {tokenizer}"
        else:
            facts["model"] = self.config.model
        tiles = "tiles of phage lambda, equally many of " + ", ".join(map(str, benchinputs.LENGTHS)) + " bases, shuffled"
        facts["sequences"] = f"GUE tasks in {self.config.gue}" if self.config.gue else tiles
        return [Row(name=f"machine.{name}", value=value) for name, value in facts.items()]

    @cached_property
    def _device(self) -> dict[str, Any]:
        return benchprocess.call("engine", "device", {"model": self.config.model}).value

    @cached_property
    def _models(self) -> dict[str, str]:
        shapes = {"small": benchinputs.SMALL, "tiny": benchinputs.TINY, "wide": benchinputs.WIDE}
        if self.config.model is None:
            shapes["full"] = benchinputs.FULL
        settings = {"folder": str(self.folder / "models"), "shapes": shapes, "tokenizer": self.config.tokenizer}
        made = benchprocess.call("inputs", "write_models", settings).value
        return made if self.config.model is None else {**made, "full": self.config.model}

    def _sequences(self, count: int) -> list[str]:
        config = self.config
        found = benchinputs.gue(config.gue, count) if config.gue else benchinputs.tiles(count)
        if config.gue is None and config.model is None:
            return found
        return benchprocess.call("engine", "fitting", {"model": self._models["full"], "sequences": found}).value

    def cpu(self) -> list[Row]:
        return self._engine("cpu", self.sizes.cpu, None, {"CUDA_VISIBLE_DEVICES": ""})

    def gpu(self) -> list[Row]:
        if "gpu" not in self._device:
            return list(_NO_GPU)
        return self._engine("gpu", self.sizes.gpu, self.sizes.gpu_peers, {})

    def _engine(self, device: str, count: int, peers: int | None, environment: dict[str, str]) -> list[Row]:
        settings = {"device": device, "model": self._models["full"], "threads": self.threads, "repeats": self.sizes.repeats}
        settings["sequences"] = self._sequences(count)
        # On a GPU the others take twenty times as long, so that they are given fewer.
        if peers is not None:
            settings["peer_sequences"] = self._sequences(peers)
        rows = [Row(**fields) for fields in benchprocess.call("engine", "measure", settings, environment).value]
        alone = benchprocess.call("engine", "peak", settings, environment)
        note = f"VmHWM of a process with the engine alone that encodes {alone.value:,} sequences"
        return [*rows, Row(name=f"{device}.memory", value=float(round(alone.peak / 2**20)), unit="MiB", note=note)]

    def pipeline(self) -> list[Row]:
        from dnafeat.bench import pipeline as benchpipeline

        # A small encoder is the harder one to keep up with, and the quicker to be done with.
        model = self._models["small" if self.config.quick else "full"]
        sequences = self._sequences(self.sizes.pipeline * (_GPU_TIMES if self._actors[1] else 1))
        actors, threads = self._actors[0], self.threads if self._actors[1] else 1
        return benchpipeline.against_engine(
            model, sequences, self.folder, actors=actors, threads=threads, repeats=self.sizes.runs
        )

    @property
    def _actors(self) -> tuple[int, bool]:
        """How many encoders the pipeline has here, and whether on a GPU."""
        return (1, True) if "gpu" in self._device else (cores(), False)

    def tokenising(self) -> list[Row]:
        from dnafeat.bench import tokens as benchtokens

        return benchtokens.tokenising(self._models["full"], self.folder, count=self.sizes.tokenising, repeats=self.sizes.repeats)

    def duplicates(self) -> list[Row]:
        from dnafeat.bench import pipeline as benchpipeline

        sequences = benchinputs.tiles(self.sizes.duplicates)
        model, actors = self._models["small"], self._actors[0]
        return benchpipeline.duplicates(model, sequences, self.folder, copies=10, actors=actors, repeats=self.sizes.runs)

    def flat(self) -> list[Row]:
        from dnafeat.bench import pipeline as benchpipeline

        return benchpipeline.flat(self._models["tiny"], self.sizes.flat, self.folder, actors=self._actors[0])

    def plan(self) -> list[Row]:
        from dnafeat.bench import tables as benchtables

        sizes = self.sizes
        return benchtables.planning(
            self._models["tiny"], self.folder, entries=sizes.entries, night=sizes.night, repeats=sizes.runs
        )

    def files(self) -> list[Row]:
        from dnafeat.bench import tables as benchtables

        sequences = self._sequences(self.sizes.files)
        return benchtables.files(self._models["full"], sequences, self.folder, threads=self.threads, repeats=self.sizes.runs)

    def read(self) -> list[Row]:
        from dnafeat.bench import tables as benchtables

        return benchtables.reading(self._models["wide"], self.folder, rows=self.sizes.read, repeats=self.sizes.repeats)

    def cohort(self) -> list[Row]:
        from dnafeat.bench import people as benchpeople

        sizes = self.sizes
        return benchpeople.measure(self.folder, regions=sizes.regions, planned=sizes.planned, repeats=sizes.runs)


def machine() -> list[Row]:
    """The machine that is measured, as facts."""
    facts = {"date": f"{datetime.now(UTC):%Y-%m-%d %H:%M} UTC", "cpu": platform.processor() or platform.machine()}
    cpuinfo = _text("/proc/cpuinfo")
    if found := re.search(r"^model name\s*:\s*(.+)$", cpuinfo, re.MULTILINE):
        facts["cpu"] = found[1]
    facts["cores"] = f"{cores()} of {os.cpu_count()}"
    if found := re.search(r"^(?:flags|Features)\s*:\s*(.+)$", cpuinfo, re.MULTILINE):
        facts["flags"] = " ".join(flag for flag in found[1].split() if _FLAGS.fullmatch(flag)) or "none of those that matter"
    if found := re.search(r"^MemTotal:\s*(\d+) kB", _text("/proc/meminfo"), re.MULTILINE):
        facts["memory"] = f"{int(found[1]) / 2**20:.0f} GiB"
    facts["load"] = " ".join(f"{one:.2f}" for one in os.getloadavg()) + " before the first section, over 1, 5 and 15 minutes"
    versions = [f"python {platform.python_version()}"]
    for name in _PACKAGES:
        try:
            versions.append(f"{name} {importlib.metadata.version(name)}")
        except importlib.metadata.PackageNotFoundError:
            versions.append(f"{name} not installed")
    facts["versions"] = ", ".join(versions)
    return [Row(name=f"machine.{name}", value=value) for name, value in facts.items()]


def _text(path: str) -> str:
    try:
        return Path(path).read_text()
    except OSError:
        return ""


def cores() -> int:
    """CPUs that this process may run on."""
    return len(os.sched_getaffinity(0))
