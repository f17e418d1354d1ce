"""TypeScript as our loader teaches it to node: real node, real files, no box."""

from __future__ import annotations

import subprocess
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

import pytest

from era.runtimes.wheels import find_wheels

ROOT = Path(__file__).parents[2]
REGISTER = ROOT / "src/era/languages/ts/register.cjs"
NODE = next(b.source for b in find_wheels().binds if b.target.endswith("/node")) + "/bin/node"


def run(directory: Path, files: Mapping[str, str], *args: str) -> subprocess.CompletedProcess[str]:
    """Write the files below `directory` and run `.era_main.ts`."""
    for name, text in files.items():
        path = directory / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    return subprocess.run(
        [NODE, "--require", str(REGISTER), str(directory / ".era_main.ts"), *args],
        capture_output=True,
        text=True,
        cwd=directory,
        env={"PATH": "/usr/bin:/bin"},
        timeout=60,
        check=False,
    )


@dataclass(frozen=True, slots=True)
class Case:
    """A program that must end well, with `out` on stdout and nothing on stderr."""

    main: str
    out: str
    files: Mapping[str, str] = field(default_factory=dict)


TYPES = """
export interface Shape { area(): number }
export type Name = string;
export const enum Level { Low = 1, High }
export default interface Whole { x: number }
export const real = 5;
"""
PACKAGE = {
    "node_modules/pack/package.json": '{"name":"pack","main":"main.js"}',
    "node_modules/pack/main.js": "exports.twice = (x) => x * 2;",
    "node_modules/pack/sub.js": "module.exports = 'sub';",
    "node_modules/esm/package.json": '{"name":"esm","type":"module","exports":"./e.js"}',
    "node_modules/esm/e.js": "export const thrice = (x) => x * 3; export default 'esm';",
}

