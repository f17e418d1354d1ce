"""The launcher: a small single-threaded process that makes boxes for the server.

The server is threaded and must not fork itself; this process forks for it.  It is started with a
socket to it and ends, with every box, when the server does.  As root it keeps its
capabilities; rootless it has them inside a user namespace of its own only.  It is process 1 of a pid
namespace, so that its death, however it comes, kills every box (pid_namespaces(7)).

Standard library only.  It parses only what the server sends; boxes have no way to it.
"""

from __future__ import annotations

import errno
import os
import resource
import select
import signal
import socket
from contextlib import suppress
from dataclasses import asdict
from typing import Any, NoReturn

from era.sandbox.namespaces.child import box as boxes
from era.sandbox.namespaces.child import mounts, wire
from era.sandbox.namespaces.child import syscalls as sys
from era.sandbox.namespaces.child.idmap import IdMaps
from era.sandbox.namespaces.child.interpreters import Interpreters
from era.sandbox.namespaces.child.scratch import Scratch, Space
from era.sandbox.plan import Foundation, Plan, decode_foundation, decode_plan


class _OpenBox:
    """A box the server holds open: its scratch, its user, and how many runs it had."""

    def __init__(self, space: Space, uid: int, idmap: int | None) -> None:
        self.space = space
        self.uid = uid
        self.idmap = idmap
        self.runs = 0


