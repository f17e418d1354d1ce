"""What a program says first on a connection that the `registries` policy let through.

Under `internet` nothing is read.  Under `registries` a connection to an allowed host must also ask
for that host: many hosts share an address, and the name in the ClientHello picks one.  (The name
inside the encryption is out of reach without breaking it; whether a shared front answers for a name
other than the one it was asked for is up to its operator.)
"""

from __future__ import annotations

from typing import Final

from era.egress import tls
from era.egress.dial import RefusedError
from era.egress.limits import BrokerLimits
from era.egress.policy import EgressPolicy, normalise_host, parse_literal
from era.egress.streams import HeadTooLargeError, Stream
from era.models import Network
from era.waiting import within


class Sniffer:
    """Looks at the first bytes of a client without taking them."""

    def __init__(self, policy: EgressPolicy, limits: BrokerLimits) -> None:
        self._policy: Final = policy
        self._seconds: Final = limits.head_seconds

    async def is_plain_http(self, client: Stream, host: str) -> bool:
        """Whether what follows must be served as HTTP; False: relay it, it is in order.

        Raises:
            RefusedError: it is TLS for another name than `host`.
            OSError: the client is gone or says nothing.
        """
        if self._policy.network is Network.INTERNET:
            return False
        first = await self.first_bytes(client)
        if not tls.looks_like_tls(first):
            return True
        name = self.tls_name(first)
        if name != host and not (name is None and parse_literal(host) is not None):
            raise RefusedError(f"the connection to {host} asks for another server name")
        return False

    async def first_bytes(self, client: Stream) -> bytes:
        """Enough of the client's first bytes to tell what they are."""
        try:
            async with within(self._seconds):
                first = await client.peek(tls.HELLO_BYTES, tls.hello_is_whole)
        except HeadTooLargeError:
            raise RefusedError("the TLS greeting is too large") from None
        if not first:
            raise ConnectionResetError
        return first

    @staticmethod
    def tls_name(first: bytes) -> str | None:
        """The normalised server name of a ClientHello, None when it has none.

        Raises:
            RefusedError: it cannot be read, or hides the real name.
        """
        try:
            name = tls.server_name(first)
            return None if name is None else normalise_host(name)
        except (ValueError, tls.IncompleteError):
            raise RefusedError("the TLS greeting does not say plainly whom it asks for") from None
