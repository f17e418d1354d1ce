"""Every known attack has its tests and its mirror; and every test of this room belongs to one."""

from __future__ import annotations

import os
import re
import signal
import subprocess
from collections.abc import Iterator
from functools import cache
from pathlib import Path

import pytest

from era.api.app import OPERATIONS
from tests.attacks.cases import CASES, SAME, Case
from tests.attacks.served import Served
from tests.sandbox.attack import ROOT
from tests.sandbox.census import until

TESTS = Path(__file__).parents[1]
HERE = "attacks/"
THROUGH_THE_API = (HERE, "e2e/")

# What stands beside the attacks here, and is none itself.
OWN = {
    f"attacks/test_cases.py::{name}"
    for name in (
        "test_every_number_has_a_case",
        "test_every_test_that_is_named_exists",
        "test_every_case_is_tried_through_the_api_and_has_a_mirror",
        "test_what_waits_is_not_there_yet",
        "test_every_test_here_belongs_to_a_case",
        "test_a_table_with_a_mistake_would_be_noticed",
    )
}


@cache
def defined(path: str) -> frozenset[str]:
    """The test functions of a module."""
    return frozenset(re.findall(r"^(?:async )?def (test_\w+)", (TESTS / path).read_text(), re.M))


def missing(case: Case) -> list[str]:
    """What a case names and is not there."""
    named = [name for name in (*case.by, *case.mirror) if name != SAME]
    found = []
    for name in named:
        path, _, function = name.partition("::")
        if not (TESTS / path).is_file() or function not in defined(path):
            found.append(name)
    return found


def test_every_number_has_a_case() -> None:
    assert list(CASES) == list(range(1, 86))


@pytest.mark.parametrize("number", CASES)
def test_every_test_that_is_named_exists(number: int) -> None:
    assert missing(CASES[number]) == []


@pytest.mark.parametrize("number", [n for n, case in CASES.items() if case.by or not case.waits])
def test_every_case_is_tried_through_the_api_and_has_a_mirror(number: int) -> None:
    case = CASES[number]
    assert case.by
    assert case.mirror
    assert any(name.startswith(THROUGH_THE_API) for name in case.by) or case.below


def routes() -> Iterator[str]:
    for operation in OPERATIONS:
        yield operation.path


def test_what_waits_is_not_there_yet() -> None:
    """A feature that came: write its case, and name the tests instead."""
    waiting = {number: case.waits for number, case in CASES.items() if case.waits.startswith("/")}
    for number, waits in waiting.items():
        assert not [path for path in routes() if path.startswith(waits)], f"case {number} is due"
    assert [path for path in routes() if path.startswith("/api/sessions")]  # it would be seen


def test_every_test_here_belongs_to_a_case() -> None:
    named = {name for case in CASES.values() for name in (*case.by, *case.mirror)}
    there = {
        f"{HERE}{path.name}::{name}"
        for path in (TESTS / HERE).glob("test_*.py")
        for name in defined(f"{HERE}{path.name}")
    }
    assert there - named - OWN == set()


def test_a_table_with_a_mistake_would_be_noticed() -> None:
    wrong = Case(
        what="x", by=("attacks/test_cases.py::test_nothing",), mirror=("nowhere.py::test_x",)
    )
    assert missing(wrong) == list(wrong.by + wrong.mirror)
    assert (
        missing(Case(what="x", by=("attacks/test_cases.py::test_every_number_has_a_case",))) == []
    )


def test_what_is_not_prevented_is_told() -> None:
    """67: what shares hardware can be observed; the page says so, and does not promise otherwise."""
    page = (TESTS.parent / "SECURITY.md").read_text()
    end = page.partition("\n## Where it ends\n")[2].partition("\n## ")[0]
    assert "Side channels through caches, timing and memory are not addressed." in end


@pytest.mark.xdist_group("attacks")
def test_what_is_left_would_be_seen(server: Served) -> None:
    """The mirror of the count after every attack: a run under way, a process, a file."""
    assert server.grown() == {}
    with server.session() as session:
        stream = session.client.begin(
            "POST", "/api/execute", b'{"language":"python","code":"import time; time.sleep(600)"}'
        )
        try:
            seen = {"processes", "networks"} | ({"groups"} if ROOT else set())
            until(lambda: seen <= server.grown().keys(), "a run, and another box for it")
        finally:
            stream.close()
        session.file("PUT", "f", b"x")
        session.run("open('g', 'w').close()")
        until(lambda: "files" in server.grown(), "the files")
    server.settled()
    with subprocess.Popen(["/usr/bin/sleep", "600"]) as stray:
        until(lambda: server.grown() == {}, "nothing: it is no process of the server")
        os.kill(stray.pid, signal.SIGKILL)