WORKS = {
    "types are taken out": Case("const x: number = 1 as any; console.log(x!)", "1"),
    "generics, satisfies, abstract, overloads": Case(
        "function id<T>(x: T): T; function id(x: any) { return x }\n"
        "abstract class A<T> { declare y: T; protected abstract z(): void; q?: number }\n"
        "class B extends A<string> { override z(): void {} }\n"
        "console.log(id<number>(2) satisfies number, Object.keys(new B()).join())",
        "2 q",
    ),
    "enum": Case(
        "enum C { Red = 'r', Two = 2, Three } console.log(C.Red, C.Three, C[2])", "r 3 Two"
    ),
    "const enum": Case("const enum C { A = 7 } console.log(C.A)", "7"),
    "namespace": Case("namespace N { export const x = 3 } console.log(N.x)", "3"),
    "parameter properties": Case(
        "class P { constructor(readonly a: number, private b = 2) {} s() { return this.a + this.b } }"
        "\nconsole.log(new P(1).s())",
        "3",
    ),
    "angle bracket casts": Case("const a = <number>(4 as unknown); console.log(a)", "4"),
    "commonjs by default": Case(
        "const p = require('path'); console.log(p.basename(__filename), require.main === module, "
        "__dirname === process.cwd())",
        ".era_main.ts true true",
    ),
    "arguments": Case("console.log(process.argv.slice(2))", "[]"),
    "import equals": Case("import fs = require('fs'); console.log(typeof fs.statSync)", "function"),
    "export equals": Case(
        "import A = require('./a'); console.log(new A().x)",
        "6",
        {"a.ts": "class A { x = 6 } export = A;"},
    ),
    "export equals beside imports": Case(
        "import A from './a'; console.log(new A().x.length > 0)",
        "true",
        {"a.ts": "import os from 'os'; class A { x = os.EOL } export = A;"},
    ),
    "import and require in one file": Case(
        "import { basename } from 'path'; const os = require('os'); "
        "console.log(basename(__filename), typeof os.EOL, require.main === module)",
        ".era_main.ts string true",
    ),
    "require of a module": Case(
        "const { y } = require('./b'); console.log(y)", "4", {"b.ts": "export const y: number = 4;"}
    ),
    "import of commonjs": Case(
        "import b from './b'; console.log(b.y)",
        "4",
        {"b.ts": "module.exports = { y: 4 as number };"},
    ),
    "extensions left out, given, and js for ts": Case(
        "import a from './a'; import b from './a.ts'; import c from './a.js'; import d from './dir';"
        "import e from './m.mjs'; import f from './m.mts'; import g from './c.cjs';"
        "console.log(a, b, c, d, e, f, g.v)",
        "1 1 1 2 3 3 4",
        {
            "a.ts": "export default 1",
            "dir/index.ts": "export default 2",
            "m.mts": "export default 3",
            "c.cts": "exports.v = 4 as number",
        },
    ),
    "the same by require": Case(
        "console.log(require('./a').x, require('./a.ts').x, require('./a.js').x, require('./dir').x,"
        "require('./dir/').x, require('./c').x, require('.').x)",
        "1 1 1 2 2 4 9",
        {
            "a.ts": "export const x = 1",
            "dir/index.ts": "export const x = 2",
            "c.cts": "exports.x = 4 as number",
            "index.ts": "export const x = 9",
        },
    ),
    "a real js file is a js file": Case(
        "import a from './a.js'; import j from './j'; console.log(a, j)",
        "js j",
        {
            "a.js": "module.exports = 'js'",
            "a.ts": "export default 'ts'",
            "j.js": "module.exports='j'",
        },
    ),
    "json": Case(
        "import data from './d.json'; const again = require('./d.json'); "
        "import tagged from './d.json' with { type: 'json' };"
        "console.log(data.a, again.a, tagged.a)",
        "1 1 1",
        {"d.json": '{"a":1}'},
    ),
    "packages by import and require": Case(
        "import { twice } from 'pack'; import esm, { thrice } from 'esm'; const p = require('pack');"
        "const e = require('esm'); import sub from 'pack/sub';"
        "console.log(twice(1), p.twice(2), thrice(1), e.thrice(2), esm, sub)",
        "2 4 3 6 esm sub",
        PACKAGE,
    ),
    "packages by require alone": Case(
        "const p = require('pack'); const e: any = require('esm'); console.log(p.twice(2), e.default)",
        "4 esm",
        PACKAGE,
    ),
    "top-level await": Case(
        "import { setTimeout as sleep } from 'timers/promises'; const x: number = await sleep(1, 5);"
        "console.log(x); for await (const y of [1]) console.log(y); export {}",
        "5\n1",
    ),
    "top-level await without an import": Case(
        "const x: number = await Promise.resolve(8); const os = require('os'); console.log(x, !!os)",
        "8 true",
    ),
    "await inside a function stays commonjs": Case(
        "async function f(): Promise<number> { return await 1 } f().then(() => console.log(typeof "
        "module.exports))",
        "object",
    ),
    "types imported without the word type": Case(
        "import { Shape, real, Level } from './types'; import Whole from './types';\n"
        "const s: Shape = { area: () => real }; const w: Whole = { x: Level.High };\n"
        "console.log(s.area(), w.x)",
        "5 2",
        {"types.ts": TYPES},
    ),
    "an import that only types use is not run": Case(
        "import { Loud } from './loud'; import * as all from './loud'; import Def from './loud';\n"
        "import type { Loud as L } from './loud'; import { type Loud as M } from 'pack';\n"
        "let a: Loud | all.Loud | Def | L | M | undefined; console.log(a)",
        "undefined",
        {
            "loud.ts": "console.log('loud'); export interface Loud {} export default class D {}",
            **PACKAGE,
        },
    ),
    "an import for its effect is run": Case(
        "import './loud'; import {} from './loud'; console.log('done')",
        "loud\ndone",
        {"loud.ts": "console.log('loud'); export interface Loud {}"},
    ),
    "types of packages": Case(
        "import { twice, Options } from 'pack'; const o: Options = {} as Options; console.log(twice(o "
        "? 1 : 0))",
        "2",
        PACKAGE,
    ),
    "types exported on": Case(
        "import { Shape, real, Name } from './barrel'; import { Deep } from './barrel';\n"
        "const n: Name = 'n'; let d: Deep | Shape | undefined; console.log(n, real, d)",
        "n 5 undefined",
        {
            "types.ts": TYPES,
            "deep.ts": "export type Deep = 1; export const deep = 1;",
            "barrel.ts": "import { Name } from './types'; export { Shape, real } from './types';\n"
            "export { Name }; export * from './deep'; interface Local {} export { Local };",
        },
    ),
    "a barrel of barrels": Case(
        "import { Deep, deep } from './b1'; const x: Deep = deep; console.log(x)",
        "1",
        {
            "b1.ts": "export { Deep, deep } from './b2';",
            "b2.ts": "export { Deep, deep } from './b3'; export * from './b1'",
            "b3.ts": "export type { Deep } from './deep'; export { deep } from './deep';",
            "deep.ts": "export type Deep = 1; export const deep = 1;",
        },
    ),
    "a class and an interface of one name": Case(
        "import { Both } from './both'; console.log(new Both().x)",
        "1",
        {"both.ts": "export interface Both { y?: number } export class Both { x = 1 }"},
    ),
    "names used only in templates, shorthands, calls of keywords": Case(
        "import { a, b, c, d, e } from './v';\n"
        "console.log(`${a}${`${b}`}`, { c }.c, [...d], ((x = e) => x)())",
        "12 3 [ 4 ] 5",
        {"v.ts": "export const a = 1, b = 2, c = 3, d = [4], e = 5;"},
    ),
    "names only in strings, comments, keys and properties are not used": Case(
        "import { T } from './t'; /* T */ const o = { T: 1 }; console.log('T', o.T, /T/.test('T')); "
        "let x: T",
        "T 1 true",
        {"t.ts": "export type T = 1"},
    ),
    "slashes that divide": Case(
        "import { a, b } from './v'; const q = (a) / 2 / b; const r = [4][0] / b / 1; const u: any = 1;"
        'console.log(q, r, /[/]\\/\'/.test("/"))',
        "1 1 false",
        {"v.ts": "export const a = 8, b = 4;"},
    ),
    "workers and forks understand it too": Case(
        "import { Worker } from 'worker_threads'; import { execFileSync } from 'child_process';\n"
        "new Worker(new URL('./w.ts', import.meta.url)).on('message', (m: number) => console.log(m));",
        "3",
        {
            "w.ts": "import { parentPort } from 'worker_threads'; enum E { A = 3 }"
            "parentPort!.postMessage(E.A as number)"
        },
    ),
    "package.json of type module": Case(
        "export {}; import x from './x'; console.log(x, typeof require)",
        "1 function",
        {"package.json": '{"type":"module"}', "x.ts": "const y: number = 1; export default y"},
    ),
    "package.json of type commonjs": Case(
        "import x from './x'; console.log(x)",
        "1",
        {"package.json": '{"type":"commonjs"}', "x.ts": "const y: number = 1; export default y"},
    ),
    "module scope without syntax": Case(
        "const os: any = require('os'); console.log(!!os.EOL, typeof module)",
        "true object",
        {"package.json": '{"type":"module"}'},
    ),
    "own require wins": Case(
        "import { createRequire } from 'module'; const require = createRequire(import.meta.url);\n"
        "const __filename: string = 'mine'; console.log(typeof require('os').EOL, __filename)",
        "string mine",
    ),
    "a shebang": Case(
        "#!/usr/bin/env tsrun\nimport os from 'os'; const r = require('os');\n"
        "console.log(r === os)",
        "true",
    ),
    "a byte order mark": Case("\ufeffimport os from 'os'; console.log(!!os)", "true"),
    "names beyond ascii": Case(
        "import { größe, 名 } from './ü'; console.log(größe, 名)",
        "1 2",
        {"ü.ts": "export const größe = 1, 名 = 2"},
    ),
    "dynamic import": Case(
        "import('./x').then((m: any) => console.log(m.default))", "1", {"x.ts": "export default 1"}
    ),
    "using a class as a value and a type": Case(
        "import { K } from './k'; const k: K = new K(); console.log(k instanceof K)",
        "true",
        {"k.ts": "export class K {}"},
    ),
    "default and namespace imports, half used": Case(
        "import d, { a, T } from './m'; import e, * as ns from './m'; import f, { U } from './m';\n"
        "import { V, a as b } from './m'; let t: T | U | V; console.log(a, ns.a, f, b); let z: typeof e",
        "1 1 2 1",
        {
            "m.ts": "export const a = 1; export default 2; export type T = 1; export type U = 1;"
            "export type V = 1;"
        },
    ),
    "tsconfig is not asked": Case("console.log(1)", "1", {"tsconfig.json": "{ this is no json"}),
}


