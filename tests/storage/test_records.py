"""The contract of records, on the fake and on SQLite."""

from __future__ import annotations

import pytest

from tests.contracts.records import *  # noqa: F403

pytestmark = pytest.mark.anyio
