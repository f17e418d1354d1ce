"""What a Go build reads: the walk notes all of it, so nothing that decides can change unnoticed."""

from __future__ import annotations

import os
import shutil
from collections.abc import AsyncIterator, Mapping
from pathlib import Path

import pytest

from era.models import Network
from era.sessions import goinputs
from era.sessions.goinputs import Where, digest, inputs
from era.sessions.settings import SessionLimits, SetupLimits
from era.workspace import beneath
from tests.sessions.conftest import BoxedRoom, boxed_room

HELLO = 'package main\n\nimport "fmt"\n\nfunc main() { fmt.Println() }\n'
ALWAYS = {"go.mod", "go.sum", "default.pgo"}
"""Files that every build looks for."""


def imports(*paths: str, rest: str = "") -> str:
    lines = "".join(f'import _ "{path}"\n' for path in paths)
    return f"package main\n\n{lines}\n{rest}\n\nfunc main() {{}}\n"


def package(name: str, *paths: str, rest: str = "") -> str:
    return imports(*paths, rest=rest).replace("main", name, 1)


def laid_out(root: Path, files: Mapping[str, str]) -> str:
    for path, text in files.items():
        (root / path).parent.mkdir(parents=True, exist_ok=True)
        (root / path).write_text(text)
    return str(root)


def noted(code: str, tree: str, **where: object) -> set[str] | None:
    """The paths that the walk has noted."""
    found = inputs(code, Where(lowers=(tree,), **where))  # type: ignore[arg-type]
    return None if found is None else set(found)


MINE = "module example.com/mine\n\ngo 1.22\n"
WORKSPACES: Mapping[str, tuple[str, Mapping[str, str]]] = {
    "alone": (HELLO, {"other.go": "package other\n", "sub/x.go": "package sub\n"}),
    "packages": (
        imports("session/a", "session/b/c"),
        {
            "a/a.go": package("a", "session/b"),
            "a/a_test.go": package("a", "session/unused"),
            "a/a_windows.go": package("a"),
            "b/b.go": package("b"),
            "b/c/c.go": package("c"),
            "unused/u.go": package("unused"),
        },
    ),
    "a module of its own": (
        imports("example.com/mine/a"),
        {"go.mod": MINE, "a/a.go": package("a", "example.com/mine/a/b"), "a/b/b.go": package("b")},
    ),
    "embedded": (
        imports("embed", "session/a", rest="//go:embed data/*.txt one.txt\nvar x embed.FS"),
        {
            "data/a.txt": "",
            "data/b.txt": "",
            "data/c.bin": "",
            "one.txt": "",
            "a/a.go": package("a", "embed", rest="//go:embed all:web\nvar x embed.FS"),
            "a/web/.hidden": "",
            "a/web/deep/deeper/x": "",
        },
    ),
    "replaced": (
        imports("other.test/lib/sub"),
        {
            "go.mod": MINE + "require other.test/lib v0.0.0\n\nreplace other.test/lib => ./lib\n",
            "lib/go.mod": "module other.test/lib\n\ngo 1.22\n",
            "lib/sub/s.go": package("sub", "other.test/lib/inner"),
            "lib/inner/i.go": package("inner"),
        },
    ),
    "vendored": (
        imports("other.test/lib"),
        {
            "go.mod": MINE + "require other.test/lib v1.0.0\n",
            "vendor/modules.txt": "# other.test/lib v1.0.0\n## explicit; go 1.22\n"
            "other.test/lib\nother.test/lib/inner\n",
            "vendor/other.test/lib/l.go": package("lib", "other.test/lib/inner"),
            "vendor/other.test/lib/inner/i.go": package(
                "inner", "embed", rest="//go:embed x\nvar x string"
            ),
            "vendor/other.test/lib/inner/x": "",
        },
    ),
}
READS = "{{$d := .Dir}}{{range .GoFiles}}{{$d}}/{{.}}\n{{end}}{{range .EmbedFiles}}{{$d}}/{{.}}\n{{end}}"


@pytest.fixture(scope="module")
async def room(
    anyio_backend: str, tmp_path_factory: pytest.TempPathFactory
) -> AsyncIterator[BoxedRoom]:
    limits = SessionLimits(setups=SetupLimits(network=Network.OFFLINE))
    async with boxed_room(tmp_path_factory.mktemp("inputs") / "room", limits) as made:
        yield made


