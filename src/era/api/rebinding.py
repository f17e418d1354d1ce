"""Pages of other sites, kept away from the tools of agents.

A name of somebody else's that leads to this machine (DNS rebinding) makes a browser take a server that
only this machine reaches for that somebody's own; and a browser says which site a request comes from.
"""

from __future__ import annotations

import ipaddress
from typing import Final
from urllib.parse import urlsplit

from era.api.options import Options
from era.api.routing import Call

HOST: Final = "this server has no such name; ERA_PUBLIC_URL tells it the one that it has"
ORIGIN: Final = "pages of this origin may not ask; ERA_CORS_ORIGINS lists those that may"


def why_not(call: Call) -> str | None:
    """Why an agent's request is refused, if it is.

    By its `Host`: where nothing but the address protects the server, which is on loopback without API
    keys.  By its `Origin`: where the operator lists those that may ask.
    """
    options = call.options
    server = call.scope.get("server")
    guarded = server is not None and _is_loopback(str(server[0]))
    if guarded and not options.api_keys and not _is_ours(call.header("host") or "", options):
        return HOST
    origin = call.header("origin")
    if origin is None or "*" in options.cors_origins or origin in options.cors_origins:
        return None
    return None if _authority(origin) == urlsplit(call.base_url()).netloc else ORIGIN


def _is_ours(host: str, options: Options) -> bool:
    """Whether nobody else can have given this machine that name: an address, a name of this machine's,
    or the one that the operator says.  A trusted proxy has seen to it itself."""
    if options.trust_proxy or not host:
        return True
    name = _name(f"//{host}")
    if name == "localhost" or name.endswith(".localhost") or _is_address(name):
        return True
    return bool(options.public_url) and name == _name(options.public_url or "")


def _name(address: str) -> str:
    try:
        return (urlsplit(address).hostname or "").rstrip(".")
    except ValueError:
        return ""


def _authority(origin: str) -> str:
    try:
        return urlsplit(origin).netloc
    except ValueError:
        return ""


def _is_address(name: str) -> bool:
    try:
        ipaddress.ip_address(name)
    except ValueError:
        return False
    return True


def _is_loopback(name: str) -> bool:
    return _is_address(name) and ipaddress.ip_address(name).is_loopback
