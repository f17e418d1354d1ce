"""Images built and run without a Docker engine, from programs that Debian has.

podman, buildah and crun, with a store of their own that is gone afterwards.  crun refuses a host that
mounts both versions of cgroups, so what runs a container does it in a mount namespace without the
second one.
"""

from __future__ import annotations

import json
import os
import shutil
import socket
import subprocess
import tempfile
import time
import urllib.request
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

BASE: Final = "docker.io/library/debian:bookworm-slim"
IMAGE: Final = "localhost/era-agent:latest"
NEEDED: Final = ("podman", "buildah", "crun", "mmdebstrap")
_ONE_CGROUP: Final = 'umount /sys/fs/cgroup/unified 2>/dev/null; exec "$@"'
_PATH: Final = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"

RIGHTS: Final[dict[str, tuple[str, ...]]] = {
    "default": (),
    "ordinary": ("--security-opt=seccomp=unconfined", "--security-opt=unmask=ALL"),
    "named": (
        "--security-opt=seccomp=unconfined",
        "--security-opt=unmask=ALL",
        "--user=0:0",
        "--cap-add=SYS_ADMIN",
        "--cap-add=NET_ADMIN",
        "--cap-add=SYS_PTRACE",
        "--cgroupns=host",
        "--volume=/sys/fs/cgroup:/sys/fs/cgroup:rw",
    ),
    "privileged": ("--privileged", "--user=0:0"),
}
"""The rows of the table in DOCKER_DEPLOYMENT.md, as podman spells them (Docker's
`systempaths=unconfined` is its `unmask=ALL`)."""


def missing() -> str | None:
    """What keeps images from being built here; None when nothing does."""
    if os.geteuid() != 0:
        return "images are built by root"
    absent = [name for name in NEEDED if not shutil.which(name, path=_PATH)]
    return f"not installed: {' '.join(absent)}" if absent else None


@dataclass(frozen=True, slots=True, kw_only=True)
class Store:
    """A store of images."""

    folder: Path

    def command(self, program: str, *arguments: str) -> list[str]:
        own = (f"--root={self.folder}/store", f"--runroot={self.folder}/run")
        return [program, *own, "--storage-driver=overlay", *arguments]

    def call(self, program: str, *arguments: str) -> str:
        done = subprocess.run(
            ["unshare", "-m", "bash", "-c", _ONE_CGROUP, "_", *self.command(program, *arguments)],
            env=self.environment(),
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            timeout=600,
        )
        if done.returncode:
            raise RuntimeError(f"{program} {arguments[0]}: {(done.stderr or done.stdout)[-2000:]}")
        return done.stdout

    def environment(self) -> dict[str, str]:
        return {"PATH": _PATH, "HOME": "/root", "CONTAINERS_CONF": f"{self.folder}/containers.conf"}

    def start(
        self, name: str, rights: str, command: Sequence[str] = (), extra: Sequence[str] = ()
    ) -> subprocess.Popen[str]:
        """`podman run` in the foreground, on the host's network."""
        run = self.command(
            "podman",
            "run",
            "--rm",
            f"--name={name}",
            "--network=host",
            "--no-healthcheck",
            *RIGHTS[rights],
            *extra,
            IMAGE,
            *command,
        )
        return subprocess.Popen(
            ["unshare", "-m", "bash", "-c", _ONE_CGROUP, "_", *run],
            env=self.environment(),
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            text=True,
        )


@contextmanager
def store(context: Path) -> Iterator[Store]:
    """A store with the base image, and the image built from `context`."""
    roomy = "/dev/shm" if shutil.disk_usage("/dev/shm").free > 6 << 30 else None
    with tempfile.TemporaryDirectory(prefix="era-image-", dir=roomy) as name:
        found = Store(folder=Path(name))
        files = min(65536, int(os.sysconf("SC_OPEN_MAX")))
        (found.folder / "containers.conf").write_text(
            f'[containers]\ndefault_ulimits = ["nofile={files}:{files}", "nproc=4096:4096"]\n'
            '[engine]\ncgroup_manager = "cgroupfs"\nevents_logger = "file"\n'
        )
        try:
            _base(found)
            # chroot: no runtime is needed to build.  The certificates are those of this network.
            found.call(
                "buildah",
                "bud",
                "--quiet",
                "--format=docker",
                "--isolation=chroot",
                "--network=host",
                "--pull-never",
                "--volume=/etc/ssl/certs:/etc/ssl/certs:ro",
                f"--tag={IMAGE}",
                str(context),
            )
            yield found
        finally:
            with suppress(RuntimeError):
                found.call("podman", "rmi", "--all", "--force")
            for layer in (found.folder / "store/overlay",):
                subprocess.run(["umount", str(layer)], capture_output=True)


def _base(found: Store) -> None:
    archive = found.folder / "base.tar"
    left_out = [f"--dpkgopt=path-exclude=/usr/share/{part}/*" for part in ("doc", "man", "locale")]
    subprocess.run(
        [
            "mmdebstrap",
            "--quiet",
            "--variant=minbase",
            "--include=ca-certificates",
            *left_out,
            "bookworm",
            str(archive),
        ],
        env=found.environment() | {"TMPDIR": str(found.folder)},
        stdin=subprocess.DEVNULL,
        check=True,
        capture_output=True,
        timeout=600,
    )
    found.call("podman", "import", "--quiet", '--change=CMD ["bash"]', str(archive), BASE)
    archive.unlink()


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


@dataclass(frozen=True, slots=True, kw_only=True)
class Running:
    """A service in a container."""

    url: str
    process: subprocess.Popen[str]

    def get(self, path: str) -> Any:
        with urllib.request.urlopen(self.url + path, timeout=300) as answer:
            return json.load(answer)

    def post(self, path: str, body: Any) -> Any:
        data = json.dumps(body).encode()
        request = urllib.request.Request(self.url + path, data=data, method="POST")
        with urllib.request.urlopen(request, timeout=300) as answer:
            return json.load(answer)


@contextmanager
def served(found: Store, rights: str, state: Path, more: Sequence[str] = ()) -> Iterator[Running]:
    """The image's own command, until the block ends; it must end by itself then, with success."""
    port = free_port()
    name = f"era-test-{port}"
    extra = [f"--env=PORT={port}", "--env=ERA_GO_AHEAD=0", f"--volume={state}:/var/lib/era:rw"]
    extra += [f"--env={each}" for each in more]
    process = found.start(name, rights, extra=extra)
    running = Running(url=f"http://127.0.0.1:{port}", process=process)
    try:
        _wait(running)
        yield running
        found.call("podman", "stop", "--time=60", name)
        code = process.wait(60)
        assert code == 0, f"the service ended with {code} on SIGTERM"
    finally:
        if process.poll() is None:
            with suppress(RuntimeError):
                found.call("podman", "rm", "--force", "--time=5", name)
            process.wait(60)
        assert process.stdout is not None
        process.stdout.close()


def _wait(running: Running) -> None:
    deadline = time.monotonic() + 120
    while time.monotonic() < deadline:
        if running.process.poll() is not None:
            raise RuntimeError(f"the container ended with {running.process.returncode}")
        with suppress(OSError):
            running.get("/health")
            return
        time.sleep(0.2)
    raise TimeoutError("the service in the container does not answer")
