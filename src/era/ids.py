"""Identifiers: their forms, and making them.  The only module that draws random characters."""

from __future__ import annotations

import itertools
import re
import secrets
import time
from typing import Final

from era.errors import InputError

SESSION_ID: Final = re.compile(r"[A-Za-z0-9_-]{1,128}")
MAX_SESSION_ID: Final = 128
VM_ID: Final = re.compile(r"[a-z]+-[0-9]{1,20}")
VM_KEYS: Final = ("vm:", "vm;")
"""Every `vm_key` is at or after the first and before the second, in byte order."""
_VM_KEY: Final = VM_KEYS[0]
_ALPHABET: Final = "0123456789abcdefghijklmnopqrstuvwxyz"
_sequence = itertools.count()


def _tail() -> str:
    return "".join(secrets.choice(_ALPHABET) for _ in range(9))


def is_session_id(text: str) -> bool:
    """Whether `text` can be the id of a session at all."""
    return SESSION_ID.fullmatch(text) is not None


def check_session_id(text: str, field: str = "session_id") -> str:
    """Return `text` when it is a possible session id; `field` is how the message calls it.

    Raises:
        InputError: `invalid_id`, for another alphabet, an empty or a too long id.
    """
    if len(text) > MAX_SESSION_ID:
        raise InputError("invalid_id", f"{field} must be at most {MAX_SESSION_ID} characters")
    if not is_session_id(text):
        raise InputError(
            "invalid_id", f"{field} must contain only letters, numbers, hyphens, and underscores"
        )
    return text


def new_session_id(unix_ms: int) -> str:
    """`sess_<unix ms>_<9 characters>`."""
    return f"sess_{unix_ms}_{_tail()}"


def new_mcp_session_id(unix_ms: int) -> str:
    """`sess-<unix ms>-<9 characters>`, of sessions that agents make."""
    return f"sess-{unix_ms}-{_tail()}"


def new_run_id(unix_ms: int) -> str:
    """`run_<unix ms>_<9 characters>`."""
    return f"run_{unix_ms}_{_tail()}"


def copy_id(source: str, unix_ms: int) -> str:
    """`<source>-copy-<unix ms>`, the source cut so that the whole is at most 128 characters."""
    suffix = f"-copy-{unix_ms}"
    return source[: MAX_SESSION_ID - len(suffix)] + suffix


_last_vm_ns = 0


def new_vm_id(language: str) -> str:
    """`<language>-<unix ns>`; strictly increasing within a process, so never the same twice."""
    global _last_vm_ns
    _last_vm_ns = max(time.time_ns(), _last_vm_ns + 1)
    return f"{language}-{_last_vm_ns}"


def is_vm_id(text: str) -> bool:
    """Whether `text` can be the id of a managed VM at all."""
    return VM_ID.fullmatch(text) is not None


def vm_key(vm_id: str) -> str:
    """What a managed VM is called in the stores.  No session can have such an id."""
    return _VM_KEY + vm_id


def is_vm_key(text: str) -> bool:
    """Whether `text` is a `vm_key`."""
    return text.startswith(_VM_KEY)


def vm_id_of(key: str) -> str:
    """The reverse of `vm_key`."""
    return key.removeprefix(_VM_KEY)


def new_token() -> str:
    """An unguessable name for temporary things, unique in this process and across processes."""
    return f"{next(_sequence):x}-{secrets.token_hex(8)}"
