"""The bounds of a box's traffic, and the counts of it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final


@dataclass(frozen=True, slots=True, kw_only=True)
class BrokerLimits:
    """What one box may ask of the broker.  More connections than this wait in the listen queue."""

    connections: int = 256
    """Open at once, of every kind together: an installer opens about 50."""
    head_bytes: int = 32 << 10
    """Of a request's or response's head."""
    head_seconds: float = 60.0
    """For a head to come, also on a kept-alive connection."""
    idle_seconds: float = 300.0
    """Without a byte moving either way."""
    connect_seconds: float = 10.0
    """For one address to answer."""
    lookup_seconds: float = 10.0
    """For a name to be resolved."""
    dns_per_second: float = 50.0
    dns_burst: int = 200
    dns_at_once: int = 32


DEFAULT_LIMITS: Final = BrokerLimits()


@dataclass(slots=True, kw_only=True)
class Traffic:
    """What one box has done so far."""

    connections: int = 0
    refused: int = 0
    up_bytes: int = 0
    down_bytes: int = 0
    dns_queries: int = 0

    def count(self, up: int, down: int) -> None:
        """Add bytes that passed."""
        self.up_bytes += up
        self.down_bytes += down
