"""Tries everything that a program in a box has no business to do; prints act -> outcome as JSON.

The outcome is 0 when the act succeeded, else the name of the error or of the signal it met.  Every
act has a process of its own.  Standard library only.
"""

import ctypes
import errno
import fcntl
import json
import os
import resource
import signal
import socket
import struct
import sys

LIBC = ctypes.CDLL(None, use_errno=True)
NEW = {
    "mount": 0x00020000,
    "cgroup": 0x02000000,
    "uts": 0x04000000,
    "ipc": 0x08000000,
    "user": 0x10000000,
    "pid": 0x20000000,
    "net": 0x40000000,
    "time": 0x00000080,
}
MS_RDONLY, MS_REMOUNT, MS_BIND, MS_REC = 1, 32, 4096, 16384
RAW, STREAM, DATAGRAM, SEQUENCED = 3, 1, 2, 5
ACTS = {}


def act(name):
    """Register a function as the act `name`."""

    def register(function):
        ACTS[name] = function
        return function

    return register


def check(result):
    """The result of a call, or the error it set."""
    if result < 0:
        raise OSError(ctypes.get_errno(), "")
    return result


def call(number, *arguments):
    """A raw system call; integers are passed whole, bytes and buffers by address."""
    wide = [ctypes.c_long(a) if isinstance(a, int) else a for a in arguments]
    return check(LIBC.syscall(ctypes.c_long(number), *wide))


def mount(source, target, kind, flags=0, data=b""):
    """mount(2)."""
    check(LIBC.mount(source, target, kind, ctypes.c_ulong(flags), data))


def write(path, text):
    """Open for writing without creating, and write."""
    fd = os.open(path, os.O_WRONLY)
    os.write(fd, text)


def as_namespace_root():
    """Become root of a new user namespace, with mounts and network of its own."""
    uid, gid = os.getuid(), os.getgid()
    check(LIBC.unshare(NEW["user"] | NEW["mount"] | NEW["net"]))
    write("/proc/self/setgroups", b"deny")
    write("/proc/self/uid_map", b"0 %d 1" % uid)
    write("/proc/self/gid_map", b"0 %d 1" % gid)


for _name, _flag in NEW.items():
    ACTS[f"unshare {_name}"] = lambda flag=_flag: check(LIBC.unshare(flag))
    ACTS[f"clone {_name}"] = lambda flag=_flag: call(56, flag | signal.SIGCHLD, 0, 0, 0, 0)
for _kind in ("user", "mnt", "net", "pid"):
    ACTS[f"setns {_kind}"] = lambda kind=_kind: check(
        LIBC.setns(os.open(f"/proc/self/ns/{kind}", os.O_RDONLY), 0)
    )
