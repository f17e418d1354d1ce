"""The rules of each language, by programs in real boxes."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import pytest

from era.sandbox.base import Exit
from tests.languages.boxes import Bench

pytestmark = pytest.mark.anyio


def text(ended: Exit) -> str:
    """The standard output of a program that must have ended well and quietly."""
    assert (ended.exit_code, ended.stderr.decode()) == (0, "")
    return ended.stdout.decode()


def error(ended: Exit) -> str:
    assert ended.exit_code == 1
    return ended.stderr.decode()


@dataclass(frozen=True, slots=True)
class Language:
    """How one language says what the common rules speak of."""

    hello: str
    exits: str
    """Ends with exit code 7."""
    arguments: str
    """Prints its arguments after the program's name, joined by '|'."""
    listing: str
    """Prints the names in the current directory, a line each."""
    environment: str
    """Prints the variable MINE."""
    reads: str
    """Prints its standard input."""
    big: str
    """Prints `done`; `{filler}` is a comment of any length."""
    helper: tuple[Mapping[str, str], str]
    """Files, and code that imports them and prints 42."""
    fails: tuple[str, str]
    """Code that fails at run time, and what the error must show."""


GO_HEAD = 'package main\n\nimport "fmt"\n\nfunc main() { fmt.Println('
LANGUAGES = {
    "python": Language(
        hello="print('hello')",
        exits="import sys; sys.exit(7)",
        arguments="import sys; print('|'.join(sys.argv[1:]))",
        listing="import os; print('\\n'.join(os.listdir()))",
        environment="import os; print(os.environ['MINE'])",
        reads="import sys; print(sys.stdin.read(), end='')",
        big="# {filler}\nprint('done')",
        helper=({"helper.py": "X = 42"}, "import helper; print(helper.X)"),
        fails=("def f():\n    raise ValueError('oops')\nf()", "raise ValueError('oops')"),
    ),
    "node": Language(
        hello="console.log('hello')",
        exits="process.exit(7)",
        arguments="console.log(process.argv.slice(2).join('|'))",
        listing="console.log(require('fs').readdirSync('.').join('\\n'))",
        environment="console.log(process.env.MINE)",
        reads="process.stdin.on('data', (d) => process.stdout.write(d))",
        big="// {filler}\nconsole.log('done')",
        helper=({"helper.js": "exports.X = 42"}, "console.log(require('./helper').X)"),
        fails=("\nthrow new Error('oops')", "/workspace/.era_main.js:2"),
    ),
    "typescript": Language(
        hello="const x: string = 'hello'; console.log(x)",
        exits="process.exit(7 as number)",
        arguments="console.log(process.argv.slice(2).join('|'))",
        listing="import fs from 'fs'; console.log(fs.readdirSync('.').join('\\n'))",
        environment="console.log(process.env.MINE!)",
        reads="process.stdin.on('data', (d: Buffer) => process.stdout.write(d))",
        big="// {filler}\nconst x: string = 'done'; console.log(x)",
        helper=(
            {"helper.ts": "export enum E { X = 42 }"},
            "import { E } from './helper'; console.log(E.X)",
        ),
        fails=(
            "\nfunction f(x: any) { throw new Error('oops') } f(1)",
            "/workspace/.era_main.ts:2",
        ),
    ),
    "deno": Language(
        hello="const x: string = 'hello'; console.log(x)",
        exits="Deno.exit(7)",
        arguments="console.log(Deno.args.join('|'))",
        listing="for (const e of Deno.readDirSync('.')) console.log(e.name)",
        environment="console.log(Deno.env.get('MINE'))",
        reads="await Deno.stdin.readable.pipeTo(Deno.stdout.writable)",
        big="// {filler}\nconst x: string = 'done'; console.log(x)",
        helper=(
            {"helper.ts": "export const X: number = 42"},
            "import { X } from './helper.ts'; console.log(X)",
        ),
        fails=("\nthrow new Error('oops')", "/workspace/.era_main.ts:2"),
    ),
    "go": Language(
        hello=GO_HEAD + '"hello") }',
        exits='package main\n\nimport "os"\n\nfunc main() { os.Exit(7) }',
        arguments='package main\nimport ("fmt"; "os"; "strings")\n'
        'func main() { fmt.Println(strings.Join(os.Args[1:], "|")) }',
        listing='package main\nimport ("fmt"; "os")\n'
        'func main() { es, _ := os.ReadDir("."); for _, e := range es { fmt.Println(e.Name()) } }',
        environment='package main\nimport ("fmt"; "os")\nfunc main() { fmt.Println(os.Getenv("MINE")) }',
        reads='package main\nimport ("io"; "os")\nfunc main() { io.Copy(os.Stdout, os.Stdin) }',
        big="// {filler}\n" + GO_HEAD + '"done") }',
        helper=(
            {"helper/h.go": "package helper\n\nconst X = 42\n"},
            'package main\nimport ("fmt"; "session/helper")\nfunc main() { fmt.Println(helper.X) }',
        ),
        fails=(
            'package main\n\nfunc main() { panic("oops") }',
            "/workspace/era_main.go:3",
        ),
    ),
}
NAMES = list(LANGUAGES)


