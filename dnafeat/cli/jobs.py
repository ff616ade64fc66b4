"""Jobs whose results need a word more than their settings and a function: demos, training, models, the benchmark."""

from __future__ import annotations

import shutil
import tempfile
import warnings
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any

from dnafeat.cli import config as settings
from dnafeat.cli.output import Report
from dnafeat.cli.stdio import STANDARD, format_of, is_special, write_delimited, written
from dnafeat.errors import DnafeatError, DnafeatWarning

if TYPE_CHECKING:
    from dnafeat.bench.config import BenchmarkConfig
    from dnafeat.effects.config import EffectsConfig
    from dnafeat.embed.config import NightlyConfig
    from dnafeat.finetune.config import PredictConfig


def demo(config: settings.DemoConfig, *, say: Callable[[str], None], show: bool) -> Report:
    """`dnafeat demo`."""
    from dnafeat.demo.splice import demo

    return Report(document=demo(config.store, say, show=show), text="")


def demo_align(config: settings.DemoAlignConfig, *, say: Callable[[str], None], show: bool) -> Report:
    """`dnafeat demo-align`."""
    from dnafeat.demo.align import demo

    return Report(document=demo(config.folder, say=say, show=show), text="")


def nightly(config: NightlyConfig, *, show: bool) -> Any:
    """`dnafeat nightly`, and a page about the run where one is asked for: what is published stays so if that cannot be written."""
    from dnafeat import storage
    from dnafeat.embed.schedule import nightly

    done = nightly(config, show=show)
    if config.report is None:
        return done
    from dnafeat.report import ReportConfig, write_page

    output = storage.join(config.report, f"{done.run_id}.html")
    try:
        write_page(ReportConfig.make(store=config.embed.store, run=done.run_id, output=output))
    except DnafeatError as error:
        warnings.warn(f"the run is published, and there is no page about it: {error}", DnafeatWarning, stacklevel=2)
        return done
    return replace(done, report=output)


def models(config: settings.NoConfig) -> list[dict[str, Any]]:
    """`dnafeat models`."""
    from dnafeat.encoder.models.registry import FAMILIES

    names = ("name", "title", "models", "positions", "tokens", "tested", "lora_targets")
    return [{name: getattr(family, name) for name in names} for family in FAMILIES]


def format_models(families: Any, width: int | None) -> str:
    """The architectures as text."""
    from dnafeat.encoder.info import format_families

    return format_families(width)


def model_info(config: settings.ModelInfoConfig) -> Any:
    """`dnafeat model-info`."""
    from dnafeat.encoder.config import EncodingConfig
    from dnafeat.encoder.info import model_info

    return model_info(EncodingConfig.make(model=config.name, adapter=config.adapter, projector=config.projector))


def format_result(summary: Any) -> str:
    """A result as it shows itself in a notebook."""
    return repr(summary)


def predict(config: PredictConfig, *, show: bool, stdout: IO[str]) -> Any:
    """`dnafeat predict`: Parquet as the job writes it, or delimited text made of it."""
    from dnafeat.finetune.prediction import format_summary, predict
    from dnafeat.sources.reader import expand

    return _delivered(config, lambda own: predict(own, show=show), format_summary, lambda: expand(config.input), stdout)


def effects(config: EffectsConfig, *, show: bool, stdout: IO[str]) -> Any:
    """`dnafeat effects`: Parquet as the job writes it, or delimited text made of it."""
    from dnafeat.effects.job import effects
    from dnafeat.effects.report import format_summary

    inputs = [uri for uri in (config.genome, config.regions, config.samples, *config.vcf) if uri]
    return _delivered(config, lambda own: effects(own, show=show), format_summary, lambda: inputs, stdout)


def _delivered(
    config: Any, job: Callable[[Any], Any], form: Callable[[Any], str], inputs: Callable[[], Sequence[str]], stdout: IO[str]
) -> Any:
    """Run a job whose settings have `output` and `format`, and give its table the form that is asked for.

    The summary has `output` and `bytes`. Where standard output takes the table, its first line becomes a remark.
    """
    import pyarrow.parquet as pq

    from dnafeat import storage
    from dnafeat.errors import UsageError

    kind = format_of(config.output, config.format, stdout)
    # The job writes Parquet and replaces files: text and special files are made of a table beside.
    if kind == "parquet" and not is_special(config.output):
        return job(config)
    if storage.absolute(config.output) in [storage.absolute(file) for file in inputs()]:
        raise UsageError(f"{config.output} is both input and output: give another --output")
    with tempfile.TemporaryDirectory(prefix="dnafeat-") as folder:
        table = f"{folder}/table.parquet"
        summary = job(config.replace(output=table))
        with (
            storage.reached(config.output),
            written(config.output, stdout) as place,
            pq.ParquetFile(table, page_checksum_verification=True) as parquet,
        ):
            delimiter = {"csv": ",", "tsv": "\t"}.get(kind)

            def write(file: IO[bytes]) -> None:
                if delimiter is not None:
                    rows = write_delimited(file, parquet.iter_batches(), delimiter)
                    if not rows:
                        write_delimited(file, iter([_nothing(parquet.schema_arrow)]), delimiter)
                else:
                    with Path(table).open("rb") as whole:
                        shutil.copyfileobj(whole, file)

            size = storage.write_whole(storage.absolute(place), write)
    summary = replace(summary, output=config.output, bytes=size)
    if config.output != STANDARD:
        return summary
    return Report(document=None, text="", remarks=(form(summary).partition("\n")[0],))


def _nothing(schema: Any) -> Any:
    """A batch without rows, for a header alone."""
    import pyarrow as pa

    return pa.RecordBatch.from_pylist([], schema=schema)


def benchmark(config: BenchmarkConfig) -> Report:
    """`dnafeat benchmark`."""
    from dnafeat.bench.job import benchmark, format_table

    rows = benchmark(config)
    return Report(document=[row.to_dict() for row in rows], text=format_table(rows, config))