ACTS |= {
    "clone parent": lambda: call(56, 0x8000 | signal.SIGCHLD, 0, 0, 0, 0),
    "clone3": lambda: call(435, struct.pack("=8Q", *[0] * 4, signal.SIGCHLD, *[0] * 3), 64),
    # -- mounts and roots
    "mount tmpfs": lambda: mount(b"x", b"/tmp", b"tmpfs"),
    "mount proc": lambda: mount(b"x", b"/tmp", b"proc"),
    "mount overlay": lambda: mount(b"x", b"/tmp", b"overlay", 0, b"lowerdir=/usr:/etc"),
    "bind over passwd": lambda: mount(b"/usr/bin/env", b"/etc/passwd", None, MS_BIND),
    "remount root writable": lambda: mount(None, b"/", None, MS_REMOUNT | MS_BIND),
    "remount usr writable": lambda: mount(None, b"/usr", None, MS_REMOUNT | MS_BIND),
    "remount proc/sys writable": lambda: mount(None, b"/proc/sys", None, MS_REMOUNT | MS_BIND),
    "umount a mask": lambda: check(LIBC.umount2(b"/proc/cmdline", 2)),
    "umount proc": lambda: check(LIBC.umount2(b"/proc", 2)),
    "pivot_root": lambda: call(155, b"/tmp", b"/tmp"),
    "chroot": lambda: check(LIBC.chroot(b"/tmp")),
    "fsopen": lambda: call(430, b"tmpfs", 0),
    "fspick": lambda: call(433, -100, b"/tmp", 0),
    "open_tree": lambda: call(428, -100, b"/usr", 0),
    "open_tree clone": lambda: call(428, -100, b"/usr", 1),
    "move_mount": lambda: call(429, -100, b"/usr", -100, b"/tmp", 0),
    "mount_setattr": lambda: call(442, -100, b"/", 0, bytes(32), 32),
    "name_to_handle_at": lambda: call(
        303, -100, b"/usr", ctypes.create_string_buffer(struct.pack("=I", 128) + bytes(132)),
        ctypes.byref(ctypes.c_int()), 0,
    ),
    "open_by_handle_at": lambda: call(304, -100, struct.pack("=II8s", 8, 1, bytes(8)), 0),
    # -- the kernel
    "io_uring": lambda: call(425, 4, ctypes.create_string_buffer(120)),
    "bpf": lambda: call(321, 0, struct.pack("=5I", 1, 4, 4, 1, 0), 20),
    "perf": lambda: call(298, struct.pack("=IIQ", 1, 128, 0) + bytes(112), 0, -1, -1, 0),
    "userfaultfd": lambda: call(323, 1),
    "keyctl": lambda: call(250, 0, -3, 1),
    "add_key": lambda: call(248, b"user", b"era", b"x", 1, -3),
    "request_key": lambda: call(249, b"user", b"era-none", None, -3),
    "kexec_load": lambda: call(246, 0, 0, None, 0),
    "init_module": lambda: call(175, b"", 0, b""),
    "finit_module": lambda: call(313, 0, b"", 0),
    "delete_module": lambda: call(176, b"era", 0),
    "swapon": lambda: call(167, b"/workspace/x", 0),
    "reboot": lambda: call(169, 0xFEE1DEAD, 672274793, 0, None),
    "settimeofday": lambda: call(164, struct.pack("=QQ", 1, 0), None),
    "clock_settime": lambda: call(227, 0, struct.pack("=QQ", 1, 0)),
    "adjtimex": lambda: call(159, ctypes.create_string_buffer(struct.pack("=I", 1) + bytes(300))),
    "modify_ldt": lambda: call(154, 0, ctypes.create_string_buffer(16), 16),
    "iopl": lambda: call(172, 3),
    "ioperm": lambda: call(173, 0x80, 1, 1),
    "vmsplice": lambda: call(278, os.pipe()[1], None, 0, 0),
    "memfd_secret": lambda: call(447, 0),
    "syslog": lambda: call(103, 10, None, 0),
    "acct": lambda: call(163, None),
    "quotactl": lambda: call(179, 0x800001 << 8, None, 0, None),
    "fanotify": lambda: call(300, 0x200, 0),
    "move_pages": lambda: call(279, 0, 0, None, None, None, 0),
    "migrate_pages": lambda: call(256, 0, 0, None, None),
    "mbind": lambda: call(237, 0, 0, 0, None, 0, 0),
    "sethostname": lambda: check(LIBC.sethostname(b"x", 1)),
    "setdomainname": lambda: check(LIBC.setdomainname(b"x", 1)),
    "vhangup": lambda: call(153),
    "huge pages": lambda: call(9, 0, 2 << 20, 3, 0x40022, -1, 0),
    "huge memfd": lambda: call(319, b"x", 4),
    "aio": lambda: call(206, 1, ctypes.create_string_buffer(8)),
    # -- other processes
    "ptrace traceme": lambda: call(101, 0, 0, 0, 0),
    "ptrace parent": lambda: call(101, 0x4206, os.getppid(), 0, 0),
    "process_vm_readv": lambda: call(310, os.getpid(), None, 0, None, 0, 0),
    "process_vm_writev": lambda: call(311, os.getpid(), None, 0, None, 0, 0),
    "kcmp": lambda: call(312, os.getpid(), os.getpid(), 0, 0, 0),
    "pidfd_getfd": lambda: call(438, os.pidfd_open(os.getpid()), 0, 0),
    "scheduling of process 1": lambda: os.sched_setscheduler(1, os.SCHED_IDLE, os.sched_param(0)),
    "priority of process 1": lambda: os.setpriority(os.PRIO_PROCESS, 1, 19),
    "priority of the user": lambda: os.setpriority(os.PRIO_USER, 0, 19),
    "limits of process 1": lambda: resource.prlimit(1, resource.RLIMIT_NOFILE),
    "fds of process 1": lambda: os.listdir("/proc/1/fd"),
    "memory of process 1": lambda: os.open("/proc/1/mem", os.O_RDWR),
    "root of process 1": lambda: os.listdir("/proc/1/root/"),
    "directory of process 1": lambda: os.listdir("/proc/1/cwd/"),
    "namespaces of process 1": lambda: os.open("/proc/1/ns/net", os.O_RDONLY),
    # -- rights
    "setuid 0": lambda: os.setresuid(0, 0, 0),
    "setgid 0": lambda: os.setresgid(0, 0, 0),
    "setgroups": lambda: os.setgroups([0]),
    "capset": lambda: check(
        LIBC.capset(struct.pack("=II", 0x20080522, 0), struct.pack("=6I", *[0xFFFFFFFF] * 6))
    ),
    "ambient": lambda: check(LIBC.prctl(47, 2, 21, 0, 0)),
    "new privileges": lambda: check(LIBC.prctl(38, 0, 0, 0, 0)),
    "securebits": lambda: check(LIBC.prctl(28, 1, 0, 0, 0)),
    "memory map": lambda: check(LIBC.prctl(35, 8, 0, 0, 0)),
    "personality": lambda: check(LIBC.personality(0x0400000)),
    "raise open files": lambda: resource.setrlimit(resource.RLIMIT_NOFILE, (9999, 9999)),
    "raise processes": lambda: call(160, resource.RLIMIT_NPROC, struct.pack("=qq", 9999, 9999)),
    "lock memory": lambda: check(LIBC.mlock(ctypes.create_string_buffer(9 << 20), 9 << 20)),
    "nicer": lambda: os.nice(-5),
    "real time": lambda: os.sched_setscheduler(0, os.SCHED_FIFO, os.sched_param(1)),
    "deadline": lambda: call(314, 0, struct.pack("=IIQiIQQQ", 48, 6, 0, 0, 0, 10**7, 10**8, 10**8), 0),
    "io priority": lambda: call(251, 1, 0, 1 << 13),
    "message queue": lambda: call(240, b"era", os.O_CREAT | os.O_RDWR, 0o600, None),
    # -- /proc and devices
    "core pattern": lambda: write("/proc/sys/kernel/core_pattern", b"|/workspace/x"),
    "modprobe": lambda: write("/proc/sys/kernel/modprobe", b"/workspace/x"),
    "hostname setting": lambda: write("/proc/sys/kernel/hostname", b"x"),
    "forwarding": lambda: write("/proc/sys/net/ipv4/ip_forward", b"1"),
    "drop caches": lambda: write("/proc/sys/vm/drop_caches", b"3"),
    "namespace limit": lambda: write("/proc/sys/user/max_user_namespaces", b"9"),
    "sysrq": lambda: write("/proc/sysrq-trigger", b"h"),
    "uid map": lambda: write("/proc/self/uid_map", b"0 1000 1"),
    "oom score": lambda: write("/proc/self/oom_score_adj", b"-999"),
    "login id": lambda: write("/proc/self/loginuid", b"7"),
    "block device": lambda: os.mknod("/workspace/block", 0o60666, os.makedev(7, 0)),
    "character device": lambda: os.mknod("/workspace/char", 0o20666, os.makedev(1, 1)),
    "immutable": lambda: fcntl.ioctl(
        os.open("/workspace/refusals.py", os.O_RDONLY), 0x40086602, struct.pack("=q", 0x10)
    ),
    # -- files of the host
    "write to usr": lambda: os.open("/usr/bin/era-x", os.O_WRONLY | os.O_CREAT),
    "change usr": lambda: write("/usr/bin/env", b"x"),
    "chmod in usr": lambda: os.chmod("/usr/bin/env", 0o777),
    "touch in usr": lambda: os.utime("/usr/bin/env"),
    "unlink in usr": lambda: os.unlink("/usr/bin/env"),
    "xattr in usr": lambda: os.setxattr("/usr/bin/env", "user.x", b""),
    "link from usr": lambda: os.link("/usr/bin/env", "/workspace/env"),
    "change passwd": lambda: write("/etc/passwd", b"x"),
    "write to the root": lambda: os.mkdir("/x"),
    "write to etc": lambda: os.open("/etc/hosts", os.O_WRONLY | os.O_CREAT),
    "write to dev": lambda: os.open("/dev/x", os.O_WRONLY | os.O_CREAT),
    "rename a link": lambda: os.rename("/bin", "/nib"),
    "file capability": lambda: os.setxattr(
        "/workspace/refusals.py", "security.capability", struct.pack("=5I", 0x2000001, 1, 0, 0, 0)
    ),
    "trusted attribute": lambda: os.setxattr("/workspace", "trusted.overlay.opaque", b"y"),
}  # fmt: skip
for _path in ("kmsg", "kvm", "loop-control", "fuse", "ptmx", "tty", "vsock", "net/tun", "mem"):
    ACTS[f"open /dev/{_path}"] = lambda path=_path: os.open(f"/dev/{path}", os.O_RDWR)
