"""Durations and timestamps as text, in the forms the API promises."""

from __future__ import annotations

from datetime import UTC, datetime

_MS = 1_000_000
_SECOND = 1_000_000_000


def _fraction(value: int, unit: int) -> str:
    """`value / unit` without trailing zeros; exact, since it never goes through a float."""
    whole, rest = divmod(value, unit)
    if not rest:
        return str(whole)
    return f"{whole}.{str(rest).rjust(len(str(unit)) - 1, '0').rstrip('0')}"


def go_duration(nanoseconds: int) -> str:
    """The text Go's `time.Duration.String()` gives for a duration of `nanoseconds` (>= 0)."""
    if nanoseconds == 0:
        return "0s"
    if nanoseconds < 1_000:
        return f"{nanoseconds}ns"
    if nanoseconds < _MS:
        return f"{_fraction(nanoseconds, 1_000)}µs"
    if nanoseconds < _SECOND:
        return f"{_fraction(nanoseconds, _MS)}ms"
    minutes, rest = divmod(nanoseconds, 60 * _SECOND)
    seconds = f"{_fraction(rest, _SECOND)}s"
    if not minutes:
        return seconds
    hours, minutes = divmod(minutes, 60)
    return f"{hours}h{minutes}m{seconds}" if hours else f"{minutes}m{seconds}"


def rounded_ms(nanoseconds: int) -> int:
    """Whole milliseconds, rounded to nearest."""
    return (nanoseconds + _MS // 2) // _MS


def timestamp(unix_ms: int | None) -> str:
    """`2025-10-23T21:24:26.901Z`, or the empty string for "never"."""
    if unix_ms is None:
        return ""
    at = datetime.fromtimestamp(unix_ms // 1000, UTC)
    return f"{at:%Y-%m-%dT%H:%M:%S}.{unix_ms % 1000:03d}Z"


def rfc3339_seconds(unix_ms: int | None) -> str:
    """`2025-10-23T21:24:26Z`; "never" is `0001-01-01T00:00:00Z`."""
    if unix_ms is None:
        return "0001-01-01T00:00:00Z"
    return f"{datetime.fromtimestamp(unix_ms // 1000, UTC):%Y-%m-%dT%H:%M:%SZ}"
