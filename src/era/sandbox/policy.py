"""From what is asked for to a plan: every default of a box, with its reason."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final

from era import layout
from era.sandbox.base import BoxSpec, Limits, Program
from era.sandbox.plan import BindMount, Plan, ScratchMount, Start

MASKED: Final = (
    "/proc/acpi",
    "/proc/allocinfo",
    "/proc/asound",
    "/proc/bootconfig",
    "/proc/buddyinfo",
    "/proc/bus",
    "/proc/cmdline",
    "/proc/config.gz",
    "/proc/consoles",
    "/proc/diskstats",
    "/proc/driver",
    "/proc/dynamic_debug",
    "/proc/fs",
    "/proc/interrupts",
    "/proc/iomem",
    "/proc/ioports",
    "/proc/irq",
    "/proc/kallsyms",
    "/proc/kcore",
    "/proc/key-users",
    "/proc/keys",
    "/proc/kmsg",
    "/proc/kpagecount",
    "/proc/kpageflags",
    "/proc/latency_stats",
    "/proc/locks",
    "/proc/modules",
    "/proc/mtrr",
    "/proc/partitions",
    "/proc/pressure",
    "/proc/sched_debug",
    "/proc/schedstat",
    "/proc/scsi",
    "/proc/softirqs",
    "/proc/swaps",
    "/proc/sysrq-trigger",
    "/proc/sysvipc",
    "/proc/timer_list",
    "/proc/tty",
    "/proc/vmallocinfo",
    "/proc/vmstat",
    "/proc/zoneinfo",
    "/proc/sys/kernel/random/boot_id",
)
"""What tells of the host or its kernel's inside and no program needs."""

SCRATCH: Final[Mapping[str, str]] = {
    layout.WORKSPACE: "workspace",
    layout.HOME: "home",
    layout.TMP: "tmp",
}
"""What every box may write, and the names of these directories in its scratch."""

READ_ONLY: Final = ("/proc/sys",)

_SHM_SHARE: Final = 2
"""Shared memory may hold half of the memory limit: its pages count as the box's memory anyway."""


def rlimits(limits: Limits) -> tuple[tuple[str, int], ...]:
    """Per-process limits, beside the cgroup's limits for the whole tree.

    No core files: 1 byte, because with 0 the kernel would still run a handler that the host's
    core_pattern names, outside the box; 1 is its word for "not even that" (fs/coredump.c).  Process
    count by rlimit too, for hosts without a pids controller; message queues are off because they
    count against no limit of the box.
    """
    return (
        ("RLIMIT_CORE", 1),
        ("RLIMIT_MEMLOCK", 8 << 20),
        ("RLIMIT_MSGQUEUE", 0),
        ("RLIMIT_NICE", 0),
        ("RLIMIT_NOFILE", limits.open_files),
        ("RLIMIT_NPROC", limits.pids + 1),  # process 1 is the same user's
        ("RLIMIT_RTPRIO", 0),
        ("RLIMIT_SIGPENDING", 4096),
        ("RLIMIT_STACK", 8 << 20),
    )


def _scratch(spec: BoxSpec) -> tuple[ScratchMount, ...]:
    places = {
        target: ScratchMount(name=name, target=target)
        for target, name in SCRATCH.items()
        if target != layout.WORKSPACE
    }
    for index, overlay in enumerate(spec.overlays):
        name = places[overlay.target].name if overlay.target in places else f"scratch-{index}"
        places[overlay.target] = ScratchMount(
            name=name, target=overlay.target, lowers=overlay.lowers
        )
    name = SCRATCH[layout.WORKSPACE]
    workspace = ScratchMount(name=name, target=layout.WORKSPACE, lowers=spec.workspace)
    return (workspace, *places.values())


def _check_paths(*paths: str) -> None:
    for path in paths:
        if not path.startswith("/") or ".." in path.split("/"):
            raise ValueError(f"not an absolute path: {path!r}")


def plan(spec: BoxSpec, *, egress: bool) -> Plan:
    """The plan of one process tree in a box of `spec`, up to the gate.

    Raises:
        ValueError: for what can never be a plan (a mount at a relative path).
    """
    binds = tuple(
        BindMount(source=bind.source, target=bind.target, writable=bind.writable)
        for bind in spec.binds
    )
    scratch = _scratch(spec)
    _check_paths(*(m.target for m in scratch), *(m.target for m in binds))
    return Plan(
        scratch=scratch,
        binds=binds,
        shm_bytes=max(1 << 20, spec.limits.memory_bytes // _SHM_SHARE),
        inside_uid=layout.UID,
        inside_gid=layout.GID,
        rlimits=rlimits(spec.limits),
        masked=MASKED,
        read_only=READ_ONLY,
        egress=egress,
    )


def start(program: Program, environment: Mapping[str, str]) -> Start:
    """What the gate lets through; `environment` is added where the program has no such variable.

    Raises:
        ValueError: for what can never be a program (an empty argument list, a relative path).
    """
    if not program.argv or not program.argv[0].startswith("/"):
        raise ValueError("argv begins with the absolute path of a program")
    _check_paths(program.cwd)
    env = {**environment, **program.env}
    return Start(argv=program.argv, env=tuple(env.items()), cwd=program.cwd)
