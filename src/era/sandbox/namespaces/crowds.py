"""Boxes that are full of processes.

All processes forked from one Python that stands ready, and all that they fork, share kernel locks with
it: those of the memory that they had in common (Documentation/mm/process_addrs.rst, anon_vma).  Such a
lock is handed on in turn, to whoever waits first, though that process may itself have to wait for the
processor behind hundreds of others of its box: seconds, in which the Python cannot fork and its other
boxes cannot end.  So who has so many processes keeps that Python to itself: another one takes its place.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Final

from era.sandbox.namespaces.cgroups.base import Group

MANY: Final = 16
"""More than programs have that share their work among a few processes."""
_FIRST_LOOK_SECONDS: Final = 0.05
"""Most programs have ended by then."""
_PAUSE_SECONDS: Final = 0.1


@contextmanager
def watched(group: Group, then: Callable[[], None]) -> Iterator[None]:
    """Call `then` once, as soon as `group` has been seen with more than `MANY` processes."""
    watch = _Watch(group, then)
    try:
        yield
    finally:
        watch.end()


class _Watch:
    def __init__(self, group: Group, then: Callable[[], None]) -> None:
        self._group = group
        self._then = then
        self._loop = asyncio.get_running_loop()
        self._next = self._loop.call_later(_FIRST_LOOK_SECONDS, self._look)

    def _look(self) -> None:
        try:
            number = self._group.processes()
        except OSError:  # the group is gone
            return
        if number is None:
            return
        if number > MANY:
            self._then()
        else:
            self._next = self._loop.call_later(_PAUSE_SECONDS, self._look)

    def end(self) -> None:
        """Look no more."""
        self._next.cancel()