for _name, _triple in {
    "packet": (17, RAW, 0),
    "raw": (2, RAW, 1),
    "raw 6": (10, RAW, 58),
    "any raw": (2, RAW, 255),
    "ping": (2, DATAGRAM, 1),
    "vsock": (40, STREAM, 0),
    "algorithm": (38, SEQUENCED, 0),
    "key": (15, RAW, 2),
    "bluetooth": (31, RAW, 1),
    "xdp": (44, RAW, 0),
    "can": (29, RAW, 1),
    "tipc": (30, STREAM, 0),
    "sctp": (2, STREAM, 132),
    "mptcp": (2, STREAM, 262),
    "netlink diag": (16, RAW, 4),
    "netlink netfilter": (16, RAW, 12),
    "netlink audit": (16, RAW, 9),
    "netlink uevent": (16, RAW, 15),
    "netlink generic": (16, RAW, 16),
    "netlink crypto": (16, RAW, 21),
}.items():
    ACTS[f"socket {_name}"] = lambda triple=_triple: socket.socket(*triple)


@act("terminal input")
def _terminal_input():
    for number in (0x5412, 0x541C, 0x5423):  # TIOCSTI, TIOCLINUX, TIOCSETD
        fcntl.ioctl(1, number, b"x" * 8)


@act("filter on a socket")
def _filter_on_a_socket():
    code = ctypes.create_string_buffer(struct.pack("=HBBI", 6, 0, 0, 0xFFFF))
    program = struct.pack("=HxxxxxxQ", 1, ctypes.addressof(code))
    with socket.socket(socket.AF_UNIX, DATAGRAM) as sock:
        sock.setsockopt(socket.SOL_SOCKET, 26, program)  # SO_ATTACH_FILTER


