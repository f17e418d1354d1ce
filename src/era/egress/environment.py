"""Where the broker listens inside a box, and the variables that lead programs to it.

The variables are a convenience for well-behaved programs; what holds a box in is that its network
namespace leads nowhere but to the broker's sockets.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final

LOOPBACK: Final = "127.0.0.1"
PROXY_PORT: Final = 3128
DNS_PORT: Final = 53
TRANSPARENT_PORT: Final = 3129

RESOLV_CONF: Final = f"nameserver {LOOPBACK}\noptions timeout:5 attempts:2\n".encode()
"""/etc/resolv.conf of every box.  Without a broker nothing listens there, the kernel says so at
once, and a lookup fails instead of hanging."""

_PROXY_URL: Final = f"http://{LOOPBACK}:{PROXY_PORT}"
_DIRECT: Final = "localhost,127.0.0.1,::1"


def proxy_environment() -> Mapping[str, str]:
    """The environment of a program in a box with a broker.

    curl reads `http_proxy` in lower case only, others prefer upper case: both are set.  Node looks
    at these variables only when told to.  ALL_PROXY is left out: for the schemes that it would add
    (ftp and the like) an HTTP proxy is of no use, and a plain connection error says more.
    """
    pairs = {"HTTP_PROXY": _PROXY_URL, "HTTPS_PROXY": _PROXY_URL, "NO_PROXY": _DIRECT}
    lower = {name.lower(): value for name, value in pairs.items()}
    return {**pairs, **lower, "NODE_USE_ENV_PROXY": "1"}
