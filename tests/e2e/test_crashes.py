"""Servers killed at any moment lose nothing acknowledged and keep nothing by half.

A few kills each; scripts/crash-loop does as many as one likes."""

from __future__ import annotations

import pytest

from tests.e2e.crash_loop import Worker, loop

pytestmark = [pytest.mark.xdist_group("crashes"), pytest.mark.timeout(600)]


def test_kills_of_one_server_lose_nothing() -> None:
    problems = loop(6, seed=1)
    assert not problems, "\n".join(problems)


def test_kills_of_one_of_two_servers_lose_nothing() -> None:
    problems = loop(3, nodes=2, seed=2)
    assert not problems, "\n".join(problems)


class Told:
    """Stands for a server that tells of a session."""

    def __init__(self, count: int, files: dict[str, int]) -> None:
        self.count = count
        self.files = files

    def call(self, *_: object) -> object:
        files = [{"path": path, "size": size} for path, size in self.files.items()]
        return {"data": {"count": self.count}, "metadata": {}, "files": files}

    def download(self, _: str, path: str) -> bytes:
        return b"x" * self.files.get(path, 0)


@pytest.mark.parametrize(
    ("count", "files", "opened", "wrong"),
    [
        (2, {"run-1": 1, "run-2": 2}, "", False),
        (3, {"run-1": 1, "run-2": 2, "run-3": 3}, "run", False),
        (3, {"run-1": 1, "run-2": 2, "run-3": 3}, "", True),
        (1, {"run-1": 1}, "run", True),
        (3, {"run-1": 1, "run-2": 2}, "run", True),
        (2, {"run-1": 1, "run-2": 2, "run-3": 3}, "run", True),
        (2, {"run-1": 1, "run-2": 1}, "", True),
    ],
)
def test_the_witness_sees_what_was_lost_and_what_is_half(
    count: int, files: dict[str, int], opened: str, wrong: bool
) -> None:
    worker = Worker("w", 0, count=2, open=opened)
    worker.check(Told(count, files))  # type: ignore[arg-type]
    assert bool(worker.problems) is wrong
