"""A cohort's way from its files to rows of `sequences`: section `cohort` of the benchmark."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa

from dnafeat import sequence as dna
from dnafeat.bench import cohorts
from dnafeat.bench import process as benchprocess
from dnafeat.bench.rows import Row, measured, without_target
from dnafeat.spill import Spill

# The cohorts that targets are of: subjects, records of a region and its bases.
_SHARED = (2500, 45, 3000)
_DENSE = (2500, 400, 40_000)
_PLANNED = (3202, 30, 3000)
_FOUNDERS, _DRAWN = 1000, 10_000


def measure(folder: Path, *, regions: int, planned: int, repeats: int) -> list[Row]:
    """Rows of the section, each of processes of their own."""
    settings = {"folder": str(folder / "cohort"), "regions": regions, "repeats": repeats}
    told = benchprocess.call("people", "opened", settings).value
    subjects, records, bases = _SHARED
    note = f"{told['rows']:,} rows of {subjects:,} people with {records} variants in each region of {bases:,} bases"
    rows = [
        measured("cohort.sequences.bytes", [told["bytes"]], "B/row", most=3.5, note=f"of sequences: {note}"),
        measured(
            "cohort.sequences.per_core",
            told["rates"],
            "rows/s",
            least=1_000_000.0,
            note=f"from codes to a file by the seconds of CPU it took: {note}",
        ),
    ]
    told = benchprocess.call("people", "built", {**settings, "folder": str(folder / "dense")}).value
    subjects, records, bases = _DENSE
    note = f"group {subjects:,} people by {records} variants in {bases:,} bases and build each haplotype, in a second of CPU's 1,000th"
    rows.append(measured("cohort.built", told["built"], "ms", most=60.0, note=f"{note}; reading is not in it"))
    rows.append(measured("cohort.read", told["read"], "ms", note="of CPU, to read these variants of a region"))
    rows += _drawn(folder / "drawn", repeats)
    return [*rows, *_planned(folder / "planned", planned, repeats)]


def _drawn(folder: Path, repeats: int) -> list[Row]:
    """People who carry known haplotypes beside those that they are known of."""
    benchprocess.call("people", "write_drawn", {"folder": str(folder)})
    answers = {
        name: [benchprocess.call("people", "taken_in", {"folder": str(folder / name)}) for _ in range(repeats)]
        for name in ("few", "many")
    }
    few, many = ([answer.value["cpu"] for answer in answers[name]] for name in ("few", "many"))
    more = [(b.peak - a.peak) / 2**20 for a, b in zip(answers["few"], answers["many"], strict=True)]
    note = f"{_DRAWN:,} people drawn from the haplotypes of {_FOUNDERS:,}, over these, from files to what is to be encoded"
    ratios = [b / a for a, b in zip(few, many, strict=True)]
    return [
        measured("cohort.drawn", ratios, "×", most=10.0, note=f"{note}; by seconds of CPU"),
        measured("cohort.drawn.memory", more, "MiB", most=50.0, note="VmHWM of the same, beyond that of the fewer people"),
    ]


def _planned(folder: Path, regions: int, repeats: int) -> list[Row]:
    subjects, records, bases = _PLANNED
    benchprocess.call("people", "write_planned", {"folder": str(folder), "regions": regions})
    answers = [benchprocess.call("people", "taken_in", {"folder": str(folder)}) for _ in range(repeats)]
    note = f"{subjects:,} people, {regions * records:,} variants in {regions} regions of {bases:,} bases, from files to a plan"
    rows = [
        measured("cohort.plan", [one.value["wall"] for one in answers], "s", most=15.0, note=note),
        measured("cohort.plan.cpu", [one.value["cpu"] for one in answers], "s", most=30.0, note="the same in seconds of CPU"),
        measured("cohort.plan.memory", [one.peak / 2**20 for one in answers], "MiB", most=1024.0, note="VmHWM of the same"),
    ]
    return rows if regions >= 100 else [without_target(row, "the target is for 100 regions") for row in rows]


def opened(settings: Mapping[str, Any]) -> dict[str, Any]:
    """Bytes and speed of the files that codes become."""
    from dnafeat.cluster.spread import here
    from dnafeat.embed.coded import CodedEntries, coded_schema
    from dnafeat.embed.intake import entry_schema
    from dnafeat.embed.opening import Opening, write_opened
    from dnafeat.store import Store, cut

    folder, count = Path(settings["folder"]), settings["regions"]
    keys = ["gene_id", "region_id", "strand"]
    store = Store(str(folder / "store"))
    store.create()
    table = store.sequences.reload()
    table.add_string_columns(["subject_id", "haplotype", *keys])
    table.measure(cut.MEASURED)
    subjects, records, _ = _SHARED
    spill = Spill(folder, "entries", coded_schema(keys))
    for number in range(count):
        alleles, codes = np.unique(cohorts.haplotypes(2 * subjects, records, number), axis=0, return_inverse=True)
        row = {
            "gene_id": f"ENSG{number:011d}",
            "region_id": f"ENSG{number:011d}",
            "strand": "+",
            "file": "genes.bed",
            "row": number,
        }
        row |= {"digests": [dna.digest(b"%d-%d" % (number, at)) for at in range(len(alleles))], "width": 2}
        row |= {"codes": codes.astype("<i4").tobytes(), "variants": [], "skipped": [], "is_reference": []}
        spill.add(pa.RecordBatch.from_pylist([row], schema=spill.schema))
    spill.close()
    people = pa.array([f"HG{number:05d}" for number in range(subjects)])
    rows = 2 * subjects * count
    entries = CodedEntries(spill, entry_schema(["subject_id", "haplotype", *keys]), people, np.array([rows]), pa.table({}))
    rates, size = [], 0

    for _ in range(settings["repeats"]):
        began = time.process_time()
        files = write_opened(table, "bench", "people", 1, Opening([entries]), here)
        rates.append(rows / (time.process_time() - began))
        size = sum(file.size for file in files)
        assert sum(file.rows for file in files) == rows, "rows are missing"
    return {"rows": rows, "bytes": size / rows, "rates": rates}


def built(settings: Mapping[str, Any]) -> dict[str, list[float]]:
    """Milliseconds of CPU of reading a region, and of grouping and building it."""
    from dnafeat.sources.cohort import layout
    from dnafeat.sources.cohort.files import CohortReader
    from dnafeat.sources.cohort.groups import Numbered
    from dnafeat.sources.cohort.haplotypes import RegionRecords, built_from, letters_of
    from dnafeat.sources.regions.genome import Genome

    subjects, records, bases = _DENSE
    made = cohorts.write(Path(settings["folder"]), subjects=subjects, regions=4, bases=bases, records=records)
    found = layout.look(_config(made))
    assert found.cohort is not None
    told: dict[str, list[float]] = {"read": [], "built": []}
    with Genome(found.genome) as letters, CohortReader(found.cohort) as cohort:
        for region in found.regions:
            began = time.process_time()
            own = RegionRecords(cohort, letters, region, found.how)
            calls: list[Numbered] = list(own.calls())
            forward = letters_of(letters, region)
            read = time.process_time()

            def again(held: list[Numbered] = calls) -> Iterator[Numbered]:
                return iter(held)

            built_from(again, subjects, region, forward, own.records)
            told["built"].append(1000 * (time.process_time() - read))
            told["read"].append(1000 * (read - began))
    return told


def _config(made: cohorts.MadeCohort) -> Any:
    from dnafeat.sources.regions.config import GenomeConfig

    return GenomeConfig(genome=made.genome, regions=made.regions, vcf=(made.vcf,))


def write_drawn(settings: Mapping[str, Any]) -> None:
    """Two cohorts of the same haplotypes."""
    folder = Path(settings["folder"])
    for name, drawn in (("few", None), ("many", cohorts.redrawn(_DRAWN, _FOUNDERS, seed=1))):
        cohorts.write(folder / name, subjects=_FOUNDERS, regions=20, bases=3000, records=45, drawn=drawn)


def write_planned(settings: Mapping[str, Any]) -> None:
    """The cohort that is planned."""
    subjects, records, bases = _PLANNED
    cohorts.write(Path(settings["folder"]), subjects=subjects, regions=settings["regions"], bases=bases, records=records)


def taken_in(settings: Mapping[str, Any]) -> dict[str, float]:
    """Seconds from the files of a cohort to what has to be encoded in an empty store, and how much that is."""
    from dnafeat.embed import plan
    from dnafeat.embed.intake import Checks
    from dnafeat.embed.regions import take_in_regions
    from dnafeat.embed.salvage import Salvage
    from dnafeat.sources.cohort import layout
    from dnafeat.store import Store

    folder = Path(settings["folder"])
    made = cohorts.files(folder)
    spills = folder / f"spills-{time.time_ns()}"
    store = Store(str(spills / "store"))
    store.create()
    store.features.reload()
    began, wall = time.process_time(), time.perf_counter()
    intake = take_in_regions(layout.look(_config(made)), Checks(), spills)
    work = plan.subtract(intake, store, "0" * 16, spills, Salvage(store, "0" * 16, ("mean",)))
    seconds = {"cpu": time.process_time() - began, "wall": time.perf_counter() - wall}
    counts = Counter(intake.cohort)
    return {**seconds, "distinct": work.distinct, "entries": intake.entries.rows, "records": counts["records"]}
