"""Connecting out for a box: the name is checked, every address is checked, and the connection goes
to the very address that was checked.  There is no second look-up that could answer differently."""

from __future__ import annotations

import asyncio
import base64
import socket
import urllib.parse
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

from era.egress.policy import Address, EgressPolicy, HostRule, parse_literal, split_authority
from era.egress.resolve import Resolver
from era.egress.streams import HeadTooLargeError, Stream
from era.waiting import within

ADDRESSES_TRIED: Final = 6
_PROXY_HEAD_BYTES: Final = 16 << 10


class RefusedError(Exception):
    """The policy says no; the text says why, in words for the client."""


class UnreachableError(Exception):
    """The policy says yes, but there is no connection: unknown name, refused, no route."""

    def __init__(self, text: str, *, temporary: bool = False) -> None:
        super().__init__(text)
        self.temporary: Final = temporary
        """Whether asking again later may help."""


class TooSlowError(UnreachableError):
    """As `UnreachableError`, because it took too long."""

    def __init__(self, text: str) -> None:
        super().__init__(text, temporary=True)


@dataclass(frozen=True, slots=True, kw_only=True)
class UpstreamProxy:
    """The operator's own HTTP proxy, through which everything goes except `direct` hosts."""

    host: str
    port: int
    authorization: str | None = None
    """Value of `Proxy-Authorization`."""
    direct: tuple[HostRule, ...] = ()

    @classmethod
    def parse(cls, url: str, no_proxy: str = "") -> UpstreamProxy:
        """From `http://[user:password@]host:port` and a comma list of host names.

        Raises:
            ValueError: not such a URL, or another scheme (a proxy spoken to over TLS is none of ours).
        """
        parts = urllib.parse.urlsplit(url if "://" in url else f"http://{url}")
        if parts.scheme != "http" or not parts.hostname:
            raise ValueError("the upstream proxy must be http://host:port")
        host, port = split_authority(parts.netloc.rpartition("@")[2], 3128)
        return cls(
            host=host, port=port, authorization=_basic(parts), direct=_direct_rules(no_proxy)
        )

    def serves(self, host: str) -> bool:
        """Whether connections to `host` go through this proxy."""
        return not any(rule.names(host) for rule in self.direct)


def _basic(parts: urllib.parse.SplitResult) -> str | None:
    if parts.username is None:
        return None
    pair = f"{urllib.parse.unquote(parts.username)}:{urllib.parse.unquote(parts.password or '')}"
    return "Basic " + base64.b64encode(pair.encode()).decode()


def _direct_rules(no_proxy: str) -> tuple[HostRule, ...]:
    """`example.org` and `.example.org` both mean the name and all below it, as programs read it."""
    names = [entry.strip().lstrip(".") for entry in no_proxy.split(",")]
    rules: list[HostRule] = []
    for name in names:
        try:
            rules += [HostRule.parse(name), HostRule.parse(f"*.{name}")]
        except ValueError:
            continue  # an address range or `*`: nothing that a name could be compared with
    return tuple(rules)


def endpoint(host: str, port: int) -> str:
    """`host:port` as it stands in a request line."""
    return f"[{host}]:{port}" if ":" in host else f"{host}:{port}"


