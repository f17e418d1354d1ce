"""What a program finds in a box: every guard, and beside it the same look from outside.

One program (`probe.py`) tells all it can see.  It runs in a box made on demand, in one made ahead,
and on the host.  A guard holds when its condition is true in both boxes; it is a guard, and not just
how things are, when the same condition is false on the host.  As root and as an ordinary user alike.
"""

from __future__ import annotations

import asyncio
import ctypes
import json
import os
import signal
import socket
import subprocess
from collections.abc import AsyncIterator, Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from era import layout
from era.sandbox.base import Box, BoxSpec, Limits, Program, Readiness, Warm
from era.sandbox.namespaces.driver import NamespacesDriver
from era.sandbox.namespaces.pool import ANY
from tests.contracts.driver import BoxTools, output_of, place, shell
from tests.sandbox.boxes import Unmasked, namespaces_driver, warm_up

PROBE = Path(__file__).with_name("probe.py")
PYTHON = "/usr/bin/python3"
COMMAND = (PYTHON, "-X", "utf8", "/workspace/probe.py")
ENV = {"PATH": "/usr/bin:/bin", "HOME": layout.HOME, "PYTHONDONTWRITEBYTECODE": "1"}
SPEC = BoxSpec(limits=Limits(memory_bytes=256 << 20, pids=99, open_files=77))
COLD = BoxSpec(limits=replace(SPEC.limits, memory_bytes=257 << 20))
"""Other limits than the boxes have that are made ahead."""
ROOT = os.geteuid() == 0
Facts = dict[str, Any]

OUTSIDE = """
import ctypes, os, sys
libc = ctypes.CDLL(None, use_errno=True)
uid, gid = os.getuid(), os.getgid()
if uid:
    assert libc.unshare(0x10000000) == 0
    for name, line in (("setgroups", "deny"), ("uid_map", f"0 {uid} 1"), ("gid_map", f"0 {gid} 1")):
        open("/proc/self/" + name, "w").write(line)
libc.personality(0x0040000)
os.umask(0o077)
exec(compile(open(sys.argv.pop(1)).read(), "probe.py", "exec"))
"""
"""Runs the probe on the host, with all that a careless parent could pass on."""


@contextmanager
def baited() -> Iterator[dict[str, Any]]:
    """Things on the host that a box must not reach."""
    libc = ctypes.CDLL(None, use_errno=True)
    key = 0x45524100 + os.getpid() % 0x100
    segment = libc.shmget(key, 4096, 0o1666)
    assert segment >= 0
    try:
        with socket.socket() as server, socket.socket(socket.AF_UNIX) as named:
            server.bind(("127.0.0.1", 0))
            server.listen()
            name = f"era-test-{os.getpid()}"
            named.bind("\0" + name)
            named.listen()
            port = server.getsockname()[1]
            yield {"port": port, "abstract": name, "shm": key, "path": str(PROBE)}
    finally:
        libc.shmctl(segment, 0, None)


def outside(bait: Mapping[str, Any]) -> Facts:
    with open(os.devnull) as extra:
        done = subprocess.run(
            [PYTHON, "-c", OUTSIDE, str(PROBE), json.dumps(bait)],
            pass_fds=[extra.fileno()],
            env={**os.environ, "SECRET_KEY": "s"},
            cwd="/",
            check=True,
            capture_output=True,
        )
    return dict(json.loads(done.stdout))


async def _inside(box: Box, bait: Mapping[str, Any]) -> Facts:
    place(box, "probe.py", PROBE.read_bytes())
    program = Program(argv=(*COMMAND, json.dumps(bait)), env=ENV)
    return dict(json.loads(await output_of(box, program)))


STANDING = Warm(
    name="python",
    readiness=Readiness.STANDING,
    argv=COMMAND,
    env=ENV,
    modules=("json", "socket"),
    count=1,
)
WAYS = ("cold", "ready", "warm")
"""A box made on demand, one made ahead for any program, and one forked from a standing Python."""


