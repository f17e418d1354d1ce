"""What a run leaves behind in a real box, and what of it is kept: every rule, from inside a run."""

from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from era.models import NewCopy
from era.sessions.settings import SessionLimits
from era.storage.base import Quota
from tests.sessions.conftest import Room, boxed_room

pytestmark = pytest.mark.anyio

NAMES = """
    .env .ENV .env.local .env.production .env.development credentials.json service-account.json
    .aws/credentials .ssh/id_rsa .ssh/id_ed25519 .netrc .dockercfg .npmrc .pypirc secrets.json
    secrets.yaml secrets.yml deep/down/.Env deep/.aws/Credentials
""".split()
"""What is taken for a secret by its name alone."""


@pytest.fixture
async def room(anyio_backend: str, tmp_path: Path) -> AsyncIterator[Room]:
    async with boxed_room(tmp_path, SessionLimits()) as made:
        yield made


async def skipped(room: Room, code: str) -> dict[str, str]:
    """Why each path was not kept that a program left."""
    result = await room.run(f"import os, socket\n{code}")
    assert (result.exit_code, result.stderr) == (0, "")
    assert result.files_error is None
    return {skip.path: skip.reason for skip in result.files_skipped}


async def test_data_is_what_the_file_holds_afterwards(room: Room) -> None:
    cases = [
        ("pass", None, '{"old":1}'),
        ("open(F, 'w').write(' [1, 12345678901234567890.0, 123456789012345678901234567890] ')", None,
         '[1,1.2345678901234567e+19,123456789012345678901234567890]'),
        ("open(F, 'w').write('7')", None, "7"),
        ("open(F, 'w').write('{bad')", "invalid_json", "7"),
        ("open(F, 'w').write('[NaN]')", "invalid_json", "7"),
        ("open(F, 'wb').write(b'\"\\xff\"')", "invalid_json", "7"),
        ("open(F, 'w').write('[' * 501 + ']' * 501)", "invalid_json", "7"),
        ("open(F, 'w').write('[' * 500 + ']' * 500)", None, "[" * 500 + "]" * 500),
        ("open(F, 'w').write('{}')", None, "{}"),
        ("open(F, 'w').write('null')", "null", "{}"),
        ("open(F, 'w').write('\"' + 'x' * 131071 + '\"')", "too_large", "{}"),
        ("open(F, 'w').write('\"' + 'x' * 131070 + '\"')", None, '"' + "x" * 131070 + '"'),
        ("open(F, 'w').write('{\"new\": 1}')", None, '{"new":1}'),
        ("os.unlink(F)", "missing", '{"new":1}'),
        ("os.unlink(F); os.mkdir(F)", "unreadable", '{"new":1}'),
        ("os.unlink(F); os.mkfifo(F)", "unreadable", '{"new":1}'),
        ("os.unlink(F); os.symlink('/etc/hostname', F)", "unreadable", '{"new":1}'),
        ("os.unlink(F); open('g', 'w').write('[1]'); os.symlink('g', F)", "unreadable", '{"new":1}'),
        ("open('h', 'w').write('[2]'); os.rename('h', F)", None, "[2]"),
    ]  # fmt: skip
    await room.create(data='{"old":1}')
    for code, error, data in cases:
        result = await room.run(f"import os; F = '.session_data.json'; {code}")
        assert (result.exit_code, result.stderr) == (0, "")
        assert (code, result.data_error, result.data) == (code, error, data)
        assert (await room.sessions.get("s")).record.data == data
    shown = await room.command("cat .session_data.json")
    assert shown.stdout.split() == ["[", "2", "]"]
    assert ".session_data.json" not in await room.paths()


async def test_secrets_are_kept_by_nobody_but_who_uploads_them(room: Room) -> None:
    await room.create()
    await room.put("mine/.env", b"uploaded")
    await room.put("gone/.npmrc", b"uploaded")
    found = await skipped(
        room,
        f"for name in {NAMES!r} + ['mine/.env']:\n"
        "    os.makedirs(os.path.dirname(name) or '.', exist_ok=True)\n"
        "    open(name, 'w').write('secret')\n"
        "os.unlink('gone/.npmrc')\n"
        "open('.envrc', 'w').write('no secret')",
    )
    assert found == dict.fromkeys([*NAMES, "mine/.env"], "secret_name")
    assert await room.paths() == [".envrc", "mine/.env"]
    assert await room.content("mine/.env") == b"uploaded"
    assert (await room.command("cat mine/.env; ls -A gone 2>&1 || true")).stdout.startswith(
        "uploaded"
    )


