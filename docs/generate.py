"""Fills in the generated parts of the reference pages: `python -m docs.generate`.

`calls.py` beside this file writes the page of examples that goes with the Docker image.

A generated part stands between `<!-- begin NAME -->` and `<!-- end NAME -->`; the rest of a page is
written by hand.  `tests/test_docs.py` fails when a page is not what this program would write.
"""

from __future__ import annotations

import inspect
import io
import re
import textwrap
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any, Final, get_args

from cyclopts import App
from rich.console import Console

from docs import calls
from era import __version__, client
from era.api import openapi
from era.api.app import OPERATIONS
from era.cli.main import app
from era.config import VARIABLES, Must, Size
from era.errors import CODES

HERE: Final = Path(__file__).parent
ELSEWHERE: Final = (HERE.parent / "scripts/cloudflare-docker/templates/HTTP_API.md",)
"""Pages with generated parts outside of this folder."""
COMPUTED: Final = {
    "AGENT_STATE_DIR": "`/var/lib/era` for root, else `era` below the user's state directory",
    "ERA_MAX_CONCURRENT_RUNS": "twice the number of CPUs",
}
"""Defaults that depend on the machine, in words."""

Schema = dict[str, Any]


def table(header: tuple[str, ...], rows: Iterable[tuple[str, ...]]) -> str:
    """A Markdown table."""
    lines = [header, ("---",) * len(header), *rows]
    escaped = ([cell.replace("|", "\\|") for cell in line] for line in lines)
    return "\n".join("| " + " | ".join(cells) + " |" for cells in escaped)


# --- configuration.md -------------------------------------------------------------------------


def settings() -> str:
    """Every variable, in the order of `era.config.Settings`."""
    rows = (
        (f"`{name}`", default_text(name), must_text(name), str(info.description))
        for name, info in VARIABLES.items()
    )
    return table(("Variable", "Default", "Value", "Meaning"), rows)


def default_text(name: str) -> str:
    """The default of a variable as one would write it."""
    if name in COMPUTED:
        return COMPUTED[name]
    info = VARIABLES[name]
    value = info.default
    if is_size(name):
        return f"`{size_text(value)}`"
    if isinstance(value, bool):
        return f"`{value:d}`"
    if isinstance(value, tuple):
        value = ",".join(value)
    elif isinstance(value, float):
        value = f"{value:g}"
    return f"`{value}`" if value != "" else "none"


def must_text(name: str) -> str:
    """What a value must be."""
    found = [rule.expectation for rule in VARIABLES[name].metadata if isinstance(rule, Must)]
    return found[0] if found else "text"


def is_size(name: str) -> bool:
    """Whether a variable is a size in bytes."""
    size = next(rule for rule in get_args(Size) if isinstance(rule, Must))
    return must_text(name) == size.expectation


def size_text(value: int) -> str:
    """A size in the largest unit that divides it."""
    for exponent, unit in ((30, "GiB"), (20, "MiB"), (10, "KiB")):
        if value and value % (1 << exponent) == 0:
            return f"{value >> exponent} {unit}"
    return str(value)


# --- errors.md --------------------------------------------------------------------------------


def errors() -> str:
    """Every code, by status."""
    codes = sorted(CODES.values(), key=lambda code: code.status)
    rows = ((f"`{c.name}`", str(c.status), f"`{c.text}`", c.advice) for c in codes)
    return table(("Code", "HTTP", "`error`", "What to do"), rows)


# --- api.md -----------------------------------------------------------------------------------


def operations() -> str:
    """Every operation, then the shapes of bodies and answers."""
    document = openapi.document(OPERATIONS, version=__version__, authenticated=False)
    schemas = document["components"]["schemas"]
    found = list(openapi.listed(document))
    common = set.intersection(*(set(codes_of(operation)) for _, _, operation in found))
    listed = ", ".join(f"`{code}`" for code in sorted(common, key=lambda name: CODES[name].status))
    parts = [f"Any of them may also answer {listed}."]
    parts += [operation_text(*operation, schemas, common) for operation in found]
    bodies = {name for name in schemas if name.endswith("Body")}
    shapes = [shape_text(name, schemas[name]) for name in sorted(schemas) if name not in bodies]
    return "\n\n".join([*parts, "## Shapes of the answers", *shapes])


def codes_of(operation: Schema) -> list[str]:
    """The error codes of an operation, by status."""
    answers = operation["responses"].values()
    return [code for answer in answers for code in answer.get(openapi.CODES_OF, ())]


