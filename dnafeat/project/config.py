"""Settings of `dnafeat fit-projector` and `dnafeat project`."""

from __future__ import annotations

from dataclasses import dataclass

from dnafeat.embed.config import check_run_id
from dnafeat.settings import Settings, option, require
from dnafeat.vectors import Step, check_view


@dataclass(frozen=True, kw_only=True)
class FitProjectorConfig(Settings, section="input"):
    """Settings of `dnafeat fit-projector` and `jobs/fit_projector.py`."""

    output: str = option(
        "artifact to write: folder or s3:// prefix, which embed and project accept as --projector", section="output"
    )
    map: str = option(
        "pca; random@SEED, which is untrained; or an artifact, whose own steps stay between --before and --after",
        "pca",
        section="training",
    )
    view: str | None = option(
        "input vectors: cls, mean or max, several joined by + (default: those of the artifact, or mean)", None, section="training"
    )
    before: tuple[Step, ...] = option("steps before the map, with commas", (), section="training")
    after: tuple[Step, ...] = option("steps after the map, with commas", (), section="training")
    whiten: bool = option("scale every principal component to variance 1", False, section="training")
    store: str | None = option(
        "feature store with the training entries, where something is fitted: folder or s3:// prefix", None, env="DNAFEAT_STORE"
    )
    version: str | None = option(
        "version, name or channel with the vectors of the entries (default: production, or the only version)", None
    )
    train: str | None = option(
        "file that lists the training entries: one value of --train-by a line, or a CSV or TSV with a column of that name", None
    )
    train_by: str = option("column whose values --train lists: sequence_id, or a key such as subject_id", "sequence_id")
    where: tuple[str, ...] = option(
        "COLUMN=VALUE: fit on entries with this key or sequence_id; repeat a column for either value, other columns for both conditions",
        (),
        repeated=True,
    )
    source: str | None = option("fit on entries of this source", None)
    salt_file: str | None = option(
        "file with the salt of the hashed keys: values of --train and --where are hashed with it", None, section="privacy"
    )

    def check(self) -> None:
        if self.view is not None:
            check_view(self.view)
        require(bool(self.map), "map is empty: give pca, random@SEED, or an artifact")
        require(not self.whiten or self.map == "pca", f"whiten is for principal components, and map is {self.map}")
        fits = self.map == "pca" or "zscore" in (*self.before, *self.after)
        named = self.train is not None or bool(self.where) or self.source is not None
        require(
            not fits or (self.store is not None and named),
            "statistics are fitted only on named training entries: give --store, and name the entries by --train, --where or --source",
        )
        require(
            fits or not named,
            "training entries are named and nothing is fitted: leave out --train, --where and --source, or ask for zscore or pca",
        )
        require(
            not self.map.startswith("random@") or self.store is not None,
            f"{self.map} has no input width: give --store and --version of the vectors that it will project",
        )
        require(self.salt_file is None or named, "salt_file is for the values of --train and --where: give one of them")


@dataclass(frozen=True, kw_only=True)
class ProjectConfig(Settings, section="input"):
    """Settings of `dnafeat project` and `jobs/project.py`."""

    store: str = option("feature store: folder or s3:// prefix", env="DNAFEAT_STORE")
    projector: str = option("projection to 512 dimensions: an artifact of fit-projector, finetune or align, or random@SEED")
    version: str | None = option(
        "version, name or channel whose vectors are projected (default: production, or the only version)", None
    )
    source: str | None = option("project entries of this source only (default: all sources of the version)", None)
    name: str | None = option("name of the new version, such as lambda-pca", None, section="output")
    run_id: str | None = option(
        "name of the run; with several sources a digest of the source is appended (default: the time and a random part)",
        None,
        section="output",
    )
    shard_rows: int | None = option("sequences per file (default: files up to 128 MiB)", None, section="advanced", ge=1)

    def check(self) -> None:
        check_run_id(self.run_id)
