"""Programs of untrusted code, for boxes of the driver and for those of a started server."""

from __future__ import annotations

PAGE = """
import ctypes, os, sys
path, at = sys.argv[1], 0
with open(path, "rb") as file:
    size = os.fstat(file.fileno()).st_size
libc = ctypes.CDLL(None, use_errno=True)
libc.mmap.restype = ctypes.c_void_p
fd = os.open(path, os.O_RDONLY)
for flags, protection in ((1, 1), (2, 1)):  # shared, private; read-only both
    address = libc.mmap(None, 4096, protection, flags, fd, ctypes.c_long(0))
    memory = os.open("/proc/self/mem", os.O_RDWR)
    try:
        os.pwrite(memory, b"forged", address)
        print(flags, ctypes.string_at(address, 6).decode("latin-1"))
    except OSError as error:
        print(flags, error.strerror)
with open(path, "rb") as file:
    print(b"forged" in file.read(64))
"""
FROM_MEMORY = """
import os
fd = os.memfd_create("x", 0)
os.write(fd, open("/usr/bin/grep", "rb").read())
os.execve(fd, ["grep", "-hE", "^(CapEff|NoNewPrivs|Seccomp|Uid)", "/proc/self/status"], {})
"""
SPOIL_STDIN = """
import fcntl, os
def outcome(act):
    try: act()
    except OSError as error: return error.strerror
    return "done"
def again(flags): return os.open("/proc/self/fd/0", flags)
def chmod(): os.fchmod(0, 0o666)
def change(): os.pwrite(again(os.O_RDWR), b"forged", 0)
def enlarge(): os.ftruncate(again(os.O_RDWR), 99)
def shrink(): again(os.O_WRONLY | os.O_TRUNC)
def unseal(): fcntl.fcntl(0, 1033, 0)
for act in (lambda: os.write(0, b"x"), chmod, change, enlarge, shrink, unseal): print(outcome(act))
print(open(0).read())
"""
KILL_EVERYONE = """
import os, signal
child = os.fork()
if not child:
    signal.pause()
os.kill(-1, signal.SIGKILL)  # all but itself and process 1
print(os.waitpid(child, 0)[1])
"""
SIGNALS = """
import ctypes, os, signal, time
libc = ctypes.CDLL(None)
numbers = [n for n in range(1, 65) if n not in (32, 33)]
info = ctypes.create_string_buffer(128)
by_queue = (-1).to_bytes(4, "little", signed=True)
for number in numbers:
    os.kill(1, number)
    libc.syscall(200, 1, number)             # tkill
    libc.syscall(234, 1, 1, number)          # tgkill
    ctypes.memmove(info, number.to_bytes(4, "little") + bytes(4) + by_queue, 12)
    libc.syscall(129, 1, number, info)       # rt_sigqueueinfo
    libc.syscall(297, 1, 1, number, info)    # rt_tgsigqueueinfo
    signal.pidfd_send_signal(os.pidfd_open(1), number)
died = 0
for number in (n for n in numbers if n not in (17, 18, 19, 20, 21, 22, 23, 28)):
    child = os.fork()
    if not child:
        if number != 9: signal.signal(number, signal.SIG_DFL)
        signal.pause()
    while open(f"/proc/{child}/stat").read().rpartition(")")[2].split()[0] != "S": time.sleep(0.001)
    os.kill(child, number)
    died += os.waitpid(child, 0)[1] & 0x7f == number
print(died, len(numbers) - 8)
"""
STOPPED = """
import os, signal
for _ in range(10):
    if not os.fork():
        os.setsid()
        os.kill(os.getpid(), signal.SIGSTOP)
print("stopped", flush=True)
os.kill(-1, signal.SIGSTOP)
os.kill(os.getpid(), signal.SIGSTOP)
"""
VFORK = """
import ctypes, mmap
# vfork; the child (rax == 0) calls pause for ever, on nothing but registers
stub = bytes.fromhex("b8 3a 00 00 00 0f 05 85 c0 75 09 b8 22 00 00 00 0f 05 eb f7 c3")
page = mmap.mmap(-1, 4096, prot=7)
page.write(stub)
print("in", flush=True)
ctypes.CFUNCTYPE(ctypes.c_int)(ctypes.addressof(ctypes.c_char.from_buffer(page)))()
print("out", flush=True)
"""
ORPHANS = """
import os, time
def fork():
    while True:  # process 1 may need a moment
        try: return os.fork()
        except BlockingIOError: time.sleep(0.01)
for _ in range(300):
    child = fork()
    if not child:
        fork()
        os._exit(0)
    os.waitpid(child, 0)
print("done")
"""
MANY_ZOMBIES = """
import os
made = 0
while made < MANY:
    try: pid = os.fork()
    except OSError: break
    if not pid: os._exit(0)
    made += 1
print(made, flush=True)
os.kill(os.getpid(), 9)
"""
UPWARDS = """
import os
root = os.stat("/")
for start in ("/", "/usr", "/proc", "/dev/shm", "/tmp", "/workspace", "/proc/self/task", "/etc"):
    at = os.open(start, os.O_RDONLY | os.O_DIRECTORY)
    for _ in range(64): at = os.open("..", os.O_RDONLY | os.O_DIRECTORY, dir_fd=at)
    found = os.fstat(at)
    assert (found.st_dev, found.st_ino) == (root.st_dev, root.st_ino), start
for link in ("/proc/self/root", "/proc/self/cwd/../..", "/proc/thread-self/root/.."):
    assert os.stat(link).st_ino == root.st_ino, link
print(sorted(os.listdir("/proc/self/root/..")) == sorted(os.listdir("/")))
"""
FORKS = """
import os, signal
made = 0
while made < 150:
    try: child = os.fork()
    except OSError: break
    if not child: signal.pause()
    made += 1
print(made)
"""
THREADS = """
import os, threading
threading.stack_size(1 << 16)
made = 0
while made < 150:
    try: threading.Thread(target=lambda: threading.Event().wait(), daemon=True).start()
    except RuntimeError: break
    made += 1
print(made, flush=True)
os._exit(0)
"""
TAKE = {
    "anonymous": "keep = b'x' * (200 << 20)",
    "shared": "import mmap; keep = mmap.mmap(-1, 200 << 20); keep.write(b'x' * (200 << 20))",
    "memory file": """
import os
fd = os.memfd_create("x")
for _ in range(200): os.write(fd, b"x" * (1 << 20))""",
    "/dev/shm": """
with open("/dev/shm/x", "wb") as file:
    for _ in range(200): file.write(b"x" * (1 << 20))""",
    "System V": """
import ctypes
libc = ctypes.CDLL(None, use_errno=True)
libc.shmat.restype = ctypes.c_void_p
for _ in range(4):
    address = libc.shmat(libc.shmget(0, 50 << 20, 0o1600), None, 0)
    ctypes.memset(address, 1, 50 << 20)""",
    "page tables": """
import ctypes, mmap
libc = ctypes.CDLL(None)
libc.mmap.restype = ctypes.c_void_p
base = libc.mmap(None, ctypes.c_size_t(50_000 << 21), 1, 0x4022, -1, ctypes.c_long(0))
for place in range(50_000): ctypes.string_at(base + (place << 21), 1)""",
    "sockets": """
import socket
keep = []
for _ in range(480):
    pair = socket.socketpair()
    pair[0].setblocking(False)
    try:
        while True: pair[0].send(b"x" * 65536)
    except BlockingIOError: keep.append(pair)
    pair[1].setblocking(False)
    try:
        while True: pair[1].send(b"x" * 65536)
    except BlockingIOError: pass""",
    "children": """
import os
for _ in range(4):
    if not os.fork():
        keep = b"x" * (50 << 20)
        os.kill(os.getpid(), 19)
    # One that was killed stands for all: the others follow in a moment.
    if not os.WIFSTOPPED(os.waitpid(-1, os.WUNTRACED)[1]): os.kill(os.getpid(), 19)""",
}
DATAGRAMS = """
import socket
keep = []
for _ in range(60):
    a, b = (socket.socket(socket.AF_INET, socket.SOCK_DGRAM) for _ in range(2))
    a.bind(("127.0.0.1", 0))
    a.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4 << 20)
    b.setblocking(False)
    try:
        for _ in range(100): b.sendto(b"x" * 60_000, a.getsockname())
    except OSError: pass
    keep.append(a)
held = 0
for a in keep:
    a.setblocking(False)
    try:
        while True: held += len(a.recv(65536))
    except BlockingIOError: pass
print(held)
"""
FILL = """
import errno, os, sys
step, total, why = int(sys.argv[1]), 0, ""
for place in ("/workspace", "/tmp", "/home/era"):
    fd = os.open(place + "/fill", os.O_WRONLY | os.O_CREAT)
    try:
        for index in range(40):
            if step: os.posix_fallocate(fd, index << 20, 1 << 20)
            else: os.write(fd, b"x" * (1 << 20))
            total += 1
    except OSError as error: why = errno.errorcode[error.errno]
print(total, why)
"""
INODES = """
import errno, os
made = 0
try:
    while made < 9000:
        os.close(os.open(f"/tmp/{made}", os.O_CREAT | os.O_WRONLY))
        made += 1
except OSError as error: assert error.errno == errno.ENOSPC
print(made)
"""
HOARD = {
    "inotify": """
keep = []
while len(keep) < 1000:
    fd = libc.inotify_init()
    if fd < 0: break
    keep.append(fd)
""",
    "flying descriptors": """
keep, null = [], os.open("/dev/null", os.O_RDONLY)
try:
    for _ in range(40):
        keep.append(socket.socketpair())
        for _ in range(30): socket.send_fds(keep[-1][0], [b"x"], [null] * 40)
except OSError: pass
""",
    "pipes": """
keep = []
try:
    while True:
        keep.append(os.pipe())
        fcntl.fcntl(keep[-1][0], 1031, 1 << 20)
except OSError: pass
""",
}
USE = {
    "inotify": "print(libc.inotify_init() >= 0)",
    "flying descriptors": "a, b = socket.socketpair(); socket.send_fds(a, [b'x'], [0]); print(True)",
    "pipes": "print(fcntl.fcntl(os.pipe()[0], 1031, 1 << 20) == 1 << 20)",
}
IMPORTS = "import ctypes, fcntl, os, socket, sys, time\nlibc = ctypes.CDLL(None)\n"
MOUNT_POINTS = """
import os, shutil
def outcome(act):
    try: act()
    except OSError: return "no"
    return "done"
for path in ("/workspace", "/tmp", "/home/era", "/dev/shm", "/proc/sys"):
    print(outcome(lambda: os.rmdir(path)), outcome(lambda: os.rename(path, path + "x")), end=" ")
shutil.rmtree("/workspace", ignore_errors=True)
print(os.path.isdir("/workspace"))
"""
