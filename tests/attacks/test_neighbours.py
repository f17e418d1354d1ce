"""Four bombs at once, and a neighbour.  How long it waits is measured by `python -m bench.neighbours`."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest

from bench.neighbours import BOMBS
from tests.attacks.served import Served

pytestmark = pytest.mark.xdist_group("attacks")


def test_four_bombs_at_once_and_a_neighbour_is_served(server: Served) -> None:
    """5, 81: processes, memory, disk and output, each refilled until the others have ended."""

    def explode(kind: str) -> Any:
        answer = server.client.call("POST", "/api/execute", **BOMBS[kind].body(seconds=2))
        assert answer.status == 200, answer
        return answer.json

    with ThreadPoolExecutor(len(BOMBS)) as pool:
        exploding = {kind: pool.submit(explode, kind) for kind in BOMBS}
        served = 0
        while not all(one.done() for one in exploding.values()):
            server.hello()
            served += 1
        ended = {kind: one.result() for kind, one in exploding.items()}
    assert served > 3
    for kind in ("processes", "memory", "disk"):  # many processes are much memory, too
        assert ended[kind]["oom_killed"] or ended[kind]["timed_out"], ended[kind]
    assert ended["output"]["stdout_truncated"]
