"""What every keeper of `era.storage.base.Records` must do.

Each test takes the fixture `records`, an empty keeper.  A test module of a keeper imports them all.
Nothing here knows how a keeper works.
"""

from __future__ import annotations

from tests.contracts.records.commits import *  # noqa: F403
from tests.contracts.records.copies import *  # noqa: F403
from tests.contracts.records.files import *  # noqa: F403
from tests.contracts.records.history import *  # noqa: F403
from tests.contracts.records.kit import *  # noqa: F403
from tests.contracts.records.leases import *  # noqa: F403
from tests.contracts.records.sessions import *  # noqa: F403
from tests.contracts.records.setups import *  # noqa: F403
from tests.contracts.records.vms import *  # noqa: F403