@pytest.mark.parametrize("name", WORKS)
def test_what_works(name: str, tmp_path: Path) -> None:
    case = WORKS[name]
    done = run(tmp_path, {".era_main.ts": case.main, **case.files})
    assert (done.stdout.rstrip("\n"), done.stderr, done.returncode) == (case.out, "", 0)


def test_arguments_reach_the_program(tmp_path: Path) -> None:
    main = "import 'os'; console.log(process.argv.length, process.argv[3])"
    assert run(tmp_path, {".era_main.ts": main}, "a", "--b").stdout == "4 --b\n"


@pytest.mark.parametrize(
    "lines",
    [
        ["interface X {}", "", "function f(x: number): never {", "  throw new Error('boom')", "}"],
        ["enum E {", "  A,", "}", "namespace N { export const x: number = 1 }", "function f(x: any) {",
         "  throw new Error('boom')", "}"],
    ],
    ids=["stripped", "transformed"],
)  # fmt: skip
@pytest.mark.parametrize("module", ["", "import os from 'os';\n"], ids=["commonjs", "module"])
def test_traces_name_the_line_of_the_source(lines: list[str], module: str, tmp_path: Path) -> None:
    main = module + "\n".join([*lines, "f(1)"])
    done = run(tmp_path, {".era_main.ts": main})
    thrown = main.split("\n").index("  throw new Error('boom')") + 1
    assert done.returncode == 1
    assert f".era_main.ts:{thrown}:9)" in done.stderr
    assert f".era_main.ts:{len(main.splitlines())}:1" in done.stderr


