"""The application of the API's tests, asked by agents."""

from __future__ import annotations

from tests.api.conftest import api, connect, make_app, sessions

__all__ = ["api", "connect", "make_app", "sessions"]
