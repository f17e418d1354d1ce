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
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import replace
from typing import Any, NoReturn

from era.sandbox.namespaces.child import box as boxes
from era.sandbox.namespaces.child import first, mounts, wire
from era.sandbox.namespaces.child import syscalls as sys
from era.sandbox.namespaces.child.children import Children
from era.sandbox.namespaces.child.interpreters import Interpreters
from era.sandbox.namespaces.child.scratch import Scratch, Space
from era.sandbox.namespaces.child.trees import TreeFds, Trees
from era.sandbox.namespaces.child.users import User, Users, idmaps_work_on
from era.sandbox.plan import INSIDE_GID, INSIDE_UID, Foundation, decode_foundation, decode_plan

_NONE = -1


class _OpenBox:
    """A box the server holds open: its scratch, its user, how many mounts were laid out for it, and
    the descriptor of the mount namespace of its last tree."""

    def __init__(self, space: Space, user: User) -> None:
        self.space = space
        self.user = user
        self.serial = 0
        self.mounts = _NONE

    def hold_mounts(self, fd: int) -> None:
        """Hold `fd` instead of what was held."""
        if self.mounts != _NONE:
            os.close(self.mounts)
        self.mounts = fd


class Launcher:
    """Serves the server's requests one after the other; every request is short."""

    def __init__(self, control: socket.socket, foundation: Foundation) -> None:
        self._control = control
        self._foundation = foundation
        owner = (foundation.uid, foundation.gid)
        self._scratch = Scratch(foundation.scratch_dir, foundation.images, *owner)
        inside = (INSIDE_UID, INSIDE_GID)
        self._users = Users(owner, inside, apart=_users_apart(foundation))
        self._boxes: dict[int, _OpenBox] = {}
        self._children = Children()
        self._poll = select.poll()
        self._poll.register(control.fileno(), select.POLLIN)
        self._poll.register(self._children.woken, select.POLLIN)
        self._interpreters = Interpreters(
            foundation, self._poll, self._tell, lambda run: self._trees.kill(run)
        )
        self._trees = Trees(foundation, self._children, self._interpreters, self._tell)

    def serve(self) -> None:
        """Until the server closes its end."""
        self._tell({"event": "ready"})
        while True:
            for fd, _events in self._poll.poll():
                if fd == self._children.woken:
                    self._children.reap()
                elif fd in self._interpreters:
                    self._interpreters.hear(fd)
                elif fd == self._control.fileno():
                    message, fds = wire.receive(self._control)
                    if message is None:
                        return
                    try:
                        self._handle(message, fds)
                    finally:
                        for received in fds:
                            os.close(received)

    def _tell(self, event: dict[str, Any], fds: Sequence[int] = ()) -> None:
        wire.send(self._control, event, fds)

    def _handle(self, message: dict[str, Any], fds: list[int]) -> None:
        try:
            self._obey(message, fds)
        except boxes.StepError as error:
            self._tell(message | {"event": "refused", "errno": error.errno, "step": error.step})
        except OSError as error:
            self._tell(message | {"event": "refused", "errno": error.errno or 0, "step": ""})

    def _obey(self, message: dict[str, Any], fds: list[int]) -> None:
        wire.demand_fds(message)
        request = message["request"]
        if request == "open":
            self._open(message)
        elif request == "prepare":
            self._prepare(message, fds)
        elif request == "attach":
            self._attach(message, fds)
        elif request == "dial":
            self._dial(message)
        elif request == "kill":
            self._trees.kill(message["run"])
        elif request == "interpreter":
            self._interpreters.start(message, fds)
        elif request == "dismiss":
            self._interpreters.dismiss(message["name"], now=message["now"])
        elif request == "close":
            self._close(message["box"])
        else:  # a server of another version: better refused than waited for
            raise OSError(errno.ENOSYS, f"no such request: {request}")

    def _open(self, message: dict[str, Any]) -> None:
        user = self._users.take()
        try:
            space = self._scratch.open(message["disk_bytes"])
        except OSError:
            self._users.give_back(user)
            raise
        self._boxes[message["box"]] = _OpenBox(space, user)
        try:
            workspace = self._scratch.add(space, "workspace", 0o755)
            fd = os.open(workspace, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
            try:
                self._tell({"event": "opened", "box": message["box"]}, [fd])
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
        opened.serial += 1
        seat = boxes.Seat(space=opened.space.path, serial=opened.serial, user=opened.user)
        tree = TreeFds.of(fds[1:])
        made = self._trees.make(message["run"], plan, seat, tree, message["interpreter"])
        opened.hold_mounts(made)

    def _attach(self, message: dict[str, Any], fds: list[int]) -> None:
        """Add mounts to a box that waits at the gate, from outside: it has no right to do so itself."""
        opened = self._boxes[message["box"]]
        plan = decode_plan(wire.read_all(fds[0]))
        for scratch in plan.scratch:
            self._scratch.add(opened.space, scratch.name, 0o755)
        opened.serial += 1
        idmap = opened.user.idmap
        made = mounts.detach(self._foundation, plan, opened.space.path, opened.serial, idmap)
        self._trees.visit(opened.mounts, lambda: mounts.replace(made))
        self._tell({"event": "attached", "run": message["run"]})

    def _dial(self, message: dict[str, Any]) -> None:
        """Hand out sockets of a box's network; who asked for them connects them."""
        made = self._trees.sockets(message["run"])
        try:
            answer = {"event": "dialed", "call": message["call"]}
            self._tell(answer, [sock.fileno() for sock in made])
        finally:
            for sock in made:
                sock.close()

    def _close(self, number: int) -> None:
        opened = self._boxes.pop(number, None)
        if opened is None:
            raise OSError(errno.ENOENT, "no such box")
        opened.hold_mounts(_NONE)
        if self._scratch.retire(opened.space):
            clean = False
            with suppress(OSError):
                self._scratch.clean(opened.space)
                clean = True
            self._closed(number, opened, clean=clean)
            return
        pid = os.fork()
        if pid == 0:
            self._clean(opened.space)
        self._children.watch(
            pid, lambda ended: self._closed(number, opened, clean=ended.status == 0)
        )

    def _clean(self, space: Space) -> NoReturn:
        """A process of its own, with the launcher's rights, inside the launcher's namespaces."""
        code = 1
        try:
            sys.close_range(3)
            self._scratch.clean(space)
            code = 0
        finally:
            os._exit(code)

    def _closed(self, number: int, opened: _OpenBox, *, clean: bool) -> None:
        with suppress(OSError):  # a mount that is still busy goes with its last user
            self._scratch.recycle(opened.space, clean=clean)
        self._users.give_back(opened.user)
        self._tell({"event": "closed", "box": number})


def _users_apart(foundation: Foundation) -> bool:
    """A user for each box where every file system involved takes idmapped mounts; else the boxes
    share the owner's user."""
    state = os.path.dirname(foundation.base_dir)
    places = [state, foundation.scratch_dir]
    return not foundation.rootless and idmaps_work_on(foundation.uid, places)


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
    """Own namespaces of every kind that a box has, and a pid namespace for the child: who leaves
    them for those of a box may come back only to what its own user namespace owns.  Rootless, that
    user namespace gives the capabilities for all (user_namespaces(7))."""
    uid, gid = os.geteuid(), os.getegid()
    if foundation.rootless:
        sys.unshare(sys.CLONE_NEWUSER)
        _write("/proc/self/setgroups", "deny")
        _write("/proc/self/uid_map", f"0 {uid} 1")
        _write("/proc/self/gid_map", f"0 {gid} 1")
    sys.unshare(boxes.KINDS | sys.CLONE_NEWPID)


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
    os.umask(0o022)
    sys.mount(None, "/", None, sys.MS_REC | sys.MS_SLAVE)
    mounts.build_base(foundation)
    kind = "mode=700,size=1m"
    sys.mount("era-spaces", foundation.scratch_dir, "tmpfs", sys.MS_NOSUID | sys.MS_NODEV, kind)
    # Scratch spaces come and go after an interpreter has started: it must see them too.
    sys.mount(None, foundation.scratch_dir, None, sys.MS_SHARED)


def main(control_fd: int) -> NoReturn:
    """Entry point; see the module's docstring.  Refusals at start are reported as `failed`."""
    sys.prctl(sys.PR_SET_PDEATHSIG, signal.SIGKILL)
    sys.set_name("era-launcher")
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
        if foundation.first and not first.can_be_spawned(foundation.base_dir + mounts.FIRST):
            foundation = replace(foundation, first="")
        launcher = Launcher(control, foundation)
    except OSError as error:
        reason = f"{error.filename or 'namespaces'}: {error.strerror}"
        wire.send(control, {"event": "failed", "errno": error.errno or 0, "reason": reason})
        os._exit(1)
    with suppress(ConnectionError):  # the server died in the middle of a word
        launcher.serve()
    os._exit(0)
