"""Programs of the library alone are compiled without the go tool, and are what it would make."""

from __future__ import annotations

import os
import struct
from collections.abc import Mapping

import pytest

from era.languages import environment
from era.languages.gosource import imports_library_only
from era.languages.table import launch
from era.sandbox.base import BoxSpec, Exit, Overlay, Program
from tests.languages.boxes import LIMITS, Bench, place

pytestmark = pytest.mark.anyio

ID = "x" * 83
"""As long as the names that the go tool gives, so that everything else has the same place."""
GNU_NOTE = struct.pack("<3I4s", 4, 20, 3, b"GNU")
"""Head of the ELF note with a hash (elf(5), NT_GNU_BUILD_ID)."""
PROGRAMS = {
    "hello": 'package main\n\nimport "fmt"\n\nfunc main() { fmt.Println("hello") }\n',
    "no import": "package main\n\nfunc main() { println(1) }\n",
    "large": 'package main\n\nimport ("encoding/json"; "net/http"; "os")\n\nfunc main() {\n'
    "json.NewEncoder(os.Stdout).Encode(http.StatusOK) }\n",
    "generics": 'package main\n\nimport "slices"\n\ntype N interface{ ~int | ~float64 }\n'
    "func sum[T N](a ...T) (s T) { for _, v := range a { s += v }; return }\n"
    "func main() { println(sum(1, 2), slices.Max([]float64{1, 2})) }\n",
    "a constraint": '//go:build go1.22\n\npackage main\n\nimport "os"\n\nfunc main() { os.Exit(3) }\n',
    "lines of other files": "package main\n\n//line other.go:7\nfunc main() { panic(1) }\n",
    "what it is made of": 'package main\n\nimport "runtime/debug"\n\nfunc main() {\n'
    "i, _ := debug.ReadBuildInfo(); println(i.String()) }\n",
}


async def build(
    bench: Bench, code: str, *, alone: bool, files: Mapping[str, str] | None = None
) -> tuple[Exit, bytes | None, bool]:
    """How the build ended, what it made, and whether the go tool was used."""
    tools = bench.runtimes.tools
    started = launch("go", code, (), tools=tools, taken=lambda _: False, has_layer=False)
    assert started.build is not None
    assert started.build.argv[-1] == ("era" if imports_library_only(code) else "")
    argv = (*started.build.argv[:-1], ID if alone else "")
    overlay = Overlay(target=environment.GO_CACHE, lowers=(bench.go_cache or "",))
    env = environment.of_build(started.env, {})
    placed = {name: text.encode() for name, text in (files or {}).items()} | dict(started.files)
    async with bench.driver.box(BoxSpec(limits=LIMITS, overlays=(overlay,))) as box:
        place(box, placed)
        ended = await box.run(Program(argv=argv, env=env, timeout_seconds=120))
        used = await box.run(Program(argv=("/usr/bin/test", "-e", "/tmp/.era-go/go.mod")))
        made = None
        if started.build.product in os.listdir(box.workspace_fd):
            fd = os.open(started.build.product, os.O_RDONLY, dir_fd=box.workspace_fd)
            with os.fdopen(fd, "rb") as file:
                made = file.read()
    return ended, made, used.exit_code == 0


@pytest.mark.parametrize("name", PROGRAMS)
async def test_it_is_what_the_go_tool_makes(go_bench: Bench, name: str) -> None:
    _, quick, used = await build(go_bench, PROGRAMS[name], alone=True)
    assert not used
    ended, usual, used = await build(go_bench, PROGRAMS[name], alone=False)
    assert used
    assert (ended.exit_code, ended.stderr) == (0, b"")
    assert quick is not None
    assert usual is not None
    assert len(quick) == len(usual)
    start = quick.index(ID.encode())
    given = usual[start : start + len(ID)]
    assert given.count(b"/") == 3
    assert _without_hash(usual.replace(given, ID.encode())) == _without_hash(quick)


def _without_hash(program: bytes) -> bytes:
    """A program without what the linker derives from its name."""
    start = program.index(GNU_NOTE) + len(GNU_NOTE)
    return program[:start] + program[start + 20 :]


FAILS = {
    "unused": "package main\n\nfunc main() { x := 1 }\n",
    "an internal package": 'package main\n\nimport _ "internal/abi"\n\nfunc main() {}\n',
    "a vendored package": 'package main\n\nimport _ "vendor/golang.org/x/net/idna"\n\nfunc main() {}\n',
    "no such package": 'package main\n\nimport _ "no/such"\n\nfunc main() {}\n',
    "a program": 'package main\n\nimport _ "cmd/go"\n\nfunc main() {}\n',
    "no main": "package main\n\nfunc other() {}\n",
    "a tail": 'package main\n\nfunc main() {}\n\nimport _ "os"\n',
}


@pytest.mark.parametrize("name", FAILS)
async def test_failures_are_those_of_the_go_tool(go_bench: Bench, name: str) -> None:
    quick, none, used = await build(go_bench, FAILS[name], alone=True)
    usual, _, _ = await build(go_bench, FAILS[name], alone=False)
    assert used
    assert none is None
    assert (quick.exit_code, quick.stdout) == (1, b"")
    assert quick.stderr == usual.stderr != b""


@pytest.mark.parametrize("path", ["go.mod", "default.pgo"])
async def test_files_that_the_go_tool_heeds_are_left_to_it(go_bench: Bench, path: str) -> None:
    _, _, used = await build(go_bench, PROGRAMS["hello"], alone=True, files={path: "nonsense"})
    assert used
    _, _, used = await build(go_bench, PROGRAMS["hello"], alone=True, files={"other": "nonsense"})
    assert not used


async def test_variables_of_the_compiler_are_left_to_the_go_tool(go_bench: Bench) -> None:
    """A flag that the go tool does not know is seen only where it is asked."""
    for name, code in (("GOFLAGS", 1), ("MINE", 0)):
        ended = await go_bench.run("go", PROGRAMS["hello"], env={name: "-no-such-flag"})
        assert ended.exit_code == code, ended.stderr


async def test_link_flags_of_the_request_count(go_bench: Bench) -> None:
    """The go tool takes one -ldflags, and ours must not be the one."""
    code = 'package main\n\nvar v = "none"\n\nfunc main() { print(v) }'
    for flags, printed in (("-ldflags=-X=main.v=linked", b"linked"), ("-tags=one", b"none")):
        ended = await go_bench.run("go", code, env={"GOFLAGS": flags})
        assert (ended.exit_code, ended.stderr) == (0, printed)


@pytest.mark.parametrize(
    ("code", "expected"),
    [
        *((code, True) for code in PROGRAMS.values()),
        ("not go", False),
        ("package other\n\nfunc main() {}\n", False),
        ('package main\nimport _ "embed"', False),
        ('package main\nimport "C"', False),
        ('package main\nimport "a.b/c"', False),
        ("//go:debug madvdontneed=1\npackage main", False),
    ],
)
def test_which_programs_those_are(code: str, expected: bool) -> None:
    assert imports_library_only(code) is expected