@dataclass(frozen=True, slots=True, kw_only=True)
class Dialer:
    """Makes the connections of one box."""

    policy: EgressPolicy
    resolver: Resolver
    upstream: UpstreamProxy | None = None
    connect_seconds: float = 10.0
    """For one address; the whole takes at most `ADDRESSES_TRIED` times as long."""

    def via_upstream(self, host: str) -> UpstreamProxy | None:
        """The operator's proxy, when `host` is reached through it."""
        return self.upstream if self.upstream is not None and self.upstream.serves(host) else None

    async def tunnel(self, host: str, port: int) -> Stream:
        """A connection on which bytes reach `host` (normalised) itself.

        Raises:
            RefusedError, UnreachableError, TooSlowError.
        """
        proxy = self.via_upstream(host)
        if proxy is None:
            return await self.direct(await self.addresses(host, port), port)
        stream = await self.to_proxy(proxy, host, port)
        try:
            await self._ask_tunnel(stream, proxy, endpoint(host, port))
        except BaseException:
            stream.close()
            raise
        return stream

    async def request(self, host: str, port: int) -> tuple[Stream, UpstreamProxy | None]:
        """A connection for one plain HTTP request, and the proxy it leads to, if it does.

        Raises:
            RefusedError, UnreachableError, TooSlowError.
        """
        proxy = self.via_upstream(host)
        if proxy is not None:
            return await self.to_proxy(proxy, host, port), proxy
        return await self.direct(await self.addresses(host, port), port), None

    async def addresses(self, host: str, port: int) -> list[Address]:
        """The permitted addresses of `host`, at least one.

        Raises:
            RefusedError: the name, or each of its addresses, is refused.
            UnreachableError, TooSlowError: it cannot be looked up.
        """
        refusal = self.policy.refusal(host, port)
        if refusal is not None:
            raise RefusedError(refusal)
        return await self._permitted(host, port)

    async def lookup(self, host: str) -> list[Address]:
        """The addresses of `host` that a box may know of: those it may connect to at some port.

        Raises:
            RefusedError, UnreachableError, TooSlowError.
        """
        refusal = self.policy.host_refusal(host, None)
        if refusal is not None:
            raise RefusedError(refusal)
        return await self._permitted(host, None)

    async def _permitted(self, host: str, port: int | None) -> list[Address]:
        found = await self._look_up(host)
        permitted = self.policy.permitted(found, port)
        if not permitted:
            raise RefusedError(self._reason(host, found, port))
        return permitted

    async def _look_up(self, host: str) -> Sequence[Address]:
        literal = parse_literal(host)
        if literal is not None:
            return (literal,)
        try:
            found = await self.resolver(host)
        except TimeoutError:
            raise TooSlowError(f"looking up {host} took too long") from None
        except (OSError, UnicodeError) as error:
            temporary = getattr(error, "errno", None) == socket.EAI_AGAIN
            raise UnreachableError(f"{host} could not be resolved", temporary=temporary) from None
        if not found:
            raise UnreachableError(f"{host} has no address")
        return found

    def _reason(self, host: str, found: Sequence[Address], port: int | None) -> str:
        reason = self.policy.address_refusal(found[0], port)
        return f"{host} leads to a blocked address: {reason}"

    async def direct(self, addresses: Sequence[Address], port: int) -> Stream:
        """A connection to the first of these checked addresses that answers.

        Raises:
            UnreachableError, TooSlowError.
        """
        failure: OSError | None = None
        for address in addresses[:ADDRESSES_TRIED]:
            try:
                return await self._connect(str(address), address.version, port)
            except OSError as error:
                failure = error
        if isinstance(failure, TimeoutError):
            raise TooSlowError(f"no answer from {addresses[0]} port {port}")
        raise UnreachableError(f"no connection to {addresses[0]} port {port}")

    async def _connect(self, host: str, version: int, port: int) -> Stream:
        family = socket.AF_INET6 if version == 6 else socket.AF_INET
        sock = socket.socket(family, socket.SOCK_STREAM)
        try:
            sock.setblocking(False)
            async with within(self.connect_seconds):
                await asyncio.get_running_loop().sock_connect(sock, (host, port))
        except BaseException:
            sock.close()
            raise
        return Stream(sock)

    async def to_proxy(self, proxy: UpstreamProxy, host: str, port: int) -> Stream:
        """A connection to the operator's proxy, for a request about `host`.

        The proxy looks names up by itself, perhaps where this host cannot; what can be seen from
        here is checked all the same.  The proxy's own address is the operator's choice.
        """
        refusal = self.policy.refusal(host, port) or await self._visible_refusal(host, port)
        if refusal is not None:
            raise RefusedError(refusal)
        return await self.direct(await self._look_up(proxy.host), proxy.port)

    async def _visible_refusal(self, host: str, port: int) -> str | None:
        try:
            found = await self._look_up(host)
        except UnreachableError:
            return None
        # Which of them the proxy would take is not for us to say, so one blocked address is enough.
        blocked = [each for each in found if self.policy.address_refusal(each, port) is not None]
        return self._reason(host, blocked, port) if blocked else None

    async def _ask_tunnel(self, stream: Stream, proxy: UpstreamProxy, target: str) -> None:
        credentials = (
            "" if proxy.authorization is None else f"Proxy-Authorization: {proxy.authorization}\r\n"
        )
        head = f"CONNECT {target} HTTP/1.1\r\nHost: {target}\r\n{credentials}\r\n"
        try:
            async with within(self.connect_seconds * 3):
                await stream.write(head.encode())
                answer = await stream.peek(_PROXY_HEAD_BYTES, lambda seen: b"\r\n\r\n" in seen)
        except TimeoutError:
            raise TooSlowError("the upstream proxy did not answer") from None
        except (OSError, HeadTooLargeError):
            raise UnreachableError("the upstream proxy broke off") from None
        await self._accept_tunnel(stream, answer)

    @staticmethod
    async def _accept_tunnel(stream: Stream, answer: bytes) -> None:
        first, _, _ = answer.partition(b"\r\n")
        _, separator, rest = answer.partition(b"\r\n\r\n")
        if not separator or not first.startswith((b"HTTP/1.1 2", b"HTTP/1.0 2")):
            raise UnreachableError("the upstream proxy did not open a tunnel")
        await stream.read()  # what `peek` left
        stream.unread(rest)
