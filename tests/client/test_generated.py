"""The synchronous SDK is what the asynchronous one becomes, and loading either costs little."""

from __future__ import annotations

import inspect
import subprocess
import sys
from pathlib import Path

import pytest

import era
from era import client
from tools import blocking

SERVER = {
    "alembic",
    "cyclopts",
    "fastapi",
    "obstore",
    "psutil",
    "psycopg",
    "pydantic",
    "rich",
    "sqlalchemy",
    "starlette",
    "structlog",
    "uvicorn",
}


def test_the_generated_half_is_fresh() -> None:
    stale = [path.name for path, fresh in blocking.modules() if path.read_text() != fresh]
    assert stale == [], "run scripts/sdk"
    names = {path.name for path, _ in blocking.modules()}
    assert {path.name for path in blocking.GENERATED.glob("*.py")} == names


def test_a_stale_half_would_be_noticed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "client.py").write_text("async def other() -> None:\n    await other()\n")
    monkeypatch.setattr(blocking, "HAND", tmp_path)
    ((path, fresh),) = blocking.modules()
    assert fresh.endswith("def other() -> None:\n    other()\n")
    assert path.read_text() != fresh


@pytest.mark.parametrize(
    ("source", "becomes"),
    [
        ("async with aclosing(x) as y:\n    pass\n", "with closing(x) as y:\n    pass\n"),
        ("x = [await f(\n    1\n) for _ in y]\n", "x = [f(\n    1\n) for _ in y]\n"),
        ("await sleep_async(1)  # await\n", "sleep(1)  # await\n"),
        ('"""async with AsyncEra()"""\n', '"""with Era()"""\n'),
        ("awaited = not_async = 1\n", "awaited = not = 1\n"),
    ],
)
def test_what_becomes_of_source(source: str, becomes: str) -> None:
    assert blocking.blocking(source) == becomes


def test_both_have_the_same_methods() -> None:
    pairs = [
        (client.AsyncEra, client.Era),
        (client.AsyncSession, client.Session),
        (client.AsyncFiles, client.Files),
        (client.AsyncVm, client.Vm),
    ]
    for aio, plain in pairs:
        wanted = {blocking.blocking_name(name) for name in vars(aio)}
        assert wanted == set(vars(plain))
        assert not any(inspect.iscoroutinefunction(value) for value in vars(plain).values())


def loaded(code: str) -> set[str]:
    """The top-level modules that are there after some code."""
    program = f"import sys\n{code}\nprint(*{{name.partition('.')[0] for name in sys.modules}})"
    done = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, check=True
    )
    return set(done.stdout.split())


def test_the_sdk_loads_nothing_of_the_server() -> None:
    names = loaded("import era; era.Era('http://127.0.0.1:1').close()")
    assert "httpx2" in names
    assert names & SERVER == set()


def test_the_package_alone_loads_nothing() -> None:
    heavy = {"httpx2", "msgspec", "asyncio", "ssl"}
    for code in ("import era; era.__version__", "from era import errors, models", "dir(era)"):
        assert loaded(f"import era\n{code}") & heavy == set()
    assert loaded("from era import Era") & heavy != set()


def test_the_package_offers_the_sdk() -> None:
    assert set(dir(era)) >= set(client.__all__)
    assert set(client.__all__) == era._SDK
    for name in client.__all__:
        assert getattr(era, name) is getattr(client, name)
    for name in ("nothing", "_nothing", "json"):
        with pytest.raises(AttributeError):
            getattr(era, name)
