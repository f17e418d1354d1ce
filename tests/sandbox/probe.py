"""What a program can see and do where it runs, as one JSON object on standard output.

Runs inside boxes and, for comparison, outside; standard library only.  Its argument is a JSON object
of things that the test made on the host: `port` of a listener, `abstract` name of a socket, `shm`
key of a shared memory segment, `path` of a file.
"""

import ctypes
import errno
import fcntl
import json
import os
import resource
import socket
import sys

LIBC = ctypes.CDLL(None, use_errno=True)
KEYCTL = 250
PR_GET_DUMPABLE, PR_GET_SECUREBITS = 3, 27
DIRECTORIES = "/boot /etc /home /lost+found /media /mnt /opt /root /run /srv /sys /var".split()
SECRETS = """
    /proc/cmdline /proc/kallsyms /proc/kcore /proc/keys /proc/key-users /proc/interrupts
    /proc/partitions /proc/timer_list /proc/zoneinfo /proc/sysvipc/shm /proc/pressure/cpu
    /proc/sys/kernel/random/boot_id /proc/config.gz /proc/softirqs /proc/vmstat
""".split()
OF_PROCESS_1 = "environ maps mem exe cwd root fd ns/pid status cmdline stat".split()


def outcome(act):
    """0, or the name of the error that `act` met."""
    try:
        act()
    except OSError as error:
        return errno.errorcode.get(error.errno, str(error.errno))
    return 0


def call(number, *arguments):
    """A raw system call; OSError when it fails."""
    result = LIBC.syscall(number, *arguments)
    if result < 0:
        raise OSError(ctypes.get_errno(), "")
    return result


def connects(family, address):
    with socket.socket(family, socket.SOCK_STREAM) as sock:
        sock.settimeout(10)
        return outcome(lambda: sock.connect(address))


def own_loopback():
    with socket.socket() as server, socket.socket() as client:
        server.bind(("127.0.0.1", 0))
        server.listen()
        client.connect(server.getsockname())


def status():
    with open("/proc/self/status") as file:
        return dict(line.rstrip("\n").split(":\t", 1) for line in file if ":\t" in line)


def read(path):
    with open(path, "rb") as file:
        return file.read(4096)


def first_bytes(path):
    """What the file begins with; empty when there is nothing to read."""
    try:
        return read(path).decode("latin-1")
    except OSError:
        return ""


def look(path):
    """Touch a file or directory of /proc as reading it would."""
    if os.path.isdir(path):
        os.listdir(path)
    elif os.path.islink(path):
        os.readlink(path)
    else:
        read(path)


def mounts():
    found = []
    with open("/proc/self/mountinfo") as file:
        for line in file:
            left, _, right = line.partition(" - ")
            fields = left.split()
            found.append(
                {
                    "root": fields[3],
                    "at": fields[4],
                    "options": fields[5].split(","),
                    "shared": fields[6:],
                    "kind": right.split()[0],
                }
            )
    return found


def open_fds():
    found = []
    for fd in range(1024):
        if outcome(lambda fd=fd: fcntl.fcntl(fd, fcntl.F_GETFD)) == 0:
            found.append(fd)
    return found


def listing(path):
    try:
        return sorted(os.listdir(path))
    except OSError:
        return None


def namespaces():
    kinds = ("cgroup", "ipc", "mnt", "net", "pid", "user", "uts")
    return {kind: os.readlink("/proc/self/ns/" + kind) for kind in kinds}


def facts(host):
    state = status()
    with open("/proc/self/stat") as file:
        fields = file.read().rpartition(")")[2].split()
    uname = os.uname()
    domain = first_bytes("/proc/sys/kernel/domainname").strip()
    return {
        "fds": open_fds(),
        "status": state,
        "env": {key: value for key, value in os.environ.items() if key != "LC_CTYPE"},
        "environ": sorted(filter(None, first_bytes("/proc/self/environ").split("\0"))),
        "cmdline": first_bytes("/proc/self/cmdline"),
        "pids": sorted(int(name) for name in os.listdir("/proc") if name.isdigit()),
        "pid": os.getpid(),
        "process_1": [
            name for name in OF_PROCESS_1 if outcome(lambda n=name: look("/proc/1/" + n)) == 0
        ],
        "names": [uname.nodename, domain],
        "ids": [*os.getresuid(), *os.getresgid(), *os.getgroups()],
        "maps": [
            first_bytes("/proc/self/uid_map").split(),
            first_bytes("/proc/self/gid_map").split(),
        ],
        "setgroups": first_bytes("/proc/self/setgroups").strip(),
        "mounts": mounts(),
        "root": sorted(os.listdir("/")),
        "root_read_only": bool(os.statvfs("/").f_flag & os.ST_RDONLY),
        "usr_read_only": bool(os.statvfs("/usr").f_flag & os.ST_RDONLY),
        "sysctl_read_only": bool(os.statvfs("/proc/sys").f_flag & os.ST_RDONLY),
        "secrets": [path for path in SECRETS if first_bytes(path)],
        "directories": {path: listing(path) for path in DIRECTORIES if listing(path) is not None},
        "devices": listing("/dev"),
        "scratch": {path: listing(path) for path in ("/tmp", "/dev/shm", "/home/era")},
        "host_path": os.path.exists(host["path"]),
        "namespaces": namespaces(),
        "interfaces": [name for _, name in socket.if_nameindex()],
        "routes": first_bytes("/proc/net/route").splitlines()[1:],
        "connect": connects(socket.AF_INET, ("127.0.0.1", host["port"])),
        "abstract": connects(socket.AF_UNIX, "\0" + host["abstract"]),
        "own_loopback": outcome(own_loopback),
        "shm": outcome(lambda: call(29, host["shm"], 0, 0)),
        "keyring": outcome(lambda: call(KEYCTL, 0, -3, 0)),
        "cgroups": sorted(
            {line.split(":", 2)[2] for line in read("/proc/self/cgroup").decode().split()}
        ),
        "limits": {
            name: resource.getrlimit(getattr(resource, name))
            for name in dir(resource)
            if name.startswith("RLIMIT_")
        },
        "umask": os.umask(0o022),
        "session": [os.getsid(0), os.getpgrp()],
        "tty": int(fields[4]),
        "open_tty": outcome(lambda: os.close(os.open("/dev/tty", os.O_RDWR))),
        "oom_score_adj": int(read("/proc/self/oom_score_adj")),
        "nice": os.nice(0),
        "nicer": outcome(lambda: os.nice(-5)),
        "real_time": outcome(lambda: os.sched_setscheduler(0, os.SCHED_FIFO, os.sched_param(1))),
        "policy": os.sched_getscheduler(0),
        "cpus": sorted(os.sched_getaffinity(0)),
        "personality": LIBC.personality(0xFFFFFFFF),
        "securebits": LIBC.prctl(PR_GET_SECUREBITS, 0, 0, 0, 0),
        "dumpable": LIBC.prctl(PR_GET_DUMPABLE, 0, 0, 0, 0),
        "cwd": os.getcwd(),
        "time": os.stat("/proc/self/ns/time").st_ino,
    }


if __name__ == "__main__":
    json.dump(facts(json.loads(sys.argv[1])), sys.stdout)
