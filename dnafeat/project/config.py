"""The configurations of `dnafeat fit-projector` and `dnafeat project`, from YAML and the command line."""

from __future__ import annotations

import re
from dataclasses import dataclass

from dnafeat.settings import Settings, option, require
from dnafeat.vectors import check_steps, check_view


@dataclass(frozen=True, kw_only=True)
class FitProjectorConfig(Settings):
    """What `dnafeat fit-projector` and `jobs/fit_projector.py` do."""

    output: str = option("folder or s3:// prefix of the artifact, which embed and project take for --projector")
    map: str = option("pca; random@SEED, which is untrained; or an artifact, whose own steps stay between these", "pca")
    view: str | None = option(
        "vectors that it takes: cls, mean, max, with + between several (else those of the artifact, or mean)", None
    )
    before: tuple[str, ...] = option("steps before the map, with commas: l2, layernorm, zscore", ())
    after: tuple[str, ...] = option("steps after it, with commas: l2, layernorm, zscore", ())
    whiten: bool = option("give every principal component variance 1", False)
    store: str | None = option("folder or s3:// prefix of the store with the training entries, where something is fitted", None)
    version: str | None = option("version, name or channel that has their vectors (else production, or the only version)", None)
    train: str | None = option(
        "file that lists the training entries: a value of --train-by a line, or a CSV or TSV with a column of that name", None
    )
    train_by: str = option(
        "column of entries whose values --train lists: sequence_id, or a key such as subject_id", "sequence_id"
    )
    where: tuple[str, ...] = option(
        "COLUMN=VALUE: training entries have this key (or sequence_id); again with the same column: either value, with another: both "
        "must hold",
        (),
        repeated=True,
    )
    source: str | None = option("training entries are of this source", None)
    salt_file: str | None = option(
        "the salt under which keys were hashed: values of --train and --where are hashed likewise", None
    )

    def __post_init__(self) -> None:
        if self.view is not None:
            check_view(self.view)
        check_steps([*self.before, *self.after])
        require(bool(self.map), "map is empty: give pca, random@SEED, or an artifact")
        require(not self.whiten or self.map == "pca", f"whiten is for principal components, and map is {self.map}")
        fits = self.map == "pca" or "zscore" in (*self.before, *self.after)
        named = self.train is not None or bool(self.where) or self.source is not None
        require(
            not fits or (self.store is not None and named),
            "statistics are fitted on named training entries alone: give --store, and name the entries by --train, --where or --source",
        )
        require(
            fits or not named,
            "nothing is fitted here, and entries are named to train on: leave out --train, --where and --source, or ask for zscore or pca",
        )
        require(
            not self.map.startswith("random@") or self.store is not None,
            f"{self.map} has no width of its own: give the --store and --version whose vectors it is to take",
        )
        require(self.salt_file is None or named, "salt_file is for the values of --train and --where: give one of them")


@dataclass(frozen=True, kw_only=True)
class ProjectConfig(Settings):
    """What `dnafeat project` and `jobs/project.py` do."""

    store: str = option("folder or s3:// prefix of the feature store")
    projector: str = option("map to 512 dimensions: an artifact of fit-projector, finetune or align, or random@SEED")
    version: str | None = option(
        "version, name or channel whose vectors are projected (else production, or the only version)", None
    )
    source: str | None = option("entries of this source only (else of all sources of the version)", None)
    name: str | None = option("name to give the new version, such as lambda-pca", None)
    run_id: str | None = option(
        "name of the run, behind which a digest of the source stands where there are several (else the time and a random part)",
        None,
    )
    shard_rows: int | None = option("sequences that a file holds (else as many as make files of up to 128 MiB)", None)

    def __post_init__(self) -> None:
        require(self.shard_rows is None or self.shard_rows >= 1, f"shard_rows {self.shard_rows} is too few: give 1 or more")
        require(
            self.run_id is None or re.fullmatch(r"[A-Za-z0-9_.:-]{1,128}", self.run_id) is not None,
            f"run_id {self.run_id!r} is no name: use letters, digits, '.', '_', ':' and '-', 128 at most",
        )
