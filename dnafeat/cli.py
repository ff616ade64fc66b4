"""The `dnafeat` command: parse, call, print. One sentence on standard error for anything a user can mend, and its exit code."""

from __future__ import annotations

import argparse
import contextlib
import json
import sys
import warnings
from collections.abc import Callable, Sequence
from dataclasses import asdict
from typing import IO, TYPE_CHECKING, Any, TypeVar

from dnafeat import config as configs
from dnafeat.errors import DnafeatError, DnafeatWarning
from dnafeat.finetuneconfig import FinetuneConfig
from dnafeat.nightlyconfig import NightlyConfig
from dnafeat.predictconfig import PredictConfig

if TYPE_CHECKING:
    from dnafeat.embed import Summary


T = TypeVar("T")
# What `pip install dnafeat` leaves out because reading does not need it.
_JOB_PACKAGES = (
    "huggingface_hub",
    "matplotlib",
    "peft",
    "ray",
    "safetensors",
    "scipy",
    "sklearn",
    "tokenizers",
    "torch",
    "tqdm",
    "transformers",
)


def main(arguments: Sequence[str] | None = None) -> int:
    """Runs one command. Exit codes: 0 done, 1 refused by --strict, 2 the command or its input is wrong, 3 overtaken by other
    commits, 4 the audit failed, 5 workers failed, 6 storage cannot be reached or is full, 130 interrupted."""
    parser = _parser()
    options = parser.parse_args(arguments)
    return guarded(lambda: options.run(options))


def guarded(run: Callable[[], int]) -> int:
    """Calls a job and turns its errors into one sentence and an exit code."""
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("always", DnafeatWarning)
            warnings.showwarning = _show  # type: ignore[assignment]
            return run()
    except DnafeatError as error:
        print(f"dnafeat: {error}", file=sys.stderr)
        return error.exit_code
    except ModuleNotFoundError as error:
        if error.name not in _JOB_PACKAGES:
            raise
        print(f"dnafeat: this command needs {error.name}: pip install 'dnafeat[jobs]'", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print("dnafeat: interrupted; send the same command again", file=sys.stderr)
        return 130
    except BrokenPipeError:
        return 141


def _show(message: Warning | str, category: type[Warning], filename: str, lineno: int, *_: object) -> None:
    """Our own warnings as a sentence, others as Python shows them."""
    place = "" if issubclass(category, DnafeatWarning) else f"{filename}:{lineno}: {category.__name__}: "
    print(f"{place or 'dnafeat: '}{message}", file=sys.stderr)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="dnafeat", description="A DNA feature store filled by jobs on Ray.")
    commands = parser.add_subparsers(metavar="COMMAND", required=True)

    _job(
        commands,
        "embed",
        configs.EmbedConfig,
        run_embed,
        "embed sequences into a store",
        "Embeds what a store does not have yet.",
    )
    _job(
        commands,
        "nightly",
        NightlyConfig,
        run_nightly,
        "embed what is new, and move a channel when all is well",
        "Embeds what is new in a source, and points a channel at the version when nothing would be missing there.",
    )
    _job(
        commands,
        "finetune",
        FinetuneConfig,
        run_finetune,
        "fine-tune an encoder on labelled sequences",
        "Trains an encoder with a head, and measures it.",
    )
    _job(
        commands,
        "predict",
        PredictConfig,
        run_predict,
        "predict labels with what finetune wrote",
        "Writes labels and probabilities of sequences to a Parquet file.",
    )

    read = commands.add_parser("read", help="write a version's vectors to a Parquet file")
    _store(read)
    read.add_argument("--version", metavar="V", help="version or channel (default: production, or the only version)")
    read.add_argument("--columns", metavar="C,…", help="vectors and other columns, with commas (default: all stored vectors)")
    read.add_argument("--source", metavar="NAME", help="entries of this source only")
    read.add_argument(
        "--as-of",
        metavar="WHEN",
        help="the state as of a run (its id or number) or a time in UTC, such as 2026-11-20, whose end it is",
    )
    read.add_argument("--output", metavar="FILE", required=True, help="Parquet file to write")
    read.set_defaults(run=_read)

    versions = commands.add_parser("versions", help="list a store's versions")
    _store(versions)
    versions.add_argument("--json", action="store_true", help="one JSON array on standard output")
    versions.set_defaults(run=_versions)

    runs = commands.add_parser("runs", help="list a store's runs, newest first")
    _store(runs)
    runs.add_argument("--json", action="store_true", help="one JSON array on standard output")
    runs.set_defaults(run=_runs)

    diff = commands.add_parser(
        "diff",
        help="compare the vectors of two versions",
        description="Compares vectors on the sequences that two versions have.",
    )
    _store(diff)
    diff.add_argument("versions", metavar="VERSION", nargs=2, help="version or channel")
    diff.add_argument("--json", action="store_true", help="one JSON object on standard output")
    diff.set_defaults(run=_diff)

    rollback = commands.add_parser(
        "rollback",
        help="withdraw a published run",
        description="Withdraws a run: readers see its source as it was in the run before it. A run that is withdrawn already is left so.",
    )
    _store(rollback)
    rollback.add_argument("run_id", metavar="RUN_ID", help="as `dnafeat runs` lists it")
    rollback.set_defaults(run=_rollback)

    publish = commands.add_parser("publish", help="point a channel at a version")
    _store(publish)
    publish.add_argument("--version", metavar="V", required=True, help="version, or the beginning of one")
    publish.add_argument("--channel", metavar="NAME", default="production", help="default: production")
    publish.set_defaults(run=_publish)

    maintain = commands.add_parser("maintain", help="merge a store's small files and delete what it does not need any more")
    _store(maintain)
    maintain.add_argument("--dry-run", action="store_true", help="change nothing and say what would be done")
    maintain.add_argument("--json", action="store_true", help="one JSON object on standard output")
    maintain.set_defaults(run=_maintain)

    forget = commands.add_parser("forget", help="take a subject out of a store")
    _store(forget)
    forget.add_argument(
        "--where", metavar="COLUMN=VALUE", action="append", default=[], help="entries to forget; given again, both must hold"
    )
    forget.add_argument("--json", action="store_true", help="one JSON object on standard output")
    forget.set_defaults(run=_forget)

    models = commands.add_parser("models", help="list the encoder architectures, and what was tested")
    models.set_defaults(run=_models)

    info = commands.add_parser(
        "model-info", help="describe a model and check its weights", description="Checks a model's weights and describes it."
    )
    info.add_argument(
        "name", metavar="NAME_OR_FOLDER", help="bundled encoder, folder, s3:// prefix, hub name, or folder of an adapter"
    )
    info.add_argument("--adapter", metavar="TEXT", help="LoRA adapter in PEFT's format, put on it")
    info.add_argument("--json", action="store_true", help="one JSON object on standard output")
    info.set_defaults(run=_model_info)

    demo = commands.add_parser("demo", help="embed the bundled sequences and look at the result")
    demo.add_argument("--store", metavar="URI", default="demo-store", help="default: ./demo-store")
    demo.set_defaults(run=_demo)
    return parser