@pytest.fixture(scope="module", params=[True, False], ids=["in C", "in Python"])
async def driver(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory, anyio_backend: str
) -> AsyncIterator[NamespacesDriver]:
    directory = str(tmp_path_factory.mktemp("inside"))
    ready = Warm(name=ANY, readiness=Readiness.BOX, count=1)
    async with namespaces_driver(
        directory, on_disk=ROOT, warm=(STANDING, ready), limits=SPEC.limits, native=request.param
    ) as driver:
        yield driver


@pytest.fixture(scope="module")
async def seen(driver: NamespacesDriver) -> dict[str, Facts]:
    """What the probe saw in a box made each way, and `outside`."""
    specs = {
        "cold": COLD,
        "ready": SPEC,
        "warm": BoxSpec(limits=SPEC.limits, interpreter="python"),
    }
    found: dict[str, Facts] = {}
    with baited() as bait:
        for name, spec in specs.items():
            for shelf in ("python", ANY):
                await warm_up(driver, shelf)
            async with driver.box(spec) as box:
                prepared = getattr(box, "prepared")  # noqa: B009
                way = "cold" if prepared is None else prepared.warm.readiness.value
                assert way == {"ready": "box", "warm": "standing"}.get(name, name)
                found[name] = await _inside(box, bait)
        return found | {"outside": await asyncio.to_thread(outside, bait)}


def no_capabilities(facts: Facts) -> bool:
    names = ("CapInh", "CapPrm", "CapEff", "CapBnd", "CapAmb")
    return all(int(facts["status"][name], 16) == 0 for name in names)


def _mounts_are_tame(facts: Facts) -> bool:
    writable = ("/proc", "/dev/", "/tmp", layout.HOME, layout.WORKSPACE)
    for mount in facts["mounts"]:
        options = set(mount["options"])
        device = mount["kind"] == "devtmpfs"
        tame = "nosuid" in options and ("noexec" if device else "nodev") in options
        private = mount["shared"] == ["-"] or not mount["shared"]
        if not (tame and private and ("ro" in options or mount["at"].startswith(writable))):
            return False
    return True


def _own_namespaces(facts: Facts) -> bool:
    return all(
        os.readlink(f"/proc/self/ns/{kind}") != it for kind, it in facts["namespaces"].items()
    )


def _limits(facts: Facts) -> bool:
    wanted = {
        "RLIMIT_CORE": 1,
        "RLIMIT_MSGQUEUE": 0,
        "RLIMIT_NICE": 0,
        "RLIMIT_NOFILE": 77,
        "RLIMIT_NPROC": 100,
        "RLIMIT_RTPRIO": 0,
        "RLIMIT_SIGPENDING": 4096,
        "RLIMIT_STACK": 8 << 20,
    }
    return all(facts["limits"][name] == [value, value] for name, value in wanted.items())


