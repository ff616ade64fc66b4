"""Retention of replaced and abandoned files."""

from __future__ import annotations

from datetime import timedelta

RETENTION = timedelta(days=7)
"""How long replaced files stay for readers of older snapshots."""

# What no commit has named for so long is abandoned: `maintain` removes it. Salvage takes only what is younger than half of it, so
# that nothing it counts on is removed before it is committed.
ABANDONED_AFTER = timedelta(days=7)
