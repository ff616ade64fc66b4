"""The tokenising stage beside the library that it is built on: section `tokenising` of the benchmark."""

from __future__ import annotations

import functools
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from dnafeat.bench import process as benchprocess
from dnafeat.bench.inputs import random_sequences
from dnafeat.bench.rows import Row, measured, ratios

_BASES = 300


def tokenising(model: str, folder: Path, *, count: int, repeats: int) -> list[Row]:
    """The tokenising stage as the pipeline runs it, on one core, beside the tokenizers library alone."""
    settings = {"model": model, "folder": str(folder), "count": count, "repeats": repeats}
    one_core = {"RAYON_NUM_THREADS": "1", "TOKENIZERS_PARALLELISM": "false"}
    told = benchprocess.call("tokens", "tokenised", settings, one_core).value
    note = f"{count:,} sequences of {_BASES} bases, by the seconds of CPU it took"
    stage = f"a shard's file in, windows of ids as Arrow out; {note}"
    rates = {name: [count / one for one in seconds] for name, seconds in told.items()}
    unit = "sequences/s"
    return [
        measured("tokenising.stage", rates["stage"], unit, least=8000.0, note=stage),
        measured("tokenising.stage_by_the_clock", rates["clock"], unit, note="the same stage in a Ray task with one thread"),
        measured("tokenising.encode_batch_fast", rates["encode_batch_fast"], unit, note=f"the tokenizers library alone; {note}"),
        measured("tokenising.encode_batch", rates["encode_batch"], unit, note=f"the tokenizers library alone; {note}"),
        measured("tokenising.over_library", ratios(rates["stage"], rates["encode_batch_fast"]), ""),
    ]


def tokenised(settings: Mapping[str, Any]) -> dict[str, list[float]]:
    """Seconds of CPU of the stage inside a Ray task, those of the library in the same process, and of the stage by the clock."""
    import ray

    from dnafeat.cluster import progress
    from dnafeat.cluster import session as cluster
    from dnafeat.cluster.observe import Job
    from dnafeat.embed.tokenise import TokeniserSettings
    from dnafeat.encoder.config import EncodingConfig
    from dnafeat.encoder.describe import cutting, describe
    from dnafeat.encoder.source import Source
    from dnafeat.parquet import write_parquet

    sequences = random_sequences(settings["count"], _BASES)
    uri = str(Path(settings["folder"]) / "shard-00000.parquet")
    write_parquet(uri, [shard_table(sequences)])
    config = EncodingConfig(model=settings["model"])
    source = Source.find(config)
    tokenizer = source.tokenizer(config)
    how = TokeniserSettings(tokenizer=tokenizer, cutting=cutting(describe(source, config), tokenizer))
    file = str(source.checkpoint.folder / "tokenizer.json")
    cluster.start_ray()
    try:
        watch = progress.start(Job(), 1)
        timed = ray.remote(num_cpus=1)(_tokenised)
        return ray.get(timed.remote(uri, how, watch, file, settings["repeats"]))
    finally:
        cluster.stop_ray()


def _tokenised(uri: str, how: Any, watch: Any, file: str, repeats: int) -> dict[str, list[float]]:
    import pyarrow as pa
    import pyarrow.parquet as pq
    import tokenizers

    from dnafeat.embed.tokenise import tokenise_shards

    letters = [one.decode() for one in pq.read_table(uri)["sequence"].to_pylist()]
    library = tokenizers.Tokenizer.from_file(file)
    library.no_padding()
    library.no_truncation()
    calls: dict[str, Callable[[], Any]] = {
        "stage": lambda: tokenise_shards(pa.table({"uri": [uri]}), how, watch),
        "encode_batch_fast": functools.partial(_each_thousand, library.encode_batch_fast, letters),
        "encode_batch": functools.partial(_each_thousand, library.encode_batch, letters),
    }
    seconds: dict[str, list[float]] = {name: [] for name in (*calls, "clock")}
    calls["stage"]()
    for _ in range(repeats):
        for name, call in calls.items():
            # Of all threads, so that none that the library starts is forgotten.
            cpu, began = time.process_time(), time.perf_counter()
            call()
            seconds[name].append(time.process_time() - cpu)
            if name == "stage":
                seconds["clock"].append(time.perf_counter() - began)
    return seconds


def _each_thousand(encode: Callable[[list[str]], Any], letters: list[str]) -> None:
    for at in range(0, len(letters), 1000):
        encode(letters[at : at + 1000])


def shard_table(sequences: Sequence[bytes]) -> Any:
    """Rows of a work shard."""
    import pyarrow as pa

    from dnafeat import sequence as dna
    from dnafeat.embed.intake import SEQUENCE_SCHEMA

    table = pa.table(
        [pa.array([dna.digest(one) for one in sequences]), pa.array(sequences, pa.large_binary())], schema=SEQUENCE_SCHEMA
    )
    return table.sort_by("sequence_digest")