GUARDS: Mapping[str, Callable[[Facts], bool]] = {
    "all five capability sets are empty": no_capabilities,
    "no new privileges": lambda f: bool(f["status"]["NoNewPrivs"] == "1"),
    "one seccomp filter": lambda f: bool(f["status"]["Seccomp"] == "2"),
    "no descriptor but 0, 1 and 2": lambda f: bool(f["fds"] == [0, 1, 2]),
    "exactly the environment given": lambda f: bool(f["env"] == ENV),
    "also in /proc": lambda f: f["environ"] == sorted(f"{k}={v}" for k, v in ENV.items()),
    "no process but its own": lambda f: bool(f["pids"] == [f["pid"]] == [2]),
    "process 1 is closed": lambda f: bool(f["process_1"] == []),
    "names of its own": lambda f: bool(f["names"] == ["era", "(none)"]),
    "user and group 1000, no other group": lambda f: bool(f["ids"] == [1000] * 6),
    "one user and one group exist": lambda f: (
        [m[::2] for m in f["maps"]] == [["1000", "1"]] * 2 and f["setgroups"] == "deny"
    ),
    "mounts are nosuid, nodev, private, read-only but for scratch": _mounts_are_tame,
    "the root is read-only": lambda f: bool(f["root_read_only"] and f["usr_read_only"]),
    "system settings are read-only": lambda f: bool(f["sysctl_read_only"]),
    "the host's inside is masked": lambda f: bool(f["secrets"] == []),
    "no directory of the host's own": lambda f: bool(
        f["directories"] == {"/etc": ["passwd"], "/home": ["era"]}
    ),
    "few devices": lambda f: bool(
        f["devices"] == "fd full null random shm stderr stdin stdout urandom zero".split()
    ),
    "scratch is empty": lambda f: bool(
        f["scratch"] == {"/tmp": [], "/dev/shm": [], "/home/era": []}
    ),
    "files of the host are not there": lambda f: not f["host_path"],
    "namespaces of its own": _own_namespaces,
    "loopback is its own": lambda f: bool(f["connect"] == "ECONNREFUSED"),
    "abstract sockets are its own": lambda f: bool(f["abstract"] == "ECONNREFUSED"),
    "shared memory is its own": lambda f: bool(f["shm"] == "ENOENT"),
    "keyrings are out of reach": lambda f: bool(f["keyring"] == "EPERM"),
    "its cgroup is the root it sees": lambda f: (
        f["cgroups"] == ["/"] and f["namespaces"]["cgroup"] != os.readlink("/proc/self/ns/cgroup")
    ),
    "limits": _limits,
    "umask": lambda f: bool(f["umask"] == 0o022),
    "a session of its own, without terminal": lambda f: (
        f["session"] == [f["pid"]] * 2 and f["tty"] == 0 and f["open_tty"] != 0
    ),
    "first to go when memory is short": lambda f: bool(f["oom_score_adj"] >= 500),
    "priority cannot be raised": lambda f: bool(f["nicer"] != 0 and f["real_time"] != 0),
    "ordinary personality": lambda f: bool(f["personality"] == 0),
    "works in the workspace": lambda f: bool(f["cwd"] == layout.WORKSPACE),
}
DENIED_TO_EVERYONE_BUT_ROOT = {"priority cannot be raised"}
"""Guards whose act an ordinary user cannot do on the host either."""


@pytest.mark.anyio
@pytest.mark.parametrize("where", WAYS)
@pytest.mark.parametrize("guard", GUARDS)
async def test_a_guard_holds_inside(seen: dict[str, Facts], guard: str, where: str) -> None:
    assert GUARDS[guard](seen[where]), seen[where]


@pytest.mark.anyio
@pytest.mark.parametrize(
    "guard", [g for g in GUARDS if ROOT or g not in DENIED_TO_EVERYONE_BUT_ROOT]
)
async def test_outside_it_does_not_hold(seen: dict[str, Facts], guard: str) -> None:
    assert not GUARDS[guard](seen["outside"])


@pytest.mark.anyio
@pytest.mark.parametrize("where", WAYS)
async def test_what_a_program_may_expect(seen: dict[str, Facts], where: str) -> None:
    """Not guards, but what must not be taken away by them."""
    facts = seen[where]
    assert facts["interfaces"] == ["lo"]
    assert facts["routes"] == []
    assert facts["own_loopback"] == 0
    assert facts["cpus"] == sorted(os.sched_getaffinity(0))
    assert facts["nice"] == os.nice(0)
    assert facts["policy"] == os.SCHED_OTHER
    assert facts["securebits"] == 0
    assert facts["dumpable"] == 1
    assert facts["time"] == os.stat("/proc/self/ns/time").st_ino
    assert facts["cmdline"].split("\0")[: len(COMMAND)] == list(COMMAND)


@pytest.mark.anyio
@pytest.mark.parametrize("where", ["ready", "warm"])
async def test_it_is_the_same_box_however_it_was_made(seen: dict[str, Facts], where: str) -> None:
    """Nothing tells a program how its box was made, but for what differs from run to run anyway."""
    differs = {"namespaces", "mounts", "status", "maps", "cmdline"}
    cold, other = ({k: v for k, v in seen[w].items() if k not in differs} for w in ("cold", where))
    assert cold == other
    stable = ("CapEff", "NoNewPrivs", "Seccomp", "Seccomp_filters", "SigBlk", "SigIgn", "SigCgt")
    for name in (*stable, "Uid", "Gid", "Groups", "Threads", "NSpid", "CoreDumping", "THP_enabled"):
        assert seen["cold"]["status"].get(name) == seen[where]["status"].get(name), name
    ways = [
        [(m["at"], m["options"], m["kind"]) for m in seen[way]["mounts"]] for way in ("cold", where)
    ]
    assert sorted(ways[0]) == sorted(ways[1])


