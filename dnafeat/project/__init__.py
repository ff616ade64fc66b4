"""Fit projections, and apply them to stored vectors."""

from __future__ import annotations

from typing import TYPE_CHECKING

from dnafeat.lazy import hand_out

if TYPE_CHECKING:
    from dnafeat.project.config import FitProjectorConfig as FitProjectorConfig
    from dnafeat.project.config import ProjectConfig as ProjectConfig
    from dnafeat.project.fit import fit_projector as fit_projector
    from dnafeat.project.job import project as project

_PUBLIC = {
    "FitProjectorConfig": "dnafeat.project.config",
    "ProjectConfig": "dnafeat.project.config",
    "fit_projector": "dnafeat.project.fit",
    "project": "dnafeat.project.job",
}
__all__ = sorted(_PUBLIC)
__getattr__, __dir__ = hand_out(__name__, _PUBLIC)
