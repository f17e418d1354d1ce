"""The kernel's surface and what a program finds in its box, through the API on both paths."""

from __future__ import annotations

import json
import os
import platform
import re
import socket
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from tests.attacks.served import ATTACK_SECONDS, KEY, SECRET, Served, said
from tests.sandbox import programs, test_inside, test_inside_ahead, test_syscalls

pytestmark = pytest.mark.xdist_group("attacks")

SANDBOX = Path(test_inside.__file__).parent
REFUSALS = SANDBOX.joinpath("refusals.py").read_text()
PROBE = SANDBOX.joinpath("probe.py").read_text()
SWEEP = SANDBOX.joinpath("sweep.py").read_text()
PLACED = {"refusals.py": ""}
"""One act is on a file of this name."""


def test_everything_forbidden_is_refused(server: Served) -> None:
    """8, 9, 39, 41, 51-59, 61, 62, 66, 74: more than 150 acts, one process each."""
    outcomes = json.loads(said(server.run(REFUSALS, files=PLACED)))
    assert len(outcomes) > 150
    assert [name for name, it in outcomes.items() if not str(it).startswith("E")] == []


def test_everything_forbidden_is_refused_to_a_shell_command(server: Served) -> None:
    """The same in a box for any program, with a workspace that is an overlay."""
    with server.session() as session:
        session.file("PUT", "refusals.py", REFUSALS.encode())
        outcomes = json.loads(said(session.command("exec python3 -I -S refusals.py")))
    assert len(outcomes) > 150
    assert [name for name, it in outcomes.items() if not str(it).startswith("E")] == []


@pytest.mark.skipif(platform.machine() != "x86_64", reason="the table is that of x86-64")
@pytest.mark.parametrize("kind", ["plain", "x32", "i386"])
def test_every_system_call_has_its_verdict(server: Served, kind: str) -> None:
    """58"""
    last = {"plain": test_syscalls.LAST, "x32": 60, "i386": 25}[kind]
    result = server.client.execute(SWEEP, args=["0", str(last), kind], timeout=ATTACK_SECONDS)
    outcomes = {int(number): outcome for number, outcome in json.loads(said(result)).items()}
    if kind != "plain":
        assert set(outcomes.values()) == {"SIGSYS"}
        return
    table = json.loads(test_syscalls.TABLE.read_text())
    wrong = {
        number: (table[str(number)], outcome)
        for number, outcome in outcomes.items()
        if number not in test_syscalls.PAST_EVERY_FILTER
        and not test_syscalls.agrees(table[str(number)][1], outcome)
    }
    assert wrong == {}


# --- what it finds --------------------------------------------------------------------------------

Facts = dict[str, Any]
BASE = {
    *("PATH", "HOME", "USER", "LOGNAME", "LANG", "TMPDIR", "TZ", "CGO_ENABLED", "GOPROXY", "GOSUMDB"),
    *("GOTOOLCHAIN", "GOENV", "GOWORK", "PYTHONUTF8", "PYTHONUNBUFFERED", "PYTHONDONTWRITEBYTECODE"),
    *("PYTHONNOUSERSITE", "DENO_DIR", "DENO_NO_UPDATE_CHECK", "DENO_TLS_CA_STORE", "NODE_USE_SYSTEM_CA"),
}  # fmt: skip
OF_THE_SERVICE: dict[str, Callable[[Facts], bool]] = {
    "exactly the environment given": lambda f: f["env"].keys() == BASE,
    "also in /proc": lambda f: {line.split("=")[0] for line in f["environ"]} == BASE,
    "no directory of the host's own": lambda f: (
        f["directories"].keys() == {"/etc", "/home", "/opt", "/run", "/var"}
        and f["directories"]["/home"] == f["directories"]["/opt"] == ["era"]
        and f["directories"]["/run"] == []
        and f["directories"]["/var"] == ["run", "tmp"]
        and not set(f["directories"]["/etc"]) & {"shadow", "machine-id", "sudoers", "fstab"}
    ),
    "limits": lambda f: (
        f["limits"]["RLIMIT_NPROC"] == [65, 65]
        and f["limits"]["RLIMIT_NOFILE"] == [1024, 1024]
        and f["limits"]["RLIMIT_CORE"] == [1, 1]
        and f["limits"]["RLIMIT_MSGQUEUE"] == [0, 0]
    ),
}
"""Guards of a box that are otherwise in a box of the service than in one of the driver alone."""
GUARDS = {**test_inside.GUARDS, **OF_THE_SERVICE}


