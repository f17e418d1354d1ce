"""Where the operator of this host has installers fetch packages from.

The settings of the server come first.  What they leave open is read where pip, npm and Go themselves
would look on this host: their variables, `pip.conf`, `npmrc` and Go's `env` file.  It goes to the
installers in setup boxes and nowhere else; what is a path of this host is of no use there and left
out, except certificates, whose content is handed on.
"""

from __future__ import annotations

import base64
import configparser
import os
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Final
from urllib.parse import unquote, urlsplit

import structlog

from era import config
from era.config import Settings
from era.egress.dial import UpstreamProxy
from era.languages import environment
from era.languages.mirrors import Mirrors

_PEM_BYTES: Final = 8 << 20
_PIP_FILES: Final = ("/etc/xdg/pip/pip.conf", "/etc/pip.conf")
_NPM_FILES: Final = ("/usr/local/etc/npmrc", "/usr/etc/npmrc", "/etc/npmrc")
_NPM_AUTH: Final = re.compile(r"//[^:]+.*:(?:_authToken|_auth|username|_password)")
_NPM_SCOPE: Final = re.compile(r"@[^:/\s]+:registry")
_GO_NAMES: Final = ("GOPROXY", "GOSUMDB", "GOPRIVATE", "GONOPROXY", "GONOSUMDB", "GOINSECURE")
_REFERENCE: Final = re.compile(r"\$\{([^}]+)\}")

_log = structlog.get_logger("era.mirrors")


@dataclass(frozen=True, slots=True, kw_only=True)
class Ways:
    """Where packages come from, and the proxy that leads there, if the host has one."""

    mirrors: Mirrors
    upstream: UpstreamProxy | None


def find(settings: Settings) -> Ways:
    """What the settings and this host say."""
    variables = config.installer_variables()
    pip, npm, go = _pip(variables), _npm(variables), _go(variables)
    pip_index = settings.pip_index_url or pip.get("index-url")
    goproxy = _reachable("GOPROXY", settings.goproxy or go.get("GOPROXY"))
    go.pop("GOPROXY", None)
    if settings.goproxy and "GOSUMDB" not in go:
        # A mirror answers for the checksums too, or has no way to: the operator vouches for it.
        go["GOSUMDB"] = "off"
    registry, auth = _without_auth(settings.npm_registry or npm.get("registry"))
    npmrc = [
        line
        for name, value in npm.items()
        if _NPM_AUTH.fullmatch(name) or _NPM_SCOPE.fullmatch(name)
        for line in _npmrc_lines(name, value)
    ]
    more = () if settings.pip_index_url else tuple(pip.get("extra-index-url", "").split())
    return Ways(
        mirrors=Mirrors(
            pip_index_url=pip_index,
            pip_extra_index_urls=more,
            pip_trusted_hosts=tuple(pip.get("trusted-host", "").split()),
            npm_registry=registry,
            npmrc=(*npmrc, *auth),
            goproxy=goproxy,
            go=go,
            certificates=_certificates(variables, pip.get("cert"), npm.get("cafile")),
        ),
        upstream=_upstream(variables, npm, pip),
    )


def hosts(settings: Settings) -> tuple[str, ...]:
    """URLs (or GOPROXY lists) of every mirror."""
    found = find(settings).mirrors
    scopes = (line.partition("=")[2] for line in found.npmrc if _NPM_SCOPE.match(line))
    named = (found.pip_index_url, *found.pip_extra_index_urls, found.npm_registry, found.goproxy)
    return tuple(text for text in (*named, *scopes) if text)


# --- pip --------------------------------------------------------------------------------------


def _pip(variables: Mapping[str, str]) -> dict[str, str]:
    """Options of `pip install` by their long names."""
    found: dict[str, str] = {}
    own = variables.get("PIP_CONFIG_FILE", "")
    if own != os.devnull:
        home = variables.get("HOME", "/")
        user = variables.get("XDG_CONFIG_HOME") or f"{home}/.config"
        users = (f"{home}/.pip/pip.conf", f"{user}/pip/pip.conf")
        for path in (*_PIP_FILES, *users, *([own] if own else [])):
            found |= _pip_file(path)
    for name, value in variables.items():
        if name.startswith("PIP_"):
            found[name[4:].lower().replace("_", "-")] = value
    return found


def _pip_file(path: str) -> dict[str, str]:
    parser = configparser.RawConfigParser()
    try:
        parser.read(path, encoding="utf-8")
    except (configparser.Error, UnicodeDecodeError):
        _log.warning("pip's configuration cannot be understood")
        return {}
    found: dict[str, str] = {}
    for section in ("global", "install"):
        if parser.has_section(section):
            found |= {name.replace("_", "-"): value for name, value in parser.items(section)}
    return found


