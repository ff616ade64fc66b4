"""Where a store of `store_uri` lies in `make test`, and in `make test-long` besides, for tests in which either place does."""

from __future__ import annotations

import pytest

local_first = pytest.mark.parametrize("store_uri", ["local", pytest.param("s3", marks=pytest.mark.long)], indirect=True)
s3_first = pytest.mark.parametrize("store_uri", [pytest.param("local", marks=pytest.mark.long), "s3"], indirect=True)