def test_what_a_program_finds(server: Served) -> None:
    """6, 8, 52-57, 59-62, 64, 65, 68: every guard of a box; the mirror is the look from outside."""
    with test_inside.baited() as bait:
        result = server.client.execute(PROBE, args=[json.dumps(bait)])
        outside = test_inside.outside(bait)
    facts = json.loads(said(result))
    assert [name for name, holds in GUARDS.items() if not holds(facts)] == []
    assert [name for name, holds in OF_THE_SERVICE.items() if holds(outside)] == []


def test_what_a_shell_command_finds(server: Served) -> None:
    """The same in a box for any program."""
    with server.session() as session, test_inside.baited() as bait:
        session.file("PUT", "probe.py", PROBE.encode())
        command = f"exec python3 -X utf8 probe.py '{json.dumps(bait)}'"
        facts = json.loads(said(session.command(command, env={"PYTHONPATH": "/nowhere"})))
    allowed = {"exactly the environment given", "also in /proc"}
    assert {name for name, holds in GUARDS.items() if not holds(facts)} <= allowed
    more = facts["env"].keys() - BASE
    assert {name for name in more if not name.startswith("ERA_")} <= {
        "PYTHONPATH",
        "PWD",
        "SHLVL",
        "_",
    }
    assert facts["env"]["ERA_SESSION"] == "true"


IDENTITY = """
import json, os, socket
paths = ["/etc/hostname", "/etc/hosts", "/etc/machine-id", "/var/lib/dbus/machine-id", "/proc/version",
         "/proc/sys/kernel/random/boot_id", "/sys/class/dmi/id/product_uuid", "/etc/resolv.conf",
         "/proc/self/mounts", "/proc/net/arp", "/proc/net/route", "/proc/net/if_inet6", "/etc/mtab"]
found = {"name": socket.gethostname()}
for path in paths:
    try: found[path] = open(path).read()
    except OSError as error: found[path] = ""
print(json.dumps(found))
"""


def test_the_host_is_not_named(server: Served) -> None:
    """65: no name, no id, no address of it."""
    found = json.loads(said(server.client.execute(IDENTITY)))
    assert found["name"] == "era"
    ids = ("/etc/machine-id", "/proc/sys/kernel/random/boot_id", "/sys/class/dmi/id/product_uuid")
    assert [path for path in ids if found[path]] == []
    text = "\n".join(value for path, value in found.items() if path != "/proc/version")
    for identity in (socket.gethostname(), *_ids_of_this_host()):
        assert identity not in text.split(), identity
    assert _ids_of_this_host()  # the mirror: there is something to be found


def _ids_of_this_host() -> list[str]:
    paths = ("/etc/machine-id", "/proc/sys/kernel/random/boot_id")
    return [Path(path).read_text().strip() for path in paths if Path(path).exists()]


# --- memory and descriptors -----------------------------------------------------------------------

ANYWHERE = (
    test_inside_ahead.SCAN
    + """
import os
def everything():
    for name in os.listdir("/proc"):
        for part in ("environ", "cmdline", "maps", "mountinfo", "cgroup", "comm", "stack", "wchan"):
            try: yield open(f"/proc/{name}/{part}", "rb").read()
            except OSError: pass
    for at, dirs, names in os.walk("/", onerror=None):
        if at.startswith(("/usr", "/proc", "/opt/era", "/lib")):
            dirs.clear(); continue
        for name in names:
            path = os.path.join(at, name)
            if name.startswith(".era") or not os.path.isfile(path): continue
            try: yield open(path, "rb").read(1 << 20)
            except OSError: pass
print(sum(len(pattern.findall(data)) for data in everything()))
"""
)


@pytest.mark.parametrize("secret", [KEY, SECRET], ids=["API key", "environment"])
def test_no_secret_of_the_server_is_anywhere(server: Served, secret: str) -> None:
    """64: not in memory, not in /proc, not in a file; where a request brings it, it is found."""
    reversed_ = [secret[::-1]]
    for _ in range(2):
        assert said(server.client.execute(ANYWHERE, args=reversed_)).split() == ["0", "0"]
    brought = server.client.execute(ANYWHERE, args=reversed_, env={"NOTE": secret})
    in_memory, in_files = map(int, said(brought).split())
    assert (in_memory > 0, in_files > 0) == (True, True)
    assert said(server.client.execute(ANYWHERE, args=reversed_)).split() == ["0", "0"]


