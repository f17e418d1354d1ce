"""The verdict on every system call, three ways.

`syscall_verdicts.json` is what we mean, written down: a change of the filter shows as a change of
that file.  The program that is installed is run over it instruction by instruction, so the verdict
on calls that block or never return is exact too; and a program in a box makes every call for real.

`python -m tests.sandbox.test_syscalls` writes the file anew from the filter: read the difference.
"""

from __future__ import annotations

import errno
import itertools
import json
from collections.abc import AsyncIterator, Iterator, Mapping, Sequence
from pathlib import Path

import pytest
from seccompy import Action, ArgCmp, CmpOp, Filter, arch, audit_arch
from seccompy.syscalls import X86_64_SYSCALLS

from era.sandbox.base import BoxSpec, Limits, Program
from era.sandbox.namespaces import filter as seccomp
from era.sandbox.namespaces.driver import NamespacesDriver
from tests.contracts.driver import output_of, place
from tests.sandbox import bpf
from tests.sandbox.boxes import Unfiltered, namespaces_driver

TABLE = Path(__file__).with_name("syscall_verdicts.json")
LAST = 471
"""The last number of Linux 6.18."""
X32 = 0x40000000
I386 = 0x40000003
ARCH = audit_arch()
KILL = 0x80000000
KINDS: Mapping[int, str] = {
    seccomp.ALLOW: "allowed",
    seccomp.EPERM: "EPERM",
    seccomp.ENOSYS: "ENOSYS",
    seccomp.EAFNOSUPPORT: "EAFNOSUPPORT",
    seccomp.EPROTONOSUPPORT: "EPROTONOSUPPORT",
    seccomp.ENOMEM: "ENOMEM",
    seccomp.NOTHING: "nothing",
    KILL: "killed",
}
PAST_EVERY_FILTER = {335, 336}
"""uretprobe and uprobe: Linux 6.14 and later ask no seccomp filter about them (kernel/seccomp.c); away
from the trampoline of a probe they only fail."""
NAMES = {number: name for name, number in X86_64_SYSCALLS.items()}
PROGRAM = seccomp.build()
SPEC = BoxSpec(limits=Limits(memory_bytes=256 << 20))

pytestmark = pytest.mark.skipif(arch() != "x86_64", reason="the table is that of x86-64")


def judged(number: int, arguments: Sequence[int] = (), *, arch: int = ARCH) -> str:
    """What the installed program says."""
    return KINDS[bpf.verdict(PROGRAM, number, arguments, arch=arch)]


