"""What the HTTP door is told when it is built."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field

from era import __version__
from era.api.body import Buffer
from era.api.places import Places


@dataclass(frozen=True, slots=True, kw_only=True)
class Bounds:
    """The largest requests the door lets in: bytes of texts and bodies, seconds of timeouts."""

    body_bytes: int = 16 << 20
    code_bytes: int = 1 << 20
    data_bytes: int = 128 << 10
    metadata_bytes: int = 64 << 10
    file_bytes: int = 1 << 30
    max_timeout_seconds: float = 3600.0
    max_memory_mib: int = 8192
    max_cpus: int = 4


@dataclass(frozen=True, slots=True, kw_only=True)
class Options:
    """How the door behaves.

    `api_keys` empty means no authentication.  `public_url` is `<base>` of every answer; without
    it the request's own address is, and its `X-Forwarded-*` headers only with `trust_proxy`.
    `clock` gives unix milliseconds.  `stopping` tells whether new requests are refused.
    `buffer` is what the bodies of all requests share, `places` those of the proxy.
    """

    clock: Callable[[], int]
    bounds: Bounds = field(default_factory=Bounds)
    api_keys: tuple[str, ...] = field(default=(), repr=False)
    cors_origins: tuple[str, ...] = ("*",)
    public_url: str | None = None
    trust_proxy: bool = False
    stopping: Callable[[], bool] = lambda: False
    version: str = __version__
    buffer: Buffer = field(default_factory=Buffer)
    places: Places = field(default_factory=Places)
