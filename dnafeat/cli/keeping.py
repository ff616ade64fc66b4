"""Rows of the table of commands that look after a store: what was refused, maintenance, withdrawal, erasure."""

from __future__ import annotations

from dnafeat.cli.command import Command

KEEPING: tuple[Command, ...] = (
    Command(
        name="rejects",
        group="look",
        summary="list refused entries of a store, with reasons counted",
        settings="dnafeat.cli.config:RejectsConfig",
        job="dnafeat.cli.stores:rejects",
        form="dnafeat.store.refusals:format_refusals",
        examples=("rejects --store ./store", "rejects --store ./store --run 2026-11-21 --limit 100 --json"),
        about="Reasons that differ in numbers and names alone are counted together. The texts of refused entries are not shown.",
    ),
    Command(
        name="maintain",
        group="keep",
        summary="merge small files of a store and delete what is not needed",
        settings="dnafeat.cli.config:MaintainConfig",
        job="dnafeat.cli.stores:maintain",
        form="dnafeat.store.maintain:format_summary",
        examples=("maintain --store ./store --dry-run", "maintain --store s3://bucket/store"),
        about="Safe beside runs and readers.",
    ),
    Command(
        name="rollback",
        group="keep",
        summary="withdraw a published run",
        settings="dnafeat.cli.config:RollbackConfig",
        job="dnafeat.cli.stores:rollback",
        form="dnafeat.store.rollback:format_rollback",
        examples=("rollback 2026-11-21 --store ./store --dry-run", "rollback 2026-11-21 --store ./store --and-later --yes"),
        about="Readers see its source as it was in the run before. Later runs have kept what it brought, so that a run that is not the "
        "last of its source is refused without --and-later. A run that is withdrawn already stays so. On a terminal it asks first.",
    ),
    Command(
        name="forget",
        group="keep",
        summary="erase a subject from a store",
        settings="dnafeat.cli.config:ForgetConfig",
        job="dnafeat.cli.stores:forget",
        form="dnafeat.store.erasure:format_summary",
        examples=(
            "forget --store ./store --where subject_id=S17 --dry-run",
            "forget --store ./store --where subject_id=S17 --salt-file salt.txt --yes",
        ),
        about="Erases entries, past ones too, rejects, work shards, and vectors that nobody else has. The next maintain deletes the "
        "replaced files. On a terminal it asks first.",
        reads=("salt_file",),
    ),
)