ARGUMENTS: Sequence[tuple[str, tuple[int, ...], str]] = (
    ("socket", (1, 1, 0), "allowed"),  # AF_UNIX
    ("socket", (2, 1 | 0o2000000, 6), "allowed"),  # AF_INET, SOCK_STREAM | SOCK_CLOEXEC, TCP
    ("socket", (10, 2, 17), "allowed"),  # AF_INET6, UDP
    ("socket", (0xFFFFFFFF00000002, 1, 0), "allowed"),  # the kernel looks at the low half only
    ("socket", (2, 1, 132), "EPROTONOSUPPORT"),  # SCTP
    ("socket", (2, 1, 262), "EPROTONOSUPPORT"),  # MPTCP
    ("socket", (2, 3, 255), "EPROTONOSUPPORT"),  # IPPROTO_RAW
    ("socket", (16, 3, 0), "allowed"),  # NETLINK_ROUTE
    ("socket", (16, 3, 4), "EAFNOSUPPORT"),  # NETLINK_SOCK_DIAG
    ("socket", (16, 3, 6), "EAFNOSUPPORT"),  # NETLINK_XFRM
    ("socket", (16, 3, 12), "EAFNOSUPPORT"),  # NETLINK_NETFILTER
    ("socket", (16, 3, 16), "EAFNOSUPPORT"),  # NETLINK_GENERIC
    ("socket", (17, 3, 0), "EAFNOSUPPORT"),  # AF_PACKET
    ("socket", (15, 3, 0), "EAFNOSUPPORT"),  # AF_KEY
    ("socket", (38, 5, 0), "EAFNOSUPPORT"),  # AF_ALG
    ("socket", (40, 1, 0), "EAFNOSUPPORT"),  # AF_VSOCK
    ("socket", (44, 3, 0), "EAFNOSUPPORT"),  # AF_XDP
    ("socket", (30, 1, 0), "EAFNOSUPPORT"),  # AF_TIPC
    ("setsockopt", (3, 1, 2), "allowed"),  # SO_REUSEADDR
    ("setsockopt", (3, 6, 26), "allowed"),  # of TCP
    ("setsockopt", (3, 1, 26), "EPERM"),  # SO_ATTACH_FILTER
    ("setsockopt", (3, 0x100000001, 0x10000001A), "EPERM"),
    ("setsockopt", (3, 1, 50), "EPERM"),  # SO_ATTACH_BPF
    ("setsockopt", (3, 1, 51), "EPERM"),  # SO_ATTACH_REUSEPORT_CBPF
    ("setsockopt", (3, 1, 52), "EPERM"),  # SO_ATTACH_REUSEPORT_EBPF
    ("socketpair", (1, 1, 0), "allowed"),
    ("socketpair", (2, 1, 0), "EAFNOSUPPORT"),
    ("socketpair", (30, 1, 0), "EAFNOSUPPORT"),
    ("clone", (0x01200011,), "allowed"),  # fork
    ("clone", (0x003D0F00,), "allowed"),  # thread
    ("clone", (0x10000011,), "EPERM"),  # CLONE_NEWUSER
    ("clone", (0x00020011,), "EPERM"),  # CLONE_NEWNS
    ("clone", (0x20000011,), "EPERM"),  # CLONE_NEWPID
    ("clone", (0x40000011,), "EPERM"),  # CLONE_NEWNET
    ("clone", (0x08000011,), "EPERM"),  # CLONE_NEWIPC
    ("clone", (0x04000011,), "EPERM"),  # CLONE_NEWUTS
    ("clone", (0x02000011,), "EPERM"),  # CLONE_NEWCGROUP
    ("clone", (0x00000091,), "EPERM"),  # CLONE_NEWTIME
    ("clone", (0x00008011,), "EPERM"),  # CLONE_PARENT
    ("personality", (0xFFFFFFFF,), "allowed"),
    ("personality", (0x0040000,), "allowed"),  # ADDR_NO_RANDOMIZE
    ("personality", (0x0400000,), "EPERM"),  # READ_IMPLIES_EXEC
    ("personality", (0x0100000,), "EPERM"),  # MMAP_PAGE_ZERO
    ("ioctl", (0, 0x5401), "allowed"),  # TCGETS
    ("ioctl", (0, 0x5412), "EPERM"),  # TIOCSTI
    ("ioctl", (0, 0xABCDEF0000005412), "EPERM"),
    ("ioctl", (0, 0x541C), "EPERM"),  # TIOCLINUX
    ("ioctl", (0, 0x5423), "EPERM"),  # TIOCSETD
    ("prctl", (15,), "allowed"),  # PR_SET_NAME
    ("prctl", (22, 2), "EPERM"),  # PR_SET_SECCOMP
    ("prctl", (21,), "allowed"),  # PR_GET_SECCOMP
    ("prctl", (35,), "EPERM"),  # PR_SET_MM
    ("prctl", (0x59616D61,), "EPERM"),  # PR_SET_PTRACER
    ("sched_setscheduler", (0, 5, 0), "allowed"),
    ("sched_setscheduler", (1, 5, 0), "EPERM"),
    ("sched_setscheduler", (0x100000001, 5, 0), "EPERM"),
    ("sched_setattr", (1, 0, 0), "EPERM"),
    ("sched_setparam", (1, 0), "EPERM"),
    ("sched_setaffinity", (1, 8, 0), "EPERM"),
    ("setpriority", (0, 0, 19), "allowed"),
    ("setpriority", (0, 1, 19), "EPERM"),
    ("setpriority", (2, 0, 19), "EPERM"),  # every process of the user
    ("ioprio_set", (1, 0, 0), "allowed"),
    ("ioprio_set", (1, 1, 0), "EPERM"),
    ("ioprio_set", (3, 0, 0), "EPERM"),
    ("prlimit64", (0, 7, 1, 0), "allowed"),
    ("prlimit64", (1, 7, 1, 0), "EPERM"),
    ("prlimit64", (0xFFFFFFFF, 7, 0, 1), "EPERM"),
    ("prlimit64", (0, 4, 0, 1), "allowed"),  # asks for the core limit
    ("prlimit64", (0, 4, 1, 0), "nothing"),  # sets it
    ("prlimit64", (0, 4, 0x100000000, 0), "nothing"),
    ("setrlimit", (4, 1), "nothing"),
    ("setrlimit", (7, 1), "allowed"),
    ("mmap", (0, 4096, 3, 0x22, 0, 0), "allowed"),
    ("mmap", (0, 1 << 21, 3, 0x40022, 0, 0), "ENOMEM"),
    ("memfd_create", (1, 3), "allowed"),
    ("memfd_create", (1, 4), "ENOMEM"),
    ("shmget", (0, 1, 0o1600), "allowed"),
    ("shmget", (0, 1, 0o5600), "ENOMEM"),
)
"""What the arguments change: call, arguments, verdict."""