@pytest.mark.parametrize("name", NAMES)
async def test_hello(name: str, go_bench: Bench) -> None:
    assert text(await go_bench.run(name, LANGUAGES[name].hello)) == "hello\n"


@pytest.mark.parametrize("name", NAMES)
async def test_the_exit_code_is_the_programs_own(name: str, go_bench: Bench) -> None:
    assert (await go_bench.run(name, LANGUAGES[name].exits)).exit_code == 7


@pytest.mark.parametrize("name", NAMES)
async def test_arguments_follow_the_programs_name(name: str, go_bench: Bench) -> None:
    args = ("a b", "--flag", "-x", "$HOME", "'\"", "--", "é", "")
    ended = await go_bench.run(name, LANGUAGES[name].arguments, *args)
    assert text(ended) == "|".join(args) + "\n"


@pytest.mark.parametrize("name", NAMES)
async def test_the_current_directory_holds_the_sessions_files(name: str, go_bench: Bench) -> None:
    files = {"a.txt": "a", "dir/b.txt": "b"}
    names = text(await go_bench.run(name, LANGUAGES[name].listing, files=files)).split()
    assert {entry for entry in names if not entry.startswith(".era")} == {"a.txt", "dir"}
    assert sum(entry.startswith(".era") for entry in names) == 1


@pytest.mark.parametrize("name", NAMES)
async def test_variables_of_the_request_are_there(name: str, go_bench: Bench) -> None:
    ended = await go_bench.run(name, LANGUAGES[name].environment, env={"MINE": "ü = 1\n2"})
    assert text(ended) == "ü = 1\n2\n"


@pytest.mark.parametrize("name", NAMES)
async def test_standard_input_ends(name: str, go_bench: Bench) -> None:
    assert text(await go_bench.run(name, LANGUAGES[name].reads)) == ""


@pytest.mark.parametrize("name", NAMES)
async def test_code_of_the_full_size_works(name: str, go_bench: Bench) -> None:
    code = LANGUAGES[name].big.replace("{filler}", "x" * 1_000_000)
    assert text(await go_bench.run(name, code)) == "done\n"


@pytest.mark.parametrize("name", NAMES)
async def test_files_of_the_session_can_be_imported(name: str, go_bench: Bench) -> None:
    files, code = LANGUAGES[name].helper
    assert text(await go_bench.run(name, code, files=files)) == "42\n"


@pytest.mark.parametrize("name", NAMES)
async def test_an_error_names_its_place(name: str, go_bench: Bench) -> None:
    code, shown = LANGUAGES[name].fails
    ended = await go_bench.run(name, code)
    assert ended.exit_code == (2 if name == "go" else 1)
    assert shown in ended.stderr.decode()
    assert "oops" in ended.stderr.decode()
    assert "\x1b" not in ended.stderr.decode()


@pytest.mark.parametrize("name", NAMES)
async def test_a_file_of_the_entrys_name_stays(name: str, go_bench: Bench) -> None:
    listing = LANGUAGES[name].listing
    names = text(await go_bench.run(name, listing)).split()
    (entry,) = (entry for entry in names if entry.startswith(".era"))
    ended = await go_bench.run(name, listing, files={entry: "mine"})
    assert entry in text(ended).split()
    assert len(text(ended).split()) == 2


# --- python -----------------------------------------------------------------------------------


