"""The HTTP side of the broker: CONNECT, and plain requests that are read and sent on.

h11 does the parsing on both sides, so what goes out is built anew from what was understood and no
ambiguity of framing is handed on.  Bodies pass chunk by chunk; nothing is kept whole.
"""

from __future__ import annotations

import contextlib
from typing import Final

import h11

from era.egress import tls
from era.egress.dial import Dialer, RefusedError, TooSlowError, UnreachableError, UpstreamProxy
from era.egress.http_forms import (
    REASONS,
    AnswerError,
    Target,
    absolute_target,
    client_head,
    origin_target,
    parse_authority,
    upstream_head,
)
from era.egress.limits import BrokerLimits, Traffic
from era.egress.policy import Address
from era.egress.sniff import Sniffer
from era.egress.streams import Deadline, Stream, relay
from era.waiting import led, within

_LINGER_SECONDS: Final = 2.0
_ESTABLISHED: Final = b"HTTP/1.1 200 Connection established\r\n\r\n"


class _BrokenError(Exception):
    """One side is gone or talks nonsense in the middle of a body: only closing says that."""


class HttpConnection:
    """One client connection that speaks HTTP to the broker, from its first byte to its end.

    With `origin_port` the client believes it speaks to the server itself: requests then carry
    their host in a header only, and `only` is the one address it may stand for.
    """

    def __init__(
        self,
        client: Stream,
        dialer: Dialer,
        limits: BrokerLimits,
        traffic: Traffic,
        *,
        origin_port: int | None = None,
        only: Address | None = None,
    ) -> None:
        self._client: Final = client
        self._dialer: Final = dialer
        self._limits: Final = limits
        self._traffic: Final = traffic
        self._origin_port: Final = origin_port
        self._only: Final = only
        self._is_head = False
        self._http: Final = h11.Connection(h11.SERVER, max_incomplete_event_size=limits.head_bytes)

    async def run(self) -> None:
        """Serve requests until the client ends or something does not go on."""
        with contextlib.suppress(OSError, _BrokenError):
            while await self._one_request():
                self._http.start_next_cycle()

    async def _one_request(self) -> bool:
        """Whether another request may follow on this connection."""
        try:
            request = await self._head()
            if request is None:
                return False
            if request.method == b"CONNECT":
                await self._connect(request)
                return False
            await self._forward(request)
        except (AnswerError, RefusedError, UnreachableError) as error:
            await self._refuse(*self._words(error))
            return False
        if self._http.their_state is h11.SEND_BODY:
            await self._client.linger(_LINGER_SECONDS)
        return self._http.our_state is h11.DONE and self._http.their_state is h11.DONE

    def _words(self, error: AnswerError | RefusedError | UnreachableError) -> tuple[int, str]:
        """Status and text for the client."""
        if isinstance(error, AnswerError):
            return error.status, error.text
        if isinstance(error, RefusedError):
            self._traffic.refused += 1
            policy = self._dialer.policy.network.value
            return 403, f"blocked by network policy '{policy}': {error}"
        return (504 if isinstance(error, TooSlowError) else 502), str(error)

    async def _head(self) -> h11.Request | None:
        """The next request, or None when the client has ended or says nothing."""
        try:
            async with within(self._limits.head_seconds):
                event = await self._event()
        except TimeoutError:
            return None
        except h11.RemoteProtocolError as error:
            raise AnswerError(
                error.error_status_hint, "the request is not proper HTTP/1.1"
            ) from None
        if not isinstance(event, h11.Request):
            return None
        self._is_head = event.method == b"HEAD"
        return event

    async def _event(self) -> h11.Event | type[h11.PAUSED]:
        while (event := self._http.next_event()) is h11.NEED_DATA:
            self._http.receive_data(await self._client.read())
        return event  # type: ignore[return-value]

    async def _send(self, event: h11.Event) -> None:
        data = self._http.send(event)
        if data:
            await self._client.write(data)

    async def _refuse(self, status: int, text: str) -> None:
        """A short plain answer, and the end of the connection: what the client meant to send next
        may depend on what was refused."""
        if self._http.our_state not in (h11.IDLE, h11.SEND_RESPONSE):
            raise _BrokenError
        body = (text + "\n").encode("utf-8", "replace")
        headers = [
            ("Content-Type", "text/plain; charset=utf-8"),
            ("Content-Length", str(len(body))),
            ("Connection", "close"),
        ]
        async with within(self._limits.head_seconds):
            await self._send(
                h11.Response(status_code=status, headers=headers, reason=REASONS[status])
            )
            if not self._is_head:
                await self._send(h11.Data(data=body))
            await self._send(h11.EndOfMessage())
            await self._client.linger(_LINGER_SECONDS)

    # --- CONNECT

    async def _connect(self, request: h11.Request) -> None:
        if self._origin_port is not None:
            raise AnswerError(400, "this connection is not to a proxy")
        host, port = parse_authority(bytes(request.target), None)
        server = await self._dialer.tunnel(host, port)
        try:
            await self._client.write(_ESTABLISHED)
            self._client.unread(self._http.trailing_data[0])
            await self._inside_tunnel(server, host, port)
        finally:
            server.close()

    async def _inside_tunnel(self, server: Stream, host: str, port: int) -> None:
        try:
            plain = await Sniffer(self._dialer.policy, self._limits).is_plain_http(
                self._client, host
            )
        except RefusedError:
            self._traffic.refused += 1
            await self._client.write(tls.ACCESS_DENIED)
            await self._client.linger(_LINGER_SECONDS)
            raise _BrokenError from None
        if plain:
            # Each request in it is judged by itself, on a connection of its own.
            server.close()
            await HttpConnection(
                self._client, self._dialer, self._limits, self._traffic, origin_port=port
            ).run()
            return
        await relay(
            self._client,
            server,
            idle_seconds=self._limits.idle_seconds,
            count=self._traffic.count,
        )

    # --- plain requests

    async def _forward(self, request: h11.Request) -> None:
        target = self._target(request)
        await self._check_only(target)
        server, proxy = await self._dialer.request(target.host, target.port)
        try:
            await self._exchange(request, target, server, proxy)
        finally:
            server.close()

    def _target(self, request: h11.Request) -> Target:
        if self._origin_port is None:
            return absolute_target(bytes(request.target))
        return origin_target(request, self._origin_port)

    async def _check_only(self, target: Target) -> None:
        if self._only is None:
            return
        if self._only not in await self._dialer.addresses(target.host, target.port):
            raise RefusedError(f"{target.host} is not at the address connected to")

    async def _exchange(
        self, request: h11.Request, target: Target, server: Stream, proxy: UpstreamProxy | None
    ) -> None:
        http = h11.Connection(h11.CLIENT, max_incomplete_event_size=self._limits.head_bytes)
        try:
            async with within(self._limits.idle_seconds) as timeout:
                deadline = Deadline(timeout, self._limits.idle_seconds)
                head = http.send(upstream_head(request, target, proxy))
                await self._to_server(server, head or b"")
                await self._both_ways(http, server, deadline)
        except TimeoutError:
            if self._http.our_state is not h11.SEND_RESPONSE:
                raise _BrokenError from None
            raise TooSlowError(f"{target.host} did not answer in time") from None

    async def _to_server(self, server: Stream, data: bytes) -> None:
        try:
            await server.write(data)
        except TimeoutError:
            raise
        except OSError:
            raise UnreachableError("the server closed the connection") from None

    async def _both_ways(self, http: h11.Connection, server: Stream, deadline: Deadline) -> None:
        """The request's body up while the response comes down: a server may answer early."""
        try:
            # The body has its first turn before a quick answer comes: a request whose body is already
            # here, or that has none, is then read to its end and the connection can go on.
            await led(
                self._response_down(http, server, deadline), self._body_up(http, server, deadline)
            )
        except UnreachableError:
            if self._http.our_state is h11.SEND_RESPONSE:
                raise
            raise _BrokenError from None
        except Exception as failure:
            raise _BrokenError from failure

    async def _body_up(self, http: h11.Connection, server: Stream, deadline: Deadline) -> None:
        while True:
            try:
                event = await self._event()
            except h11.RemoteProtocolError as error:
                raise _BrokenError from error
            if not isinstance(event, h11.Data | h11.EndOfMessage):
                raise _BrokenError
            finished = isinstance(event, h11.EndOfMessage)
            data = http.send(h11.EndOfMessage() if finished else event) or b""
            try:
                await server.write(data)
            except OSError:
                return  # it has stopped listening; its answer, if there is one, is still to be read
            self._traffic.count(len(data), 0)
            deadline.touch()
            if finished:
                return

    async def _response_down(
        self, http: h11.Connection, server: Stream, deadline: Deadline
    ) -> None:
        while True:
            event = await self._server_event(http, server, deadline)
            match event:
                case h11.Response():
                    await self._send(client_head(event))
                case h11.Data():
                    self._traffic.count(0, len(event.data))
                    await self._send(event)
                case h11.EndOfMessage():
                    await self._send(h11.EndOfMessage())
                    return
                case h11.InformationalResponse(status_code=100):
                    if self._http.they_are_waiting_for_100_continue:
                        await self._send(h11.InformationalResponse(status_code=100, headers=[]))
                case h11.InformationalResponse():
                    pass
                case _:
                    raise UnreachableError("the server closed the connection without an answer")
            deadline.touch()

    async def _server_event(
        self, http: h11.Connection, server: Stream, deadline: Deadline
    ) -> object:
        try:
            while (event := http.next_event()) is h11.NEED_DATA:
                http.receive_data(await server.read())
                deadline.touch()
        except h11.RemoteProtocolError:
            if self._http.our_state is not h11.SEND_RESPONSE:
                raise _BrokenError from None
            raise UnreachableError("the server's answer is not proper HTTP") from None
        return event
