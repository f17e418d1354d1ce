"""The broker as a sandbox driver sees it: the `Egress` of `era.sandbox.base`, kept by shape."""

from __future__ import annotations

import contextlib
import socket
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import AbstractAsyncContextManager
from typing import Final

from era.egress.broker import BoxSockets, Broker
from era.egress.environment import proxy_environment
from era.egress.policy import EgressPolicy
from era.models import Network


class Gateway:
    """Serves boxes by the policy of their network."""

    def __init__(self, broker: Broker, policies: Mapping[Network, EgressPolicy]) -> None:
        self._broker: Final = broker
        self._policies: Final = policies
        self.environment: Final = proxy_environment()

    def serve(
        self, network: Network, sockets: Sequence[socket.socket]
    ) -> AbstractAsyncContextManager[None]:
        """See `Egress`.

        Raises:
            KeyError: for a network without a policy; a driver asks for none such.
        """
        return self._serve(self._policies[network], sockets)

    @contextlib.asynccontextmanager
    async def _serve(
        self, policy: EgressPolicy, sockets: Sequence[socket.socket]
    ) -> AsyncIterator[None]:
        proxy, names_tcp, names_udp, *redirected = sockets
        mine = BoxSockets(
            proxy=proxy, dns_tcp=names_tcp, dns_udp=names_udp, transparent=tuple(redirected)
        )
        async with self._broker.serve(policy, mine):
            yield
