"""How much CPU was ours, the kernel's and everybody else's while something was measured.

On cgroup v1 this process, and with it what it starts, gets a `cpuacct` group of its own, whose figure
is exact and counts processes that have long ended.  On v2 the group we are in is read as it is, so
run in a scope of your own there.  Without either there is no CPU figure, and foreign work is judged
by the kernel's tick counts alone.
"""

from __future__ import annotations

import os
import platform
import shutil
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from era.sandbox.namespaces.cgroups.detect import find_v1

FOREIGN_LIMIT: Final = 0.10
"""Share of one CPU that other work may take while a batch runs; more, and the batch is noisy."""
QUIET_WINDOW_SECONDS: Final = 0.25
IDLE_WINDOW_SECONDS: Final = 0.010
_IDLE_NS: Final = 500_000
"""Of CPU in an idle window: below this nothing is being prepared any more."""
_SETTLE_SECONDS: Final = 2.0
_REMOVE_SECONDS: Final = 10.0


def _number(path: str) -> int:
    with open(path, encoding="ascii") as file:
        return int(file.read())


@dataclass(frozen=True, slots=True, kw_only=True)
class CpuFile:
    """A file that tells the CPU time of a group of processes."""

    path: str

    def read_ns(self) -> int:
        """The time so far."""
        if self.path.endswith("cpu.stat"):
            text = Path(self.path).read_text()
            return int(text.split("usage_usec ", 1)[1].split()[0]) * 1000
        return _number(self.path)


@dataclass(frozen=True, slots=True, kw_only=True)
class Reading:
    """CPU times since some beginning, in nanoseconds, and the time itself."""

    at: int
    own: int
    kernel: int
    total: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Spent:
    """What went on between two readings; `own_ns` is None where it cannot be told."""

    wall_ns: int
    own_ns: int | None
    kernel_ns: int
    foreign: float
    """Share of one CPU that neither we nor the kernel took."""


class Meter:
    """Reads the clocks.  `own` is the group of this process and what it starts; `aside` the directory
    of a group for processes that belong to the measuring and count neither as ours nor as foreign."""

    def __init__(
        self, own: CpuFile | None, total: CpuFile | None = None, aside: str | None = None
    ) -> None:
        self.own = own
        self.aside = aside
        self._total = total
        self._kernel_threads = [pid for pid in _pids() if _is_kernel_thread(pid)]

    def read(self) -> Reading:
        """All clocks now."""
        return Reading(
            at=time.perf_counter_ns(),
            own=self.own.read_ns() if self.own else 0,
            kernel=sum(map(_ran_ns, self._kernel_threads)),
            total=(self._total.read_ns() if self._total else _ticks_ns()) - self._aside_ns(),
        )

    def _aside_ns(self) -> int:
        return _number(f"{self.aside}/cpuacct.usage") if self.aside else 0

    def between(self, a: Reading, b: Reading) -> Spent:
        """What was spent from `a` to `b`."""
        wall = max(1, b.at - a.at)
        own, kernel = b.own - a.own, b.kernel - a.kernel
        rest = max(0, b.total - a.total - own - kernel)
        return Spent(
            wall_ns=wall,
            own_ns=own if self.own else None,
            kernel_ns=kernel,
            foreign=rest / wall if self.own else 0.0,
        )

    def settle(self) -> None:
        """Wait until what we started has nothing left to do."""
        deadline = time.monotonic() + _SETTLE_SECONDS
        while time.monotonic() < deadline:
            before = self.own.read_ns() if self.own else 0
            time.sleep(IDLE_WINDOW_SECONDS)
            if self.own is None or self.own.read_ns() - before < _IDLE_NS:
                return

    def wait_until_quiet(self, seconds: float) -> bool:
        """Wait for others to pause, `seconds` at most; whether they did."""
        deadline = time.monotonic() + seconds
        while time.monotonic() < deadline:
            before = self.read()
            time.sleep(QUIET_WINDOW_SECONDS)
            if self.between(before, self.read()).foreign < FOREIGN_LIMIT:
                return True
        return False


def _pids() -> Iterator[int]:
    return (int(name) for name in os.listdir("/proc") if name.isdigit())


def _is_kernel_thread(pid: int) -> bool:
    try:
        stat = Path(f"/proc/{pid}/stat").read_text()
    except OSError:
        return False
    return stat.rpartition(")")[2].split()[1] == "2"


def _ran_ns(pid: int) -> int:
    try:
        with open(f"/proc/{pid}/schedstat", encoding="ascii") as file:
            return int(file.read().split()[0])
    except OSError:
        return 0


def _ticks_ns() -> int:
    """Busy time of all CPUs by the kernel's ticks: user, nice, system, irq and softirq."""
    fields = Path("/proc/stat").read_text().split("\n", 1)[0].split()[1:]
    busy = sum(int(fields[index]) for index in (0, 1, 2, 5, 6))
    return busy * (1_000_000_000 // os.sysconf("SC_CLK_TCK"))


@contextmanager
def meter() -> Iterator[Meter]:
    """A meter for this process and everything it starts from here on."""
    groups = find_v1()
    if groups is None or not os.access(groups["cpuacct"], os.W_OK):
        yield Meter(_unified())
        return
    parent = groups["cpuacct"]
    top = parent[: parent.index("/cpuacct") + len("/cpuacct")] if "/cpuacct" in parent else parent
    group = f"{parent}/bench-{os.getpid()}"
    aside = f"{group}-aside"
    os.mkdir(group)
    os.mkdir(aside)
    try:
        join(group)
        own, total = (CpuFile(path=f"{path}/cpuacct.usage") for path in (group, top))
        yield Meter(own, total, aside)
    finally:
        join(parent)
        _remove(aside)
        _remove(group)


def _unified() -> CpuFile | None:
    for line in Path("/proc/self/cgroup").read_text().splitlines():
        number, _names, path = line.split(":", 2)
        file = f"/sys/fs/cgroup{path}/cpu.stat"
        if number == "0" and path != "/" and os.path.exists(file):
            return CpuFile(path=file)
    return None


def join(group: str) -> None:
    """Move this process into a group."""
    with open(f"{group}/cgroup.procs", "w", encoding="ascii") as file:
        file.write(str(os.getpid()))


def _remove(group: str) -> None:
    deadline = time.monotonic() + _REMOVE_SECONDS
    while time.monotonic() < deadline:
        try:
            os.rmdir(group)
        except OSError:
            time.sleep(0.02)
        else:
            return
    print(f"bench: {group} could not be removed", file=sys.stderr)


def describe() -> dict[str, str]:
    """The machine in words."""
    cpu = "unknown"
    for line in Path("/proc/cpuinfo").read_text().splitlines():
        if line.startswith(("model name", "Model")):
            cpu = line.partition(":")[2].strip()
            break
    memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    return {
        "CPU": f"{os.cpu_count()} x {cpu}",
        "memory": f"{round(memory / (1 << 30))} GiB",
        "kernel": f"Linux {platform.release()}",
        "cgroups": "v1" if find_v1() else "v2 or none",
        "Python of the service": platform.python_version(),
        "bubblewrap": "installed" if shutil.which("bwrap") else "missing",
    }