async def test_python_knows_its_place(box_bench: Bench) -> None:
    code = (
        "import json, sys; print(json.dumps([__name__, __file__, sys.path[0], sys.version_info[:2] >="
        " (3, 11), sys.flags.utf8_mode, sys.flags.dont_write_bytecode, sys.stdout.write_through,"
        " sys.flags.no_user_site, sys.stdin.encoding]))"
    )
    assert json.loads(text(await box_bench.run("python", code))) == [
        *("__main__", "/workspace/.era_main.py", "/workspace", True),
        *(1, 1, True, 1, "utf-8"),
    ]


async def test_python_leaves_no_bytecode(box_bench: Bench) -> None:
    code = "import helper, os; print(os.listdir())"
    assert "__pycache__" not in text(
        await box_bench.run("python", code, files={"helper.py": "x = 1"})
    )


async def test_python_tracebacks_reach_into_imported_files(box_bench: Bench) -> None:
    files = {"helper.py": "def f():\n    return 1 / 0"}
    shown = error(await box_bench.run("python", "import helper\nhelper.f()", files=files))
    assert '"/workspace/helper.py", line 2, in f\n    return 1 / 0' in shown


async def test_python_starts_processes_of_its_own(box_bench: Bench) -> None:
    code = """
import multiprocessing, subprocess, sys
def double(x): return 2 * x
if __name__ == "__main__":
    with multiprocessing.get_context("spawn").Pool(1) as pool:
        print(pool.map(double, [21]))
    print(subprocess.run([sys.executable, "-c", "print(1)"], capture_output=True, text=True).stdout)
"""
    assert text(await box_bench.run("python", code)) == "[42]\n1\n\n"


async def test_python_reads_and_writes_utf8_whatever_the_locale(box_bench: Bench) -> None:
    code = "open('f', 'w').write('ü'); print(open('f').read(), open('f', 'rb').read())"
    ended = await box_bench.run("python", code, env={"LANG": "C", "LC_ALL": "POSIX"})
    assert text(ended) == "ü b'\\xc3\\xbc'\n"


async def test_python_is_not_the_services_own(box_bench: Bench) -> None:
    for module in ("era", "fastapi", "msgspec", "uvicorn"):
        shown = error(await box_bench.run("python", f"import {module}"))
        assert f"No module named '{module}'" in shown


async def test_python_finds_packages_of_the_setup(box_bench: Bench, layer: Path) -> None:
    package = layer / "python" / "pack"
    package.mkdir(parents=True)
    (package / "__init__.py").write_text("X = 42")
    (layer / "python" / "bin").mkdir()
    script = layer / "python" / "bin" / "packtool"
    script.write_text("#!/usr/bin/env python3\nimport pack; print(pack.X)")
    script.chmod(0o755)
    code = "import pack, subprocess; print(pack.X, flush=True); subprocess.run(['packtool'])"
    assert text(await box_bench.run("python", code, layer=str(layer))) == "42\n42\n"
    env = {"PYTHONPATH": "/workspace/lib", "PATH": "/workspace/bin"}
    files = {"lib/mine.py": "Y = 1"}
    code = "import mine, pack, shutil; print(mine.Y, pack.X, bool(shutil.which('packtool')))"
    ended = await box_bench.run("python", code, layer=str(layer), env=env, files=files)
    assert text(ended) == "1 42 True\n"


async def test_a_session_file_wins_over_a_package(box_bench: Bench, layer: Path) -> None:
    (layer / "python").mkdir()
    (layer / "python" / "thing.py").write_text("X = 'layer'")
    files = {"thing.py": "X = 'session'"}
    ended = await box_bench.run(
        "python", "import thing; print(thing.X)", layer=str(layer), files=files
    )
    assert text(ended) == "session\n"


# --- node -------------------------------------------------------------------------------------

NODE_SCOPE = {
    "commonjs by default": (
        "console.log(typeof require, __dirname, __filename)",
        "function /workspace /workspace/.era_main.js",
        {},
    ),
    "import makes a module": ("import fs from 'fs'; console.log(typeof require)", "undefined", {}),
    "await makes a module": ("console.log(await Promise.resolve(1))", "1", {}),
    "package.json makes a module": (
        "console.log(typeof require)",
        "undefined",
        {"package.json": '{"type":"module"}'},
    ),
    "package.json without a type lets syntax decide": (
        "import fs from 'fs'; console.log(typeof require)",
        "undefined",
        {"package.json": "{}"},
    ),
    "require of a module": (
        "console.log(require('./m.mjs').x, require('./m2').y)",
        "1 2",
        {"m.mjs": "export const x = 1", "m2.js": "export const y = 2"},
    ),
    "import of commonjs": (
        "import { x } from './c.cjs'; import './d.js'; console.log(x)",
        "1",
        {"c.cjs": "exports.x = 1", "d.js": "require('fs')"},
    ),
    "top-level this of commonjs": ("console.log(this === module.exports)", "true", {}),
    "main": ("console.log(require.main === module)", "true", {}),
}


