"""Makes every system call once, in a process of its own each, and prints what came of it as JSON.

Runs in a box; its arguments are the last x86-64 number and `plain`, `x32` or `i386`.  All arguments
of the calls are -1, which nothing accepts.
"""

import ctypes
import json
import mmap
import os
import resource
import signal
import sys

LIBC = ctypes.CDLL(None, use_errno=True)
VFORK = 58  # its child would run on our stack
X32 = 0x40000000
INT_80 = bytes.fromhex("53 89 f8 bb ff ff ff ff cd 80 5b c3")
"""push rbx; mov eax, edi; mov ebx, -1; int 0x80; pop rbx; ret"""
DONE, BLOCKED = 200, "blocked"


def int_80(number):
    """A system call of the 32-bit table."""
    page = mmap.mmap(-1, 4096, prot=mmap.PROT_READ | mmap.PROT_WRITE | mmap.PROT_EXEC)
    page.write(INT_80)
    address = ctypes.addressof(ctypes.c_char.from_buffer(page))
    return ctypes.CFUNCTYPE(ctypes.c_int, ctypes.c_int)(address)(number)


def child(number, kind):
    """Make the call; the exit status tells the error, or that there was none."""
    signal.setitimer(signal.ITIMER_REAL, 0.3)
    mine = os.getpid()
    if kind == "i386":
        result = int_80(number)
        error = -result if result < 0 else 0
    else:
        number |= X32 if kind == "x32" else 0
        result = LIBC.syscall(ctypes.c_long(number), *[ctypes.c_long(-1)] * 6)
        error = ctypes.get_errno() if result == -1 else 0
    if os.getpid() != mine:
        os._exit(0)  # the call made a process
    os._exit(error or DONE)


def outcome(status):
    """The error number, 0, the name of the signal, or that it did not return in time."""
    if os.WIFSIGNALED(status):
        number = os.WTERMSIG(status)
        return BLOCKED if number == signal.SIGALRM else signal.Signals(number).name
    return os.WEXITSTATUS(status) % DONE


def sweep(numbers, kind):
    """Number -> outcome."""
    found = {}
    for number in numbers:
        if kind == "plain" and number == VFORK:
            continue
        pid = os.fork()
        if pid == 0:
            child(number, kind)
        found[number] = outcome(os.waitpid(pid, 0)[1])
    return found


if __name__ == "__main__":
    resource.setrlimit(resource.RLIMIT_CPU, (60, 60))
    first, last, kind = sys.argv[1:]
    json.dump(sweep(range(int(first), int(last) + 1), kind), sys.stdout)