# --- npm --------------------------------------------------------------------------------------


def _npm(variables: Mapping[str, str]) -> dict[str, str]:
    """npm's configuration by its names."""
    found: dict[str, str] = {}
    given = {
        name[len("npm_config_") :].lower().replace("_", "-"): value
        for name, value in variables.items()
        if name.lower().startswith("npm_config_")
    }
    whole = given.get("globalconfig")
    own = given.get("userconfig") or f"{variables.get('HOME', '/')}/.npmrc"
    for path in (*((whole,) if whole else _NPM_FILES), own):
        found |= dict(_assignments(path, variables))
    return found | given


def _assignments(path: str, variables: Mapping[str, str]) -> Iterator[tuple[str, str]]:
    """The lines `name = value` of a file, with the references to variables resolved."""
    for line in _text(path).splitlines():
        name, equals, value = line.partition("=")
        if equals and not name.lstrip().startswith(("#", ";")):
            whole = _REFERENCE.sub(lambda found: variables.get(found[1], found[0]), value.strip())
            yield name.strip(), whole.strip("\"'")


def _npmrc_lines(name: str, value: str) -> tuple[str, ...]:
    if not _NPM_SCOPE.fullmatch(name):
        return (f"{name}={value}",)
    url, auth = _without_auth(value)
    return (f"{name}={url}", *auth)


def _without_auth(url: str | None) -> tuple[str | None, tuple[str, ...]]:
    """A registry, and what npmrc has to say for its user and password: npm writes URLs into its cache
    and its logs as they are."""
    parts = urlsplit(url or "")
    if parts.username is None:
        return url, ()
    pair = f"{unquote(parts.username)}:{unquote(parts.password or '')}"
    bare = parts._replace(netloc=parts.netloc.rpartition("@")[2])
    at = f"//{bare.netloc}{bare.path.rstrip('/')}/"
    return bare.geturl(), (f"{at}:_auth={base64.b64encode(pair.encode()).decode()}",)


# --- Go ---------------------------------------------------------------------------------------


def _go(variables: Mapping[str, str]) -> dict[str, str]:
    """Go's variables about modules."""
    path = variables.get("GOENV")
    if path is None:
        home = variables.get("HOME", "/")
        path = f"{variables.get('XDG_CONFIG_HOME') or f'{home}/.config'}/go/env"
    found = {} if path == "off" else dict(_assignments(path, {}))
    found |= {name: value for name, value in variables.items() if name in _GO_NAMES}
    return {name: value for name, value in found.items() if name in _GO_NAMES and value}


def _reachable(name: str, value: str | None) -> str | None:
    """A list of URLs that means something in a box."""
    if value and "file:" in value:
        _log.warning("a mirror that is a directory is not used in setups", variable=name)
        return None
    return value


# --- certificates and proxy -------------------------------------------------------------------


def _certificates(variables: Mapping[str, str], *paths: str | None) -> bytes | None:
    """Certificates beyond those that boxes see anyway, with these; None without any."""
    names = ("SSL_CERT_FILE", "REQUESTS_CA_BUNDLE", "CURL_CA_BUNDLE", "NODE_EXTRA_CA_CERTS")
    given = [*paths, *(variables.get(name) for name in names)]
    known = os.path.realpath(environment.CA_FILE)
    files = {os.path.realpath(path) for path in given if path}
    more = [_text(path) for path in sorted(files - {known})]
    if not any(more):
        return None
    return "\n".join([_text(known), *more]).encode()


def _upstream(
    variables: Mapping[str, str], npm: Mapping[str, str], pip: Mapping[str, str]
) -> UpstreamProxy | None:
    names = ("https_proxy", "HTTPS_PROXY", "http_proxy", "HTTP_PROXY")
    url = next((variables[name] for name in names if variables.get(name)), None)
    url = url or npm.get("https-proxy") or npm.get("proxy") or pip.get("proxy")
    if not url or url in ("null", "false"):
        return None
    direct = variables.get("no_proxy") or variables.get("NO_PROXY") or npm.get("noproxy") or ""
    try:
        return UpstreamProxy.parse(url, direct)
    except ValueError as error:
        _log.warning("the proxy of this host is not used", reason=str(error))
        return None


def _text(path: str) -> str:
    """The text of a file of the operator's; empty when it cannot be read."""
    try:
        with open(path, "rb") as file:
            return file.read(_PEM_BYTES).decode("utf-8", "replace")
    except OSError:
        return ""