@pytest.mark.parametrize("case", NODE_SCOPE)
async def test_node_module_forms(case: str, box_bench: Bench) -> None:
    code, out, files = NODE_SCOPE[case]
    assert text(await box_bench.run("node", code, files=files)) == f"{out}\n"


def node_layer(layer: Path, package_json: str = "{}") -> str:
    """A setup layer with a package and a program of it."""
    package = layer / "node" / "node_modules" / "pack"
    package.mkdir(parents=True)
    (layer / "node" / "package.json").write_text(package_json)
    (package / "package.json").write_text('{"name":"pack","version":"1.0.0","main":"main.js"}')
    (package / "main.js").write_text("exports.x = 42")
    programs = package.parent / ".bin"
    programs.mkdir()
    (package / "cli.js").write_text("#!/usr/bin/env node\nconsole.log('cli')")
    (package / "cli.js").chmod(0o755)
    (programs / "packtool").symlink_to("../pack/cli.js")
    return str(layer)


@pytest.mark.parametrize("name", ["node", "typescript"])
@pytest.mark.parametrize(
    "code",
    [
        "console.log(require('pack').x)",
        "import { x } from 'pack'; console.log(x)",
        "import('pack').then((p) => console.log(p.x))",
        "const p = await import('pack'); console.log(p.default.x)",
    ],
)
async def test_node_packages_of_the_setup(
    name: str, code: str, box_bench: Bench, layer: Path
) -> None:
    assert text(await box_bench.run(name, code, layer=node_layer(layer))) == "42\n"


async def test_node_programs_of_the_setup(box_bench: Bench, layer: Path) -> None:
    code = "require('child_process').execFileSync('packtool', {stdio: 'inherit'})"
    assert text(await box_bench.run("node", code, layer=node_layer(layer))) == "cli\n"


async def test_the_setups_package_json_decides_the_module_form(
    box_bench: Bench, layer: Path
) -> None:
    where = node_layer(layer, '{"type":"module"}')
    code = "console.log(typeof require)"
    assert text(await box_bench.run("node", code, layer=where)) == "undefined\n"
    helper = {"lib/h.js": "export default 1", "old/package.json": "{}", "old/h.js": "exports.x = 2"}
    code = "import h from './lib/h.js'; import { x } from './old/h.js'; console.log(h, x)"
    assert text(await box_bench.run("node", code, layer=where, files=helper)) == "1 2\n"
    code = "console.log(typeof require)"
    files = {"package.json": '{"type":"commonjs"}'}
    assert text(await box_bench.run("node", code, layer=where, files=files)) == "function\n"


async def test_the_sessions_own_package_wins(box_bench: Bench, layer: Path) -> None:
    files = {"node_modules/pack/index.js": "exports.x = 'own'"}
    ended = await box_bench.run(
        "node", "console.log(require('pack').x)", layer=node_layer(layer), files=files
    )
    assert text(ended) == "own\n"


# --- typescript (more in test_typescript.py) --------------------------------------------------


async def test_typescript_in_a_box(box_bench: Bench) -> None:
    files = {
        "shapes/index.ts": "export interface Shape { area(): number } export const unit = 1;",
        "old.ts": "class Old { v = 2 } export = Old;",
    }
    code = """
import { Shape, unit } from './shapes';
import { createHash } from 'node:crypto';
const Old = require('./old.ts');
enum Level { Low = 1, High }
namespace Deep { export const x: number = Level.High }
class P { constructor(private readonly n: number) {} get(): number { return this.n } }
const s: Shape = { area: () => unit };
console.log(s.area(), new Old().v, Deep.x, new P(3).get(), await Promise.resolve(4));
"""
    assert text(await box_bench.run("typescript", code, files=files)) == "1 2 2 3 4\n"


# --- go ---------------------------------------------------------------------------------------


def go_program(body: str, imports: str = '"fmt"') -> str:
    return f"package main\n\nimport ({imports})\n\nfunc main() {{ {body} }}\n"