def operation_text(
    method: str, path: str, operation: Schema, schemas: Schema, common: set[str]
) -> str:
    """One operation under its heading."""
    lines = [f"### `{heading(method, path)}`", operation["summary"] + "."]
    query = [p for p in operation["parameters"] if p["in"] == "query"]
    if query:
        rows = ((f"`{p['name']}`", p["description"]) for p in query)
        lines.append(table(("Query", "Meaning"), rows))
    body = operation.get("requestBody", {}).get("content", {})
    if "*/*" in body:
        lines.append("Body: the bytes, of any type.")
    elif body:
        lines.append(body_text(schemas[reference(body["application/json"]["schema"])]))
    lines.append(answer_text(operation, common))
    return "\n\n".join(lines)


def answer_text(operation: Schema, common: set[str]) -> str:
    """What comes back, and the codes that not every operation has."""
    (status, answer), *_ = operation["responses"].items()
    ((media_type, content),) = answer["content"].items()
    shape = content["schema"]
    what = type_text(shape) if "$ref" in shape else bytes_text(media_type)
    errors = ", ".join(
        f"`{code}` ({CODES[code].status})" for code in codes_of(operation) if code not in common
    )
    return f"Answer {status}: {what}." + (f"\n\nErrors: {errors}." if errors else "")


def bytes_text(media_type: str) -> str:
    """An answer that is not JSON."""
    return "the bytes" if media_type == "*/*" else f"`{media_type}`"


def heading(method: str, path: str) -> str:
    """An operation as the contract writes it."""
    return f"{method} {path.replace('{session_id}', '{id}').replace('{vm_id}', '{id}')}"


def reference(schema: Schema) -> str:
    """The name a `$ref` leads to."""
    return str(schema["$ref"]).rpartition("/")[2]


def body_text(schema: Schema) -> str:
    """The members of a JSON body."""
    required = schema.get("required", ())
    rows = (
        (
            f"`{name}`" + (" (required)" if name in required else ""),
            type_text(without_null(member)),
            member.get("description", ""),
        )
        for name, member in schema["properties"].items()
    )
    return table(("Body member", "Type", "Meaning"), rows)


def shape_text(name: str, schema: Schema) -> str:
    """The members of an answer."""
    required = schema.get("required", ())
    rows = (
        (f"`{member}`", type_text(s), s["description"])
        if member in required
        else (f"`{member}` (optional)", type_text(without_null(s)), s["description"])
        for member, s in schema["properties"].items()
    )
    return f"### {name}\n\n" + table(("Member", "Type", "Meaning"), rows)


def type_text(schema: Schema) -> str:
    """A JSON schema in words."""
    if "$ref" in schema:
        name = reference(schema)
        return "object" if name.endswith("Body") else f"[{name}](#{name.lower()})"
    if "anyOf" in schema:
        return " or ".join(type_text(option) for option in schema["anyOf"])
    if "enum" in schema:
        return ", ".join(f"`{value}`" for value in schema["enum"])
    kind = schema.get("type", "any JSON value")
    inner = schema.get("items") if kind == "array" else schema.get("additionalProperties")
    if isinstance(inner, dict) and inner:
        return f"{kind} of {type_text(inner)}"
    return str(kind)


def without_null(schema: Schema) -> Schema:
    """The type of a member that is absent rather than null."""
    options = [option for option in schema.get("anyOf", ()) if option.get("type") != "null"]
    if len(options) == 1:
        return dict(options[0])
    return {"anyOf": options} if options else schema


# --- cli.md -----------------------------------------------------------------------------------


def command_names() -> list[str]:
    """The commands, those of a group after it; an alias is not one of its own."""
    return list(names_below(app, ""))


def names_below(group: App, prefix: str) -> Iterator[str]:
    """The commands of a group, in full."""
    by_command = {id(each): name for name, each in reversed(group.resolved_commands().items())}
    for name in reversed(by_command.values()):
        if not name.startswith("-"):
            yield f"{prefix}{name}"
            yield from names_below(group[name], f"{prefix}{name} ")


def commands() -> str:
    """Every command with its own help."""
    parts = [f"```text\n{help_text([])}\n```"]
    for name in command_names():
        parts.append(f"### `era {name}`\n\n```text\n{help_text(name.split())}\n```")
    return "\n\n".join(parts)


