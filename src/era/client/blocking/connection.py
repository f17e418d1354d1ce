# Generated from ../aio by `scripts/sdk`; change that one.
"""Requests to one server: their addresses, their errors, and when one is sent again."""

from __future__ import annotations

import ssl
import time
from collections.abc import Callable, Generator, Iterable
from contextlib import closing
from typing import Any, Final

import httpx2

from era import __version__, jsontext
from era.client.answers import Event, Raw
from era.client.errors import AnswerError, UnreachableError, from_answer, reaching
from era.client.events import EventReader
from era.client.worlds import sleep
from era.errors import EraError

FIRST_PAUSE_SECONDS: Final = 0.1
LONGEST_PAUSE_SECONDS: Final = 5.0
IDLE_SECONDS: Final = 2.0
"""An idle connection is used again within this time only: well before the server closes it."""
REPEATABLE: Final = frozenset({"GET", "PUT"})
"""Once or twice is the same.  A DELETE that is sent twice answers 404."""
NEVER_SENT: Final = (httpx2.ConnectError, httpx2.ConnectTimeout, httpx2.PoolTimeout)

Content = bytes | Callable[[], Iterable[bytes]] | None
"""What a request carries: bytes, or what makes the pieces anew for each time that it is sent."""


class Connection:
    """One server, and the connections to it that are kept open."""

    def __init__(self, url: str, api_key: str, timeout_seconds: float, retries: int) -> None:
        self.url: Final = url.rstrip("/")
        self._retries: Final = retries
        self._timeout: Final = timeout_seconds
        headers = {"User-Agent": f"era/{__version__}"}
        if api_key:
            headers["Authorization"] = f"Bearer {api_key}"
        with reaching(self.url):
            address = httpx2.URL(self.url)
        self._http: Final = httpx2.Client(
            headers=headers,
            # No redirect is followed: the key goes to the address it was given for and to no other.
            follow_redirects=False,
            verify=_certificates(address),
            trust_env=address.host not in ("127.0.0.1", "::1", "localhost"),
            limits=httpx2.Limits(
                max_connections=None, max_keepalive_connections=20, keepalive_expiry=IDLE_SECONDS
            ),
        )

    def close(self) -> None:
        """Close the connections."""
        self._http.close()

    def json(
        self,
        method: str,
        path: str,
        body: Raw | None = None,
        *,
        query: Raw | None = None,
        content: Content = None,
        headers: dict[str, str] | None = None,
        waits: bool = False,
        repeatable: bool | None = None,
    ) -> Raw:
        """The JSON object that a request is answered with.

        `waits`: the answer may take as long as a program does.  `repeatable`: whether it may be sent
        again though it may have been carried out; None goes by the method.

        Raises:
            EraError: what the service answered.
            UnreachableError: there was no answer.
        """
        response = self.open(
            method,
            path,
            body,
            query=query,
            content=content,
            headers=headers,
            waits=waits,
            repeatable=repeatable,
        )
        with closing(response):
            with reaching(self.url):
                text = response.read()
        return _object(text, response.status_code)

    def open(
        self,
        method: str,
        path: str,
        body: Raw | None = None,
        *,
        query: Raw | None = None,
        content: Content = None,
        headers: dict[str, str] | None = None,
        waits: bool = False,
        repeatable: bool | None = None,
    ) -> httpx2.Response:
        """An answer whose body is still to be read; the caller closes it."""
        sends_again = method in REPEATABLE if repeatable is None else repeatable
        if body is not None:
            content = jsontext.dumps(body).encode()
            headers = {"Content-Type": "application/json"}
        timeout = httpx2.Timeout(self._timeout, read=None if waits else self._timeout, pool=None)
        attempt = 0
        while True:
            try:
                with reaching(self.url):
                    request = self._http.build_request(
                        method,
                        self.url + path,
                        params=query or None,
                        content=content() if callable(content) else content,
                        headers=headers,
                        timeout=timeout,
                    )
                    response = self._http.send(request, stream=True)
                if response.is_success:
                    return response
                raise self._refusal(response)
            except EraError as error:
                attempt += 1
                if attempt > self._retries or not _again(error, sends_again):
                    raise
                sleep(_pause(error, attempt))

    def _refusal(self, response: httpx2.Response) -> EraError:
        with closing(response):
            with reaching(self.url):
                text = response.read()
        status = response.status_code
        try:
            body = _object(text, status)
        except AnswerError:
            body = {"error": f"the server answered {status} {response.reason_phrase}".strip()}
        after = response.headers.get("Retry-After", "")
        return from_answer(
            status,
            body,
            retry_after_seconds=int(after) if after.isdecimal() else None,
            request_id=response.headers.get("X-Request-Id"),
        )

    def chunks(self, path: str) -> Generator[bytes]:
        """The bytes of an answer, as they come."""
        response = self.open("GET", path)
        with closing(response):
            with reaching(self.url):
                for piece in response.iter_bytes():
                    yield piece

    def events(self, path: str, body: Raw) -> Generator[Event]:
        """The events of a run; the last is `done`.

        Raises:
            EraError: the service failed after the stream began.
            UnreachableError: it broke off.
        """
        reader = EventReader()
        response = self.open("POST", path, body)
        with closing(response):
            with reaching(self.url):
                for piece in response.iter_bytes():
                    for event in reader.feed(piece):
                        yield event
        if not reader.finished:
            raise UnreachableError("the stream broke off")


def _certificates(address: httpx2.URL) -> ssl.SSLContext | bool:
    """What is trusted.  Loading it takes a while, and plain HTTP needs none of it."""
    return ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT) if address.scheme == "http" else True


def _object(text: bytes, status: int) -> dict[str, Any]:
    try:
        value = jsontext.loads(text)
    except jsontext.JsonTextError:
        value = None
    if not isinstance(value, dict):
        raise AnswerError("the answer is no JSON object", status=status)
    return value


def _again(error: EraError, repeatable: bool) -> bool:
    """Whether a request may be sent again: nothing came of it, or twice is the same as once."""
    if isinstance(error, UnreachableError):
        return repeatable or isinstance(error.__cause__, NEVER_SENT)
    if error.status == 429:
        return True
    return repeatable and error.status in (502, 503, 504)


def _pause(error: EraError, attempt: int) -> float:
    """Seconds before the next time, a little different for everyone who waits."""
    pause = error.retry_after_seconds or FIRST_PAUSE_SECONDS * 2 ** (attempt - 1)
    spread = 1 + time.monotonic_ns() % 1000 / 4000
    return min(pause, LONGEST_PAUSE_SECONDS) * spread