DESCRIPTORS = """
import fcntl, os
for fd in range(1024):
    try: fcntl.fcntl(fd, fcntl.F_GETFD)
    except OSError: continue
    print(fd, os.readlink(f"/proc/self/fd/{fd}").split(":")[0])
"""
DESCRIPTORS_OF_NODE = """
const fs = require('fs');
for (const fd of fs.readdirSync('/proc/self/fd')) {
  let to; try { to = fs.readlinkSync(`/proc/self/fd/${fd}`); } catch { continue; }
  if (to.startsWith('socket:') || to.includes('era-') || to.startsWith('/') && !to.startsWith('/dev')
      && !to.startsWith('/memfd') && !to.startsWith('/proc')) console.log(fd, to);
}
"""


def test_no_descriptor_is_inherited(server: Served) -> None:
    """53, 60, 64: only the three streams; in node, beside its own, none that leads anywhere."""
    rows = said(server.client.execute(DESCRIPTORS)).splitlines()
    assert [int(row.split()[0]) for row in rows] == [0, 1, 2]
    assert [row.split()[1] for row in rows[1:]] == ["pipe", "pipe"]
    assert said(server.client.execute(DESCRIPTORS_OF_NODE, "node")) == ""
    opened = "x = open('/usr/bin/env')\n" + DESCRIPTORS  # the mirror
    assert len(said(server.client.execute(opened)).splitlines()) == 4


def test_no_way_up_through_a_descriptor(server: Served) -> None:
    """53"""
    assert said(server.run(programs.UPWARDS)) == "True\n"
    of_the_box = said(
        server.client.execute("import os; s = os.stat('/'); print(s.st_dev, s.st_ino)")
    )
    root = os.stat("/")
    assert of_the_box != f"{root.st_dev} {root.st_ino}\n"


def test_pages_of_shared_files_are_copied_when_written(server: Served) -> None:
    """55: /proc/self/mem writes where the mapping is read-only; the file's page must not change."""
    target = Path("/usr/bin/env")
    before = target.read_bytes()
    told = said(server.run(programs.PAGE, args=[str(target)])).splitlines()
    assert told == ["1 Input/output error", "2 forged", "False"]  # its own copy did change
    assert target.read_bytes() == before


def test_a_program_from_memory_has_no_more_rights(server: Served) -> None:
    """58, 61"""
    rows = dict(line.split(":\t") for line in said(server.run(programs.FROM_MEMORY)).splitlines())
    assert (int(rows["CapEff"], 16), rows["NoNewPrivs"], rows["Seccomp"]) == (0, "1", "2")
    assert rows["Uid"] == "1000\t1000\t1000\t1000"


PRIVILEGED = """
import os, subprocess
command = ["find", "/usr", "-type", "f", "-perm", "/6000"]
found = subprocess.run(command, capture_output=True, text=True).stdout.split()
print(len(found), sum(bool(os.statvfs(path).f_flag & os.ST_NOSUID) for path in found))
"""


def test_programs_that_give_rights_are_inert(server: Served) -> None:
    """61: every one there is lies on a mount that takes no notice of its bits."""
    found, inert = map(int, said(server.client.execute(PRIVILEGED)).split())
    assert found == inert
    on_the_host = [
        path
        for path in Path("/usr/bin").iterdir()
        if path.is_file() and path.stat().st_mode & 0o6000
    ]
    assert (found > 0) is bool(on_the_host)
    assert (
        not os.statvfs("/usr").f_flag & os.ST_NOSUID
    )  # the mirror: on the host they are not inert


def test_boxes_run_as_nobody_of_the_host(server: Served) -> None:
    """61, 64: seen from outside, the program has no capability, and a user that owns nothing."""
    with server.session() as session:
        code = (
            "import os, time\nprint(os.readlink('/proc/self/ns/pid'), flush=True)\ntime.sleep(600)"
        )
        stream = session.client.begin(
            "POST", f"{session.path}/stream", json.dumps({"code": code}).encode()
        )
        try:
            response = stream.getresponse()
            while b"pid:[" not in (line := response.readline()):
                pass
            program = server.program(re.findall(r"pid:\[\d+\]", line.decode())[0])
            assert int(_row(program, "CapEff"), 16) == 0
            assert int(_row(program, "Uid").split()[0]) not in (0, 1000)
        finally:
            session.client.call("POST", f"{session.path}/cancel")
            stream.close()


def _row(pid: int, name: str) -> str:
    text = Path(f"/proc/{pid}/status").read_text()
    return text.partition(f"\n{name}:\t")[2].split("\n")[0]
