"""What is read off the text of deno code."""

from __future__ import annotations

from collections.abc import Mapping

import pytest
from hypothesis import given
from hypothesis import strategies as st

from era.languages import imports
from era.languages.imports import Graph, Import, UnclearError, graph, scan

ENTRY = ".era_main.ts"

IMPORTS = {
    "import 'npm:a'": {"npm:a"},
    'import"npm:a"': {"npm:a"},
    'import a, { b as c } from "npm:a@^1.2/sub";': {"npm:a@^1.2/sub"},
    "import * as a from 'jsr:@s/a@1'": {"jsr:@s/a@1"},
    "export * from 'https://x.test/a.ts?b#c'": {"https://x.test/a.ts?b#c"},
    "export{a}from'npm:a';import b from'npm:b'": {"npm:a", "npm:b"},
    "import {\n  a,\n  b,\n} from\n  'npm:a'": {"npm:a"},
    "import type { A } from 'npm:a'": {"npm:a"},
    "import defer * as a from 'npm:a'": {"npm:a"},
    "const a = await import('npm:a')": {"npm:a"},
    "import(`npm:a`)": {"npm:a"},
    "import ( /* here */ 'npm:a' )": {"npm:a"},
    "import(\n  // don't\n  'npm:a')": {"npm:a"},
    "import /* it's */ 'npm:a'": {"npm:a"},
    "let s = '/*'; import 'npm:a'": {"npm:a"},
    "let s = 'http://x/*'; import 'npm:a'; s = '*/'": {"npm:a"},
    "let s = `it's`; import a from 'npm:a'": {"npm:a"},
    "/* unclosed\nimport 'npm:a'": {"npm:a"},
    "/** @jsxImportSource npm:preact@10 */": {"npm:preact@10/jsx-runtime"},
    "fetch('https://x.test/'); const from = 'npm:a'": set(),
    "console.log('npm:a', important('npm:b'))": set(),
}


@pytest.mark.parametrize("text", IMPORTS)
def test_imports_are_found(text: str) -> None:
    found = {item.specifier for item in scan(text)}
    assert {item for item in found if ":" in item} == IMPORTS[text]


@pytest.mark.parametrize(
    "text",
    [
        "import a from './a.json' with { type: 'json' }",
        "import a from './a.json' with {type:\"json\"}",
        "export { default } from './a.json'\n  with { 'type': 'json', }",
        "await import('./a.json', { with: { type: 'json' } })",
    ],
)
def test_attributes_are_found(text: str) -> None:
    assert scan(text) == {Import(specifier="./a.json", kind="json")}


def test_a_statement_imports_the_same() -> None:
    found = scan("import a from 'npm:a'; import b from \"https://x/b\" with { type: 'json' }")
    again = scan("\n".join(item.statement() for item in found))
    assert again == found
    assert Import(specifier="npm:a").statement() == 'import "npm:a";'


def graph_of(code: str, files: Mapping[str, str] | None = None) -> Graph | None:
    texts = {path: text.encode() for path, text in (files or {}).items()}
    return graph(ENTRY, code, texts.get)


def statements(code: str, files: Mapping[str, str] | None = None) -> list[str]:
    """What the program imports from elsewhere, which must be clear."""
    found = graph_of(code, files)
    assert found is None or not found.unclear
    return [line[len('import "') : -len('";')] for line in found.statements] if found else []


@pytest.mark.parametrize(
    "code",
    [
        "console.log('npm:a')",
        "import { join } from 'node:path'; await fetch('https://x.test/')",
        "import './local.ts'",
        "import a from 'bare'",
        "import a from 'data:text/javascript,export default 1'",
        "import 'npm:'",
    ],
)
def test_nothing_from_elsewhere(code: str) -> None:
    assert graph_of(code, {"local.ts": "export default 1"}) is None


