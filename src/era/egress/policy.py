"""What a box may reach: decided on names, and again on the address really connected to.

Pure: it resolves nothing and opens nothing.  The broker asks `host_refusal` before a name is looked
up and `address_refusal` for every address before a connection; each answers with the reason, in
words that a client can read, or None when there is nothing against it.
"""

from __future__ import annotations

import ipaddress
import re
import socket
from collections.abc import Callable, Collection, Iterator
from dataclasses import dataclass
from typing import Final

from era.models import Network

Address = ipaddress.IPv4Address | ipaddress.IPv6Address
AddressRange = ipaddress.IPv4Network | ipaddress.IPv6Network

WEB_PORTS: Final = frozenset({80, 443})
"""The ports of a host rule that names none."""

# Documentation ranges (192.0.2.0/24, 198.51.100.0/24, 203.0.113.0/24, 2001:db8::/32) are left out on
# purpose: on a public network they lead nowhere, and private deployments do put services there.
_FORBIDDEN: Final[tuple[tuple[AddressRange, str], ...]] = tuple(
    (ipaddress.ip_network(text), reason)
    for text, reason in (
        ("0.0.0.0/8", "this host"),
        ("10.0.0.0/8", "private"),
        ("100.64.0.0/10", "carrier-grade NAT"),
        ("127.0.0.0/8", "loopback"),
        ("169.254.0.0/16", "link-local"),
        ("172.16.0.0/12", "private"),
        ("192.0.0.0/24", "reserved for protocols"),
        ("192.168.0.0/16", "private"),
        ("198.18.0.0/15", "reserved for benchmarks"),
        ("224.0.0.0/4", "multicast"),
        ("240.0.0.0/4", "reserved"),
        ("::/128", "this host"),
        ("::1/128", "loopback"),
        # Local-use NAT64: where the IPv4 address sits in it is the network's own choice, so it
        # cannot be judged by what it would be translated to.
        ("64:ff9b:1::/48", "local-use NAT64"),
        ("fc00::/7", "unique-local"),
        ("fe80::/10", "link-local"),
        ("fec0::/10", "site-local"),
        ("ff00::/8", "multicast"),
    )
)

_IPV4_COMPATIBLE: Final = ipaddress.IPv6Network("::/96")
_NAT64: Final = ipaddress.IPv6Network("64:ff9b::/96")
_ISATAP_IDS: Final = (0x00005EFE, 0x02005EFE)
_NUMERIC_LABEL: Final = re.compile(r"(?:0x[0-9a-f]*|[0-9]+)", re.IGNORECASE)
_LABEL: Final = re.compile(r"(?!-)[a-z0-9_-]{1,63}(?<!-)")


def _low_ipv4(number: int) -> ipaddress.IPv4Address:
    return ipaddress.IPv4Address(number & 0xFFFFFFFF)


def embedded(address: Address) -> tuple[ipaddress.IPv4Address, ...]:
    """The IPv4 addresses that an IPv6 address stands for, in every form a network may translate:
    mapped, compatible, NAT64, 6to4, Teredo (server and client) and ISATAP.  Empty for others."""
    if isinstance(address, ipaddress.IPv4Address):
        return ()
    number = int(address)
    if address.ipv4_mapped is not None:
        return (address.ipv4_mapped,)
    if address in _NAT64 or (address in _IPV4_COMPATIBLE and number > 1):
        return (_low_ipv4(number),)
    if address.sixtofour is not None:
        return (address.sixtofour,)
    if address.teredo is not None:
        return address.teredo
    if (number >> 32) & 0xFFFFFFFF in _ISATAP_IDS:
        return (_low_ipv4(number),)
    return ()


def _inside(address: Address, ranges: Collection[AddressRange]) -> bool:
    return any(address.version == each.version and address in each for each in ranges)


def _plain_reason(address: Address) -> str | None:
    for each, reason in _FORBIDDEN:
        if address.version == each.version and address in each:
            return reason
    return None


