"""What happens before and after encoding: sections `plan`, `files` and `read` of the benchmark.

Vectors are made up, but for those of `files`.
"""

from __future__ import annotations

import functools
import gc
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from dnafeat import sequence as dna
from dnafeat.bench import inputs as benchinputs
from dnafeat.bench import process as benchprocess
from dnafeat.bench import stores as benchstore
from dnafeat.bench.inputs import random_sequences
from dnafeat.bench.rows import Row, measured, ratios, without_target
from dnafeat.embed import plan
from dnafeat.embed.config import EmbedConfig
from dnafeat.embed.intake import Checks, take_in
from dnafeat.embed.salvage import Salvage
from dnafeat.sources import reader as sources
from dnafeat.store import Store, digests, matrix
from dnafeat.store import vector_files as vectorfiles
from dnafeat.vectors import PROJECTED_WIDTH, VECTORS

_BASES = 300
_STORED = 0.5  # share of the planned entries whose sequences have vectors
_COPIES = 0.25  # share of them that carry the sequence of another
_NIGHT = 1_000_000
_MB = 1e6
_PIECE_ROWS = 2048


def planning(model: str, folder: Path, *, entries: int, night: int, repeats: int) -> list[Row]:
    """Planning in one process, and a night in which nothing has changed."""
    settings = {"model": model, "folder": str(folder / "plan"), "entries": entries, "repeats": repeats}
    told = benchprocess.call("tables", "planned", settings)
    note = (
        f"parse, normalise, digest, deduplicate and subtract {entries:,} FASTA entries of {_BASES} bases, of which {_COPIES:.0%} repeat "
        f"another's sequence and {_STORED:.0%} have vectors; by the seconds of CPU it took"
    )
    rows = [
        measured("plan.per_core", [entries / one for one in told.value["cpu"]], "entries/s", least=50_000.0, note=note),
        measured(
            "plan.reading", [entries / one for one in told.value["reading"]], "entries/s", note="of it parse to digest and spill"
        ),
        measured("plan.wall", [entries / one for one in told.value["wall"]], "entries/s", note="the same by the clock"),
    ]
    settings = {"model": model, "folder": str(folder / "night"), "entries": night}
    benchprocess.call("tables", "first_night", settings)
    answers = [benchprocess.call("tables", "another_night", settings) for _ in range(repeats)]
    seconds = [answer.value for answer in answers]
    row = measured(
        f"plan.night.{night}",
        seconds,
        "s",
        most=60.0,
        note=f"a night over {night:,} unchanged entries of {_BASES} bases, whole command",
    )
    rows.append(row if night >= _NIGHT else without_target(row, f"the target is for {_NIGHT:,}"))
    rows.append(
        measured(f"plan.night.{night}.memory", [answer.peak / 2**20 for answer in answers], "MiB", note="VmHWM of that command")
    )
    return rows


def _entries(file: Path, count: int, seed: int) -> str:
    """FASTA entries of which some repeat the sequence of another."""
    drawn = np.random.default_rng(seed)
    sequences = random_sequences(count - round(_COPIES * count), _BASES, seed)
    which = np.append(np.arange(len(sequences)), drawn.integers(0, len(sequences), count - len(sequences)))
    drawn.shuffle(which)
    with file.open("wb") as opened:
        opened.writelines(b">e%d-%d\n%b\n" % (seed, i, sequences[at]) for i, at in enumerate(which))
    return str(file)


def planned(settings: Mapping[str, Any]) -> dict[str, list[float]]:
    """Seconds of CPU and by the clock of planning, again and again."""
    folder, entries = Path(settings["folder"]), settings["entries"]
    folder.mkdir(parents=True)
    stored = round(_STORED * entries)
    files = [_entries(folder / "stored.fa", stored, 1), _entries(folder / "new.fa", entries - stored, 2)]
    config = EmbedConfig.make(sources=(files[0],), store=str(folder / "store"), model=settings["model"], vectors=("mean",))
    version = _fill(config, folder, rows=100_000, bases=_BASES)
    seconds: dict[str, list[float]] = {"cpu": [], "reading": [], "wall": []}
    for i in range(settings["repeats"]):
        store = Store(config.store)
        spills = folder / f"spills-{i}"
        cpu, wall = time.process_time(), time.perf_counter()
        intake = take_in(sources.look(files, sources.ReadOptions()), Checks(), spills)
        seconds["reading"].append(time.process_time() - cpu)
        store.features.reload()
        work = plan.subtract(intake, store, version, spills, Salvage(store, version, ("mean",)))
        seconds["cpu"].append(time.process_time() - cpu)
        seconds["wall"].append(time.perf_counter() - wall)
        assert work.stored + work.missing.rows == work.distinct > work.stored > 0, "a plan lost sequences"
    return seconds


