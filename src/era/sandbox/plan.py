"""A box as plain data.

The plan is made by the server (`policy.py`), crosses to the launcher as bytes on a descriptor and is
carried out there step by step (`namespaces/child`).  So it can be printed, compared, checked and
fuzzed without privileges.  Standard library only: the child imports this module too.
"""

from __future__ import annotations

import json
import os
from dataclasses import asdict, dataclass, fields, replace
from functools import lru_cache
from typing import Any

INSIDE_UID = 1000
INSIDE_GID = 1000
"""What the user and the group of every box are called within it."""


def _tuples(value: Any) -> Any:
    return tuple(_tuples(item) for item in value) if isinstance(value, list) else value


@dataclass(frozen=True, slots=True, kw_only=True)
class BindMount:
    """`source` on the host shown at `target` in the box: nosuid, nodev, read-only unless `writable`.

    `device` marks one of the device files every box has (the only mounts without nodev).
    """

    source: str
    target: str
    writable: bool = False
    device: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class ScratchMount:
    """Scratch at `target`.  `name` is its directory in the box's scratch space, so the same name is
    the same content in a later run of the box.  With `lowers` (topmost first) it is an overlay,
    copy-on-write over them; without, the plain directory."""

    name: str
    target: str
    lowers: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class Foundation:
    """What the launcher makes once: the root every box starts from, and where scratch lives.

    `uid`/`gid` are the box user's ids as the launcher sees them; `filter` is the seccomp program
    (`struct sock_filter[]`) in hex; `images` is the directory of scratch images, or None for
    scratch in memory.
    """

    rootless: bool
    base_dir: str
    scratch_dir: str
    images: str | None
    uid: int
    gid: int
    filter: str
    first: str = ""
    """The program that is process 1 of a box, on the host; without one Python does it."""
    stand: str = ""
    """The library with the standing Python's loop, on the host; without one Python does it."""
    binds: tuple[BindMount, ...] = ()
    links: tuple[tuple[str, str], ...] = ()
    files: tuple[tuple[str, str], ...] = ()
    """Path and content (Latin-1 text standing for bytes)."""
    dirs: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class Start:
    """What the program is, told to the process that waits at the gate without any right left."""

    argv: tuple[str, ...]
    env: tuple[tuple[str, str], ...]
    cwd: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Plan:
    """One process tree in one box, up to the gate: everything that is done with privilege."""

    scratch: tuple[ScratchMount, ...]
    binds: tuple[BindMount, ...] = ()
    shm_bytes: int = 64 << 20
    hostname: str = "era"
    inside_uid: int = INSIDE_UID
    inside_gid: int = INSIDE_GID
    rlimits: tuple[tuple[str, int], ...] = ()
    masked: tuple[str, ...] = ()
    """Files and directories of the box's /proc that are covered."""
    read_only: tuple[str, ...] = ()
    """Parts of the box's /proc that are made read-only."""
    egress: bool = False
    """Whether proxy and name service sockets are opened in the box's network."""
    ahead: Start | None = None
    """A program to become before the gate; it waits there itself (see `box.become_ahead`)."""


def encode(value: Plan | Start | Foundation) -> bytes:
    """The plan as bytes: JSON, ASCII only, so that any string passes unchanged."""
    if isinstance(value, Start):  # one for each run: `asdict` would copy every variable
        return _json({"argv": value.argv, "env": value.env, "cwd": value.cwd})
    return _encode_plan(value) if isinstance(value, Plan) else _encode(value)


def tail(start: Start) -> bytes:
    """What comes behind the encoded start for a process that reads no JSON (native/program.c): a zero;
    the working directory, the numbers of arguments and of variables, these, each with a zero behind.

    Raises:
        ValueError: one of them holds a NUL.
    """
    variables = [f"{name}={value}" for name, value in start.env]
    words = [start.cwd, str(len(start.argv)), str(len(variables)), *start.argv, *variables]
    if any("\0" in word for word in words):
        raise ValueError("no argument or variable of a program can hold NUL (execve(2))")
    return b"\0" + b"".join(_encoded(word) + b"\0" for word in words)


def _encoded(text: str) -> bytes:
    try:
        return os.fsencode(text)
    except UnicodeEncodeError:  # half of a character: its own bytes are the nearest there is
        return text.encode(errors="surrogatepass")


def _encode(value: Plan | Foundation) -> bytes:
    return _json(asdict(value))


def _json(members: dict[str, Any]) -> bytes:
    return json.dumps(members, separators=(",", ":")).encode("ascii")


_encode_plan = lru_cache(maxsize=64)(_encode)
"""Most boxes have one of a few plans."""


def _build(cls: Any, raw: dict[str, Any], nested: dict[str, Any]) -> Any:
    known = {f.name for f in fields(cls)}
    unknown = raw.keys() - known
    if unknown:
        raise ValueError(f"{cls.__name__}: unknown members {sorted(unknown)}")
    values = {
        key: tuple(_build(nested[key], item, {}) for item in value)
        if key in nested
        else _tuples(value)
        for key, value in raw.items()
    }
    return cls(**values)


@lru_cache(maxsize=64)
def decode_plan(data: bytes) -> Plan:
    """The plan that `encode` wrote; ValueError or TypeError for anything else."""
    raw = json.loads(data)
    ahead = raw.pop("ahead", None)
    plan = _build(Plan, raw, {"scratch": ScratchMount, "binds": BindMount})
    if ahead is not None:
        plan = replace(plan, ahead=_build(Start, ahead, {}))
    assert isinstance(plan, Plan)
    return plan


def decode_start(data: bytes) -> Start:
    """The start that `encode` wrote; ValueError or TypeError for anything else."""
    start = _build(Start, json.loads(data), {})
    assert isinstance(start, Start)
    return start


def decode_foundation(data: bytes) -> Foundation:
    """The foundation that `encode` wrote; ValueError or TypeError for anything else."""
    foundation = _build(Foundation, json.loads(data), {"binds": BindMount})
    assert isinstance(foundation, Foundation)
    return foundation
