"""The contract of records, on the fake, on SQLite and on PostgreSQL."""

from __future__ import annotations

import pytest

from tests.contracts.records import *  # noqa: F403

pytestmark = pytest.mark.anyio