@pytest.mark.anyio
@pytest.mark.parametrize("name", WORKSPACES)
async def test_everything_that_the_go_tool_reads_is_noted(
    room: BoxedRoom, tmp_path: Path, name: str
) -> None:
    code, files = WORKSPACES[name]
    await room.create(name.replace(" ", "-"), language="go", persistent=False)
    for path, text in files.items():
        await room.put(path, text.encode(), name.replace(" ", "-"))
    own = "[ -f go.mod ] || printf 'module session\\n\\ngo 1.22\\n' >go.mod; cat >prog_.go;"
    listing = f"{own} go list -deps -f '{READS}' prog_.go"
    told = await room.command(listing, name.replace(" ", "-"), stdin=code)
    assert (told.stderr, told.exit_code) == ("", 0)
    lines = {line for line in told.stdout.split("\n") if line.startswith("/workspace/")}
    reads = {line.removeprefix("/workspace/") for line in lines} - {"prog_.go"}
    assert name == "alone" or reads
    assert reads <= (noted(code, laid_out(tmp_path, files)) or set())


@pytest.mark.parametrize("name", WORKSPACES)
def test_each_file_that_counts_changes_the_name(tmp_path: Path, name: str) -> None:
    code, files = WORKSPACES[name]
    tree = Path(laid_out(tmp_path, files))

    def named(text: str = code, **settings: object) -> str:
        where = Where(lowers=(str(tree),))
        return digest(text, where, [sorted(settings.items())], "state", plain=True)

    usual, paths = named(), noted(code, str(tree))
    assert paths is not None
    assert named() == usual
    assert named(f"{code} ") != usual
    assert named(go="1.99") != usual
    for path in files:
        before = (tree / path).read_bytes()
        (tree / path).write_bytes(before + b" ")
        assert (named() != usual) == (path in paths), path
        (tree / path).write_bytes(before)
        (tree / path).chmod(0o600)
        assert (named() != usual) == (path in paths), path
        (tree / path).chmod(0o644)
        (tree / path).rename(tree / "aside")
        assert (named() != usual) == (path in paths), path
        (tree / "aside").rename(tree / path)
    for path in paths - files.keys():
        if path.endswith("/"):
            (tree / path).mkdir(parents=True)
        else:
            (tree / path).parent.mkdir(parents=True, exist_ok=True)
            (tree / path).write_text("")
        assert named() != usual, path
        shutil.rmtree(tree)
        laid_out(tree, files)
    assert named() == usual


def test_a_lone_program_is_walked_at_no_cost(tmp_path: Path) -> None:
    tree = laid_out(tmp_path, {f"many/{n}.go": "package many\n" for n in range(10)})
    assert noted(HELLO, tree) == ALWAYS


def test_modules_on_the_way_count(tmp_path: Path) -> None:
    tree = laid_out(tmp_path, {"a/b/b.go": package("b")})
    assert noted(imports("session/a/b"), tree) == ALWAYS | {"a/go.mod", "a/b/go.mod", "a/b/b.go"}


def test_a_module_from_elsewhere_may_import_what_is_here(tmp_path: Path) -> None:
    files = {"go.mod": MINE, "hidden/h.go": package("hidden"), "hidden/data.txt": ""}
    tree = laid_out(tmp_path, files)
    assert "hidden/h.go" not in (noted(HELLO, tree) or ())
    assert "hidden/h.go" in (noted(imports("other.test/lib"), tree) or ())
    (tmp_path / "go.mod").write_text("module mine\n")  # no other module can require that
    assert "hidden/h.go" not in (noted(imports("other.test/lib"), tree) or ())


def test_a_setups_module_counts_where_there_is_no_other(tmp_path: Path) -> None:
    tree = laid_out(tmp_path / "tree", {"a/a.go": package("a")})
    layer = laid_out(tmp_path / "layer", {"go/go.mod": MINE})
    code = imports("example.com/mine/a")
    assert "a/a.go" in (noted(code, tree, layer=layer) or ())
    assert "a/a.go" not in (noted(code, tree) or ())
    assert "a/a.go" not in (noted(code, tree, layer=laid_out(tmp_path / "other", {"x": ""})) or ())


def test_files_of_a_layer_lie_below_those_of_the_session(tmp_path: Path) -> None:
    upper = laid_out(tmp_path / "upper", {"a/a.go": package("a")})
    lower = laid_out(
        tmp_path / "lower", {"a/a.go": "hidden", "a/more.go": package("a", "session/b")}
    )
    found = inputs(imports("session/a"), Where(lowers=(upper, lower)))
    alone = inputs(imports("session/a"), Where(lowers=(upper,)))
    assert found is not None
    assert alone is not None
    assert found["a/a.go"] == alone["a/a.go"]
    assert found.keys() - alone.keys() == {"a/more.go", "b/", "b/go.mod"}


