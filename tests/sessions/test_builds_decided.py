"""What decides a Go program: each change of it is seen, and by what is compiled then."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace

import pytest

from era.errors import UnavailableError
from era.models import Network, SetupStatus
from tests.sessions.conftest import setup_of
from tests.sessions.workshop import HELLO, TOOL, USES_LIB, Workshop, both, lib, program

pytestmark = pytest.mark.anyio


@dataclass(frozen=True, slots=True, kw_only=True)
class Case:
    """Files of a session and a program; `change` turns its output from `before` into `after`."""

    files: Mapping[str, str]
    change: Mapping[str, str | None]
    code: str = USES_LIB
    before: str = "1\n"
    after: str = "2\n"
    before_env: Mapping[str, str] | None = None
    env: Mapping[str, str] | None = None


LIB = {"lib/l.go": "package lib\n\nconst X = 1\n"}
ELSEWHERE = program("fmt.Println(lib.X)", "fmt", "example.com/lib")
EMBEDS = program("fmt.Print(text)", "fmt", rest="//go:embed data/text.txt\nvar text string")
EMBEDS = EMBEDS.replace("import", 'import _ "embed"\nimport', 1)
ALL = EMBEDS.replace("data/text.txt\nvar text string", "data/*\nvar all embed.FS").replace(
    "fmt.Print(text)", 'es, _ := all.ReadDir("data"); fmt.Println(len(es))'
)
ALL = ALL.replace('import _ "embed"', 'import "embed"')
TAGGED = {
    "lib/a.go": "//go:build !two\n\npackage lib\n\nconst X = 1\n",
    "lib/b.go": "//go:build two\n\npackage lib\n\nconst X = 2\n",
}
REPLACES = (
    "module mine\n\ngo 1.22\n\nrequire example.com/lib v0.0.0\n\nreplace example.com/lib => ./%s\n"
)
LINKS = """
if [[ $1 == */link && $2 != -V* ]]; then
    exec "$1" -X "main.number=$(</workspace/number.txt)" "${@:2}"
