"""Small files of the tests: of any content, and Parquet from columns."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq


def write(path: Path, content: str | bytes) -> str:
    """A file with its folders, by its name as text."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(content.encode() if isinstance(content, str) else content)
    return str(path)


def parquet(path: Path, **columns: Any) -> str:
    """A Parquet file of some columns."""
    pq.write_table(pa.table(columns), path)
    return str(path)
