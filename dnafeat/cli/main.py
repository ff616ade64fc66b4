"""The `dnafeat` command: parse, call, print. One sentence on standard error for anything a user can mend, and its exit code."""

from __future__ import annotations

import argparse
import sys
import warnings
from collections.abc import Callable, Sequence
from typing import Any

from dnafeat import settings as configs
from dnafeat.align.config import AlignConfig, ApplyConfig
from dnafeat.bench.config import BenchmarkConfig
from dnafeat.cli.jobs import (
    run_align,
    run_align_apply,
    run_benchmark,
    run_embed,
    run_finetune,
    run_fit_projector,
    run_join,
    run_nightly,
    run_partner,
    run_predict,
    run_pretrain,
    run_project,
)
from dnafeat.cli.options import add_options
from dnafeat.cli.stores import (
    _demo,
    _demo_align,
    _diff,
    _export,
    _files,
    _forget,
    _lineage,
    _maintain,
    _model_info,
    _models,
    _publish,
    _read,
    _rollback,
    _runs,
    _versions,
)
from dnafeat.embed.config import EmbedConfig, NightlyConfig
from dnafeat.errors import DnafeatError, DnafeatWarning
from dnafeat.finetune.config import FinetuneConfig, PredictConfig
from dnafeat.join.config import JoinConfig
from dnafeat.partners.config import PartnerConfig
from dnafeat.pretrain.config import PretrainConfig
from dnafeat.project.config import FitProjectorConfig, ProjectConfig

# What `pip install dnafeat` leaves out because reading does not need it.
_JOB_PACKAGES = (
    "huggingface_hub",
    "matplotlib",
    "packaging",
    "peft",
    "ray",
    "safetensors",
    "scipy",
    "sklearn",
    "threadpoolctl",
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
        EmbedConfig,
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
        "pretrain",
        PretrainConfig,
        run_pretrain,
        "pretrain a DNABERT-2 on FASTA files",
        "Trains an encoder by masked-language modelling, and writes it with a card of what was measured.",
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
    add_options(parser, config)
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
