"""The contract of blobs, on the fake and on the local directory."""

from __future__ import annotations

import pytest

from tests.contracts.blobs import *  # noqa: F403

pytestmark = pytest.mark.anyio