fi
exec "$@"
"""
CASES = {
    "a local package": Case(files=LIB, change={"lib/l.go": "package lib\n\nconst X = 2\n"}),
    "a package of a package": Case(
        files={
            "lib/l.go": 'package lib\n\nimport "session/lib/deep"\n\nconst X = deep.X\n',
            "lib/deep/d.go": "package deep\n\nconst X = 1\n",
        },
        change={"lib/deep/d.go": "package deep\n\nconst X = 2\n"},
    ),
    "a new file of a package": Case(
        files={"lib/l.go": "package lib\n\nvar X = 1\n"},
        change={"lib/new.go": "package lib\n\nfunc init() { X = 2 }\n"},
    ),
    "a file less": Case(
        files={
            "lib/l.go": "package lib\n\nvar X = 2\n",
            "lib/o.go": "package lib\n\nfunc init() { X = 1 }\n",
        },
        change={"lib/o.go": None},
    ),
    "the version in go.mod": Case(
        files={
            "go.mod": "module mine\n\ngo 1.21\n",
            "lib/l.go": "package lib\n\nfunc X() int { var f func() int\n"
            "for i := 1; i < 3; i++ { if f == nil { f = func() int { return i } } }\n"
            "return f() }\n",
        },
        change={"go.mod": "module mine\n\ngo 1.22\n"},
        # Since 1.22 each round of a loop has a variable of its own (go.dev/ref/spec, For statements).
        code=program("fmt.Println(lib.X())", "fmt", "mine/lib"),
        before="3\n",
        after="1\n",
    ),
    "a go.mod where there was none": Case(
        files=LIB | {"more/lib/l.go": "package lib\n\nconst X = 2\n"},
        change={
            "go.mod": "module outer\n\ngo 1.22\n\nrequire session v0.0.0\n\nreplace session => ./more\n",
            "more/go.mod": "module session\n\ngo 1.22\n",
        },
    ),
    "which directory replaces": Case(
        files={
            "go.mod": REPLACES % "one",
            "one/go.mod": "module example.com/lib\n",
            "one/l.go": "package lib\n\nconst X = 1\n",
            "two/go.mod": "module example.com/lib\n",
            "two/l.go": "package lib\n\nconst X = 2\n",
        },
        change={"go.mod": REPLACES % "two"},
        code=ELSEWHERE,
    ),
    "what replaces": Case(
        files={
            "go.mod": REPLACES % "one",
            "one/go.mod": "module example.com/lib\n",
            "one/l.go": "package lib\n\nconst X = 1\n",
        },
        change={"one/l.go": "package lib\n\nconst X = 2\n"},
        code=ELSEWHERE,
    ),
    "what is vendored": Case(
        files={
            "go.mod": "module mine\n\ngo 1.22\n\nrequire example.com/lib v1.0.0\n",
            "vendor/modules.txt": "# example.com/lib v1.0.0\n## explicit; go 1.22\nexample.com/lib\n",
            "vendor/example.com/lib/l.go": "package lib\n\nconst X = 1\n",
        },
        change={"vendor/example.com/lib/l.go": "package lib\n\nconst X = 2\n"},
        code=ELSEWHERE,
    ),
    "an embedded file": Case(
        files={"data/text.txt": "1\n"}, change={"data/text.txt": "2\n"}, code=EMBEDS
    ),
    "one more embedded file": Case(
        files={"data/text.txt": "1\n"}, change={"data/new": ""}, code=ALL
    ),
    "a tag": Case(files=TAGGED, change={}, env={"GOFLAGS": "-tags=two"}),
    "the tags of a variable": Case(
        files=TAGGED, change={}, before_env={"GOFLAGS": "-tags=one"}, env={"GOFLAGS": "-tags=two"}
    ),
    "the sort of machine": Case(
        files={
            "lib/a.go": "//go:build !amd64.v2\n\npackage lib\n\nconst X = 1\n",
            "lib/b.go": "//go:build amd64.v2\n\npackage lib\n\nconst X = 2\n",
        },
        change={},
        env={"GOAMD64": "v2"},
    ),
    "anything, where a variable has the build read it": Case(
        files={"tool.sh": LINKS, "number.txt": "1"},
        change={"number.txt": "2"},
        code=program("fmt.Println(number)", "fmt", rest="var number string"),
        before_env=TOOL,
        env=TOOL,
    ),
}


@pytest.mark.parametrize("name", CASES)
async def test_a_change_of_what_is_built_is_seen(one: Workshop, name: str) -> None:
    case = CASES[name]
    if name == "the sort of machine" and one.room.parts.tools.platform != "x86_64":
        pytest.skip("that variable is for another machine")
    before, after = dict(case.before_env or {}), dict(case.env or {})
    for path, text in case.files.items():
        await one.room.put(path, text.encode())
    assert await one.compiled(case.code, env=before) == case.before
    assert await one.reused(case.code, env=before) == case.before
    for path, new in case.change.items():
        if new is None:
            await one.room.sessions.delete_file("s", path)
        else:
            await one.room.put(path, new.encode())
    assert await one.compiled(case.code, env=after) == case.after
    assert await one.reused(case.code, env=after) == case.after


async def test_what_is_again_as_it_was_is_still_there(one: Workshop) -> None:
    await one.room.put("lib/l.go", lib(1))
    assert await one.compiled(USES_LIB) == "1\n"
    await one.room.put("lib/l.go", lib(2))
    assert await one.compiled(USES_LIB) == "2\n"
    await one.room.put("lib/l.go", lib(1))
    assert await one.reused(USES_LIB) == "1\n"


async def test_a_profile_beside_the_program_counts(one: Workshop) -> None:
    await one.compiled(HELLO)
    await one.room.put("default.pgo", b"no profile")
    result, compiled = await one.run(HELLO)
    assert (compiled, result.exit_code) == (True, 1)
    assert "default.pgo" in result.stderr


async def test_embedded_data_is_the_runs_own(one: Workshop) -> None:
    code = EMBEDS.replace("data/text.txt", ".session_data.json")
    assert await one.compiled(code) == "{}"
    assert await one.compiled(code, update_data='{"a":1}') == '{\n  "a": 1\n}'


@both
async def test_a_changed_layer_is_another_program(workshop: Workshop) -> None:
    room = workshop.room
    for number in (1, 2):
        commands = (f"mkdir lib; printf 'package lib\\n\\nconst X = {number}\\n' >lib/l.go",)
        if number == 1:
            await room.create(language="go", setup=setup_of(commands=commands))
        else:
            await room.sessions.retry_setup("s", setup_of(commands=commands))
        state = await room.settled()
        assert state.status is SetupStatus.COMPLETED, state.result
        assert await workshop.compiled(USES_LIB) == f"{number}\n"
        assert await workshop.reused(USES_LIB) == f"{number}\n"


async def test_another_toolchain_compiles_anew(one: Workshop) -> None:
    await one.compiled(HELLO)
    tools = one.room.parts.tools
    newer = replace(tools, versions={**tools.versions, "go": f"{tools.versions['go']}.1"})
    one.room.parts = replace(one.room.parts, tools=newer)
    await one.room.restart()
    await one.compiled(HELLO)


async def test_variables_that_are_not_the_compilers_do_not_reach_it(one: Workshop) -> None:
    await one.room.put("startup.sh", b"echo spoilt >&2; exit 3\n")
    env = {"BASH_ENV": "/workspace/startup.sh", "PATH": "/workspace", "LD_PRELOAD": "/x.so"}
    assert await one.compiled(HELLO, env=env) == "hello\n"


async def test_a_build_is_offline_whatever_the_run_may_reach(one: Workshop) -> None:
    await one.room.create("open", language="go", allow_internet=True)
    with pytest.raises(UnavailableError):  # no way out is served in this test
        await one.room.run(HELLO, "open")
    assert [spec.network for spec in one.room.driver.specs] == [Network.OFFLINE, Network.INTERNET]
