"""Pumps keep what they promise, whatever the pieces are."""

from __future__ import annotations

import os

import pytest
from hypothesis import given
from hypothesis import strategies as st

from era.sandbox.output import Pump, cut_at_character, cut_before_character


@given(st.text(), st.integers(0, 40))
def test_a_cut_text_stays_text(text: str, length: int) -> None:
    data = text.encode("utf-8", "surrogatepass")[:length]
    kept = cut_at_character(data)
    assert data.startswith(kept)
    assert len(data) - len(kept) <= 3
    if not any(0xD800 <= ord(c) <= 0xDFFF for c in text):
        kept.decode()


@given(st.text(alphabet=st.characters(exclude_categories=["Cs"])), st.integers(0, 40))
def test_a_tail_of_text_stays_text(text: str, start: int) -> None:
    cut_before_character(text.encode()[start:]).decode()


@given(st.binary(max_size=8))
def test_other_bytes_lose_at_most_one_character(data: bytes) -> None:
    assert len(data) - len(cut_at_character(data)) <= 3
    assert data.endswith(cut_before_character(data))


@pytest.mark.anyio
@pytest.mark.parametrize("tail", [False, True])
@pytest.mark.parametrize("size", [0, 1, 9, 10, 11, 200_000])
async def test_a_pump_keeps_the_first_or_the_last_bytes(tail: bool, size: int) -> None:
    read, write = os.pipe()
    seen = bytearray()
    pump = Pump(read, 10, seen.extend, tail=tail)
    data = bytes(i % 100 for i in range(size))
    with os.fdopen(write, "wb") as file:
        for start in range(0, size, 4096):
            file.write(data[start : start + 4096])
            file.flush()
            while len(seen) < min(start + 4096, size if tail else min(size, 10)):
                import asyncio

                await asyncio.sleep(0)
            await _drained(read)
    await pump.finished
    assert pump.kept == (data[-10:] if tail else data[:10])
    assert pump.truncated == (size > 10)
    assert bytes(seen) == (data if tail else data[:10])


async def _drained(fd: int) -> None:
    """Until the pump has read what is in the pipe: a writer in the same thread must not block."""
    import asyncio
    import fcntl
    import struct
    import termios

    while True:
        try:
            (waiting,) = struct.unpack("i", fcntl.ioctl(fd, termios.FIONREAD, bytes(4)))
        except OSError:
            return
        if not waiting:
            return
        await asyncio.sleep(0)
