"""`era execute`: run code once on a server."""

from __future__ import annotations

import json
import sys
import urllib.error
import urllib.request
from typing import Any, Final

from era.cli.main import WRONG_USAGE, Common
from era.environment import api_key as default_key
from era.environment import server_url

REFUSED: Final = 125
"""The service refused, or cannot be reached."""


class RefusedError(Exception):
    """No result: the words of the service or of the network, and what may help."""

    def __init__(self, words: str, hint: str = "") -> None:
        self.words: Final = words
        self.hint: Final = hint
        super().__init__(words)


def run(
    language: str,
    code: str | None,
    file: str | None,
    timeout: float | None,
    env: list[str],
    allow_internet: bool,
    url: str | None,
    api_key: str | None,
    common: Common,
) -> int:
    """Run the program; its exit code."""
    try:
        variables = _variables(env)
        body: dict[str, Any] = {"language": language, "code": _code(code, file), "env": variables}
    except ValueError as error:
        print(f"era: {error}", file=sys.stderr)
        return WRONG_USAGE
    if timeout is not None:
        body["timeout"] = timeout
    if allow_internet:
        body["allowInternetAccess"] = True
    try:
        answer = post("/api/execute", body, url, api_key)
    except RefusedError as error:
        print(f"era: {error.words}", file=sys.stderr)
        if error.hint:
            print(f"  {error.hint}", file=sys.stderr)
        return REFUSED
    return _show(answer, common)


def _show(answer: dict[str, Any], common: Common) -> int:
    if common.json:
        print(json.dumps(answer, separators=(",", ":")))
    else:
        _write(sys.stdout, answer["stdout"])
        _write(sys.stderr, answer["stderr"])
    return int(answer["exit_code"])


def _write(stream: Any, text: str) -> None:
    stream.buffer.write(text.encode("utf-8", "replace"))
    stream.flush()


def _variables(env: list[str]) -> dict[str, str]:
    pairs = [text.partition("=") for text in env]
    if not all(separator for _, separator, _ in pairs):
        raise ValueError("--env must be NAME=value")
    return {name: value for name, _, value in pairs}


def _code(code: str | None, file: str | None) -> str:
    if code is not None and file is not None:
        raise ValueError("give --code or --file, not both")
    if code is not None:
        return code
    try:
        if file is None:
            return sys.stdin.read()
        with open(file, encoding="utf-8") as opened:
            return opened.read()
    except (OSError, UnicodeDecodeError) as error:
        raise ValueError(f"the code cannot be read: {error}") from None


def post(path: str, body: dict[str, Any], url: str | None, api_key: str | None) -> dict[str, Any]:
    """The JSON answer of the server to a POST.

    Raises:
        RefusedError: it refused, or there is no such server.
    """
    base, key = (url or server_url()).rstrip("/"), api_key or default_key()
    headers = {"Content-Type": "application/json"}
    if key:
        headers["Authorization"] = f"Bearer {key}"
    try:
        request = urllib.request.Request(base + path, json.dumps(body).encode(), headers)  # noqa: S310 - the user's own address
        with _OPENER.open(request) as response:
            answer: dict[str, Any] = json.load(response)
            return answer
    except urllib.error.HTTPError as error:
        raise _refusal(error) from None
    except (OSError, ValueError) as error:
        reason = getattr(error, "reason", error)
        raise RefusedError(
            f"cannot reach {base}: {reason}", "Start one with `era serve`, or name it with --url."
        ) from None


def _refusal(error: urllib.error.HTTPError) -> RefusedError:
    try:
        body = json.load(error)
        words = f"{body['error']}: {body['message']}" if "message" in body else body["error"]
        return RefusedError(words, body.get("hint", ""))
    except (ValueError, KeyError, TypeError):
        return RefusedError(f"the server answered {error.code} {error.reason}")


class _NoRedirect(urllib.request.HTTPRedirectHandler):
    """The key goes to the address it was given for and to no other."""

    def redirect_request(self, *_: Any, **__: Any) -> None:
        """Follow nothing."""


_OPENER: Final = urllib.request.build_opener(_NoRedirect)
