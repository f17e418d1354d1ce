"""Arguments of a tool call, checked member by member.

A wrong type or a missing member is the caller's mistake of form (`BadArgumentsError`); whatever else
is refused has the service's own errors.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any, TypeVar

from era.errors import InputError
from era.ids import check_session_id
from era.languages.environment import check_env

T = TypeVar("T")


class BadArgumentsError(Exception):
    """The arguments do not have the form that the tool's schema says."""


class Arguments:
    """The arguments of one call; a null member is an absent one."""

    def __init__(self, members: Mapping[str, Any]) -> None:
        self._members = {name: value for name, value in members.items() if value is not None}

    def text(self, name: str, *others: str) -> str:
        """A string that has to be there, under one of its names."""
        for each in (name, *others):
            found = self.text_or_none(each)
            if found is not None:
                return found
        raise BadArgumentsError(f"{name} is required")

    def text_or_none(self, name: str) -> str | None:
        """A string, valid Unicode."""
        value = self._typed(name, str, "a string")
        if value is not None:
            try:
                value.encode()
            except UnicodeEncodeError:
                raise BadArgumentsError(f"{name} must be valid Unicode text") from None
        return value

    def flag(self, name: str) -> bool | None:
        """A boolean."""
        return self._typed(name, bool, "a boolean")

    def strings(self, name: str) -> tuple[str, ...]:
        """An array of strings."""
        value: list[Any] = self._typed(name, list, "an array of strings") or []
        if not all(isinstance(each, str) for each in value):
            raise BadArgumentsError(f"{name} must be an array of strings")
        return tuple(value)

    def object(self, name: str) -> dict[str, Any] | None:
        """An object."""
        return self._typed(name, dict, "an object")

    def texts(self, name: str) -> dict[str, str]:
        """An object of strings."""
        value: dict[str, Any] = self.object(name) or {}
        if not all(isinstance(each, str) for each in value.values()):
            raise BadArgumentsError(f"{name} must be an object of strings")
        return value

    def env(self, name: str) -> dict[str, str]:
        """Environment variables.  Raises InputError."""
        return check_env(name, self.texts(name))

    def seconds(self, name: str, longest: float, code: str = "timeout_too_large") -> float | None:
        """A time; 0 is the default's.  Raises InputError `code` for more than `longest`."""
        value = self._members.get(name)
        if value is None:
            return None
        if isinstance(value, bool) or not isinstance(value, int | float):
            raise BadArgumentsError(f"{name} must be a number")
        if not (0 <= value < math.inf):
            raise BadArgumentsError(f"{name} must be a number of seconds, 0 or more")
        if value > longest:
            raise InputError(code, f"{name} exceeds the maximum of {longest:g} seconds")
        return float(value) or None

    def session_id(self) -> str:
        """The session that is meant.  Raises InputError `invalid_id`."""
        return check_session_id(self.text("session_id"))

    def has(self, *names: str) -> bool:
        """Whether one of these is given."""
        return any(name in self._members for name in names)

    def _typed(self, name: str, kind: type[T], expectation: str) -> T | None:
        value = self._members.get(name)
        if value is None:
            return None
        if not isinstance(value, kind):
            raise BadArgumentsError(f"{name} must be {expectation}")
        return value
