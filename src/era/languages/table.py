"""The languages: their names, and the argument list and files that run code of each in a box.

Pure tables and functions of them; nothing here touches a file or a process.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import Final

from era import layout
from era.errors import InputError
from era.languages import environment, given, gosource, scripts

_NAMES: Final[Mapping[str, tuple[str, ...]]] = MappingProxyType(
    {
        "python": ("python", "py", "python3"),
        "node": ("node", "nodejs", "js", "javascript"),
        "typescript": ("typescript", "ts"),
        "go": ("go", "golang"),
        "deno": ("deno",),
    }
)
LANGUAGES: Final = tuple(_NAMES)
"""The canonical names, which are the ones stored and returned."""
ALIASES: Final[Mapping[str, str]] = MappingProxyType(
    {alias: name for name, aliases in _NAMES.items() for alias in aliases}
)
"""Every accepted name, in lower case, to its canonical one."""

_EXTENSIONS: Final = MappingProxyType(
    {"python": ".py", "node": ".js", "typescript": ".ts", "go": ".go", "deno": ".ts"}
)


def canonical(text: str) -> str:
    """The canonical name of a language.

    Raises:
        InputError: `unsupported_language`, with `supported` and `aliases`.
    """
    name = ALIASES.get(text.strip().lower())
    if name is None:
        raise _unsupported(text)
    return name


def _unsupported(text: str, hint: str | None = None) -> InputError:
    return InputError(
        "unsupported_language",
        f"unsupported language: {text}",
        supported=list(LANGUAGES),
        aliases=dict(ALIASES),
        hint=hint,
    )


@dataclass(frozen=True, slots=True, kw_only=True)
class Tools:
    """The programs of a box, by their paths inside it.

    `versions` names what each runtime says of itself; `missing` says of a language why this server
    cannot run it.
    """

    python: str = "/usr/bin/python3"
    node: str = f"{layout.RUNTIMES}/node/bin/node"
    npm: str = f"{layout.RUNTIMES}/node/lib/node_modules/npm/bin/npm-cli.js"
    """npm's own program, to be run by `node`."""
    typescript: str = f"{layout.RUNTIMES}/ts/register.cjs"
    """What node loads first to understand TypeScript."""
    gate: str = f"{layout.RUNTIMES}/ts/gate.cjs"
    """What node loads last to wait for its program in a box that is made ahead."""
    node_setup: str = f"{layout.RUNTIMES}/ts/setup-scope.cjs"
    """What node loads first for a setup's package.json to count."""
    go: str = f"{layout.RUNTIMES}/go/bin/go"
    deno: str = f"{layout.BIN}/deno"
    uv: str = f"{layout.BIN}/uv"
    bash: str = "/bin/bash"
    npm_registry: str | None = None
    """The operator's mirror, where deno fetches `npm:` modules and looks for them in its cache."""
    platform: str = ""
    """The machine that compiled parts of packages are for."""
    packages: tuple[str, ...] = ()
    """Modules, at the top level, of the Python packages that every box has."""
    packages_ahead: tuple[str, ...] = ()
    """What of them a Python that stands ready imports."""
    versions: Mapping[str, str] = field(default_factory=dict)
    missing: Mapping[str, str] = field(default_factory=dict)

    @property
    def go_release(self) -> str:
        """The language version of a module that names none."""
        return ".".join(self.versions.get("go", "1.22").split(".")[:2])


@dataclass(frozen=True, slots=True, kw_only=True)
class Build:
    """How to make the program of a launch, in a box of its own that runs nothing of it: `argv`
    leaves it as the file `product` at the workspace root, where the launch's files are placed, too.
    Its environment is that of `environment.of_build`."""

    argv: tuple[str, ...]
    product: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Launch:
    """How to start one program: `files` (name to content) are placed at the workspace root first.

    `env` is the base of its environment, see `environment.build`.  With `uses_go_cache` the shared
    build cache is wanted at `environment.GO_CACHE`, with `uses_deno_cache` deno's modules at
    `environment.DENO_CACHE`, both copy-on-write.  `interpreter` names the one that a box may have
    ready.  With `build` the program has to be made first, and is then shown at `layout.PROGRAM`.
    """

    argv: tuple[str, ...]
    files: Mapping[str, bytes] = field(default_factory=dict)
    env: Mapping[str, str] = field(default_factory=dict)
    uses_go_cache: bool = False
    uses_deno_cache: bool = False
    interpreter: str = ""
    build: Build | None = None