def test_local_files_are_followed() -> None:
    files = {
        "a.ts": "import './d/b.ts'; import 'npm:a'",
        "d/b.ts": "import '../c.ts?x=1'; import '/workspace/d/e.ts'",
        "c.ts": "import './a.ts'; import 'jsr:@s/c'",
        "d/e.ts": "import 'file:///workspace/f.js'",
        "f.js": "import 'https://x.test/f'",
        "unused.ts": "import 'npm:unused'",
    }
    found = statements("import './a.ts'; import './missing.ts'", files)
    assert found == ["https://x.test/f", "jsr:@s/c", "npm:a"]


def test_names_of_the_configuration() -> None:
    files = {
        "deno.json": '{"imports": {"a": "npm:a@1", "@s/": "jsr:/@s/x@1/", "lib/": "./src/"},'
        ' "compilerOptions": {"jsxImportSource": "preact"}}',
        "package.json": '{"dependencies": {"b": "^2", "preact": "10"}}',
        "src/x.tsx": "import 'npm:c'",
    }
    code = "import 'a'; import '@s/y'; import 'lib/x.tsx'; import 'b/sub.js'; import 'unknown'"
    assert statements(code, files) == ["@s/y", "a", "b/sub.js", "npm:c", "preact/jsx-runtime"]


@pytest.mark.parametrize(
    ("code", "files"),
    [
        ("import 'n\\x70m:a'", {}),
        ("await import(`./lang/${name}.ts`)", {}),
        ("import '/opt/era/layer/x.ts'", {}),
        ("import './with%20space.ts'", {}),
        ("import 'npm:a'", {"deno.json": '{"workspace": ["./member"]}'}),
        ("import 'member'", {"deno.jsonc": '{ // all\n "workspace" : ["./member"]}'}),
    ],
)
def test_what_is_not_understood_is_told(code: str, files: Mapping[str, str]) -> None:
    found = graph_of(code, files)
    assert found is not None
    assert found.unclear


def test_files_that_cannot_be_read_are_told() -> None:
    def read(path: str) -> bytes | None:
        if path == "a.ts":
            raise UnclearError
        return None

    found = graph(ENTRY, "import './a.ts'", read)
    assert found is not None
    assert found.unclear


def test_endless_imports_end(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(imports, "MAX_MODULES", 10)
    found = graph(ENTRY, "import './x.ts'", lambda path: b"import './x" + path.encode() + b"'")
    assert found is not None
    assert found.unclear


def test_digests_tell_what_decides() -> None:
    code, other = "import 'npm:a'; // one", "import 'npm:a'; // two"
    plain, same = graph_of(code), graph_of(other)
    locked = graph_of(code, {"deno.lock": "{}"})
    assert plain is not None
    assert same is not None
    assert locked is not None
    assert (plain.statements, plain.configs) == (same.statements, same.configs)
    assert plain.texts != same.texts
    assert plain.configs != locked.configs


GAPS = st.sampled_from(["", " ", "\n", "/* it's */", " // don't\n", "\t\r\n  "])
SPECIFIERS = st.from_regex(r"(npm|jsr|https?):[\w@^~./-]{1,40}", fullmatch=True)


@given(
    st.lists(st.tuples(SPECIFIERS, GAPS, GAPS, st.sampled_from("'\"`")), min_size=1),
    st.text(),
)
def test_no_import_is_overlooked(items: list[tuple[str, str, str, str]], noise: str) -> None:
    lines = [f"import{a}({b}{quote}{name}{quote})" for name, a, b, quote in items]
    code = f"/*{noise.replace('*/', '')}*/\n" + "\n".join(lines)
    assert {name for name, *_ in items} <= {item.specifier for item in scan(code)}


@given(st.text(), st.dictionaries(st.sampled_from(imports.CONFIGS), st.text()))
def test_any_text_is_read(code: str, files: dict[str, str]) -> None:
    graph_of(f"import 'npm:a'; {code}", files)
