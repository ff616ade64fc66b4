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
from dnafeat.alignconfig import AlignConfig, ApplyConfig
from dnafeat.benchmarkconfig import BenchmarkConfig
from dnafeat.errors import DnafeatError, DnafeatWarning
from dnafeat.finetuneconfig import FinetuneConfig
from dnafeat.joinconfig import JoinConfig
from dnafeat.nightlyconfig import NightlyConfig
from dnafeat.partnerconfig import PartnerConfig
from dnafeat.predictconfig import PredictConfig
from dnafeat.projectconfig import FitProjectorConfig, ProjectConfig

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

    _job(
        commands,
        "join",
        JoinConfig,
        run_join,
        "join vectors with those of other modalities",
        "Joins a version's vectors with brain-imaging vectors, or others, on a key such as subject_id, into a Delta table.",
    )

    _job(
        commands,
        "fit-projector",
        FitProjectorConfig,
        run_fit_projector,
        "make a map to 512 dimensions: principal components, normalisation",
        "Makes a projection from steps and a map, statistics fitted on named training entries alone, for --projector.",
    )

    _job(
        commands,
        "project",
        ProjectConfig,
        run_project,
        "make a version with another projection of stored vectors",
        "Projects the vectors of a version anew: a child version, of which only projected is written. Nothing is encoded.",
    )

    _job(
        commands,
        "partner",
        PartnerConfig,
        run_partner,
        "make a table of brain-imaging embeddings",
        "Makes a table that join reads of what BrainLM, BrainMT, SwiFT or others have left in files; schemas/PARTNERS.md says how.",
    )

    _job(
        commands,
        "align",
        AlignConfig,
        run_align,
        "bring DNA and another modality to one space",
        "Trains projectors of DNA and of another modality to one space of 512 dimensions, and measures them on held-out subjects.",
    )
    _job(
        commands,
        "align-apply",
        ApplyConfig,
        run_align_apply,
        "bring subjects to the space of an alignment",
        "Writes the vectors of a joined table's subjects in the space of an alignment, with what was fitted when it was trained.",
    )

    lineage = commands.add_parser(
        "lineage", help="say what a joined table was made of", description="Says what a joined table was made of, as JSON."
    )
    lineage.add_argument("table", metavar="URI", help="folder or s3:// prefix that `dnafeat join` wrote")
    lineage.add_argument("--table-version", metavar="N", type=int, help="version of the table (default: the newest)")
    lineage.set_defaults(run=_lineage)

    read = commands.add_parser("read", help="write a version's vectors to a Parquet file")
    _store(read)
    _selection(read)
    read.add_argument("--output", metavar="FILE", required=True, help="Parquet file to write")
    read.set_defaults(run=_read)

    export = commands.add_parser("export", help="write a version as plain Parquet files that never change")
    _store(export)
    _selection(export)
    export.add_argument("--output", metavar="FOLDER", required=True, help="folder or s3:// prefix, empty or not there yet")
    export.add_argument("--json", action="store_true", help="one JSON object on standard output")
    export.set_defaults(run=_export)

    files = commands.add_parser(
        "files",
        help="list the files of a table, for readers that know no Delta",
        description="Lists the files that make up a table just now. They stay for a week after they are replaced, unless a subject is "
        "forgotten meanwhile.",
    )
    _store(files)
    files.add_argument(
        "--table", metavar="NAME", default="features", help="features (default), sequences, versions, rejects, runs"
    )
    files.add_argument("--version", metavar="V", help="of features: this version, name or channel only")
    files.add_argument("--json", action="store_true", help="with rows and sizes, as one JSON object")
    files.add_argument("--output", metavar="FILE", help="write the list there")
    files.set_defaults(run=_files)

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

    publish = commands.add_parser("publish", help="point a channel at a version, or name it for good")
    _store(publish)
    publish.add_argument("--version", metavar="V", help="version, name or channel (default: production, or the only version)")
    publish.add_argument("--channel", metavar="NAME", help="point this channel at it (default without --name: production)")
    publish.add_argument(
        "--name", metavar="NAME", help="give it a name that never moves: promoter-lora@3, or promoter-lora for the next number"
    )
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
    forget.add_argument(
        "--salt-file",
        metavar="FILE",
        help="the salt under which keys were hashed: values are hashed likewise, but for source_name",
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
    info.add_argument(
        "--projector", metavar="TEXT", help="map to 512 dimensions: an artifact, or random@SEED (default: as embed)"
    )
    info.add_argument("--json", action="store_true", help="one JSON object on standard output")
    info.set_defaults(run=_model_info)

    _job(
        commands,
        "benchmark",
        BenchmarkConfig,
        run_benchmark,
        "measure how fast this machine encodes, beside its limits and other ways",
        "Measures encoder, pipeline, planning and reading beside limits and peers on this machine, and holds them against targets.",
    )

    demo = commands.add_parser("demo", help="embed the bundled sequences and look at the result")
    demo.add_argument("--store", metavar="URI", default="demo-store", help="default: ./demo-store")
    demo.set_defaults(run=_demo)

    example = commands.add_parser("demo-align", help="align a made-up cohort around real genes, and find what was planted in it")
    example.add_argument("--folder", metavar="FOLDER", default="demo-align", help="default: ./demo-align")
    example.set_defaults(run=_demo_align)
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


def _selection(parser: argparse.ArgumentParser) -> None:
    """What of a store is read."""
    parser.add_argument("--version", metavar="V", help="version, name or channel (default: production, or the only version)")
    parser.add_argument("--columns", metavar="C,…", help="vectors and other columns, with commas (default: all stored vectors)")
    parser.add_argument("--source", metavar="NAME", help="entries of this source only")
    parser.add_argument(
        "--where",
        metavar="COLUMN=VALUE",
        action="append",
        default=[],
        help="entries with this key (or sequence_id) only; again with the same column: either value, with another: both must hold",
    )
    parser.add_argument(
        "--as-of",
        metavar="WHEN",
        help="the state as of a run (its id or number) or a time in UTC, such as 2026-11-20, whose end it is",
    )
    parser.add_argument(
        "--run",
        dest="run_id",
        metavar="RUN_ID",
        help="a run's version and source, as of it; in place of --version, --source, --as-of",
    )


def _selected(options: argparse.Namespace) -> dict[str, Any]:
    """The same as arguments of `Store.read`."""
    from dnafeat.reading import parse_where

    return {
        "version": options.version,
        "columns": [name.strip() for name in options.columns.split(",") if name.strip()] if options.columns else None,
        "source": options.source,
        "as_of": options.as_of,
        "where": parse_where(options.where),
        "run": options.run_id,
    }


def _on_ray(job: Callable[[], T]) -> T:
    """Runs a job and leaves the Ray it started.

    Ray tells of workers that died on standard output, and from a thread: what a script reads there is the summary alone.
    """
    with contextlib.redirect_stdout(sys.stderr):
        try:
            return job()
        finally:
            # A small join does without Ray, which then need not be installed.
            if "ray" in sys.modules:
                from dnafeat.cluster import stop_ray

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


def run_join(options: argparse.Namespace) -> int:
    from dnafeat.join import join
    from dnafeat.joinsummary import format_summary

    config = JoinConfig.load(options.config, configs.given(options, JoinConfig))
    summary = _on_ray(lambda: join(config))
    print(json.dumps(asdict(summary)) if options.json else format_summary(summary))
    return 0


def run_fit_projector(options: argparse.Namespace) -> int:
    from dnafeat.fitprojector import fit_projector, format_summary

    config = FitProjectorConfig.load(options.config, configs.given(options, FitProjectorConfig))
    summary = _on_ray(lambda: fit_projector(config))
    print(json.dumps(asdict(summary)) if options.json else format_summary(summary))
    return 0


def run_project(options: argparse.Namespace) -> int:
    from dnafeat.project import format_summary, project

    config = ProjectConfig.load(options.config, configs.given(options, ProjectConfig))
    summary = _on_ray(lambda: project(config))
    print(json.dumps(asdict(summary)) if options.json else format_summary(summary))
    return 0


def run_align(options: argparse.Namespace) -> int:
    from dnafeat.align import align, format_result

    config = AlignConfig.load(options.config, configs.given(options, AlignConfig))
    about = _on_ray(lambda: align(config))
    print(json.dumps({**about, "artifact": config.output}) if options.json else format_result(about, config.output))
    return 0


def run_align_apply(options: argparse.Namespace) -> int:
    from dnafeat.alignapply import apply, format_applied

    applied = apply(ApplyConfig.load(options.config, configs.given(options, ApplyConfig)))
    print(json.dumps(applied.to_dict()) if options.json else format_applied(applied))
    return 0


def run_partner(options: argparse.Namespace) -> int:
    from dnafeat.partners import format_summary, partner

    summary = partner(PartnerConfig.load(options.config, configs.given(options, PartnerConfig)))
    print(json.dumps(asdict(summary)) if options.json else format_summary(summary))
    return 0


def run_benchmark(options: argparse.Namespace) -> int:
    from dnafeat.benchmark import benchmark, format_table
    from dnafeat.benchrows import to_json

    config = BenchmarkConfig.load(options.config, configs.given(options, BenchmarkConfig))
    rows = benchmark(config)
    print(to_json(rows) if options.json else format_table(rows, config))
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


def _lineage(options: argparse.Namespace) -> int:
    from dnafeat.join import lineage

    print(json.dumps(lineage(options.table, options.table_version), indent=1))
    return 0


def _read(options: argparse.Namespace) -> int:
    import itertools

    import pyarrow.parquet as pq

    from dnafeat import storage
    from dnafeat.errors import StoreError, one_line
    from dnafeat.store import Store

    batches = Store(options.store).scan(**_selected(options))
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


def _export(options: argparse.Namespace) -> int:
    from dnafeat.export import export, format_summary
    from dnafeat.store import Store

    summary = export(Store(options.store), options.output, **_selected(options))
    print(json.dumps(asdict(summary)) if options.json else format_summary(summary))
    return 0


def _files(options: argparse.Namespace) -> int:
    from dnafeat import storage
    from dnafeat.filelist import file_list, format_files
    from dnafeat.store import Store

    listed = file_list(Store(options.store), options.table, options.version)
    text = format_files(listed, options.json)
    if options.output is None:
        print(text)
    else:
        output = storage.absolute(options.output)
        with storage.reached(options.output):
            storage.write_whole(output, lambda file: file.write(f"{text}\n".encode()))
        print(f"{len(listed['files']):,} files of {listed['table']} listed in {options.output}")
    if listed["parent"] is not None:
        told = f"files that lack cls, mean and max have them in those of the version's parent: --version {listed['parent']}"
        print(f"dnafeat: {told}", file=sys.stderr)
    print(f"dnafeat: the list holds until {listed['holds_until']}, unless a subject is forgotten before", file=sys.stderr)
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
    from dnafeat.history import aligned

    table = [["version", "entries", "precision", "names", "channels", "model", "projection"]]
    for row in rows:
        model = row["model"] + (f" + {row['adapter']}" if row["adapter"] else "")
        called = [",".join(row[kind]) or "-" for kind in ("names", "channels")]
        rounding = json.loads(row["lineage"]).get("rounding")
        precision = row["precision"] + (f", rounded to {rounding}" if rounding else "")
        projection = row["projection"] + (f" of {row['parent']}" if row["parent"] else "")
        table.append([row["feature_version"], f"{row['sequences']:,}", precision, *called, model, projection])
    return aligned(table, right={1})


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
    from dnafeat.history import DEFAULT_CHANNEL
    from dnafeat.store import Store

    store = Store(options.store)
    if options.name is not None:
        name, version = store.name(options.name, options.version)
        print(f"{name} is version {version}")
    if options.channel is not None or options.name is None:
        channel = options.channel if options.channel is not None else DEFAULT_CHANNEL
        print(f"channel {channel} points at version {store.point(channel, options.version)}")
    return 0


def _maintain(options: argparse.Namespace) -> int:
    from dnafeat.maintain import format_summary, maintain
    from dnafeat.store import Store

    summary = maintain(Store(options.store), dry_run=options.dry_run)
    print(json.dumps(asdict(summary)) if options.json else format_summary(summary))
    return 0


def _forget(options: argparse.Namespace) -> int:
    from dnafeat.forget import forget, format_summary, hidden, parse
    from dnafeat.store import Store

    where = parse(options.where)
    if options.salt_file:
        where = hidden(where, options.salt_file, options.store)
    summary = forget(Store(options.store), where)
    print(json.dumps(asdict(summary)) if options.json else format_summary(summary))
    return 0


def _models(options: argparse.Namespace) -> int:
    from dnafeat.modelinfo import format_families

    print(format_families())
    return 0


def _model_info(options: argparse.Namespace) -> int:
    from dnafeat.modelinfo import format_info, model_info

    info = model_info(configs.EncodingConfig(model=options.name, adapter=options.adapter, projector=options.projector))
    print(json.dumps(asdict(info)) if options.json else format_info(info))
    return 0


def _demo(options: argparse.Namespace) -> int:
    from dnafeat.demo import demo

    demo(options.store)
    return 0


def _demo_align(options: argparse.Namespace) -> int:
    from dnafeat.demoalign import demo

    with contextlib.ExitStack() as left:
        from dnafeat.cluster import stop_ray

        left.callback(stop_ray)
        demo(options.folder)
    return 0