PYTHON_ENTRY: Final = f"{layout.WORKSPACE}/{layout.ENTRY_PREFIX}_main.py"
"""The file that Python code is run from, unless the session has one of that name."""
PYTHON_AHEAD: Final = tuple(
    """
    argparse array ast asyncio base64 bisect calendar collections.abc concurrent.futures contextlib
    copy csv dataclasses datetime decimal enum fractions functools glob hashlib heapq html
    importlib.util inspect io itertools json logging math operator os pathlib pickle platform pprint
    queue random re secrets shlex shutil signal socket statistics string struct subprocess tempfile
    textwrap threading time traceback types typing unittest urllib.error urllib.parse
    urllib.request uuid warnings weakref zlib
    """.split()
)
"""What a Python that stands ready has imported: the standard library that programs use most."""


def check_available(language: str, tools: Tools) -> None:
    """Refuse a canonical `language` whose runtime this server lacks.

    Raises:
        InputError: `unsupported_language`, with a hint.
    """
    reason = tools.missing.get(language)
    if reason is not None:
        raise _unsupported(
            language, f"{reason}; `era doctor` on the server shows the runtimes it has"
        )


def _free_name(prefix: str, extension: str, taken: Callable[[str], bool]) -> str:
    name = f"{prefix}{extension}"
    number = 1
    while taken(name):
        number += 1
        name = f"{prefix}{number}{extension}"
    return name


def launch(
    language: str,
    code: str,
    args: Sequence[str],
    *,
    tools: Tools,
    taken: Callable[[str], bool],
    has_layer: bool,
    has_modules: bool = False,
) -> Launch:
    """How to run `code`, from a file at the workspace root that hides no name of the session.

    `taken(name)` tells whether the session has an entry of that name at its workspace root;
    `has_layer` whether a setup layer is attached; `has_modules` whether deno's cache holds what
    `resolve_launch` has fetched.

    Raises:
        InputError: `unsupported_language`, when the runtime is missing here.
    """
    check_available(language, tools)
    entry = _free_name(f"{layout.ENTRY_PREFIX}_main", _EXTENSIONS[language], taken)
    if language == "deno":
        argv = _deno(entry, tools, taken, has_layer, environment.DENO_LOCK if has_modules else "")
    else:
        argv = _PROGRAMS[language](entry, tools, taken, has_layer)
    return Launch(
        argv=(*argv, *args),
        # A lone surrogate has no UTF-8: the runtime then says that the file is not text.
        files={entry: code.encode(errors="surrogatepass")},
        env=_environment(language, tools, has_layer=has_layer),
        uses_go_cache=language == "go",
        uses_deno_cache=language == "deno",
        interpreter=_interpreter(language, code, tools),
        build=_go_build(entry, code, tools, taken) if language == "go" else None,
    )


def _interpreter(language: str, code: str, tools: Tools) -> str:
    wants = language == "python" and given.wanted(code, tools.packages)
    return given.INTERPRETER if wants and tools.packages_ahead else language


def command_launch(
    command: str, *, tools: Tools, language: str | None = None, has_layer: bool = False
) -> Launch:
    """How to run a shell command in a session or VM of `language`."""
    return Launch(
        argv=(tools.bash, "-c", command),
        env=_environment(language, tools, has_layer=has_layer),
        uses_go_cache=language == "go",
        uses_deno_cache=language == "deno",
    )


def resolve_launch(
    code: str,
    *,
    tools: Tools,
    taken: Callable[[str], bool],
    has_layer: bool,
    any_import_host: bool = False,
) -> Launch:
    """How to fetch, before a run, the modules that deno code imports; none of them is run.

    `any_import_host` leaves it to the network policy which hosts `https:` imports may name.
    """
    check_available("deno", tools)
    entry = _free_name(f"{layout.ENTRY_PREFIX}_main", _EXTENSIONS["deno"], taken)
    options = ("--allow-import",) if any_import_host else ()
    program = (tools.bash, "-c", scripts.DENO_RESOLVE, "deno", tools.deno, entry)
    return Launch(
        argv=(*program, environment.DENO_LOCK, *options),
        files={entry: code.encode(errors="surrogatepass")},
        env={**_environment("deno", tools, has_layer=has_layer), **environment.CERTIFICATES},
        uses_deno_cache=True,
    )


