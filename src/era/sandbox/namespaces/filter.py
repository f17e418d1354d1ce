"""The seccomp filter of every box: an allow-list, built ahead of time as BPF bytes.

The program is a decision tree over ranges of system call numbers with equal verdicts, so the kernel
runs about eight instructions for a call and a few for the checked arguments.  Rules, with
`struct seccomp_data` and the return values of seccomp(2):

* another architecture (i386 by `int 0x80`) or the x32 numbers: the process is killed;
* calls that make or join namespaces, change mounts, or reach into the kernel or other processes:
  EPERM, what a program without the right gets anywhere;
* calls that nobody needs, and calls of kernels younger than this table: ENOSYS, so that libraries
  fall back to older ones;
* clone3 is ENOSYS because its flags lie in memory, where a filter cannot see them; libraries then
  use clone, whose flags are checked;
* calls whose effect would reach past the box answer as if done (sync, core limits): see `CHECKED`.
"""

from __future__ import annotations

import errno
import struct
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Final

from seccompy import arch, audit_arch
from seccompy.syscalls import AARCH64_SYSCALLS, X86_64_SYSCALLS

_RET_KILL: Final = 0x80000000
_RET_ERRNO: Final = 0x00050000
_RET_ALLOW: Final = 0x7FFF0000
_LD_ABS: Final = 0x20
_JEQ: Final = 0x15
_JGE: Final = 0x35
_JSET: Final = 0x45
_ALU_AND: Final = 0x54
_RET: Final = 0x06
_OFFSET_NR: Final = 0
_OFFSET_ARCH: Final = 4
_X32_BIT: Final = 0x40000000

ALLOW: Final = _RET_ALLOW
EPERM: Final = _RET_ERRNO | errno.EPERM
ENOSYS: Final = _RET_ERRNO | errno.ENOSYS
EAFNOSUPPORT: Final = _RET_ERRNO | errno.EAFNOSUPPORT
EPROTONOSUPPORT: Final = _RET_ERRNO | errno.EPROTONOSUPPORT
ENOMEM: Final = _RET_ERRNO | errno.ENOMEM
NOTHING: Final = _RET_ERRNO
"""The call is not made and returns 0."""

CLONE_NAMESPACES: Final = 0x7E020080
"""Every CLONE_NEW* flag: cgroup, uts, ipc, user, pid, net, mount, time."""
CLONE_PARENT: Final = 0x8000
"""A sister in place of a child.  One of a program's first process is a child of who forked that, outside
of the box and waiting for no other; a pid namespace does not end before the last of it is reaped."""

REFUSED: Final = frozenset(
    """
    acct add_key adjtimex bpf chroot clock_adjtime clock_settime delete_module fanotify_init
    fanotify_mark finit_module fsconfig fsmount fsopen fspick get_kernel_syms init_module ioperm
    iopl kcmp kexec_file_load kexec_load keyctl listmount listns lookup_dcookie mbind memfd_secret
    migrate_pages modify_ldt mount mount_setattr move_mount move_pages name_to_handle_at
    nfsservctl open_by_handle_at open_tree open_tree_attr perf_event_open pidfd_getfd pivot_root
    process_madvise process_mrelease process_vm_readv process_vm_writev ptrace quotactl
    quotactl_fd reboot request_key seccomp setdomainname sethostname setns settimeofday statmount
    swapoff swapon syslog umount2 unshare userfaultfd vhangup vmsplice
    """.split()
)
"""EPERM.  Everything here would need a capability the box has not, or widens the kernel's surface."""