class Launcher:
    """Serves the server's requests one after the other; every request is short."""

    def __init__(self, control: socket.socket, foundation: Foundation) -> None:
        self._control = control
        self._foundation = foundation
        self._seccomp = sys.FilterProgram(bytes.fromhex(foundation.filter))
        self._scratch = Scratch(
            foundation.scratch_dir, foundation.images, foundation.uid, foundation.gid
        )
        self._idmaps = _usable_idmaps(foundation)
        self._boxes: dict[int, _OpenBox] = {}
        self._runs: dict[int, tuple[int, int]] = {}  # pidfd -> (run id, pid)
        self._cleaning: dict[int, tuple[int, _OpenBox, int]] = {}  # pidfd -> (box id, box, pid)
        self._own_mounts = os.open("/proc/self/ns/mnt", os.O_RDONLY | os.O_CLOEXEC)
        self._own_pid_namespace = os.open("/proc/self/ns/pid", os.O_RDONLY | os.O_CLOEXEC)
        self._poll = select.poll()
        self._poll.register(control.fileno(), select.POLLIN)
        self._interpreters = Interpreters(
            foundation, self._poll, lambda event: wire.send(control, event)
        )

    def serve(self) -> None:
        """Until the server closes its end."""
        wire.send(self._control, {"event": "ready"})
        while True:
            for fd, _events in self._poll.poll():
                if fd in self._interpreters:
                    self._interpreters.hear(fd)
                    continue
                if fd != self._control.fileno():
                    self._child_ended(fd)
                    continue
                message, fds = wire.receive(self._control)
                if message is None:
                    return
                try:
                    self._handle(message, fds)
                finally:
                    for received in fds:
                        os.close(received)

    def _handle(self, message: dict[str, Any], fds: list[int]) -> None:
        request = message["request"]
        try:
            if request == "open":
                self._open(message)
            elif request == "prepare":
                self._prepare(message, fds)
            elif request == "attach":
                self._attach(message, fds)
            elif request == "kill":
                self._kill(message["run"])
            elif request == "interpreter":
                self._interpreters.start(message, fds)
            elif request == "dismiss":
                self._interpreters.dismiss(message["name"], now=message["now"])
            elif request == "close":
                self._close(message["box"])
            else:  # a server of another version: better refused than waited for
                raise OSError(errno.ENOSYS, f"no such request: {request}")
        except OSError as error:
            reply = {"event": "refused", "errno": error.errno or 0, "reason": str(error)}
            wire.send(self._control, message | reply)

    def _open(self, message: dict[str, Any]) -> None:
        space = self._scratch.open(message["disk_bytes"])
        uid, idmap = self._foundation.uid, None
        if self._idmaps is not None:
            uid, idmap = self._idmaps.take()
        self._boxes[message["box"]] = _OpenBox(space, uid, idmap)
        try:
            workspace = self._scratch.add(space, "workspace", 0o755)
            fd = os.open(workspace, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
            try:
                wire.send(self._control, {"event": "opened", "box": message["box"]}, [fd])
            finally:
                os.close(fd)
        except OSError:
            self._close(message["box"])  # the server never hears of it
            raise

    def _prepare(self, message: dict[str, Any], fds: list[int]) -> None:
        opened = self._boxes[message["box"]]
        plan = decode_plan(wire.read_all(fds[0]))
        for scratch in plan.scratch:
            mode = 0o1777 if scratch.target == "/tmp" else 0o755
            self._scratch.add(opened.space, scratch.name, mode)
        opened.runs += 1
        seat = boxes.Seat(
            space=opened.space.path,
            serial=opened.runs,
            uid=opened.uid,
            gid=opened.uid if opened.idmap is not None else self._foundation.gid,
            idmap=opened.idmap,
        )
        if message["interpreter"]:
            extra = [] if seat.idmap is None else [seat.idmap]
            run, given_fds = message["run"], [*fds, *extra]
            self._interpreters.fork(message["interpreter"], run, asdict(seat), given_fds)
            return
        # The next child, and it alone, is process 1 of a new pid namespace; then back to our own,
        # or the following unshare would be refused (unshare(2)).
        sys.unshare(sys.CLONE_NEWPID)
        try:
            pid = os.fork()
            if pid == 0:
                given = boxes.BoxFds(fds[1:])
                self._become(plan, seat, given)
        finally:
            sys.setns(self._own_pid_namespace, sys.CLONE_NEWPID)
        pidfd = os.pidfd_open(pid)
        self._runs[pidfd] = (message["run"], pid)
        self._poll.register(pidfd, select.POLLIN)

    def _attach(self, message: dict[str, Any], fds: list[int]) -> None:
        """Add mounts to a box that waits at the gate, from outside: it has no right to do so itself."""
        opened = self._boxes[message["box"]]
        plan = decode_plan(wire.read_all(fds[0]))
        for scratch in plan.scratch:
            self._scratch.add(opened.space, scratch.name, 0o755)
        opened.runs += 1
        made = mounts.detach(self._foundation, plan, opened.space.path, opened.runs, opened.idmap)
        sys.setns(fds[1], sys.CLONE_NEWNS)
        try:
            mounts.replace(made)
        finally:
            sys.setns(self._own_mounts, sys.CLONE_NEWNS)
        wire.send(self._control, {"event": "attached", "run": message["run"]})

    def _reap_orphans(self) -> None:
        """Boxes of an interpreter that ended before it told of them: this is process 1 to them."""
        mine = {pid for _run, pid in self._runs.values()}
        mine |= {pid for _box, _opened, pid in self._cleaning.values()}
        mine |= self._interpreters.pids
        with suppress(ChildProcessError):
            while True:
                ended = os.waitid(os.P_ALL, 0, os.WEXITED | os.WNOHANG | os.WNOWAIT)
                if ended is None or ended.si_pid in mine:
                    return
                os.waitpid(ended.si_pid, 0)

    def _become(self, plan: Plan, seat: boxes.Seat, fds: boxes.BoxFds) -> NoReturn:
        """The child: process 1 of a box, and in the end the program."""
        try:
            boxes.run_program(boxes.run_box(self._foundation, plan, seat, fds, self._seccomp))
        finally:
            os._exit(1)

    def _kill(self, run: int) -> None:
        if self._interpreters.kill(run):
            return
        for pidfd, (number, _pid) in self._runs.items():
            if number == run:
                with suppress(ProcessLookupError):
                    signal.pidfd_send_signal(pidfd, signal.SIGKILL)

    def _close(self, box: int) -> None:
        opened = self._boxes.pop(box, None)
        if opened is None:
            raise OSError(errno.ENOENT, "no such box")
        self._scratch.retire(opened.space)
        pid = os.fork()
        if pid == 0:
            self._clean(opened.space)
        pidfd = os.pidfd_open(pid)
        self._cleaning[pidfd] = (box, opened, pid)
        self._poll.register(pidfd, select.POLLIN)

    def _clean(self, space: Space) -> NoReturn:
        """A process of its own, with the launcher's rights, inside the launcher's namespaces."""
        code = 1
        try:
            sys.close_range(3)
            self._scratch.clean(space)
            code = 0
        finally:
            os._exit(code)

    def _child_ended(self, pidfd: int) -> None:
        if pidfd not in self._runs and pidfd not in self._cleaning:
            return  # it was let go of since the kernel named it
        self._poll.unregister(pidfd)
        os.close(pidfd)
        self._reap_orphans()
        if pidfd in self._runs:
            run, pid = self._runs.pop(pidfd)
            _, status, usage = os.wait4(pid, 0)
            cpu_ns = int((usage.ru_utime + usage.ru_stime) * 1e9)
            message = {"event": "exited", "run": run, "status": status, "cpu_ns": cpu_ns}
            wire.send(self._control, message)
            return
        box, opened, pid = self._cleaning.pop(pidfd)
        _, status = os.waitpid(pid, 0)
        with suppress(OSError):  # a mount that is still busy goes with its last user
            self._scratch.recycle(opened.space, clean=status == 0)
        if self._idmaps is not None:
            self._idmaps.give_back(opened.uid)
        wire.send(self._control, {"event": "closed", "box": box})


def _usable_idmaps(foundation: Foundation) -> IdMaps | None:
    """A user for each box where every file system involved takes idmapped mounts; else None, and
    the boxes share the owner's user."""
    if foundation.rootless:
        return None
    idmaps = IdMaps(foundation.uid)
    state = os.path.dirname(foundation.base_dir)
    places = [state, foundation.scratch_dir]
    try:
        return idmaps if idmaps.works_on(places) else None
    except OSError:
        return None


def _receive_foundation(control: socket.socket) -> Foundation:
    message, fds = wire.receive(control)
    if message is None:
        os._exit(0)
    try:
        return decode_foundation(wire.read_all(fds[0]))
    finally:
        for fd in fds:
            os.close(fd)


def _write(path: str, text: str) -> None:
    with open(path, "w", encoding="ascii") as file:
        file.write(text)


def _enter_namespaces(foundation: Foundation) -> None:
    """Own mounts and a pid namespace for the child; rootless, a user namespace that gives the
    capabilities for both (user_namespaces(7))."""
    uid, gid = os.geteuid(), os.getegid()
    if foundation.rootless:
        sys.unshare(sys.CLONE_NEWUSER)
        _write("/proc/self/setgroups", "deny")
        _write("/proc/self/uid_map", f"0 {uid} 1")
        _write("/proc/self/gid_map", f"0 {gid} 1")
    sys.unshare(sys.CLONE_NEWNS | sys.CLONE_NEWPID)


def _wait_for(pid: int) -> NoReturn:
    """The outer process: lives as long as the launcher proper, and dies with the server."""
    _, status = os.waitpid(pid, 0)
    os._exit(os.waitstatus_to_exitcode(status) & 0xFF)


def _allow_core_limit() -> None:
    """Give the boxes room for their core limit of 1 byte (see policy.rlimits) where the service has
    0; only root may raise it."""
    with suppress(ValueError, OSError):
        resource.setrlimit(resource.RLIMIT_CORE, (1, 1))


def _make_ready(foundation: Foundation) -> None:
    _allow_core_limit()
    sys.mount(None, "/", None, sys.MS_REC | sys.MS_SLAVE)
    mounts.build_base(foundation)
    kind = "mode=700,size=1m"
    sys.mount("era-spaces", foundation.scratch_dir, "tmpfs", sys.MS_NOSUID | sys.MS_NODEV, kind)
    # Scratch spaces come and go after an interpreter has started: it must see them too.
    sys.mount(None, foundation.scratch_dir, None, sys.MS_SHARED)


def main(control_fd: int) -> NoReturn:
    """Entry point; see the module's docstring.  Refusals at start are reported as `failed`."""
    sys.prctl(sys.PR_SET_PDEATHSIG, signal.SIGKILL)
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, signal.SIG_IGN)  # the server alone decides when this process ends
    control = socket.socket(fileno=control_fd)
    control.set_inheritable(False)
    foundation = _receive_foundation(control)
    try:
        _enter_namespaces(foundation)
        pid = os.fork()
        if pid:
            control.close()
            _wait_for(pid)
        sys.prctl(sys.PR_SET_PDEATHSIG, signal.SIGKILL)
        _make_ready(foundation)
        launcher = Launcher(control, foundation)
    except OSError as error:
        reason = f"{error.filename or 'namespaces'}: {error.strerror}"
        wire.send(control, {"event": "failed", "errno": error.errno or 0, "reason": reason})
        os._exit(1)
    with suppress(ConnectionError):  # the server died in the middle of a word
        launcher.serve()
    os._exit(0)