def keep_modules(directory: str, *, tools: Tools) -> Launch:
    """How to copy what was fetched to a directory of the box; its output begins with the KiB."""
    env = _environment("deno", tools, has_layer=False)
    return Launch(argv=(tools.bash, "-c", scripts.DENO_KEEP, "deno", directory), env=env)


def base_environment(tools: Tools, *, has_layer: bool) -> dict[str, str]:
    """What every program finds, with what the packages that boxes have need."""
    return {**environment.base(has_layer=has_layer), **given.variables(tools.packages)}


def _environment(language: str | None, tools: Tools, *, has_layer: bool) -> dict[str, str]:
    env = base_environment(tools, has_layer=has_layer)
    if language == "deno":
        env["NO_COLOR"] = "1"
        if tools.npm_registry:
            env["NPM_CONFIG_REGISTRY"] = tools.npm_registry
    elif language == "go":
        env["GOCACHE"] = environment.GO_CACHE
    return env


_Taken = Callable[[str], bool]


def _in_workspace(entry: str) -> str:
    return f"{layout.WORKSPACE}/{entry}"


def _python(entry: str, tools: Tools, taken: _Taken, has_layer: bool) -> tuple[str, ...]:
    return (tools.python, _in_workspace(entry))


def _node_command(tools: Tools) -> tuple[str, ...]:
    # The notice is for authors of packages; here the service chose the file's name.
    return (tools.node, "--disable-warning=MODULE_TYPELESS_PACKAGE_JSON")


def _node(entry: str, tools: Tools, taken: _Taken, has_layer: bool) -> tuple[str, ...]:
    # Also without a setup: so the node that waits in a box serves programs that have one.
    return (*_node_command(tools), "--require", tools.node_setup, _in_workspace(entry))


def _typescript(entry: str, tools: Tools, taken: _Taken, has_layer: bool) -> tuple[str, ...]:
    return (*_node_command(tools), "--require", tools.typescript, _in_workspace(entry))


def ahead_commands(tools: Tools) -> dict[str, tuple[tuple[str, ...], tuple[str, ...]]]:
    """For languages whose interpreter can wait in a box before its program is known: the command
    line of a program, and the one that waits."""
    commands = {}
    for language, command in (("node", _node), ("typescript", _typescript)):
        if language in tools.missing:
            continue
        entry = f"{layout.ENTRY_PREFIX}_main{_EXTENSIONS[language]}"
        argv = command(entry, tools, lambda _name: False, False)
        # Before what looks at the box as its program has it, and behind what need not.
        at = argv.index(tools.node_setup) - 1 if tools.node_setup in argv else -1
        ahead = (*argv[:at], "--require", tools.gate, *argv[at:])
        commands[language] = (argv, ahead)
    return commands


def _go(entry: str, tools: Tools, taken: _Taken, has_layer: bool) -> tuple[str, ...]:
    return (layout.PROGRAM,)


def _go_build(entry: str, code: str, tools: Tools, taken: _Taken) -> Build:
    seen = _free_name("era_main", ".go", taken)
    product = _free_name(f"{layout.ENTRY_PREFIX}_program", "", taken)
    alone = "era" if gosource.imports_library_only(code) else ""
    version = tools.versions.get("go", "")
    names = (entry, seen, product)
    parameters = (tools.go, *names, tools.go_release, version, environment.LAYER_GO, alone)
    return Build(argv=(tools.bash, "-c", scripts.GO_BUILD, "go", *parameters), product=product)


def _deno(entry: str, tools: Tools, taken: _Taken, has_layer: bool, lock: str) -> tuple[str, ...]:
    path = _in_workspace(entry)
    if has_layer or taken("node_modules"):
        return (tools.bash, "-c", scripts.DENO_RUN, "deno", tools.deno, path, lock)
    locked = (f"--lock={lock}", "--frozen=false") if lock else ("--no-lock",)
    return (
        tools.deno,
        "run",
        "--allow-all",
        "--no-prompt",
        "--quiet",
        "--no-code-cache",
        *(() if taken("deno.lock") else locked),
        # A package.json alone would make deno expect an installed node_modules.
        "--node-modules-dir=none",
        path,
    )


_PROGRAMS: Final[Mapping[str, Callable[[str, Tools, _Taken, bool], tuple[str, ...]]]] = (
    MappingProxyType(
        {
            "python": _python,
            "node": _node,
            "typescript": _typescript,
            "go": _go,
        }
    )
)