def test_a_syntax_error_shows_the_line(tmp_path: Path) -> None:
    done = run(tmp_path, {".era_main.ts": "let a = 1;\nconst b: number = ;\n"})
    assert done.returncode == 1
    assert ".era_main.ts:2\n" in done.stderr
    assert "const b: number = ;" in done.stderr


def test_a_wrong_type_is_no_error(tmp_path: Path) -> None:
    done = run(tmp_path, {".era_main.ts": "const a: number = 'text'; console.log(a)"})
    assert done.stdout == "text\n"


def test_decorators_are_refused_in_words(tmp_path: Path) -> None:
    source = "function d(x: any) {}\n  @d class A {}"
    done = run(tmp_path, {".era_main.ts": source})
    assert done.returncode == 1
    assert ".era_main.ts:2\n  @d class A {}\n  ^\n" in done.stderr
    assert "SyntaxError: Decorators are not supported" in done.stderr


def test_a_missing_file_is_told_in_nodes_words(tmp_path: Path) -> None:
    for main in ("import a from './gone'; console.log(a)", "require('./gone')"):
        done = run(tmp_path, {".era_main.ts": main})
        assert done.returncode == 1
        assert "Cannot find module" in done.stderr


def test_the_users_warnings_stay(tmp_path: Path) -> None:
    main = "enum A {}\nprocess.emitWarning('mine'); console.log(1)"
    done = run(tmp_path, {".era_main.ts": main})
    assert "Warning: mine" in done.stderr
    assert "Experimental" not in done.stderr


def test_the_exit_code_is_the_programs(tmp_path: Path) -> None:
    assert run(tmp_path, {".era_main.ts": "import 'os'; process.exit(7)"}).returncode == 7


@pytest.mark.parametrize("filler", ["// x\n", "x += 1;\n", "' '; ", "`${x}`;\n", "(((1)));\n"])
def test_a_mebibyte_of_code_works(filler: str, tmp_path: Path) -> None:
    head, tail = "import os from 'os'; let x: number = 0;\n", "\nconsole.log(!!os)"
    middle = filler * ((1_000_000 - len(head) - len(tail)) // len(filler))
    assert run(tmp_path, {".era_main.ts": head + middle + tail}).stdout == "true\n"


def test_one_long_token_works(tmp_path: Path) -> None:
    big = "a" * 900_000
    main = f"import os from 'os'; const s: string = '{big}'; /*{big}*/ console.log(s.length, !!os)"
    assert run(tmp_path, {".era_main.ts": main}).stdout == "900000 true\n"