def _job(
    commands: Any,
    name: str,
    config: type[configs.Settings],
    run: Callable[[argparse.Namespace], int],
    help: str,
    description: str,
) -> None:
    """A command whose flags are the fields of a configuration."""
    parser = commands.add_parser(name, help=help, description=description)
    configs.add_options(parser, config)
    parser.add_argument("--json", action="store_true", help="end with one JSON object on standard output")
    parser.set_defaults(run=run)


def _store(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--store", metavar="URI", required=True, help="folder or s3:// prefix of the store")


def _on_ray(job: Callable[[], T]) -> T:
    """Runs a job and leaves the Ray it started.

    Ray tells of workers that died on standard output, and from a thread: what a script reads there is the summary alone.
    """
    from dnafeat.cluster import stop_ray

    with contextlib.redirect_stdout(sys.stderr):
        try:
            return job()
        finally:
            stop_ray()


def run_embed(options: argparse.Namespace) -> int:
    from dnafeat.embed import embed

    config = configs.EmbedConfig.load(options.config, configs.given(options, configs.EmbedConfig))
    summary = _on_ray(lambda: embed(config))
    if options.json:
        print(json.dumps(asdict(summary)))
    else:
        print(describe_run(summary))
    return 0


def run_nightly(options: argparse.Namespace) -> int:
    from dnafeat.nightly import describe_channel, nightly

    config = NightlyConfig.load(options.config, configs.given(options, NightlyConfig))
    night = _on_ray(lambda: nightly(config))
    print(json.dumps(asdict(night)) if options.json else f"{describe_run(night)}\n{describe_channel(night)}")
    return 0


def run_finetune(options: argparse.Namespace) -> int:
    from dnafeat.finetune import finetune, format_result

    config = FinetuneConfig.load(options.config, configs.given(options, FinetuneConfig))
    about = _on_ray(lambda: finetune(config))
    print(json.dumps({**about, "artifact": config.output}) if options.json else format_result(about, config.output))
    return 0


def run_predict(options: argparse.Namespace) -> int:
    from dnafeat.predict import format_summary, predict

    config = PredictConfig.load(options.config, configs.given(options, PredictConfig))
    summary = _on_ray(lambda: predict(config))
    print(json.dumps(asdict(summary)) if options.json else format_summary(summary))
    return 0


def describe_run(summary: Summary) -> str:
    """The summary of a run in a few lines, and the next command to try."""
    s = summary
    if s.already_published:
        head = f"run {s.run_id} is published already, from the same source and configuration: nothing to do"
    elif s.encoded:
        head = f"run {s.run_id}: {s.encoded:,} sequences encoded in {s.seconds:.1f} s"
    else:
        head = f"run {s.run_id}: nothing to encode, every vector is there already ({s.seconds:.1f} s)"
    lines = [head, ""]
    lines.append(f"  source   {s.source_name}")
    lines.append(f"  entries  {s.read:,} read, {s.rejected:,} rejected, {s.opened:,} new or changed, {s.closed:,} closed")
    salvaged = f", {s.salvaged:,} taken from a run that had ended" if s.salvaged else ""
    lines.append(f"  distinct {s.distinct:,} sequences, {s.already_stored:,} already there{salvaged}, {s.encoded:,} encoded")
    if s.encoded:
        rate = f"{s.sequences_per_second:,.1f} sequences/s, {s.tokens_per_second:,.0f} tokens/s, {100 * s.padding_share:.1f} % padding"
        lines.append(f"  encoder  {rate}")
        lines.append(f"  written  {s.files:,} files, {s.bytes / 1e6:,.1f} MB")
    if s.seconds >= 60:
        lines.append(f"  time     {', '.join(f'{stage} {seconds:,.1f} s' for stage, seconds in s.stages.items())}")
    if s.windowed or s.truncated:
        lines.append(f"  long     {s.windowed:,} sequences in several windows, {s.truncated:,} truncated")
    if s.rejected:
        lines.append(f"  rejects  table rejects of the store, run_id {s.run_id}")
    lines.append(f"  version  {s.feature_version} in {s.store}")
    lines += ["", f"next: dnafeat read --store {s.store} --version {s.feature_version} --output vectors.parquet"]
    return "\n".join(lines)


def _read(options: argparse.Namespace) -> int:
    import itertools

    import pyarrow.parquet as pq

    from dnafeat import storage
    from dnafeat.errors import StoreError, one_line
    from dnafeat.store import Store

    columns = [name.strip() for name in options.columns.split(",") if name.strip()] if options.columns else None
    batches = Store(options.store).scan(options.version, columns, options.source, options.as_of)
    first = next(batches)
    rows = 0

    def write(file: IO[bytes]) -> None:
        nonlocal rows
        with pq.ParquetWriter(file, first.schema, compression="zstd", compression_level=1) as writer:
            for batch in itertools.chain([first], batches):
                writer.write_batch(batch)
                rows += len(batch)

    try:
        size = storage.write_whole(storage.absolute(options.output), write)
    except OSError as error:
        raise StoreError(f"{options.output} cannot be written: {one_line(error)}") from error
    print(f"{rows:,} rows with {', '.join(first.schema.names)} in {options.output} ({size / 1e6:,.1f} MB)")
    return 0


def _versions(options: argparse.Namespace) -> int:
    from dnafeat.store import Store

    rows = Store(options.store).versions().to_pylist()
    if options.json:
        print(json.dumps(rows, default=str))
        return 0
    print(format_versions(rows))
    return 0


def format_versions(rows: list[dict]) -> str:
    """Versions as a small table."""
    lines = [f"{'version':<17} {'entries':>9}  {'precision':<9} {'channels':<12} model"]
    for row in rows:
        model = row["model"] + (f" + {row['adapter']}" if row["adapter"] else "")
        channels = ",".join(row["channels"]) or "-"
        lines.append(f"{row['feature_version']:<17} {row['sequences']:>9,}  {row['precision']:<9} {channels:<12} {model}")
    return "\n".join(lines)


def _runs(options: argparse.Namespace) -> int:
    from dnafeat.history import format_runs
    from dnafeat.store import Store

    rows = Store(options.store).history().listing()
    print(json.dumps(rows, default=str) if options.json else format_runs(rows))
    return 0


def _diff(options: argparse.Namespace) -> int:
    from dnafeat.drift import diff, format_drift
    from dnafeat.store import Store

    drift = diff(Store(options.store), *options.versions)
    print(json.dumps(asdict(drift)) if options.json else format_drift(drift))
    return 0


def _rollback(options: argparse.Namespace) -> int:
    from dnafeat.rollback import format_rollback, rollback
    from dnafeat.store import Store

    print(format_rollback(rollback(Store(options.store), options.run_id)))
    return 0


def _publish(options: argparse.Namespace) -> int:
    from dnafeat.store import Store

    version = Store(options.store).point(options.channel, options.version)
    print(f"channel {options.channel} points at version {version}")
    return 0


def _maintain(options: argparse.Namespace) -> int:
    from dnafeat.maintain import format_summary, maintain
    from dnafeat.store import Store

    summary = maintain(Store(options.store), dry_run=options.dry_run)
    print(json.dumps(asdict(summary)) if options.json else format_summary(summary))
    return 0


def _forget(options: argparse.Namespace) -> int:
    from dnafeat.forget import forget, format_summary, parse
    from dnafeat.store import Store

    summary = forget(Store(options.store), parse(options.where))
    print(json.dumps(asdict(summary)) if options.json else format_summary(summary))
    return 0


def _models(options: argparse.Namespace) -> int:
    from dnafeat.modelinfo import format_families

    print(format_families())
    return 0


def _model_info(options: argparse.Namespace) -> int:
    from dnafeat.modelinfo import format_info, model_info

    info = model_info(configs.EncodingConfig(model=options.name, adapter=options.adapter))
    print(json.dumps(asdict(info)) if options.json else format_info(info))
    return 0


def _demo(options: argparse.Namespace) -> int:
    from dnafeat.demo import demo

    demo(options.store)
    return 0
