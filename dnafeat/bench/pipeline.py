"""The pipeline beside the bare engine, and what grows with its input: sections `pipeline`, `duplicates` and `flat`.

Each run of the pipeline is a process of its own with a Ray and a store of its own. Its seconds count from the first batch that an encoder
takes to the published run; what comes before is start-up, and a row of its own.
"""

from __future__ import annotations

import multiprocessing
import shutil
import statistics
import time
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from dnafeat.bench import inputs as benchinputs
from dnafeat.bench import process as benchprocess
from dnafeat.bench.rows import Row, measured, ratios, without_target

_MIB = 2**20
# Sequences of the largest input that the targets of time and memory name.
_LARGE = 1_000_000


@dataclass(frozen=True)
class Run:
    """What one run of the pipeline took.

    Attributes
    ----------
    startup : float
        Seconds from the start of the process to the first batch, less those of reading and planning.
    planned : float
        Seconds of reading and planning.
    files, committed : float
        Seconds from the first batch to the last file, and to the end of the run.
    sequences, actors : int
    driver, worker : int
        The most memory of the driver (VmHWM) and of any worker (its own pages), in bytes.
    bytes : int
        Of the files of vectors.
    """

    startup: float
    planned: float
    files: float
    committed: float
    sequences: int
    actors: int
    driver: int
    worker: int
    bytes: int

    @property
    def whole(self) -> float:
        return self.planned + self.committed


def run(source: str, folder: Path, model: str, **settings: Any) -> Run:
    """Embeds a source into a new store below a folder, in a process of its own, and removes the store again."""
    store = folder / "pipeline-store"
    told = benchprocess.call("pipeline", "embedded", {"source": source, "store": str(store), "model": model, **settings})
    shutil.rmtree(store)
    return Run(**told.value, driver=told.peak)


def embedded(settings: Mapping[str, Any]) -> dict[str, Any]:
    """`run` in that process."""
    from dnafeat.cluster.session import stop_ray
    from dnafeat.embed.config import EmbedConfig
    from dnafeat.embed.job import embed

    chosen = {name: settings[name] for name in ("store", "model", "num_actors", "shard_rows") if name in settings}
    vectors = tuple(settings.get("vectors", ("cls", "mean", "max", "projected")))
    config = EmbedConfig.make(sources=(settings["source"],), vectors=vectors, runner="ray", **chosen)
    with benchprocess.Workers() as workers:
        summary = embed(config, show=False)
        ended = time.time()
        stop_ray()
    began, last = spans(settings["store"])
    planned = summary.stages["reading"] + summary.stages["planning"]
    return {
        "startup": began - settings["spawned"] - planned,
        "planned": planned,
        "files": last - began,
        "committed": ended - began,
        "sequences": summary.encoded,
        "actors": settings.get("num_actors") or 0,
        "worker": workers.largest,
        "bytes": summary.bytes,
    }


def spans(uri: str) -> tuple[float, float]:
    """When the first vector file of a store's only version was begun, and when the last was whole, in seconds since the epoch."""
    from dnafeat.store import Store
    from dnafeat.store.vector_files import read_receipt

    features = Store(uri).features
    found = [
        (file, read_receipt(features, file.path, file.size, file.partition["feature_version"])) for file, _ in features.files()
    ]
    receipts = [receipt for _, receipt in found if receipt is not None]
    return min(one.began for one in receipts), max(one.ended for one in receipts)


def bare(settings: Mapping[str, Any]) -> float:
    """Sequences a second of `processes` encoders side by side, on windows that are cut beforehand, without any store or Ray."""
    parts = [settings["sequences"][i :: settings["processes"]] for i in range(settings["processes"])]
    context = multiprocessing.get_context("spawn")
    gate, answers = context.Barrier(len(parts)), context.Queue()
    workers = [
        context.Process(target=_bare, args=(settings["model"], part, settings["threads"], gate, answers), daemon=True)
        for part in parts
    ]
    for worker in workers:
        worker.start()
    ends = [answers.get(timeout=3600) for _ in workers]
    for worker in workers:
        worker.join()
    return len(settings["sequences"]) / (max(end for _, end in ends) - min(began for began, _ in ends))


def _bare(model: str, sequences: Sequence[str], threads: int, gate: Any, answers: Any) -> None:
    import torch

    from dnafeat.embed.worker import PIECE_ROWS
    from dnafeat.encoder import Encoder
    from dnafeat.encoder.windows import cut

    torch.set_num_threads(threads)
    encoder = Encoder.from_pretrained(model)
    windows = cut(sequences, encoder.tokenizer, encoder.cutting)
    encoder.encode(sequences[:64])
    gate.wait()
    began = time.monotonic()
    for first in range(0, len(sequences), PIECE_ROWS):
        encoder.encode_windows(windows.part(first, min(first + PIECE_ROWS, len(sequences))))
    answers.put((began, time.monotonic()))


