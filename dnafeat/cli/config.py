"""Settings of the commands that read or administer a store, and of those that belong to no package."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from dnafeat.settings import Settings, option, part, require

ENVIRONMENT = "DNAFEAT_STORE"


@dataclass(frozen=True, kw_only=True)
class StoreConfig(Settings, section="input"):
    """Which store."""

    store: str = option("folder or s3:// prefix of the store", env=ENVIRONMENT)


@dataclass(frozen=True, kw_only=True)
class SelectionConfig(Settings, section="input"):
    """What of a store is read."""

    version: str | None = option("version, name or channel (default: production, or the only version)", None)
    columns: tuple[str, ...] | None = option("vectors and other columns, with commas (default: all stored vectors)", None)
    source: str | None = option("entries of this source only", None)
    where: tuple[str, ...] = option(
        "entries with this key (or sequence_id) only; again with the same column: either value, with another: both must hold",
        (),
        repeated=True,
    )
    as_of: str | None = option("state as of a run (its id or number) or a time in UTC, such as 2026-11-20, whose end it is", None)
    run: str | None = option("a run's version and source, as of it; in place of --version, --source, --as-of", None)


@dataclass(frozen=True, kw_only=True)
class ReadConfig(Settings, section="output"):
    """`dnafeat read`."""

    place: StoreConfig = part(StoreConfig)
    selection: SelectionConfig = part(SelectionConfig)
    output: str = option("file to write; - is standard output")
    format: Literal["parquet", "csv", "tsv"] | None = option(
        "format of the file (default: by the name's ending, else parquet)", None
    )


@dataclass(frozen=True, kw_only=True)
class ExportConfig(Settings, section="output"):
    """`dnafeat export`."""

    place: StoreConfig = part(StoreConfig)
    selection: SelectionConfig = part(SelectionConfig)
    output: str = option("folder or s3:// prefix, empty or not there yet")


@dataclass(frozen=True, kw_only=True)
class FilesConfig(Settings, section="input"):
    """`dnafeat files`."""

    place: StoreConfig = part(StoreConfig)
    table: str = option("features, sequences, versions, rejects, runs, haplotypes or effects", "features")
    version: str | None = option("of features: this version, name or channel only", None)
    output: str | None = option("write the list there; - is standard output", None, section="output")


@dataclass(frozen=True, kw_only=True)
class SqlConfig(Settings, section="input"):
    """`dnafeat sql`."""

    place: StoreConfig = part(StoreConfig)
    dialect: Literal["duckdb", "polars", "spark"] = option("which tool the statements are for", "duckdb", section="output")


@dataclass(frozen=True, kw_only=True)
class DiffConfig(Settings, section="input"):
    """`dnafeat diff`."""

    versions: tuple[str, ...] = option("two versions, names or channels", positional=True)
    place: StoreConfig = part(StoreConfig)

    def check(self) -> None:
        require(len(self.versions) == 2, f"versions are {len(self.versions)}: name the two to compare")


@dataclass(frozen=True, kw_only=True)
class RollbackConfig(Settings, section="input"):
    """`dnafeat rollback`."""

    run_id: str = option("as `dnafeat runs` lists it", positional=True)
    place: StoreConfig = part(StoreConfig)
    and_later: bool = option("withdraw the later runs of its source under its version, too", False, section="output")
    dry_run: bool = option("change nothing and report what readers would see", False, section="output")
    yes: bool = option("do not ask on a terminal; without a terminal nothing is asked", False, section="output")


@dataclass(frozen=True, kw_only=True)
class RejectsConfig(Settings, section="input"):
    """`dnafeat rejects`."""

    place: StoreConfig = part(StoreConfig)
    run: str | None = option("entries that this run refused, by its id or number (default: all runs)", None)
    limit: int = option("most entries to list; 0 counts reasons alone", 20, section="output", ge=0)


@dataclass(frozen=True, kw_only=True)
class MonitorConfig(Settings, section="input"):
    """`dnafeat monitor`."""

    place: StoreConfig = part(StoreConfig)
    run: str | None = option("run to compare, by its id or number, or one that was held (default: the last published one)", None)
    alarm_rate: float = option("false alarms per run, over all statistics", 1e-3, section="output", gt=0, le=0.5)


@dataclass(frozen=True, kw_only=True)
class PublishConfig(Settings, section="input"):
    """`dnafeat publish`."""

    place: StoreConfig = part(StoreConfig)
    version: str | None = option("version, name or channel (default: production, or the only version)", None)
    channel: str | None = option("point this channel at it (default without --name: production)", None, section="output")
    name: str | None = option(
        "give it a name that never moves: promoter-lora@3, or promoter-lora for the next number", None, section="output"
    )


@dataclass(frozen=True, kw_only=True)
class MaintainConfig(Settings, section="input"):
    """`dnafeat maintain`."""

    place: StoreConfig = part(StoreConfig)
    dry_run: bool = option("change nothing and report what would be done", False, section="output")
    drop_damaged: bool = option(
        "read all files, and take damaged ones out of features, sequences and rejects: the next run of each source makes up for them",
        False,
        section="output",
    )


@dataclass(frozen=True, kw_only=True)
class ForgetConfig(Settings, section="input"):
    """`dnafeat forget`."""

    place: StoreConfig = part(StoreConfig)
    where: tuple[str, ...] = option("entries to erase; given again, both must hold", (), repeated=True)
    salt_file: str | None = option(
        "the salt under which keys were hashed: values are hashed likewise, except source_name", None, section="privacy"
    )
    dry_run: bool = option("change nothing and count what would be erased", False, section="output")
    yes: bool = option("do not ask on a terminal; without a terminal nothing is asked", False, section="output")


@dataclass(frozen=True, kw_only=True)
class LineageConfig(Settings, section="input"):
    """`dnafeat lineage`."""

    table: str = option("folder or s3:// prefix that `dnafeat join` wrote", positional=True)
    table_version: int | None = option("version of the table (default: the newest)", None)


@dataclass(frozen=True, kw_only=True)
class ModelInfoConfig(Settings, section="encoder"):
    """`dnafeat model-info`."""

    name: str = option("bundled encoder, folder, s3:// prefix, hub name, or folder of an adapter", positional=True)
    adapter: str | None = option("LoRA adapter in PEFT's format, merged into the model", None)
    projector: str | None = option("map to 512 dimensions: an artifact, or random@SEED (default: as embed)", None)


@dataclass(frozen=True, kw_only=True)
class NoConfig(Settings):
    """A command without settings."""


@dataclass(frozen=True, kw_only=True)
class DemoConfig(Settings, section="output"):
    """`dnafeat demo`."""

    # Not from the environment: a demo has no business in the store one works with.
    store: str = option("folder or s3:// prefix of the demo's store", "demo-store")


@dataclass(frozen=True, kw_only=True)
class DemoAlignConfig(Settings, section="output"):
    """`dnafeat demo-align`."""

    folder: str = option("folder for cohort, stores and artifacts", "demo-align")


@dataclass(frozen=True, kw_only=True)
class CompletionConfig(Settings, section="input"):
    """`dnafeat completion`."""

    shell: Literal["bash", "zsh", "fish"] = option("shell to write the script for", positional=True)


@dataclass(frozen=True, kw_only=True)
class HelpConfig(Settings, section="input"):
    """`dnafeat help`."""

    command: str | None = option("command to explain (default: list all commands)", None, positional=True)
