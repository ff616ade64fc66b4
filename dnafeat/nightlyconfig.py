"""The configuration of a night: that of embedding, and the channel that follows."""

from __future__ import annotations

from dataclasses import dataclass

from dnafeat.config import EmbedConfig, option, require


@dataclass(frozen=True, kw_only=True)
class NightlyConfig(EmbedConfig):
    """What `dnafeat nightly` and `jobs/nightly.py` do: settings of `EmbedConfig`, and `channel`."""

    channel: str = option(
        "channel that is pointed at the version once it covers all that the channel's present one does", "production"
    )

    def __post_init__(self) -> None:
        super().__post_init__()
        require(bool(self.channel.strip()), "channel has no name: give one, such as production")
