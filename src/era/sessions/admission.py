"""Which code may run here at all, where the tier does not separate or does not cut off."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Final

from era.errors import UnavailableError
from era.models import Network

_ONE: Final = "this server has served another session, and in its tier sessions are not separated"
_ONE_HINT: Final = (
    "Give each session a server of its own (placement `session`), or use a host on which the tier"
    " `namespaces` works."
)
_OFFLINE: Final = "the network cannot be cut off in this tier"
_OFFLINE_HINT: Final = (
    "Ask for it with allowInternetAccess: true, or set ERA_ALLOW_UNENFORCED_NETWORK=1 on the"
    " server."
)


@dataclass(slots=True, kw_only=True)
class Admission:
    """`refused`: why no code runs here, and what would help.  `one_session`: the platform separates
    sessions, not this server, so the first whose code runs is the only one.  `cuts_off`: runs that
    must not reach the network do not, or the operator lets them."""

    refused: tuple[str, str] | None = None
    one_session: bool = False
    cuts_off: bool = True
    _served: int | str | None = field(default=None, init=False)

    def admit(self, who: int | str, network: Network) -> None:
        """`who`: a session's uid, or a name of an execution without one.

        Raises:
            UnavailableError: `isolation_unavailable`, with the remedy.
        """
        if self.refused is not None:
            raise _unavailable(*self.refused)
        self.refuse_another(who)
        if network is not Network.INTERNET and not self.cuts_off:
            raise _unavailable(_OFFLINE, _OFFLINE_HINT)
        if self.one_session:
            self._served = who

    def refuse_another(self, who: int | str | None = None) -> None:
        """The same for one that is not `who` (None: a session that is not made yet)."""
        if self._served is not None and self._served != who:
            raise _unavailable(_ONE, _ONE_HINT)


def _unavailable(reason: str, remedy: str) -> UnavailableError:
    return UnavailableError("isolation_unavailable", message=reason, hint=remedy)