def table_of(program: bytes) -> dict[str, list[str]]:
    """Number -> name and verdict with all arguments -1, as the file has it."""
    return {
        str(number): [
            NAMES.get(number, "-"),
            KINDS[bpf.verdict(program, number, [-1] * 6, arch=ARCH)],
        ]
        for number in range(LAST + 1)
    }


def test_the_program_says_what_is_written_down() -> None:
    assert table_of(PROGRAM) == json.loads(TABLE.read_text())


def test_the_kernel_will_take_the_program() -> None:
    assert bpf.is_well_formed(PROGRAM)
    assert not bpf.is_well_formed(PROGRAM[:-8])


@pytest.mark.parametrize(("name", "arguments", "verdict"), ARGUMENTS)
def test_arguments_decide(name: str, arguments: tuple[int, ...], verdict: str) -> None:
    assert judged(X86_64_SYSCALLS[name], arguments) == verdict


def test_every_checked_call_is_tried_with_arguments() -> None:
    tried = {name for name, _, _ in ARGUMENTS} | {"sync", "syncfs"}
    assert tried == seccomp.CHECKED.keys()


def test_what_is_younger_than_the_table_is_unknown() -> None:
    assert {judged(number) for number in range(LAST + 1, 2000)} == {"ENOSYS"}


def test_other_tables_are_death() -> None:
    for number in range(LAST + 80):
        assert judged(number | X32) == "killed"
        assert judged(number, arch=I386) == "killed"
    assert judged(-1) == "killed"


def test_the_tables_do_not_overlap() -> None:
    checked = set(seccomp.CHECKED)
    for one, two in itertools.combinations((seccomp.ALLOWED, seccomp.REFUSED, checked), 2):
        assert not set(one) & set(two)


# --- the same rules, compiled by somebody else -----------------------------------------------------

Rule = tuple[int, tuple[ArgCmp, ...]]
LOW = 0xFFFFFFFF


def _matches(when: seccomp.When) -> list[ArgCmp]:
    mask = when.mask << 32 if when.high else when.mask
    shift = 32 if when.high else 0
    masked = CmpOp.MASKED_EQ
    return [ArgCmp(when.argument, masked, value << shift, mask) for value in when.values]


def _rules(checks: Sequence[seccomp.Check], given: tuple[ArgCmp, ...] = ()) -> Iterator[Rule]:
    """First-match rules without negation: what an exception allows comes before it, rule by rule."""
    head, rest = checks[0], checks[1:]
    negative = [when for when in head.when if not when.among]
    if not negative:
        for chosen in itertools.product(*map(_matches, head.when)):
            yield head.verdict, (*given, *chosen)
        if head.when:
            yield from _rules(rest, given)
        return
    assert head.when == tuple(negative[:1])
    for match in _matches(negative[0]):
        yield from _rules(rest, (*given, match))
    yield head.verdict, given


def _by_seccompy() -> bytes:
    other = Filter(default=Action.ERRNO | errno.ENOSYS)
    for name in X86_64_SYSCALLS:
        if name in seccomp.ALLOWED:
            other.allow(name)
        elif name in seccomp.REFUSED:
            other.errno(name, errno.EPERM)
        for verdict, conditions in _rules(seccomp.CHECKED[name]) if name in seccomp.CHECKED else ():
            if verdict == seccomp.ALLOW:
                other.allow(name, args=conditions)
            else:
                other.errno(name, verdict & 0xFFFF, args=conditions)
    return other.program


