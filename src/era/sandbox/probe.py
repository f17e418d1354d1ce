"""What this host can enforce, found by looking; feeds `era doctor` and refusals at start.

Looking only: nothing here makes a box.  The proof is a box that runs (`era.assemble.diagnose`).
"""

from __future__ import annotations

import os
import platform
import subprocess
from dataclasses import dataclass
from typing import Final

from era.sandbox.namespaces.cgroups.detect import find_v1, find_v2

OLDEST_KERNEL: Final = (5, 12)
"""mount_setattr(2) and overlay mounts inside user namespaces."""
_MACHINES: Final = ("x86_64", "aarch64")
_MKE2FS: Final = ("/sbin/mke2fs", "/usr/sbin/mke2fs")
_UNSHARE: Final = "/usr/bin/unshare"


@dataclass(frozen=True, slots=True, kw_only=True)
class Check:
    """One finding.  `required` ones that are not `ok` keep the service from starting; `remedy` says
    what an operator can do."""

    name: str
    ok: bool
    detail: str
    required: bool = True
    remedy: str | None = None


def _sysctl(name: str) -> str | None:
    try:
        with open(f"/proc/sys/{name}", encoding="ascii") as file:
            return file.read().strip()
    except OSError:
        return None


def _kernel() -> Check:
    release = platform.release()
    numbers = tuple(int(part) for part in release.split("-")[0].split(".")[:2] if part.isdigit())
    wanted = ".".join(map(str, OLDEST_KERNEL))
    remedy = f"use Linux {wanted} or later"
    return Check(name="kernel", ok=numbers >= OLDEST_KERNEL, detail=release, remedy=remedy)


def _machine() -> Check:
    machine = platform.machine()
    remedy = f"use one of {', '.join(_MACHINES)}"
    return Check(name="architecture", ok=machine in _MACHINES, detail=machine, remedy=remedy)


def _overlay() -> Check:
    with open("/proc/filesystems", encoding="ascii") as file:
        known = "overlay" in file.read().split()
    detail = "known to the kernel" if known else "not known to the kernel (yet)"
    return Check(name="overlay", ok=known, detail=detail, required=False, remedy="modprobe overlay")


def user_namespace_hint() -> str | None:
    """Which setting of the host forbids user namespaces to ordinary users, and how to allow them."""
    if _sysctl("user/max_user_namespaces") == "0":
        return "set the sysctl user.max_user_namespaces above 0"
    if _sysctl("kernel/unprivileged_userns_clone") == "0":
        return "set the sysctl kernel.unprivileged_userns_clone to 1"
    if _sysctl("kernel/apparmor_restrict_unprivileged_userns") == "1":
        return (
            "add an AppArmor profile that grants `userns` to the service's Python, "
            "or set the sysctl kernel.apparmor_restrict_unprivileged_userns to 0"
        )
    return None


def _user_namespaces() -> Check:
    if os.geteuid() == 0:
        detail = "the service is root and can make every namespace"
        return Check(name="namespaces", ok=True, detail=detail)
    if not os.path.exists(_UNSHARE):
        return Check(name="namespaces", ok=True, detail="not tried: no unshare program")
    argv = [_UNSHARE, "--user", "--map-root-user", "--mount", "--pid", "--fork", "true"]
    tried = subprocess.run(argv, capture_output=True, check=False)
    detail = "an ordinary user may make them" if not tried.returncode else "refused by the host"
    remedy = user_namespace_hint() or "run the service as root, or allow it user namespaces"
    return Check(name="namespaces", ok=not tried.returncode, detail=detail, remedy=remedy)


def _cgroups() -> Check:
    if find_v1() is not None and os.geteuid() == 0:
        return Check(name="cgroups", ok=True, required=False, detail="version 1")
    unified = find_v2()
    if unified is not None and os.access(unified, os.W_OK):
        return Check(name="cgroups", ok=True, required=False, detail="version 2, delegated")
    return Check(
        name="cgroups",
        ok=False,
        required=False,
        detail="none that the service may use: memory and CPU limits are not enforced",
        remedy="run as root, or as a systemd unit with Delegate=yes",
    )


def disk_scratch_available() -> bool:
    """Whether scratch can be file systems of their own on disk: root, loop devices, mke2fs."""
    tools = any(os.path.exists(path) for path in _MKE2FS)
    return os.geteuid() == 0 and tools and os.path.exists("/dev/loop-control")


def _scratch() -> Check:
    if disk_scratch_available():
        return Check(name="scratch", ok=True, required=False, detail="on disk")
    return Check(
        name="scratch",
        ok=False,
        required=False,
        detail="in memory: files of a run count as its memory",
        remedy="run as root with loop devices and e2fsprogs for scratch on disk",
    )


def checks() -> tuple[Check, ...]:
    """Everything the namespaces tier needs or can use."""
    return (_kernel(), _machine(), _overlay(), _user_namespaces(), _cgroups(), _scratch())
