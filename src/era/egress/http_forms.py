"""Heads of HTTP messages on their way through: where a request goes, what of its head goes along.

Pure.  Every head that leaves is built anew from what was understood of the one that came.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Final

import h11

from era.egress.dial import UpstreamProxy, endpoint
from era.egress.policy import split_authority

_HOP_BY_HOP: Final = frozenset(
    b"connection proxy-connection keep-alive te trailer upgrade proxy-authorization"
    b" proxy-authenticate proxy-authentication-info".split()
)
REASONS: Final = {
    400: b"Bad Request",
    403: b"Blocked by network policy",
    431: b"Request Header Fields Too Large",
    501: b"Not Implemented",
    502: b"Bad Gateway",
    504: b"Gateway Timeout",
}

RawHeaders = list[tuple[bytes, bytes]]


class AnswerError(Exception):
    """End the exchange with this status and text instead."""

    def __init__(self, status: int, text: str) -> None:
        super().__init__(text)
        self.status: Final = status if status in REASONS else 400
        self.text: Final = text


def end_to_end(message: h11.Request | h11.Response, drop: Iterable[bytes] = ()) -> RawHeaders:
    """The headers of `message` without those that concern one connection only, those that its
    `Connection` names, and `drop`.  Of two framings the one that counts is kept."""
    named = {
        token.strip().lower()
        for name, value in message.headers
        if name == b"connection"
        for token in value.split(b",")
    }
    # A connection option cannot take away the framing of the message itself.
    named -= {b"content-length", b"transfer-encoding", b"host"}
    unwanted = _HOP_BY_HOP | named | set(drop)
    if any(name == b"transfer-encoding" for name, _ in message.headers):
        unwanted |= {b"content-length"}
    return [
        (raw, value) for raw, value in message.headers.raw_items() if raw.lower() not in unwanted
    ]


class Target:
    """Where a plain request goes, and what is asked there."""

    __slots__ = ("host", "path", "port")

    def __init__(self, host: str, port: int, path: bytes) -> None:
        self.host: Final = host
        self.port: Final = port
        self.path: Final = path

    @property
    def authority(self) -> str:
        """As in the Host header: without the port when it is that of http."""
        return endpoint(self.host, self.port).removesuffix(":80")


def absolute_target(text: bytes) -> Target:
    """From `http://host[:port]/path`.

    Raises:
        AnswerError: any other form.
    """
    scheme, separator, rest = text.partition(b"://")
    if not separator:
        raise AnswerError(400, "this is a proxy: the request must name its host, http://host/path")
    if scheme.lower() != b"http":
        raise AnswerError(501, "only http:// is forwarded; other schemes need CONNECT")
    cut = min((at for at in map(rest.find, (b"/", b"?", b"#")) if at >= 0), default=len(rest))
    authority, path = rest[:cut], rest[cut:].partition(b"#")[0]
    if not path.startswith(b"/"):
        path = b"/" + path
    host, port = parse_authority(authority, 80)
    return Target(host, port, path)


def parse_authority(text: bytes, default_port: int | None) -> tuple[str, int]:
    """The normalised host and port of `text`; AnswerError when it is none."""
    try:
        return split_authority(text.decode("ascii"), default_port)
    except ValueError as error:
        raise AnswerError(400, f"not a host and port: {error}") from None


def origin_target(request: h11.Request, port: int) -> Target:
    """From the Host header of a request that was not written for a proxy.

    Raises:
        AnswerError: the header is not usable, or names another port.
    """
    hosts = [value for name, value in request.headers if name == b"host"]
    if len(hosts) != 1 or not request.target.startswith(b"/"):
        raise AnswerError(400, "the request needs a path and one Host header")
    host, named = parse_authority(hosts[0], port)
    if named != port:
        raise AnswerError(400, "the Host header names another port than the connection")
    return Target(host, port, bytes(request.target))


def upstream_head(request: h11.Request, target: Target, proxy: UpstreamProxy | None) -> h11.Request:
    """The request as the server gets it.  Its Host is the one that was checked, whatever was sent."""
    headers = [(b"Host", target.authority.encode()), *end_to_end(request, [b"host"])]
    headers.append((b"Connection", b"close"))
    path = target.path
    if proxy is not None:
        path = b"http://" + target.authority.encode() + path
        if proxy.authorization is not None:
            headers.append((b"Proxy-Authorization", proxy.authorization.encode()))
    return h11.Request(method=request.method, target=path, headers=headers)


def client_head(response: h11.Response) -> h11.Response:
    """The response as the client gets it; h11 adds the framing that suits the client."""
    headers = end_to_end(response, [b"transfer-encoding"])
    return h11.Response(status_code=response.status_code, headers=headers, reason=response.reason)