def _samples(name: str) -> Iterator[list[int]]:
    """Argument lists around every value that a check of `name` looks at."""
    checks = seccomp.CHECKED.get(name, ())
    values: dict[int, set[int]] = {index: {0, 1, 2**64 - 1} for index in range(6)}
    for when in (when for check in checks for when in check.when):
        shift = 32 if when.high else 0
        for value in when.values:
            near = {value, value + 1, value | 0x100, value | 1 << 32, when.mask & 0x12345678}
            values[when.argument] |= {(v << shift) & (2**64 - 1) for v in near}
    looked_at = sorted({when.argument for check in checks for when in check.when})
    for chosen in itertools.product(*(sorted(values[index]) for index in looked_at)):
        arguments = [0] * 6
        for index, value in zip(looked_at, chosen, strict=True):
            arguments[index] = value
        yield arguments


def test_another_compileragrees() -> None:
    other = _by_seccompy()
    assert other != PROGRAM
    for number in range(LAST + 40):
        for arguments in _samples(NAMES.get(number, "-")):
            theirs = bpf.verdict(other, number, arguments, arch=ARCH)
            ours = bpf.verdict(PROGRAM, number, arguments, arch=ARCH)
            assert ours == theirs, (number, NAMES.get(number), arguments)


# --- every call, for real --------------------------------------------------------------------------


@pytest.fixture(scope="module", params=["filtered", "unfiltered"])
async def driver(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory, anyio_backend: str
) -> AsyncIterator[NamespacesDriver]:
    kind = Unfiltered if request.param == "unfiltered" else NamespacesDriver
    directory = str(tmp_path_factory.mktemp("syscalls"))
    async with namespaces_driver(directory, on_disk=False, kind=kind) as driver:
        yield driver


async def _sweep(driver: NamespacesDriver, first: int, last: int, kind: str) -> dict[int, object]:
    argv = ("/usr/bin/python3", "-I", "-S", "sweep.py", str(first), str(last), kind)
    async with driver.box(SPEC) as box:
        place(box, "sweep.py", TABLE.with_name("sweep.py").read_bytes())
        program = Program(argv=argv, env={"PATH": "/usr/bin:/bin"}, timeout_seconds=120)
        told: dict[str, object] = json.loads(await output_of(box, program))
    return {int(number): outcome for number, outcome in told.items()}


def agrees(verdict: str, outcome: object) -> bool:
    """Whether a call with this verdict can have had this outcome."""
    if verdict == "killed":
        return outcome == "SIGSYS"
    if verdict == "allowed":
        return outcome != "SIGSYS"
    return outcome == (0 if verdict == "nothing" else getattr(errno, verdict))


@pytest.mark.anyio
async def test_every_call_in_a_box(driver: NamespacesDriver) -> None:
    outcomes = await _sweep(driver, 0, LAST, "plain")
    assert len(outcomes) == LAST  # all but vfork
    table = json.loads(TABLE.read_text())
    wrong = {
        number: (table[str(number)], outcome)
        for number, outcome in outcomes.items()
        if number not in PAST_EVERY_FILTER and not agrees(table[str(number)][1], outcome)
    }
    if isinstance(driver, Unfiltered):
        # The kernel refuses by itself what needs a capability; these it would have answered.
        answered = {NAMES[number] for number in wrong}
        assert answered >= {
            "add_key", "clone3", "io_setup", "kcmp", "keyctl", "mbind", "name_to_handle_at",
            "process_vm_readv", "ptrace", "request_key", "setns", "unshare", "vmsplice",
        }  # fmt: skip
    else:
        assert wrong == {}


@pytest.mark.anyio
@pytest.mark.parametrize("kind", ["x32", "i386"])
async def test_other_tables_in_a_box(driver: NamespacesDriver, kind: str) -> None:
    outcomes = await _sweep(driver, 0, 60 if kind == "x32" else 25, kind)
    if isinstance(driver, Unfiltered):
        assert set(outcomes.values()) != {"SIGSYS"}
    else:
        assert set(outcomes.values()) == {"SIGSYS"}


if __name__ == "__main__":
    rows = (f'"{k}": {json.dumps(v)}' for k, v in table_of(PROGRAM).items())
    TABLE.write_text("{\n" + ",\n".join(rows) + "\n}\n")
