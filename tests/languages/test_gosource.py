"""What is read off the text of Go code and go.mod files, compared with what Go itself reads."""

from __future__ import annotations

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from era.languages.gosource import Module, UnclearError, header, module
from tests.languages.boxes import Bench

HEADERS = {
    "package main": [],
    "package main\n\nfunc main() {}\n": [],
    'package main; import "fmt"': ["fmt"],
    'package main\nimport"fmt"\nimport`os`': ["fmt", "os"],
    'package main\nimport ("a"; b "c/d"; . "e"; _ "f"\n`g`)': ["a", "c/d", "e", "f", "g"],
    'package main\nimport ()\nimport "x"\nvar y = `import "z"`': ["x"],
    '// import "no"\n/* package no */ package /* x */ main // y\n/**/import/**/"a"//z': ["a"],
    '\ufeffpackage main\nimport "a"': ["a"],
    'package größe\r\nimport ü "a/b"\r\n': ["a/b"],
    'package main\nimport (\n\t"a" // "no"\n\t/* "no" */ "b"\n)\n// import "c"': ["a", "b"],
    'package main\nvar x = 1\nconst s = "import"': [],
    'package main\nimport "C"': ["C"],
    '//go:build ignore\n\npackage main\nimport "a"': ["a"],
}
"""Beginnings of Go files, with the imports that Go's parser finds in them."""
UNCLEAR = (
    "",
    "not go",
    "package",
    "packagemain",
    'package main\nimport "a\\x62"',
    'package main\nimport "a',
    "package main\nimport a",
    "package main\nimport `a\rb`",
    'package main\nimport ("a"',
    "/* package main",
    "#!/bin/go\npackage main",
)
PARSES = """package main

import (
	"encoding/json"
	"go/parser"
	"go/token"
	"io"
	"os"
	"strconv"
)

func main() {
	var texts []string
	data, _ := io.ReadAll(os.Stdin)
	json.Unmarshal(data, &texts)
	found := [][]string{}
	for _, text := range texts {
		paths := []string{}
		file, err := parser.ParseFile(token.NewFileSet(), "x.go", text, parser.ImportsOnly)
		if err == nil {
			for _, spec := range file.Imports {
				path, _ := strconv.Unquote(spec.Path.Value)
				paths = append(paths, path)
			}
			found = append(found, paths)
		} else {
			found = append(found, []string{err.Error()})
		}
	}
	json.NewEncoder(os.Stdout).Encode(found)
}
"""


@pytest.mark.parametrize("text", HEADERS)
def test_imports(text: str) -> None:
    assert header(text).imports == set(HEADERS[text])


@pytest.mark.anyio
async def test_gos_own_parser_finds_the_same(go_bench: Bench) -> None:
    texts = list(HEADERS)
    ended = await go_bench.run("go", PARSES, stdin=json.dumps(texts).encode())
    assert ended.exit_code == 0, ended.stderr
    assert json.loads(ended.stdout) == list(HEADERS.values())


@pytest.mark.parametrize("text", UNCLEAR)
def test_what_is_not_understood_is_told(text: str) -> None:
    with pytest.raises(UnclearError):
        header(text)


@given(st.text(st.sampled_from(list('packgeimort (){}"`/*\\\n;._x')), max_size=400))
def test_any_text_has_an_answer(text: str) -> None:
    for start in ("", "package x\n"):
        try:
            found = header(start + text)
        except UnclearError:
            continue
        assert all(path in text for path in found.imports)


def test_a_long_text_takes_its_length() -> None:
    """Each of these would take minutes if anything of it were tried twice."""
    for part in ("/", "/*", "//\n", '"', "`", "(", " ", 'import "a"\n', ".", "\n;"):
        try:
            header("package main\n" + part * (2_000_000 // len(part)))
        except UnclearError:
            continue


EMBEDS = {
    "//go:embed a.txt": {"a.txt"},
    "//go:embed a/b c*.txt\td?": {"a/b", "c", "d"},
    "\t//go:embed all:dir": {"dir"},
    "//go:embed *": {""},
    '//go:embed "a b"': {""},
    "//go:embed `a`": {""},
    "//go:embed a\\*b [x]": {"a", ""},
    "//go:embed a\r\n//go:embed b": {"a", "b"},
    "// see go:embed a": set(),
    'var s = "//go:embed x"': {""},
}


@pytest.mark.parametrize("text", EMBEDS)
def test_embedded_files(text: str) -> None:
    assert header(f'package main\nimport _ "embed"\n{text}\nvar s string').embeds == EMBEDS[text]
    # Go has no files to embed where the package is not imported.
    assert header(f"package main\n{text}\nvar s string").embeds == set()


MODULES = {
    "module mine": Module(path="mine"),
    "module example.com/x // c\n\ngo 1.22\r\n": Module(path="example.com/x"),
    'module "quoted"': Module(path="quoted"),
    "// c\nmodule (\n\tmine\n)": Module(path="mine"),
    "module m\nrequire (\n\ta.b/c v1.0.0\n\td.e v1 // indirect\n)": Module(path="m"),
    "module m\nreplace a.b => c.d v1.0.0": Module(path="m"),
    "module m\nreplace a.b v1 => ./x": Module(path="m", replaced={"a.b": "x"}),
    "module m\nreplace (\n\ta.b => ./x/../y/z\n\tc.d v1 => e.f v2\n)": Module(
        path="m", replaced={"a.b": "y/z"}
    ),
    'module m\nreplace a.b => "./x"': Module(path="m", replaced={"a.b": "x"}),
    'module m // "c\nreplace a.b => "./x//y"//c': Module(path="m", replaced={"a.b": "x/y"}),
    "module m\nreplace a.b => ../workspace/x": Module(path="m", replaced={"a.b": "x"}),
    "module m\nretract [v1.0.0, v1.1.0]\nexclude a.b v1\ntoolchain go1.22.1": Module(path="m"),
}


@pytest.mark.parametrize("text", MODULES)
def test_modules(text: str) -> None:
    assert module(text) == MODULES[text]


@pytest.mark.parametrize(
    "text",
    [
        "",
        "go 1.22",
        "module",
        "module a b",
        "module m\nreplace a.b => /elsewhere",
        "module m\nreplace a.b => /workspace/x",
        "module m\nreplace a.b => ../x",
        "module m\nreplace a.b => .",
        "module m\nreplace a.b=>./x",
        "module m\nreplace a.b =>",
        'module m\nreplace a.b => "./x',
        'module m\nreplace a.b => "./\\x78"',
    ],
)
def test_a_module_that_is_not_understood(text: str) -> None:
    with pytest.raises(UnclearError):
        module(text)


@pytest.mark.parametrize(
    ("path", "expected"), [("session", False), ("a/b.c", False), ("a.b", True), ("a.b/c", True)]
)
def test_which_modules_another_can_require(path: str, expected: bool) -> None:
    assert Module(path=path).may_be_required is expected
