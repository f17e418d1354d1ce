"""`era serve`: the server's process, from its settings to its last answer."""

from __future__ import annotations

import asyncio
import contextlib
import ipaddress
import resource
import signal
import socket
import sys
import time
from typing import Final, TextIO

import structlog

from era import __version__, assemble, logs
from era.api.app import create_app
from era.api.options import Bounds, Options
from era.api.routing import Area
from era.api.server import BACKLOG, Server
from era.api.server import server as http_server
from era.assemble import StartError
from era.cli.common import Common
from era.config import Settings, load, misspelt
from era.errors import CODES, EraError
from era.sessions.service import Sessions
from era.ui.dashboard import dashboard

CANNOT_START: Final = 1
_OPEN_FILES: Final = 65_536
"""Far more than a full server needs; no more, since some programs walk over all they may have."""

_log = structlog.get_logger("era.serve")


def run(
    host: str | None,
    port: int | None,
    addr: str | None,
    state_dir: str | None,
    isolation: str | None,
    common: Common,
) -> int:
    """Serve until a signal; the exit code."""
    try:
        settings = _settings(host, port, addr, state_dir, isolation, common)
        stream = _logging(settings)
        _raise_open_files()
        with contextlib.closing(_listen(settings.host, settings.port)) as listener:
            asyncio.run(serve(settings, listener))
    except EraError as error:
        return _cannot_start(_words(error), _remedy(error))
    if stream is not sys.stderr:
        stream.close()
    return 0


def _raise_open_files() -> None:
    """Take all the open files that the system grants: each box costs the server a dozen, and what a
    box may have open (1024) must stay below what the server may, where they share a user."""
    _soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    wanted = _OPEN_FILES if hard == resource.RLIM_INFINITY else min(hard, _OPEN_FILES)
    resource.setrlimit(resource.RLIMIT_NOFILE, (wanted, hard))


def _cannot_start(cause: str, remedy: str) -> int:
    print(f"era: {cause}\n  {remedy}", file=sys.stderr)
    return CANNOT_START


def _words(error: EraError) -> str:
    details = error.extra.get("message") or error.extra.get("details")
    return f"{error.text}: {details}" if details else error.text


def _remedy(error: EraError) -> str:
    return str(error.extra.get("hint") or CODES[error.code].advice)


def _settings(
    host: str | None,
    port: int | None,
    addr: str | None,
    state_dir: str | None,
    isolation: str | None,
    common: Common,
) -> Settings:
    addr_host, addr_port = _address(addr)
    return load(
        {
            "ERA_HOST": host or addr_host,
            "PORT": addr_port if port is None else port,
            "AGENT_STATE_DIR": state_dir,
            "ERA_ISOLATION": isolation,
            "AGENT_LOG_LEVEL": common.log_level,
            "AGENT_LOG_FILE": common.log_file,
        }
    )


def _address(addr: str | None) -> tuple[str | None, str | None]:
    """Host and port of `host:port` or `:port`; an empty host leaves it as it is."""
    if addr is None:
        return None, None
    host, colon, port = addr.rpartition(":")
    if not colon:
        raise StartError(f"--addr {addr} names no port", "Write it as host:port, or :port.")
    return host.strip("[]") or None, port


def _logging(settings: Settings) -> TextIO:
    try:
        return logs.configure(settings.log_level, settings.log_file)
    except OSError as error:
        raise StartError(
            f"AGENT_LOG_FILE cannot be written: {error.strerror}",
            "Choose another file, or unset it to log on standard error.",
        ) from None


def _listen(host: str, port: int) -> socket.socket:
    """A socket bound to the address; it accepts nothing before the server is ready."""
    try:
        family, kind, proto, _, address = socket.getaddrinfo(
            host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE
        )[0]
    except OSError:
        raise StartError(f"cannot listen on {host}", "Choose another --host or ERA_HOST.") from None
    listener = socket.socket(family, kind, proto)
    listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    try:
        listener.bind(address)
        # Bound twice is possible until one of them listens; so the second server must fail here.
        listener.listen(BACKLOG)
    except OSError as error:
        listener.close()
        raise StartError(
            f"cannot listen on {host} port {port}: {(error.strerror or str(error)).lower()}",
            "Stop what listens there, or choose another --port or PORT.",
        ) from None
    listener.setblocking(False)
    return listener


async def serve(settings: Settings, listener: socket.socket) -> None:
    """Build the service, answer requests until a signal, let runs finish, take everything down."""
    service = await assemble.build(settings, listener.getsockname()[1])
    try:
        stop = asyncio.Event()
        app = create_app(service.sessions, options(settings, stop), areas(settings))
        server = http_server(app)
        _on_signals(stop, service.sessions, server)
        ending = asyncio.create_task(_end(stop, service, server, settings.shutdown_grace))
        _announce(settings, listener, service)
        await server.serve(sockets=[listener])
        ending.cancel()
    finally:
        await service.close()


def _on_signals(stop: asyncio.Event, sessions: Sessions, server: Server) -> None:
    hurried = False

    def told() -> None:
        """Once: runs get their grace.  Twice: it is over.  Three times: nothing is waited for."""
        nonlocal hurried
        if hurried:
            server.force_exit = server.should_exit = True
        elif stop.is_set():
            hurried = True
            _log.info("stopping at once")
            sessions.hurry()
        stop.set()

    loop = asyncio.get_running_loop()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, told)


async def _end(
    stop: asyncio.Event, service: assemble.Service, server: Server, grace_seconds: float
) -> None:
    """Once told: new requests are refused, runs get their grace, then the server ends."""
    await stop.wait()
    _log.info("stopping", grace_seconds=grace_seconds)
    try:
        await service.sessions.close(grace_seconds)
    finally:
        server.should_exit = True


def options(settings: Settings, stop: asyncio.Event) -> Options:
    """What the HTTP door is told."""
    return Options(
        clock=lambda: time.time_ns() // 1_000_000,
        stopping=stop.is_set,
        api_keys=settings.api_keys,
        cors_origins=settings.cors_origins,
        public_url=settings.public_url or None,
        trust_proxy=settings.trust_proxy,
        bounds=Bounds(
            body_bytes=settings.max_body_bytes,
            code_bytes=settings.max_code_bytes,
            data_bytes=settings.max_data_bytes,
            metadata_bytes=settings.max_metadata_bytes,
            file_bytes=settings.max_file_bytes,
            max_timeout_seconds=settings.max_timeout,
            max_memory_mib=settings.max_memory_mib,
            max_cpus=settings.max_cpus,
        ),
    )


def areas(settings: Settings) -> tuple[Area, ...]:
    """What is served beside the API."""
    return (dashboard(settings.api_keys),) if settings.dashboard else ()


def _announce(settings: Settings, listener: socket.socket, service: assemble.Service) -> None:
    host, port = listener.getsockname()[:2]
    _log.info(
        "listening",
        version=__version__,
        host=host,
        port=port,
        isolation=service.sessions.tier,
        unenforced=list(service.sessions.unenforced),
    )
    for words in misspelt():
        _log.warning("ignored", reason=words)
    if not settings.api_keys and not ipaddress.ip_address(host.split("%")[0]).is_loopback:
        _log.warning("anyone who reaches this address can run code: set ERA_API_KEY")