ALLOWED: Final = frozenset(
    """
    accept accept4 access alarm arch_prctl bind brk cachestat capget capset chdir chmod chown
    clock_getres clock_gettime clock_nanosleep close close_range connect copy_file_range creat dup
    dup2 dup3 epoll_create epoll_create1 epoll_ctl epoll_pwait epoll_pwait2 epoll_wait eventfd
    eventfd2 execve execveat exit exit_group faccessat faccessat2 fadvise64 fallocate fchdir fchmod
    fchmodat fchmodat2 fchown fchownat fcntl fdatasync fgetxattr flistxattr flock fork fremovexattr
    fsetxattr fstat fstatfs fsync ftruncate futex futex_requeue futex_wait futex_waitv futex_wake
    futimesat get_mempolicy get_robust_list getcpu getcwd getdents getdents64 getegid geteuid getgid
    getgroups getitimer getpeername getpgid getpgrp getpid getppid getpriority getrandom getresgid
    getresuid getrlimit getrusage getsid getsockname getsockopt gettid gettimeofday getuid getxattr
    inotify_add_watch inotify_init inotify_init1 inotify_rm_watch ioprio_get kill
    landlock_add_rule landlock_create_ruleset landlock_restrict_self lchown lgetxattr link linkat
    listen listxattr llistxattr lremovexattr lseek lsetxattr lstat madvise map_shadow_stack
    membarrier mincore mkdir mkdirat mknod mknodat mlock mlock2 mlockall mprotect mq_getsetattr
    mq_notify mq_open mq_timedreceive mq_timedsend mq_unlink mremap mseal msgctl msgget msgrcv
    msgsnd msync munlock munlockall munmap nanosleep newfstatat open openat openat2 pause pidfd_open
    pidfd_send_signal pipe pipe2 pkey_alloc pkey_free pkey_mprotect poll ppoll pread64 preadv
    preadv2 pselect6 pwrite64 pwritev pwritev2 read readahead readlink readlinkat readv recvfrom
    recvmmsg recvmsg remap_file_pages removexattr rename renameat renameat2 restart_syscall rmdir
    rseq rt_sigaction rt_sigpending rt_sigprocmask rt_sigqueueinfo rt_sigreturn rt_sigsuspend
    rt_sigtimedwait rt_tgsigqueueinfo sched_get_priority_max sched_get_priority_min
    sched_getaffinity sched_getattr sched_getparam sched_getscheduler sched_rr_get_interval
    sched_yield select
    semctl semget semop semtimedop sendfile sendmmsg sendmsg sendto set_mempolicy set_robust_list
    set_tid_address setfsgid setfsuid setgid setgroups setitimer setpgid setregid
    setresgid setresuid setreuid setsid setuid setxattr shmat shmctl shmdt shutdown
    sigaltstack signalfd signalfd4 splice stat statfs statx symlink symlinkat sync_file_range
    sysinfo tee tgkill time timer_create timer_delete timer_getoverrun timer_gettime timer_settime
    timerfd_create timerfd_gettime timerfd_settime times tkill truncate umask uname unlink unlinkat
    utime utimensat utimes vfork wait4 waitid write writev
    """.split()
)
"""Allowed without a look at the arguments.

Not here: the old asynchronous I/O (io_setup and its kin), whose contexts are counted for the whole
host, so that one box could take them from everyone."""


@dataclass(frozen=True, slots=True)
class When:
    """A condition on one 32-bit half of argument `argument` (the low one, or the `high`), after
    `mask`: it is one of `values`, or with `among` False none of them."""

    argument: int
    values: tuple[int, ...]
    among: bool = True
    mask: int = 0xFFFFFFFF
    high: bool = False


@dataclass(frozen=True, slots=True)
class Check:
    """The verdict of a call whose arguments meet every condition of `when`."""

    verdict: int
    when: tuple[When, ...] = ()


_FAMILIES: Final = (1, 2, 10)  # AF_UNIX, AF_INET, AF_INET6
_AF_NETLINK: Final = 16
_PERSONALITIES: Final = (0, 0x0040000, 0xFFFFFFFF)  # PER_LINUX, no randomisation, query
_TIOCSTI: Final = 0x5412
_TIOCLINUX: Final = 0x541C
_TIOCSETD: Final = 0x5423
_PR_SET_SECCOMP: Final = 22
_PR_SET_MM: Final = 35
_PR_SET_PTRACER: Final = 0x59616D61