async def test_go_is_recent_enough(go_bench: Bench) -> None:
    ended = await go_bench.run("go", go_program("fmt.Print(runtime.Version())", '"fmt"; "runtime"'))
    version = ended.stdout.decode().removeprefix("go")
    assert version == go_bench.runtimes.tools.versions["go"]
    assert tuple(map(int, version.split(".")[:2])) >= (1, 22)


async def test_go_build_failure_is_exit_code_1(go_bench: Bench) -> None:
    ended = await go_bench.run("go", "package main\n\nfunc main() { x := 1 }\n")
    assert "era_main.go:3:15: declared and not used: x" in error(ended)
    assert "/tmp" not in ended.stderr.decode()
    assert ended.stdout == b""


@pytest.mark.parametrize("code", ["package other\n\nfunc F() {}\n", "not go", ""])
async def test_go_code_that_is_no_program(code: str, go_bench: Bench) -> None:
    assert error(await go_bench.run("go", code))


async def test_go_uses_the_sessions_own_module(go_bench: Bench) -> None:
    files = {
        "go.mod": "module example.com/mine\n\ngo 1.22\n",
        "util/u.go": "package util\n\nconst X = 5\n",
        "other.go": "package main\n\nthis does not compile\n",
        "era_main.go": "package taken\n",
    }
    code = go_program("fmt.Println(util.X)", '"fmt"; "example.com/mine/util"')
    assert text(await go_bench.run("go", code, files=files)) == "5\n"


async def test_go_leaves_nothing_in_the_workspace(go_bench: Bench) -> None:
    files = {"go.mod": "module mine\n\ngo 1.22\n"}
    code = go_program(
        'b, _ := os.ReadFile("go.mod"); fmt.Print(string(b)); es, _ := os.ReadDir("."); '
        'fmt.Println(len(es)); es, _ = os.ReadDir(os.Getenv("HOME")); fmt.Println(len(es))',
        '"fmt"; "os"',
    )
    assert text(await go_bench.run("go", code, files=files)) == "module mine\n\ngo 1.22\n2\n0\n"


async def test_go_replaces_by_a_directory_of_the_session(go_bench: Bench) -> None:
    files = {
        "go.mod": "module mine\n\ngo 1.22\n\nrequire example.com/lib v0.0.0\n\n"
        "replace example.com/lib => ./lib\n",
        "lib/go.mod": "module example.com/lib\n\ngo 1.22\n",
        "lib/l.go": "package lib\n\nconst X = 6\n",
    }
    code = go_program("fmt.Println(lib.X)", '"fmt"; "example.com/lib"')
    assert text(await go_bench.run("go", code, files=files)) == "6\n"


async def test_go_uses_vendored_packages(go_bench: Bench) -> None:
    files = {
        "go.mod": "module mine\n\ngo 1.22\n\nrequire example.com/lib v1.0.0\n",
        "vendor/modules.txt": "# example.com/lib v1.0.0\n## explicit; go 1.22\nexample.com/lib\n",
        "vendor/example.com/lib/l.go": "package lib\n\nconst X = 7\n",
    }
    code = go_program("fmt.Println(lib.X)", '"fmt"; "example.com/lib"')
    assert text(await go_bench.run("go", code, files=files)) == "7\n"


async def test_go_without_a_module_that_is_asked_for(go_bench: Bench) -> None:
    code = go_program("lib.F()", '"example.com/lib"')
    assert "example.com/lib" in error(await go_bench.run("go", code))


async def test_go_works_without_the_shared_cache(box_bench: Bench) -> None:
    code = "package main\n\nfunc main() { println(1) }\n"
    ended = await box_bench.run("go", code)
    assert (ended.exit_code, ended.stderr) == (0, b"1\n")


# --- deno -------------------------------------------------------------------------------------


async def test_deno_has_every_permission_and_asks_nothing(box_bench: Bench) -> None:
    code = """
Deno.writeTextFileSync('x.txt', 'ü'); console.log(Deno.readTextFileSync('x.txt'));
console.log(new TextDecoder().decode(new Deno.Command('echo', {args: ['hi']}).outputSync().stdout));
console.log((await Deno.permissions.query({name: 'net'})).state, import.meta.main);
"""
    assert text(await box_bench.run("deno", code)) == "ü\nhi\n\ngranted true\n"