def _without_scope(address: Address) -> Address:
    # `fe80::1%eth0` equals no member of a network or set while it carries its scope.
    return address if address.version == 4 else ipaddress.IPv6Address(int(address))


def is_forbidden(
    address: Address,
    *,
    allow_networks: Collection[AddressRange] = (),
    own_addresses: Collection[Address] = (),
) -> bool:
    """Whether no box may connect to `address`; see `forbidden_reason`."""
    reason = forbidden_reason(address, allow_networks=allow_networks, own_addresses=own_addresses)
    return reason is not None


def forbidden_reason(
    address: Address,
    *,
    allow_networks: Collection[AddressRange] = (),
    own_addresses: Collection[Address] = (),
) -> str | None:
    """Why no box may connect to `address`, or None when it may.

    An address that stands for IPv4 addresses is judged by each of them as well.  `allow_networks`
    are the operator's exceptions: they win over every other rule, for the form they are given in
    and for the forms that stand for it.  `own_addresses` are the host's, public ones included.
    """
    address = _without_scope(address)
    if _inside(address, allow_networks):
        return None
    inner = embedded(address)
    # A form that only carries an address is judged by what it carries; `_FORBIDDEN` holds no such form.
    for each in (address, *inner):
        if _inside(each, allow_networks):
            continue
        reason = "an address of this host" if each in own_addresses else _plain_reason(each)
        if reason is not None:
            return reason
    return None


def parse_literal(host: str) -> Address | None:
    """The address that `host` spells, in every spelling the C library takes: dotted, decimal,
    octal, hexadecimal, short; IPv6 with or without brackets.  None when it is a name.

    Raises:
        ValueError: it looks like a number and is no address.
    """
    if host.startswith("[") and host.endswith("]"):
        return _without_scope(ipaddress.IPv6Address(host[1:-1]))
    if ":" in host:
        return _without_scope(ipaddress.IPv6Address(host))
    labels = host.removesuffix(".").split(".")
    if _NUMERIC_LABEL.fullmatch(labels[-1]) is None:
        return None
    if not all(_NUMERIC_LABEL.fullmatch(label) for label in labels):
        raise ValueError(f"not an address: {host[:64]!r}")
    try:
        return ipaddress.IPv4Address(socket.inet_aton(".".join(labels)))
    except OSError:
        raise ValueError(f"not an address: {host[:64]!r}") from None


def normalise_host(host: str) -> str:
    """The one spelling of `host` that is compared, looked up and connected to: lower-case A-labels
    without a trailing dot, or the canonical text of an address.

    Raises:
        ValueError: it can be neither a host name nor an address.
    """
    text = host
    if not host.isascii():
        try:
            # Full-width digits and dots become plain ones here, before anything is judged.
            text = host.encode("idna").decode()
        except UnicodeError:
            raise ValueError(f"not a host name: {host[:64]!r}") from None
    literal = parse_literal(text)
    if literal is not None:
        return str(literal)
    name = text.lower().removesuffix(".")
    if len(name) > 253 or not all(_LABEL.fullmatch(label) for label in name.split(".")):
        raise ValueError(f"not a host name: {host[:64]!r}")
    return name


def _split_port(authority: str) -> tuple[str, int | None]:
    host, colon, port = authority.rpartition(":")
    if not colon or authority.endswith("]"):
        return authority, None
    if ":" in host and not (host.startswith("[") and host.endswith("]")):
        raise ValueError("an IPv6 address needs brackets")
    if not (port.isascii() and port.isdigit() and len(port) <= 5 and 0 < int(port) < 65536):
        raise ValueError("the port must be 1 to 65535")
    return host, int(port)


def split_authority(authority: str, default_port: int | None = None) -> tuple[str, int]:
    """`host:port` as (normalised host, port); without a port `default_port` is taken.

    Raises:
        ValueError: not an authority, user information in it, or no valid port.
    """
    host, port = _split_port(authority)
    port = port or default_port
    if port is None:
        raise ValueError("a port is needed")
    return normalise_host(host), port


