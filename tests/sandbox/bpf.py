"""Runs a seccomp program as the kernel would: classic BPF over one `struct seccomp_data`."""

from __future__ import annotations

import operator
import struct
from collections.abc import Callable, Mapping, Sequence

_LOAD = 0x20
_AND = 0x54
_JUMP = 0x05
_RETURN = 0x06
_JUMPS: Mapping[int, Callable[[int, int], bool]] = {
    0x15: operator.eq,
    0x25: operator.gt,
    0x35: operator.ge,
    0x45: lambda accumulator, value: bool(accumulator & value),
}


def verdict(program: bytes, number: int, arguments: Sequence[int] = (), *, arch: int) -> int:
    """What `program` returns for system call `number` with up to six 64-bit `arguments`."""
    six = [*(value & 0xFFFFFFFFFFFFFFFF for value in arguments), *[0] * 6][:6]
    data = struct.pack("=IIQ6Q", number & 0xFFFFFFFF, arch, 0, *six)
    code = list(struct.iter_unpack("=HBBI", program))
    accumulator = at = 0
    while True:
        operation, if_true, if_false, value = code[at]
        at += 1
        if operation == _RETURN:
            return int(value)
        if operation == _LOAD:
            (accumulator,) = struct.unpack_from("=I", data, value)
        elif operation == _AND:
            accumulator &= value
        elif operation == _JUMP:
            at += value
        else:
            at += if_true if _JUMPS[operation](accumulator, value) else if_false


def is_well_formed(program: bytes) -> bool:
    """Whether every jump leads forward to an instruction, and the last one returns."""
    code = list(struct.iter_unpack("=HBBI", program))
    for at, (operation, if_true, if_false, value) in enumerate(code):
        farthest = value if operation == _JUMP else max(if_true, if_false)
        if operation != _RETURN and at + 1 + farthest >= len(code):
            return False
    return len(code) <= 4096 and code[-1][0] == _RETURN