@pytest.mark.parametrize(
    ("pattern", "counts"), [("*", True), (".s*", True), (".session_data.json", True), ("s*", False)]
)
def test_the_data_file_counts_where_it_can_be_embedded(
    tmp_path: Path, pattern: str, counts: bool
) -> None:
    code = imports("embed", rest=f"//go:embed {pattern}\nvar x embed.FS")
    found = [
        inputs(code, Where(lowers=(str(tmp_path),), placed={".session_data.json": data}))
        for data in (b"1", b"2")
    ]
    assert None not in found
    assert (found[0] != found[1]) is counts


UNCLEAR: Mapping[str, tuple[str, Mapping[str, str]]] = {
    "C": (imports("C"), {}),
    "C in a package": (imports("session/a"), {"a/a.go": package("a", "C")}),
    "assembly": (imports("session/a"), {"a/a.go": package("a"), "a/a.s": ""}),
    "an object": (imports("session/a"), {"a/a.go": package("a"), "a/a.syso": ""}),
    "no Go": ("nothing", {}),
    "no Go in a package": (imports("session/a"), {"a/a.go": "nothing"}),
    "a module elsewhere": (HELLO, {"go.mod": MINE + "replace a.b => ../b\n"}),
    "a file where a directory is looked for": (imports("session/a"), {"a": ""}),
    "a way up": (imports("session/../a"), {}),
}


@pytest.mark.parametrize("name", UNCLEAR)
def test_what_cannot_be_told(tmp_path: Path, name: str) -> None:
    code, files = UNCLEAR[name]
    tree = laid_out(tmp_path, files)
    assert noted(code, tree) is None
    assert _named_by_state(code, tree)


def _named_by_state(code: str, tree: str) -> bool:
    """Whether the state of all files decides the name."""
    names = {digest(code, Where(lowers=(tree,)), [], state, plain=True) for state in "12"}
    return len(names) == 2


@pytest.mark.parametrize("at", ["a", "a/a.go", "go.mod", "go.sum", "vendor", "default.pgo"])
def test_links_are_not_followed(tmp_path: Path, at: str) -> None:
    files = {"real/a.go": package("a"), "real/go.mod": MINE, "real/x": "", "a/b.go": package("a")}
    tree = Path(laid_out(tmp_path, {"go.mod": "module session\n", **files}))
    code = imports("session/a")
    assert noted(code, str(tree)) is not None
    if os.path.isdir(tree / at):
        shutil.rmtree(tree / at)
    elif os.path.lexists(tree / at):
        os.unlink(tree / at)
    target = {"a": "real", "vendor": "real", "go.mod": "real/go.mod"}.get(at, "real/x")
    (tree / at).symlink_to(os.path.relpath(tree / target, (tree / at).parent))
    assert noted(code, str(tree)) is None


def test_all_files_count_where_variables_lead_elsewhere(tmp_path: Path) -> None:
    where = Where(lowers=(str(tmp_path),), placed={"data": b"1"})
    plain = {digest(HELLO, where, [], state, plain=True) for state in "12"}
    led = {digest(HELLO, where, [], state, plain=False) for state in "12"}
    other = digest(HELLO, Where(lowers=where.lowers, placed={"data": b"2"}), [], "1", plain=False)
    assert (len(plain), len(led), len(led | {other})) == (1, 2, 3)


@pytest.mark.parametrize("bound", ["MAX_BYTES", "MAX_ENTRIES"])
def test_too_much_is_not_read(tmp_path: Path, bound: str, monkeypatch: pytest.MonkeyPatch) -> None:
    tree = laid_out(tmp_path, {f"a/{n}.go": package("a") for n in range(20)})
    assert noted(imports("session/a"), tree) is not None
    monkeypatch.setattr(goinputs, bound, 10)
    assert noted(imports("session/a"), tree) is None


def test_depth_is_no_bound(tmp_path: Path) -> None:
    deep = tmp_path
    for _ in range(1200):
        deep = deep / "d"
        deep.mkdir()
    code = imports("embed", rest="//go:embed d\nvar x embed.FS")
    found = noted(code, str(tmp_path))
    fd = os.open(tmp_path, os.O_RDONLY | os.O_DIRECTORY)
    beneath.remove_tree(fd, "d")  # deeper than other programs that clean up can go
    os.close(fd)
    assert found is not None