async def test_what_cannot_be_kept_is_named_and_what_is_nobodys_is_not(room: Room) -> None:
    await room.create()
    found = await skipped(
        room,
        "os.mkfifo('pipe'); socket.socket(socket.AF_UNIX).bind('socket')\n"
        "os.symlink('/etc/passwd', 'out'); os.symlink('../..', 'up'); os.symlink('a/../../x', 'round')\n"
        "os.mkdir('d'); os.symlink('../in', 'd/link'); open('in', 'w').write('in')\n"
        "os.symlink('/workspace/in', 'absolute'); os.symlink('nowhere', 'dangling')\n"
        "open(b'\\xff', 'w').close(); os.makedirs('x' * 250 + '/' + 'y' * 250)\n"
        "deep = '/'.join('z' * 200 for _ in range(6)); os.makedirs(deep); os.chdir(deep)\n"
        "open('deep', 'w').write('too deep'); os.chdir('/workspace'); os.makedirs('__pycache__')\n"
        "open('__pycache__/m.pyc', 'w').write('c'); open('n.pyc', 'w').write('c')\n"
        "os.makedirs('.era', exist_ok=True); open('.era/own', 'w').write('own')",
    )
    reasons = sorted(found.values())
    assert {path: found[path] for path in ("pipe", "socket", "out", "up", "round")} == {
        "pipe": "special_file",
        "socket": "special_file",
        "out": "outside_link",
        "up": "outside_link",
        "round": "outside_link",
    }
    assert set(reasons) == {"special_file", "outside_link", "bad_name"}
    assert await room.paths() == ["absolute", "d/link", "dangling", "in"]
    for link in ("absolute", "d/link"):
        assert await room.content(link) == b"in"
    assert (await room.command("cat d/link absolute")).stdout == "inin"


async def test_bytes_modes_times_and_directories_are_kept_exactly(room: Room) -> None:
    await room.create()
    await room.put("old/a", b"a")
    await room.put("old/b", b"b")
    await room.put("moved/deep/c", b"c")
    await room.command(
        "printf '\\0\\377' > bytes; chmod 4751 bytes; touch -d @981173106.123456789 bytes\n"
        "mkdir -m 700 empty; touch -d @981173106.5 empty; ln bytes second\n"
        "rm -r old; mkdir old; printf new > old/n; mv moved elsewhere; printf '%s' x > 'odd %# ?\\name'"
    )
    seen = await room.command(
        "stat -c '%n %a %.9Y' bytes empty second; find old elsewhere -type f | sort; ls moved 2>&1"
    )
    assert seen.stdout.splitlines() == [
        "bytes 751 981173106.123456789",
        "empty 700 981173106.500000000",
        "second 751 981173106.123456789",
        "elsewhere/deep/c",
        "old/n",
        "ls: cannot access 'moved': No such file or directory",
    ]
    assert await room.paths() == ["bytes", "elsewhere/deep/c", "odd %# ?\\name", "old/n", "second"]
    assert await room.content("bytes") == await room.content("second") == b"\0\xff"
    # A copy has the same, and shares nothing that can be changed.
    await room.sessions.duplicate("s", NewCopy(id="t"))
    await room.command("printf more >> bytes; rm -r elsewhere", "t")
    again = await room.command("stat -c '%a %.9Y' bytes; cat elsewhere/deep/c")
    assert again.stdout == "751 981173106.123456789\nc"
    assert await room.paths("t") == ["bytes", "odd %# ?\\name", "old/n", "second"]


async def test_files_that_are_alike_are_two_files(room: Room) -> None:
    """Same bytes, mode and time: what is stored once must not be one inode with two names."""
    await room.create()
    await room.command("printf x > a; ln a b; touch -d @5 c d; mkdir later; cp -p a later/e")
    await room.sessions.duplicate("s", NewCopy(id="t"))  # whose files are laid out all at once
    await room.command("cp -p a f")
    for name in ("s", "t"):
        alike = await room.command("cp a b && cp c d && mv c d && cp b later/e && ls", name)
        assert (alike.stderr, alike.exit_code) == ("", 0)
        apart = await room.command(
            "printf y >> a; cat b; stat -c %i * later/* | sort | uniq -d", name
        )
        assert apart.stdout == "x"


async def test_over_quota_nothing_of_the_files_is_kept_and_the_next_run_has_the_old(
    room: Room,
) -> None:
    await room.restart(quota=Quota(total_bytes=100, count=3))
    await room.create()
    await room.put("kept", b"k" * 60)
    for code in ("open('big', 'w').write('x' * 41)", "[open(f'f{n}', 'w') for n in range(3)]"):
        result = await room.run(f"{code}\n"
                                "open('.session_data.json', 'w').write('[5]')")  # fmt: skip
        assert (result.files_error, result.data) == ("quota_exceeded", "[5]")
        assert await room.paths() == ["kept"]
    result = await room.run("import os; os.unlink('kept'); open('big', 'w').write('x' * 100)")
    assert result.files_error is None
    assert await room.paths() == ["big"]


async def test_a_session_that_is_not_persistent_keeps_data_alone(room: Room) -> None:
    await room.create(persistent=False)
    await room.put("up", b"up")
    result = await room.run(
        "import os; print(open('up').read()); os.unlink('up'); open('new', 'w').write('n')\n"
        "open('.session_data.json', 'w').write('[6]')"
    )
    assert (result.stdout, result.data) == ("up\n", "[6]")
    assert (result.files_modified, result.files_deleted) == ((), ())
    assert (await room.command("ls")).stdout == "up\n"
