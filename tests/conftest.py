"""Fixtures: a real S3 server of the session's own, and a place for a store on the local disk and on that server."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import counts
import pytest
import s3fs
from hypothesis import settings
from s3 import S3

if TYPE_CHECKING:
    from _typeshed import HasFileno

# Where there is no GPU its kernels are run by Triton's interpreter, which Triton must know of before it is imported.
if not Path("/dev/nvidiactl").exists():
    os.environ.setdefault("TRITON_INTERPRET", "1")


def _flush(file: int | HasFileno) -> None:
    """Refuse what is not open, as `os.fsync` does, and wait for no disk."""
    os.fstat(file if isinstance(file, int) else file.fileno())


# No test cuts the power, so that none sees what reached the disk. A run flushes some eighty times, and waits for milliseconds each; that
# it does, and in which order, tests see all the same.
if not counts.LONG:
    os.fsync = _flush

# A busy machine is no reason to fail, so that examples have no deadline.
settings.register_profile("dnafeat", max_examples=counts.EXAMPLES, deadline=None)
settings.load_profile("dnafeat")

# Those that take longest, the longest first: begun late, one of them would be what all wait for.
_LONGEST = (
    "finetune/test_job",
    "demo/test_splice",
    "embed/test_pipeline",
    "store/test_wire",
    "project/test_job",
    "store/test_maintain",
    "cluster/test_tasks",
    "store/test_forget",
    "embed/test_publish",
    "store/test_reading_page",
    "finetune/test_predict",
    "store/test_catalog",
    "bench/test_job",
    "join/test_job",
    "embed/test_runner",
    "embed/test_job",
    "finetune/test_artifact",
    "store/test_stream",
    "encoder/test_engine",
    "embed/test_protocol",
    "models/test_kernels",
    "store/test_rollback",
    "store/test_damage",
    "store/test_table",
    "cli/test_completion",
    "models/test_checkpoint",
    "cli/test_ends",
    "store/test_history",
    "store/test_drift",
    "store/test_delta_log",
    "models/test_dnabert2",
    "cli/test_output",
    "models/test_fetch",
    "align/test_job",
)


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Files that take long come first (`make test` deals files out in this order)."""
    place = {name: i for i, name in enumerate(_LONGEST)}
    items.sort(key=lambda item: place.get(f"{item.path.parent.name}/{item.path.stem}", len(place)))


@pytest.fixture(scope="session")
def s3_server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[S3]:
    """The session's server. Two sessions that start at once may still draw the same port: the loser draws again."""
    for attempt in range(3):
        server = S3(tmp_path_factory.mktemp("seaweedfs"))
        try:
            server.start()
            break
        except RuntimeError:
            if attempt == 2:
                raise
    s3fs.S3FileSystem.clear_instance_cache()
    yield server
    server.stop()
    s3fs.S3FileSystem.clear_instance_cache()


@pytest.fixture
def s3(s3_server: S3) -> Iterator[S3]:
    """The session's S3 server, in the environment that makes dnafeat and everybody else find it."""
    with s3_server.found():
        yield s3_server


@pytest.fixture(params=["local", "s3"])
def store_uri(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    """Where a store can be made, on the local disk and on S3."""
    return str(tmp_path / "store") if request.param == "local" else request.getfixturevalue("s3").uri()


@pytest.fixture(scope="session")
def ray_cache(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Where workers of the shared Ray keep the models that they fetch."""
    return tmp_path_factory.mktemp("cache")


@pytest.fixture(scope="session")
def ray_address(s3_server: S3, ray_cache: Path) -> Iterator[str]:
    """The Ray of this pytest worker, with two CPUs and with workers that find the S3 server."""
    import rays

    with contextlib.ExitStack() as environment:
        environment.enter_context(s3_server.found())
        environment.enter_context(pytest.MonkeyPatch.context()).setenv("DNAFEAT_CACHE", str(ray_cache))
        running = contextlib.ExitStack()
        address = running.enter_context(rays.shared())
    with running:
        yield address


@pytest.fixture
def two_cpus(ray_address: str) -> Iterator[None]:
    """The shared Ray for a test: what it calls uses it."""
    import rays

    with rays.connected(ray_address):
        yield


@pytest.fixture(scope="module")
def two_cpus_throughout(ray_address: str) -> Iterator[None]:
    """The shared Ray for a module, whose tests share its workers, too."""
    import rays

    with rays.connected(ray_address):
        yield
