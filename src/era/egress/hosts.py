"""Which hosts the `registries` policy allows: what the installers themselves would use.

No registry is named here.  Each installer knows its own defaults, and is asked for them when the
server starts; the operator's mirrors and further hosts come on top.  What cannot be read is left out
and logged: a run then gets a clear refusal, and the operator can name the host.

pip is the one that needs two answers: the index lists files that lie on another host.  pip knows it
(`file_storage_domain` of its default index), and so does the copy of pip that an interpreter brings
along for new environments.  The files of a mirror are expected at the mirror itself, as mirrors do.
"""

from __future__ import annotations

import os
import re
import subprocess
import tempfile
import urllib.parse
from collections.abc import Callable, Iterable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from typing import Final

import structlog

from era.egress.policy import HostRule

_log = structlog.get_logger()

ASK_SECONDS: Final = 30.0

# The interpreter's own pip, else the wheel that `ensurepip` keeps for new environments; distributions
# keep that one in a directory of their own (configure's --with-wheel-pkg-dir).
_ASK_PIP: Final = """
import sys
try:
    import pip
except ImportError:
    import ensurepip, glob, os, sysconfig
    bundled = os.path.join(os.path.dirname(ensurepip.__file__), "_bundled")
    folder = sysconfig.get_config_var("WHEEL_PKG_DIR") or bundled
    sys.path[:0] = sorted(glob.glob(os.path.join(folder, "pip-*.whl")))[-1:]
from pip._internal.models.index import PyPI
print(PyPI.simple_url)
print("https://" + PyPI.file_storage_domain)
"""
_DENO_DEFAULT: Final = re.compile(r"--allow-import\b.*?Default value:\s*(\S+)", re.DOTALL)
_UV_DEFAULT: Final = re.compile(r"by default:\s*<(https?://[^>\s]+)>")
_ESCAPES: Final = re.compile(r"\x1b\[[0-9;]*m")