def help_text(tokens: list[str]) -> str:
    """What `--help` prints, on a terminal of fixed width without colours."""
    out = io.StringIO()
    app.help_print(tokens, console=Console(file=out, width=100, color_system=None))
    return "\n".join(line.rstrip() for line in out.getvalue().strip().splitlines())


# --- python.md --------------------------------------------------------------------------------


def sdk() -> str:
    """The classes of the SDK with their methods; of the two halves the synchronous one."""
    return "\n\n".join(class_text(kind) for kind in sdk_classes())


def sdk_classes() -> list[type]:
    """The classes that programs use, what one begins with first; errors have a table of their own."""
    first = [client.Era, client.Session, client.Files, client.Vm, client.Setup]
    found = [getattr(client, name) for name in client.__all__]
    rest = [k for k in found if not issubclass(k, Exception) and not k.__name__.startswith("Async")]
    return [*first, *(kind for kind in rest if kind not in first)]


def class_text(kind: type) -> str:
    """One class: what it is, what it holds, what it does."""
    fields = getattr(kind, "__dataclass_fields__", {})
    members = [f"`{name}: {field.type}`" for name, field in fields.items()]
    parts = [f"### `{kind.__name__}`", docstring(kind)]
    if members:
        parts.append("Holds " + ", ".join(members) + ".")
    if kind is client.Era:  # the others are made by it
        parts.append(method_text(kind.__name__, vars(kind)["__init__"], doc=False))
    public = {name: value for name, value in vars(kind).items() if not name.startswith("_")}
    for name, value in public.items():
        if isinstance(value, property):
            parts.append(f"`.{name}`: {docstring(value)}")
        elif inspect.isfunction(value):
            parts.append(method_text(f".{name}", value))
    return "\n\n".join(parts)


def method_text(name: str, function: Callable[..., Any], *, doc: bool = True) -> str:
    """A method: how it is called, and what it does."""
    parameters = list(inspect.signature(function).parameters.values())[1:]
    shown = str(inspect.signature(function).replace(parameters=parameters))
    shown = re.sub(QUOTED_TYPE, r"\1", shown)
    if len(shown) > LONG_SIGNATURE:
        inside, result = shown.rpartition(") -> ")[::2]
        lines = re.split(r", (?=\*|\w+(?::|$))", inside[1:])
        shown = "(\n" + "".join(f"    {line},\n" for line in lines) + f") -> {result}"
    call = f"```python\n{name}{shown}\n```"
    return f"{call}\n\n{docstring(function)}" if doc else call


LONG_SIGNATURE: Final = 88
QUOTED_TYPE: Final = r"(?<=[:>] )'([^']*)'"


def docstring(value: Any) -> str:
    """A docstring as Markdown: the errors it names become one line, its examples blocks."""
    text = inspect.getdoc(value) or ""
    text = re.sub(r"Raises:\n((?:    .+\n?)+)", raises, text)
    return re.sub(r"(?m)(^    .+\n?)+", example, text).strip()


def raises(found: re.Match[str]) -> str:
    """The errors of a docstring in one line."""
    errors = re.findall(r"(?m)^    (\w+): (.+(?:\n        .+)*)", found[1])
    words = (f"`{kind}`: {' '.join(text.split()).rstrip('.')}" for kind, text in errors)
    return "Raises " + "; ".join(words) + ".\n"


def example(found: re.Match[str]) -> str:
    """An indented example as a block."""
    return f"```python\n{textwrap.dedent(found[0]).strip()}\n```\n"


# --- pages ------------------------------------------------------------------------------------

PARTS: Final[dict[str, Callable[[], str]]] = {
    "settings": settings,
    "errors": errors,
    "operations": operations,
    "commands": commands,
    "sdk": sdk,
    "calls": lambda: calls.text(openapi.document(OPERATIONS, version="", authenticated=False)),
}
PART: Final = re.compile(r"(<!-- begin (\w+) -->\n).*?(<!-- end \2 -->)", re.DOTALL)


def pages() -> Iterator[tuple[Path, str]]:
    """Every page with generated parts, and what it should hold."""
    for path in [*sorted(HERE.glob("*.md")), *ELSEWHERE]:
        text = path.read_text()
        fresh = PART.sub(lambda part: f"{part[1]}\n{PARTS[part[2]]()}\n\n{part[3]}", text)
        if PART.search(text):
            yield path, fresh


if __name__ == "__main__":
    for page, content in pages():
        page.write_text(content)
