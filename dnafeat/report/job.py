"""`dnafeat report`: numbers and figures into one HTML file."""

from __future__ import annotations

import math
from dataclasses import dataclass
from pathlib import Path

from dnafeat import storage
from dnafeat.errors import StoreError, one_line
from dnafeat.report.config import ReportConfig
from dnafeat.report.facts import Facts, facts
from dnafeat.store import Store
from dnafeat.store.history import second
from dnafeat.text import human_bytes


@dataclass(frozen=True, kw_only=True)
class WrittenPage:
    """A page that was written.

    Attributes
    ----------
    output, version, run_id : str
    entries, sampled, bytes : int
    """

    output: str
    version: str
    run_id: str
    entries: int
    sampled: int
    bytes: int


def write_page(config: ReportConfig) -> WrittenPage:
    """Write a page about a version.

    Raises
    ------
    UsageError
        No entry has the key.
    StoreError
        Something that was asked for is not there, or the output cannot be written.
    """
    found = facts(Store(config.store), config.version, against=config.against, run=config.run, color_by=config.color_by)
    text = rendered(found).encode()
    try:
        with storage.reached(config.output):
            size = storage.write_whole(storage.absolute(config.output), lambda file: file.write(text))
    except OSError as error:
        raise StoreError(f"{config.output} cannot be written: {one_line(error)}") from error
    return WrittenPage(
        output=config.output,
        version=found.version,
        run_id=found.run["run_id"],
        entries=found.entries,
        sampled=len(found.ids),
        bytes=size,
    )


def rendered(found: Facts) -> str:
    """The page: everything from the store is escaped by the template."""
    from jinja2 import Environment, FileSystemLoader, StrictUndefined

    from dnafeat.report import figures

    template = Environment(loader=FileSystemLoader(Path(__file__).parent), autoescape=True, undefined=StrictUndefined)
    return template.get_template("page.html").render(
        facts=found,
        about=_about(found),
        sizes=[figures.bars(found.bases, "length in bases"), figures.bars(found.tokens, "tokens")],
        norms=[figures.bars(found.norms, f"norm of {found.vector}"), figures.shares(found.shares)],
        points=figures.points(found.places, found.ids, found.groups),
        legend=figures.colours(found.groups),
        history=figures.history(found.runs),
        told=not math.isnan(found.neighbourhood.agreement),
    )


def _about(found: Facts) -> list[tuple[str, str]]:
    run, lineage = found.run, found.lineage
    shown = {name: lineage.get(name) for name in ("model", "adapter", "precision")}
    return [
        *((name, str(value)) for name, value in shown.items() if value),
        ("run", f"{run['run_id']}, number {run['run_number']}, finished {second(run['finished_at'])}"),
        ("source", run["source_name"]),
        ("keys", ", ".join(found.keys) or "none"),
        ("entries", f"{run['read']:,} read, {run['rejected']:,} rejected, {run['opened']:,} opened, {run['closed']:,} closed"),
        ("sequences", f"{run['distinct']:,} distinct, {run['already_stored']:,} stored before, {run['encoded']:,} encoded"),
        ("written", f"{run['files']:,} files, {human_bytes(run['bytes'])}"),
        ("time", f"{run['seconds']:,.1f} s"),
    ]


def describe_page(page: WrittenPage) -> str:
    """What was written, in a line."""
    of = (
        f"{page.entries:,} entries"
        if page.sampled == page.entries
        else f"a sample of {page.sampled:,} of {page.entries:,} entries"
    )
    return f"report of version {page.version} over {of} in {page.output} ({human_bytes(page.bytes)})"
