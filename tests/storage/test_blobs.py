"""The contract of blobs, on the fake, on the local directory and on an S3 server."""

from __future__ import annotations

import pytest

from tests.contracts.blobs import *  # noqa: F403

pytestmark = pytest.mark.anyio