def _fill(config: EmbedConfig, folder: Path, *, rows: int, bases: int, vectors: benchstore.Vectors | None = None) -> str:
    """Made-up vectors for all sequences of a configuration's sources; returns the version's digest."""
    from dnafeat.encoder.describe import describe
    from dnafeat.encoder.source import Source

    version = describe(Source.find(config.encoding), config.encoding, gpu=False)
    width = version.architecture["hidden_size"]
    benchstore.fill(
        config,
        vectors or functools.partial(benchstore.constant, [1.0] * width),
        folder,
        bases=bases,
        tokens=bases // 5,
        rows=rows,
    )
    return version.digest


def _night(settings: Mapping[str, Any]) -> EmbedConfig:
    folder = Path(settings["folder"])
    return EmbedConfig.make(
        sources=(str(folder / "night.fa"),),
        store=str(folder / "store"),
        model=settings["model"],
        vectors=("mean",),
        precision="float32",
        source_name="night",
    )


def first_night(settings: Mapping[str, Any]) -> int:
    """Publishes entries whose vectors are all there; returns how many."""
    from dnafeat.embed.job import embed

    folder = Path(settings["folder"])
    folder.mkdir(parents=True)
    _entries(folder / "night.fa", settings["entries"], 3)
    config = _night(settings)
    _fill(config, folder, rows=250_000, bases=_BASES)
    return embed(config, show=False).opened


def another_night(settings: Mapping[str, Any]) -> float:
    """Seconds from the start of this process to the end of a night over the same entries."""
    from dnafeat.embed.job import embed

    summary = embed(_night(settings), show=False)
    assert (summary.encoded, summary.opened, summary.closed) == (0, 0, 0), "something was new in a night without news"
    return time.time() - settings["spawned"]


def files(model: str, sequences: list[str], folder: Path, *, threads: int, repeats: int) -> list[Row]:
    """Files as large as a large run makes them, of vectors that the model has made, and what writing them costs."""
    settings = {"model": model, "sequences": sequences, "folder": str(folder), "threads": threads, "repeats": repeats}
    told = benchprocess.call("tables", "written", settings).value
    rows = []
    for name, sizes in told["bytes"].items():
        note = f"{told['rows'][name]:,} rows of {name.replace('+', ', ')}, a full shard: its vectors vary those of {len(sequences)} tiles"
        rows.append(measured(f"files.{name}", [size / _MB for size in sizes], "MB", least=64.0, most=256.0, note=note))
    note = "seconds of CPU of writing a row with all four vectors, over those of encoding it"
    rows.append(measured("files.writing_share", told["share"], "", most=0.05, note=note))
    rows.append(
        measured(
            "files.bfloat16_bytes",
            told["rounded_bytes"],
            "×",
            note="mean rounded to bfloat16 precision inside float32, over unrounded",
        )
    )
    note = f"largest change of a cosine between two of {len(sequences)} mean vectors by that rounding"
    rows.append(measured("files.bfloat16_cosine_change", [told["cosine_change"]], "", note=note))
    return rows


def written(settings: Mapping[str, Any]) -> dict[str, Any]:
    """Sizes and seconds of those files."""
    import torch

    from dnafeat.encoder import Encoder
    from dnafeat.encoder.rounding import rounded

    torch.set_num_threads(settings["threads"])
    sequences, repeats = settings["sequences"], settings["repeats"]
    encoder = Encoder.from_pretrained(settings["model"])
    encoder.encode(sequences[:16])
    encoding, found = [], None
    for _ in range(repeats):
        began = time.process_time()
        found = encoder.encode(sequences)
        encoding.append((time.process_time() - began) / len(sequences))
    store = Store(str(Path(settings["folder"]) / "files-store"))
    store.create()
    made = {name: getattr(found, name) for name in VECTORS}
    told: dict[str, Any] = {"bytes": {}, "rows": {}}
    seconds: list[float] = []
    for vectors in (VECTORS, ("mean",)):
        width = sum(PROJECTED_WIDTH if name == "projected" else encoder.hidden_size for name in vectors)
        # As many missing sequences as no shard is small for.
        rows = plan.shard_rows(10**9, 64, row_bytes=4 * width)
        sizes = []
        for _ in range(repeats):
            size, took = _write(store, {name: made[name] for name in vectors}, rows)
            sizes.append(size)
            seconds += [took / rows] if vectors == VECTORS else []
        told["bytes"]["+".join(vectors)], told["rows"]["+".join(vectors)] = sizes, rows
    plain = told["bytes"]["mean"][0]
    narrow = rounded(torch.from_numpy(made["mean"]), "bfloat16").numpy()
    told["rounded_bytes"] = [_write(store, {"mean": made["mean"]}, told["rows"]["mean"], to="bfloat16")[0] / plain]
    told["cosine_change"] = float(np.abs(_cosines(made["mean"]) - _cosines(narrow)).max())
    told["share"] = ratios(seconds, encoding)
    return told


