"""The addresses of this host's own interfaces: no box may connect to them, public ones included."""

from __future__ import annotations

import ipaddress
import socket
import time
from typing import Final

import psutil

from era.egress.policy import Address

REFRESH_SECONDS: Final = 5.0
"""Interfaces come and go (a VPN, a container bridge); reading them costs under a millisecond."""


def read_addresses() -> frozenset[Address]:
    """Every IPv4 and IPv6 address of every interface, now."""
    families = (socket.AF_INET, socket.AF_INET6)
    return frozenset(
        ipaddress.ip_address(entry.address.partition("%")[0])
        for entries in psutil.net_if_addrs().values()
        for entry in entries
        if entry.family in families
    )


class HostAddresses:
    """`EgressPolicy.own_addresses`, read again at most every `REFRESH_SECONDS`."""

    def __init__(self) -> None:
        self._until = 0.0
        self._found: frozenset[Address] = frozenset()

    def __call__(self) -> frozenset[Address]:
        """The host's addresses, at most `REFRESH_SECONDS` old."""
        now = time.monotonic()
        if now >= self._until:
            self._found = read_addresses()
            self._until = now + REFRESH_SECONDS
        return self._found