async def test_deno_errors_have_no_colour(box_bench: Bench) -> None:
    for code in ("throw new Error('x')", "const x: = 1", "import './gone.ts'"):
        assert "\x1b" not in error(await box_bench.run("deno", code))


async def test_deno_ignores_a_package_json_without_its_packages(box_bench: Bench) -> None:
    files = {"package.json": '{"dependencies":{"gone":"1"}}'}
    assert text(await box_bench.run("deno", "console.log(1)", files=files)) == "1\n"


@pytest.mark.parametrize("specifier", ["npm:pack", "npm:pack@1", "pack"])
async def test_deno_packages_of_the_setup(specifier: str, box_bench: Bench, layer: Path) -> None:
    where = node_layer(layer, '{"dependencies":{"pack":"1.0.0"}}')
    code = f"import pack from '{specifier}'; console.log(pack.x, Deno.args.length)"
    ended = await box_bench.run("deno", code, "a", layer=where)
    assert text(ended) == "42 1\n"


async def test_deno_with_a_layer_of_other_things(box_bench: Bench, layer: Path) -> None:
    assert text(await box_bench.run("deno", "console.log(1)", layer=str(layer))) == "1\n"


async def test_deno_says_what_it_could_not_import(box_bench: Bench) -> None:
    assert "npm" in error(await box_bench.run("deno", "import 'npm:left-pad'"))


async def test_deno_writes_no_lock_into_the_session(box_bench: Bench) -> None:
    code = "for (const e of Deno.readDirSync('.')) console.log(e.name)"
    files = {"deno.json": '{"imports":{"@h":"./h.ts"}}', "h.ts": "export default 1"}
    names = text(await box_bench.run("deno", f"import '@h';\n{code}", files=files)).split()
    assert "deno.lock" not in names


# --- the box's root ---------------------------------------------------------------------------


async def test_every_tool_is_on_the_path(box_bench: Bench) -> None:
    command = (
        "set -e; python -V; python3 -V; node -v; npm -v; npx -v; go version; gofmt -h 2>&1 | head -1;"
        "deno -V; uv -V; pip -V; pip3 --version; tsrun -p 1; bash --version | head -1; awk 'BEGIN {}'"
    )
    assert len((await box_bench.shell(command)).stdout.splitlines()) == 13


async def test_nothing_of_the_host_but_its_programs(box_bench: Bench) -> None:
    command = (
        "ls /home /usr/local /usr/lib/python3/dist-packages /opt /var /run /opt/era/layer;"
        "ls -d /root /srv /mnt /boot /media /etc/shadow /etc/machine-id /work /farm /sys 2>/dev/null;"
        "id -un; id -u; hostname; getent hosts localhost; getent services https"
    )
    ended = await box_bench.shell(command)
    lines = [line for line in ended.stdout.decode().split("\n") if line and not line.endswith(":")]
    shown = {"era", "1000", "run", "tmp"}
    assert {line for line in lines if " " not in line} <= shown
    assert any("localhost" in line for line in lines)
    assert any("443/tcp" in line for line in lines)


async def test_names_of_hosts_fail_at_once(box_bench: Bench) -> None:
    code = """
import socket
try: socket.getaddrinfo("example.com", 80)
except socket.gaierror as error: print("no")
"""
    ended = await box_bench.run("python", code, timeout=20)
    assert text(ended) == "no\n"


async def test_certificates_are_found(box_bench: Bench) -> None:
    code = "import ssl; print(len(ssl.create_default_context().get_ca_certs()) > 10)"
    assert text(await box_bench.run("python", code)) == "True\n"


async def test_time_zones_are_known(box_bench: Bench) -> None:
    code = "import time; print(time.tzname[0])"
    assert text(await box_bench.run("python", code)) == "UTC\n"
    assert text(await box_bench.run("python", code, env={"TZ": "Asia/Tokyo"})) == "JST\n"


HUNG = """
import logging
class Filter(logging.Filter):
    def filter(self, record): return True
logging.getLogger().addFilter(Filter())
out = open(1, "w", closefd=False, buffering=65536)
out.write("kept\\n")
"""
"""The filter keeps the program's names alive, the open file with its buffer among them."""


async def test_python_writes_what_hangs_on_the_library_at_its_end(box_bench: Bench) -> None:
    assert text(await box_bench.run("python", HUNG)) == "kept\n"