def _cosines(vectors: np.ndarray) -> np.ndarray:
    normed = vectors / np.linalg.norm(vectors, axis=1, keepdims=True)
    return normed @ normed.T


def _write(store: Store, vectors: Mapping[str, np.ndarray], rows: int, *, to: str | None = None) -> tuple[int, float]:
    """Bytes and CPU seconds of one file.

    Its rows repeat the vectors, each time so far off that none is another's after rounding either: they compress as those of a run do.
    """
    import torch

    from dnafeat.encoder.rounding import rounded

    names = np.sort(np.array([dna.digest(b"%d" % i) for i in range(rows)], digests.DTYPE))
    draw = np.random.default_rng(0)
    pieces = []
    for first in range(0, rows, _PIECE_ROWS):
        some = names[first : first + _PIECE_ROWS]
        columns = {}
        for name, values in vectors.items():
            column = np.resize(values, (len(some), values.shape[1]))
            column = column * (1 + 0.1 * draw.standard_normal(column.shape, np.float32))
            columns[name] = rounded(torch.from_numpy(column), to).numpy()
        pieces.append(benchstore.table(some, columns, _BASES, _BASES // 5))
    began = time.process_time()
    receipt = vectorfiles.write(store.features, pieces, stem="bench", version="0" * 16)
    return receipt.file.size, time.process_time() - began


def reading(model: str, folder: Path, *, rows: int, repeats: int) -> list[Row]:
    """`Store.read` beside pyarrow over the same files, in turns, all of them in the system's cache of files."""
    settings = {"model": model, "folder": str(folder / "read"), "rows": rows, "repeats": repeats}
    told = benchprocess.call("tables", "read_store", settings).value
    alone = benchprocess.call("tables", "read_alone", settings)
    note = f"{rows:,} × {told['width']} float32 vectors into one NumPy array"
    ratio = measured("read.ratio", ratios(told["store"], told["arrow"]), "×", most=1.5, note=note)
    return [
        measured("read.store", told["store"], "s", note=f"Store.read: {note}"),
        measured(
            "read.arrow",
            told["arrow"],
            "s",
            note="pyarrow.parquet.read_table(columns=['mean']) over the same files, and one copy",
        ),
        ratio if rows >= _NIGHT else without_target(ratio, f"the target is for {_NIGHT:,}"),
        measured(
            "read.memory",
            [alone.peak / (4 * rows * told["width"])],
            "×",
            note="VmHWM of a process that does Store.read, over the array's bytes",
        ),
    ]


def read_store(settings: Mapping[str, Any]) -> dict[str, Any]:
    """Makes a store, and the seconds that both ways to read it take."""
    from dnafeat.embed.job import embed
    from dnafeat.encoder.models.checkpoint import find

    folder, rows = Path(settings["folder"]), settings["rows"]
    folder.mkdir(parents=True)
    width = find(settings["model"]).config().hidden_size
    letters = [one.decode() for one in random_sequences(rows, 40)]
    source = benchinputs.fasta(folder / "read.fa", letters)
    config = EmbedConfig.make(
        sources=(source,), store=str(folder / "store"), model=settings["model"], vectors=("mean",), precision="float32"
    )
    _fill(config, folder, rows=40_000, bases=40, vectors=functools.partial(benchstore.gaussian, width))
    embed(config, show=False)
    store = Store(config.store)
    paths = [f"{store.features.uri}/{path}" for path in store.features.paths()]

    def through_store() -> np.ndarray:
        return matrix(Store(config.store).read(columns=["mean"])["mean"])

    def through_arrow() -> np.ndarray:
        column = pq.read_table(paths, columns=["mean"], partitioning=None)["mean"]
        return np.concatenate([np.asarray(chunk.flatten()) for chunk in column.chunks]).reshape(len(column), -1)

    ways: dict[str, Callable[[], np.ndarray]] = {"store": through_store, "arrow": through_arrow}
    seconds: dict[str, list[float]] = {name: [] for name in ways}
    for i in range(1 + settings["repeats"]):
        for name, way in ways.items():
            gc.collect()
            pa.default_memory_pool().release_unused()
            began = time.perf_counter()
            shape = way().shape
            took = time.perf_counter() - began
            assert shape == (rows, width), f"{name} read {shape}"
            # The first brings the files into the system's cache.
            seconds[name] += [took] if i else []
    return {"width": width, **seconds}


def read_alone(settings: Mapping[str, Any]) -> int:
    """One `Store.read`, in a process that does nothing else."""
    return len(matrix(Store(str(Path(settings["folder"]) / "store")).read(columns=["mean"])["mean"]))