class _UnreadableError(Exception):
    """An installer did not tell its defaults; the text says why, without host paths."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Installers:
    """How to call each installer on the host, as argument lists; empty when it is not there."""

    python: tuple[str, ...] = ()
    uv: tuple[str, ...] = ()
    npm: tuple[str, ...] = ()
    go: tuple[str, ...] = ()
    deno: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class RegistryHosts:
    """The allow-list of `registries`, and what is missing from it (installer to reason)."""

    rules: tuple[HostRule, ...] = ()
    unread: Mapping[str, str] = field(default_factory=dict)


def _environment(argv: Sequence[str], empty: str) -> dict[str, str]:
    """Nothing of the server's: an installer that read the operator's own configuration would tell
    of hosts, perhaps with credentials, that boxes do not use.  A home that is no directory keeps
    them from leaving caches and records behind; `empty` is an empty directory."""
    folder = os.path.dirname(argv[0])
    return {
        "PATH": os.pathsep.join(filter(None, (folder, os.defpath))),
        "HOME": os.devnull,
        "LANG": "C.UTF-8",
        "NO_COLOR": "1",
        "GOENV": "off",
        "GOTOOLCHAIN": "local",
        "GOPATH": empty,
        "GOCACHE": os.path.join(empty, "go"),
        "npm_config_userconfig": os.path.join(empty, "none-of-the-user"),
        "npm_config_globalconfig": os.path.join(empty, "none-of-the-host"),
        "npm_config_update_notifier": "false",
        "DENO_NO_UPDATE_CHECK": "1",
    }


def _ask(argv: Sequence[str]) -> str:
    """What `argv` prints."""
    with tempfile.TemporaryDirectory(prefix="era-hosts-") as empty:
        try:
            done = subprocess.run(
                argv,
                env=_environment(argv, empty),
                cwd=empty,
                stdin=subprocess.DEVNULL,
                capture_output=True,
                timeout=ASK_SECONDS,
                check=False,
            )
        except subprocess.TimeoutExpired:
            raise _UnreadableError("it did not answer in time") from None
        except OSError as error:
            raise _UnreadableError(f"it cannot be started ({error.strerror})") from None
    if done.returncode != 0:
        raise _UnreadableError(f"it ended with status {done.returncode}")
    return _ESCAPES.sub("", done.stdout.decode("utf-8", "replace"))


def _pip(argv: tuple[str, ...]) -> list[HostRule]:
    return rules_of_urls(_ask((*argv, "-I", "-c", _ASK_PIP)).split())


def _uv(argv: tuple[str, ...]) -> list[HostRule]:
    return rules_of_urls(_UV_DEFAULT.findall(_ask((*argv, "pip", "install", "--help"))))


def _npm(argv: tuple[str, ...]) -> list[HostRule]:
    return rules_of_urls(_ask((*argv, "config", "get", "registry")).split()[-1:])


def _go(argv: tuple[str, ...]) -> list[HostRule]:
    proxies, _, sums = _ask((*argv, "env", "GOPROXY", "GOSUMDB")).partition("\n")
    return goproxy_rules(proxies) + _gosumdb_rules(sums)


def _gosumdb_rules(text: str) -> list[HostRule]:
    """`name`, `name+key` or `name+key url`: the url when there is one, else the name."""
    words = text.split()
    if not words or words[0] == "off":
        return []
    return rules_of_urls([words[1] if len(words) > 1 else f"https://{words[0].partition('+')[0]}"])


def _deno(argv: tuple[str, ...]) -> list[HostRule]:
    found = _DENO_DEFAULT.search(_ask((*argv, "run", "--help=full")))
    return [] if found is None else [HostRule.parse(entry) for entry in found[1].split(",")]


_ASKERS: Final[Mapping[str, Callable[[tuple[str, ...]], list[HostRule]]]] = {
    "python": _pip,
    "uv": _uv,
    "npm": _npm,
    "go": _go,
    "deno": _deno,
}


def rules_of_urls(urls: Iterable[str]) -> list[HostRule]:
    """One rule a URL: its host, at its port or at that of its scheme.

    Raises:
        ValueError: one of them is no http(s) URL with a host.
    """
    return [_rule_of_url(url) for url in urls]


def _rule_of_url(url: str) -> HostRule:
    parts = urllib.parse.urlsplit(url)
    if parts.scheme not in ("http", "https") or not parts.hostname:
        raise ValueError("not an http(s) URL")
    host = f"[{parts.hostname}]" if ":" in parts.hostname else parts.hostname
    rule = HostRule.parse(host)
    if parts.port is None:
        return rule
    return HostRule(name=rule.name, ports=frozenset({parts.port}))


def goproxy_rules(goproxy: str) -> list[HostRule]:
    """The hosts of a GOPROXY list.  `direct` and `off` name none: version control hosts are no
    registries.

    Raises:
        ValueError: an entry is no http(s) URL.
    """
    entries = [entry.strip() for entry in re.split(r"[,|]", goproxy)]
    return rules_of_urls(entry for entry in entries if entry and entry not in ("direct", "off"))


def registry_hosts(
    installers: Installers, *, mirrors: Iterable[str] = (), extra: Iterable[str] = ()
) -> RegistryHosts:
    """Ask the installers, at the same time (about a second in all; call it from a thread).

    `mirrors` are URLs, or GOPROXY lists of them; `extra` are host rules (`example.org`,
    `*.example.org:8443`).

    Raises:
        ValueError: a mirror or an extra host cannot be understood.
    """
    given = [rule for mirror in mirrors for rule in goproxy_rules(mirror)]
    given += [HostRule.parse(text) for text in extra]
    unread: dict[str, str] = {}
    with ThreadPoolExecutor(len(_ASKERS)) as threads:
        answers = list(threads.map(lambda name: _read(name, installers), _ASKERS))
    for name, answer in zip(_ASKERS, answers, strict=True):
        if isinstance(answer, str):
            unread[name] = answer
            _log.warning("registry hosts unknown", installer=name, reason=answer)
        else:
            given += answer
    return RegistryHosts(rules=tuple(dict.fromkeys(given)), unread=unread)


def _read(name: str, installers: Installers) -> list[HostRule] | str:
    """The rules that the installer `name` stands for, or why there are none."""
    argv: tuple[str, ...] = getattr(installers, name)
    if not argv:
        return "it is not installed"
    try:
        return _ASKERS[name](argv) or "it tells no default"
    except (_UnreadableError, ValueError) as error:
        return str(error)