@dataclass(frozen=True, slots=True, kw_only=True)
class HostRule:
    """One entry of the allow-list: a normalised name, or all names below it (`*.name`)."""

    name: str
    below: bool = False
    ports: frozenset[int] = WEB_PORTS

    @classmethod
    def parse(cls, text: str) -> HostRule:
        """`example.org`, `example.org:8443`, `*.example.org`: without a port, 80 and 443.

        Raises:
            ValueError: `text` is none of these.
        """
        host, port = _split_port(text.removeprefix("*."))
        return cls(
            name=normalise_host(host),
            below=text.startswith("*."),
            ports=WEB_PORTS if port is None else frozenset({port}),
        )

    def matches(self, host: str, port: int) -> bool:
        """Whether the normalised `host` and `port` are meant.  `*.a.b` is not `a.b` itself."""
        return port in self.ports and self.names(host)

    def names(self, host: str) -> bool:
        """Whether the normalised `host` is meant, at whatever port."""
        return host.endswith("." + self.name) if self.below else host == self.name


def _no_addresses() -> Collection[Address]:
    return ()


@dataclass(frozen=True, slots=True, kw_only=True)
class EgressPolicy:
    """What one box may reach.

    `allowed_hosts` counts for `registries` only.  `own_addresses` gives the host's addresses at the
    time of the question.  `service_ports` are closed on loopback and on the host's own addresses
    whatever `allow_networks` says: a box that reached the API could start boxes of its own.
    """

    network: Network
    allowed_hosts: tuple[HostRule, ...] = ()
    allow_networks: tuple[AddressRange, ...] = ()
    own_addresses: Callable[[], Collection[Address]] = _no_addresses
    service_ports: frozenset[int] = frozenset()

    def host_refusal(self, host: str, port: int | None) -> str | None:
        """Why the normalised `host` may not be named; `port` None asks for the name alone."""
        if self.network is Network.INTERNET:
            return None
        if self.network is Network.OFFLINE:
            return "nothing outside the box may be reached"
        if any(self._rule_allows(rule, host, port) for rule in self.allowed_hosts):
            return None
        return f"{_endpoint(host, port)} is not among the package registries"

    @staticmethod
    def _rule_allows(rule: HostRule, host: str, port: int | None) -> bool:
        return rule.names(host) if port is None else rule.matches(host, port)

    def address_refusal(self, address: Address, port: int | None = None) -> str | None:
        """Why `address` may not be connected to (`port` None: whatever the port)."""
        if self.network is Network.OFFLINE:
            return "nothing outside the box may be reached"
        own = self.own_addresses()
        if port in self.service_ports and self._is_here(address, own):
            return f"{address} port {port} is this service"
        reason = forbidden_reason(address, allow_networks=self.allow_networks, own_addresses=own)
        return None if reason is None else f"{address} is blocked ({reason})"

    def refusal(self, host: str, port: int) -> str | None:
        """Why `host`, a normalised name or literal address, is refused before any look-up."""
        named = self.host_refusal(host, port)
        if named is not None:
            return named
        literal = parse_literal(host)
        return None if literal is None else self.address_refusal(literal, port)

    def permitted(self, addresses: Collection[Address], port: int | None = None) -> list[Address]:
        """Those of `addresses` that may be connected to, in their order."""
        return [each for each in addresses if self.address_refusal(each, port) is None]

    @staticmethod
    def _is_here(address: Address, own: Collection[Address]) -> bool:
        return any(each.is_loopback or each.is_unspecified or each in own for each in _all(address))


def _all(address: Address) -> Iterator[Address]:
    yield _without_scope(address)
    yield from embedded(address)


def _endpoint(host: str, port: int | None) -> str:
    if port is None or port in WEB_PORTS:
        return host
    return f"[{host}]:{port}" if ":" in host else f"{host}:{port}"
