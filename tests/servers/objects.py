"""An S3 server of the tests' own, on free ports of the loopback, gone with them."""

from __future__ import annotations

import itertools
import json
import os
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from pathlib import Path

import obstore
from obstore.store import S3Store

from local_server import reserved

KEY, SECRET, BUCKET = "tests", "tests-secret", "era-tests"
_OFF = ("-s3.port.iceberg=0", "-s3.port.lance=0", "-s3.iam=false")


@dataclass(frozen=True, slots=True)
class Objects:
    """A running server."""

    endpoint: str
    numbers: Iterator[int] = field(default_factory=itertools.count)

    @property
    def environment(self) -> dict[str, str]:
        """What an operator would set."""
        return {
            "AWS_ENDPOINT_URL": self.endpoint,
            "AWS_ALLOW_HTTP": "true",
            "AWS_ACCESS_KEY_ID": KEY,
            "AWS_SECRET_ACCESS_KEY": SECRET,
            "AWS_REGION": "us-east-1",
        }

    def new_url(self) -> str:
        """The URL of a place in the bucket that nobody else has."""
        return f"s3://{BUCKET}/{os.getpid()}-{next(self.numbers)}"

    def store(self, url: str) -> S3Store:
        """The place as its operator sees it."""
        return S3Store.from_url(
            url,
            endpoint=self.endpoint,
            access_key_id=KEY,
            secret_access_key=SECRET,
            region="us-east-1",
            client_options={"allow_http": True},
        )

    def names(self, url: str) -> list[str]:
        """The objects in a place."""
        found = obstore.list(self.store(url)).collect()
        return sorted(item["path"] for item in found)


@contextmanager
def objects() -> Iterator[Objects]:
    """Start a server, stop it at the end."""
    with ExitStack() as stack:
        places = [stack.enter_context(reserved()) for _ in range(8)]
        yield from _objects([place.getsockname()[1] for place in places])


def _objects(ports: Sequence[int]) -> Iterator[Objects]:
    """The server on reserved ports."""
    folder = Path(tempfile.mkdtemp(prefix="era-s3-", dir="/dev/shm"))
    identity = {
        "name": "tests",
        "credentials": [{"accessKey": KEY, "secretKey": SECRET}],
        "actions": ["Admin", "Read", "Write", "List", "Tagging"],
    }
    (folder / "identities.json").write_text(json.dumps({"identities": [identity]}))
    names = ("master.port", "master.port.grpc", "volume.port", "volume.port.grpc",
             "filer.port", "filer.port.grpc", "s3.port", "s3.port.grpc")  # fmt: skip
    command = [
        f"{Path(sys.executable).parent}/weed", "server", f"-dir={folder}", "-ip=127.0.0.1",
        "-ip.bind=127.0.0.1", "-s3.ip.bind=127.0.0.1", "-filer", "-s3", "-master.telemetry=false",
        "-master.volumeSizeLimitMB=64", "-volume.max=0", f"-s3.config={folder}/identities.json",
        *(f"-{name}={port}" for name, port in zip(names, ports, strict=True)), *_OFF,
    ]  # fmt: skip
    try:
        with (folder / "log").open("wb") as log:
            server = subprocess.Popen(command, stdout=log, stderr=log, cwd=folder)
        try:
            running = Objects(f"http://127.0.0.1:{ports[6]}")
            _wait(running, server, folder / "log")
            yield running
        finally:
            server.kill()
            server.wait()
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def _wait(running: Objects, server: subprocess.Popen[bytes], log: Path) -> None:
    store = running.store(f"s3://{BUCKET}")
    for _ in range(600):
        assert server.poll() is None, log.read_text()[-3000:]
        try:
            # The server makes a bucket when something is put into it.
            obstore.put(store, "ready", b"")
        except Exception:  # noqa: BLE001 - whatever a server says that is not ready
            time.sleep(0.05)
        else:
            return
    raise AssertionError(f"the S3 server did not start: {log.read_text()[-3000:]}")