_PROTOCOLS: Final = (0, 1, 6, 17, 58)  # default, ICMP, TCP, UDP, ICMPv6
_NETLINK_ROUTE: Final = 0
_RLIMIT_CORE: Final = 4
_SOL_SOCKET: Final = 1
_SO_ATTACH: Final = (26, 50, 51, 52)  # SO_ATTACH_FILTER, _BPF, _REUSEPORT_CBPF, _REUSEPORT_EBPF
_MAP_HUGETLB: Final = 0x40000
_MFD_HUGETLB: Final = 0x4
_SHM_HUGETLB: Final = 0x800
_OTHERWISE: Final = Check(ALLOW)
_FIRST: Final = 1
_PRIO_USER: Final = 2
_IOPRIO_WHO_USER: Final = 3
_NOT_FIRST: Final = (Check(EPERM, (When(0, (_FIRST,)),)), _OTHERWISE)
"""Not for process 1 of the box, which the program may signal but not hold up: where it is not
scheduled, the box does not end.  All of a user's processes are process 1 too."""


def _flag(argument: int, flag: int) -> tuple[When, ...]:
    return (When(argument, (flag,), mask=flag),)


CHECKED: Final[Mapping[str, tuple[Check, ...]]] = {
    "clone": (
        Check(EPERM, (When(0, (0,), among=False, mask=CLONE_NAMESPACES | CLONE_PARENT),)),
        _OTHERWISE,
    ),
    # Netlink only for routes and addresses (what getifaddrs and Go's net package read); SCTP, MPTCP
    # and other protocols would only add kernel code, loaded on demand, to what a box can reach.
    "socket": (
        Check(ALLOW, (When(0, _FAMILIES), When(2, _PROTOCOLS))),
        Check(EPROTONOSUPPORT, (When(0, _FAMILIES),)),
        Check(ALLOW, (When(0, (_AF_NETLINK,)), When(2, (_NETLINK_ROUTE,)))),
        Check(EAFNOSUPPORT),
    ),
    # Compiled filters are counted for the whole host (net.core.bpf_jit_limit): where one box had all the
    # room, no other could have its seccomp filter, and none would start.  So no program may set one, of
    # either kind.
    "setsockopt": (Check(EPERM, (When(1, (_SOL_SOCKET,)), When(2, _SO_ATTACH))), _OTHERWISE),
    "socketpair": (Check(ALLOW, (When(0, (1,)),)), Check(EAFNOSUPPORT)),
    "personality": (Check(ALLOW, (When(0, _PERSONALITIES),)), Check(EPERM)),
    "ioctl": (Check(EPERM, (When(1, (_TIOCSTI, _TIOCLINUX, _TIOCSETD)),)), _OTHERWISE),
    "prctl": (Check(EPERM, (When(0, (_PR_SET_SECCOMP, _PR_SET_MM, _PR_SET_PTRACER)),)), _OTHERWISE),
    # Limits of other processes, process 1 of the box above all, are none of a program's business.
    # The core limit stays what it is (policy.rlimits); programs that lower it go on.
    "prlimit64": (
        Check(EPERM, (When(0, (0,), among=False),)),
        Check(ALLOW, (When(1, (_RLIMIT_CORE,), among=False),)),
        Check(ALLOW, (When(2, (0,)), When(2, (0,), high=True))),
        Check(NOTHING),
    ),
    "sched_setaffinity": _NOT_FIRST,
    "sched_setattr": _NOT_FIRST,
    "sched_setparam": _NOT_FIRST,
    "sched_setscheduler": _NOT_FIRST,
    "setpriority": (
        Check(EPERM, (When(1, (_FIRST,)),)),
        Check(EPERM, (When(0, (_PRIO_USER,)),)),
        _OTHERWISE,
    ),
    "ioprio_set": (
        Check(EPERM, (When(1, (_FIRST,)),)),
        Check(EPERM, (When(0, (_IOPRIO_WHO_USER,)),)),
        _OTHERWISE,
    ),
    "setrlimit": (Check(NOTHING, (When(0, (_RLIMIT_CORE,)),)), _OTHERWISE),
    # The host's reserve of huge pages counts against no limit of the box.
    "mmap": (Check(ENOMEM, _flag(3, _MAP_HUGETLB)), _OTHERWISE),
    "memfd_create": (Check(ENOMEM, _flag(1, _MFD_HUGETLB)), _OTHERWISE),
    "shmget": (Check(ENOMEM, _flag(2, _SHM_HUGETLB)), _OTHERWISE),
    # These would write out every file system of the host; nothing in a box needs to reach a disk.
    "sync": (Check(NOTHING),),
    "syncfs": (Check(NOTHING),),
}
"""Calls whose verdict depends on arguments, or is none of the usual: the first check that applies
decides; the last one of a call always applies."""