def _filter_of_all() -> tuple[object, bytes]:
    code = ctypes.create_string_buffer(struct.pack("=HBBI", 6, 0, 0, 0x7FFF0000))
    return code, struct.pack("=HxxxxxxQ", 1, ctypes.addressof(code))


@act("filter of its own")
def _filter_of_its_own():
    _kept, program = _filter_of_all()
    call(317, 1, 0, program)


@act("filter of its own by prctl")
def _filter_of_its_own_by_prctl():
    _kept, program = _filter_of_all()
    call(157, 22, 2, program, 0, 0)


@act("add an address")
def _add_an_address():
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sock:
        address = struct.pack("=HH4s8x", socket.AF_INET, 0, socket.inet_aton("10.9.9.9"))
        fcntl.ioctl(sock, 0x8916, struct.pack("16s16s8x", b"lo", address))


@act("add an interface")
def _add_an_interface():
    kind = struct.pack("=HH6s2x", 10, 1, b"dummy\0")
    info = struct.pack("=HH", 4 + len(kind), 18) + kind
    body = struct.pack("=BxHiII", 0, 0, 0, 0, 0) + info
    with socket.socket(16, RAW, 0) as sock:
        sock.sendto(struct.pack("=IHHII", 16 + len(body), 16, 0x605, 1, 0) + body, (0, 0))
        answer = sock.recv(4096)
    (error,) = struct.unpack_from("=i", answer, 16)
    if error:
        raise OSError(-error, "")


@act("namespace root mounts")
def _namespace_root_mounts():
    as_namespace_root()
    mount(b"x", b"/tmp", b"tmpfs")


@act("namespace root uncovers usr")
def _namespace_root_uncovers():
    as_namespace_root()
    mount(None, b"/usr", None, MS_REMOUNT | MS_BIND)


@act("namespace root lifts a mask")
def _namespace_root_lifts():
    as_namespace_root()
    check(LIBC.umount2(b"/proc/cmdline", 2))


@act("namespace root mounts proc")
def _namespace_root_mounts_proc():
    as_namespace_root()
    mount(b"x", b"/tmp", b"proc")


@act("namespace root sniffs")
def _namespace_root_sniffs():
    as_namespace_root()
    socket.socket(17, RAW, 0)


def outcome(status):
    """0, the name of the error, or the name of the signal."""
    if os.WIFSIGNALED(status):
        return signal.Signals(os.WTERMSIG(status)).name
    number = os.WEXITSTATUS(status)
    return errno.errorcode.get(number, number)


def attempt(function):
    """Run one act in a process of its own."""
    pid = os.fork()
    if pid:
        return outcome(os.waitpid(pid, 0)[1])
    try:
        function()
    except OSError as error:
        os._exit(error.errno or 255)
    except ValueError:
        os._exit(errno.EPERM)  # how `resource` says that a limit may not be raised
    except BaseException:  # noqa: BLE001 - a fork must not return
        os._exit(254)
    os._exit(0)


if __name__ == "__main__":
    names = sys.argv[1:] or list(ACTS)
    json.dump({name: attempt(ACTS[name]) for name in names}, sys.stdout)
