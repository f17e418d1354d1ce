"""Where installers fetch packages from, as far as the operator of the service has a say in it."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Final

_ESCAPE: Final = re.compile(r"%([0-9A-Fa-f]{2})")
_URL_AUTH: Final = re.compile(r"(?<=://)[^/@\s,|]+@")


@dataclass(frozen=True, slots=True, kw_only=True)
class Mirrors:
    """Where packages come from; None is the ecosystem's own default.

    `npmrc` are lines for npm's configuration: registries of scopes, and credentials.  `go` are Go's
    variables about modules.  `certificates` (PEM) replace those that boxes trust.  `env` is for the
    installers only.
    """

    pip_index_url: str | None = None
    pip_extra_index_urls: tuple[str, ...] = ()
    pip_trusted_hosts: tuple[str, ...] = ()
    npm_registry: str | None = None
    npmrc: tuple[str, ...] = ()
    goproxy: str | None = None
    go: Mapping[str, str] = field(default_factory=dict)
    certificates: bytes | None = None
    env: Mapping[str, str] = field(default_factory=dict)

    def public(self) -> Mirrors:
        """The same without credentials: for programs among which are a stranger's."""
        return replace(
            self,
            pip_index_url=_bare(self.pip_index_url),
            pip_extra_index_urls=tuple(_URL_AUTH.sub("", url) for url in self.pip_extra_index_urls),
            npm_registry=_bare(self.npm_registry),
            npmrc=tuple(_URL_AUTH.sub("", line) for line in self.npmrc if line.startswith("@")),
            goproxy=_bare(self.goproxy),
        )

    @property
    def secrets(self) -> tuple[str, ...]:
        """Every credential, as it may show in what installers write; the longest first."""
        urls = (self.pip_index_url, *self.pip_extra_index_urls, self.npm_registry, self.goproxy)
        found = {part for url in urls for part in credentials(url or "")}
        lines = (line for line in self.npmrc if not line.startswith("@"))
        found |= {line.partition("=")[2] for line in lines}
        return tuple(sorted(filter(None, found), key=len, reverse=True))


def _bare(url: str | None) -> str | None:
    return None if url is None else _URL_AUTH.sub("", url)


def credentials(urls: str) -> list[str]:
    """User and password of each of the URLs in a text, as they stand there and as they are meant."""
    found = []
    for auth in _URL_AUTH.findall(urls):
        whole = auth.removesuffix("@")
        user, _, password = whole.partition(":")
        found += [whole, password, _ESCAPE.sub(lambda hex_: chr(int(hex_[1], 16)), password)]
        if password:  # installers hide no more than it, where the user may be a token
            found.append(f"{user}:****")
    return found
