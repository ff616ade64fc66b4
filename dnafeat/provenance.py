"""Canonical digests of settings; versions of libraries and hardware."""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Mapping
from typing import Any

__version__ = "0.1.0"

_PACKAGES = ("dnafeat", "ray", "torch", "transformers", "tokenizers", "peft", "pyarrow", "deltalake", "numpy")


def digest_of(value: Mapping[str, Any]) -> str:
    """SHA-256 of a mapping's canonical JSON."""
    return hashlib.sha256(json.dumps(value, sort_keys=True, separators=(",", ":")).encode()).hexdigest()


def environment() -> dict[str, object]:
    """Library versions and hardware of this process: lineage, not identity."""
    # Slow to load, and `import dnafeat` loads this module.
    import platform
    from importlib import metadata

    versions = {}
    for name in _PACKAGES:
        try:
            versions[name] = metadata.version(name)
        except metadata.PackageNotFoundError:
            versions[name] = "not installed as a package"
    return {"python": platform.python_version(), "machine": platform.machine(), "cpus": os.cpu_count(), "packages": versions}
