"""Commands that watch runs: the part of the table that looks at a run beside others, and at a version as a page."""

from __future__ import annotations

from dnafeat.cli.command import Command

WATCHING: tuple[Command, ...] = (
    Command(
        name="monitor",
        group="look",
        summary="compare a run with the history of its source",
        settings="dnafeat.cli.config:MonitorConfig",
        job="dnafeat.cli.stores:monitor",
        form="dnafeat.store.monitor:format_monitoring",
        examples=("monitor --store ./store", "monitor --store ./store --run 2026-11-21 --json"),
        about="Tests counts, lengths, GC, letters at the ends, pairs of letters, keys, norms and directions of vectors against up to 30 "
        "earlier runs. Sees shifts of their distributions, not single entries; composition hides reverse complements of a whole genome, "
        "which show where ids or sequences return. Not seen: vectors of sequences that the store had already, and less than a few "
        "per cent of the entries.",
        needs=("scipy",),
    ),
    Command(
        name="report",
        group="look",
        summary="write an HTML page about a version",
        settings="dnafeat.report.config:ReportConfig",
        job="dnafeat.report.job:write_page",
        form="dnafeat.report.job:describe_page",
        examples=("report --store ./store --output report.html", "report --store ./store --color-by label --output report.html"),
        about="One file that loads nothing from elsewhere. Figures of vectors show a random sample of 2,000 entries, and name them.",
        needs=("scipy", "matplotlib", "jinja2"),
    ),
)