def against_engine(model: str, sequences: list[str], folder: Path, *, actors: int, threads: int, repeats: int) -> list[Row]:
    """The pipeline's rate over the bare engine's, in as many processes of as many threads, in turns."""
    source = benchinputs.fasta(folder / "pipeline.fa", sequences)
    engine, runs = [], []
    for _ in range(repeats):
        settings = {"model": model, "sequences": sequences, "processes": actors, "threads": threads}
        engine.append(benchprocess.call("pipeline", "bare", settings).value)
        runs.append(run(source, folder, model, num_actors=actors))
    layout = f"{actors} encoders of {_shape(model)} with {threads} threads each, {len(sequences):,} sequences"
    to_files, to_end = ([len(sequences) / getattr(one, name) for one in runs] for name in ("files", "committed"))
    fixed = statistics.median(one.committed - one.files for one in runs)
    beside = (
        f"from the first batch to the last file; audit and commits took {fixed:.1f} s after it; a run encodes up to 64 sequences a "
        f"second time for its audit, here {100 * 64 / len(sequences):.1f} % of all"
    )
    return [
        measured("pipeline.engine", engine, "sequences/s", note=f"the bare engine: {layout}, on windows that are cut beforehand"),
        measured("pipeline.rate", to_files, "sequences/s", note=beside),
        measured("pipeline.over_engine", ratios(to_files, engine), "", least=0.95, note=beside),
        measured("pipeline.committed_over_engine", ratios(to_end, engine), "", note="to the end of audit and commits"),
        measured(
            "pipeline.startup",
            [one.startup for one in runs],
            "s",
            most=20.0,
            note="from the command to the first batch, planning aside",
        ),
        measured("pipeline.driver", [one.driver / _MIB for one in runs], "MiB", note="VmHWM"),
        measured("pipeline.worker", [one.worker / _MIB for one in runs], "MiB", note="the largest worker's own pages"),
    ]


def duplicates(model: str, sequences: list[str], folder: Path, *, copies: int, actors: int, repeats: int) -> list[Row]:
    """Reading, planning, encoding and publishing ten entries of each sequence over those of one."""
    sources = {n: benchinputs.fasta(folder / f"copies-{n}.fa", sequences, n) for n in (1, copies)}
    seconds: dict[int, list[float]] = {n: [] for n in sources}
    for _ in range(repeats):
        for n, source in sources.items():
            seconds[n].append(run(source, folder, model, num_actors=actors).whole)
    note = f"{len(sequences):,} sequences, encoder of {_shape(model)}; seconds of a whole run without start-up"
    return [
        measured("duplicates.one_copy", seconds[1], "s", note=note),
        measured(f"duplicates.{copies}_copies", seconds[copies], "s", note=note),
        measured("duplicates.ratio", ratios(seconds[copies], seconds[1]), "×", most=1.15, note=note),
    ]


def flat(model: str, sizes: Sequence[int], folder: Path, *, actors: int) -> list[Row]:
    """Time and memory of ever more short sequences: `sizes` ascend, and the last is ten times the one before."""
    runs = {}
    for size in sizes:
        source = benchinputs.fasta(folder / "flat.fa", benchinputs.tiles(size, benchinputs.SHORT)[:size])
        runs[size] = run(source, folder, model, num_actors=actors, vectors=["mean"])
    small, middle, large = (runs[size] for size in (sizes[0], sizes[-2], sizes[-1]))
    shape = f"tiles of {min(benchinputs.SHORT)} to {max(benchinputs.SHORT)} bases, encoder of {_shape(model)}"
    linear = (large.whole / large.sequences) / (small.whole / small.sequences)
    rows = [
        measured(f"flat.seconds.{size}", [runs[size].whole], "s", note=f"{size:,} {shape}; a whole run without start-up")
        for size in sizes
    ]
    what = f"{sizes[-1]:,} sequences over {sizes[0]:,}"
    rows.append(measured("flat.time_each", [linear], "×", most=1.1, note=f"time of a sequence among {what}; start-up aside"))
    # Where a small run is mostly the fixed seconds of its commits, the ratio above would let much pass.
    steady = (large.whole / large.sequences) / (middle.whole / middle.sequences)
    rows.append(measured("flat.time_each.last_step", [steady], "×", most=1.1, note=f"the same over {sizes[-2]:,}"))
    for name in ("driver", "worker"):
        peaks = [getattr(one, name) for one in (middle, large)]
        how = "VmHWM of the driver" if name == "driver" else "the largest worker's own pages (RssAnon)"
        rows.append(measured(f"flat.{name}.{sizes[-1]}", [peaks[1] / _MIB], "MiB", note=how))
        rows.append(
            measured(f"flat.{name}.growth", [peaks[1] / peaks[0]], "×", most=1.2, note=f"{sizes[-1]:,} over {sizes[-2]:,}; {how}")
        )
    return (
        rows
        if sizes[-1] >= _LARGE
        else [without_target(row, f"the target is for {_LARGE:,}") if row.target else row for row in rows]
    )


def _shape(model: str) -> str:
    from dnafeat.encoder.models.checkpoint import find

    shape = asdict(find(model).config())
    return f"{shape['num_hidden_layers']} layers of {shape['hidden_size']}"
