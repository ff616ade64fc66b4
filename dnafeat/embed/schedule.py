"""A night: brings one source into the store under one version, and moves a channel there once nothing would be missing for its readers."""

from __future__ import annotations

import logging
from collections.abc import Callable
from dataclasses import asdict, dataclass

from dnafeat.embed.config import NightlyConfig
from dnafeat.embed.job import embed
from dnafeat.embed.report import RunSummary, describe_run
from dnafeat.errors import ForgottenError
from dnafeat.store import Store
from dnafeat.store.channels import move
from dnafeat.store.monitor import Gate

_log = logging.getLogger(__name__)

# Somebody who forgets subjects all night long should not keep the run from ending.
_READINGS = 3


@dataclass(frozen=True, kw_only=True)
class Night(RunSummary):
    """The summary of the run, and what became of the channel.

    Attributes
    ----------
    channel : str
    channel_version : str | None
        What it points at now.
    channel_moved : bool
    channel_waits_for : tuple of str
        Sources that the channel's version has and the new one lacks: until they are filled, too, the channel stays.
    report : str | None
        Where a page about the run is.
    """

    channel: str
    channel_version: str | None
    channel_moved: bool
    channel_waits_for: tuple[str, ...]
    report: str | None = None

    def __repr__(self) -> str:
        page = f"\nreport in {self.report}" if self.report else ""
        return f"{describe_run(self)}\n{describe_channel(self)}{page}"


def nightly(config: NightlyConfig, *, show: bool = True, say: Callable[[str], None] = _log.info) -> Night:
    """Embeds what is new, and moves the channel when all is well.

    A new model, adapter, pooling or window is a new version, filled beside the old one. Nothing that fails (a check of the audit, a
    worker, storage) moves the channel.

    Parameters
    ----------
    config : NightlyConfig
    show : bool
        Whether to draw progress on standard error.
    say : callable
        Takes a sentence about what is going on.

    Raises
    ------
    DnafeatError
        As `embed`.
    HeldError
        With `gate`, statistics of the run moved against earlier ones: the channel stays.
    """
    gate = Gate(Store(config.embed.store), config.channel, config.alarm_rate) if config.gate else None
    settings = config.embed
    if config.accept is not None:
        Gate(Store(config.embed.store), config.channel).accept(config.accept)
        settings = settings if settings.run_id is not None else settings.replace(run_id=config.accept)
    for reading in range(_READINGS):
        try:
            summary = embed(settings, show=show, gate=gate)
            break
        except ForgottenError as error:
            if reading == _READINGS - 1:
                raise
            say(f"{error}; reading it again")
    if gate is not None:
        gate.after(summary.run_id)
    done = move(Store(config.embed.store), config.channel, summary.feature_version)
    return Night(
        **asdict(summary),
        channel=config.channel,
        channel_version=done.version,
        channel_moved=done.moved,
        channel_waits_for=done.waits_for,
    )


def describe_channel(night: Night) -> str:
    """What became of the channel, in a sentence."""
    if night.channel_moved:
        return f"channel {night.channel} points at version {night.channel_version} now"
    if night.channel_waits_for:
        missing = ", ".join(night.channel_waits_for)
        return (
            f"channel {night.channel} stays at version {night.channel_version}, which also has {missing}: run those under the new version, "
            f"or move it with `dnafeat publish`"
        )
    if night.channel_version != night.feature_version:
        return f"channel {night.channel} stays at version {night.channel_version}: the run was withdrawn meanwhile"
    return f"channel {night.channel} points at this version already"