def _instruction(code: int, jt: int, jf: int, k: int) -> bytes:
    return struct.pack("=HBBI", code, jt, jf, k)


def _return(verdict: int) -> list[bytes]:
    return [_instruction(_RET, 0, 0, verdict)]


def _condition(when: When, past: int) -> list[bytes]:
    """Fall through when the condition holds, else jump over `past` more instructions.

    Little-endian: the low half of args[n] comes first.
    """
    offset = 16 + 8 * when.argument + 4 * when.high
    block = [_instruction(_LD_ABS, 0, 0, offset)]
    if when.mask != 0xFFFFFFFF:
        block.append(_instruction(_ALU_AND, 0, 0, when.mask))
    last = len(when.values) - 1
    for index, value in enumerate(when.values):
        rest = last - index
        if when.among:
            block.append(_instruction(_JEQ, rest, 0 if rest else past, value))
        else:
            block.append(_instruction(_JEQ, rest + past, 0, value))
    return block


def _check_block(checks: Sequence[Check]) -> list[bytes]:
    """The checks of one call, each ending in a return."""
    block: list[bytes] = []
    for check in checks:
        body = _return(check.verdict)
        for when in reversed(check.when):
            body = _condition(when, len(body)) + body
        block += body
    return block


def verdicts(machine: str | None = None) -> dict[int, int | str]:
    """System call number -> verdict, or the name of a call in `CHECKED`."""
    table = {"x86_64": X86_64_SYSCALLS, "aarch64": AARCH64_SYSCALLS}[machine or arch()]
    result: dict[int, int | str] = {}
    for name, number in table.items():
        if name in CHECKED:
            result[number] = name
        elif name in ALLOWED:
            result[number] = ALLOW
        elif name in REFUSED:
            result[number] = EPERM
    return result


def _ranges(table: Mapping[int, int | str]) -> list[tuple[int, int | str]]:
    """(first number, verdict) of each run of equal verdicts, from 0 up; gaps are ENOSYS."""
    ranges: list[tuple[int, int | str]] = []
    for number in range(max(table) + 2):
        verdict = table.get(number, ENOSYS)
        if not ranges or ranges[-1][1] != verdict or isinstance(verdict, str):
            ranges.append((number, verdict))
    return ranges


def _tree(ranges: Sequence[tuple[int, int | str]]) -> list[bytes]:
    """Binary search over `ranges`.  Conditional jumps reach 255 instructions, so the branch that
    may be far is the fall-through of an unconditional one."""
    if len(ranges) == 1:
        verdict = ranges[0][1]
        if isinstance(verdict, int):
            return _return(verdict)
        return _check_block(CHECKED[verdict])
    middle = len(ranges) // 2
    low, high = _tree(ranges[:middle]), _tree(ranges[middle:])
    if len(low) <= 255:
        return [_instruction(_JGE, len(low), 0, ranges[middle][0]), *low, *high]
    jump = _instruction(0x05, 0, 0, len(low))  # BPF_JMP | BPF_JA
    return [_instruction(_JGE, 0, 1, ranges[middle][0]), jump, *low, *high]


def build() -> bytes:
    """The filter for this machine's architecture, as `struct sock_filter[]`."""
    program = [
        _instruction(_LD_ABS, 0, 0, _OFFSET_ARCH),
        _instruction(_JEQ, 1, 0, audit_arch()),
        *_return(_RET_KILL),
        _instruction(_LD_ABS, 0, 0, _OFFSET_NR),
        _instruction(_JGE, 0, 1, _X32_BIT),
        *_return(_RET_KILL),
    ]
    return b"".join([*program, *_tree(_ranges(verdicts()))])