CARELESS = """
import os, signal, sys
for number in (signal.SIGPIPE, signal.SIGHUP, signal.SIGTERM): signal.signal(number, signal.SIG_IGN)
signal.pthread_sigmask(signal.SIG_BLOCK, [signal.SIGUSR1, signal.SIGCHLD])
os.execv("/usr/bin/cat", ["cat", "/proc/self/status"])
"""


def _signals(status: str) -> dict[str, int]:
    lines = (line.partition(":\t") for line in status.splitlines() if line.startswith("Sig"))
    return {name: int(value, 16) for name, _, value in lines if name in ("SigBlk", "SigIgn")}


@pytest.mark.anyio
async def test_no_signal_is_ignored_or_blocked(driver: NamespacesDriver) -> None:
    async with driver.box(SPEC) as box:
        inside = await output_of(box, Program(argv=("/usr/bin/cat", "/proc/self/status"), env=ENV))
    assert _signals(inside) == {"SigBlk": 0, "SigIgn": 0}
    outside = subprocess.run([PYTHON, "-c", CARELESS], capture_output=True, text=True, check=True)
    assert all(_signals(outside.stdout).values())


@pytest.mark.anyio
async def test_the_driver_passes_on_nothing_of_a_careless_server(
    tmp_path: Path, anyio_backend: str
) -> None:
    """Signals, descriptors, limits and environment of this process, spoilt before the start."""
    before = signal.getsignal(signal.SIGUSR2)
    read, write = os.pipe()
    os.set_inheritable(read, True)
    os.environ["ERA_TEST_SECRET"] = "hidden"
    signal.signal(signal.SIGUSR2, signal.SIG_IGN)
    try:
        async with namespaces_driver(str(tmp_path), on_disk=False) as driver:
            script = "cat /proc/self/status; ls -l /proc/self/fd; env"
            async with driver.box(SPEC) as box:
                told = await output_of(box, shell(BoxTools(), script))
    finally:
        signal.signal(signal.SIGUSR2, before)
        del os.environ["ERA_TEST_SECRET"]
        os.close(read)
        os.close(write)
    assert _signals(told) == {"SigBlk": 0, "SigIgn": 0}
    assert "hidden" not in told
    assert f"pipe:[{_pipe_number(told, 1)}]" in told  # the listing shows pipes ...
    assert len([line for line in told.splitlines() if "pipe:" in line]) == 2  # ... ours only


def _pipe_number(listing: str, fd: int) -> str:
    (line,) = [line for line in listing.splitlines() if f" {fd} -> pipe:[" in line]
    return line.partition("[")[2].rstrip("]")


@pytest.mark.anyio
async def test_without_the_masks_the_host_shows(tmp_path: Path, anyio_backend: str) -> None:
    """The mirror of the masks alone: the same box, but with all of /proc."""
    async with namespaces_driver(str(tmp_path), on_disk=False, kind=Unmasked) as driver:
        with baited() as bait:
            async with driver.box(SPEC) as box:
                facts = await _inside(box, bait)
    assert "/proc/cmdline" in facts["secrets"]
    assert "/proc/sys/kernel/random/boot_id" in facts["secrets"]
    assert not facts["sysctl_read_only"]


@pytest.mark.anyio
async def test_two_boxes_share_no_namespace_and_no_user(driver: NamespacesDriver) -> None:
    kinds = ("cgroup", "ipc", "mnt", "net", "pid", "user", "uts")
    script = (
        "; ".join(f"readlink /proc/self/ns/{kind}" for kind in kinds) + "; cat /proc/self/uid_map"
    )
    async with driver.box(SPEC) as one, driver.box(SPEC) as two:
        first, second = await asyncio.gather(
            *(output_of(box, shell(BoxTools(), script + "; sleep 0.5")) for box in (one, two))
        )
    assert len(first.splitlines()) == len(kinds) + 1
    mine, theirs = first.splitlines(), second.splitlines()
    assert not set(mine[:-1]) & set(theirs[:-1])
    if ROOT:
        assert mine[-1] != theirs[-1]  # each box has a host user of its own
