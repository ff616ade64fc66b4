"""Settings of `dnafeat report`."""

from __future__ import annotations

from dataclasses import dataclass

from dnafeat.settings import Settings, option, require


@dataclass(frozen=True, kw_only=True)
class ReportConfig(Settings, section="input"):
    """Settings of `dnafeat report`."""

    store: str = option("folder or s3:// prefix of the store", env="DNAFEAT_STORE")
    version: str | None = option("version, name or channel (default: production, or the only version)", None)
    against: str | None = option("another version, name or channel to compare the vectors of the same sequences with", None)
    run: str | None = option("a run's version and source, as of it; in place of --version", None)
    color_by: str | None = option("key that colours the map and is told by neighbours (default: the length)", None)
    output: str = option("HTML file to write, local or s3://", section="output")

    def check(self) -> None:
        require(self.version is None or self.run is None, "run says which version is shown: leave out version")
