"""A page about a version of a store, as one HTML file that needs no network."""

from __future__ import annotations

from typing import TYPE_CHECKING

from dnafeat.lazy import hand_out

if TYPE_CHECKING:
    from dnafeat.report.config import ReportConfig as ReportConfig
    from dnafeat.report.job import write_page as write_page

_PUBLIC = {"ReportConfig": "dnafeat.report.config", "write_page": "dnafeat.report.job"}
__all__ = sorted(_PUBLIC)
__getattr__, __dir__ = hand_out(__name__, _PUBLIC)
