"""Messages between server, launcher and boxes: one JSON object a packet, descriptors beside it.

The sockets are AF_UNIX SOCK_SEQPACKET, so packets keep their borders.  Anything that may be long
(plans, standard input) travels as a sealed memory file, not in a packet.
"""

from __future__ import annotations

import errno
import json
import os
import socket
from collections.abc import Sequence
from typing import Any

MAX_PACKET = 65536
MAX_FDS = 32
_CUT = "descriptors lost"


def pack(message: dict[str, Any]) -> bytes:
    """One packet."""
    return json.dumps(message, separators=(",", ":")).encode()


def send(sock: socket.socket, message: dict[str, Any], fds: Sequence[int] = ()) -> None:
    """Send one message; the descriptors stay open here."""
    socket.send_fds(sock, [pack(message)], list(fds))


def receive(sock: socket.socket) -> tuple[dict[str, Any] | None, list[int]]:
    """The next message and its descriptors (close-on-exec); None when the other side is gone.

    Where this process may not open that many files, the kernel drops what does not fit and says so
    (unix(7), MSG_CTRUNC).  Then no descriptor comes, and the message says it too: see `demand_fds`.
    """
    data, fds, flags, _address = socket.recv_fds(sock, MAX_PACKET, MAX_FDS)
    for fd in fds:
        os.set_inheritable(fd, False)
    if not data:
        return None, fds
    message = json.loads(data)
    if flags & socket.MSG_CTRUNC:
        for fd in fds:
            os.close(fd)
        return message | {_CUT: True}, []
    return message, fds


def demand_fds(message: dict[str, Any]) -> None:
    """Raises OSError (EMFILE) for a message that lost its descriptors on the way."""
    if message.get(_CUT):
        raise OSError(errno.EMFILE, os.strerror(errno.EMFILE))


def read_all(fd: int) -> bytes:
    """Everything in the memory file `fd`, wherever its offset is."""
    size = os.fstat(fd).st_size
    chunks = []
    offset = 0
    while offset < size:
        chunk = os.pread(fd, size - offset, offset)
        if not chunk:
            break
        chunks.append(chunk)
        offset += len(chunk)
    return b"".join(chunks)
