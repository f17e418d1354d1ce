"""Secrets at rest: setup variables are stored sealed, and erased when their setup has finished."""

from __future__ import annotations

import base64
import hashlib
import hmac
import os
import secrets
from collections.abc import Mapping
from contextlib import suppress

from cryptography.fernet import Fernet, InvalidToken

from era import jsontext
from era.errors import InternalError


class Seal:
    """Seals small maps of text under one secret key."""

    def __init__(self, secret: str) -> None:
        """`secret` is any text hard to guess; the same one opens what was sealed."""
        self._key = hashlib.sha256(b"era seal " + secret.encode()).digest()
        self._fernet = Fernet(base64.urlsafe_b64encode(self._key))

    @classmethod
    def from_file(cls, path: str) -> Seal:
        """The seal whose secret is kept in the file at `path`, made (mode 0600) when missing."""
        with suppress(FileExistsError):
            fd = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
            with os.fdopen(fd, "w") as file:
                file.write(secrets.token_urlsafe(32))
                file.flush()
                os.fsync(fd)
        with open(path, encoding="ascii") as file:
            secret = file.read().strip()
        if not secret:
            raise InternalError("internal", "the key file of the service is empty")
        return cls(secret)

    def seal(self, values: Mapping[str, str]) -> str:
        """`values` as text that tells nothing without the key."""
        return self._fernet.encrypt(jsontext.dumps(dict(values)).encode()).decode()

    def open(self, sealed: str) -> dict[str, str]:
        """What was sealed.

        Raises:
            InternalError: sealed under another key, or damaged.
        """
        try:
            text = self._fernet.decrypt(sealed.encode())
        except InvalidToken:
            raise InternalError("internal", "a secret cannot be opened with this key") from None
        values: dict[str, str] = jsontext.loads(text)
        return values

    def digest(self, values: Mapping[str, str]) -> str:
        """A name for `values` (64 hex digits) from which they cannot be guessed without the key."""
        text = jsontext.dumps(sorted(values.items()))
        return hmac.new(self._key, text.encode(), hashlib.sha256).hexdigest()
